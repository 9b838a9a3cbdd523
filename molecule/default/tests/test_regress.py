"""The extension's own regression tests, on every PostgreSQL version of the scenario, against the real server."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.segment_host import ROOT, SegmentHost, setting

DIRECTORY = "/var/tmp/plcontainer_regress"
TESTS = ("install", "line", "types", "errors", "session")


def pg_regress(debian: str) -> str:
    """Return the path of PostgreSQL's test driver that was built beside the extension's package."""
    command = [sys.executable, "-m", "builder", "package", "plcontainer", "--debian", debian, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["pg_regress"])


def copy_in(segment: SegmentHost, source: str, target: str) -> None:
    subprocess.run(["docker", "cp", source, f"{segment.container}:{target}"], check=True, capture_output=True)


def test_all_of_them_are_run() -> None:
    files = {file.stem for file in (ROOT / "src/plcontainer/sql").glob("*.sql")}
    assert files == set(TESTS)


def test_pg_regress(segment: SegmentHost) -> None:
    version = setting("segment_host_postgresql_versions")[segment.debian()]
    segment.run("rm", "-rf", DIRECTORY)
    segment.run("mkdir", DIRECTORY)
    for directory in ("sql", "expected"):
        copy_in(segment, str(ROOT / "src/plcontainer" / directory), DIRECTORY)
    copy_in(segment, pg_regress(segment.debian()), f"{DIRECTORY}/pg_regress")
    segment.run("chown", "-R", "postgres:", DIRECTORY)
    command = (
        f"cd {DIRECTORY} && ./pg_regress --bindir=/usr/lib/postgresql/{version}/bin --inputdir=. --outputdir=. "
        f"--host=/run/postgresql --user=postgres --dbname=plcontainer_regression --load-extension=plcontainer "
        f"{' '.join(TESTS)} || {{ cat regression.diffs; exit 1; }}"
    )
    segment.run("su", "postgres", "-c", command)
    segment.sql("DROP DATABASE plcontainer_regression")
