"""Network policies hold: what a tenant gets by default is closed, and what a policy opens is open."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from infra.namespace import ContainerResources, Namespace, NamespaceArgs, Quota
from tests.support.cluster import Cluster
from tests.support.segment_host import ROOT, playbook, setting, wait_until
from tests.unit.infra.declared import declare

from builder import debian, golang

SCENARIO = Path(__file__).resolve().parents[1]
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
CLOSED, OPEN = "policies-closed", "policies-open"
# serves two ports, and answers each line of a connection that stays open
SERVES = """
import socketserver, threading
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"served " + line)
socketserver.ThreadingTCPServer.allow_reuse_address = True
servers = [socketserver.ThreadingTCPServer(("", port), Handler) for port in (8000, 8001)]
for one in servers[1:]:
    threading.Thread(target=one.serve_forever).start()
servers[0].serve_forever()
"""
ASKS = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as one:
    one.sendall(b"me\\n")
    print(one.recv(100).decode().strip())
"""
# keeps one connection, and tells when an answer does not come any more
KEEPS = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 8000), 5) as one:
    one.settimeout(4)
    print("open", flush=True)
    try:
        while True:
            one.sendall(b"me\\n")
            one.recv(100)
            time.sleep(0.1)
    except TimeoutError:
        print("closed", flush=True)
"""
RESOLVES = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"


@pytest.fixture(scope="module")
def closed() -> list[dict[str, Any]]:
    """What a tenant's namespace is made of; the policies come last."""
    quota = Quota(cpus=4, memory_mb=4096, pods=10, storage_gb=0, claims=0, hugepages_2mi_mb=0)
    container, most = ContainerResources(cpus=0.1, memory_mb=64), ContainerResources(cpus=1, memory_mb=512)
    args = NamespaceArgs(name=CLOSED, quota=quota, container=container, container_most=most)
    seen = declare(lambda: Namespace(CLOSED, args))
    found = [inputs for inputs in seen.resources.values() if "kind" in inputs]
    return sorted(found, key=lambda inputs: (inputs["kind"] == "NetworkPolicy", inputs["kind"] != "Namespace"))


@pytest.fixture(scope="module")
def pods(cluster: Cluster, closed: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A server and a client in each of two namespaces, without a policy; returns the address of each."""
    cluster.made(*(one for one in closed if one["kind"] != "NetworkPolicy"))
    cluster.made({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPEN}})
    for namespace in (CLOSED, OPEN):
        asked = f"{KUBECTL} get serviceaccount default --namespace {namespace}"
        wait_until(partial(_succeeds, cluster, asked), 30, "the namespace has an account")
        for name in ("server", "client"):
            pod = cluster.pod(name, SERVES, namespace=namespace)
            pod["metadata"]["labels"] = {"app": name}
            container = pod["spec"]["containers"][0]
            container["ports"] = [{"name": "lines", "containerPort": 8000}]
            # the kubelet asks from the node, which no policy forbids
            container["readinessProbe"] = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
            cluster.made(pod)
    found = {}
    for namespace in (CLOSED, OPEN):
        cluster.run("wait", "--for=condition=Ready", "pod", "--all", f"--namespace={namespace}", "--timeout=90s")
        for name in ("server", "client"):
            status = cluster.get("pod", name, f"--namespace={namespace}")["status"]
            found[f"{namespace}/{name}"] = status["podIP"]
    yield found
    for namespace in (CLOSED, OPEN):
        cluster.run("delete", "namespace", namespace, "--wait=false")


def _succeeds(cluster: Cluster, command: str) -> bool:
    return bool(cluster.host.host.run(command).rc == 0)


def executed(cluster: Cluster, namespace: str, script: str, *arguments: str, pod: str = "client") -> str:
    """Run a script in a pod, and return the last line of what it said, an error's too."""
    argv = f"{KUBECTL} exec {pod} --namespace {namespace} -- python3 -c %s"
    done = cluster.host.host.run(argv + " %s" * len(arguments), script, *arguments)
    lines = (done.stdout + "\n" + done.stderr).strip().splitlines()
    said = [line for line in lines if not line.startswith("command terminated")]
    return said[-1] if said else ""


def reaches(cluster: Cluster, namespace: str, address: str, port: int = 8000, *, pod: str = "client") -> bool:
    """Tell whether a pod is served, or waits in vain; anything else is an error."""
    said = executed(cluster, namespace, ASKS, address, str(port), pod=pod)
    assert said in ("served me", "TimeoutError: timed out"), said
    return said == "served me"


def policy(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def test_0_rules_are_what_policies_say() -> None:
    """The tests of the package that writes rules: peers, ports, names, blocks, families of addresses."""
    go = golang.toolchain(debian.architecture())
    command = [str(go), "test", "./..."]
    module, environment = ROOT / "images/network_policies", golang.environment(debian.architecture())
    done = subprocess.run(command, cwd=module, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "caisson/network_policies/rules" in done.stdout


def test_1_without_a_policy_everything_is_open(cluster: Cluster, pods: dict[str, str]) -> None:
    for namespace in (CLOSED, OPEN):
        for server in (CLOSED, OPEN):
            assert reaches(cluster, namespace, pods[f"{server}/server"])


def test_2_what_was_open_ends_with_the_policies_of_a_tenant(
    cluster: Cluster, pods: dict[str, str], closed: list[dict[str, Any]]
) -> None:
    cluster.made(cluster.pod("keeps", "import signal; signal.pause()", namespace=OPEN))
    cluster.run("wait", "--for=condition=Ready", "pod/keeps", f"--namespace={OPEN}", "--timeout=60s")
    address = pods[f"{CLOSED}/server"]
    keeps = f"{KUBECTL} exec keeps --namespace {OPEN} -- python3 -c %s %s"
    cluster.host.host.run(f"nohup {keeps} > /run/keeps 2>&1 &", KEEPS, address)
    wait_until(lambda: cluster.host.run("cat", "/run/keeps") == "open", 30, "the connection is open")
    cluster.made(*(one for one in closed if one["kind"] == "NetworkPolicy"))
    wait_until(lambda: cluster.host.run("cat", "/run/keeps") == "open\nclosed", 30, "the connection is closed")


def test_3_default_deny_keeps_pods_from_each_other(cluster: Cluster, pods: dict[str, str]) -> None:
    # into it, out of it, within it
    assert not reaches(cluster, OPEN, pods[f"{CLOSED}/server"])
    assert not reaches(cluster, CLOSED, pods[f"{OPEN}/server"])
    assert not reaches(cluster, CLOSED, pods[f"{CLOSED}/server"])
    # a pod reaches itself
    assert reaches(cluster, CLOSED, pods[f"{CLOSED}/server"], pod="server")
    # other namespaces are as they were
    assert reaches(cluster, OPEN, pods[f"{OPEN}/server"])


@pytest.mark.usefixtures("pods")
def test_3_default_deny_keeps_pods_from_the_node(cluster: Cluster) -> None:
    """The API server is reached by its service, and by the node's own address."""
    script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2); print('connected')"
    node = cluster.get("node", "node1")["status"]["addresses"][0]["address"]
    service = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    for address, port in ((node, setting("kubernetes_control_plane_port")), (service, 443)):
        assert executed(cluster, OPEN, script, address, str(port)) == "connected"
        assert executed(cluster, CLOSED, script, address, str(port)) == "TimeoutError: timed out"


@pytest.mark.usefixtures("pods")
def test_3_names_are_known_and_the_node_looks_in(cluster: Cluster) -> None:
    name = f"kubernetes.default.svc.{setting('kubernetes_control_plane_cluster_domain')}"
    service = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    assert executed(cluster, CLOSED, RESOLVES, name) == service
    conditions = cluster.get("pod", "server", f"--namespace={CLOSED}")["status"]["conditions"]
    assert {"Ready": "True"}.items() <= {one["type"]: one["status"] for one in conditions}.items()


@pytest.mark.usefixtures("pods")
def test_3_a_service_takes_no_address_of_others(cluster: Cluster) -> None:
    """Nodes would lead to it what pods of anybody send there."""
    spec = {"externalIPs": ["192.0.2.1"], "selector": {"app": "server"}, "ports": [{"port": 80}]}
    metadata = {"name": "taker", "namespace": OPEN}
    done = cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    assert done.returncode != 0
    assert "Use of external IPs is denied by admission control" in done.stderr


def test_4_a_rule_opens_what_it_says_and_no_more(cluster: Cluster, pods: dict[str, str]) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPEN}}}]
    spec = {
        "podSelector": {"matchLabels": {"app": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers, "ports": [{"port": "lines"}]}],
    }
    cluster.made(policy("lines", CLOSED, spec))
    server = pods[f"{CLOSED}/server"]
    wait_until(lambda: reaches(cluster, OPEN, server), 30, "the rule opens the port")
    assert not reaches(cluster, OPEN, server, 8001)
    assert not reaches(cluster, OPEN, pods[f"{CLOSED}/client"])
    assert not reaches(cluster, CLOSED, server)


def test_5_out_to_a_block_but_for_one_address(cluster: Cluster, pods: dict[str, str]) -> None:
    block = {"cidr": setting("kubernetes_control_plane_pod_subnet"), "except": [f"{pods[f'{CLOSED}/server']}/32"]}
    spec = {
        "podSelector": {"matchLabels": {"app": "client"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": block}], "ports": [{"port": 8000, "endPort": 8010}]}],
    }
    cluster.made(policy("out", CLOSED, spec))
    wait_until(lambda: reaches(cluster, CLOSED, pods[f"{OPEN}/server"]), 30, "the rule opens the way")
    assert reaches(cluster, CLOSED, pods[f"{OPEN}/server"], 8001)
    assert not reaches(cluster, CLOSED, pods[f"{CLOSED}/server"])


def test_6_rules_come_back_and_stay_when_their_writer_ends(cluster: Cluster, pods: dict[str, str]) -> None:
    table = ("inet", "caisson_network_policies")
    cluster.host.run("nft", "delete", "table", *table)
    wait_until(lambda: not reaches(cluster, OPEN, pods[f"{CLOSED}/client"]), 30, "the rules are written again")
    selected = ("pod", "--namespace=kube-system", "--selector=app.kubernetes.io/name=network-policies")
    before = cluster.get(*selected)["items"][0]["metadata"]["name"]
    cluster.run("delete", *selected, "--now")
    cluster.host.run("nft", "list", "table", *table)
    assert not reaches(cluster, OPEN, pods[f"{CLOSED}/client"])
    cluster.run("rollout", "status", "daemonset/network-policies", "--namespace=kube-system", "--timeout=60s")
    assert before not in json.dumps(cluster.get(*selected))


def test_7_without_policies_everything_is_open_again(cluster: Cluster, pods: dict[str, str]) -> None:
    cluster.run("delete", "networkpolicy", "--all", f"--namespace={CLOSED}")
    for namespace, server in ((OPEN, CLOSED), (CLOSED, OPEN), (CLOSED, CLOSED)):
        open_again = partial(reaches, cluster, namespace, pods[f"{server}/server"])
        wait_until(open_again, 30, "the way is open again")


def test_8_rules_go_when_they_are_turned_off(cluster: Cluster) -> None:
    table = "nft list table inet caisson_network_policies"

    def converged(*options: str) -> None:
        done = playbook(SCENARIO, *options, file="playbooks/kubernetes.yml")
        assert done.returncode == 0, done.stdout

    try:
        converged("--extra-vars", json.dumps({"kubernetes_addons_network_policies": False}))
        # it is asked to end, and sees that this is for good
        wait_until(lambda: cluster.host.host.run(table).rc != 0, 60, "the rules are gone")
        assert "NotFound" in cluster.fails("get", "daemonset", "network-policies", "--namespace=kube-system")
        assert "NotFound" in cluster.fails("get", "clusterrole", "caisson:network-policies")
    finally:
        converged()
    cluster.run("rollout", "status", "daemonset/network-policies", "--namespace=kube-system", "--timeout=60s")
    cluster.host.run(*table.split())
