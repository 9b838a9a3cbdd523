"""Regression suites that no one here wrote, their functions moved to plcontainer: PL/Python's, and PL/R's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conformance.differences import compare, explained, judge, summary
from tests.conformance.suites import SUITES, postgresql_of, prepare
from tests.support import regress
from tests.support.archive import ArchiveError
from tests.support.segment_host import SegmentHost


@pytest.mark.parametrize("name", SUITES)
def test_only_what_is_explained_differs(segment: SegmentHost, name: str, tmp_path: Path) -> None:
    suite = SUITES[name]
    try:
        tests = prepare(suite, segment.debian(), tmp_path)
    except ArchiveError as error:
        if suite.may_be_absent:
            pytest.skip(f"no source of {name}: {str(error).splitlines()[0]}")
        raise
    regress.run(segment, tmp_path, tests, load_extension=False)
    regress.fetch_results(segment, tmp_path)
    found = compare(tmp_path, tests)
    print(f"{name}: {summary(tests, found)}")
    problems = judge(found, explained(suite, postgresql_of(segment.debian())))
    assert not problems, "\n\n".join(problems)
