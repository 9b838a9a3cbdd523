"""What the stack declares, against the API's own description of its kinds."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pytest
from infra import settings
from stacks.platform import configuration, deployment

from builder.packages import find_package
from tests.support import manifests
from tests.unit.infra.declared import declare

_NETWORK = "cni_plugins_networks:\n  - {name: data, type: macvlan, interface: eth1}\n"
_CONFIGURATION = {
    "platform:tenants": '[{"name": "blue", "run_as_first": 70000, "networks": ["data"], "viewers": ["all"]}]',
    "platform:network_attachment_type": "true",
    "platform:local_storage": "true",
    "platform:local_volumes": '[{"name": "v", "node": "n", "path": "/data/v", "gb": 1}]',
}


@pytest.fixture
def documents(tmp_path: Path) -> list[dict[str, object]]:
    """Everything that the stack can declare."""
    folder = tmp_path / "settings"
    folder.mkdir()
    for path in settings.FOLDER.glob("*.yml"):
        (folder / path.name).write_text(_NETWORK if path.name == "networks.yml" else path.read_text())
    platform = configuration.load(_CONFIGURATION, "platform", folder)
    seen = declare(lambda: deployment.deploy(platform, pulumi.ProviderResource("kubernetes", "cluster", {})))
    return [inputs for inputs in seen.resources.values() if "kind" in inputs]


def test_manifests_are_what_the_api_takes(documents: list[dict[str, object]], tmp_path: Path) -> None:
    for package in ("kubernetes", "kubeconform"):
        if find_package(package, "13") is None:
            pytest.skip(f"`python -m builder package {package}` has not been run")
    kinds = {str(document["kind"]) for document in documents}
    assert {"NetworkAttachmentDefinition", "PersistentVolume", "MutatingAdmissionPolicy"} <= kinds
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    assert manifests.problems(documents, schemas) == []
    documents[0]["misspelled"] = True
    assert len(manifests.problems(documents, schemas)) == 1


def test_a_storage_class_that_the_cluster_has_is_referred_to() -> None:
    given = {key: value for key, value in _CONFIGURATION.items() if "local" not in key and "tenants" not in key}
    platform = configuration.load(given, "platform")
    outputs: dict[str, object] = {}
    provider = pulumi.ProviderResource
    seen = declare(lambda: outputs.update(deployment.deploy(platform, provider("kubernetes", "cluster", {}))))
    assert seen.of_kind("StorageClass") == {}
    assert outputs["storage_class"] == settings.files()["kubernetes_addons_storage_class"][1]
