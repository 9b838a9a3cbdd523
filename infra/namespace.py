"""A namespace that is safe to hand out: what it may use, what its pods may be, and whom they may talk to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pulumi
import pulumi_kubernetes as k8s

from infra import names

PodSecurity = Literal["restricted", "baseline", "privileged"]

_DNS_NAMESPACE = "kube-system"
_DNS_LABELS = {"k8s-app": "kube-dns"}
_DNS_PORT = 53


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What all pods and claims of a namespace may use together; 0 is none at all."""

    cpus: float
    memory_mb: int
    pods: int
    storage_gb: int
    claims: int
    hugepages_2mi_mb: int


@dataclass(frozen=True, kw_only=True)
class ContainerResources:
    """Processors and memory of a container, as request and as limit."""

    cpus: float
    memory_mb: int


@dataclass(frozen=True, kw_only=True)
class NamespaceArgs:
    """What a namespace is made of."""

    name: str
    quota: Quota
    container: ContainerResources
    """Of a container that says nothing."""
    container_most: ContainerResources
    """The largest container."""
    pod_security: PodSecurity = "restricted"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    scraped_from: str | None = None
    """The namespace from which metrics of pods that allow it may be read."""

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found = []
        if problem := names.problem_of(self.name):
            found.append(f"{self.name!r} {problem}")
        if self.name == "default" or self.name.startswith("kube-"):
            found.append(f"{self.name} is a namespace of Kubernetes itself")
        for what, one, most, all_ in (
            ("cpus", self.container.cpus, self.container_most.cpus, self.quota.cpus),
            ("memory_mb", self.container.memory_mb, self.container_most.memory_mb, self.quota.memory_mb),
        ):
            if one <= 0:
                found.append(f"{self.name}: container.{what} is {one:g}; it must be more than 0")
            if one > most:
                found.append(f"{self.name}: container.{what} is {one:g}, more than container_most.{what}, {most:g}")
            if most > all_:
                found.append(
                    f"{self.name}: quota.{what} is {all_:g}, too small for its largest container ({most:g}); "
                    f"raise quota.{what} or lower container_most.{what}"
                )
        if self.quota.pods < 1:
            found.append(f"{self.name}: quota.pods is {self.quota.pods}; a namespace without a pod is of no use")
        return found


class Namespace(pulumi.ComponentResource):
    """A namespace with a quota, a limit range, Pod Security labels and network policies that deny by default.

    Open are the way to the cluster's name servers and, with `scraped_from`, the port `metrics` of labelled pods.
    """

    name: pulumi.Output[str]

    def __init__(self, name: str, args: NamespaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:Namespace", name, {}, opts)
        if problems := args.problems():
            raise ValueError("; ".join(problems))
        levels = {
            f"pod-security.kubernetes.io/{mode}{key}": value
            for mode in ("enforce", "audit", "warn")
            for key, value in (("", args.pod_security), ("-version", "latest"))
        }
        self.namespace = k8s.core.v1.Namespace(
            name,
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=args.name,
                labels={**names.PART_OF, **levels, **args.labels},
                annotations=dict(args.annotations) or None,
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.name = self.namespace.metadata.name
        self._inside = pulumi.ResourceOptions(parent=self, depends_on=[self.namespace])
        self.quota = self._quota(name, args)
        self.limits = self._limits(name, args)
        self.policies = self._policies(name, args)
        self.register_outputs({"name": self.name})

    def _metadata(self, name: str) -> k8s.meta.v1.ObjectMetaArgs:
        return k8s.meta.v1.ObjectMetaArgs(name=name, namespace=self.name, labels=names.PART_OF)

    def _quota(self, name: str, args: NamespaceArgs) -> k8s.core.v1.ResourceQuota:
        quota = args.quota
        cpus, memory = _cpus(quota.cpus), _bytes(quota.memory_mb)
        return k8s.core.v1.ResourceQuota(
            name,
            metadata=self._metadata("caisson"),
            spec=k8s.core.v1.ResourceQuotaSpecArgs(
                hard={
                    "requests.cpu": cpus,
                    "limits.cpu": cpus,
                    "requests.memory": memory,
                    "limits.memory": memory,
                    "requests.hugepages-2Mi": _bytes(quota.hugepages_2mi_mb),
                    "requests.storage": _bytes(quota.storage_gb * 1024),
                    "persistentvolumeclaims": str(quota.claims),
                    "pods": str(quota.pods),
                    # what would listen on a node's own addresses
                    "services.nodeports": "0",
                    "services.loadbalancers": "0",
                }
            ),
            opts=self._inside,
        )

    def _limits(self, name: str, args: NamespaceArgs) -> k8s.core.v1.LimitRange:
        usual, most = _resources(args.container), _resources(args.container_most)
        return k8s.core.v1.LimitRange(
            name,
            metadata=self._metadata("caisson"),
            spec=k8s.core.v1.LimitRangeSpecArgs(
                limits=[
                    k8s.core.v1.LimitRangeItemArgs(type="Container", default=usual, default_request=usual, max=most)
                ]
            ),
            opts=self._inside,
        )

    def _policies(self, name: str, args: NamespaceArgs) -> list[k8s.networking.v1.NetworkPolicy]:
        everyone = k8s.meta.v1.LabelSelectorArgs()
        specs = {
            "default-deny": k8s.networking.v1.NetworkPolicySpecArgs(
                pod_selector=everyone, policy_types=["Ingress", "Egress"]
            ),
            "names": k8s.networking.v1.NetworkPolicySpecArgs(
                pod_selector=everyone,
                policy_types=["Egress"],
                egress=[
                    k8s.networking.v1.NetworkPolicyEgressRuleArgs(
                        to=[_peer(_DNS_NAMESPACE, _DNS_LABELS)],
                        ports=[
                            k8s.networking.v1.NetworkPolicyPortArgs(protocol=protocol, port=_DNS_PORT)
                            for protocol in ("UDP", "TCP")
                        ],
                    )
                ],
            ),
        }
        if args.scraped_from:
            specs["metrics"] = k8s.networking.v1.NetworkPolicySpecArgs(
                pod_selector=k8s.meta.v1.LabelSelectorArgs(match_labels={names.SCRAPE: "true"}),
                policy_types=["Ingress"],
                ingress=[
                    k8s.networking.v1.NetworkPolicyIngressRuleArgs(
                        from_=[_peer(args.scraped_from)],
                        ports=[k8s.networking.v1.NetworkPolicyPortArgs(protocol="TCP", port="metrics")],
                    )
                ],
            )
        return [
            k8s.networking.v1.NetworkPolicy(
                f"{name}-{key}", metadata=self._metadata(f"caisson-{key}"), spec=spec, opts=self._inside
            )
            for key, spec in specs.items()
        ]


def _peer(namespace: str, pods: Mapping[str, str] | None = None) -> k8s.networking.v1.NetworkPolicyPeerArgs:
    # every namespace has its name as this label
    of = k8s.meta.v1.LabelSelectorArgs(match_labels={"kubernetes.io/metadata.name": namespace})
    selected = k8s.meta.v1.LabelSelectorArgs(match_labels=dict(pods)) if pods else None
    return k8s.networking.v1.NetworkPolicyPeerArgs(namespace_selector=of, pod_selector=selected)


def _cpus(number: float) -> str:
    """Return processors as Kubernetes writes them itself, so that what it says is what was asked."""
    milli = round(number * 1000)
    return f"{milli}m" if milli % 1000 else str(milli // 1000)


def _bytes(mb: int) -> str:
    """Return a size (MiB) as Kubernetes writes it itself: in the largest unit that leaves no fraction."""
    units = ["Mi", "Gi", "Ti", "Pi"]
    while len(units) > 1 and mb and mb % 1024 == 0:
        mb //= 1024
        units.pop(0)
    return f"{mb}{units[0]}" if mb else "0"


def _resources(of: ContainerResources) -> dict[str, str]:
    return {"cpu": _cpus(of.cpus), "memory": _bytes(of.memory_mb)}
