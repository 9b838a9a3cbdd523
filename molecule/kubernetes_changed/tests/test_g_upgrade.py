"""All hosts of a cluster get another version, one after the other; the cluster serves meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.cluster import Cluster
from tests.support.control_planes import ControlPlanes
from tests.support.segment_host import wait_until

UPGRADE = "playbooks/kubernetes_upgrade.yml"
NODES = ("node1", "node2")
GAP_LIMIT_S = 30.0
"""How long writes may fail: a forwarder looks for API servers each second, and one that ends stays for its requests."""
LABELS = {"app": "web"}
WAITS = "import signal; signal.pause()"


def _versions(planes: ControlPlanes) -> dict[str, set[str]]:
    """Return the versions that each API server, and each node's kubelet, tells."""
    found = {name: {planes.server_version(name)} for name in planes.names}
    for node in NODES:
        found[node].add(planes.clusters[node].get("node", node)["status"]["nodeInfo"]["kubeletVersion"])
    return found


@pytest.fixture
def web(cluster: Cluster) -> Iterator[None]:
    """A Deployment of a pod on each node, one of which may go at a time."""
    spec: dict[str, Any] = {**cluster.pod("web", WAITS)["spec"], "restartPolicy": "Always"}
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": LABELS},
        }
    ]
    template = {"metadata": {"labels": LABELS}, "spec": spec}
    selector = {"matchLabels": LABELS}
    cluster.made(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": selector, "template": template},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 1, "selector": selector},
        },
    )
    cluster.run("wait", "--for=condition=Available", "deployment/web", "--timeout=90s")
    yield
    cluster.run("delete", "deployment/web", "pdb/web")


@contextmanager
def _writing(cluster: Cluster) -> Iterator[list[float]]:
    """Write through the forwarder all the while; what it yields gets the longest time without a write, in s."""
    ended = threading.Event()
    longest = [0.0]

    def write() -> None:
        last = time.monotonic()
        kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 5s"
        while not ended.is_set():
            value = f"caisson.test/at={time.monotonic_ns()}"
            done = cluster.host.host.run(f"{kubectl} annotate --overwrite namespace default {value}")
            now = time.monotonic()
            longest[0] = max(longest[0], now - last)
            if done.rc == 0:
                last = now

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield longest
    finally:
        ended.set()
        writer.join()


@pytest.mark.usefixtures("web")
def test_a_cluster_serves_while_all_of_it_is_upgraded(planes: ControlPlanes, cluster: Cluster) -> None:
    new = cluster.version()
    others = {planes.clusters[name].other_version(new) for name in planes.names}
    assert len(others) == 1
    has = dict.fromkeys(planes.names, others)
    wait_until(lambda: _versions(planes) == has, 120, "all hosts have the other version")
    planes.wait_until_well(120)

    _, counts = planes.play("--check", file=UPGRADE)
    assert all(of["changed"] for of in counts.values()), counts
    assert _versions(planes) == has

    with _writing(cluster) as longest:
        planes.play(file=UPGRADE)
    print(f"\nlongest time without a write: {longest[0]:.1f} s")
    assert _versions(planes) == {name: {new} for name in planes.names}
    assert longest[0] <= GAP_LIMIT_S
    assert [node["metadata"]["name"] for node in cluster.get("nodes")["items"] if "taints" in node["spec"]] == []
    cluster.run("wait", "--for=condition=Available", "deployment/web", "--timeout=90s")

    _, counts = planes.play(file=UPGRADE)
    assert {name: of["changed"] for name, of in counts.items()} == dict.fromkeys(planes.names, 0)


def test_a_node_is_upgraded_alone(planes: ControlPlanes, cluster: Cluster) -> None:
    """With --limit, where control planes have the version."""
    kubelet = cluster.host.unit("kubelet.service", "MainPID")
    other = planes.clusters["node2"].host
    before = other.unit("kubelet.service", "MainPID")
    # as a run leaves it that is killed between the package and the restart
    other.run("touch", "/var/lib/dpkg/info/caisson-kubernetes.list")
    planes.play("--limit", "node2", file=UPGRADE)
    assert other.unit("kubelet.service", "MainPID") != before
    assert cluster.host.unit("kubelet.service", "MainPID") == kubelet
    planes.wait_until_well(120)
