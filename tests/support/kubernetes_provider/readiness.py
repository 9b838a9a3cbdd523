"""When an object is there as it was meant."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def waits_for(live: Object) -> str:
    """Return what an object still waits for, empty when it is ready."""
    status, spec = live.get("status") or {}, live.get("spec") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    kind = live["kind"]
    if kind in ("Deployment", "StatefulSet", "ReplicaSet"):
        seen = status.get("observedGeneration", 0) >= live["metadata"]["generation"]
        ready, wanted = status.get("readyReplicas", 0), spec.get("replicas", 1)
        return "" if seen and ready >= wanted else f"{ready} of {wanted} pods are ready"
    waited = {"Pod": "Ready", "CustomResourceDefinition": "Established", "Job": "Complete"}.get(kind)
    if not waited or conditions.get(waited, {}).get("status") == "True" or status.get("phase") == "Succeeded":
        return ""
    return f"the condition {waited} is not true" + "".join(
        f"; {one['type']}: {one.get('message') or one.get('reason')}"
        for one in conditions.values()
        if one["status"] != "True" and one.get("reason")
    )


def cannot_be(live: Object) -> bool:
    """Tell whether an object will never be ready."""
    status = live.get("status") or {}
    failed = any(one["type"] == "Failed" and one["status"] == "True" for one in status.get("conditions") or [])
    return failed or status.get("phase") == "Failed"
