# SPDX-License-Identifier: Apache-2.0
"""What a host was before it was provisioned: written down as it is changed, for destroy.yml to bring it back.

One file holds the packages, users, groups, directories and kernel parameters that there were before the first run, and
each file as it was before the first time that it was written.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/caisson")
FILE = "origin.json"
# Others are not for roles to change, or change by themselves.
PARAMETERS = ("fs", "kernel", "net", "vm")

Origin = dict[str, Any]


def load(folder: Path | None = None) -> Origin:
    """Return what is written down, empty when nothing is."""
    try:
        text = ((folder or FOLDER) / FILE).read_text(encoding="utf-8")
    except OSError:
        return {}
    found: Origin = json.loads(text)
    return found


@contextmanager
def _written(folder: Path | None) -> Iterator[Origin]:
    """Give what is written down, to be changed; a run that is killed leaves all of it, old or new."""
    folder = folder or FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        origin = load(folder)
        yield origin
        # mkstemp's mode is 0600: files may have held secrets
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
            json.dump(origin, file)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(folder / FILE)


def first_lines(path: Path) -> list[str]:
    """Return the names that begin the lines of a file like /etc/passwd."""
    return sorted(line.partition(":")[0] for line in path.read_text(encoding="utf-8").splitlines() if line)


def directories(root: Path) -> list[str]:
    """Return the directories that files of roles may lie in."""
    tops = (root / "etc", root / "usr/local")
    return sorted(f"/{Path(folder).relative_to(root)}" for top in tops for folder, _, _ in os.walk(top))


def kernel_parameters(root: Path) -> dict[str, str]:
    """Return all kernel parameters that can be read, by their dotted name."""
    found = {}
    base = root / "proc/sys"
    for folder in PARAMETERS:
        for path in (base / folder).rglob("*"):
            try:
                if path.stat().st_mode & stat.S_IWUSR and path.is_file():
                    found[".".join(path.relative_to(base).parts)] = path.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                continue
    return found


def automatic(states: str) -> list[str]:
    """Return the packages that were installed for the sake of others, from what apt writes down of states."""
    blocks = (dict(line.partition(": ")[::2] for line in block.splitlines()) for block in states.split("\n\n"))
    return sorted(block["Package"] for block in blocks if block.get("Auto-Installed") == "1")


def begin(packages: list[str], root: Path = Path("/"), folder: Path | None = None) -> None:
    """Write down what a host has before it is changed, unless that was done before."""
    if "packages" in load(folder):
        return
    with _written(folder) as origin:
        origin["packages"] = sorted(packages)
        states = root / "var/lib/apt/extended_states"
        origin["automatic"] = automatic(states.read_text(encoding="utf-8") if states.is_file() else "")
        origin["users"] = first_lines(root / "etc/passwd")
        origin["groups"] = first_lines(root / "etc/group")
        origin["directories"] = directories(root)
        origin["kernel_parameters"] = kernel_parameters(root)


def describe(path: Path) -> Origin | None:
    """Return all that makes a file what it is, None where there is none."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    what: Origin = {"owner": status.st_uid, "group": status.st_gid, "mode": stat.S_IMODE(status.st_mode)}
    if stat.S_ISLNK(status.st_mode):
        return {**what, "link": str(path.readlink())}
    return {**what, "text": path.read_bytes().decode("utf-8", errors="surrogateescape")}


def remember(path: Path, folder: Path | None = None) -> None:
    """Write down a file as it is, unless that was done before. Call it ahead of each change."""
    if str(path) in load(folder).get("files", {}):
        return
    before = describe(path)
    with _written(folder) as origin:
        origin.setdefault("files", {})[str(path)] = before


def bring_back(path: Path, before: Origin | None) -> bool:
    """Make a file what it was; return whether that changed anything."""
    if describe(path) == before:
        return False
    path.unlink(missing_ok=True)
    if before is None:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in before:
        path.symlink_to(before["link"])
        return True
    path.write_bytes(before["text"].encode("utf-8", errors="surrogateescape"))
    os.chown(path, before["owner"], before["group"])
    path.chmod(before["mode"])
    return True
