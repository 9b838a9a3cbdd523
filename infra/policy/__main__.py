"""The policy pack: `pulumi preview --policy-pack infra/policy`."""

from __future__ import annotations

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)

from infra.policy.checks import CHECKS, Check


def _policy(name: str, check: Check) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for problem in check(args.resource_type, args.props):
            report(problem, args.urn)

    return ResourceValidationPolicy(name=name, description=(check.__doc__ or "").splitlines()[0], validate=validate)


PolicyPack(
    name="caisson",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[_policy(name, check) for name, check in CHECKS.items()],
)
