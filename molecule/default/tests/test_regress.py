"""The extension's own regression tests, on every PostgreSQL version of the scenario, against the real server."""

from __future__ import annotations

import re

from tests.support import regress
from tests.support.segment_host import ROOT, SegmentHost

EXTENSION = ROOT / "src/plcontainer"


def registered() -> list[str]:
    """Return the tests that the extension's Makefile runs."""
    found = re.findall(r"^REGRESS \+?= ((?:[^\n\\]|\\\n)*)", (EXTENSION / "Makefile").read_text(), re.MULTILINE)
    assert found
    return " ".join(found).replace("\\\n", " ").split()


def test_all_of_them_are_run() -> None:
    assert {file.stem for file in (EXTENSION / "sql").glob("*.sql")} == set(registered())


def test_pg_regress(segment: SegmentHost) -> None:
    assert not regress.run(segment, EXTENSION, registered(), load_extension=True)
