"""The tests' own provider: how it tells changes, and when it takes an object for ready."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2

from tests.support.kubernetes_provider import provider, readiness
from tests.support.kubernetes_provider.api import RefusedError


def difference(old: dict[str, Any], new: dict[str, Any], fixed: list[str]) -> Any:
    return provider._difference(old, new, fixed)


def test_what_changed_is_named() -> None:
    old = {"metadata": {"name": "a", "labels": {"x/y": "1", "z": "1"}}, "spec": {"list": [1, 2]}}
    new = {"metadata": {"name": "a", "labels": {"x/y": "2"}}, "spec": {"list": [1, 3]}}
    found = difference(old, new, ["metadata.name"])
    assert sorted(found.detailedDiff) == ["metadata.labels.z", 'metadata.labels["x/y"]', "spec.list"]
    assert not found.replaces
    assert difference(old, old, []).changes == found.DIFF_NONE


@pytest.mark.parametrize(("field", "replaced"), [("spec", True), ("spec.a", True), ("spec.b", False), ("spe", False)])
def test_what_cannot_be_changed_is_replaced(field: str, replaced: bool) -> None:
    found = difference({"spec": {"a": 1}}, {"spec": {"a": 2}}, [field])
    assert list(found.replaces) == (["spec.a"] if replaced else [])
    assert found.deleteBeforeReplace == replaced


def test_a_read_finds_drift_and_nothing_else() -> None:
    live = {"spec": {"pods": "9", "defaulted": True, "list": [{"a": 2, "b": 3}]}, "status": {}}
    asked = {"spec": {"pods": "2", "gone": 1, "list": [{"a": 1}]}}
    assert provider._pruned(live, asked) == {"spec": {"pods": "9", "list": [{"a": 2}]}}
    assert provider._pruned(live, None) == live, "an import takes everything"


def test_numbers_are_whole_where_they_can_be() -> None:
    struct = struct_pb2.Struct()
    struct.update({"a": 8.0, "b": 0.5, "c": [1.0, None, True], "__defaults": []})
    found = provider._plain(struct)
    assert found == {"a": 8, "b": 0.5, "c": [1, None, True]}
    assert isinstance(found["a"], int)


@pytest.mark.parametrize(
    ("kind", "more", "ready"),
    [
        ("Pod", {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Unready"}]}}, False),
        ("Pod", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ("Pod", {"status": {"phase": "Succeeded"}}, True),
        ("Deployment", {"spec": {"replicas": 2}, "status": {"observedGeneration": 1, "readyReplicas": 1}}, False),
        ("Deployment", {"spec": {"replicas": 2}, "status": {"observedGeneration": 1, "readyReplicas": 2}}, True),
        ("Deployment", {"spec": {"replicas": 0}, "status": {}}, False),
        ("Job", {"status": {}}, False),
        ("Job", {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}, True),
        ("CustomResourceDefinition", {}, False),
        ("ConfigMap", {}, True),
    ],
)
def test_when_an_object_is_ready(kind: str, more: dict[str, Any], ready: bool) -> None:
    assert (not readiness.waits_for({"kind": kind, "metadata": {"generation": 1}} | more)) == ready


def test_what_will_never_be_ready() -> None:
    assert readiness.cannot_be({"status": {"conditions": [{"type": "Failed", "status": "True"}]}})
    assert readiness.cannot_be({"status": {"phase": "Failed"}})
    assert not readiness.cannot_be({"status": {"phase": "Pending"}})


class Api:
    """One object, which is ready after some questions, or gone."""

    def __init__(self, answers: list[dict[str, Any] | None]) -> None:
        self.answers = answers
        self.applied: list[dict[str, Any]] = []

    def get(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def apply(self, wanted: dict[str, Any], *, manager: str, force: bool, dry: bool) -> dict[str, Any]:
        self.applied.append(wanted | {"force": force, "dry": dry})
        if dry:
            raise RefusedError(404, "its namespace is not there")
        return wanted

    def delete(self, wanted: dict[str, Any]) -> None: ...


class EndedError(Exception):
    """What gRPC raises when a call is aborted."""


class Context:
    def __init__(self) -> None:
        self.metadata: Any = ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.metadata = metadata

    def abort(self, code: Any, message: str) -> None:
        raise EndedError(message)


class Request:
    preview = False
    timeout = 0.5

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.properties = struct_pb2.Struct()
        self.properties.update(wanted)


POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}}
READY = POD | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def served(answers: list[dict[str, Any] | None], **settings: bool) -> tuple[provider.Provider, Api]:
    made, api = provider.Provider(), Api(answers)
    for key, value in ({"_api": api, "_upsert": False, "_force": False} | settings).items():
        setattr(made, key, value)
    return made, api


def test_create_waits_until_a_pod_is_ready() -> None:
    made, api = served([None, POD, READY])
    answer = made.Create(Request(POD), Context())
    assert answer.id == "b/a"
    assert provider._plain(answer.properties)["status"] == READY["status"]
    assert api.applied == [POD | {"force": False, "dry": False}]


def test_a_pod_that_is_never_ready_is_kept_and_told() -> None:
    made, _ = served([None, POD])
    context = Context()
    with pytest.raises(EndedError, match=r"b/a was made and is not ready: the condition Ready is not true"):
        made.Create(Request(POD), context)
    ((key, details),) = context.metadata
    assert key == "grpc-status-details-bin"
    assert b"ErrorResourceInitFailed" in details


def test_what_exists_is_taken_over_only_when_that_is_asked_for() -> None:
    made, api = served([READY])
    with pytest.raises(EndedError, match="b/a already exists"):
        made.Create(Request(POD), Context())
    assert not api.applied
    made, api = served([READY], _upsert=True, _force=True)
    made.Create(Request(POD), Context())
    assert api.applied[0]["force"]


def test_a_preview_changes_nothing() -> None:
    made, api = served([None])
    request = Request(POD)
    request.preview = True
    assert provider._plain(made.Create(request, Context()).properties) == POD
    assert [one["dry"] for one in api.applied] == [True]


def test_delete_waits_until_it_is_gone() -> None:
    made, _ = served([POD, None])
    made.Delete(Request(POD), Context())
    made, _ = served([POD])
    with pytest.raises(EndedError, match="b/a is still there"):
        made.Delete(Request(POD), Context())
