"""Cost of a run that has nothing to change on many hosts, against one, each relative to a ping of the same hosts.

Brings up a lab of its own with that many hosts, provisions it, measures with provisioning.py, and removes it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lab import ROOT

NAME = "caisson-scaling"
FIRST_PORT = 28432
ANSIBLE = Path(sys.executable).parent


@contextmanager
def inventory(hosts: int) -> Iterator[Path]:
    """An inventory like the lab's, with so many hosts."""
    names: dict[str, None] = dict.fromkeys(f"segment{number}" for number in range(1, hosts + 1))
    groups = {"segment_hosts": {"hosts": names}, "kubernetes_nodes": {"hosts": {}}}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
        (Path(directory) / "group_vars").symlink_to(ROOT / "inventories/lab/group_vars")
        yield Path(directory)


def play(where: Path, *playbooks: str) -> None:
    """Run playbooks. Raises CalledProcessError when one fails."""
    # the measurement itself needs Ansible's own words
    environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "phases"}
    command = [str(ANSIBLE / "ansible-playbook"), "-i", str(where), *playbooks]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> int:
    """Measure; the exit code is that of provisioning.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=8)
    hosts = parser.parse_args().hosts
    os.environ |= {"LAB_NAME": NAME, "LAB_POSTGRESQL_FIRST_PORT": str(FIRST_PORT)}
    with inventory(hosts) as where:
        try:
            play(where, "playbooks/lab_up.yml", "site.yml")
            return subprocess.run(
                [sys.executable, "bench/provisioning.py", "--scaling", "-i", str(where)], cwd=ROOT, check=False
            ).returncode
        finally:
            play(where, "playbooks/lab_down.yml")


if __name__ == "__main__":
    sys.exit(main())
