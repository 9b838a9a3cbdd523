"""Who goes first when a node is full."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra import names

_MOST = 1_000_000_000
"""Above are Kubernetes' own classes."""


@dataclass(frozen=True, kw_only=True)
class PriorityClassArgs:
    """A priority. The pods of one that preempts make those of lower ones leave a full node."""

    name: str
    value: int
    preempts: bool
    description: str


def problems_of(classes: tuple[PriorityClassArgs, ...]) -> list[str]:
    """Return what stands against a list of priorities, a line each."""
    found = []
    for one in classes:
        if problem := names.problem_of(one.name):
            found.append(f"priority class {one.name!r} {problem}")
        if one.name.startswith("system-"):
            found.append(f"priority class {one.name}: names that begin with system- are Kubernetes' own")
        if not 0 <= one.value <= _MOST:
            found.append(f"priority class {one.name}: its value is {one.value}; it lies between 0 and {_MOST}")
    values = [one.value for one in classes]
    found += [f"two priority classes have the value {value}" for value in {v for v in values if values.count(v) > 1}]
    return found


class PriorityClasses(pulumi.ComponentResource):
    """The priorities that pods may name. None is the default: pods that say nothing have 0."""

    names: list[pulumi.Output[str]]

    def __init__(
        self, name: str, classes: tuple[PriorityClassArgs, ...], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("caisson:kubernetes:PriorityClasses", name, {}, opts)
        if problems := problems_of(classes):
            raise ValueError("; ".join(problems))
        made = [
            k8s.scheduling.v1.PriorityClass(
                one.name,
                metadata=k8s.meta.v1.ObjectMetaArgs(name=one.name, labels=names.PART_OF),
                value=one.value,
                preemption_policy="PreemptLowerPriority" if one.preempts else "Never",
                description=one.description,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for one in classes
        ]
        self.names = [one.metadata.name for one in made]
        self.register_outputs({"names": self.names})
