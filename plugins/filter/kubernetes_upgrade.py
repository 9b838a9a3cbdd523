"""What the upgrade of a cluster has to know: which versions go together, and what keeps a node from being emptied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# https://kubernetes.io/releases/version-skew-policy/: a kubelet is never newer than the API server, nor older by more
# minor releases than these.
OLDEST_KUBELET = 3
MIRROR = "kubernetes.io/config.mirror"
OVER = ("Succeeded", "Failed")


def version(text: str) -> tuple[int, int, int]:
    """Return the numbers of a version such as v1.36.3; what follows them does not count."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not found:
        raise ValueError(f"{text!r} is no version")
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch)


def kubernetes_server_skew(asked: str, server: str, kubelets: Mapping[str, str]) -> list[str]:
    """Return what forbids that API servers of the version ``server`` become ``asked``: one line each.

    ``kubelets`` has the version of each node's kubelet by the node's name.
    """
    new, old = version(asked), version(server)
    if new[:2] < old[:2]:
        return [f"the API server is {server}, and Kubernetes goes back to no older release; this one brings {asked}"]
    if new[:2] > (old[0], old[1] + 1):
        between = f"{old[0]}.{old[1] + 1}"
        return [f"the API server is {server} and would become {asked}: minor releases come one by one, first {between}"]
    found = []
    for node, kubelet in sorted(kubelets.items()):
        there = version(kubelet)
        if there[:2] > new[:2]:
            found.append(f"the kubelet of {node} is {kubelet}, newer than the API server's {asked} would be")
        elif there[:2] < (new[0], new[1] - OLDEST_KUBELET):
            found.append(
                f"the kubelet of {node} is {kubelet}, more than {OLDEST_KUBELET} minor releases older than the API "
                f"server's {asked} would be: upgrade or remove that node first"
            )
    return found


def kubernetes_kubelet_skew(asked: str, server: str) -> list[str]:
    """Return what forbids a kubelet of the version ``asked`` with an API server of the version ``server``."""
    new, there = version(asked), version(server)
    if new[:2] > there[:2]:
        return [
            f"the kubelet would become {asked}, newer than the API server's {server}: upgrade the control plane first"
        ]
    if new[:2] < (there[0], there[1] - OLDEST_KUBELET):
        older = f"more than {OLDEST_KUBELET} minor releases older than the API server's {server}"
        return [f"the kubelet would become {asked}, {older}"]
    return []


def kubernetes_kubelets(nodes: Mapping[str, Any]) -> dict[str, str]:
    """Return the version of each kubelet from a list of nodes; a node that has never been there has none."""
    found = {node["metadata"]["name"]: _told(node) for node in nodes["items"]}
    return {name: told for name, told in found.items() if told}


def _told(node: Mapping[str, Any]) -> str:
    return str(node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""))


def kubernetes_blocking(objects: Mapping[str, Any], node: str) -> list[str]:
    """Return why pods are still on a node that was to be emptied, one line each.

    ``objects`` is a list of pods and disruption budgets of all namespaces.
    """
    items = objects["items"]
    budgets = [one for one in items if one["kind"] == "PodDisruptionBudget"]
    pods = [one for one in items if one["kind"] == "Pod" and one["spec"].get("nodeName") == node and _to_go(one)]
    found = []
    for pod in sorted(pods, key=_name):
        full = [budget for budget in budgets if _meant(budget, pod) and not _spare(budget)]
        if "deletionTimestamp" in pod["metadata"]:
            found.append(f"pod {_name(pod)} was asked to end and still runs")
        elif full:
            found += [f"pod {_name(pod)}: the disruption budget {_words(budget)}" for budget in full]
    return found


def _to_go(pod: Mapping[str, Any]) -> bool:
    metadata = pod["metadata"]
    stays = MIRROR in (metadata.get("annotations") or {}) or any(
        owner["kind"] == "DaemonSet" for owner in metadata.get("ownerReferences", [])
    )
    return not stays and pod.get("status", {}).get("phase") not in OVER


def _name(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}"


def _spare(budget: Mapping[str, Any]) -> int:
    return int(budget.get("status", {}).get("disruptionsAllowed", 0))


def _words(budget: Mapping[str, Any]) -> str:
    status = budget.get("status", {})
    healthy, needed = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    return f"{budget['metadata']['name']} lets none go ({healthy} healthy, {needed} needed)"


def _meant(budget: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Tell whether a budget is one of the pod's."""
    if budget["metadata"].get("namespace") != pod["metadata"].get("namespace"):
        return False
    selector, labels = budget["spec"].get("selector"), pod["metadata"].get("labels") or {}
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _fits(rule, labels) for rule in selector.get("matchExpressions") or []
    )


def _fits(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = rule["key"], rule.get("values") or []
    there: dict[str, Callable[[], bool]] = {
        "In": lambda: labels.get(key) in values,
        "NotIn": lambda: labels.get(key) not in values,
        "Exists": lambda: key in labels,
        "DoesNotExist": lambda: key not in labels,
    }
    return there[rule["operator"]]()


def kubernetes_said(lines: Iterable[str]) -> list[str]:
    """Return which pods kubectl has refused to touch, from what it says to a drain."""
    found = [re.sub(r" \(use [^)]*\)", "", line) for line in lines if line.startswith("cannot delete ")]
    return list(dict.fromkeys(found))


class FilterModule:
    """Filters of the role kubernetes_upgrade."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "kubernetes_blocking": kubernetes_blocking,
            "kubernetes_kubelet_skew": kubernetes_kubelet_skew,
            "kubernetes_kubelets": kubernetes_kubelets,
            "kubernetes_said": kubernetes_said,
            "kubernetes_server_skew": kubernetes_server_skew,
        }
