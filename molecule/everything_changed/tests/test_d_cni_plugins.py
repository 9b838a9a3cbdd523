"""The networks of pods, with every option of the role cni_plugins changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.pods import Pods, namespaces
from tests.support.segment_host import SegmentHost, playbook, recap

Options = dict[str, Any]
SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture
def pods(segment: SegmentHost, options: Options) -> Pods:
    directory, state = options["cni_plugins_configuration_directory"], options["cni_plugins_state_directory"]
    return Pods(segment, directory, state)


def test_pods_have_two_networks_and_meet_on_both(segment: SegmentHost, options: Options, pods: Pods) -> None:
    # there is no Kubernetes to ask, so this Multus is one that is not told of any
    conf = json.loads(segment.run("cat", f"{pods.directory}/00-multus.conf"))
    assert conf.pop("kubeconfig") == options["cni_plugins_kubeconfig"]
    assert conf["logLevel"] == options["cni_plugins_multus_settings"]["logLevel"]
    pods.directory = "/run/cni_test"
    segment.run("mkdir", "-p", pods.directory)
    segment.put(f"{pods.directory}/00-multus.conf", json.dumps(conf))
    with namespaces(segment, ["poda", "podb", "podc"]):
        for pod in ("poda", "podb"):
            segment.run(*pods.cni("add", pod))
            segment.run(*pods.cni("check", pod))
        a, b = pods.addresses("poda"), pods.addresses("podb")
        assert a.keys() == b.keys() == {"eth0", "net1"}
        for interface in a:
            assert pods.send("poda", "podb", (a[interface], b[interface])) == a[interface]
        assert "mtu 1400" in segment.run("ip", "-n", "poda", "link", "show", "eth0")
        assert "rate 100Mbit" in segment.run("tc", "qdisc", "show")
        # the range has two addresses
        assert {a["net1"], b["net1"]} == set(options["cni_plugins_ranges"]["data"].values())
        assert "no IP addresses available in range set" in segment.fails(*pods.cni("add", "podc"))
        assert pods.addresses("podc") == {}
        assert len(pods.leases()) == 4
        for pod in ("poda", "podb"):
            segment.run(*pods.cni("del", pod))
        assert pods.leases() == []


def test_without_kubernetes_a_pod_fails_with_the_reason(segment: SegmentHost, options: Options, pods: Pods) -> None:
    with namespaces(segment, ["podk"]):
        said = segment.fails("timeout", "20", *pods.cni("add", "podk"))
        assert options["cni_plugins_kubeconfig"] in said
        assert pods.addresses("podk") == {}
    assert pods.leases() == []


def test_where_there_are_no_virtual_functions_the_interface_is_shared(segment: SegmentHost, options: Options) -> None:
    folder = options["cni_plugins_multus_directory"]
    assert segment.run("ls", folder).split() == ["fast-vf0.conflist", "fast-vf1.conflist", "whole.conflist"]
    pods = Pods(segment, folder, options["cni_plugins_state_directory"])
    with namespaces(segment, ["poda", "podb"]):
        for pod, network in (("poda", "fast-vf0"), ("podb", "fast-vf1")):
            segment.run(*pods.cni("add", pod, network))
        a, b = (pods.addresses(pod)["eth0"] for pod in ("poda", "podb"))
        assert (a, b) == ("10.235.0.2", "10.235.0.3")
        assert pods.send("poda", "podb", (a, b)) == a
        for pod, network in (("poda", "fast-vf0"), ("podb", "fast-vf1")):
            segment.run(*pods.cni("del", pod, network))


def test_a_device_leaves_the_host_and_comes_back(segment: SegmentHost, options: Options) -> None:
    pods = Pods(segment, options["cni_plugins_multus_directory"], options["cni_plugins_state_directory"])
    segment.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    try:
        with namespaces(segment, ["podd"]):
            segment.run(*pods.cni("add", "podd", "whole"))
            segment.fails("ip", "link", "show", "spare0")
            segment.run(*pods.cni("del", "podd", "whole"))
        segment.run("ip", "link", "show", "spare0")
    finally:
        segment.run("ip", "link", "delete", "spare1")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "Refuse networks that cannot work together",
            {"cni_plugins_ranges": {"data": {"start": "10.9.0.1"}}},
            r"segment1: range of data: start 10\.9\.0\.1 is outside of 10\.234\.0\.0/24",
        ),
        (
            "Look at SR-IOV",
            {"cni_plugins_sriov": "required"},
            r"SR-IOV is required of eth0, and this host is (unsupported_kernel|no_device)\. Its network interfaces: ",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_changed(task: str, options: Options, message: str) -> None:
    done = playbook(SCENARIO, "--start-at-task", task, "--extra-vars", json.dumps(options))
    assert done.returncode != 0
    assert re.search(message, done.stdout), done.stdout
    assert {host: count["changed"] for host, count in recap(done.stdout).items()} == {"segment1": 0}
