"""An Ansible callback for tests: ends its own run with SIGKILL, workers and connections included, in a task."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: kill_run
type: notification
short_description: Kills the run that it belongs to
description:
  - KILL_AFTER_CHANGES is the number of tasks that change a host before the one in which the run is killed; KILL_AFTER_S
    the seconds that this one gets.
  - KILL_COMMAND is run then instead, where it is set; the run goes on.
"""


def descendants(root: int) -> list[int]:
    """Return all processes below one. Workers are in sessions of their own, so no group has them all."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def kill() -> None:
    """End this process and all below it."""
    for process in descendants(os.getpid()):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.kill(os.getpid(), signal.SIGKILL)


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Counts changes, and kills."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "kill_run"

    def __init__(self) -> None:
        super().__init__()
        self._left = int(os.environ["KILL_AFTER_CHANGES"])
        self._done = False

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count a change."""
        self._left -= result.is_changed()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Kill in the first task that begins after the last change that is allowed."""
        if self._left > 0 or self._done:
            return
        self._done = True
        self._display.display(f"KILLED in: {task.get_name()} on {host.get_name()}")
        command = os.environ.get("KILL_COMMAND")
        if command:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
        else:
            threading.Timer(float(os.environ.get("KILL_AFTER_S", "0")), kill).start()
