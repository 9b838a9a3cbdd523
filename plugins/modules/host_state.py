#!/usr/bin/python
"""Compare a host with what a role wants of it, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Compare a host with what is wanted of it
description:
  - Changes nothing. Tells how packages, users, directories, files, units and kernel parameters differ.
  - A role looks with it once, ends where there is no difference, and else lets the modules that change things do so.
options:
  packages:
    description: Debian packages that are installed.
    type: list
    elements: str
    default: []
  directories:
    description:
      - Directories, each with C(path) and, where that matters, C(owner), C(group) and C(mode).
      - With C(only), the names that may lie in it; others are C(unexpected).
    type: list
    elements: dict
    default: []
  files:
    description:
      - Files, each with C(path), C(text) where all of its contents are wanted, and C(owner), C(group) and C(mode).
    type: list
    elements: dict
    default: []
  absent:
    description: Paths that do not exist.
    type: list
    elements: path
    default: []
  users:
    description: Users, each with C(name) and C(groups), those that it is in among others.
    type: list
    elements: dict
    default: []
  units:
    description:
      - Units of systemd, each with C(name) and, where that matters, C(active) and C(enabled).
      - With C(reads), the files that the unit's process reads when it is started or reloaded, and C(starts_with), those
        that only a start makes it read. What was changed since makes the unit stale.
      - The unit C(systemd) is the manager itself, which reads its files at C(daemon-reload).
    type: list
    elements: dict
    default: []
  certificates:
    description:
      - Certificates (PEM), each with C(path) and C(days), that it is valid for at least. One that is missing is none.
    type: list
    elements: dict
    default: []
  kernel_parameters:
    description: Values below /proc/sys, by their dotted name.
    type: dict
    default: {}
  unknown_kernel_parameters:
    description: What a parameter that the kernel does not have is.
    type: str
    choices: [difference, warning]
    default: difference
  packet_filters:
    description:
      - Tables of nftables, each with C(family) and C(table), and the C(file) that makes it. They differ where what is
        loaded is not what the file would load.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Compare the host with what is wanted
  host_state:
    packages: [auditd]
    files:
      - {path: /etc/audit/rules.d/docker.rules, text: "{{ rules }}", owner: root, group: root, mode: "0640"}
    units:
      - {name: auditd.service, active: true, enabled: true, reads: [/etc/audit/rules.d/docker.rules]}
  register: state

- name: Leave a host alone that is as wanted
  ansible.builtin.meta: end_role
  when: state.differences | length == 0
"""

RETURN = r"""
differences:
  description: What is not as wanted, one line each.
  returned: always
  type: list
  elements: str
missing_packages:
  description: Packages that are not installed.
  returned: always
  type: list
  elements: str
unexpected:
  description: Paths in directories that only other names may lie in.
  returned: always
  type: list
  elements: str
ending:
  description: Certificates that end too soon.
  returned: always
  type: list
  elements: str
stale:
  description: Units whose process has not read the newest version of its files.
  returned: always
  type: list
  elements: str
"""

import grp
import os
import pwd
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ROOT = Path("/")
ATTRIBUTES = {"owner", "group", "mode"}
KEYS = {
    "directories": {"path", "only"} | ATTRIBUTES,
    "files": {"path", "text"} | ATTRIBUTES,
    "users": {"name", "groups"},
    "units": {"name", "active", "enabled", "reads", "starts_with"},
    "certificates": {"path", "days"},
    "packet_filters": {"family", "table", "file"},
}
MANAGER = "systemd"
PROPERTIES = (
    "Id",
    "ActiveState",
    "UnitFileState",
    "NeedDaemonReload",
    "ActiveEnterTimestampMonotonic",
    "StateChangeTimestampMonotonic",
)


def missing_packages(wanted: list[str]) -> list[str]:
    """Return those that dpkg does not have installed."""
    if not wanted:
        return []
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n", *wanted]
    try:
        # packages that dpkg has never heard of make its status 1
        listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return wanted
    installed = {
        name for status, _, name in (line.partition(" ") for line in listing.splitlines()) if status == "installed"
    }
    return [name for name in wanted if name not in installed]


def attributes(path: Path, status: os.stat_result, wanted: dict[str, Any]) -> list[str]:
    """Return how owner, group and mode of ``path`` differ."""
    found = []
    if "owner" in wanted and _id_of(str(wanted["owner"]), pwd.getpwnam, "pw_uid") != status.st_uid:
        found.append(f"{path}: owner is not {wanted['owner']}")
    if "group" in wanted and _id_of(str(wanted["group"]), grp.getgrnam, "gr_gid") != status.st_gid:
        found.append(f"{path}: group is not {wanted['group']}")
    if "mode" in wanted and int(str(wanted["mode"]), 8) != stat.S_IMODE(status.st_mode):
        found.append(f"{path}: mode is {stat.S_IMODE(status.st_mode):04o}, not {wanted['mode']}")
    return found


def _id_of(name: str, look_up: Any, field: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return int(getattr(look_up(name), field))
    except KeyError:
        return -1


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def unexpected(wanted: list[dict[str, Any]]) -> list[str]:
    """Return what lies in directories that only certain names may lie in."""
    paths = [
        path
        for entry in wanted
        if "only" in entry and Path(entry["path"]).is_dir()
        for path in Path(entry["path"]).iterdir()
        if path.name not in entry["only"]
    ]
    return sorted(str(path) for path in paths)


def directories(wanted: list[dict[str, Any]]) -> list[str]:
    """Return how directories differ."""
    found = [f"{path}: not asked for" for path in unexpected(wanted)]
    for entry in wanted:
        path = Path(entry["path"])
        status = _status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            found.append(f"{path}: no directory")
        else:
            found += attributes(path, status, entry)
    return found


def files(wanted: list[dict[str, Any]]) -> list[str]:
    """Return how files differ."""
    found = []
    for entry in wanted:
        path = Path(entry["path"])
        status = _status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            found.append(f"{path}: no file")
            continue
        if "text" in entry and path.read_bytes() != entry["text"].encode():
            found.append(f"{path}: other contents")
        found += attributes(path, status, entry)
    return found


def users(wanted: list[dict[str, Any]]) -> list[str]:
    """Return how users differ."""
    found = []
    for entry in wanted:
        name = entry["name"]
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            found.append(f"{name}: no user")
            continue
        groups = os.getgrouplist(name, user.pw_gid)
        outside = [group for group in entry.get("groups", []) if _id_of(group, grp.getgrnam, "gr_gid") not in groups]
        found += [f"{name}: not in the group {group}" for group in outside]
    return found


def show_units(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of units by the names that were asked for; none where there is no systemd."""
    if not names:
        return {}
    try:
        out = subprocess.run(
            ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *names],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        return {}
    shown = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in out.strip().split("\n\n")]
    return dict(zip(names, shown, strict=True)) if len(shown) == len(names) else {}


def manager() -> dict[str, str]:
    """Return the state of systemd itself as if it were a unit; none where there is no systemd."""
    stamps = ("UnitsLoadFinishTimestampMonotonic", "UnitsLoadTimestampMonotonic")
    try:
        argv = ["systemctl", "show", f"--property={','.join(stamps)}"]
        out = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return {}
    shown = dict(line.partition("=")[::2] for line in out.splitlines())
    # the second is 0 until the first reload on some releases, and the only one that a reload changes
    read = max(int(shown.get(stamp) or 0) for stamp in stamps)
    return {"ActiveState": "active", "StateChangeTimestampMonotonic": str(read)}


def changed_since(paths: list[str], monotonic_us: str) -> list[str]:
    """Return the paths that were changed after a moment on the monotonic clock."""
    moment = time.time() - time.monotonic() + int(monotonic_us or 0) / 1e6
    statuses = ((path, _status(Path(path))) for path in paths)
    return [path for path, status in statuses if status is not None and status.st_mtime > moment]


def units(wanted: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return how units differ, and which of them are stale."""
    names = [entry["name"] for entry in wanted]
    shown = show_units([name for name in names if name != MANAGER]) | ({MANAGER: manager()} if MANAGER in names else {})
    found, stale = [], []
    for entry in wanted:
        name, unit = entry["name"], shown.get(entry["name"], {})
        state = unit.get("ActiveState", "unknown")
        if "active" in entry and entry["active"] != (state == "active"):
            found.append(f"{name}: {state}")
        setting = unit.get("UnitFileState") or "not there"
        if "enabled" in entry and entry["enabled"] != (setting == "enabled"):
            found.append(f"{name}: {setting}, not {'enabled' if entry['enabled'] else 'disabled'}")
        if unit.get("NeedDaemonReload") == "yes":
            found.append(f"{name}: systemd has not read its unit again")
        if state != "active":
            continue
        newer = changed_since(entry.get("reads", []), unit.get("StateChangeTimestampMonotonic", ""))
        newer += changed_since(entry.get("starts_with", []), unit.get("ActiveEnterTimestampMonotonic", ""))
        if newer:
            stale.append(name)
            found.append(f"{name}: has not read {', '.join(newer)} since it changed")
    return found, stale


def kernel_parameters(wanted: dict[str, Any], root: Path = ROOT) -> tuple[list[str], list[str]]:
    """Return how kernel parameters differ, and which of them the kernel does not have."""
    found, unknown = [], []
    for name, value in wanted.items():
        try:
            text = (root / "proc/sys" / name.replace(".", "/")).read_text(encoding="ascii")
        except OSError:
            unknown.append(name)
            continue
        if text.split() != str(value).split():
            found.append(f"{name}: {' '.join(text.split())}, not {value}")
    return found, unknown


def packet_filters(wanted: list[dict[str, Any]]) -> list[str]:
    """Return which tables of nftables are not loaded as their file has them.

    nft writes a table in its own words, so the file is loaded in a network namespace that is gone right afterwards.
    """
    found = []
    for entry in wanted:
        show = ["nft", "--stateless", "list", "table", entry["family"], entry["table"]]
        load = ["unshare", "--net", "sh", "-c", 'nft --file "$1" && shift && exec "$@"', "sh", entry["file"], *show]
        try:
            loaded, file = (subprocess.run(argv, capture_output=True, text=True, check=False) for argv in (show, load))
        except FileNotFoundError:
            found.append(f"{entry['table']}: there is no nftables")
            continue
        if loaded.returncode != 0:
            found.append(f"{entry['table']}: not loaded")
        elif file.returncode != 0 or loaded.stdout != file.stdout:
            found.append(f"{entry['table']}: not loaded as {entry['file']} has it")
    return found


def ending(wanted: list[dict[str, Any]]) -> list[str]:
    """Return the certificates that are there and end too soon, or cannot be read."""
    found = []
    for entry in wanted:
        seconds = int(entry["days"]) * 24 * 60 * 60
        argv = ["openssl", "x509", "-noout", "-checkend", str(seconds), "-in", entry["path"]]
        try:
            if Path(entry["path"]).is_file() and subprocess.run(argv, capture_output=True, check=False).returncode != 0:
                found.append(entry["path"])
        except FileNotFoundError:
            found.append(entry["path"])  # without openssl nobody knows
    return found


def check_keys(module: AnsibleModule) -> None:
    """Refuse entries with keys that mean nothing: a misspelt one would never be compared."""
    for option, known in KEYS.items():
        for entry in module.params[option]:
            if entry.keys() - known or not {"path", "name", "file"} & entry.keys():
                module.fail_json(msg=f"{option}: {entry} has other keys than {', '.join(sorted(known))}")


def main() -> None:
    """Run as an Ansible module."""
    lists = {
        "packages": "str",
        "users": "dict",
        "directories": "dict",
        "files": "dict",
        "absent": "path",
        "units": "dict",
    }
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "list", "elements": elements, "default": []} for name, elements in lists.items()},
            "certificates": {"type": "list", "elements": "dict", "default": []},
            "kernel_parameters": {"type": "dict", "default": {}},
            "unknown_kernel_parameters": {
                "type": "str",
                "choices": ["difference", "warning"],
                "default": "difference",
            },
            "packet_filters": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    check_keys(module)
    wanted = module.params
    missing = missing_packages(wanted["packages"])
    of_units, stale = units(wanted["units"])
    differences = [f"{name}: not installed" for name in missing]
    differences += users(wanted["users"])
    differences += directories(wanted["directories"]) + files(wanted["files"])
    differences += [f"{path}: is there" for path in wanted["absent"] if os.path.lexists(path)]
    of_kernel, unknown = kernel_parameters(wanted["kernel_parameters"])
    if wanted["unknown_kernel_parameters"] == "warning":
        for name in unknown:
            module.warn(f"this kernel has no parameter {name}")
    else:
        of_kernel += [f"{name}: not there" for name in unknown]
    too_old = ending(wanted["certificates"])
    differences += [f"{path}: ends soon" for path in too_old]
    differences += of_units + of_kernel + packet_filters(wanted["packet_filters"])
    module.exit_json(
        changed=False,
        differences=differences,
        missing_packages=missing,
        unexpected=unexpected(wanted["directories"]),
        ending=too_old,
        stale=stale,
    )


if __name__ == "__main__":
    main()
