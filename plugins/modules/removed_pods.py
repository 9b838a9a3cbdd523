#!/usr/bin/python
"""End the pods of a host whose kubelet is gone, with all that they have left in its kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removed_pods
short_description: End the pods of a host whose kubelet is gone
description:
  - Ends containers of Kubernetes in containerd and removes their network namespaces, with them their interfaces.
  - Removes the bridges of their networks that nothing else is on, mounts and cgroups of pods, and the rules of
    Kubernetes and of CNI in the packet filter. Others' rules, bridges and containers stay.
options:
  networks:
    description: Directories with configurations of CNI, which name the bridges.
    type: list
    elements: path
    default: []
  kubelet_directory:
    description: Where the kubelet mounts volumes of pods.
    type: path
    default: /var/lib/kubelet
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: End the pods
  removed_pods:
    networks: [/etc/cni/net.d, /etc/cni/multus/net.d]
"""

RETURN = r"""
done:
  description: What was ended or removed, one line each.
  returned: always
  type: list
  elements: str
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

CTR = ("ctr", "--namespace", "k8s.io")
NETWORK_NAMESPACES = Path("/run/netns")
BRIDGES = Path("/sys/class/net")
CGROUPS = Path("/sys/fs/cgroup")
# Where the kubelet of a host that is a container is told which cgroup is its pods', and what it sees of the kernel.
ENVIRONMENT = Path("/run/kubelet.env")
SEEN = "/kubelet-settings/"
SLICE = "kubepods.slice"
TIMEOUT_S = 60
TABLES = ("ip kube-proxy", "ip6 kube-proxy", "inet caisson_network_policies")
PATTERN = re.compile(r"(?:^|[\s:])(?:KUBE|CNI)-[A-Za-z0-9-]+")


def output(*command: str, text: str | None = None) -> str:
    """Return what a command says, nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def without_pods(saved: str) -> str:
    """Return saved rules without those of Kubernetes and of CNI, from what iptables-save says."""
    return "".join(line for line in saved.splitlines(keepends=True) if not PATTERN.search(line))


def mounts(mountinfo: str, below: str) -> list[str]:
    """Return what pods have mounted below a directory, and kernel settings that a kubelet sees, the innermost first."""
    found = []
    for line in mountinfo.splitlines():
        root, place = line.split(" ")[3:5]
        if place.startswith(f"{below.rstrip('/')}/") or (place.startswith("/proc/sys/") and SEEN in f"/{root}"):
            found.append(place.encode("ascii").decode("unicode_escape"))
    return found[::-1]


def bridges(configuration: Any) -> Iterator[str]:
    """Yield the bridges that a configuration of CNI names."""
    if isinstance(configuration, dict):
        if configuration.get("type") == "bridge" and configuration.get("bridge"):
            yield str(configuration["bridge"])
        for value in configuration.values():
            yield from bridges(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from bridges(value)


def named_bridges(folders: list[str]) -> list[str]:
    """Return the bridges that files of folders name."""
    found = set()
    for folder in map(Path, folders):
        for path in sorted([*folder.glob("*.conf"), *folder.glob("*.conflist")]):
            try:
                found |= set(bridges(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError):
                continue
    return sorted(found)


def cgroups(environment: str, root: Path = CGROUPS) -> list[Path]:
    """Return the cgroups that pods were in, the innermost first."""
    told = re.search(r"--cgroup-root=/?(\S+)", environment)
    tops = [root, *root.glob("*")] if root.is_dir() else []
    own = [top / (told[1] if told else "kubepods") for top in tops]
    found: list[Path] = []
    for top in own:
        if top.is_dir():
            found += [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    return found


class Removal:
    """What is ended and removed, or would be."""

    def __init__(self, dry: bool) -> None:
        self.done: list[str] = []
        self._dry = dry

    def _do(self, what: str, *commands: tuple[str, ...]) -> None:
        self.done.append(what)
        for command in () if self._dry else commands:
            output(*command)

    def containers(self) -> None:
        """End containers of pods."""
        for name in output(*CTR, "containers", "list", "--quiet").split():
            self._do(
                f"container {name}: ended",
                (*CTR, "tasks", "delete", "--force", name),
                (*CTR, "containers", "delete", name),
            )

    def networks(self, folders: list[str]) -> None:
        """Remove network namespaces, and bridges that nothing else is on."""
        for path in sorted(NETWORK_NAMESPACES.glob("cni-*")):
            self._do(f"network namespace {path.name}: removed", ("ip", "netns", "delete", path.name))
        for name in named_bridges(folders):
            ports = BRIDGES / name / "brif"
            if ports.is_dir() and (self._dry or not any(ports.iterdir())):
                self._do(f"bridge {name}: removed", ("ip", "link", "delete", name))

    def filters(self) -> None:
        """Remove rules of Kubernetes and CNI."""
        for table in TABLES:
            if output("nft", "list", "table", *table.split()):
                self._do(f"table {table}: removed", ("nft", "delete", "table", *table.split()))
        for family in ("iptables", "ip6tables"):
            saved = output(f"{family}-save")
            rest = without_pods(saved)
            if rest != saved:
                self._do(f"rules of pods in {family}: removed")
                if not self._dry:
                    output(f"{family}-restore", text=rest)

    def rest(self, kubelet_directory: str) -> None:
        """Unmount what pods had, and remove their cgroups."""
        for place in mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), kubelet_directory):
            self._do(f"{place}: unmounted", ("umount", "--lazy", place))
        if output("systemctl", "list-units", "--plain", "--no-legend", SLICE).strip():
            self._do(f"{SLICE}: ended", ("systemctl", "stop", SLICE))
        environment = ENVIRONMENT.read_text(encoding="ascii") if ENVIRONMENT.is_file() else ""
        if found := cgroups(environment):
            self._do(f"{len(found)} cgroups: removed")
            for path in () if self._dry else found:
                output("rmdir", str(path))
        if environment:
            self._do(f"{ENVIRONMENT}: removed", ("rm", str(ENVIRONMENT)))


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "networks": {"type": "list", "elements": "path", "default": []},
            "kubelet_directory": {"type": "path", "default": "/var/lib/kubelet"},
        },
        supports_check_mode=True,
    )
    work = Removal(module.check_mode)
    work.containers()
    work.networks(module.params["networks"])
    work.filters()
    work.rest(module.params["kubelet_directory"])
    module.exit_json(changed=bool(work.done), done=work.done)


if __name__ == "__main__":
    main()
