"""The host of the scenario, and its cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cluster import Cluster
from tests.support.segment_host import lab_name

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster(lab_name(SCENARIO), "node1")


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that admits what is `restricted` alone."""
    name = request.node.name.replace("_", "-").removeprefix("test-")[:40].rstrip("-")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.made({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.run("delete", "namespace", name, "--wait=false")
