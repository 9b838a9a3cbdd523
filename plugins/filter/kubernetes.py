"""Addresses that the roles of a Kubernetes cluster derive from its networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any


def kubernetes_network_problems(subnet: str, option: str, at_least: int) -> list[str]:
    """Return what keeps ``subnet`` from being a network with that many addresses: one line, or none."""
    try:
        network = ipaddress.ip_network(subnet)
    except ValueError as error:
        return [f"{option}: {error}"]
    if network.num_addresses < at_least:
        return [f"{option}: {subnet} has {network.num_addresses} addresses, {at_least} are needed"]
    return []


def kubernetes_address(subnet: str, number: int) -> str:
    """Return an address of a network by its number; 0 is the network's own."""
    return str(ipaddress.ip_network(subnet)[number])


def kubernetes_addresses(names: list[str], hostvars: Mapping[str, Any], option: str) -> dict[str, str]:
    """Return the addresses of hosts by their names: what ``option`` says, else the fact; empty where none is known."""
    found = {}
    for name in names:
        known = hostvars.get(name, {})
        found[name] = str(known.get(option) or (known.get("ansible_facts") or {}).get("address") or "")
    return found


class FilterModule:
    """Filters of the roles kubernetes_*."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "kubernetes_address": kubernetes_address,
            "kubernetes_addresses": kubernetes_addresses,
            "kubernetes_network_problems": kubernetes_network_problems,
        }
