"""The cluster that all tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import campaign
from .cluster import Cluster, UnavailableError, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server with the sanitizers, and in it what the campaigns use."""
    try:
        with running(**{"plcontainer.cancel_grace": "100ms"}) as made:
            campaign.prepare(made)
            yield made
    except UnavailableError as reason:
        pytest.skip(str(reason))
