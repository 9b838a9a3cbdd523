"""The filters of the roles of a Kubernetes cluster."""

from __future__ import annotations

import pytest
from plugins.filter.kubernetes import kubernetes_address, kubernetes_addresses, kubernetes_network_problems


def test_an_address_by_its_number() -> None:
    assert kubernetes_address("10.96.0.0/16", 10) == "10.96.0.10"
    assert kubernetes_address("fd00::/112", 1) == "fd00::1"


@pytest.mark.parametrize(
    ("subnet", "problems"),
    [
        ("10.96.0.0/16", []),
        ("10.96.0.0/28", []),
        ("10.96.0.0/29", ["subnet: 10.96.0.0/29 has 8 addresses, 16 are needed"]),
        ("10.96.0.1/16", ["subnet: 10.96.0.1/16 has host bits set"]),
        ("everything", ["subnet: 'everything' does not appear to be an IPv4 or IPv6 network"]),
    ],
)
def test_what_is_no_network_is_told(subnet: str, problems: list[str]) -> None:
    assert kubernetes_network_problems(subnet, "subnet", 16) == problems


def test_addresses_of_hosts_are_told_by_their_names() -> None:
    known = {
        "told": {"given": "192.0.2.1", "ansible_facts": {"address": "192.0.2.9"}},
        "asked": {"given": "", "ansible_facts": {"address": "192.0.2.2"}},
        "silent": {"ansible_facts": {}},
    }
    assert kubernetes_addresses(["told", "asked", "silent", "nobody"], known, "given") == {
        "told": "192.0.2.1",
        "asked": "192.0.2.2",
        "silent": "",
        "nobody": "",
    }
