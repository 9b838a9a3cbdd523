"""A tenant: a namespace of its own, the people who work in it, and the user ids of its pods."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra import names
from infra.namespace import Namespace, NamespaceArgs

_READ = ["get", "list", "watch"]
_WRITE = [*_READ, "create", "update", "patch", "delete", "deletecollection"]
_FIRST_SAFE_ID = 65536
"""Below lie the ids of hosts' own users, and 65534 (nobody)."""
_LAST_ID = 2**31 - 1

# What a person does in a namespace. Quotas, limits, network policies and roles are the platform's: they may be read.
_OPERATOR: list[tuple[list[str], list[str], list[str]]] = [
    (
        [""],
        ["pods", "services", "configmaps", "secrets", "persistentvolumeclaims", "serviceaccounts"],
        _WRITE,
    ),
    ([""], ["pods/exec", "pods/attach", "pods/portforward"], ["get", "create"]),
    ([""], ["pods/log", "pods/status", "events", "resourcequotas", "limitranges", "endpoints"], _READ),
    (["apps"], ["deployments", "deployments/scale", "statefulsets", "statefulsets/scale", "replicasets"], _WRITE),
    (["batch"], ["jobs", "cronjobs"], _WRITE),
    (["policy"], ["poddisruptionbudgets"], _WRITE),
    (["autoscaling"], ["horizontalpodautoscalers"], _WRITE),
    (["networking.k8s.io"], ["networkpolicies"], _READ),
    (["rbac.authorization.k8s.io"], ["roles", "rolebindings"], _READ),
    (["k8s.cni.cncf.io"], ["network-attachment-definitions"], _READ),
    (["metrics.k8s.io"], ["pods"], _READ),
]
_VIEWER: list[tuple[list[str], list[str], list[str]]] = [
    # no secrets, and nothing that could show one
    (groups, [resource for resource in resources if resource != "secrets"], _READ)
    for groups, resources, _ in _OPERATOR
    if "pods/exec" not in resources
]


@dataclass(frozen=True, kw_only=True)
class TenantArgs:
    """What a tenant is made of. `namespace` has its name, and gets labels and annotations from here."""

    namespace: NamespaceArgs
    run_as_first: int
    """The first of its user ids."""
    run_as_size: int
    """How many it has."""
    operators: tuple[str, ...] = ()
    """Groups, as the API server knows them, that work in the namespace."""
    viewers: tuple[str, ...] = ()
    """Groups that look at everything in it but secrets."""

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found, name = self.namespace.problems(), self.namespace.name
        if self.run_as_size < 1:
            found.append(f"{name}: it has no user ids; run_as_size is {self.run_as_size}")
        elif self.run_as_first < _FIRST_SAFE_ID or self.run_as_first + self.run_as_size - 1 > _LAST_ID:
            found.append(
                f"{name}: run_as_first is {self.run_as_first}; its user ids must lie between {_FIRST_SAFE_ID} and "
                f"{_LAST_ID}, where no host has users of its own"
            )
        found += [
            f"{name}: {group} is a group of Kubernetes itself"
            for group in (*self.operators, *self.viewers)
            if group.startswith("system:")
        ]
        return found


def overlaps(tenants: list[TenantArgs]) -> list[str]:
    """Return which tenants have a name or user ids in common, a line each."""
    found = []
    for n, one in enumerate(tenants):
        for other in tenants[n + 1 :]:
            if one.namespace.name == other.namespace.name:
                found.append(f"two tenants have the name {one.namespace.name}")
            low, high = sorted((one, other), key=lambda tenant: tenant.run_as_first)
            if low.run_as_first + low.run_as_size > high.run_as_first:
                found.append(f"{low.namespace.name} and {high.namespace.name} have user ids in common")
    return found


class Tenant(pulumi.ComponentResource):
    """A namespace with its quota, roles for its people, and the range of user ids that admission holds its pods to."""

    name: pulumi.Output[str]

    def __init__(self, name: str, args: TenantArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:Tenant", name, {}, opts)
        if problems := args.problems():
            raise ValueError("; ".join(problems))
        self.run_as_range = f"{args.run_as_first}/{args.run_as_size}"
        given = args.namespace
        self.namespace = Namespace(
            name,
            dataclasses.replace(
                given,
                labels={**given.labels, names.TENANT: given.name},
                annotations={**given.annotations, names.RUN_AS_RANGE: self.run_as_range},
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.name = self.namespace.name
        self.roles = [
            self._role(name, "operator", _OPERATOR, args.operators),
            self._role(name, "viewer", _VIEWER, args.viewers),
        ]
        self.register_outputs({"name": self.name, "run_as_range": self.run_as_range})

    def _role(
        self, name: str, kind: str, rules: list[tuple[list[str], list[str], list[str]]], groups: tuple[str, ...]
    ) -> k8s.rbac.v1.Role:
        metadata = k8s.meta.v1.ObjectMetaArgs(name=f"caisson-{kind}", namespace=self.name, labels=names.PART_OF)
        inside = pulumi.ResourceOptions(parent=self)
        role = k8s.rbac.v1.Role(
            f"{name}-{kind}",
            metadata=metadata,
            rules=[
                k8s.rbac.v1.PolicyRuleArgs(api_groups=of, resources=resources, verbs=verbs)
                for of, resources, verbs in rules
            ],
            opts=inside,
        )
        if groups:
            k8s.rbac.v1.RoleBinding(
                f"{name}-{kind}",
                metadata=metadata,
                role_ref=k8s.rbac.v1.RoleRefArgs(
                    api_group="rbac.authorization.k8s.io", kind="Role", name=role.metadata.name
                ),
                subjects=[
                    k8s.rbac.v1.SubjectArgs(api_group="rbac.authorization.k8s.io", kind="Group", name=group)
                    for group in groups
                ],
                opts=inside,
            )
        return role
