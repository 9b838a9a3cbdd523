"""What nodes and pods use is known, to people and to autoscalers."""

from __future__ import annotations

from typing import Any

from tests.support.cluster import Cluster
from tests.support.segment_host import wait_until

BUSY = "while True: pass"


def _top(cluster: Cluster, *argv: str) -> list[list[str]]:
    """Return what `kubectl top` says, or nothing while it has nothing to say."""
    said = " ".join(("top", *argv, "--no-headers"))
    done = cluster.host.host.run(f"kubectl --kubeconfig /etc/kubernetes/admin.conf {said}")
    return [line.split() for line in done.stdout.splitlines()] if done.rc == 0 else []


def test_kubectl_top_answers(cluster: Cluster, namespace: str) -> None:
    cluster.made(cluster.pod("busy", BUSY, namespace=namespace, container={"resources": {"limits": {"cpu": "300m"}}}))
    wait_until(lambda: _top(cluster, "node", "node1"), 60, "kubectl top node answers")
    node, cpu, *_ = _top(cluster, "node", "node1")[0]
    assert (node, cpu[-1]) == ("node1", "m")
    assert int(cpu[:-1]) > 0

    def used() -> int:
        found = _top(cluster, "pod", "busy", "--namespace", namespace)
        return int(found[0][1].removesuffix("m")) if found else 0

    # about what the pod may use, as soon as it has been looked at twice
    wait_until(lambda: used() > 150, 90, "kubectl top pod tells what the pod uses")
    assert used() < 400


def test_kubelets_are_asked_with_their_certificates_looked_at(cluster: Cluster) -> None:
    deployed = cluster.get("deployment", "metrics-server", "--namespace=kube-system")
    args = deployed["spec"]["template"]["spec"]["containers"][0]["args"]
    assert not any("insecure" in one for one in args)
    # another authority than the cluster's is not believed
    pod: dict[str, Any] = deployed["spec"]["template"]
    pod["spec"]["containers"][0]["args"] = [
        *(one for one in args if not one.startswith("--kubelet-certificate-authority=")),
        "--kubelet-certificate-authority=/var/run/other/ca.crt",
    ]
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "other", "mountPath": "/var/run/other"})
    pod["spec"]["volumes"].append({"name": "other", "configMap": {"name": "other-authority"}})
    # its port on the node is taken
    pod["spec"].pop("hostNetwork")
    pod["spec"]["containers"][0].pop("ports")
    for probe in ("readinessProbe", "livenessProbe"):
        pod["spec"]["containers"][0].pop(probe)
    other = cluster.host.run("cat", "/etc/kubernetes/pki/front-proxy-ca.crt")
    name = {"name": "other-authority", "namespace": "kube-system"}
    cluster.made({"apiVersion": "v1", "kind": "ConfigMap", "metadata": name, "data": {"ca.crt": other}})
    metadata = {"name": "metrics-elsewhere", "namespace": "kube-system"}
    try:
        cluster.made({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})

        def refused() -> bool:
            done = cluster.host.host.run(
                "kubectl --kubeconfig /etc/kubernetes/admin.conf logs metrics-elsewhere --namespace kube-system"
            )
            return "certificate signed by unknown authority" in done.stdout

        wait_until(refused, 90, "metrics-server refuses the kubelet's certificate")
    finally:
        cluster.run("delete", "--ignore-not-found", "--now", "--namespace=kube-system", "pod/metrics-elsewhere")
        cluster.run("delete", "--namespace=kube-system", "configmap/other-authority")


def test_an_autoscaler_has_something_to_go_by(cluster: Cluster, namespace: str) -> None:
    pod = cluster.pod("scaled", BUSY, namespace=namespace)
    pod["spec"].pop("restartPolicy")
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}}
    labels = {"app": "scaled"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "scaled", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod["spec"]},
        },
    }
    target = {"type": "Utilization", "averageUtilization": 100}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaled", "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"},
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }
    cluster.made(deployment, autoscaler)

    def scaled() -> bool:
        return bool(cluster.get("deployment", "scaled", "--namespace", namespace)["spec"]["replicas"] == 2)

    # it looks every 15 s, and not at a pod's first metrics
    wait_until(scaled, 180, "the autoscaler adds a pod")
