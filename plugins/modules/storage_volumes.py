#!/usr/bin/python
"""Look at what lies under the directories that hold data, and refuse what would cost data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_volumes
short_description: Compare what lies under directories of data with what is wanted
description:
  - Changes nothing. Tells for each volume what is to be done, and fails once with everything that must not be done.
  - Nothing that holds data is ever written over, mounted over or taken for one of ours.
options:
  volumes:
    description:
      - What is mounted, each with C(path) and one of C(device), C(directory) and C(tmpfs_mb).
      - With C(file_system), C(options), C(make_file_system), C(adopt), C(owner), C(group) and C(mode) where wanted.
    type: list
    elements: dict
    default: []
  directories:
    description: Directories whose free space matters, each with C(path), C(least_gb) and C(warn_gb) (GiB).
    type: list
    elements: dict
    default: []
  allow_loop_devices:
    description: Let a loop device be behind a volume.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at the volumes
  storage_volumes:
    volumes:
      - {path: /var/lib/postgresql, device: /dev/disk/by-id/nvme-one, file_system: xfs, options: [noatime]}
    directories:
      - {path: /var/lib/postgresql, least_gb: 20, warn_gb: 100}
  register: look
"""

RETURN = r"""
differences:
  description: What is not as wanted, one line each.
  returned: always
  type: list
  elements: str
problems:
  description: What must not be done, one line each. The module fails when there is one.
  returned: always
  type: list
  elements: str
volumes:
  description: Each volume with the name and text of its unit, and whether a file system has to be made.
  returned: always
  type: list
  elements: dict
"""

import os
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UNITS = "/etc/systemd/system"
LABEL = "caisson"
GIB = 2**30
KEYS = {
    "path", "device", "directory", "tmpfs_mb", "file_system", "options", "make_file_system", "adopt", "owner", "group",
    "mode",
}  # fmt: skip
KINDS = ("device", "directory", "tmpfs_mb")
SYSTEM = ("/dev", "/proc", "/run", "/sys")
#: Options that the kernel shows as they were given.
SHOWN = {"noatime", "nodev", "noexec", "nosuid", "prjquota", "ro"}
PATH = re.compile(r"(/[A-Za-z0-9_@:+.-]+)+")
BLKID_NOTHING, BLKID_IN_DOUBT = 2, 8

Probe = Callable[[str], "tuple[int, dict[str, str]]"]


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    device: str
    point: str
    kind: str
    source: str
    options: frozenset[str]


@dataclass
class Findings:
    """Lines for the person who runs the playbook."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


class Host:
    """The host as its files show it. Tests give another ``root`` and another ``probe``."""

    def __init__(self, root: str = "/", probe: Probe | None = None, *, allow_loop: bool = False) -> None:
        self.root = Path(root)
        self.probe = probe or blkid
        self._allow_loop = allow_loop

    def path(self, name: str) -> Path:
        """Return where the file ``name`` of the host is."""
        return self.root / name.lstrip("/")

    def mounts(self) -> list[Mount]:
        """Return what is mounted, in the order in which it was mounted."""
        found = []
        for line in self.path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            left, _, right = line.partition(" - ")
            before, after = left.split(" "), right.split(" ")
            options = frozenset(before[5].split(",")) | frozenset(after[2].split(","))
            found.append(Mount(before[2], before[4].replace("\\040", " "), after[0], after[1], options))
        return found

    def number(self, device: str) -> str | None:
        """Return major:minor of a block device; None when it is none."""
        status = self.path(device).stat()
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else None

    def below(self, number: str) -> set[str]:
        """Return the names of a block device and of all that lie below it: disks of partitions, parts of mappings."""
        node = self.path(f"/sys/dev/block/{number}")
        names: set[str] = set()
        pending = [node.resolve()] if node.exists() else []
        while pending:
            current = pending.pop()
            if current.name in names:
                continue
            names.add(current.name)
            if (current / "partition").exists():
                pending.append(current.parent)
            if (current / "slaves").is_dir():
                pending.extend(slave.resolve() for slave in (current / "slaves").iterdir())
        return names

    def refuse_loop(self, name: str, number: str) -> None:
        """Raise ValueError when a loop device is at or below a block device."""
        loops = sorted(below for below in self.below(number) if re.match(r"loop\d", below))
        if loops and not self._allow_loop:
            raise ValueError(f"{name} is on the loop device /dev/{loops[0]}, slow and easily lost; give it a disk")

    def refuse_held(self, name: str, number: str) -> None:
        """Raise ValueError when a block device is part of another one."""
        holders = self.path(f"/sys/dev/block/{number}/holders")
        held = sorted(path.name for path in holders.iterdir()) if holders.is_dir() else []
        if held:
            raise ValueError(f"{name} is part of /dev/{held[0]}")

    def refuse_unreadable(self, name: str) -> None:
        """Raise ValueError when the beginning of a device cannot be read."""
        try:
            with self.path(name).open("rb") as device:
                readable = bool(device.read(4096))
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror}") from error
        if not readable:
            raise ValueError(f"{name} has no size")


def blkid(device: str) -> tuple[int, dict[str, str]]:
    """Return the status of blkid and what it reads from the device itself; nothing is remembered."""
    done = subprocess.run(
        ["blkid", "--probe", "--output", "export", device], capture_output=True, text=True, check=False
    )
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return done.returncode, {key: value for key, _, value in pairs}


def unit_name(path: str) -> str:
    """Return the name that systemd wants for the unit of a mount point."""
    escaped = re.sub(r"[^A-Za-z0-9:_./]", lambda found: f"\\x{ord(found[0]):02x}", path.strip("/"))
    return re.sub(r"^\.", r"\\x2e", escaped).replace("/", "-") + ".mount"


def unit_text(volume: dict[str, Any], what: str) -> str:
    """Return the unit that mounts a volume. Where it fails the host does not go up: its data would go elsewhere."""
    options, needs = list(volume.get("options", [])), ""
    kind = volume.get("file_system", "xfs")
    if "directory" in volume:
        kind, options, needs = "none", ["bind", *options], f"RequiresMountsFor={what}\n"
    elif "tmpfs_mb" in volume:
        kind, options = "tmpfs", [f"size={volume['tmpfs_mb']}m", *(options or ["nodev", "nosuid"])]
    else:
        options = options or ["noatime"]
    return (
        "# Managed by the role storage.\n"
        f"[Unit]\nDescription=Storage at {volume['path']}\n{needs}\n"
        f"[Mount]\nWhat={what}\nWhere={volume['path']}\nType={kind}\nOptions={','.join(options)}\n\n"
        "[Install]\nRequiredBy=local-fs.target\n"
    )


def check_form(volume: dict[str, Any]) -> None:
    """Check how a volume is described. Raises ValueError."""
    path, source = str(volume.get("path", "")), str(volume.get("directory", ""))
    for name in [path, *(str(volume[key]) for key in ("device", "directory") if key in volume)]:
        if not PATH.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ValueError(f"{name!r} is not an absolute path of letters, digits and _@:+.-")
    if any((path + "/").startswith(place + "/") for place in SYSTEM):
        raise ValueError(f"{path} is the system's own")
    if volume.keys() - KEYS:
        known = ", ".join(sorted(KEYS))
        raise ValueError(f"{path}: unknown {', '.join(sorted(volume.keys() - KEYS))}; known are {known}")
    if len([kind for kind in KINDS if kind in volume]) != 1:
        raise ValueError(f"{path}: one of {', '.join(KINDS)} is needed")
    if source and ((path + "/").startswith(source + "/") or (source + "/").startswith(path + "/")):
        raise ValueError(f"{path}: {source} is not a place beside it")


def is_ours(host: Host, volume: dict[str, Any], what: str) -> bool:
    """Tell whether an earlier run has mounted this here: its unit says so."""
    unit = host.path(f"{UNITS}/{unit_name(volume['path'])}")
    return unit.is_file() and f"\nWhat={what}\n" in unit.read_text(encoding="utf-8")


def look_at_device(host: Host, volume: dict[str, Any], mounts: list[Mount]) -> tuple[str, str, bool]:
    """Return number and source of a device, and whether a file system has to be made. Raises ValueError."""
    device, wanted = volume["device"], volume.get("file_system", "xfs")
    try:
        number = host.number(device)
    except OSError as error:
        raise ValueError(f"{device} cannot be had: {error.strerror}") from error
    if number is None:
        raise ValueError(f"{device} is no block device")
    host.refuse_loop(device, number)
    host.refuse_held(device, number)
    elsewhere = [mount.point for mount in mounts if mount.device == number and mount.point != volume["path"]]
    if elsewhere:
        raise ValueError(f"{device} is mounted at {elsewhere[0]}")
    status, found = host.probe(device)
    if status == BLKID_IN_DOUBT:
        raise ValueError(f"{device} holds traces of more than one thing; wipefs shows them")
    if status not in (0, BLKID_NOTHING):
        raise ValueError(f"{device} cannot be read by blkid (status {status})")
    if status == BLKID_NOTHING:
        # That is also what blkid says of a device that it cannot open.
        host.refuse_unreadable(device)
        if not volume.get("make_file_system", False):
            raise ValueError(f"{device} is empty; make_file_system: true makes an {wanted} there")
        return number, "", True
    if found.get("TYPE") != wanted or "UUID" not in found:
        holds = found.get("TYPE") or f"partitions ({found.get('PTTYPE', 'unknown')})"
        raise ValueError(f"{device} holds {holds}, not {wanted}; it is left as it is. wipefs makes it empty")
    what = f"/dev/disk/by-uuid/{found['UUID']}"
    if found.get("LABEL") != LABEL and not is_ours(host, volume, what) and not volume.get("adopt", False):
        raise ValueError(
            f"{device} holds an {wanted} that is not ours (no label {LABEL}); adopt: true takes it as it is"
        )
    return number, what, False


def is_empty(directory: Path) -> bool:
    """Tell whether nothing is in a directory."""
    return next(directory.iterdir(), None) is None


def existing_parent(path: Path) -> Path:
    """Return ``path`` or the nearest directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def look_at_directory(host: Host, volume: dict[str, Any]) -> None:
    """Check that a directory is, or can become, the place of a volume's data. Raises ValueError."""
    name = volume["directory"]
    directory = host.path(name)
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ValueError(f"{name} is no directory")
    device = existing_parent(directory).stat().st_dev
    host.refuse_loop(name, f"{os.major(device)}:{os.minor(device)}")
    if not directory.is_dir() or is_empty(directory) or is_ours(host, volume, name) or volume.get("adopt", False):
        return
    raise ValueError(f"{name} is not empty and not ours; move away what is in it, or adopt: true takes it as it is")


def is_mounted(host: Host, volume: dict[str, Any], number: str, mounts: list[Mount]) -> bool:
    """Tell whether a volume is mounted where it belongs. Raises ValueError when something else is, or is in the way."""
    path = volume["path"]
    point = host.path(path)
    here = [mount for mount in mounts if mount.point == path]
    if not here:
        if point.is_symlink() or (point.exists() and not point.is_dir()):
            raise ValueError(f"{path} is no directory")
        if point.is_dir() and not is_empty(point):
            raise ValueError(f"{path} is not empty, and what is mounted there would hide what it holds; move that away")
        return False
    top = here[-1]
    if "device" in volume:
        right = top.device == number
    elif "directory" in volume:
        source = host.path(volume["directory"])
        right = source.is_dir() and os.path.samestat(point.stat(), source.stat())
    else:
        right = top.kind == "tmpfs" and is_ours(host, volume, "tmpfs")
    if not right:
        raise ValueError(f"{path} has {top.source} ({top.kind}) mounted on it already")
    missing = sorted(SHOWN & set(volume.get("options", [])) - top.options)
    volume["lacks"] = missing
    return True


def look_at(host: Host, volume: dict[str, Any], mounts: list[Mount], out: Findings) -> dict[str, Any]:
    """Return what is known of a volume and add how it differs. Raises ValueError when it must be left alone."""
    path, number, what, make = volume["path"], "", str(volume.get("directory", "tmpfs")), False
    if "device" in volume:
        number, what, make = look_at_device(host, volume, mounts)
    elif "directory" in volume:
        look_at_directory(host, volume)
    mounted = is_mounted(host, volume, number, mounts)
    name = unit_name(path)
    text = "" if make else unit_text(volume, what)
    unit = host.path(f"{UNITS}/{name}")
    known = unit.read_text(encoding="utf-8") if unit.is_file() else None
    if make:
        out.differences.append(f"{path}: {volume['device']} has no file system yet")
    elif known != text:
        out.differences.append(f"{path}: {UNITS}/{name} is {'not there' if known is None else 'another one'}")
    if not mounted:
        out.differences.append(f"{path}: not mounted")
    elif not host.path(f"{UNITS}/local-fs.target.requires/{name}").is_symlink():
        out.differences.append(f"{path}: not mounted when the host starts")
    lacks = volume.pop("lacks", [])
    if lacks:
        out.differences.append(f"{path}: mounted without {', '.join(lacks)}")
    return {
        **volume, "unit": name, "text": text, "needs_file_system": make, "mounted": mounted, "lacks": lacks,
        "file_system": volume.get("file_system", "xfs"),
        "make_options": make_options(volume),
    }  # fmt: skip


def make_options(volume: dict[str, Any]) -> str:
    """Return the options of mkfs."""
    quota = volume.get("file_system", "xfs") == "ext4" and "prjquota" in volume.get("options", [])
    return f"-L {LABEL}" + (" -O quota,project" if quota else "")


def check_space(host: Host, directories: list[dict[str, Any]], pending: list[str], out: Findings) -> None:
    """Check free space, but for what is not mounted yet."""
    for entry in directories:
        path = str(entry["path"])
        if any((path + "/").startswith(place + "/") for place in pending):
            continue
        space = os.statvfs(existing_parent(host.path(path)))
        free = space.f_bavail * space.f_frsize / GIB
        if free < float(entry["least_gb"]):
            out.problems.append(f"{path}: {free:.1f} GiB free, {float(entry['least_gb']):g} are wanted")
        elif free < float(entry["warn_gb"]):
            out.warnings.append(f"storage: {path}: {free:.1f} GiB free, {float(entry['warn_gb']):g} would be good")


def check_attributes(host: Host, volume: dict[str, Any], out: Findings) -> None:
    """Check the mode of what is mounted; owners are compared by their number or, on the host itself, by their name."""
    if volume["mounted"] and "mode" in volume:
        mode = stat.S_IMODE(host.path(volume["path"]).stat().st_mode)
        if mode != int(str(volume["mode"]), 8):
            out.differences.append(f"{volume['path']}: mode is {mode:04o}, not {volume['mode']}")
    for key, read in (("owner", Path.owner), ("group", Path.group)):
        if volume["mounted"] and key in volume:
            try:
                found = read(host.path(volume["path"]))
            except KeyError:
                found = "nobody that is known"
            if found != volume[key]:
                out.differences.append(f"{volume['path']}: {key} is {found}, not {volume[key]}")


def claim(host: Host, volume: dict[str, Any], seen: set[str]) -> None:
    """Note where a volume is and what it is on. Raises ValueError when another one has that already."""
    for key in ("path", "device", "directory"):
        if key not in volume:
            continue
        # A device has many names.
        name = str(host.path(volume[key]).resolve() if key == "device" else volume[key])
        if name in seen:
            raise ValueError(f"{volume[key]} is in two volumes")
        seen.add(name)


def look(
    host: Host, volumes: list[dict[str, Any]], directories: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], Findings]:
    """Return what is known of all volumes, and what was found."""
    out = Findings()
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    mounts = host.mounts() if volumes else []
    for volume in volumes:
        try:
            check_form(volume)
            claim(host, volume, seen)
            found.append(look_at(host, dict(volume), mounts, out))
        except ValueError as error:
            out.problems.append(str(error))
        else:
            check_attributes(host, found[-1], out)
    check_space(host, directories, [volume["path"] for volume in found if not volume["mounted"]], out)
    return found, out


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "volumes": {"type": "list", "elements": "dict", "default": []},
            "directories": {"type": "list", "elements": "dict", "default": []},
            "allow_loop_devices": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    host = Host(allow_loop=module.params["allow_loop_devices"])
    found, out = look(host, module.params["volumes"], module.params["directories"])
    for warning in out.warnings:
        module.warn(warning)
    if out.problems:
        lines = "\n".join(f"storage: {problem}" for problem in out.problems)
        module.fail_json(msg=lines, problems=out.problems, volumes=found)
    module.exit_json(changed=False, differences=out.differences, problems=[], volumes=found)


if __name__ == "__main__":
    main()
