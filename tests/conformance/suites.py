"""Regression suites of other projects, made ready for pg_regress."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.project import settings
from tests.conformance.sources import fetch
from tests.conformance.swap import Language, Swap


@dataclass(frozen=True)
class Suite:
    """A regression suite: where its sources are, and what is replaced in them."""

    name: str
    package: Callable[[int], str]
    """The Debian source package for a major version of PostgreSQL."""
    subtree: str
    """The folder that holds Makefile, sql and expected."""
    language: Language
    may_be_absent: bool = False
    """Not every mirror has its source."""


PLPYTHON = Suite(
    "plpython",
    lambda major: f"postgresql-{major}",
    "src/pl/plpython",
    Language(("plpython3u",), "PL/Python", "plc_python_shared"),
)
PLR = Suite("plr", lambda _: "plr", ".", Language(("plr",), "PL/R", "plc_r_shared"), may_be_absent=True)
SUITES = {suite.name: suite for suite in (PLPYTHON, PLR)}


def postgresql_of(release: str) -> int:
    """Return the major version of PostgreSQL that a Debian release has."""
    return settings().postgresql_versions[release]


def prepare(suite: Suite, release: str, target: Path) -> list[str]:
    """Write a suite's scripts and expected outputs to ``target``; returns its tests in the order in which they run."""
    source = fetch(suite.package(postgresql_of(release)), release, suite.subtree)
    for directory in ("sql", "expected"):
        shutil.rmtree(target / directory, ignore_errors=True)
        (target / directory).mkdir(parents=True)
    tests = _tests(source / "Makefile")
    for test in tests:
        sql = _read(source / "sql" / f"{test}.sql")
        _write(target / "sql" / f"{test}.sql", Swap(suite.language).script(sql))
        for file in alternatives(source / "expected", test):
            _write(target / "expected" / file.name, Swap(suite.language).output(sql, _read(file)))
    return tests


def alternatives(expected: Path, test: str) -> list[Path]:
    """Return the outputs that a test may have, as pg_regress looks for them."""
    names = (f"{test}.out", *(f"{test}_{number}.out" for number in range(10)))
    return [expected / name for name in names if (expected / name).exists()]


def _tests(makefile: Path) -> list[str]:
    """Return the tests that a Makefile names in REGRESS."""
    found = re.search(r"^REGRESS\s*=((?:[^\n\\]|\\\n)*)", makefile.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{makefile} has no REGRESS"
    return found[1].replace("\\\n", " ").split()


def _read(file: Path) -> str:
    with file.open(encoding="utf-8", newline="") as content:
        return content.read()


def _write(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8", newline="") as content:
        content.write(text)
