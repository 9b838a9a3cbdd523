"""What the stack deploys, in the order in which the cluster needs it."""

from __future__ import annotations

import pulumi
from infra import names
from infra.admission import AdmissionPolicies
from infra.local_storage import LocalStorage
from infra.monitoring import MonitoringHooks, MonitoringHooksArgs
from infra.namespace import Namespace
from infra.network_attachment import NetworkAttachment, NetworkAttachmentArgs, NetworkAttachments
from infra.priority_classes import PriorityClasses
from infra.tenant import Tenant
from stacks.platform.configuration import Platform

_OWNER = "the platform's operators"


def deploy(platform: Platform, provider: pulumi.ProviderResource) -> dict[str, pulumi.Input[object]]:
    """Declare everything on the cluster of `provider`. Returns the stack's outputs, which later stacks refer to."""
    on_cluster = pulumi.ResourceOptions(providers=[provider])
    # the rules are there before anything that they are for
    admission = AdmissionPolicies("admission", on_cluster)
    ruled = pulumi.ResourceOptions(providers=[provider], depends_on=[admission])

    own = Namespace(platform.namespace.name, platform.namespace, on_cluster)
    monitoring = MonitoringHooks(
        "monitoring",
        MonitoringHooksArgs(namespace=platform.namespace.name, owner=_OWNER),
        pulumi.ResourceOptions(providers=[provider], depends_on=[own]),
    )
    priorities = PriorityClasses("priorities", platform.priority_classes, on_cluster)
    if platform.storage_made:
        LocalStorage("storage", platform.storage, on_cluster)
    type_ = [NetworkAttachments("network-attachments", on_cluster)] if platform.network_attachment_type else []

    tenants: dict[str, pulumi.Input[object]] = {}
    for args in platform.tenants:
        name = args.namespace.name
        tenant = Tenant(name, args, ruled)
        for network in platform.networks[name]:
            NetworkAttachment(
                f"{name}-{network}",
                NetworkAttachmentArgs(network=network, namespace=tenant.name),
                pulumi.ResourceOptions(providers=[provider], depends_on=type_),
            )
        tenants[name] = {
            "namespace": tenant.name,
            "run_as_range": tenant.run_as_range,
            "networks": list(platform.networks[name]),
        }
    return {
        "namespace": own.name,
        "tenants": tenants,
        "priority_classes": priorities.names,
        "storage_class": platform.storage.storage_class,
        "images": {name: str(image) for name, image in platform.images.items()},
        "metrics_account": monitoring.account,
        "scrape_label": names.SCRAPE,
    }
