"""Kubernetes manifests against the API's own description of them, by kubeconform."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builder.packages import build_package
from builder.programs import find_program

_REF = "#/definitions/"
_KINDS = "x-kubernetes-group-version-kind"
# What the description calls a string is also taken as a number.
_ALSO_NUMBERS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
}


def problems(documents: list[dict[str, Any]], folder: Path) -> list[str]:
    """Return what kubeconform has against manifests, one line each; schemas are written to the empty ``folder``.

    What a CustomResourceDefinition among the manifests defines has a schema, too. A kind without one is a problem.
    """
    kubernetes = build_package("kubernetes", "13", say=print).unpacked()
    description = json.loads((kubernetes / "usr/share/kubernetes/swagger.json").read_text(encoding="utf-8"))
    write_schemas(description["definitions"], documents, folder)
    command = [str(find_program("kubeconform", say=print, own=True)), "-output", "json", "-strict"]
    command += ["-schema-location", f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", "-"]
    text = "\n---\n".join(json.dumps(document) for document in documents)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = [f"{item['kind']} {item['name']}: {item['msg']}" for item in json.loads(done.stdout).get("resources") or []]
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return found


def write_schemas(definitions: dict[str, Any], documents: list[dict[str, Any]], folder: Path) -> None:
    """Write a JSON schema for each kind that is in the manifests, and defined by the API or by a manifest."""
    wanted = {(document["apiVersion"], document["kind"]) for document in documents}
    for name, definition in definitions.items():
        for kind in definition.get(_KINDS, []):
            version = "/".join(filter(None, (kind["group"], kind["version"])))
            if (version, kind["kind"]) in wanted:
                used = {ref: strict(ref, definitions[ref]) for ref in reachable(definitions, name)}
                schema = {"$ref": _REF + name, "definitions": used}
                (folder / file_name(version, kind["kind"])).write_text(json.dumps(schema), encoding="utf-8")
    for document in documents:
        if document["kind"] == "CustomResourceDefinition":
            spec = document["spec"]
            for version in spec["versions"]:
                name = file_name(f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schema = version["schema"]["openAPIV3Schema"]
                (folder / name).write_text(json.dumps(schema), encoding="utf-8")


def file_name(version: str, kind: str) -> str:
    """Return the name under which kubeconform looks for the schema of a kind."""
    group, _, number = version.rpartition("/")
    return "-".join(filter(None, (kind.lower(), group.partition(".")[0], number))) + ".json"


def reachable(definitions: dict[str, Any], name: str) -> set[str]:
    """Return the definitions that one needs, with itself."""
    found: set[str] = set()
    left = [name]
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += references(definitions[one])
    return found


def references(value: Any) -> Iterable[str]:
    """Return the definitions that a value names."""
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref.removeprefix(_REF)
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def strict(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition that takes no fields but its own."""
    if name in _ALSO_NUMBERS:
        return {"type": _ALSO_NUMBERS[name]}
    if "properties" in definition:
        return {"additionalProperties": False, **definition}
    return definition
