"""The host of the scenario for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.segment_host import SegmentHost, lab_name

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
