"""Cost of a run that has nothing to change, against a warm `ansible all -m ping`.

Both are whole processes on the inventory that is in force; the figure is the median of
alternating runs. A run of site.yml that changes something is refused as no measure.
The part of tasks that were skipped is told, too. `--scaling` compares the ratio of all
hosts with that of the first one alone; `-i` names another inventory, with eight hosts say.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lab import ROOT, LabError

RUNS = 3
LIMIT = 20.0
SKIPPED_LIMIT = 0.05
SCALING_LIMIT = 1.4
ANSIBLE = Path(sys.executable).parent


def timed(*command: str) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints. Raises LabError when it fails."""
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took = time.monotonic() - begin
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stdout}{done.stderr}")
    return took, done.stdout


def skipped(output: str) -> float:
    """Part of the tasks that were skipped, by the counts of a run's recap."""
    ok, left_out = (sum(map(int, re.findall(rf"\b{word}=(\d+)", output))) for word in ("ok", "skipped"))
    return left_out / (ok + left_out) if ok + left_out else 0.0


def ping(*options: str) -> float:
    """Seconds of a ping of all hosts."""
    return timed(str(ANSIBLE / "ansible"), "all", "-m", "ansible.builtin.ping", *options)[0]


def site(*options: str) -> tuple[float, float]:
    """Time (s) of a run of site.yml and the part of tasks skipped. Raises LabError when it changed one."""
    took, output = timed(str(ANSIBLE / "ansible-playbook"), "site.yml", *options)
    if set(re.findall(r"changed=(\d+)", output)) != {"0"}:
        raise LabError(f"site.yml changed something:\n{output}")
    return took, skipped(output)


def first_host(*options: str) -> str:
    """Name of the inventory's first host."""
    listing = json.loads(timed(str(ANSIBLE / "ansible-inventory"), "--list", *options)[1])
    return str(min(listing["segment_hosts"]["hosts"]))


def measure(what: str, *options: str) -> tuple[float, float]:
    """Prints the two medians and returns their ratio and the part of skipped tasks."""
    ping(*options)
    pairs = [(ping(*options), site(*options)) for _ in range(RUNS)]
    pings = statistics.median(pair[0] for pair in pairs)
    sites = statistics.median(pair[1][0] for pair in pairs)
    ratio, left_out = sites / pings, pairs[-1][1][1]
    print(
        f"{what}: ansible all -m ping: {pings:.2f} s   site.yml without changes: {sites:.2f} s   "
        f"ratio {ratio:.1f} (limit {LIMIT:.0f})   skipped tasks {left_out:.1%} (limit {SKIPPED_LIMIT:.0%})"
    )
    return ratio, left_out


def main() -> int:
    """Prints the figures; the exit code is 1 where one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", "--inventory", action="append", default=[])
    parser.add_argument("--scaling", action="store_true", help="compare all hosts with the first one alone")
    asked = parser.parse_args()
    options = [word for name in asked.inventory for word in ("-i", name)]
    ratio, left_out = measure("all hosts", *options)
    failed = ratio > LIMIT or left_out > SKIPPED_LIMIT
    if asked.scaling:
        alone, _ = measure("one host", *options, "--limit", first_host(*options))
        print(f"all hosts against one, relative to ping: {ratio / alone:.2f} (limit {SCALING_LIMIT})")
        failed = failed or ratio / alone > SCALING_LIMIT
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
