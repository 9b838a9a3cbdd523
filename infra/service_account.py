"""A service account that may do little, says what for, and whose changes the audit log explains."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra import names

_CHANGES = ["CREATE", "UPDATE", "DELETE", "CONNECT"]
_ESCALATES = {"escalate", "bind", "impersonate"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What may be done with which resources. `non_resource_urls` needs a rule of its own, for the whole cluster."""

    api_groups: tuple[str, ...] = ("",)
    resources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ("get",)
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found = [
            f"* in {what}: a service account names what it does"
            for what in ("api_groups", "resources", "verbs", "resource_names")
            if "*" in getattr(self, what)
        ]
        found += [f"the verb {verb} gives rights to whoever has it" for verb in self.verbs if verb in _ESCALATES]
        if bool(self.resources) == bool(self.non_resource_urls):
            found.append("a rule has resources or non_resource_urls, one of them")
        return found

    def rendered(self) -> k8s.rbac.v1.PolicyRuleArgs:
        """Return it as Kubernetes has it."""
        if self.non_resource_urls:
            return k8s.rbac.v1.PolicyRuleArgs(non_resource_urls=list(self.non_resource_urls), verbs=list(self.verbs))
        return k8s.rbac.v1.PolicyRuleArgs(
            api_groups=list(self.api_groups),
            resources=list(self.resources),
            resource_names=list(self.resource_names) or None,
            verbs=list(self.verbs),
        )


@dataclass(frozen=True, kw_only=True)
class AuditedServiceAccountArgs:
    """What a service account is made of."""

    name: str
    namespace: str
    """The namespace's name; name the namespace in `depends_on` where it is made by the same stack."""
    purpose: str
    """What it is for, a sentence: an annotation of it, and of each of its changes in the audit log."""
    owner: str
    """Whom to ask."""
    rules: tuple[Rule, ...] = ()
    """In its namespace."""
    cluster_rules: tuple[Rule, ...] = ()
    """In the whole cluster."""

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found = [f"{self.name!r} {problem}"] if (problem := names.problem_of(self.name)) else []
        found += [
            f"{self.name}: its {what} is empty" for what in ("purpose", "owner") if not getattr(self, what).strip()
        ]
        found += [f"{self.name}: {p}" for rule in (*self.rules, *self.cluster_rules) for p in rule.problems()]
        if any(rule.non_resource_urls for rule in self.rules):
            found.append(f"{self.name}: non_resource_urls belong into cluster_rules")
        return found


class AuditedServiceAccount(pulumi.ComponentResource):
    """A service account without a token in pods that do not ask for one, with exactly the rights that are named.

    An admission policy that refuses nothing writes its purpose to the audit log with each of its changes.
    """

    name: pulumi.Output[str]

    def __init__(self, name: str, args: AuditedServiceAccountArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:AuditedServiceAccount", name, {}, opts)
        if problems := args.problems():
            raise ValueError("; ".join(problems))
        self._inside = pulumi.ResourceOptions(parent=self)
        self.account = k8s.core.v1.ServiceAccount(
            name,
            metadata=k8s.meta.v1.ObjectMetaArgs(
                name=args.name,
                namespace=args.namespace,
                labels=names.PART_OF,
                annotations={names.PURPOSE: args.purpose, names.OWNER: args.owner},
            ),
            automount_service_account_token=False,
            opts=self._inside,
        )
        self.name = self.account.metadata.name
        everywhere = f"caisson:{args.namespace}:{args.name}"
        if args.rules:
            metadata = k8s.meta.v1.ObjectMetaArgs(name=args.name, namespace=args.namespace, labels=names.PART_OF)
            role = k8s.rbac.v1.Role(
                name, metadata=metadata, rules=[rule.rendered() for rule in args.rules], opts=self._inside
            )
            k8s.rbac.v1.RoleBinding(
                name,
                metadata=metadata,
                role_ref=_reference("Role", role.metadata.name),
                subjects=self._subjects(args),
                opts=self._inside,
            )
        if args.cluster_rules:
            metadata = k8s.meta.v1.ObjectMetaArgs(name=everywhere, labels=names.PART_OF)
            cluster_role = k8s.rbac.v1.ClusterRole(
                name, metadata=metadata, rules=[rule.rendered() for rule in args.cluster_rules], opts=self._inside
            )
            k8s.rbac.v1.ClusterRoleBinding(
                name,
                metadata=metadata,
                role_ref=_reference("ClusterRole", cluster_role.metadata.name),
                subjects=self._subjects(args),
                opts=self._inside,
            )
        self._audit(name, args)
        self.register_outputs({"name": self.name})

    def _subjects(self, args: AuditedServiceAccountArgs) -> list[k8s.rbac.v1.SubjectArgs]:
        return [k8s.rbac.v1.SubjectArgs(kind="ServiceAccount", name=self.name, namespace=args.namespace)]

    def _audit(self, name: str, args: AuditedServiceAccountArgs) -> None:
        metadata = k8s.meta.v1.ObjectMetaArgs(name=f"audit.{args.name}.{args.namespace}.caisson", labels=names.PART_OF)
        user = f"system:serviceaccount:{args.namespace}:{args.name}"
        policy = k8s.admissionregistration.v1.ValidatingAdmissionPolicy(
            name,
            metadata=metadata,
            spec=k8s.admissionregistration.v1.ValidatingAdmissionPolicySpecArgs(
                failure_policy="Ignore",
                match_constraints=k8s.admissionregistration.v1.MatchResourcesArgs(
                    resource_rules=[
                        k8s.admissionregistration.v1.NamedRuleWithOperationsArgs(
                            api_groups=["*"], api_versions=["*"], resources=["*/*"], operations=_CHANGES, scope="*"
                        )
                    ]
                ),
                match_conditions=[
                    k8s.admissionregistration.v1.MatchConditionArgs(
                        name="this-account", expression=f"request.userInfo.username == {cel_text(user)}"
                    )
                ],
                audit_annotations=[
                    k8s.admissionregistration.v1.AuditAnnotationArgs(
                        key="purpose", value_expression=cel_text(f"{args.purpose} (ask {args.owner})")
                    )
                ],
            ),
            opts=self._inside,
        )
        k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
            name,
            metadata=metadata,
            spec=k8s.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpecArgs(
                policy_name=policy.metadata.name, validation_actions=["Audit"]
            ),
            opts=self._inside,
        )


def cel_text(text: str) -> str:
    """Return a text as CEL writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _reference(kind: str, name: pulumi.Input[str]) -> k8s.rbac.v1.RoleRefArgs:
    return k8s.rbac.v1.RoleRefArgs(api_group="rbac.authorization.k8s.io", kind=kind, name=name)
