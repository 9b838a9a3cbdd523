"""The platform's settings, whole and checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import names, network_attachment, settings
from infra.image_reference import ImageReference
from infra.local_storage import LocalStorageArgs, LocalVolume
from infra.namespace import ContainerResources, NamespaceArgs, PodSecurity, Quota
from infra.priority_classes import PriorityClassArgs, problems_of
from infra.tenant import TenantArgs, overlaps

PREFIX = "platform_"
NOT_SETTINGS = ("kubeconfig", "context")
"""Keys of Pulumi's configuration that say which cluster."""


@dataclass(frozen=True, kw_only=True)
class TenantDefaults:
    """What a tenant gets unless it says otherwise."""

    pod_security: PodSecurity
    quota: Quota
    container: ContainerResources
    container_most: ContainerResources


@dataclass(frozen=True, kw_only=True)
class TenantSettings(TenantDefaults):
    """A tenant, with what it did not say filled in."""

    name: str
    run_as_first: int
    operators: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Given:
    """The settings as they are written; the names are those of the files without platform_."""

    namespace: str
    kubernetes_minimum: str
    tenant_defaults: TenantDefaults
    tenants: list[dict[str, Any]]
    run_as_size: int
    priority_classes: tuple[PriorityClassArgs, ...]
    network_attachment_type: bool
    images: dict[str, str]
    local_storage: bool
    local_volumes: tuple[LocalVolume, ...]
    cni_plugins_networks: list[dict[str, Any]]
    kubernetes_addons_storage_class: str


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What the stack is made of."""

    namespace: NamespaceArgs
    kubernetes_minimum: str
    tenants: tuple[TenantArgs, ...]
    networks: dict[str, tuple[str, ...]]
    """Tenant -> the networks its pods may ask for."""
    network_attachment_type: bool
    priority_classes: tuple[PriorityClassArgs, ...]
    images: dict[str, ImageReference]
    storage: LocalStorageArgs
    storage_made: bool
    """Whether the stack makes the storage class, and not the cluster's provisioning."""


def load(configuration: Mapping[str, str], project: str, folder: Path = settings.FOLDER) -> Platform:
    """Return what the settings and a stack's configuration ask for.

    Raises SettingsError with everything that is wrong, found before anything is created.
    """
    overrides = settings.overrides(Given, project, configuration)
    for key in NOT_SETTINGS:
        overrides.pop(key, None)
    given = settings.load(Given, PREFIX, overrides, folder)
    problems: list[str] = []
    merged = _merged(given, overrides, folder)
    tenants = [
        settings.convert(entry, TenantSettings, f"{PREFIX}tenants[{n}]", problems) for n, entry in enumerate(merged)
    ]
    if problems:
        raise settings.SettingsError(problems)
    made = _made(given, tenants)
    if problems := _problems(given, tenants, made):
        raise settings.SettingsError(problems)
    return made


def _merged(given: Given, overrides: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Return each tenant with the defaults under it, as plain values, so that a wrong one is told by its place."""
    plain = overrides.get("tenant_defaults") or settings.files(folder)[f"{PREFIX}tenant_defaults"][1]
    merged = []
    for tenant in given.tenants:
        whole = copy.deepcopy(plain)
        for key, value in tenant.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = {**whole[key], **value} if both else value
        merged.append(whole)
    return merged


def _made(given: Given, tenants: list[TenantSettings]) -> Platform:
    usual = given.tenant_defaults
    return Platform(
        namespace=NamespaceArgs(
            name=given.namespace,
            quota=usual.quota,
            container=usual.container,
            container_most=usual.container_most,
        ),
        kubernetes_minimum=given.kubernetes_minimum,
        tenants=tuple(
            TenantArgs(
                namespace=NamespaceArgs(
                    name=tenant.name,
                    quota=tenant.quota,
                    container=tenant.container,
                    container_most=tenant.container_most,
                    pod_security=tenant.pod_security,
                    scraped_from=given.namespace,
                ),
                run_as_first=tenant.run_as_first,
                run_as_size=given.run_as_size,
                operators=tenant.operators,
                viewers=tenant.viewers,
            )
            for tenant in tenants
        ),
        networks={tenant.name: tenant.networks for tenant in tenants},
        network_attachment_type=given.network_attachment_type,
        priority_classes=given.priority_classes,
        images={
            name: ImageReference.parse(text) for name, text in given.images.items() if not _image_problem(name, text)
        },
        storage=LocalStorageArgs(storage_class=given.kubernetes_addons_storage_class, volumes=given.local_volumes),
        storage_made=given.local_storage,
    )


def _problems(given: Given, tenants: list[TenantSettings], made: Platform) -> list[str]:
    found = made.namespace.problems()
    found += [problem for tenant in made.tenants for problem in tenant.problems()]
    found += overlaps(list(made.tenants))
    found += [f"{t.name} is the platform's own namespace" for t in tenants if t.name == given.namespace]
    found += [p for t in tenants for p in network_attachment.unknown(t.name, t.networks, given.cni_plugins_networks)]
    found += problems_of(made.priority_classes)
    found += [problem for name, text in given.images.items() if (problem := _image_problem(name, text))]
    if given.local_volumes and not given.local_storage:
        found.append(
            f"{PREFIX}local_volumes: volumes come with the cluster (kubernetes_addons_volumes); "
            f"to make them here, say {PREFIX}local_storage, too"
        )
    return found + made.storage.problems()


def _image_problem(name: str, text: str) -> str:
    if problem := names.problem_of(name):
        return f"{PREFIX}images: {name!r} {problem}"
    try:
        ImageReference.parse(text)
    except ValueError as error:
        return f"{PREFIX}images.{name}: {error}"
    return ""
