"""What of a node's machine a pod gets for itself, and a node whose certificate is about to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.cluster import Cluster
from tests.support.segment_host import wait_until

NAME = "node1"
CURRENT = "/var/lib/kubelet/pki/kubelet-client-current.pem"
PROCESSORS = """
import os, signal
print(*sorted(os.sched_getaffinity(0)), flush=True)
signal.pause()
"""
# A certificate of the node that the cluster's authority has signed, of whose time nearly all is over.
NEARLY_OVER = f"""
set -e
cd /var/lib/kubelet/pki
openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /O=system:nodes/CN=system:node:{NAME} -out request.pem
printf 'extendedKeyUsage=clientAuth\\nkeyUsage=digitalSignature\\n' > usage
openssl x509 -req -in request.pem -CA /etc/kubernetes/pki/ca.crt -CAkey /etc/kubernetes/pki/ca.key -extfile usage \\
  -not_before "$(date -u -d '-10 hours' +%Y%m%d%H%M%SZ)" -not_after "$(date -u -d '+5 minutes' +%Y%m%d%H%M%SZ)" \\
  -out certificate.pem
cat certificate.pem key.pem > kubelet-client-over.pem
chmod 0600 kubelet-client-over.pem
rm key.pem request.pem usage certificate.pem
ln -sfn "$PWD/kubelet-client-over.pem" {CURRENT}
! openssl x509 -noout -checkend 600 -in {CURRENT}
systemctl restart kubelet.service
"""


def _processors(cluster: Cluster, name: str, namespace: str) -> set[int]:
    cluster.run("wait", "--for=condition=Ready", f"pod/{name}", "--namespace", namespace, "--timeout=60s")
    said = wait_until(lambda: cluster.run("logs", name, "--namespace", namespace), 30, f"{name} says its processors")
    return {int(number) for number in said.split()}


def test_a_pod_that_asks_for_a_whole_processor_has_it_alone(cluster: Cluster, namespace: str) -> None:
    there = int(cluster.get("node", NAME)["status"]["capacity"]["cpu"])
    if there < 2:
        pytest.skip(f"this machine has {there} processor: the system's own, and none for a pod alone")
    whole = {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}}
    part = {"requests": {"cpu": "100m"}}
    cluster.made(cluster.pod("before", PROCESSORS, namespace=namespace, container={"resources": part}))
    assert len(_processors(cluster, "before", namespace)) == there
    cluster.made(cluster.pod("alone", PROCESSORS, namespace=namespace, container={"resources": whole}))
    cluster.made(cluster.pod("after", PROCESSORS, namespace=namespace, container={"resources": part}))
    alone, after = (_processors(cluster, name, namespace) for name in ("alone", "after"))
    assert len(alone) == 1
    assert after == set(range(there)) - alone
    # the one that ran before has lost it too: the kubelet looks every few seconds
    look = ("exec", "before", "--namespace", namespace, "--")
    script = "import os; print(*sorted(os.sched_getaffinity(1)))"
    wait_until(
        lambda: {int(one) for one in cluster.run(*look, "python3", "-c", script).split()} == after,
        30,
        "the pod that ran before leaves the processor",
    )


def test_huge_pages_of_the_machine_are_told(cluster: Cluster) -> None:
    pages = int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").read_text(encoding="ascii"))
    cluster.host.run("systemctl", "restart", "kubelet.service")

    def told() -> bool:
        capacity = cluster.get("node", NAME)["status"]["capacity"]
        return bool(capacity.get("hugepages-2Mi") == (f"{pages * 2}Mi" if pages else "0"))

    wait_until(told, 60, f"the node has {pages} huge pages")
    if not pages:
        pytest.skip("this machine has reserved no huge pages, so that the node has 0; a container cannot reserve any")


def test_the_certificate_that_the_kubelet_logs_in_with_renews_itself(cluster: Cluster) -> None:
    cluster.host.run("sh", "-c", NEARLY_OVER)

    def renewed() -> bool:
        return not cluster.host.run("readlink", CURRENT).endswith("-over.pem")

    wait_until(renewed, 60, "the kubelet has another certificate")
    cluster.host.run("openssl", "x509", "-noout", "-checkend", str(30 * 86400), "-in", CURRENT)
    # nobody but the cluster's own rule has approved it, and the node serves with it
    requests = json.loads(cluster.run("get", "certificatesigningrequests", "--output", "json"))["items"]
    own = [
        one
        for one in requests
        if one["spec"]["username"] == f"system:node:{NAME}"
        and one["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
    ]
    assert {condition["reason"] for one in own for condition in one["status"]["conditions"]} == {"AutoApproved"}
    cluster.run("wait", "--for=condition=Ready", f"node/{NAME}", "--timeout=60s")
    cluster.host.run("rm", "/var/lib/kubelet/pki/kubelet-client-over.pem")
