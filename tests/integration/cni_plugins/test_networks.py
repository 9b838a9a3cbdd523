"""What pods get from the configuration that the role writes: interfaces, addresses, traffic; and all is given back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from .support import FailedError, NetworkHost

PODS = {"name": "pods", "type": "bridge", "every_pod": True, "subnet": "10.99.0.0/24", "default_route": True}
DATA = {"name": "data", "type": "macvlan", "every_pod": True, "interface": "uplink0", "subnet": "10.98.0.0/24"}
MIB = 2**20


def test_two_interfaces_pass_traffic_and_are_given_back(host: NetworkHost) -> None:
    ranges = {"pods": {"subnet": "10.99.0.64/26"}, "data": {"start": "10.98.0.30", "end": "10.98.0.39"}}
    host.configure([{**PODS, "masquerade": True, "mtu": 1400}, DATA], ranges)
    host.check_files()
    before = host.interfaces()
    for pod in ("a", "b"):
        host.namespace(pod)
        host.cni("add", pod)
        host.cni("check", pod)
    a, b = host.addresses("a"), host.addresses("b")
    assert a.keys() == b.keys() == {"eth0", "net1"}
    assert a["net1"] == "10.98.0.30"
    assert b["net1"] == "10.98.0.31"
    assert re.fullmatch(r"10\.99\.0\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])", a["eth0"])
    for interface in ("eth0", "net1"):
        peer, size, _ = host.send("a", "b", MIB, bind=b[interface], from_address=a[interface])
        assert (peer, size) == (a[interface], MIB)
    route = host.execute("ip", "route", "show", "default", pod="a")
    assert route.startswith("default via 10.99.0.65 dev eth0")
    assert "mtu 1400" in host.execute("ip", "link", "show", "eth0", pod="a")
    assert host.leases() == {*a.values(), *b.values()}
    for pod in ("a", "b"):
        host.cni("del", pod)
        assert host.interfaces(pod) == {"lo"}
        # a runtime asks again when it does not know whether it has
        host.cni("del", pod)
    assert host.leases() == set()
    assert host.interfaces() == before | {"cni-pods"}
    rules = host.execute("iptables-save")
    assert not [line for line in rules.splitlines() if a["eth0"] in line or b["eth0"] in line]


def test_a_check_finds_what_was_taken_away(host: NetworkHost) -> None:
    host.configure([PODS, DATA])
    host.namespace("a")
    host.cni("add", "a")
    host.cni("check", "a")
    host.execute("ip", "address", "flush", "dev", "net1", pod="a")
    with pytest.raises(FailedError, match="net1"):
        host.cni("check", "a")


def seconds_for(host: NetworkHost, limit: dict[str, Any], **arguments: Any) -> dict[str, float]:
    """Return how long it takes to send 4 MB to a pod and from it."""
    host.configure([{**PODS, "bandwidth": limit}])
    for pod in ("a", "b"):
        host.namespace(pod)
    host.cni("add", "a", **arguments)
    host.configure([PODS])
    host.cni("add", "b")
    address = {pod: host.addresses(pod)["eth0"] for pod in ("a", "b")}
    to_pod = host.send("b", "a", 4_000_000, bind=address["a"])[2]
    from_pod = host.send("a", "b", 4_000_000, bind=address["b"])[2]
    return {"to": to_pod, "from": from_pod}


def test_bandwidth_is_limited(host: NetworkHost) -> None:
    # 4 MB are 32 Mbit; what is let through at once (a tenth of a second's worth) is part of them
    took = seconds_for(host, {"ingress_mbit": 40, "egress_mbit": 20})
    assert 0.6 < took["to"] < 1.6, took
    assert 1.2 < took["from"] < 3.0, took


def test_a_pod_asks_for_a_limit(host: NetworkHost) -> None:
    wanted = {"ingressRate": 20_000_000, "ingressBurst": 2_000_000, "egressRate": 0, "egressBurst": 0}
    took = seconds_for(host, {}, bandwidth=wanted)
    assert took["to"] > 1.2, took
    assert took["from"] < 0.6, took


def test_a_port_of_the_host_leads_to_the_pod(host: NetworkHost) -> None:
    host.configure([PODS])
    host.namespace("a")
    before = host.execute("iptables-save", "-t", "nat")
    mapping = [{"hostPort": 8080, "containerPort": 4000, "protocol": "tcp"}]
    host.cni("add", "a", portMappings=mapping)
    address = host.addresses("a")["eth0"]
    _, size, _ = host.send("", "a", 1000, bind=address, address="10.99.0.1", port=8080)
    assert size == 1000
    host.cni("del", "a", portMappings=mapping)
    assert address not in host.execute("iptables-save", "-t", "nat")
    assert "8080" not in before


def test_a_device_leaves_the_host_and_comes_back(host: NetworkHost) -> None:
    host.execute("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    whole = {"name": "whole", "type": "host-device", "interface": "spare0", "subnet": "10.97.0.0/24"}
    host.configure([PODS, whole])
    host.check_files()
    host.namespace("a")
    host.cni("add", "a", "whole")
    assert "spare0" not in host.interfaces()
    assert host.addresses("a") == {"eth0": "10.97.0.2"}
    host.cni("del", "a", "whole")
    assert "spare0" in host.interfaces()


def test_without_virtual_functions_the_interface_is_shared(host: NetworkHost) -> None:
    fast = {"name": "fast", "type": "sriov", "interface": "uplink0", "vfs": 2, "subnet": "10.97.0.0/24"}
    host.configure([PODS, fast], {"fast": {"start": "10.97.0.10", "end": "10.97.0.13"}})
    host.check_files()
    for pod, network in (("a", "fast-vf0"), ("b", "fast-vf1")):
        host.namespace(pod)
        host.cni("add", pod, network)
    assert (host.addresses("a"), host.addresses("b")) == ({"eth0": "10.97.0.10"}, {"eth0": "10.97.0.11"})
    assert host.send("a", "b", MIB, bind="10.97.0.11")[:2] == ("10.97.0.10", MIB)


# what must fail, and leaves nothing


def refused(host: NetworkHost, message: str, pod: str = "z", left: frozenset[str] = frozenset()) -> None:
    """Expect an ADD to fail with a message and to leave neither interfaces nor addresses."""
    host.namespace(pod)
    ends = {name for name in host.interfaces() if name.startswith("veth")}
    with pytest.raises(FailedError, match=message):
        host.cni("add", pod)
    assert host.interfaces(pod) == {"lo"}
    assert {name for name in host.interfaces() if name.startswith("veth")} == ends
    assert host.leases() == left


def edited(host: NetworkHost, change: Any) -> None:
    """Change the configuration by hand."""
    conf = json.loads(host.multus.read_text(encoding="utf-8"))
    change(conf)
    host.multus.write_text(json.dumps(conf), encoding="utf-8")


def test_a_delegate_that_is_missing(host: NetworkHost) -> None:
    host.configure([PODS, DATA])
    edited(host, lambda conf: conf["delegates"][1]["plugins"][0].update(type="no-such"))
    with pytest.raises(FailedError, match=r"conf: network multus: network data: there is no plugin no-such in "):
        host.check_files()
    refused(host, 'failed to find plugin "no-such"')


def test_no_delegates_at_all(host: NetworkHost) -> None:
    host.configure([PODS])
    edited(host, lambda conf: conf.pop("delegates"))
    with pytest.raises(FailedError, match="multus has no delegates"):
        host.check_files()
    refused(host, "delegate")


def test_a_plugin_that_is_missing(host: NetworkHost, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(host.plugins, fewer, symlinks=True)
    (fewer / "macvlan").unlink()
    host.plugins = fewer
    host.configure([PODS, DATA])
    with pytest.raises(FailedError, match=f"network data: there is no plugin macvlan in {fewer}"):
        host.check_files()
    refused(host, 'failed to find plugin "macvlan"')


def test_an_interface_that_is_missing(host: NetworkHost) -> None:
    host.configure([PODS, {**DATA, "interface": "uplink9"}])
    refused(host, r'error adding container to network "data": plugin type="macvlan" failed \(add\): Link not found')


def test_a_malformed_file(host: NetworkHost) -> None:
    host.configure([PODS])
    text = host.multus.read_text(encoding="utf-8")
    host.multus.write_text(text.replace('"type": "multus",', '"type": "multus"'), encoding="utf-8")
    with pytest.raises(FailedError, match=r"00-multus.conf: line 5: invalid character"):
        host.check_files()
    refused(host, "invalid character")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cniVersion": ""}, "cniVersion is missing"),
        ({"cniVersion": "9.9.9"}, r"speaks 0\.1\.0, .*, not 9\.9\.9"),
        ({"name": "a b"}, 'name "a b": '),
        ({"type": ""}, "a plugin without type"),
        ({"plugins": []}, "has no plugins"),
        ({"ipam": {"type": "nothing"}}, "there is no plugin nothing in "),
    ],
)
def test_what_the_check_refuses(host: NetworkHost, change: dict[str, Any], message: str) -> None:
    host.configure([PODS])
    edited(host, lambda conf: conf.update(change))
    with pytest.raises(FailedError, match=message):
        host.check_files()


def test_a_range_that_is_exhausted(host: NetworkHost) -> None:
    host.configure([PODS, DATA], {"data": {"start": "10.98.0.30", "end": "10.98.0.31"}})
    for pod in ("a", "b"):
        host.namespace(pod)
        host.cni("add", pod)
    taken = frozenset(host.leases())
    assert len(taken) == 4
    refused(host, "no IP addresses available in range set: 10.98.0.30-10.98.0.31", left=taken)
    host.cni("del", "a")
    host.namespace("c")
    host.cni("add", "c")
    assert host.addresses("c")["net1"] == "10.98.0.30"


def test_kubernetes_that_cannot_be_reached(host: NetworkHost) -> None:
    host.configure([PODS], kubeconfig=str(host.folder / "no_such.kubeconfig"))
    host.check_files()
    refused(host, r"no_such\.kubeconfig")
