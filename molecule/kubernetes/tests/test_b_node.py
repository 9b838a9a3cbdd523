"""What pods of a node have, and what they are refused."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cluster import Cluster
from tests.support.segment_host import setting, wait_until

NAME = "node1"
INTERFACES = """
import socket
print(*sorted(name for _, name in socket.if_nameindex()))
"""
CONFINED = """
import pathlib
status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(status["Seccomp"], status["CapEff"], status["NoNewPrivs"])
"""
WAITS = "import signal; signal.pause()"


def test_the_node_is_ready(cluster: Cluster) -> None:
    node = cluster.get("node", NAME)
    conditions = {one["type"]: one["status"] for one in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    # joined with a token that is gone
    cluster.host.fails("test", "-e", "/etc/kubernetes/bootstrap-kubelet.conf")
    certificate = cluster.host.run(
        "openssl", "x509", "-noout", "-subject", "-in", "/var/lib/kubelet/pki/kubelet-client-current.pem"
    )
    assert f"system:node:{NAME}" in certificate


def test_pods_are_below_the_host(cluster: Cluster) -> None:
    """Limits of the host hold for pods, and the cgroups of the machine are left alone."""
    pods = cluster.host.run("sh", "-c", "cat /run/kubelet.env").partition("--cgroup-root=")[2]
    for line in cluster.host.run("cat", "/proc/1/cgroup").splitlines():
        if "name=systemd" in line or line.startswith("0::"):
            own = line.split(":", 2)[2].removesuffix("/init.scope")
            assert pods == f"{own}/kubelet"
    assert own


def test_a_pod_has_the_networks_it_asks_for(cluster: Cluster, namespace: str) -> None:
    network = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {},
    }
    cluster.made(network)
    alone = cluster.answer("alone", INTERFACES, namespace=namespace)
    assert alone == "eth0 lo"
    annotations = {"k8s.v1.cni.cncf.io/networks": "data"}
    cluster.made(cluster.pod("two", INTERFACES, namespace=namespace, annotations=annotations))
    wait_until(lambda: cluster.phase("two", namespace) == "Succeeded", 60, "the pod ends")
    assert cluster.run("logs", "two", "--namespace", namespace) == "eth0 lo net1"
    told = cluster.get("pod", "two", "--namespace", namespace)["metadata"]["annotations"]
    networks = json.loads(told["k8s.v1.cni.cncf.io/network-status"])
    assert [one["interface"] for one in networks] == ["eth0", "net1"]
    assert networks[1]["ips"][0].startswith("10.98.0.")


def test_a_network_that_is_not_there_keeps_the_pod_waiting(cluster: Cluster, namespace: str) -> None:
    annotations = {"k8s.v1.cni.cncf.io/networks": "nowhere"}
    cluster.made(cluster.pod("lost", INTERFACES, namespace=namespace, annotations=annotations))

    def told() -> bool:
        events = cluster.get("events", "--namespace", namespace)["items"]
        return any("nowhere" in event["message"] and "cannot find" in event["message"] for event in events)

    wait_until(told, 60, "an event names the network")
    assert cluster.phase("lost", namespace) == "Pending"


def test_names_and_services_work(cluster: Cluster, namespace: str) -> None:
    domain = setting("kubernetes_control_plane_cluster_domain")
    script = f"""
import socket, ssl
found = socket.gethostbyname("kubernetes.default.svc.{domain}")
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
with context.wrap_socket(socket.create_connection((found, 443), 5), server_hostname="kubernetes.default") as api:
    api.sendall(b"GET /api HTTP/1.1\\r\\nHost: kubernetes.default\\r\\nConnection: close\\r\\n\\r\\n")
    print(found, api.recv(1000).split(b"\\r\\n")[0].decode())
"""
    # nobody is anonymous
    address = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    assert cluster.answer("asks", script, namespace=namespace) == f"{address} HTTP/1.1 401 Unauthorized"


def test_a_service_leads_to_a_pod_of_the_same_node(cluster: Cluster, namespace: str) -> None:
    server = """
import socket
with socket.create_server(("", 8000)) as waiting:
    while True:
        with waiting.accept()[0] as one:
            one.sendall(b"served")
"""
    pod = cluster.pod("serves", server, namespace=namespace)
    pod["metadata"]["labels"] = {"app": "serves"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "serves", "namespace": namespace},
        "spec": {"selector": {"app": "serves"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    cluster.made(pod, service)
    cluster.run("wait", "--for=condition=Ready", "pod/serves", "--namespace", namespace, "--timeout=60s")
    client = """
import socket, time
for attempt in range(50):
    try:
        with socket.create_connection(("serves", 80), 5) as one:
            print(one.recv(100).decode())
        break
    except OSError:
        time.sleep(0.2)
"""
    assert cluster.answer("asks", client, namespace=namespace) == "served"


def test_pods_are_confined(cluster: Cluster) -> None:
    context = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    # the namespace `default` asks for no profile: the kubelet gives one
    said = cluster.answer("confined", CONFINED, container={"securityContext": context})
    assert said.split() == ["2", "0000000000000000", "1"]


def test_a_pod_has_a_limit_of_processes(cluster: Cluster, namespace: str) -> None:
    cluster.made(cluster.pod("limited", WAITS, namespace=namespace))
    cluster.run("wait", "--for=condition=Ready", "pod/limited", "--namespace", namespace, "--timeout=60s")
    uid = cluster.get("pod", "limited", "--namespace", namespace)["metadata"]["uid"]
    limit = f"find /sys/fs/cgroup -path '*pod{uid}/pids.max' -exec cat {{}} +"
    assert cluster.host.run("sh", "-c", limit) == "4096"


def test_a_volume_lies_on_the_nodes_disk(cluster: Cluster, namespace: str) -> None:
    cluster.host.run("install", "--directory", "--owner=1000", "/var/lib/scratch")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "scratch", "namespace": namespace},
        "spec": {
            "storageClassName": "local",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    cluster.made(claim)
    more: dict[str, Any] = {
        "volumes": [{"name": "scratch", "persistentVolumeClaim": {"claimName": "scratch"}}],
        "container": {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
    }
    script = "import pathlib; pathlib.Path('/scratch/kept').write_text('kept'); print('written')"
    assert cluster.answer("writes", script, namespace=namespace, **more) == "written"
    assert cluster.host.run("cat", "/var/lib/scratch/kept") == "kept"


def test_the_machine_keeps_its_settings(cluster: Cluster) -> None:
    """A kubelet sees the values that it would else give the machine's kernel."""
    for name, value in (("kernel/panic", "10"), ("kernel/panic_on_oops", "1"), ("vm/overcommit_memory", "1")):
        assert cluster.host.run("cat", f"/proc/sys/{name}") == value
        assert cluster.host.run("findmnt", "--noheadings", "--output", "FSTYPE", f"/proc/sys/{name}") == "tmpfs"
