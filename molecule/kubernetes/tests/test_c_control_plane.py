"""What the control plane refuses, keeps secret, writes down, and survives."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from tests.support.cluster import RESTRICTED, Cluster
from tests.support.segment_host import playbook, setting, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
NAME = "node1"
WAITS = "import signal; signal.pause()"
CANARY = "canary-6f1c2a9d"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def test_a_pod_that_is_not_restricted_is_refused_and_written_down(cluster: Cluster, namespace: str) -> None:
    container = {"securityContext": {**RESTRICTED, "allowPrivilegeEscalation": True}}
    done = cluster.apply(cluster.pod("mighty", WAITS, namespace=namespace, container=container))
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr
    refused = cluster.audited(objectRef__resource="pods", objectRef__namespace=namespace, responseStatus__code=403)
    assert "violates PodSecurity" in refused[-1]["responseStatus"]["message"]


def test_without_a_label_what_is_not_baseline_is_refused(cluster: Cluster) -> None:
    done = cluster.apply(cluster.pod("mighty", WAITS, hostNetwork=True))
    assert 'violates PodSecurity "baseline' in done.stderr


def test_another_tenant_gets_a_403_that_is_written_down(cluster: Cluster, namespace: str) -> None:
    user = "system:serviceaccount:elsewhere:someone"
    said = cluster.fails("get", "secrets", "--namespace", namespace, "--as", user)
    assert "Forbidden" in said
    refused = cluster.audited(impersonatedUser__username=user, objectRef__namespace=namespace)
    assert [entry["responseStatus"]["code"] for entry in refused] == [403]


def test_a_quota_is_kept_and_written_down(cluster: Cluster, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": namespace},
        "spec": {"hard": {"pods": "1"}},
    }
    cluster.made(quota)
    wait_until(
        lambda: cluster.get("resourcequota", "few", "--namespace", namespace)["status"].get("used"), 30, "it is counted"
    )
    cluster.made(cluster.pod("first", WAITS, namespace=namespace))
    done = cluster.apply(cluster.pod("second", WAITS, namespace=namespace))
    assert "exceeded quota: few" in done.stderr
    refused = cluster.audited(objectRef__name="second", objectRef__namespace=namespace, responseStatus__code=403)
    assert "exceeded quota: few" in refused[-1]["responseStatus"]["message"]


def test_a_node_may_touch_only_itself(cluster: Cluster) -> None:
    node = ["kubectl", "--kubeconfig", "/etc/kubernetes/kubelet.conf"]
    assert "Forbidden" in cluster.host.fails(*node, "get", "secrets", "--all-namespaces")
    assert "is not allowed" in cluster.host.fails(
        *node, "label", "node", NAME, "node-role.kubernetes.io/control-plane="
    )


def test_secrets_are_encrypted_in_the_store(cluster: Cluster, namespace: str) -> None:
    cluster.run("create", "secret", "generic", "kept", "--namespace", namespace, f"--from-literal=word={CANARY}")
    cluster.run("create", "configmap", "told", "--namespace", namespace, f"--from-literal=word={CANARY}")
    pki = "/etc/kubernetes/pki/etcd"
    client = [f"--cacert={pki}/ca.crt", f"--cert={pki}/healthcheck-client.crt", f"--key={pki}/healthcheck-client.key"]
    etcdctl = [
        "etcdctl",
        f"--endpoints=https://127.0.0.1:{setting('kubernetes_control_plane_etcd_port')}",
        *client,
        "get",
    ]
    in_store = {"secrets": f"secrets/{namespace}/kept", "configmaps": f"configmaps/{namespace}/told"}

    def found(kind: str, text: str) -> bool:
        read = shlex.join([*etcdctl, f"/registry/{in_store[kind]}", "--print-value-only"])
        return cluster.host.run("sh", "-c", f"{read} | grep --text --count --fixed-strings {text} || true") != "0"

    assert found("secrets", "k8s:enc:secretbox:v1:key1:")
    assert not found("secrets", CANARY)
    # what is not secret is found, so that the test would see a secret that is not encrypted
    assert found("configmaps", CANARY)
    assert CANARY not in cluster.host.run("cat", "/var/log/kubernetes/audit.log")
    assert cluster.run("get", "secret", "kept", "--namespace", namespace, "--output", "jsonpath={.data.word}")


def test_no_new_key_is_made_for_what_the_store_has(cluster: Cluster) -> None:
    file = "/etc/kubernetes/encryption.yml"
    cluster.host.run("mv", file, "/root")
    try:
        done = playbook(SCENARIO, file="playbooks/kubernetes.yml")
        cluster.host.fails("test", "-e", file)
    finally:
        cluster.host.run("mv", "/root/encryption.yml", file)
    assert done.returncode != 0
    assert f"/var/lib/etcd/member has data of a cluster, and {file} is missing" in done.stdout


def test_pods_live_on_while_the_control_plane_is_killed(cluster: Cluster, namespace: str) -> None:
    cluster.made(cluster.pod("lives", WAITS, namespace=namespace))
    cluster.run("wait", "--for=condition=Ready", "pod/lives", "--namespace", namespace, "--timeout=60s")
    before = cluster.get("pod", "lives", "--namespace", namespace)["status"]["containerStatuses"][0]
    pids = {name: cluster.host.unit(f"{name}.service", "MainPID") for name in PROGRAMS}
    cluster.host.run("kill", "-KILL", *pids.values())
    wait_until(lambda: _serves(cluster), 30, "the control plane is back")
    for name in PROGRAMS:
        assert cluster.host.unit(f"{name}.service", "MainPID") != pids[name]
    after = cluster.get("pod", "lives", "--namespace", namespace)["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    task = before["containerID"].removeprefix("containerd://")
    assert task in cluster.host.run("ctr", "--namespace", "k8s.io", "tasks", "list")
    # and it works: the scheduler and the controllers, too
    assert cluster.answer("new", "print('runs')", namespace=namespace) == "runs"


def _serves(cluster: Cluster) -> bool:
    host = cluster.host.host
    return bool(host.run("kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz").rc == 0)


def test_no_secret_is_readable_by_others(cluster: Cluster) -> None:
    found = cluster.host.run(
        "find", "/etc/kubernetes", "/var/lib/etcd", "/var/log/kubernetes", "-type", "f", "-perm", "/o=r",
        "-not", "-name", "*.crt", "-not", "-name", "*.pub", "-not", "-path", "/etc/kubernetes/addons/*",
    )  # fmt: skip
    assert found == ""


def test_requests_of_people_are_written_down_without_contents(cluster: Cluster, namespace: str) -> None:
    cluster.run("create", "secret", "generic", "noted", "--namespace", namespace, "--from-literal=word=x")
    noted = cluster.audited(objectRef__name="noted", objectRef__namespace=namespace, verb="create")
    assert noted[-1]["level"] == "Metadata"
    assert "requestObject" not in json.dumps(noted)
