"""The command line that turns a program into a sandbox: bubblewrap with everything it is told.

The shell in front of it notes its process id, sets limits and enters the cgroups; all of that is inherited, and the
program that bubblewrap starts in the end can take none of it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from protocol_server.backends.accounts import HOME, account, account_mounts
from protocol_server.backends.rendezvous import SOCKET_NAME
from protocol_server.config import Runtime, ServerConfig

MIB: Final = 1024 * 1024
SANDBOX_RUN_DIRECTORY: Final = "/run/caisson"
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Directories of an image in whose place sandboxes get their own.
_REPLACED: Final = frozenset({"proc", "sys", "dev", "tmp", "run"})

#: Arguments: the file for the process id, the limits of descriptors, data (KiB) and processes ("-": none), the
#: files through which cgroups are entered, "--", the command. The process keeps its id through every exec.
LAUNCHER: Final = """
set -e
read -r line </proc/self/stat
printf '%s\\n' "$line" >"$1"
ulimit -c 0
ulimit -n "$2"
[ "$3" = - ] || ulimit -d "$3"
[ "$4" = - ] || ulimit -p "$4"
# On a host that runs out of memory, sandboxes go before the database does.
echo 500 >/proc/self/oom_score_adj || true
shift 4
while [ "$1" != -- ]; do
    echo 0 >"$1"
    shift
done
shift
exec "$@"
"""


class MountPointError(Exception):
    """Something cannot be mounted where it should be; the message says what."""


@dataclass(frozen=True)
class Host:
    """What this host can do."""

    bubblewrap: str
    own_user: bool
    """Whether sandboxes run as sandbox_uid outside of their namespace, too: the server may change its user."""
    proc: bool
    """Whether a sandbox can have a /proc of its own; else it has an empty one."""


def user_switch(config: ServerConfig) -> list[str]:
    """A command that goes on as the user of sandboxes, without any right of the server's."""
    return [
        "setpriv",
        f"--reuid={config.sandbox_uid}",
        f"--regid={config.sandbox_gid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
    ]


def probe_command(config: ServerConfig, host: Host) -> list[str]:
    """A sandbox that does nothing, to see whether this host lets there be any."""
    proc = ["--proc", "/proc"] if host.proc else []
    return [
        *(user_switch(config) if host.own_user else ()),
        *(host.bubblewrap, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", *proc, "--", "/bin/true"),
    ]


def launch_arguments(
    config: ServerConfig, runtime: Runtime, pid_file: Path, entrances: Iterable[Path], missing: Sequence[str]
) -> list[str]:
    """The shell and its arguments, up to the command. Limits that no cgroup sets are set per process or per user."""
    data = str(runtime.memory_mb * 1024) if "memory" in missing else "-"
    # The kernel counts the processes of a user: all sandboxes together.
    processes = str(runtime.pids * config.max_sandboxes) if "pids" in missing else "-"
    affinity = ["taskset", "--cpu-list", runtime.cpuset] if runtime.cpuset else []
    return [
        *("/bin/sh", "-c", LAUNCHER, "sandbox", str(pid_file), str(runtime.nofile), data, processes),
        *map(str, entrances),
        *("--", *affinity),
    ]


def sandbox_command(
    config: ServerConfig,
    runtime: Runtime,
    host: Host,
    *,
    root: Path,
    environment: Sequence[str],
    directory: Path,
    status: int,
    seccomp: int,
) -> list[str]:
    """bubblewrap's command line. `status` and `seccomp` are descriptors. Raises MountPointError."""
    runtime_directory = f"/opt/caisson/runtime_{runtime.language}"
    targets = [SANDBOX_RUN_DIRECTORY, runtime_directory, *(mount.container for mount in runtime.mounts)]
    user, names = account(config, runtime), account_mounts(config, runtime)
    command = [
        *(user_switch(config) if host.own_user else ()),
        *(host.bubblewrap, "--unshare-all", "--unshare-user", "--new-session", "--cap-drop", "ALL"),
        *("--uid", str(user.uid), "--gid", str(user.gid), "--hostname", "sandbox"),
        *("--seccomp", str(seccomp), "--json-status-fd", str(status)),
        *root_arguments(root, targets, tuple(names)),
        *_own_mounts(runtime, host),
        *("--ro-bind", str(directory), SANDBOX_RUN_DIRECTORY),
        *("--ro-bind", config.runtime_directories[runtime.language], runtime_directory),
    ]
    for target, file in names.items():
        command += ["--ro-bind", str(file), target]
    for mount in runtime.mounts:
        command += ["--bind" if mount.writable else "--ro-bind", mount.host, mount.container]
    command += ["--remount-ro", "/", "--chdir", "/", "--clearenv"]
    for name, value in _environment(runtime, environment).items():
        command += ["--setenv", name, value]
    return [*command, "--", *runtime.command]


def _own_mounts(runtime: Runtime, host: Host) -> list[str]:
    size = str(runtime.tmpfs_mb * MIB)
    proc = ["--proc", "/proc"] if host.proc else ["--size", "4096", "--tmpfs", "/proc", "--remount-ro", "/proc"]
    shared_memory = ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"]  # noqa: S108
    temporary = ["--perms", "1777", "--size", size, "--tmpfs", "/tmp"]  # noqa: S108
    return [*proc, "--dev", "/dev", *shared_memory, "--remount-ro", "/dev", *temporary]


def _environment(runtime: Runtime, image: Sequence[str]) -> Mapping[str, str]:
    variables = {"PATH": _DEFAULT_PATH, "HOSTNAME": "sandbox"}
    for item in image:
        name, _, value = item.partition("=")
        variables[name] = value
    own = {"PLC_SOCKET": f"{SANDBOX_RUN_DIRECTORY}/{SOCKET_NAME}", "PLC_RUNTIME_ID": runtime.id, "HOME": HOME}
    return {**variables, **own}


def root_arguments(root: Path, targets: Sequence[str], files: Sequence[str] = ()) -> list[str]:
    """Arguments that show an image read-only, with places for `targets` and `files` also where the image has none.

    The root is an empty directory in which each entry of the image is mounted, and so is every directory in which a
    target is missing; places of `targets` are directories, those of `files` are files. Raises MountPointError when a
    place cannot be had.
    """
    paths = [PurePosixPath(target) for target in (*targets, *files)]
    return _opened(root, PurePosixPath("/"), paths, frozenset(map(PurePosixPath, files)))


def _opened(
    root: Path, inside: PurePosixPath, targets: Sequence[PurePosixPath], files: frozenset[PurePosixPath]
) -> list[str]:
    arguments: list[str] = []
    top = inside == PurePosixPath("/")
    there = sorted(os.scandir(root / inside.relative_to("/")), key=lambda entry: entry.name)
    by_name: dict[str, list[PurePosixPath]] = {}
    for target in targets:
        by_name.setdefault(target.relative_to(inside).parts[0], []).append(target)
    for entry in there:
        path = inside / entry.name
        own = by_name.pop(entry.name, [])
        below = [target for target in own if target != path]
        if top and entry.name in _REPLACED:
            arguments += [word for target in below for word in ("--dir", str(target))]
        elif entry.is_symlink():
            if below or path in files:
                raise MountPointError(f"{own[0]} passes through {path}, a symbolic link in the image")
            arguments += ["--symlink", str((root / path.relative_to("/")).readlink()), str(path)]
        elif all(_is_there(root, target, files) for target in below):
            arguments += ["--ro-bind", entry.path, str(path)]
        elif entry.is_dir():
            arguments += ["--dir", str(path), *_opened(root, path, below, files)]
        else:
            raise MountPointError(f"{below[0]} lies beneath {path}, which is a file in the image")
    # bubblewrap makes the place of a file itself.
    missing = [target.parent if target in files else target for some in by_name.values() for target in some]
    return arguments + [word for target in missing if target != inside for word in ("--dir", str(target))]


def _is_there(root: Path, target: PurePosixPath, files: frozenset[PurePosixPath]) -> bool:
    place = root / target.relative_to("/")
    return place.is_file() and not place.is_symlink() if target in files else place.is_dir()
