"""What Pulumi's parts have to agree upon."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_programs_and_the_command_are_of_one_version() -> None:
    sdk = re.search(r'"pulumi==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    command = re.search(r"pulumi/pkg/v3 v([\d.]+)", (ROOT / "images/pulumi/go.mod").read_text(encoding="utf-8"))
    assert sdk
    assert command
    assert sdk[1] == command[1]


def test_the_control_node_has_the_sdk() -> None:
    """Of the major version that stacks are written for."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^pulumi-kubernetes==4\.", lock, re.MULTILINE)
    assert re.search(r"^pulumi-policy==", lock, re.MULTILINE)
