"""The state of a cluster of several hosts is told, a node goes alone and comes back, and all can be taken off: last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster
from tests.support.control_planes import ControlPlanes
from tests.support.segment_host import wait_until

SHARED = ("/etc/kubernetes/encryption.yml", "/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/sa.key")
STATUS, DESTROY = "playbooks/status.yml", "playbooks/destroy.yml"
WAITS = "import signal; signal.pause()"


def _pieces(status: dict[str, Any], name: str) -> dict[tuple[str, str], str]:
    return {(piece["role"], piece["name"]): piece["state"] for piece in status["hosts"][name]["pieces"]}


def _changed(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: of["changed"] for name, of in counts.items()}


def _ways(cluster: Cluster) -> list[str]:
    """Return the routes of a host to pods of others, and what flannel has in its packet filter."""
    routes = json.loads(cluster.host.run("ip", "-json", "route", "show", "root", "10.111.0.0/16"))
    tables = cluster.host.run("nft", "list", "tables").splitlines()
    return [one["dst"] for one in routes if "gateway" in one] + [one for one in tables if "flannel" in one]


def test_the_state_of_every_host_is_told(planes: ControlPlanes, tmp_path: Path) -> None:
    planes.wait_until_well(120)
    file = tmp_path / "status.json"
    planes.play("-e", f"status_file={file}", file=STATUS)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(found["hosts"]) == planes.names
    for name in planes.names:
        pieces = _pieces(found, name)
        assert pieces["kubernetes", "API server"] == "as asked"
        assert pieces["kubernetes_endpoint", "way to the API servers"] == "as asked"
        # the third is no node
        assert (("flannel", "ways between nodes") in pieces) == (name != "node3")


def test_a_node_goes_alone_and_comes_back(planes: ControlPlanes, cluster: Cluster) -> None:
    assert len(_ways(planes.clusters["node2"])) == 2 + 1
    # node2 is a control plane, too: what destroy.yml takes off it with the node, the next run brings back
    planes.play("-e", "destroy_confirm=node2", "--limit", "node2", file=DESTROY)
    left = planes.clusters["node2"].host
    assert left.run("ls", "/etc/kubernetes").split() == ["encryption.yml", "pki"]
    routes = json.loads(left.run("ip", "-json", "route", "show", "root", "10.111.0.0/16") or "[]")
    assert routes == []
    # what never was there with one node is no way of the others either
    wait_until(lambda: "10.111.1.0/24" not in _ways(planes.clusters["node1"]), 60, "node1 knows of no way to it")
    assert [node["metadata"]["name"] for node in cluster.get("nodes")["items"]] == ["node1"]

    # It is the member that it was, even where nothing but its store was kept: the others have the authorities.
    member = planes.members("node1")["node2"]["ID"]
    left.run("rm", "-r", "/etc/kubernetes")
    planes.play()
    planes.wait_until_well(120)
    assert planes.members("node1")["node2"]["ID"] == member
    for file in SHARED:
        assert left.run("sha256sum", file) == planes.clusters["node1"].host.run("sha256sum", file)
    wait_until(lambda: "10.111.1.0/24" in _ways(planes.clusters["node1"]), 60, "node1 knows the way to it again")
    _, counts = planes.play()
    assert _changed(counts) == dict.fromkeys(planes.names, 0)


def test_all_of_it_is_taken_off_and_data_are_taken_up_again(planes: ControlPlanes, cluster: Cluster) -> None:
    cluster.made({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stored"}, "data": {"is": "here"}})
    for node in ("node1", "node2"):
        cluster.made(cluster.pod(f"lives-{node}", WAITS, nodeName=node))
        cluster.run("wait", "--for=condition=Ready", f"pod/lives-{node}", "--timeout=60s")
    planes.play("-e", "destroy_confirm='3 hosts'", file=DESTROY)
    for name in planes.names:
        host = planes.clusters[name].host
        left = {"pause", "kubelet", "kube-proxy", "kube-apiserver", "containerd", "etcd", "flannel", "haproxy"}
        assert left & set(host.run("ps", "-A", "-o", "comm=").split()) == set(), name
        links = host.run("ip", "-brief", "link", "show").splitlines()
        assert {line.split()[0].partition("@")[0] for line in links} <= {"lo", "eth0"}, name
        assert json.loads(host.run("ip", "-json", "route", "show", "root", "10.111.0.0/16") or "[]") == []
        host.fails("test", "-e", "/etc/flannel")
        host.fails("test", "-e", "/etc/haproxy")
        host.run("apt-get", "-qq", "install", "--no-install-recommends", "nftables")
        rules = host.run("nft", "list", "ruleset")
        assert [word for word in ("KUBE-", "CNI-", "kube-proxy", "flannel") if word in rules] == [], name

    _, counts = planes.play("-e", "destroy_confirm='3 hosts'", file=DESTROY)
    assert _changed(counts) == dict.fromkeys(planes.names, 0)

    # Members that have their data wait for each other, as no single one of them can say what the cluster has.
    planes.play()
    planes.wait_until_well(120)
    assert cluster.get("configmap", "stored")["data"] == {"is": "here"}
