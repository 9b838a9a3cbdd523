"""What a monitoring system needs to read metrics: an account with the rights to find and ask, and no others."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.service_account import AuditedServiceAccount, AuditedServiceAccountArgs, Rule

_LOOK = ("get", "list", "watch")


@dataclass(frozen=True, kw_only=True)
class MonitoringHooksArgs:
    """Where the account lives, and whom to ask about it."""

    namespace: str
    owner: str


class MonitoringHooks(pulumi.ComponentResource):
    """The service account `metrics`. Pods beside it reach the port `metrics` of pods with the label caisson/scrape."""

    account: pulumi.Output[str]

    def __init__(self, name: str, args: MonitoringHooksArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:MonitoringHooks", name, {}, opts)
        made = AuditedServiceAccount(
            name,
            AuditedServiceAccountArgs(
                name="metrics",
                namespace=args.namespace,
                purpose="Finds pods and nodes and reads their metrics.",
                owner=args.owner,
                cluster_rules=(
                    Rule(resources=("nodes", "services", "endpoints", "pods"), verbs=_LOOK),
                    Rule(api_groups=("discovery.k8s.io",), resources=("endpointslices",), verbs=_LOOK),
                    Rule(resources=("nodes/metrics",)),
                    Rule(non_resource_urls=("/metrics",)),
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.account = made.name
        self.register_outputs({"account": self.account})
