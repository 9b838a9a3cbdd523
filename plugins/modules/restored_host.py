#!/usr/bin/python
"""Bring files, units, users and kernel parameters of a host back to what they were before it was provisioned."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restored_host
short_description: Bring a host back to what it was
description:
  - Ends the units that roles have written, and makes every file that they wrote what it was before, as it is written
    down on the host. Folders that were made for these files go when they are empty.
  - Removes users and groups that roles and packages made.
options:
  part:
    description:
      - Whether units are ended, volumes are unmounted, directories are removed, or everything else is brought back.
      - What uses a volume ends before it is unmounted. The module fails where one stays mounted.
    type: str
    choices: [units, mounts, directories, rest]
    required: true
  directories:
    description: Directories of roles that go with all they hold.
    type: list
    elements: path
    default: []
  keep:
    description: Below these paths nothing is touched.
    type: list
    elements: path
    default: []
  keep_users:
    description: Users and groups that stay.
    type: list
    elements: str
    default: []
  packet_filters:
    description: Tables of nftables, as C(inet name).
    type: list
    elements: str
    default: []
  empty_packet_filters:
    description: Whether tables of nftables go that hold no rule.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: End what roles have started
  restored_host:
    part: units
"""

RETURN = r"""
done:
  description: What was brought back, one line each.
  returned: always
  type: list
  elements: str
"""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.origin import FOLDER, bring_back, describe, first_lines, load

UNITS = Path("/etc/systemd/system")
SUFFIXES = {".service", ".slice", ".socket", ".timer", ".path", ".target"}
# Who reads files of a folder, and how it takes up that they are other ones. It may have been there before.
READERS = {
    "/etc/systemd/journald.conf.d": ["systemctl", "try-restart", "systemd-journald.service"],
    "/etc/systemd/timesyncd.conf.d": ["systemctl", "try-restart", "systemd-timesyncd.service"],
    "/etc/chrony": ["systemctl", "try-restart", "chrony.service"],
    "/etc/docker": ["systemctl", "try-restart", "docker.service"],
    "/etc/audit/rules.d": ["augenrules", "--load"],
    "/etc/default/grub.d": ["update-grub"],
}


def below(path: Path, parents: list[str]) -> bool:
    """Tell whether a path is one of the parents or lies in one."""
    return any(path.is_relative_to(parent) for parent in parents)


def own_units(files: dict[str, Any], suffixes: set[str]) -> list[str]:
    """Return the units that were not there before, those that others run in last."""
    names = [Path(name) for name, before in files.items() if before is None]
    units = [path.name for path in names if path.parent == UNITS and path.suffix in suffixes]
    return sorted(units, key=lambda name: (name.endswith(".slice"), name))


def mounted_at(unit: str, units: Path = UNITS) -> Path | None:
    """Return where a unit mounts, None when nothing is mounted there."""
    text = (units / unit).read_text(encoding="utf-8") if (units / unit).is_file() else ""
    where = next((line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("Where=")), "")
    return Path(where) if where and Path(where).is_mount() else None


def readers(files: list[str]) -> list[list[str]]:
    """Return what makes the readers of files take up that they are other ones, each once."""
    return [command for folder, command in READERS.items() if any(below(Path(name), [folder]) for name in files)]


def parameters(text: str) -> list[str]:
    """Return the names of kernel parameters that a file of sysctl.d sets."""
    lines = (line.strip().lstrip("-") for line in text.splitlines())
    return [line.partition("=")[0].strip() for line in lines if line[:1] not in ("", "#", ";") and "=" in line]


def at_work(unit: str) -> bool:
    """Tell whether a unit runs, or would with the host's next start."""
    return any(run("systemctl", "--quiet", question, unit) for question in ("is-active", "is-enabled", "is-failed"))


def run(*command: str) -> bool:
    """Run a command; what it was to end may have ended."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Restoration:
    """What is brought back, or would be."""

    def __init__(self, keep: list[str], dry: bool) -> None:
        self.done: list[str] = []
        self.files: list[str] = []
        self._keep = keep
        self._dry = dry

    def end_units(self, files: dict[str, Any]) -> None:
        """Stop and disable the units of roles, all at once: one that restarts would start again what it wants."""
        names = [name for name in own_units(files, SUFFIXES) if (UNITS / name).exists() and at_work(name)]
        self.done += [f"{name}: ended" for name in names]
        slices = [name for name in names if name.endswith(".slice")]
        for some in ([name for name in names if name not in slices], slices):
            if some and not self._dry:
                run("systemctl", "disable", "--now", *some)

    def unmount(self, files: dict[str, Any]) -> list[str]:
        """Unmount the volumes of roles, those inside of others first; return which are still in use."""
        busy = []
        for name in reversed(own_units(files, {".mount"})):
            path = mounted_at(name)
            if path is None:
                continue
            self.done.append(f"{path}: unmounted")
            if not self._dry:
                run("systemctl", "disable", "--now", name)
                if path.is_mount():
                    busy.append(str(path))
        return busy

    def bring_parameters_back(self, files: dict[str, Any], values: dict[str, str]) -> None:
        """Give kernel parameters that roles set the values from before."""
        for name in files:
            path = Path(name)
            if not path.is_relative_to("/etc/sysctl.d") or not path.is_file():
                continue
            for parameter in parameters(path.read_text(encoding="utf-8")):
                place = Path("/proc/sys", *parameter.split("." if "/" not in parameter else "/"))
                value = values.get(parameter.replace("/", "."))
                with contextlib.suppress(OSError):
                    if value is not None and place.read_text(encoding="ascii").strip() != value:
                        self.done.append(f"{parameter}: {value} again")
                        if not self._dry:
                            place.write_text(value, encoding="ascii")

    def bring_files_back(self, files: dict[str, Any], directories: list[str]) -> None:
        """Make files what they were, and remove the folders that were made for them."""
        for name, before in files.items():
            path = Path(name)
            # a file of a package or a cluster that is gone goes with its folder
            if below(path, self._keep) or describe(path) == before or not path.parent.is_dir():
                continue
            self.done.append(f"{path}: {'removed' if before is None else 'as it was'}")
            self.files.append(name)
            if not self._dry:
                bring_back(path, before)
        if directories and not self._dry:
            for name in sorted(files, reverse=True):
                remove_empty(Path(name).parent, directories)

    def remove_directories(self, paths: list[str]) -> None:
        """Remove directories with all they hold."""
        for path in map(Path, paths):
            # what something is mounted at stays, empty, and so does what holds nothing but what is to stay
            kept = path.is_mount() or any(below(Path(name), [str(path)]) for name in self._keep)
            rest = [child for child in path.iterdir() if not below(child, self._keep)] if path.is_dir() else []
            if path.is_dir() and not below(path, self._keep) and (rest or not kept):
                self.done.append(f"{path}: removed")
                if not self._dry:
                    empty(path, self._keep)
                    with contextlib.suppress(OSError):
                        path.rmdir()

    def remove_users(self, before: dict[str, list[str]], keep: list[str]) -> None:
        """Remove users and groups that were not there before."""
        for kind, file, command in (("users", "passwd", "userdel"), ("groups", "group", "groupdel")):
            known = before.get(kind)
            names = [] if known is None else sorted(set(first_lines(Path("/etc", file))) - {*known, *keep})
            for name in names:
                self.done.append(f"{kind[:-1]} {name}: removed")
                if not self._dry:
                    run(command, name)

    def drop_packet_filters(self, tables: list[str]) -> None:
        """Remove tables of nftables."""
        for table in tables:
            if run("nft", "list", "table", *table.split()):
                self.done.append(f"table {table}: removed")
                if not self._dry:
                    run("nft", "delete", "table", *table.split())


def tables_without_rules() -> list[str]:
    """Return the tables of nftables that decide nothing."""
    try:
        shown = subprocess.run(["nft", "--json", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return []
    objects = json.loads(shown or "{}").get("nftables", [])
    tables = [f"{entry['table']['family']} {entry['table']['name']}" for entry in objects if "table" in entry]
    used = {f"{entry['rule']['family']} {entry['rule']['table']}" for entry in objects if "rule" in entry}
    chains = [entry["chain"] for entry in objects if "chain" in entry]
    used |= {f"{chain['family']} {chain['table']}" for chain in chains if chain.get("policy") == "drop"}
    return [table for table in tables if table not in used]


def empty(path: Path, keep: list[str]) -> None:
    """Remove what a directory holds but what is to stay. It may be a mount point itself."""
    for child in path.iterdir():
        if below(child, keep):
            continue
        if child.is_dir() and not child.is_symlink() and any(below(Path(kept), [str(child)]) for kept in keep):
            empty(child, keep)
        elif child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink()


def remove_empty(path: Path, before: list[str]) -> None:
    """Remove a directory that is empty and was not there before, and so those above it."""
    known = {*before, "/", "/etc", "/usr/local"}
    while path.is_dir() and str(path) not in known and not any(path.iterdir()):
        path.rmdir()
        path = path.parent


def main() -> None:
    """Run as an Ansible module."""
    lists = {"directories": "path", "keep": "path", "keep_users": "str", "packet_filters": "str"}
    module = AnsibleModule(
        argument_spec={
            "part": {"type": "str", "choices": ["units", "mounts", "directories", "rest"], "required": True},
            "empty_packet_filters": {"type": "bool", "default": False},
            **{name: {"type": "list", "elements": elements, "default": []} for name, elements in lists.items()},
        },
        supports_check_mode=True,
    )
    asked, origin = module.params, load()
    files: dict[str, Any] = origin.get("files", {})
    work = Restoration(asked["keep"], module.check_mode)
    if asked["part"] == "units":
        work.end_units(files)
        work.drop_packet_filters(asked["packet_filters"])
    elif asked["part"] == "mounts":
        if busy := work.unmount(files):
            module.fail_json(msg=f"{', '.join(busy)}: in use, so it stays mounted; end what uses it and run this again")
    elif asked["part"] == "directories":
        work.remove_directories(asked["directories"])
        if asked["empty_packet_filters"]:
            work.drop_packet_filters(tables_without_rules())
    else:
        work.bring_parameters_back(files, origin.get("kernel_parameters", {}))
        work.bring_files_back(files, origin.get("directories", []))
        work.remove_users(origin, asked["keep_users"])
        if FOLDER.is_dir():
            work.done.append(f"{FOLDER}: removed")
        if not module.check_mode:
            for command in [["systemctl", "daemon-reload"], *readers(work.files)]:
                run(*command)
            run("systemctl", "reset-failed")
            shutil.rmtree(FOLDER, ignore_errors=True)
    module.exit_json(changed=bool(work.done), done=work.done, known=bool(origin))


if __name__ == "__main__":
    main()
