"""The networks of pods by default: every host has its own part, pods of a host talk, and all of it is given back."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import yaml
from tests.support.pods import Pods, namespaces
from tests.support.segment_host import SegmentHost

NODES = yaml.safe_load((Path(__file__).parents[1] / "inventory/hosts.yml").read_text(encoding="utf-8"))[
    "kubernetes_nodes"
]["hosts"]


def test_pods_of_a_host_talk(segment: SegmentHost) -> None:
    pods = Pods(segment, "/etc/cni/net.d", "/run/cni")
    part = ipaddress.ip_network(NODES[segment.name]["cni_plugins_ranges"]["pods"]["subnet"])
    with namespaces(segment, ["poda", "podb"]):
        for pod in ("poda", "podb"):
            segment.run(*pods.cni("add", pod))
            segment.run(*pods.cni("check", pod))
        a, b = (pods.addresses(pod)["eth0"] for pod in ("poda", "podb"))
        assert ipaddress.ip_address(a) in part
        assert ipaddress.ip_address(b) in part
        assert pods.send("poda", "podb", (a, b)) == a
        assert sorted(pods.leases()) == sorted([a, b])
        for pod in ("poda", "podb"):
            segment.run(*pods.cni("del", pod))
            assert pods.addresses(pod) == {}
        assert pods.leases() == []
