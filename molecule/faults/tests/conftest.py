"""The hosts of the scenario, as its tests begin with them: bare."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from tests.support import playbooks
from tests.support.segment_host import SegmentHost, lab_name
from tests.support.snapshot import Snapshot, snapshot

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run() -> playbooks.Run:
    return functools.partial(playbooks.run, SCENARIO)


@pytest.fixture(scope="session")
def one() -> SegmentHost:
    return SegmentHost(lab_name(SCENARIO), "segment1")


@pytest.fixture(scope="session")
def two() -> SegmentHost:
    return SegmentHost(lab_name(SCENARIO), "segment2")


@pytest.fixture(scope="session", autouse=True)
def bare(one: SegmentHost) -> Snapshot:
    """Return what the first host consisted of before anything was done to it."""
    return snapshot(one)
