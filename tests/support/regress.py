"""PostgreSQL's test driver, pg_regress, on a segment host of a lab."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.segment_host import ROOT, SegmentHost, setting

DIRECTORY = "/var/tmp/plcontainer_regress"


def driver(debian: str) -> str:
    """Return the path of the pg_regress that was built beside the extension's package."""
    command = [sys.executable, "-m", "builder", "package", "plcontainer", "--debian", debian, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["pg_regress"])


def run(segment: SegmentHost, inputs: Path, tests: Sequence[str], *, load_extension: bool) -> str:
    """Run the tests in ``inputs`` (sql and expected) in a database of their own; returns regression.diffs."""
    version = setting("segment_host_postgresql_versions")[segment.debian()]
    database = "plcontainer_regression"
    segment.run("rm", "-rf", DIRECTORY)
    segment.run("mkdir", DIRECTORY)
    for name in ("sql", "expected"):
        _copy(str(inputs / name), f"{segment.container}:{DIRECTORY}")
    _copy(driver(segment.debian()), f"{segment.container}:{DIRECTORY}/pg_regress")
    segment.run("chown", "-R", "postgres:", DIRECTORY)
    options = "--inputdir=. --outputdir=. --host=/run/postgresql --user=postgres"
    options += " --load-extension=plcontainer" if load_extension else ""
    segment.run(
        *("su", "postgres", "-c"),
        f"cd {DIRECTORY} && {{ ./pg_regress --bindir=/usr/lib/postgresql/{version}/bin "
        f"{options} --port={segment.port} --dbname={database} {' '.join(tests)} || [ -s regression.diffs ]; }}",
    )
    segment.sql(f"DROP DATABASE {database}")
    return segment.run("sh", "-c", f"if [ -e {DIRECTORY}/regression.diffs ]; then cat {DIRECTORY}/regression.diffs; fi")


def fetch_results(segment: SegmentHost, target: Path) -> None:
    """Copy what the tests that were run last have printed to ``target``/results."""
    _copy(f"{segment.container}:{DIRECTORY}/results", str(target))


def _copy(source: str, target: str) -> None:
    subprocess.run(["docker", "cp", source, target], check=True, capture_output=True)
