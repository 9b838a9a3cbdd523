"""Runs in a container of the image selinux_policy: asks a policy what is allowed.

Standard input: JSON, a list of [source, target, class]. Standard output: JSON, the sorted permissions of each, from all
rules that hold unconditionally or under a boolean; each type's MCS constraint (whether its categories hold it back)
under "constrained".
"""

import itertools
import json
import sys
from pathlib import Path

import setools


def names(policy: setools.SELinuxPolicy, name: str) -> list[str]:
    """A type and its attributes: what rules call it."""
    return [name, *map(str, policy.lookup_type(name).attributes())]


def main() -> None:
    policy = setools.SELinuxPolicy(str(next(Path("/etc/selinux/default/policy").glob("policy.*"))))
    questions = [tuple(row) for row in json.load(sys.stdin)]
    called = {name: names(policy, name) for source, target, _ in questions for name in (source, target)}
    # One pass over all rules: there are some 200,000.
    asked: dict[tuple[str, str, str], list[int]] = {}
    for number, (source, target, kind) in enumerate(questions):
        for pair in itertools.product(called[source], called[target]):
            asked.setdefault((*pair, kind), []).append(number)
    answers: list[set[str]] = [set() for _ in questions]
    for rule in policy.terules():
        if rule.ruletype == setools.TERuletype.allow:
            for number in asked.get((str(rule.source), str(rule.target), str(rule.tclass)), ()):
                answers[number] |= rule.perms
    constrained = sorted(str(one) for one in policy.lookup_typeattr("mcs_constrained_type").expand())
    json.dump({"answers": [sorted(one) for one in answers], "constrained": constrained}, sys.stdout)


main()
