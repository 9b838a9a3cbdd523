"""The hosts of the scenario, and its cluster as each of them sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.cluster import Cluster
from tests.support.control_planes import ControlPlanes
from tests.support.segment_host import lab_name

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def planes() -> ControlPlanes:
    return ControlPlanes(SCENARIO)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster, asked through the forwarder of the first host."""
    return Cluster(lab_name(SCENARIO), "node1")
