#!/usr/bin/python
"""Tell what keeps slices from holding what they are to hold, and set the limits that systemd does not set."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroups
short_description: Compare slices with what is wanted of them, and set what systemd does not set
description:
  - Refuses a host on which Docker, containerd and kubelet manage cgroups by different drivers, or that has not the
    processors that are asked for.
  - Compares, and with O(set=true) sets and reads back, limits of huge pages, and in cgroup version 1 the processors.
  - Has systemd set the limits of its own that the kernel has not. systemd 257 does not tell the kernel of a slice that
    changed when it reads its files again.
  - Tells which services of PostgreSQL run outside of their slice.
options:
  slices:
    description:
      - Slices, each with C(name) and, where they are limited, C(hugepages_mb) and C(cpuset).
      - One with C(services) holds the running units that match it. In version 1 these have their processors from
        systemd, and no limit of huge pages.
    type: list
    elements: dict
    required: true
  configurations:
    description: Where C(docker), C(containerd) and C(kubelet) have their configuration.
    type: dict
    default: {}
  set:
    description: Set the limits.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at the slices
  cgroups:
    slices:
      - {name: sandboxes.slice, hugepages_mb: 0}
      - {name: postgresql.slice, services: postgresql@*.service}
    configurations: {docker: /etc/docker/daemon.json}
  register: slices
"""

RETURN = r"""
version:
  description: Version of cgroups, 1 or 2.
  returned: always
  type: int
differences:
  description: Limits that the kernel has not as they are wanted, one line each.
  returned: always
  type: list
  elements: str
misplaced:
  description: Running services that are not where their slice says, or not on its processors.
  returned: always
  type: list
  elements: str
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.slice_limits import LimitError, Limits, Tree, cpus, differences, set_limits, slice_path
from ansible.module_utils.systemd_limits import tell, untold


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def docker_driver(text: str, version: int) -> str:
    """Return the driver that daemon.json chooses, or Docker's own choice."""
    try:
        options = json.loads(text or "{}").get("exec-opts", [])
    except (ValueError, AttributeError):
        options = []  # Docker itself refuses the file
    chosen = [option.partition("=")[2] for option in options if option.startswith("native.cgroupdriver=")]
    return str(chosen[-1]) if chosen else {1: "cgroupfs", 2: "systemd"}[version]


def containerd_driver(text: str) -> str | None:
    """Return the driver that containerd gives to pods; None where its configuration is not about pods."""
    if 'disabled_plugins = ["cri"]' in text:
        return None
    said = re.findall(r"^\s*SystemdCgroup\s*=\s*(true|false)", text, re.MULTILINE)
    if not said and "cri" not in text:
        return None
    return "systemd" if said and said[-1] == "true" else "cgroupfs"


def kubelet_driver(text: str) -> str:
    """Return the driver of the kubelet."""
    said = re.search(r"^cgroupDriver:\s*[\"']?(\w+)", text, re.MULTILINE)
    return said[1] if said else "cgroupfs"


def mixed_drivers(configurations: dict[str, str], version: int, root: Path = Path("/")) -> str:
    """Return one line about those that differ, nothing when all agree."""
    drivers: dict[str, Callable[[str], str | None]] = {
        "docker": lambda text: docker_driver(text, version),
        "containerd": containerd_driver,
        "kubelet": kubelet_driver,
    }
    found = {}
    texts = {name: _read(root / file.lstrip("/")) for name, file in configurations.items()}
    if texts.get("kubelet") is None:
        texts["containerd"] = None  # nobody asks it for pods
    for name, file in configurations.items():
        text = texts[name]
        driver = None if text is None else drivers[name](text)
        if driver:
            found[f"{name} ({file})"] = driver
    if len(set(found.values())) < 2:
        return ""
    return (
        f"Drivers of cgroups differ: {', '.join(f'{name}: {driver}' for name, driver in found.items())}."
        " Each would take the other's groups for its own. Choose one for all: native.cgroupdriver in exec-opts for"
        " docker, SystemdCgroup for containerd, cgroupDriver for kubelet."
    )


def problems(asked: dict[str, Any], tree: Tree) -> list[str]:
    """Return what keeps the host from having these slices."""
    found = [mixed_drivers(asked["configurations"], tree.version, tree.root)]
    online = (_read(tree.root / "sys/devices/system/cpu/online") or "0").strip()
    for entry in asked["slices"]:
        name = entry["name"]
        if not name.endswith(".slice") or "/" in name:
            found.append(f"{name or 'An empty name'} is no slice; one is named as sandboxes.slice.")
        try:
            beyond = cpus(entry.get("cpuset") or "") - cpus(online)
        except ValueError:
            found.append(f"{name}: {entry['cpuset']} is no list of processors, as 0-3,6.")
        else:
            if beyond:
                found.append(f"{name}: the processors {entry['cpuset']} are asked for, the host has {online}.")
        if tree.version == 1 and entry.get("services") and entry.get("hugepages_mb") is not None:
            found.append(f"{name}: a limit of huge pages for services needs cgroup version 2.")
    return [line for line in found if line]


def _running(pattern: str) -> list[dict[str, str]]:
    try:
        out = subprocess.run(
            ["systemctl", "show", "--property=Id,ActiveState,ControlGroup,MainPID", pattern],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        return []
    shown = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in out.strip().split("\n\n")]
    return [unit for unit in shown if unit.get("ActiveState") == "active"]


def _allowed(tree: Tree, process: str) -> frozenset[int]:
    """Return the processors that a process may run on."""
    status = _read(tree.root / "proc" / process / "status") or ""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
    allowed: frozenset[int] = cpus(found[1] if found else "")
    return allowed


def misplaced(entry: dict[str, Any], tree: Tree) -> list[str]:
    """Return running units that are outside of their slice, or in version 1 not on its processors."""
    wanted = cpus(entry.get("cpuset") or "") or _allowed(tree, "1")
    inside, found = f"/{slice_path(entry['name'])}/", []
    for unit in _running(entry["services"]):
        elsewhere = tree.version == 1 and _allowed(tree, unit["MainPID"]) != wanted
        if inside not in unit["ControlGroup"] or elsewhere:
            found.append(unit["Id"])
    return found


def limits(entry: dict[str, Any], tree: Tree) -> Limits | None:
    """Return what is to be set beside systemd, None where that is nothing."""
    if tree.version == 1 and entry.get("services"):
        return None
    return Limits(entry["name"], entry.get("hugepages_mb"), entry.get("cpuset") or None)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "slices": {"type": "list", "elements": "dict", "required": True},
            "configurations": {"type": "dict", "default": {}},
            "set": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    asked, tree = module.params, Tree()
    refused = problems(asked, tree)
    if refused:
        module.fail_json(msg=" ".join(refused))
    wanted = [found for found in (limits(entry, tree) for entry in asked["slices"]) if found]
    try:
        differing = [line for entry in wanted for line in differences(tree, entry)]
        not_told = untold(tree, [entry["name"] for entry in asked["slices"]])
        if asked["set"] and differing and not module.check_mode:
            for entry in wanted:
                set_limits(tree, entry)
        if asked["set"] and not_told and not module.check_mode:
            tell(tree, not_told)
    except LimitError as error:
        module.fail_json(msg=str(error))
    differing += [str(limit) for limit in not_told]
    outside = [unit for entry in asked["slices"] if entry.get("services") for unit in misplaced(entry, tree)]
    module.exit_json(
        changed=bool(asked["set"] and differing), version=tree.version, differences=differing, misplaced=outside
    )


if __name__ == "__main__":
    main()
