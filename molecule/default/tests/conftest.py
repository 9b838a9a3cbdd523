"""Hosts of the scenario for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.segment_host import SegmentHost, Session, host_names, lab_name

SCENARIO = Path(__file__).resolve().parents[1]
WHICH_SANDBOX = """
import re
return re.search("/sandboxes/([0-9a-f]{16}) /run/caisson ", open("/proc/self/mountinfo").read())[1]
"""


@pytest.fixture(scope="session", params=host_names(SCENARIO))
def segment(request: pytest.FixtureRequest) -> SegmentHost:
    segment = SegmentHost(lab_name(SCENARIO), request.param)
    segment.function(WHICH_SANDBOX, "test_sandbox")
    return segment


@pytest.fixture
def session(segment: SegmentHost) -> Iterator[Session]:
    with segment.session() as session:
        yield session
