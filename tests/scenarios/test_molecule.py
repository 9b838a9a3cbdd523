"""Every molecule scenario, as `molecule test` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASKED_FOR = set(os.environ.get("CAISSON_WITH", "").split())
OF_ITS_OWN = {"kubernetes", "kubernetes_changed", "selinux"} - ASKED_FOR
"""Run by `make test-kubernetes`, which compiles Kubernetes where that has not been done, and by `make test-selinux`: a
virtual machine whose processor may have to be emulated. `make test WITH=selinux` runs one with all others."""
GUEST = "selinux"
SCENARIOS = sorted({file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml")} - OF_ITS_OWN)


def run(scenario: str) -> subprocess.CompletedProcess[str]:
    """Run a scenario as people do; both streams are in its ``stdout``."""
    bin_directory = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [str(bin_directory / "molecule"), "test", "--scenario-name", scenario],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def guest() -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """Start the scenario whose virtual machine keeps one processor busy, and no more."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(run, GUEST)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, request: pytest.FixtureRequest) -> None:
    # The default one has limits of time to keep, so it is alone; the others leave a processor to the guest.
    beside = request.getfixturevalue("guest") if GUEST in SCENARIOS and scenario != "default" else None
    done = beside.result() if beside and scenario == GUEST else run(scenario)
    assert done.returncode == 0, done.stdout[-20000:]


def test_the_default_scenario_is_there() -> None:
    assert "default" in SCENARIOS


def test_scenarios_that_are_asked_for_are_there() -> None:
    assert set(SCENARIOS) >= ASKED_FOR, "make test WITH=... names scenarios, which are folders of molecule/"
