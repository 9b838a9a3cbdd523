"""The nodes' parts of a network that flannel carries between them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any


def flannel_subnets(nodes: list[str], hostvars: Mapping[str, Any], network: str) -> dict[str, str]:
    """Return each node's part of a network, from its ``cni_plugins_ranges``; empty where it has none."""
    found = {}
    for node in nodes:
        ranges = hostvars.get(node, {}).get("cni_plugins_ranges") or {}
        found[node] = str((ranges.get(network) or {}).get("subnet") or "")
    return found


def flannel_problems(subnets: Mapping[str, str], node: str, name: str, whole: str) -> list[str]:
    """Return what packets for a node would not find their way by; ``whole`` is the subnet of the network ``name``."""
    if not whole:
        return [f"flannel_network: cni_plugins_networks has no {name} with a subnet"]
    try:
        network = ipaddress.IPv4Network(whole)
    except ValueError as error:
        return [f"cni_plugins_networks: {name}: flannel carries IPv4: {error}"]
    own = subnets.get(node, "")
    if not own:
        return [f"cni_plugins_ranges: {node} needs a part of {name} ({whole}) as a subnet of its own"]
    try:
        part = ipaddress.IPv4Network(own)
    except ValueError as error:
        return [f"cni_plugins_ranges: {node}: {error}"]
    if not part.subnet_of(network):
        return [f"cni_plugins_ranges: {node}: {own} is no part of {name} ({whole})"]
    return [
        f"cni_plugins_ranges: {node} has {own}, and {other} has {subnet}: no address can be on two nodes"
        for other, subnet in subnets.items()
        if other != node and _overlaps(part, subnet)
    ]


def _overlaps(part: ipaddress.IPv4Network, subnet: str) -> bool:
    try:
        return part.overlaps(ipaddress.IPv4Network(subnet))
    except ValueError:
        # It is told of that node.
        return False


class FilterModule:
    """Filters of the role flannel."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"flannel_problems": flannel_problems, "flannel_subnets": flannel_subnets}
