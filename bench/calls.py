"""Cost of calls: the same body in plcontainer and in plpython3u, in one session.

Method: T0 is the query without a function, T the query with it; the figure is
(T - T0) / (T_plpython3u - T0), each T the median of alternating runs, jit off, no
parallel workers. Cold sessions are whole psql processes, and first calls are timed in
new sessions, both while a warm sandbox waits.
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
COLD_SESSIONS = 11
COLD_SESSION_LIMIT = 1.0

SETUP = """
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS plpython3u;
DROP SCHEMA IF EXISTS bench CASCADE;
CREATE SCHEMA bench;
CREATE TABLE bench.ints AS SELECT i::int8 AS i FROM generate_series(1, 1000000) i;
CREATE TABLE bench.texts AS SELECT repeat(md5(i::text), 32) AS t FROM generate_series(1, 100000) i;
CREATE TABLE bench.floats (a float8[]);
ALTER TABLE bench.floats ALTER COLUMN a SET STORAGE EXTERNAL;
INSERT INTO bench.floats SELECT array_agg(i / 3.0::float8) FROM generate_series(1, 1000000) i;
VACUUM ANALYZE bench.ints;
VACUUM ANALYZE bench.texts;
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
    sandbox_body: str = ""
    """The body in the sandbox, where it is another one."""
    options: str = ""
    """What the first line has behind the runtime."""


OUT = 'if "v" not in SD:\n    SD["v"] = [i / 3.0 for i in range(1000000)]\nreturn SD["v"]'

CASES = (
    Case(
        "scalar int8, 1 M rows",
        12.0,
        "(v int8) RETURNS int8",
        "return v + 1",
        "SELECT sum({function}(i)) FROM ints",
        "SELECT sum(i + 1) FROM ints",
    ),
    Case(
        "float8[] of 1 M in, list",
        1.0,
        "(v float8[]) RETURNS float8",
        "return sum(v) / len(v)",
        "SELECT {function}(a) FROM floats",
        "SELECT cardinality(a) FROM floats",
    ),
    Case(
        "float8[] of 1 M in, numpy",
        0.15,
        "(v float8[]) RETURNS float8",
        "return sum(v) / len(v)",
        "SELECT {function}(a) FROM floats",
        "SELECT cardinality(a) FROM floats",
        sandbox_body="return v.mean()",
        options=" arrays=numpy",
    ),
    Case(
        "float8[] of 1 M out, list",
        0.2,
        "() RETURNS float8[]",
        OUT,
        "SELECT cardinality({function}())",
        "SELECT cardinality(a) FROM floats",
    ),
    Case(
        "float8[] of 1 M out, numpy",
        0.05,
        "() RETURNS float8[]",
        OUT,
        "SELECT cardinality({function}())",
        "SELECT cardinality(a) FROM floats",
        sandbox_body='if "v" not in SD:\n    import numpy\n    SD["v"] = numpy.arange(1e6) / 3.0\nreturn SD["v"]',
    ),
    Case(
        "SETOF 1 M ints",
        0.6,
        "(n int) RETURNS SETOF int",
        "return range(n)",
        "SELECT count(*) FROM {function}(1000000)",
        "SELECT count(*) FROM generate_series(1, 1000000)",
    ),
    Case(
        "100 k prepared executes",
        5.0,
        "(n int) RETURNS int8",
        'plan = plpy.prepare("SELECT $1 + 1 AS v", ["int8"])\nreturn sum(plan.execute([i])[0]["v"] for i in range(n))',
        "SELECT {function}(100000)",
        "SELECT sum(i + 1) FROM generate_series(1, 100000) i",
    ),
    Case(
        "text of 1 KB in and out, 100 k rows",
        10.0,
        "(v text) RETURNS text",
        "return v",
        "SELECT sum(octet_length({function}(t))) FROM texts",
        "SELECT sum(octet_length(t)) FROM texts",
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
        + f"# container: {runtime}{case.options}\n{case.sandbox_body or case.body}\n$$;\n"
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


def cold_sessions(lab: Lab, host: str) -> tuple[float, float]:
    """Medians in ms of whole psql processes that call a function once: in plpython3u, and in a warm sandbox."""
    times: dict[str, list[float]] = {"plpython3u": [], "plcontainer": []}
    for _ in range(COLD_SESSIONS):
        for language, found in times.items():
            lab.await_warm_sandbox(host)
            found.append(timed_psql(lab, host, f"SELECT bench.{language}_0(1)"))
    return statistics.median(times["plpython3u"]), statistics.median(times["plcontainer"])


def timed_psql(lab: Lab, host: str, query: str) -> float:
    """The time in ms that a psql process takes, as the host's own shell measures it."""
    psql = f"psql -XAtq -d postgres -c '{query}' >/dev/null"
    script = f"s=$(date +%s%N); {psql} || exit 1; echo $(( $(date +%s%N) - s ))"
    return int(lab.run(host, "bash", "-c", script, user="postgres")) / 1e6


def report(name: str, figures: tuple[float, float, float], limit: float) -> bool:
    """Prints a line of the table: T0, plpython3u, plcontainer; tells whether the ratio is beyond its limit."""
    zero, plain, sandbox = figures
    ratio = (sandbox - zero) / (plain - zero)
    print(f"{name:38}{zero:10.1f}{plain:12.1f}{sandbox:13.1f}{ratio:8.3f}{limit:8.2f}", flush=True)
    return ratio > limit


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
    print(f"{'':38}{'T0 ms':>10}{'plpython3u':>12}{'plcontainer':>13}{'ratio':>8}{'limit':>8}")
    for number, case in enumerate(CASES):
        missed += report(case.name, measure(lab, arguments.host, case, number), case.limit)
    missed += report(
        "cold session, a whole psql process", (0.0, *cold_sessions(lab, arguments.host)), COLD_SESSION_LIMIT
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
