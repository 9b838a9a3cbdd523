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
  carried:
    description: A network that flannel has carried between nodes. Routes to other nodes go, rules and its interface.
    type: str
    default: ""
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
  description: What was ended or removed, one line each. What is still there some seconds later fails the task.
  returned: always
  type: list
  elements: str
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
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
PATIENCE_S = 20
INTERFACES_S = 10
PAUSE_S = 0.2
TABLES = ("ip kube-proxy", "ip6 kube-proxy", "inet caisson_network_policies")
CARRIED_TABLES = ("ip flannel-ipv4", "ip6 flannel-ipv6")
PATTERN = re.compile(r"(?:^|[\s:])(?:KUBE|CNI)-[A-Za-z0-9-]+")


class Command:
    """A command, and what it reads."""

    def __init__(self, *command: str, text: str | None = None) -> None:
        self._command = command
        self._text = text

    def run(self) -> str:
        """Run it, and return why it failed, nothing where it did not."""
        try:
            subprocess.run(
                self._command, input=self._text, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
            )
        except subprocess.CalledProcessError as error:
            return str(error.stderr or error).strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return ""


def output(*command: str) -> str:
    """Return what a command says, nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
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


Step = tuple[str, tuple[Command, ...]]


def containers() -> Iterator[Step]:
    """Yield how containers of pods are ended."""
    for name in output(*CTR, "containers", "list", "--quiet").split():
        yield (
            f"container {name}: ended",
            (Command(*CTR, "tasks", "delete", "--force", name), Command(*CTR, "containers", "delete", name)),
        )


def networks(folders: list[str], used_too: bool) -> Iterator[Step]:
    """Yield how network namespaces are removed, and bridges that nothing is on, or with ``used_too`` any of them."""
    for path in sorted(NETWORK_NAMESPACES.glob("cni-*")):
        yield f"network namespace {path.name}: removed", (Command("ip", "netns", "delete", path.name),)
    # The kernel takes the interfaces of a namespace away some time after its name, which another run may have removed.
    until = time.monotonic() + INTERFACES_S
    for name in named_bridges(folders):
        ports = BRIDGES / name / "brif"
        while not used_too and ports.is_dir() and any(ports.iterdir()) and time.monotonic() < until:
            time.sleep(PAUSE_S)
        if ports.is_dir() and (used_too or not any(ports.iterdir())):
            yield f"bridge {name}: removed", (Command("ip", "link", "delete", name),)


def carried(network: str) -> Iterator[Step]:
    """Yield how ways to other nodes are removed. A node's own pods are behind no gateway."""
    for path in sorted(BRIDGES.glob("flannel.*")):
        yield f"interface {path.name}: removed", (Command("ip", "link", "delete", path.name),)
    for route in json.loads(output("ip", "-json", "route", "show", "root", network) or "[]"):
        if gateway := route.get("gateway"):
            way = (route["dst"], "via", gateway)
            yield f"route to {' '.join(way)}: removed", (Command("ip", "route", "delete", *way),)
    yield from tables(CARRIED_TABLES)


def tables(names: Iterable[str]) -> Iterator[Step]:
    """Yield how tables of the packet filter are removed."""
    for name in names:
        if output("nft", "list", "table", *name.split()):
            yield f"table {name}: removed", (Command("nft", "delete", "table", *name.split()),)


def filters() -> Iterator[Step]:
    """Yield how rules of Kubernetes and CNI are removed."""
    yield from tables(TABLES)
    for family in ("iptables", "ip6tables"):
        saved = output(f"{family}-save")
        rest = without_pods(saved)
        if rest != saved:
            yield f"rules of pods in {family}: removed", (Command(f"{family}-restore", text=rest),)


def rest(kubelet_directory: str) -> Iterator[Step]:
    """Yield how what pods have mounted is unmounted, and their cgroups are removed."""
    for place in mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), kubelet_directory):
        yield f"{place}: unmounted", (Command("umount", "--lazy", place),)
    if output("systemctl", "list-units", "--plain", "--no-legend", SLICE).strip():
        yield f"{SLICE}: ended", (Command("systemctl", "stop", SLICE),)
    environment = ENVIRONMENT.read_text(encoding="ascii") if ENVIRONMENT.is_file() else ""
    if found := cgroups(environment):
        yield "cgroups of pods: removed", tuple(Command("rmdir", str(path)) for path in found)
    if environment:
        yield f"{ENVIRONMENT}: removed", (Command("rm", str(ENVIRONMENT)),)


def steps(folders: list[str], kubelet_directory: str, network: str, used_too: bool = False) -> Iterator[Step]:
    """Yield what there is to remove and by which commands. Each step is looked for after those before it are done."""
    yield from containers()
    yield from networks(folders, used_too)
    yield from filters()
    if network:
        yield from carried(network)
    yield from rest(kubelet_directory)


def remove(found: Callable[[], Iterator[Step]], patience_s: float = PATIENCE_S) -> tuple[list[str], list[str]]:
    """Do all steps, again for ``patience_s`` where some are left; return what was done, and what is left and why.

    A process that has been told to end takes a moment, and its cgroup and its mounts stay until then.
    """
    done: list[str] = []
    until = time.monotonic() + patience_s
    while True:
        said = {what: [answer for command in commands if (answer := command.run())] for what, commands in found()}
        done += [what for what in said if what not in done]
        left = [what for what, _ in found()]
        if not left or time.monotonic() > until:
            reasons = {what: f" ({', '.join(said[what])})" if said.get(what) else "" for what in left}
            return [what for what in done if what not in left], [
                f"{what.rpartition(': ')[0]}{reason}" for what, reason in reasons.items()
            ]
        time.sleep(PAUSE_S)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "networks": {"type": "list", "elements": "path", "default": []},
            "kubelet_directory": {"type": "path", "default": "/var/lib/kubelet"},
            "carried": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    asked = (module.params["networks"], module.params["kubelet_directory"], module.params["carried"])
    if module.check_mode:
        # What is on a bridge now would be gone by then.
        done = [what for what, _ in steps(*asked, used_too=True)]
        module.exit_json(changed=bool(done), done=done)
    done, left = remove(lambda: steps(*asked))
    if left:
        module.fail_json(msg=f"Still there: {'; '.join(left)}", changed=bool(done), done=done)
    module.exit_json(changed=bool(done), done=done)


if __name__ == "__main__":
    main()
