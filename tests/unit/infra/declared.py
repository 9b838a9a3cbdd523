"""What a program declares, with Pulumi's engine replaced by a recorder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks


@dataclass
class Declared(mocks.Mocks):
    """Resources by kind and name in the cluster; components by caisson: and their kind, and their name in the stack."""

    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        name = (args.inputs.get("metadata") or {}).get("name") or args.name
        namespace = (args.inputs.get("metadata") or {}).get("namespace")
        kind = args.typ.rsplit(":", 1)[-1]
        if args.typ.startswith("caisson:"):
            kind = f"caisson:{kind}"
        key = (kind, f"{namespace}/{name}" if namespace else name)
        assert key not in self.resources, key
        self.resources[key] = args.inputs
        return f"{args.name}-id", args.inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(args)

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Any]:
        return self.resources[key]

    def of_kind(self, kind: str) -> dict[str, dict[str, Any]]:
        return {name: inputs for (found, name), inputs in self.resources.items() if found == kind}


def declare(program: Callable[[], object]) -> Declared:
    """Run a program until everything that it declares has been recorded."""
    recorder = Declared()
    mocks.set_mocks(recorder, project="platform", stack="test")

    def run() -> None:
        program()

    pulumi.runtime.test(run)()  # type: ignore[no-untyped-call]
    return recorder
