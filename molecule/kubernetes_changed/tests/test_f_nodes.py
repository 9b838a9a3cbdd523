"""Pods of different nodes reach each other, with addresses of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
from tests.support.cluster import Cluster
from tests.support.control_planes import ControlPlanes
from tests.support.segment_host import wait_until

NODES = ("node1", "node2")
PORT = 18472
# Answers everybody with the address that it sees.
SERVE = """
import socketserver
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.client_address[0].encode())
socketserver.ThreadingTCPServer(("", 8080), Answer).serve_forever()
"""
ASK = """
import socket, sys
with socket.create_connection(("{address}", {port}), timeout=10) as server:
    print(server.recv(100).decode(), socket.gethostbyname(socket.gethostname()))
"""


def _runs(cluster: Cluster, name: str) -> bool:
    return cluster.phase(name) == "Running"


def _address(cluster: Cluster, name: str) -> str:
    return str(cluster.get("pod", name)["status"].get("podIP", ""))


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Run a pod that answers on each node; the addresses by their nodes."""
    names = {node: f"serves-{node}" for node in NODES}
    for node, name in names.items():
        pod = cluster.pod(name, SERVE, nodeName=node)
        pod["metadata"]["labels"] = {"serves": node}
        cluster.made(pod)
    try:
        for name in names.values():
            wait_until(partial(_runs, cluster, name), 60, f"{name} runs")
        yield {node: _address(cluster, name) for node, name in names.items()}
    finally:
        cluster.run("delete", "pods", *names.values(), "--now", "--ignore-not-found")


def test_nodes_have_parts_of_their_own(cluster: Cluster, served: dict[str, str]) -> None:
    parts = {node: cluster.get("node", node)["spec"]["podCIDR"] for node in NODES}
    assert parts == {"node1": "10.111.0.0/24", "node2": "10.111.1.0/24"}
    for node in NODES:
        assert served[node].rpartition(".")[0] == parts[node].rpartition(".")[0]


@pytest.mark.parametrize(("here", "there"), [NODES, NODES[::-1]])
def test_a_pod_reaches_one_of_another_node(cluster: Cluster, served: dict[str, str], here: str, there: str) -> None:
    said = cluster.answer("asks", ASK.format(address=served[there], port=8080), nodeName=here)
    seen, own = said.split()
    # nobody on the way has taken its place
    assert seen == own


def test_a_service_leads_to_a_pod_of_another_node(cluster: Cluster, served: dict[str, str]) -> None:
    assert served
    spec = {"selector": {"serves": "node2"}, "ports": [{"port": 80, "targetPort": 8080}]}
    cluster.made({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere"}, "spec": spec})
    try:
        address = cluster.get("service", "elsewhere")["spec"]["clusterIP"]
        wait_until(
            lambda: any(one["endpoints"] for one in _slices(cluster, "elsewhere")), 30, "the service has its pod"
        )
        seen, own = cluster.answer("asks", ASK.format(address=address, port=80), nodeName="node1").split()
        assert seen == own
    finally:
        cluster.run("delete", "service", "elsewhere")


def _slices(cluster: Cluster, service: str) -> list[dict[str, list[object]]]:
    said = cluster.run("get", "endpointslices", f"--selector=kubernetes.io/service-name={service}", "--output", "json")
    return [{"endpoints": one["endpoints"] or []} for one in json.loads(said)["items"]]


def test_packets_go_in_vxlan_and_by_routes_again(
    planes: ControlPlanes, cluster: Cluster, served: dict[str, str]
) -> None:
    _, counts = planes.play("-e", "flannel_backend=vxlan")
    assert all(counts[node]["changed"] for node in NODES)
    wait_until(lambda: "flannel.1" in _way(cluster, served["node2"]), 30, "the way is in VXLAN")
    seen, own = cluster.answer("asks", ASK.format(address=served["node2"], port=8080), nodeName="node1").split()
    assert seen == own
    said = planes.clusters["node2"].host.run("ip", "-details", "link", "show", "flannel.1")
    assert f"dstport {PORT}" in said

    planes.play()
    wait_until(lambda: "flannel.1" not in _way(cluster, served["node2"]), 30, "the way is a route")
    seen, own = cluster.answer("asks", ASK.format(address=served["node2"], port=8080), nodeName="node1").split()
    assert seen == own
    for node in NODES:
        planes.clusters[node].host.fails("ip", "link", "show", "flannel.1")


def test_parts_that_overlap_are_refused(planes: ControlPlanes) -> None:
    said, counts = planes.refused("-e", json.dumps({"cni_plugins_ranges": {"workloads": {"subnet": "10.111.0.0/24"}}}))
    assert "node1 has 10.111.0.0/24, and node2 has 10.111.0.0/24: no address can be on two nodes" in said
    # nothing of it is on a host
    assert {name: of["changed"] for name, of in counts.items()} == dict.fromkeys(planes.names, 0)


def _way(cluster: Cluster, address: str) -> str:
    return cluster.host.run("ip", "route", "get", address)


def test_the_way_stays_while_flannel_is_away(cluster: Cluster, served: dict[str, str]) -> None:
    cluster.host.run("systemctl", "stop", "flannel.service")
    try:
        seen, own = cluster.answer("asks", ASK.format(address=served["node2"], port=8080), nodeName="node1").split()
        assert seen == own
    finally:
        cluster.host.run("systemctl", "start", "flannel.service")
