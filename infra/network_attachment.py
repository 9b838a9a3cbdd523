"""Networks that pods may have beside their first one, by Multus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import names

_GROUP, _VERSION, _KIND = "k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition"
_PLURAL = "network-attachment-definitions"


class NetworkAttachments(pulumi.ComponentResource):
    """The type of network attachments, as the Network Plumbing Working Group defines it."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:NetworkAttachments", name, {}, opts)
        text = k8s.apiextensions.v1.JSONSchemaPropsArgs(type="string")
        self.definition = k8s.apiextensions.v1.CustomResourceDefinition(
            name,
            metadata=k8s.meta.v1.ObjectMetaArgs(name=f"{_PLURAL}.{_GROUP}", labels=names.PART_OF),
            spec=k8s.apiextensions.v1.CustomResourceDefinitionSpecArgs(
                group=_GROUP,
                scope="Namespaced",
                names=k8s.apiextensions.v1.CustomResourceDefinitionNamesArgs(
                    kind=_KIND,
                    plural=_PLURAL,
                    singular="network-attachment-definition",
                    short_names=["net-attach-def"],
                ),
                versions=[
                    k8s.apiextensions.v1.CustomResourceDefinitionVersionArgs(
                        name=_VERSION,
                        served=True,
                        storage=True,
                        schema=k8s.apiextensions.v1.CustomResourceValidationArgs(
                            open_apiv3_schema=k8s.apiextensions.v1.JSONSchemaPropsArgs(
                                type="object",
                                properties={
                                    "spec": k8s.apiextensions.v1.JSONSchemaPropsArgs(
                                        type="object", properties={"config": text}
                                    )
                                },
                            )
                        ),
                    )
                ],
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class NetworkAttachmentArgs:
    """A network that the nodes have (`cni_plugins_networks`), for the pods of one namespace."""

    network: str
    namespace: pulumi.Input[str]


def available(networks: list[dict[str, Any]]) -> list[str]:
    """Return the names that pods may ask for, from the setting cni_plugins_networks."""
    found: list[str] = []
    for network in networks:
        if network.get("every_pod"):
            continue
        # a virtual function is a network of its own
        functions = int(network.get("vfs", 1)) if network.get("type") == "sriov" else None
        name = str(network.get("name"))
        found += [name] if functions is None else [f"{name}-vf{n}" for n in range(functions)]
    return found


class NetworkAttachment(pulumi.ComponentResource):
    """Lets the pods of a namespace ask for a network: `k8s.v1.cni.cncf.io/networks: <network>`.

    It has the name alone: each node has the configuration in a file of that name, with its own interface and addresses.
    """

    def __init__(self, name: str, args: NetworkAttachmentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:NetworkAttachment", name, {}, opts)
        if problem := names.problem_of(args.network):
            raise ValueError(f"{args.network!r} {problem}")
        self.attachment = k8s.apiextensions.CustomResource(
            name,
            api_version=f"{_GROUP}/{_VERSION}",
            kind=_KIND,
            metadata=k8s.meta.v1.ObjectMetaArgs(name=args.network, namespace=args.namespace, labels=names.PART_OF),
            spec={},
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"network": args.network})


def unknown(tenant: str, wanted: tuple[str, ...], networks: list[dict[str, Any]]) -> list[str]:
    """Return which networks of a tenant no node has, a line each."""
    known = available(networks)
    return [
        f"{tenant}: there is no network {name} that pods can ask for; cni_plugins_networks has "
        f"{', '.join(known) or 'none without every_pod'}"
        for name in wanted
        if name not in known
    ]
