"""Which versions of Kubernetes go together, and what keeps a node from being emptied."""

from __future__ import annotations

from typing import Any

import pytest
from plugins.filter.kubernetes_upgrade import (
    kubernetes_blocking,
    kubernetes_kubelet_skew,
    kubernetes_kubelets,
    kubernetes_said,
    kubernetes_server_skew,
)


@pytest.mark.parametrize(
    ("asked", "server", "kubelet", "problem"),
    [
        ("v1.36.3", "v1.36.3", "v1.36.3", ""),
        ("v1.36.3", "v1.36.9", "v1.36.9", ""),
        ("v1.36.3", "v1.35.0-rc.1+caisson", "v1.33.0", ""),
        ("v1.36.3", "v1.34.7", "v1.34.7", "minor releases come one by one, first 1.35"),
        ("v1.36.3", "v1.37.0", "v1.37.0", "Kubernetes goes back to no older release"),
        ("v1.36.3", "v1.35.1", "v1.32.9", "more than 3 minor releases older than the API server's v1.36.3 would be"),
        ("v1.36.3", "v1.36.3", "v1.37.0", "node2 is v1.37.0, newer than the API server's v1.36.3 would be"),
    ],
)
def test_an_api_server_is_refused_what_kubernetes_forbids(asked: str, server: str, kubelet: str, problem: str) -> None:
    found = kubernetes_server_skew(asked, server, {"node1": asked, "node2": kubelet})
    assert len(found) == bool(problem)
    assert problem in " ".join(found)


@pytest.mark.parametrize(
    ("asked", "server", "problem"),
    [
        ("v1.36.3", "v1.36.1", ""),
        ("v1.36.3", "v1.39.0", ""),
        ("v1.36.3", "v1.35.9", "newer than the API server's v1.35.9: upgrade the control plane first"),
        ("v1.36.3", "v1.40.0", "more than 3 minor releases older"),
    ],
)
def test_a_kubelet_is_refused_what_kubernetes_forbids(asked: str, server: str, problem: str) -> None:
    found = kubernetes_kubelet_skew(asked, server)
    assert len(found) == bool(problem)
    assert problem in " ".join(found)


def test_what_is_no_version_is_said() -> None:
    with pytest.raises(ValueError, match="'newest' is no version"):
        kubernetes_kubelet_skew("newest", "v1.36.3")


def test_a_node_that_was_never_there_has_no_version() -> None:
    nodes = [
        {"metadata": {"name": "node1"}, "status": {"nodeInfo": {"kubeletVersion": "v1.36.3"}}},
        {"metadata": {"name": "node2"}, "status": {}},
        {"metadata": {"name": "node3"}, "status": {"nodeInfo": {"kubeletVersion": ""}}},
    ]
    assert kubernetes_kubelets({"items": nodes}) == {"node1": "v1.36.3"}


def pod(
    name: str, *, node: str = "node1", owner: str = "ReplicaSet", phase: str = "Running", **more: Any
) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "web",
        "labels": {"app": "web", "tier": "front"},
        "ownerReferences": [{"kind": owner}],
        **more,
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}}


def budget(selector: dict[str, Any] | None, *, spare: int = 0, namespace: str = "web") -> dict[str, Any]:
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "two", "namespace": namespace},
        "spec": {"selector": selector},
        "status": {"disruptionsAllowed": spare, "currentHealthy": 2, "desiredHealthy": 2},
    }


APP = {"matchLabels": {"app": "web"}}
BLOCKED = "pod web/a: the disruption budget two lets none go (2 healthy, 2 needed)"


@pytest.mark.parametrize(
    ("one", "rule", "said"),
    [
        (pod("a"), budget(APP), [BLOCKED]),
        (pod("a"), budget({}), [BLOCKED]),
        (pod("a"), budget({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}), [BLOCKED]),
        (pod("a"), budget({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]}), []),
        (pod("a"), budget({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), [BLOCKED]),
        (pod("a"), budget({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), []),
        (pod("a"), budget({"matchLabels": {"app": "other"}}), []),
        (pod("a"), budget(APP, spare=1), []),
        (pod("a"), budget(APP, namespace="other"), []),
        (pod("a"), budget(None), []),
        (pod("a", node="node2"), budget(APP), []),
        (pod("a", owner="DaemonSet"), budget(APP), []),
        (pod("a", phase="Succeeded"), budget(APP), []),
        (pod("a", annotations={"kubernetes.io/config.mirror": "x"}), budget(APP), []),
        (pod("a", deletionTimestamp="now"), budget(APP), ["pod web/a was asked to end and still runs"]),
    ],
)
def test_pods_that_do_not_go_are_named_with_their_budget(
    one: dict[str, Any], rule: dict[str, Any], said: list[str]
) -> None:
    assert kubernetes_blocking({"items": [rule, one]}, "node1") == said


def test_what_kubectl_refuses_is_said_once() -> None:
    refused = "cannot delete Pods that declare no controller (use --force to override): web/bare"
    lines = [
        f'error: unable to drain node "node1" due to error: {refused}, continuing command...',
        " node1",
        refused,
        refused,
    ]
    assert kubernetes_said(lines) == ["cannot delete Pods that declare no controller: web/bare"]
    assert kubernetes_said(['error when evicting pods/"a" -n "web" (will retry after 5s): Cannot evict pod']) == []
