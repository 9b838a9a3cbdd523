"""The lab's hosts, as the benchmarks reach them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
WARM_TIMEOUT_S = 30


class LabError(RuntimeError):
    """A command on a host has failed; the message holds what it printed."""


@dataclass(frozen=True)
class Lab:
    """A lab that is up, by its name."""

    name: str

    @classmethod
    def from_environment(cls) -> Lab:
        """The lab that LAB_NAME names, else the one in settings/lab.yml."""
        settings = yaml.safe_load((ROOT / "settings" / "lab.yml").read_text())
        return cls(os.environ.get("LAB_NAME") or settings["lab_name"])

    def run(self, host: str, *command: str, stdin: str = "", user: str = "root") -> str:
        """Standard output of a command on a host. Raises LabError when it fails."""
        done = subprocess.run(
            ["docker", "exec", "-i", "-u", user, f"{self.name}-{host}", *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"{host}: {' '.join(command[:2])}: {done.stderr or done.stdout}")
        return done.stdout

    def psql(self, host: str, script: str) -> str:
        """What psql prints for a script, run as the database's superuser."""
        return self.run(
            host,
            "psql",
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres"),
            stdin=script,
            user="postgres",
        )

    def await_warm_sandbox(self, host: str) -> None:
        """Waits until the host's only sandboxes are warm ones. Raises LabError after 30 s."""
        # A sandbox that is ready no longer has a socket that is listened on.
        ready = 'cd /run/plcontainer/sandboxes && [ "$(ls | wc -l)" -ge 1 ] && ! ls */sandbox.sock'
        unleased = '[ -z "$(ls /run/plcontainer/leases)" ]'
        self.run(
            host,
            *("timeout", str(WARM_TIMEOUT_S), "sh", "-c"),
            f"until ({ready} && {unleased}) >/dev/null 2>&1; do sleep 0.05; done",
        )
