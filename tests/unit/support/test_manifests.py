"""Schemas made of a description of an API: strict, whole, and where kubeconform looks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support import manifests

DEFINITIONS: dict[str, Any] = {
    "v1.Job": {
        "type": "object",
        "properties": {"kind": {"type": "string"}, "spec": {"$ref": "#/definitions/v1.Spec"}},
        "x-kubernetes-group-version-kind": [{"group": "batch.k8s.io", "version": "v1", "kind": "Job"}],
    },
    "v1.Spec": {
        "type": "object",
        "properties": {
            "limits": {"additionalProperties": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"}},
            "again": {"items": {"$ref": "#/definitions/v1.Job"}, "type": "array"},
        },
    },
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
    "v1.Pod": {
        "type": "object",
        "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}],
    },
    "v1.Other": {"type": "object"},
}
JOB = {"apiVersion": "batch.k8s.io/v1", "kind": "Job"}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "caisson.io",
        "names": {"kind": "Thing"},
        "versions": [{"name": "v2", "schema": {"openAPIV3Schema": {"type": "object", "title": "thing"}}}],
    },
}


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    manifests.write_schemas(DEFINITIONS, [JOB, CRD], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"job-batch-v1.json", "thing-caisson-v2.json"}
    schema = json.loads((tmp_path / "job-batch-v1.json").read_text())
    assert set(schema["definitions"]) == {"v1.Job", "v1.Spec", "io.k8s.apimachinery.pkg.api.resource.Quantity"}
    assert manifests.file_name("v1", "Pod") == "pod-v1.json"


@pytest.mark.parametrize(
    ("spec", "valid"),
    [
        ({"limits": {"cpu": 1, "memory": "1Gi"}}, True),
        ({"limits": {"cpu": []}}, False),
        ({"limit": {}}, False),
        ({"again": [{"kind": "Job", "spec": {"more": 1}}]}, False),
    ],
)
def test_a_schema_takes_what_the_api_takes(tmp_path: Path, spec: dict[str, Any], valid: bool) -> None:
    manifests.write_schemas(DEFINITIONS, [JOB], tmp_path)
    schema = json.loads((tmp_path / "job-batch-v1.json").read_text())
    assert jsonschema.Draft7Validator(schema).is_valid({"kind": "Job", "spec": spec}) == valid
