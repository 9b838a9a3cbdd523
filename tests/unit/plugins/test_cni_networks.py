"""The filters of the role cni_plugins: what they refuse, and the files that they make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plugins.filter.cni_networks import cni_files, cni_functions, cni_hosts, cni_problems, cni_udev_rules

PODS = {"name": "pods", "type": "bridge", "every_pod": True, "subnet": "10.244.0.0/16"}
DATA = {"name": "data", "type": "macvlan", "every_pod": True, "interface": "eth1", "subnet": "10.98.0.0/24"}
FAST = {"name": "fast", "type": "sriov", "interface": "ens1", "vfs": 2, "subnet": "10.97.0.0/24"}
PLACES: dict[str, Any] = {
    "directory": "/etc/cni/net.d",
    "multus_directory": "/etc/cni/multus/net.d",
    "bin_directory": "/usr/lib/cni",
    "state_directory": "/run/cni",
}


def problems(*networks: dict[str, Any], **ranges: dict[str, Any]) -> list[str]:
    """Return what is refused of networks on one host with ranges."""
    return cni_problems({"one": {"networks": list(networks), "ranges": ranges}})


def files(networks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    made = cni_files(networks, options.pop("ranges", {}), options.pop("functions", None), **PLACES, **options)
    return {file["path"].rpartition("/")[2]: json.loads(file["text"]) for file in made}


def test_networks_that_work_together() -> None:
    assert problems(PODS, DATA, FAST) == []
    hosts = {
        name: {"networks": [PODS, DATA], "ranges": {"pods": {"subnet": f"10.244.{index}.0/24"}, "data": part}}
        for index, (name, part) in enumerate({
            "one": {"start": "10.98.0.10", "end": "10.98.0.19"},
            "two": {"start": "10.98.0.20", "end": "10.98.0.29"},
        }.items())
    }  # fmt: skip
    assert cni_problems(hosts) == []


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "no network has every_pod: true"),
        ([PODS, PODS], "network pods is there twice"),
        ([{**PODS, "name": "Pods"}], "a name is lower-case letters"),
        ([{**PODS, "type": "vlan"}], "type vlan is none of bridge, macvlan"),
        ([{**PODS, "interface": "a-name-that-is-too-long"}], "has more than 15 characters"),
        ([{**PODS, "name": "a-long-name-of-it"}], "interface cni-a-long-name-of-it has more than 15 characters"),
        ([{**PODS, "subnet": "10.244.0.1/16"}], "subnet: 10.244.0.1/16 has host bits set"),
        ([{**PODS, "subnet": ""}], "a network of type bridge needs a subnet"),
        ([{**PODS, "vfs": 1}], "only of such"),
        ([PODS, {**DATA, "interface": ""}], "a network of type macvlan needs an interface"),
        ([PODS, {**DATA, "portmap": True}], "portmap: only networks of type bridge have that"),
        ([PODS, {**FAST, "every_pod": True}], "serves one pod at a time"),
        ([PODS, {**FAST, "vfs": 0}], "vfs is the number"),
        ([PODS, FAST, {**FAST, "name": "x", "subnet": ""}], "interface ens1: one network of type sriov"),
        ([PODS, {**DATA, "subnet": "10.244.7.0/24"}], "the ranges of pods of one and of data of one overlap"),
        ([PODS, {**FAST, "subnet": "10.97.0.0/30", "vfs": 2}], "has fewer addresses than virtual functions"),
    ],
)
def test_networks_that_are_refused(networks: list[dict[str, Any]], message: str) -> None:
    found = problems(*networks)
    assert [line for line in found if message in line], found
    assert len(found) == 1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"subnet": "10.245.0.0/24"}, "range of pods: 10.245.0.0/24 is outside of 10.244.0.0/16"),
        ({"subnet": "fd00::/64"}, "is outside of 10.244.0.0/16"),
        ({"start": "10.245.0.1"}, "start 10.245.0.1 is outside of 10.244.0.0/16"),
        ({"subnet": "10.244.1.0/24", "end": "10.244.2.1"}, "end 10.244.2.1 is outside of 10.244.1.0/24"),
        ({"gateway": "10.1.0.1"}, "gateway 10.1.0.1 is outside"),
        ({"start": "10.244.0.9", "end": "10.244.0.8"}, "start 10.244.0.9 lies behind end 10.244.0.8"),
        ({"first": "10.244.0.9"}, "unknown keys first"),
        ({"start": "everywhere"}, "does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_ranges_that_are_refused(part: dict[str, str], message: str) -> None:
    (found,) = problems(PODS, pods=part)
    assert found.startswith("one: range of pods: ")
    assert message in found


def test_a_range_of_a_network_that_is_not_there() -> None:
    assert problems(PODS, other={}) == ["one: a range for other, and there is no such network with a subnet"]


def test_hosts_have_ranges_of_their_own() -> None:
    (found,) = cni_problems({name: {"networks": [PODS], "ranges": {}} for name in ("one", "two")})
    assert "the ranges of pods of one and of pods of two overlap" in found
    assert "cni_plugins_ranges" in found


def test_one_range_inside_of_another_is_found_behind_a_third() -> None:
    parts = [("10.244.0.1", "10.244.0.90"), ("10.244.0.10", "10.244.0.20"), ("10.244.0.80", "10.244.0.99")]
    hosts = {
        f"host{index}": {"networks": [PODS], "ranges": {"pods": {"start": start, "end": end}}}
        for index, (start, end) in enumerate(parts)
    }
    found = cni_problems(hosts)
    assert any("host0" in line and "host1" in line for line in found)
    assert any("host0" in line and "host2" in line for line in found)


def test_ranges_of_hosts_that_are_not_in_the_run_count() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "one": {"cni_plugins_networks": [DATA]},
        "away": {"cni_plugins_ranges": {"pods": {"subnet": "10.244.3.0/24"}}},
        "other": {},
    }
    found = cni_hosts(hostvars, ["one"], {"networks": [PODS], "ranges": {}})
    assert found == {
        "one": {"networks": [DATA], "ranges": {}},
        "away": {"networks": [PODS], "ranges": {"pods": {"subnet": "10.244.3.0/24"}}},
    }


def test_every_pod_has_some_networks_and_asks_for_others() -> None:
    made = files([PODS, DATA, {"name": "whole", "type": "host-device", "interface": "eth2"}])
    assert list(made) == ["whole.conflist", "00-multus.conf"]
    multus = made["00-multus.conf"]
    assert [delegate["name"] for delegate in multus["delegates"]] == ["pods", "data"]
    assert multus["capabilities"] == {"portMappings": True}
    assert (multus["binDir"], multus["confDir"]) == ("/usr/lib/cni", "/etc/cni/multus/net.d")
    assert "kubeconfig" not in multus
    assert made["whole.conflist"]["plugins"] == [{"type": "host-device", "device": "eth2"}]


def test_what_is_carried_from_node_to_node_is_masqueraded_elsewhere() -> None:
    for between, masqueraded in (("", True), ("others", True), ("pods", False)):
        multus = files([{**PODS, "masquerade": True}], between_nodes=between)["00-multus.conf"]
        assert multus["delegates"][0]["plugins"][0]["ipMasq"] is masqueraded


def test_a_bridge_with_all_that_it_may_have() -> None:
    network = {**PODS, "bandwidth": {"ingress_mbit": 100}, "default_route": True, "masquerade": True, "mtu": 9000}
    part = {"subnet": "10.244.3.0/24", "start": "10.244.3.10", "end": "10.244.3.20"}
    options = {"kubeconfig": "/k", "multus_settings": {"logLevel": "debug"}}
    multus = files([network], ranges={"pods": part}, **options)["00-multus.conf"]
    assert (multus["kubeconfig"], multus["logLevel"]) == ("/k", "debug")
    bridge, *others = multus["delegates"][0]["plugins"]
    assert [plugin["type"] for plugin in others] == ["firewall", "portmap", "bandwidth"]
    assert (bridge["bridge"], bridge["isGateway"], bridge["ipMasq"], bridge["mtu"]) == ("cni-pods", True, True, 9000)
    assert bridge["ipam"]["ranges"] == [
        [{"subnet": "10.244.3.0/24", "rangeStart": "10.244.3.10", "rangeEnd": "10.244.3.20"}]
    ]
    assert bridge["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]
    assert (others[2]["ingressRate"], others[2]["ingressBurst"]) == (100_000_000, 10_000_000)
    assert "egressRate" not in others[2]


def test_a_bridge_with_as_little_as_possible() -> None:
    network = {**PODS, "portmap": False, "firewall": False, "gateway": False, "settings": {"vlan": 7}}
    (bridge,) = files([network])["00-multus.conf"]["delegates"][0]["plugins"]
    assert (bridge["vlan"], bridge["isGateway"], bridge["hairpinMode"]) == (7, False, False)


def test_virtual_functions_are_networks_with_an_address_each() -> None:
    ranges = {"fast": {"start": "10.97.0.30", "end": "10.97.0.39"}}
    made = files([PODS, FAST], ranges=ranges, functions={"ens1": ["0000:01:10.0", "0000:01:10.2"]})
    found = {name: made[f"{name}.conflist"]["plugins"][0] for name in ("fast-vf0", "fast-vf1")}
    assert [plugin["type"] for plugin in found.values()] == ["host-device"] * 2
    assert [plugin["pciBusID"] for plugin in found.values()] == ["0000:01:10.0", "0000:01:10.2"]
    assert "device" not in found["fast-vf0"]
    for index, plugin in enumerate(found.values()):
        part = plugin["ipam"]["ranges"][0][0]
        assert part["rangeStart"] == part["rangeEnd"] == f"10.97.0.{30 + index}"


def test_without_virtual_functions_the_interface_is_shared_under_the_same_names() -> None:
    made = files([PODS, {**FAST, "subnet": "fd00::/64"}])
    found = [made[f"fast-vf{index}.conflist"]["plugins"][0] for index in (0, 1)]
    assert [(plugin["type"], plugin["master"]) for plugin in found] == [("macvlan", "ens1")] * 2
    assert found[1]["ipam"]["ranges"][0][0]["rangeStart"] == "fd00::3"


def test_what_is_made_again_at_a_start_of_the_host() -> None:
    assert cni_functions([PODS, FAST]) == {"ens1": 2}
    rules = cni_udev_rules({"ens1": ["0000:01:10.0", "0000:01:10.2"]}, {"ens1": "0000:01:00.0"})
    assert rules.splitlines()[1] == (
        'ACTION=="add", SUBSYSTEM=="net", KERNELS=="0000:01:00.0", ATTR{device/sriov_numvfs}="2"'
    )
