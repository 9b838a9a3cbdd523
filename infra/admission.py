"""What the API server itself refuses and fills in, for the pods of tenants, whoever sends them.

Pod Security looks at what a pod may do to its node; these look at what it is: its images, its limits, its user ids.
"""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes import admissionregistration as registration

from infra import names, rules
from infra.service_account import cel_text

_RANGE = f"namespaceObject.metadata.?annotations[?{cel_text(names.RUN_AS_RANGE)}].orValue('')"
_FIRST = f"int({_RANGE}.split('/')[0])"

_VARIABLES = {
    "containers": "object.spec.containers + object.spec.?initContainers.orValue([])",
    "ephemeral": "object.spec.?ephemeralContainers.orValue([])",
    "images": "variables.containers.map(c, c.image) + variables.ephemeral.map(c, c.image)",
    "range": _RANGE,
    "first": f"variables.range == '' ? 0 : {_FIRST}",
    "size": "variables.range == '' ? 0 : int(variables.range.split('/')[1])",
    "podUser": "object.spec.?securityContext.?runAsUser.orValue(-1)",
    "users": (
        "variables.containers.map(c, c.?securityContext.?runAsUser.orValue(variables.podUser)) + "
        "variables.ephemeral.map(c, c.?securityContext.?runAsUser.orValue(variables.podUser))"
    ),
}


def _raw(pattern: str) -> str:
    assert "'" not in pattern, pattern
    return f"r'{pattern}'"


_BY_DIGEST = f"i.matches({_raw(rules.DIGEST)})"
_LIMITED = "'cpu' in c.?resources.?limits.orValue({}) && 'memory' in c.?resources.?limits.orValue({})"
_PRIVILEGED = "c.?securityContext.?privileged.orValue(false)"
_MINE = "u >= variables.first && u < variables.first + variables.size"
_PLAIN_SECRET = (
    f"e.?value.orValue('') != '' && e.name.matches({_raw(rules.SECRET_NAME)}) && "
    f"!e.name.matches({_raw(rules.NOT_SECRET_NAME)})"
)

# what must hold, and what is said where it does not
_VALIDATIONS = {
    f"variables.images.all(i, {_BY_DIGEST})": (
        f"'images are named by digest (@sha256:...), unlike ' + variables.images.filter(i, !{_BY_DIGEST}).join(', ')"
    ),
    f"variables.containers.all(c, {_LIMITED})": (
        "'each container has limits of cpu and memory, unlike ' + "
        f"variables.containers.filter(c, !({_LIMITED})).map(c, c.name).join(', ')"
    ),
    f"variables.range == '' || variables.users.all(u, {_MINE})": (
        "'runAsUser lies in this namespace between ' + string(variables.first) + ' and ' + "
        "string(variables.first + variables.size - 1)"
    ),
    f"variables.containers.all(c, !{_PRIVILEGED}) && variables.ephemeral.all(c, !{_PRIVILEGED})": (
        "'no container is privileged'"
    ),
    f"variables.containers.all(c, c.?env.orValue([]).all(e, !({_PLAIN_SECRET})))": (
        "'a secret comes from a Secret or a file, not from a value in env'"
    ),
    "!object.spec.?priorityClassName.orValue('').startsWith('system-')": (
        "'priority classes that begin with system- are for the cluster itself'"
    ),
}


class AdmissionPolicies(pulumi.ComponentResource):
    """Rules for the pods of namespaces with the label caisson/tenant; user ids that are left out are filled in."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:AdmissionPolicies", name, {}, opts)
        self._inside = pulumi.ResourceOptions(parent=self)
        self._metadata = k8s.meta.v1.ObjectMetaArgs(name="pods.caisson", labels=names.PART_OF)
        self._tenants = registration.v1.MatchResourcesArgs(
            namespace_selector=k8s.meta.v1.LabelSelectorArgs(
                match_expressions=[k8s.meta.v1.LabelSelectorRequirementArgs(key=names.TENANT, operator="Exists")]
            )
        )
        self._fill_in(name)
        self._refuse(name)
        self.register_outputs({})

    def _refuse(self, name: str) -> None:
        policy = registration.v1.ValidatingAdmissionPolicy(
            name,
            metadata=self._metadata,
            spec=registration.v1.ValidatingAdmissionPolicySpecArgs(
                failure_policy="Fail",
                match_constraints=registration.v1.MatchResourcesArgs(
                    resource_rules=[
                        _pods(["CREATE", "UPDATE"], ["pods"]),
                        _pods(["UPDATE"], ["pods/ephemeralcontainers"]),
                    ]
                ),
                # a pod of before the rules can still be labelled and go away
                match_conditions=[
                    registration.v1.MatchConditionArgs(
                        name="something-new",
                        expression="request.operation == 'CREATE' || object.spec != oldObject.spec",
                    )
                ],
                variables=[
                    registration.v1.VariableArgs(name=key, expression=expression)
                    for key, expression in _VARIABLES.items()
                ],
                validations=[
                    registration.v1.ValidationArgs(expression=holds, message_expression=said, reason="Forbidden")
                    for holds, said in _VALIDATIONS.items()
                ],
            ),
            opts=self._inside,
        )
        registration.v1.ValidatingAdmissionPolicyBinding(
            name,
            metadata=self._metadata,
            spec=registration.v1.ValidatingAdmissionPolicyBindingSpecArgs(
                policy_name=policy.metadata.name, validation_actions=["Deny", "Audit"], match_resources=self._tenants
            ),
            opts=self._inside,
        )

    def _fill_in(self, name: str) -> None:
        context = "Object.spec.securityContext"
        policy = registration.v1.MutatingAdmissionPolicy(
            name,
            metadata=self._metadata,
            spec=registration.v1.MutatingAdmissionPolicySpecArgs(
                failure_policy="Fail",
                reinvocation_policy="Never",
                match_constraints=registration.v1.MatchResourcesArgs(resource_rules=[_pods(["CREATE"], ["pods"])]),
                match_conditions=[
                    registration.v1.MatchConditionArgs(
                        name="no-user",
                        expression="!has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser)",
                    )
                ],
                mutations=[
                    registration.v1.MutationArgs(
                        patch_type="ApplyConfiguration",
                        apply_configuration=registration.v1.ApplyConfigurationArgs(
                            expression=(
                                f"{_RANGE} == '' ? Object{{}} : Object{{spec: Object.spec{{securityContext: {context}{{"
                                f"runAsUser: {_FIRST}, "
                                f"fsGroup: object.spec.?securityContext.?fsGroup.orValue({_FIRST})}}}}}}"
                            )
                        ),
                    )
                ],
            ),
            opts=self._inside,
        )
        registration.v1.MutatingAdmissionPolicyBinding(
            name,
            metadata=self._metadata,
            spec=registration.v1.MutatingAdmissionPolicyBindingSpecArgs(
                policy_name=policy.metadata.name, match_resources=self._tenants
            ),
            opts=self._inside,
        )


def _pods(operations: list[str], resources: list[str]) -> registration.v1.NamedRuleWithOperationsArgs:
    return registration.v1.NamedRuleWithOperationsArgs(
        api_groups=[""], api_versions=["v1"], resources=resources, operations=operations, scope="Namespaced"
    )
