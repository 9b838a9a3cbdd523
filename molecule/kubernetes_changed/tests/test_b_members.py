"""Three control planes are one cluster."""

from __future__ import annotations

import json
import shlex

from tests.support.cluster import Cluster
from tests.support.control_planes import PKI, ControlPlanes

CANARY = "canary-2b7e1516"
SHARED = [f"{PKI}/{name}" for name in ("ca.key", "front-proxy-ca.key", "etcd/ca.key", "sa.key")]


def test_all_members_have_a_vote_and_are_well(planes: ControlPlanes) -> None:
    for name in planes.names:
        assert planes.well(name), name
    members = planes.members("node1")
    assert sorted(members) == planes.names
    port = planes.options["kubernetes_control_plane_etcd_peer_port"]
    for name, member in members.items():
        assert member["peerURLs"] == [f"https://{planes.address(name)}:{port}"]
        assert not member.get("isLearner")


def test_one_controller_manager_and_one_scheduler_work(planes: ControlPlanes, cluster: Cluster) -> None:
    for program in ("kube-controller-manager", "kube-scheduler"):
        holder = cluster.get("lease", program, "--namespace", "kube-system")["spec"]["holderIdentity"]
        assert holder.partition("_")[0] in planes.names


def test_they_share_authorities_and_keys_and_nothing_else(planes: ControlPlanes) -> None:
    def sums(name: str, *files: str) -> str:
        return planes.clusters[name].host.run("sha256sum", *files)

    shared = [*SHARED, "/etc/kubernetes/encryption.yml"]
    assert len({sums(name, *shared) for name in planes.names}) == 1
    for own in (f"{PKI}/apiserver.key", f"{PKI}/etcd/peer.key", "/etc/kubernetes/controller-manager.conf"):
        assert len({sums(name, own) for name in planes.names}) == len(planes.names), own
    for name in planes.names:
        modes = planes.clusters[name].host.run("stat", "--format", "%a %U", *shared)
        assert set(modes.splitlines()) == {"600 root"}


def test_secrets_are_encrypted_in_every_store(planes: ControlPlanes, cluster: Cluster) -> None:
    cluster.run("create", "secret", "generic", "kept", f"--from-literal=word={CANARY}")
    cluster.run("create", "configmap", "told", f"--from-literal=word={CANARY}")
    try:
        for name in planes.names:
            # of its own data, without asking the others
            def stored(key: str, host: str = name) -> str:
                argv = planes.etcdctl(host, "get", f"/registry/{key}", "--print-value-only", "--consistency=s")
                return planes.clusters[host].host.run("sh", "-c", f"{shlex.join(argv)} | tr -dc '[:print:]'")

            assert stored("secrets/default/kept").startswith("k8s:enc:secretbox:v1:key1:"), name
            assert CANARY not in stored("secrets/default/kept")
            assert CANARY in stored("configmaps/default/told")
    finally:
        cluster.run("delete", "secret/kept", "configmap/told")


def test_the_api_has_all_of_them_behind_it(planes: ControlPlanes, cluster: Cluster) -> None:
    found = cluster.get("endpointslice", "kubernetes")["endpoints"]
    addresses = sorted(address for one in found for address in one["addresses"])
    assert addresses == sorted(planes.address(name) for name in planes.names)
    port = planes.options["kubernetes_endpoint_port"]
    for name in planes.names:
        config = planes.clusters[name].run("config", "view", "--output", "json")
        assert json.loads(config)["clusters"][0]["cluster"]["server"] == f"https://127.0.0.1:{port}"


def test_both_nodes_are_ready_with_their_options(cluster: Cluster) -> None:
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
    assert sorted(nodes) == ["node1", "node2"]
    for node in nodes.values():
        conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert node["metadata"]["labels"]["changed.test/rack"] == "r1"
        assert node["status"]["capacity"]["pods"] == "40"
