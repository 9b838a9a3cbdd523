"""How a suite's results are judged."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.conformance.differences import LIST, Difference, Explained, compare, judge, summary
from tests.conformance.suites import SUITES


def directory(path: Path, got: str, **expected: str) -> Path:
    for name in ("expected", "results"):
        (path / name).mkdir()
    for name, text in expected.items():
        (path / "expected" / f"{name}.out").write_text(text)
    (path / "results/t.out").write_text(got)
    return path


def test_the_nearest_alternative_counts(tmp_path: Path) -> None:
    found = compare(directory(tmp_path, "a\nB\nc\n", t="x\ny\nz\n", t_3="a\nb\nc\n"), ["t"])
    assert [(difference.test, difference.line, difference.text) for difference in found] == [("t", 2, "-b\n+B")]
    assert summary(["t", "u"], found) == "2 tests run, 1 pass, 1 differ in 1 places"


def test_equal_output_has_no_difference(tmp_path: Path) -> None:
    assert compare(directory(tmp_path, "a\n", t="a\n"), ["t"]) == []


def test_each_difference_needs_a_reason_of_its_own() -> None:
    difference = Difference("t", 2, "-b\n+B")
    entry = Explained("t", "because", (difference.key,))
    assert judge([difference], [entry]) == []
    assert "Not explained: t, line 2" in judge([difference, difference], [entry])[0]
    assert judge([], [entry]) == [f"Explained, but gone: t {difference.key}"]
    assert len(judge([Difference("other", 2, "-b\n+B")], [entry])) == 2
    assert judge([], [Explained("t", "because", (difference.key,), is_optional=True)]) == []


def test_the_list_has_reasons_for_suites_that_exist() -> None:
    listed = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    assert set(listed) <= set(SUITES)
    for tests in listed.values():
        for entries in tests.values():
            for entry in entries:
                assert set(entry) <= {"reason", "differences", "postgresql", "optional"}
                assert entry["reason"].strip()
                assert entry["differences"]
