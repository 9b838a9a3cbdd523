"""The rules of the policy pack, as functions of a resource's type and properties."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra import rules

Check = Callable[[str, Mapping[str, Any]], Iterator[str]]

_DIGEST, _SECRET, _NOT_SECRET = (re.compile(p) for p in (rules.DIGEST, rules.SECRET_NAME, rules.NOT_SECRET_NAME))
# where a kind has the specification of its pods
_POD_SPEC = {
    "Pod": ("spec",),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"),
        ("spec", "template", "spec"),
    ),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}


def pod_spec(kind: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the specification of the pods of a resource, empty when it has none. `kind` is Pulumi's type of it."""
    if not kind.startswith("kubernetes:"):
        return {}
    value: Any = properties
    path = _POD_SPEC.get(kind.rsplit(":", 1)[-1].removesuffix("Patch"))
    for key in path or ():
        value = (value or {}).get(key)
    return (value or {}) if path else {}


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("containers", "initContainers", "ephemeralContainers"):
        yield from spec.get(key) or ()


def _context(of: Mapping[str, Any]) -> Mapping[str, Any]:
    return of.get("securityContext") or {}


def no_root(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """No container runs as root: runAsNonRoot is true, and no user id is 0."""
    spec = pod_spec(kind, properties)
    pod = _context(spec)
    for container in _containers(spec):
        own = _context(container)
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield f"{container.get('name')}: runAsNonRoot is not true, for the container or its pod"
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            yield f"{container.get('name')}: runAsUser is 0"


def no_privileged(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """No container is privileged, gets more privileges, or shares its node's namespaces."""
    spec = pod_spec(kind, properties)
    for container in _containers(spec):
        if _context(container).get("privileged"):
            yield f"{container.get('name')}: it is privileged"
        if _context(container).get("allowPrivilegeEscalation") is not False:
            yield f"{container.get('name')}: allowPrivilegeEscalation is not false"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"its pods have {key}"


def image_digests(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """Each image is named by its digest."""
    for container in _containers(pod_spec(kind, properties)):
        if not _DIGEST.search(str(container.get("image"))):
            yield f"{container.get('name')}: the image {container.get('image')} has no digest (@sha256:...)"


def limits(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """Each container has a limit of processors and of memory."""
    spec = pod_spec(kind, properties)
    for key in ("containers", "initContainers"):
        for container in spec.get(key) or ():
            given = (container.get("resources") or {}).get("limits") or {}
            if missing := [what for what in ("cpu", "memory") if not given.get(what)]:
                yield f"{container.get('name')}: it has no limit of {' and '.join(missing)}"


def no_plain_secret(kind: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """No secret is a plain value of an environment variable or of a ConfigMap."""
    for container in _containers(pod_spec(kind, properties)):
        for variable in container.get("env") or ():
            if variable.get("value") and _names_a_secret(str(variable.get("name"))):
                yield f"{container.get('name')}: {variable.get('name')} has its value in env; take it from a Secret"
    if kind.startswith("kubernetes:") and kind.rsplit(":", 1)[-1] == "ConfigMap":
        for key, value in (properties.get("data") or {}).items():
            if value and _names_a_secret(key):
                yield f"{key} is in a ConfigMap; it belongs into a Secret"


def _names_a_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _NOT_SECRET.search(name)


CHECKS: dict[str, Check] = {
    "no-root": no_root,
    "no-privileged": no_privileged,
    "image-digests": image_digests,
    "limits": limits,
    "no-plain-secret": no_plain_secret,
}
