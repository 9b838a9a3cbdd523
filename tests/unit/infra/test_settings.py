"""Settings of stacks: the ones in the project, and those that are wrong, told before anything is created."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from infra import settings
from stacks.platform import configuration, deployment

from tests.unit.infra.declared import declare

ROOT = Path(__file__).resolve().parents[3]
PROJECT = yaml.safe_load((ROOT / "stacks/platform/Pulumi.yaml").read_text(encoding="utf-8"))


def load(folder: Path = settings.FOLDER, **given: Any) -> configuration.Platform:
    texts = {f"platform:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return configuration.load(texts, "platform", folder)


def problems(folder: Path = settings.FOLDER, **given: Any) -> list[str]:
    with pytest.raises(settings.SettingsError) as refused:
        load(folder, **given)
    assert isinstance(refused.value, pulumi.RunError), "Pulumi prints a stack trace otherwise"
    assert str(refused.value).startswith("Nothing was created or changed:")
    return refused.value.problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the settings."""
    for path in settings.FOLDER.glob("*.yml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def changed(folder: Path, **values: Any) -> Path:
    path = folder / "platform.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | values
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not ...}))
    return folder


def test_the_projects_own_settings_make_a_platform() -> None:
    platform = load()
    seen = declare(lambda: deployment.deploy(platform, pulumi.ProviderResource("kubernetes", "cluster", {})))
    assert set(seen.of_kind("caisson:Tenant")) == {tenant.namespace.name for tenant in platform.tenants}
    assert platform.namespace.name in seen.of_kind("Namespace")


def test_configuration_goes_before_settings() -> None:
    tenants = [{"name": "green", "run_as_first": 2_000_000, "quota": {"pods": 3}}]
    platform = load(tenants=tenants, namespace="ours", kubeconfig="/x", context="y")
    (tenant,) = platform.tenants
    usual = load().namespace.quota
    assert (tenant.namespace.name, tenant.namespace.quota.pods) == ("green", 3)
    assert tenant.namespace.quota.cpus == usual.cpus, "the rest of a mapping is as usual"
    assert tenant.namespace.scraped_from == platform.namespace.name == "ours"


def test_an_empty_configuration_says_nothing() -> None:
    empty: dict[str, Any] = {"string": "", "boolean": False, "integer": 0, "array": [], "object": {}}
    given: dict[str, Any] = {key: empty[value["type"]] for key, value in PROJECT["config"].items()}
    assert {key: value["default"] for key, value in PROJECT["config"].items()} == given
    assert load(**given) == load()


def test_pulumis_configuration_is_the_settings() -> None:
    kinds = {"str": "string", "int": "integer", "bool": "boolean", "dict": "object", "list": "array", "tuple": "array"}
    fields = {
        name: kinds.get(str(kind).split("[", maxsplit=1)[0], "object")
        for name, kind in configuration.Given.__annotations__.items()
        if not name.startswith(("cni_plugins_", "kubernetes_addons_"))
    }
    declared = {key: value["type"] for key, value in PROJECT["config"].items()}
    assert declared == fields | dict.fromkeys(configuration.NOT_SETTINGS, "string")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"platform_tenant": []},
            "platform.yml: platform_tenant: there is no such setting; did you mean",
        ),
        ({"platform_zebra": 1}, "platform.yml: platform_zebra: there is no such setting"),
        ({"platform_run_as_size": "many"}, 'platform.yml: platform_run_as_size is "many", and it is a whole number'),
        ({"platform_run_as_size": True}, "platform_run_as_size is true, and it is a whole number"),
        ({"platform_run_as_size": ...}, "platform_run_as_size is missing"),
        ({"platform_tenants": {"name": "a"}}, "platform_tenants is {"),
        ({"platform_tenants": [{"name": "a"}]}, "platform_tenants[0].run_as_first is missing"),
        (
            {"platform_tenants": [{"name": "a", "run_as_first": 70000, "quota": {"cpu": 1}}]},
            "platform_tenants[0].quota.cpu: there is no such setting; did you mean cpus?",
        ),
        (
            {"platform_tenants": [{"name": "a", "run_as_first": 70000, "quota": {"memory_mb": "1Gi"}}]},
            'platform_tenants[0].quota.memory_mb is "1Gi", and it is a whole number',
        ),
        (
            {"platform_tenants": [{"name": "a", "run_as_first": 70000, "quota": {"memory_mb": 100}}]},
            "a: quota.memory_mb is 100, too small for its largest container",
        ),
        (
            {"platform_tenants": [{"name": "a", "run_as_first": 70000, "pod_security": "lax"}]},
            'pod_security is "lax", and it is one of restricted, baseline, privileged',
        ),
        (
            {"platform_tenants": [{"name": "a", "run_as_first": 70000, "networks": ["data"]}]},
            "a: there is no network data that pods can ask for",
        ),
        (
            {"platform_tenants": [{"name": "caisson-system", "run_as_first": 70000}]},
            "caisson-system is the platform's own namespace",
        ),
        ({"platform_images": {"spark": "spark:latest"}}, "platform_images.spark: 'spark:latest' is not repository@"),
        ({"platform_priority_classes": [{"name": "a"}]}, "platform_priority_classes[0].value is missing"),
        (
            {"platform_local_volumes": [{"name": "v", "node": "n", "path": "/v", "gb": 1}]},
            "platform_local_volumes: volumes come with the cluster (kubernetes_addons_volumes)",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(folder: Path, values: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems(changed(folder, **values))), said


def test_everything_is_told_at_once(folder: Path) -> None:
    told = problems(changed(folder, platform_zebra=1, platform_run_as_size="x", platform_namespace=5))
    assert len(told) == 3


def test_configuration_is_held_to_the_same() -> None:
    assert problems(zebra="1") == ["Pulumi configuration: zebra: there is no such setting"]
    assert problems(run_as_size="many") == ['Pulumi configuration: run_as_size is "many", and it is a whole number']


def test_a_file_that_is_no_yaml_is_named(folder: Path) -> None:
    (folder / "limits.yml").write_text("a: [\n")
    (told,) = problems(folder)
    assert re.match(r".*/limits\.yml: .*line 2", told)
    (folder / "limits.yml").write_text("- a\n")
    assert problems(folder)[0].endswith("limits.yml: it is not a mapping of names to values")


def test_a_folder_without_settings_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"there are no settings in {tmp_path}"]
