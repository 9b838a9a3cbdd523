"""The rules of the policy pack: what they let pass, and what they stop."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from infra import rules
from infra.policy.checks import CHECKS, pod_spec

POD = "kubernetes:core/v1:Pod"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 70000},
    "containers": [
        {
            "name": "main",
            "image": "registry/a@sha256:" + "0" * 64,
            "securityContext": {"allowPrivilegeEscalation": False},
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "env": [{"name": "TOKEN_FILE", "value": "/run/token"}, {"name": "PASSWORD", "valueFrom": {}}],
        }
    ],
}


def told(spec: dict[str, Any], kind: str = POD) -> dict[str, list[str]]:
    wrapped: dict[str, Any] = {"spec": spec}
    if kind.endswith(":CronJob"):
        wrapped = {"spec": {"jobTemplate": {"spec": {"template": wrapped}}}}
    elif not kind.endswith(":Pod"):
        wrapped = {"spec": {"template": wrapped}}
    return {name: found for name, check in CHECKS.items() if (found := list(check(kind, wrapped)))}


def main(spec: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = spec["containers"][0]
    return first


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("no-root", lambda spec: spec["securityContext"].pop("runAsNonRoot")),
    ("no-root", lambda spec: main(spec)["securityContext"].update(runAsUser=0)),
    ("no-root", lambda spec: main(spec)["securityContext"].update(runAsNonRoot=False)),
    ("no-privileged", lambda spec: main(spec)["securityContext"].update(privileged=True)),
    ("no-privileged", lambda spec: main(spec)["securityContext"].pop("allowPrivilegeEscalation")),
    ("no-privileged", lambda spec: spec.update(hostPID=True)),
    ("image-digests", lambda spec: main(spec).update(image="registry/a:1")),
    ("image-digests", lambda spec: main(spec).update(image="registry/a@sha256:12")),
    ("limits", lambda spec: main(spec).pop("resources")),
    ("limits", lambda spec: main(spec)["resources"]["limits"].pop("memory")),
    ("no-plain-secret", lambda spec: main(spec)["env"].append({"name": "DB_PASSWORD", "value": "x"})),
    ("no-plain-secret", lambda spec: main(spec)["env"].append({"name": "apiKey", "value": "x"})),
]


@pytest.mark.parametrize("kind", [POD, DEPLOYMENT, "kubernetes:batch/v1:Job", "kubernetes:batch/v1:CronJob"])
def test_a_good_pod_passes(kind: str) -> None:
    assert told(GOOD, kind) == {}


@pytest.mark.parametrize("kind", [POD, DEPLOYMENT, "kubernetes:batch/v1:CronJob"])
@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_one_thing_is_stopped_by_its_rule(kind: str, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    spec = copy.deepcopy(GOOD)
    change(spec)
    assert set(told(spec, kind)) == {name}


def test_other_containers_count_too() -> None:
    spec = copy.deepcopy(GOOD)
    spec["initContainers"] = [{"name": "first", "image": "a:1"}]
    assert set(told(spec)) == {"no-privileged", "image-digests", "limits"}


def test_every_rule_has_a_negative_test() -> None:
    assert {name for name, _ in CHANGES} == set(CHECKS)


def test_a_config_map_holds_no_secret() -> None:
    check = CHECKS["no-plain-secret"]
    assert list(
        check("kubernetes:core/v1:ConfigMap", {"data": {"password": "x", "password_file": "/x", "mode": "y"}})
    ) == ["password is in a ConfigMap; it belongs into a Secret"]


@pytest.mark.parametrize("kind", ["kubernetes:core/v1:Service", "aws:ec2:Instance", "kubernetes:core/v1:Namespace"])
def test_what_has_no_pods_is_left_alone(kind: str) -> None:
    assert pod_spec(kind, {"spec": {"containers": [{}]}}) == {}


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("PASSWORD", True),
        ("db-passwd", True),
        ("GithubToken", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("API_KEY", True),
        ("SECRET_NAME", False),
        ("TOKEN_URL", False),
        ("MODE", False),
    ],
)
def test_names_that_say_secret(name: str, secret: bool) -> None:
    assert bool(re.search(rules.SECRET_NAME, name) and not re.search(rules.NOT_SECRET_NAME, name)) == secret
