"""Differences between what a suite expects and what it got, and the list of those that have a reason."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.suites import Suite, alternatives

LIST = Path(__file__).with_name("expected_differences.yml")


@dataclass(frozen=True)
class Difference:
    """Adjacent lines that were expected (-) and that came instead (+)."""

    test: str
    line: int
    """Where it begins in the output."""
    text: str

    @property
    def key(self) -> str:
        """What names it in the list: it depends on its lines alone."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Say where it is and what it is."""
        return f"{self.test}, line {self.line} of the output, {self.key}:\n{self.text}"


@dataclass(frozen=True)
class Explained:
    """A reason, and the differences that it is the reason of."""

    test: str
    reason: str
    keys: tuple[str, ...]
    is_optional: bool = False
    """The test came with a minor release, which a Debian release may not have yet."""


def compare(directory: Path, tests: list[str]) -> list[Difference]:
    """Return the differences of a suite that was run in ``directory``, each test against its nearest alternative."""
    return [difference for test in tests for difference in _compare(directory, test)]


def _compare(directory: Path, test: str) -> list[Difference]:
    got = _lines(directory / "results" / f"{test}.out")
    candidates = [_differences(test, _lines(file), got) for file in alternatives(directory / "expected", test)]
    return min(candidates, key=lambda found: sum(len(difference.text) for difference in found))


def _differences(test: str, expected: list[str], got: list[str]) -> list[Difference]:
    result = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
        if kind != "equal":
            lines = [f"-{line}" for line in expected[i:j]] + [f"+{line}" for line in got[k:m]]
            result.append(Difference(test, k + 1, "\n".join(lines)))
    return result


def explained(suite: Suite, major: int) -> list[Explained]:
    """Return the list's entries for a suite and a major version of PostgreSQL."""
    listed: dict[str, list[dict[str, Any]]] = yaml.safe_load(LIST.read_text(encoding="utf-8")).get(suite.name) or {}
    return [
        Explained(test, entry["reason"], tuple(entry["differences"]), entry.get("optional", False))
        for test, entries in listed.items()
        for entry in entries
        if major in entry.get("postgresql", [major])
    ]


def judge(found: list[Difference], entries: list[Explained]) -> list[str]:
    """Return what is wrong: differences without a reason, and reasons whose difference is gone."""
    left = Counter((entry.test, key) for entry in entries for key in entry.keys)
    optional = Counter((entry.test, key) for entry in entries for key in entry.keys if entry.is_optional)
    problems = []
    for difference in found:
        name = (difference.test, difference.key)
        if left[name]:
            left[name] -= 1
        else:
            problems.append(f"Not explained: {difference}")
    return problems + [f"Explained, but gone: {test} {key}" for test, key in (left - optional).elements()]


def summary(tests: list[str], found: list[Difference]) -> str:
    """Say how many tests were run, and how they ended."""
    differ = len({difference.test for difference in found})
    return f"{len(tests)} tests run, {len(tests) - differ} pass, {differ} differ in {len(found)} places"


def _lines(file: Path) -> list[str]:
    return file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
