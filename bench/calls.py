"""Cost of calls: the same body in plcontainer and in plpython3u, in one session.

Method: T0 is the query without a function, T the query with it; the figure is
(T - T0) / (T_plpython3u - T0), each T the median of alternating runs, jit off, no
parallel workers. First calls are timed from new sessions while a warm sandbox waits.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from dataclasses import dataclass

from lab import Lab, LabError

RUNS = 7
FIRST_CALL_SESSIONS = 10
FIRST_CALL_LIMIT_MS = 50.0

SETUP = """
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS plpython3u;
DROP SCHEMA IF EXISTS bench CASCADE;
CREATE SCHEMA bench;
CREATE TABLE bench.ints AS SELECT i::int8 AS i FROM generate_series(1, 200000) i;
CREATE TABLE bench.floats (a float8[]);
ALTER TABLE bench.floats ALTER COLUMN a SET STORAGE EXTERNAL;
INSERT INTO bench.floats SELECT array_agg(i / 3.0::float8) FROM generate_series(1, 1000000) i;
VACUUM ANALYZE bench.ints;
VACUUM ANALYZE bench.floats;
"""

SESSION = """
SET jit = off;
SET max_parallel_workers_per_gather = 0;
SET search_path = bench, public;
"""


@dataclass(frozen=True)
class Case:
    """One line of the table: a function's signature and body, and how it is called."""

    name: str
    limit: float
    signature: str
    body: str
    query: str
    baseline: str


CASES = (
    Case(
        "scalar int8, row by row",
        14.0,
        "(v int8) RETURNS int8",
        "return v + 1",
        "SELECT sum({function}(i)) FROM ints",
        "SELECT sum(i + 1) FROM ints",
    ),
    Case(
        "float8[] of 1 M elements in",
        1.0,
        "(v float8[]) RETURNS float8",
        "return sum(v) / len(v)",
        "SELECT {function}(a) FROM floats",
        "SELECT cardinality(a) FROM floats",
    ),
    Case(
        "float8[] of 1 M elements out",
        0.2,
        "() RETURNS float8[]",
        'if "v" not in SD:\n    SD["v"] = [i / 3.0 for i in range(1000000)]\nreturn SD["v"]',
        "SELECT cardinality({function}())",
        "SELECT cardinality(a) FROM floats",
    ),
)


def install_plpython(lab: Lab, host: str) -> None:
    """Installs what calls are compared with: a segment host has no plpython3u of its own."""
    version = lab.psql(host, "\\t on\nSELECT current_setting('server_version_num')::int / 10000;").strip()
    lab.run(host, "apt-get", "install", "--yes", "--no-install-recommends", f"postgresql-plpython3-{version}")


def create(case: Case, number: int, runtime: str) -> str:
    """SQL that makes the case's function in both languages."""
    head = f"CREATE FUNCTION bench.{{language}}_{number}{case.signature} LANGUAGE {{language}} AS $$\n"
    return (
        head.format(language="plpython3u")
        + f"{case.body}\n$$;\n"
        + head.format(language="plcontainer")
        + f"# container: {runtime}\n{case.body}\n$$;\n"
    )


def queries(case: Case, number: int) -> tuple[str, str, str]:
    """The queries without a function, in plpython3u and in plcontainer."""
    return (
        case.baseline,
        case.query.format(function=f"plpython3u_{number}"),
        case.query.format(function=f"plcontainer_{number}"),
    )


def timings(output: str) -> list[float]:
    """The times psql has printed, in ms."""
    return [float(ms) for ms in re.findall(r"^Time: ([0-9.]+) ms", output, re.MULTILINE)]


def measure(lab: Lab, host: str, case: Case, number: int) -> tuple[float, float, float]:
    """Medians in ms of the three queries, run in turn in one session after a warm-up."""
    three = queries(case, number)
    script = SESSION + ";\n".join(three) + ";\n\\timing on\n" + (";\n".join(three) + ";\n") * RUNS
    times = timings(lab.psql(host, script))
    if len(times) != RUNS * len(three):
        raise LabError(f"{case.name}: psql printed {len(times)} times instead of {RUNS * len(three)}")
    zero, plain, sandbox = (statistics.median(times[i :: len(three)]) for i in range(len(three)))
    return zero, plain, sandbox


def first_call(lab: Lab, host: str) -> list[float]:
    """Times in ms of the first call in new sessions that find a warm sandbox."""
    times = []
    for _ in range(FIRST_CALL_SESSIONS):
        lab.await_warm_sandbox(host)
        times += timings(lab.psql(host, SESSION + "\\timing on\nSELECT plcontainer_0(1);\n"))
    return times


def main() -> int:
    """Prints the table; the exit code is 1 when a figure is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="segment1")
    parser.add_argument("--runtime", default="plc_python_shared")
    arguments = parser.parse_args()
    lab = Lab.from_environment()
    install_plpython(lab, arguments.host)
    lab.psql(
        arguments.host,
        SETUP + "".join(create(case, n, arguments.runtime) for n, case in enumerate(CASES)),
    )
    missed = 0
    print(f"{'':32}{'T0 ms':>10}{'plpython3u':>12}{'plcontainer':>13}{'ratio':>8}{'limit':>8}")
    for number, case in enumerate(CASES):
        zero, plain, sandbox = measure(lab, arguments.host, case, number)
        ratio = (sandbox - zero) / (plain - zero)
        missed += ratio > case.limit
        print(
            f"{case.name:32}{zero:10.1f}{plain:12.1f}{sandbox:13.1f}{ratio:8.2f}{case.limit:8.2f}",
            flush=True,
        )
    first = first_call(lab, arguments.host)
    median = statistics.median(first)
    missed += median > FIRST_CALL_LIMIT_MS
    print(
        f"first call of a session, warm pool: median {median:.1f} ms, "
        f"{min(first):.1f} to {max(first):.1f} (limit {FIRST_CALL_LIMIT_MS:.0f})"
    )
    lab.psql(arguments.host, "SET client_min_messages = warning; DROP SCHEMA bench CASCADE;")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
