"""Cost of a run that has nothing to change, against a warm `ansible all -m ping`.

Both are whole processes on the inventory that is in force; the figure is the median of
alternating runs. A run of site.yml that changes something is refused as no measure.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lab import ROOT, LabError

RUNS = 3
LIMIT = 20.0
ANSIBLE = Path(sys.executable).parent


def timed(*command: str) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints. Raises LabError when it fails."""
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    took = time.monotonic() - begin
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stdout}{done.stderr}")
    return took, done.stdout


def ping() -> float:
    """Seconds of a ping of all hosts."""
    return timed(str(ANSIBLE / "ansible"), "all", "-m", "ansible.builtin.ping")[0]


def site() -> float:
    """Seconds of a run of site.yml. Raises LabError when it changed something."""
    took, output = timed(str(ANSIBLE / "ansible-playbook"), "site.yml")
    if set(re.findall(r"changed=(\d+)", output)) != {"0"}:
        raise LabError(f"site.yml changed something:\n{output}")
    return took


def main() -> int:
    """Prints the two medians and their ratio; the exit code is 1 beyond the limit."""
    ping()
    pairs = [(ping(), site()) for _ in range(RUNS)]
    pings, sites = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = sites / pings
    print(
        f"ansible all -m ping: {pings:.2f} s   site.yml without changes: {sites:.2f} s   "
        f"ratio {ratio:.1f} (limit {LIMIT:.0f})"
    )
    return 1 if ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
