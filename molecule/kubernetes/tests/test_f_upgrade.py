"""A node gets another version: its pods go first, as far as they may, and nobody's cordon is lost or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster import Cluster
from tests.support.segment_host import ROOT, playbook, recap, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
NAME = "node1"
FILE = "playbooks/kubernetes_upgrade.yml"
MARK = "caisson/cordoned-for"
WAITS = "import signal; signal.pause()"
FINISHED_PACKAGE = "/var/lib/dpkg/info/caisson-kubernetes.list"


def _upgrade(**options: Any) -> subprocess.CompletedProcess[str]:
    return playbook(SCENARIO, "--extra-vars", json.dumps(options), file=FILE)


def _upgraded(**options: Any) -> str:
    done = _upgrade(**options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _node(cluster: Cluster) -> dict[str, Any]:
    return cluster.get("node", NAME)


def _version(cluster: Cluster) -> str:
    return str(_node(cluster)["status"]["nodeInfo"]["kubeletVersion"])


def _cordoned(cluster: Cluster) -> bool:
    return bool(_node(cluster)["spec"].get("unschedulable", False))


def _marked(cluster: Cluster) -> bool:
    return MARK in _node(cluster)["metadata"].get("annotations", {})


def _kubelet(cluster: Cluster) -> str:
    return cluster.host.unit("kubelet.service", "MainPID")


def _unrestarted(cluster: Cluster) -> None:
    """Leave the node as a run does that is killed between the package and the restart."""
    cluster.host.run("touch", FINISHED_PACKAGE)


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A Deployment of one pod, none of which may go; returns its namespace."""
    labels = {"app": "web"}
    spec = {**cluster.pod("web", WAITS, namespace=namespace)["spec"], "restartPolicy": "Always"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "always-one", "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
    }
    cluster.made(deployment, budget)
    _available(cluster, namespace)
    get = ("get", "pdb", "always-one", "--namespace", namespace, "--output", "jsonpath={.status.currentHealthy}")
    wait_until(lambda: cluster.run(*get) == "1", 30, "the budget counts the pod")
    yield namespace
    cluster.run("uncordon", NAME)


def _available(cluster: Cluster, namespace: str) -> None:
    cluster.run("wait", "--for=condition=Available", "deployment/web", "--namespace", namespace, "--timeout=90s")


def _pod(cluster: Cluster, namespace: str) -> dict[str, Any]:
    pods = cluster.get("pods", "--namespace", namespace, "--selector", "app=web")["items"]
    return next((pod for pod in pods if "deletionTimestamp" not in pod["metadata"]), {})


def _uid(cluster: Cluster, namespace: str) -> str:
    return str(_pod(cluster, namespace).get("metadata", {}).get("uid"))


def test_versions_that_do_not_go_together_are_refused(cluster: Cluster) -> None:
    cluster.made({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ancient"}})
    try:
        told = {"status": {"nodeInfo": {"kubeletVersion": "v1.30.0"}}}
        cluster.run("patch", "node", "ancient", "--subresource=status", "--type=merge", "--patch", json.dumps(told))
        done = _upgrade()
    finally:
        cluster.run("delete", "node", "ancient")
    assert done.returncode != 0
    assert "Nothing was changed: the kubelet of ancient is v1.30.0, more than 3 minor releases older" in done.stdout
    assert recap(done.stdout)[NAME]["changed"] == 0


def test_a_node_is_emptied_upgraded_and_taken_back(cluster: Cluster, web: str) -> None:
    new = _version(cluster)
    old = cluster.other_version(new)
    wait_until(lambda: cluster.version() == old and _version(cluster) == old, 60, "the node has the other version")
    _available(cluster, web)
    before = _uid(cluster, web)

    # a pod that may not go is named, with what keeps it, and the node goes on
    done = _upgrade(kubernetes_upgrade_drain_s=10)
    assert done.returncode != 0
    name = _pod(cluster, web)["metadata"]["name"]
    assert f"{NAME} was not upgraded, as pods did not go within 10 s" in done.stdout
    assert f"pod {web}/{name}: the disruption budget always-one lets none go (1 healthy, 1 needed)" in done.stdout
    assert (_cordoned(cluster), _marked(cluster), _uid(cluster, web)) == (False, False, before)
    # the control plane came first
    assert (cluster.version(), _version(cluster)) == (new, old)

    # a run that is killed when the node is empty leaves it cordoned
    cluster.run("delete", "pdb", "always-one", "--namespace", web)
    command = ["ansible-playbook", "-i", str(SCENARIO / "inventory"), FILE]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        try:
            wait_until(lambda: _uid(cluster, web) != before, 120, "the pod goes")
        finally:
            os.killpg(run.pid, signal.SIGKILL)
    assert (_cordoned(cluster), _marked(cluster), _version(cluster)) == (True, True, old)

    # the next one ends it
    kubelet = _kubelet(cluster)
    _upgraded()
    assert (_cordoned(cluster), _marked(cluster), _version(cluster)) == (False, False, new)
    assert _kubelet(cluster) != kubelet
    assert cluster.host.run("kubelet", "--version") == f"Kubernetes {new}"
    _available(cluster, web)

    again = recap(_upgraded())[NAME]
    assert again["changed"] == 0


def test_a_node_that_somebody_has_cordoned_stays_cordoned(cluster: Cluster, web: str) -> None:
    cluster.run("delete", "pdb", "always-one", "--namespace", web)
    cluster.run("cordon", NAME)
    _unrestarted(cluster)
    kubelet = _kubelet(cluster)
    _upgraded()
    assert (_cordoned(cluster), _marked(cluster)) == (True, False)
    assert _kubelet(cluster) != kubelet
    assert not _pod(cluster, web)["spec"].get("nodeName")


def test_pods_that_do_not_go_stay_or_are_deleted_if_that_is_asked(cluster: Cluster, web: str) -> None:
    before = _uid(cluster, web)
    cluster.made(cluster.pod("bare", WAITS, namespace=web))
    cluster.run("wait", "--for=condition=Ready", "pod/bare", "--namespace", web, "--timeout=60s")
    _unrestarted(cluster)

    done = _upgrade(kubernetes_upgrade_drain_s=5)
    assert done.returncode != 0
    assert f"cannot delete Pods that declare no controller: {web}/bare" in done.stdout
    assert not _cordoned(cluster)

    kubelet = _kubelet(cluster)
    _upgraded(kubernetes_upgrade_drain_s=5, kubernetes_upgrade_blocked="keep")
    assert _kubelet(cluster) != kubelet
    assert (_uid(cluster, web), cluster.phase("bare", web), _cordoned(cluster)) == (before, "Running", False)

    _unrestarted(cluster)
    lost = ["empty_dirs", "bare_pods"]
    _upgraded(kubernetes_upgrade_drain_s=5, kubernetes_upgrade_blocked="delete", kubernetes_upgrade_may_lose=lost)
    assert _uid(cluster, web) != before
    assert "NotFound" in cluster.fails("get", "pod", "bare", "--namespace", web)
    assert (_cordoned(cluster), _marked(cluster)) == (False, False)
    _available(cluster, web)
