"""Who a sandbox is to its own programs: an /etc/passwd and an /etc/group that know the user it runs as.

A runtime's user id is a number that the image has never heard of. Without a name for it `whoami`, getpass, Java and
Hadoop fail. The files are the server's, the same for all sandboxes of a user, and mounted read-only over the image's:
nothing is preloaded, nothing is written per sandbox, and no sandbox can change who it is.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol_server.backends.rendezvous import describe_full
from protocol_server.config import Runtime, ServerConfig
from protocol_server.errors import SQLSTATE_SYSTEM_ERROR, StartFailedError

USER_NAME: Final = "sandbox"
#: The only place that a sandbox can write to.
HOME: Final = "/tmp"  # noqa: S108
_NOBODY: Final = 65534


@dataclass(frozen=True)
class Account:
    """The user that sandboxes of a runtime run as."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def account(config: ServerConfig, runtime: Runtime) -> Account:
    """The user of a runtime: its own, with the server's group unless it names one, or the server's."""
    uid, _, gid = runtime.user.partition(":")
    return Account(int(uid or config.sandbox_uid), int(gid or config.sandbox_gid))


def passwd(user: Account) -> str:
    """The text of /etc/passwd. The sandbox's line comes first: ids are looked up from the top."""
    lines = [f"{USER_NAME}:x:{user.uid}:{user.gid}:{USER_NAME}:{HOME}:/usr/sbin/nologin"]
    lines.append("root:x:0:0:root:/root:/usr/sbin/nologin")
    if user.uid != _NOBODY:
        lines.append(f"nobody:x:{_NOBODY}:{_NOBODY}:nobody:/nonexistent:/usr/sbin/nologin")
    return "\n".join([*lines, ""])


def group(user: Account) -> str:
    """The text of /etc/group."""
    named = {user.gid: USER_NAME, 0: "root"}
    named.setdefault(_NOBODY, "nogroup")
    return "".join(f"{name}:x:{gid}:\n" for gid, name in named.items())


def account_mounts(config: ServerConfig, runtime: Runtime) -> dict[str, Path]:
    """What is mounted read-only in sandboxes of `runtime`: path inside -> file of the server's."""
    directory = config.state_directory / "accounts" / str(account(config, runtime)).replace(":", "-")
    return {"/etc/passwd": directory / "passwd", "/etc/group": directory / "group"}


def write_accounts(config: ServerConfig, runtime: Runtime) -> None:
    """Let there be the files of `account_mounts`. Raises StartFailedError with path and free space."""
    user, files = account(config, runtime), account_mounts(config, runtime)
    directory = files["/etc/passwd"].parent
    try:
        # Sandboxes are set up by another user where the server starts them itself.
        for one in (directory.parent, directory):
            one.mkdir(mode=0o755, exist_ok=True)
            one.chmod(0o755)
        for file, text in ((files["/etc/passwd"], passwd(user)), (files["/etc/group"], group(user))):
            _write(file, text)
    except OSError as error:
        raise StartFailedError(
            SQLSTATE_SYSTEM_ERROR,
            "could not write the user of a sandbox",
            detail=describe_full(directory.parent.parent, error),
        ) from error


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all; one that is right is left as it is."""
    with contextlib.suppress(FileNotFoundError):
        right = not file.is_symlink() and file.stat().st_mode & 0o777 == 0o444
        if right and file.read_text(encoding="ascii") == text:
            return
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o444)
        Path(name).rename(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
