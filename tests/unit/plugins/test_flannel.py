"""The nodes' parts of a network, and what is wrong with them."""

from __future__ import annotations

import pytest
from plugins.filter.flannel import flannel_problems, flannel_subnets

WHOLE = "10.244.0.0/16"


def test_each_node_has_its_part() -> None:
    hosts = {
        "node1": {"cni_plugins_ranges": {"pods": {"subnet": "10.244.1.0/24"}, "fast": {"start": "10.97.0.10"}}},
        "node2": {"cni_plugins_ranges": {"fast": {"start": "10.97.0.20"}}},
        "node3": {},
    }
    found = flannel_subnets(["node1", "node2", "node3", "nobody"], hosts, "pods")
    assert found == {"node1": "10.244.1.0/24", "node2": "", "node3": "", "nobody": ""}


@pytest.mark.parametrize(
    ("subnets", "whole", "problem"),
    [
        ({"node1": "10.244.1.0/24", "node2": "10.244.2.0/24"}, WHOLE, ""),
        ({"node1": "10.244.1.0/24", "node2": "no network"}, WHOLE, ""),
        ({"node1": "10.244.1.0/24"}, "", "flannel_network: cni_plugins_networks has no pods with a subnet"),
        ({"node1": "fd00::/64"}, "fd00::/48", "cni_plugins_networks: pods: flannel carries IPv4: "),
        ({"node1": ""}, WHOLE, "cni_plugins_ranges: node1 needs a part of pods (10.244.0.0/16) as a subnet of its own"),
        ({"node1": "10.244.1.7/24"}, WHOLE, "cni_plugins_ranges: node1: 10.244.1.7/24 has host bits set"),
        ({"node1": "10.9.1.0/24"}, WHOLE, "cni_plugins_ranges: node1: 10.9.1.0/24 is no part of pods (10.244.0.0/16)"),
        (
            {"node1": "10.244.0.0/23", "node2": "10.244.1.0/24"},
            WHOLE,
            "cni_plugins_ranges: node1 has 10.244.0.0/23, and node2 has 10.244.1.0/24: no address can be on two nodes",
        ),
    ],
)
def test_what_is_wrong_is_told(subnets: dict[str, str], whole: str, problem: str) -> None:
    found = flannel_problems(subnets, "node1", "pods", whole)
    assert len(found) == bool(problem)
    assert "".join(found).startswith(problem)
