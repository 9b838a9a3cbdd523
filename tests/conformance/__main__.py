"""Runs a suite against a PostgreSQL that is up, and prints what differs, each with the key that the list knows it by.

python -m tests.conformance plpython --debian 12 --pg-regress /path/pg_regress --bindir /usr/lib/postgresql/15/bin \
    --host /run/postgresql --port 5432
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.differences import compare, explained, judge, summary
from tests.conformance.suites import SUITES, postgresql_of, prepare


def main() -> int:
    """Run a suite; the exit code is 1 when something differs without a reason."""
    parser = argparse.ArgumentParser(prog="tests.conformance", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--debian", required=True, help="release whose source package is run")
    parser.add_argument("--pg-regress", type=Path, required=True)
    parser.add_argument("--bindir", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", default="5432")
    parser.add_argument("--directory", type=Path, help="where files are kept; a temporary one by default")
    parser.add_argument("--all", action="store_true", help="print what is explained, too")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    with tempfile.TemporaryDirectory() as scratch:
        directory = (arguments.directory or Path(scratch)).resolve()
        tests = prepare(suite, arguments.debian, directory)
        place = ("--inputdir=.", "--outputdir=.", f"--host={arguments.host}", f"--port={arguments.port}")
        command = [arguments.pg_regress, f"--bindir={arguments.bindir}", *place, "--user=postgres"]
        subprocess.run([*command, "--dbname=conformance", *tests], cwd=directory, check=False)
        found = compare(directory, tests)
    entries = [] if arguments.all else explained(suite, postgresql_of(arguments.debian))
    print("\n\n".join([*judge(found, entries), summary(tests, found)]))
    return 1 if judge(found, entries) else 0


if __name__ == "__main__":
    sys.exit(main())
