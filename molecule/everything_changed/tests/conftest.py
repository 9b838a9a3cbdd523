"""The host of the scenario for its tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.segment_host import SegmentHost, lab_name, playbook

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def options() -> dict[str, Any]:
    """Return the options that the scenario sets."""
    found: dict[str, Any] = yaml.safe_load(
        (SCENARIO / "inventory/group_vars/segment_hosts.yml").read_text(encoding="utf-8")
    )
    return found


@pytest.fixture(scope="session")
def segment(options: dict[str, Any]) -> SegmentHost:
    return SegmentHost(lab_name(SCENARIO), "segment1", port=options["segment_host_postgresql_port"])


@pytest.fixture(scope="session")
def role(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return what plays a role of site.yml alone, with some other options, and returns what was said."""
    directory = tmp_path_factory.mktemp("playbooks")

    def play(name: str, *, succeeds: bool, **options: Any) -> str:
        file = directory / f"{name}.yml"
        file.write_text(f"- hosts: segment_hosts\n  become: true\n  gather_facts: false\n  roles: [{name}]\n")
        done = playbook(SCENARIO, "-e", json.dumps(options), file=file)
        assert (done.returncode == 0) is succeeds, done.stdout
        # as people read it, without the breaks of lines
        return " ".join((done.stdout + done.stderr).split())

    return play
