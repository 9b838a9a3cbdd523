"""Playbooks on the hosts of a molecule scenario, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.segment_host import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]

# Environment of a run that ends itself; see the callback.
KILLER = {
    "ANSIBLE_CALLBACK_PLUGINS": f"{ROOT / 'plugins/callback'}:{ROOT / 'tests/support/callback'}",
    "ANSIBLE_CALLBACKS_ENABLED": "kill_run",
}


def run(scenario: Path, playbook: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the project."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [program, "-i", str(scenario / "inventory"), str(ROOT / "playbooks" / playbook), *arguments],
        cwd=ROOT,
        # molecule has settings of its own, and a terminal would break lines
        env={key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
        | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "COLUMNS": "1000"}
        | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
