# SPDX-License-Identifier: Apache-2.0
"""Standard output for `make up`: one line a phase with its time; of a failure the host, the task and the cause."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: phases
type: stdout
short_description: One line a play, with its time; failures in full
description:
  - Prints the name of every play and how long it took, what debug tasks say, and for every failure the host, the task
    and the cause. Everything else is left out. Failures go to standard error.
  - A play with the variable C(phases_silent) has no line of its own.
"""

_CAUSES = ("msg", "stderr", "module_stderr", "stdout", "module_stdout", "reason")
_LINES = 15


class CallbackModule(CallbackBase):
    """Quiet output."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "phases"

    def __init__(self) -> None:
        super().__init__()
        self._phase: str | None = None
        self._started = 0.0
        self._changed: set[tuple[str, str]] = set()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin a phase."""
        self._end_phase()
        self._phase = None if play.get_vars().get("phases_silent") else play.get_name().strip()
        self._started = time.monotonic()
        self._changed = set()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End the last phase; say so when no phase had a host."""
        self._end_phase()
        if not stats.processed:
            self._display.display("no host of the inventory is meant", color="red", stderr=True)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a change; show what a debug task says."""
        if result.is_changed():
            self._changed.add((result._host.get_name(), result._task._uuid))
        if result._task.action in {"debug", "ansible.builtin.debug"} and "msg" in result._result:
            # a phase that shows something has said all there is to say
            self._phase = None
            message = result._result["msg"]
            self._display.display("\n".join(message) if isinstance(message, list) else str(message))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show the host, the task and the cause of a failure."""
        if not ignore_errors:
            self._show_failure("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show which host could not be reached, and why."""
        self._show_failure("could not be reached", result)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Leave out a phase without hosts: a group may be empty."""
        self._phase = None

    def _end_phase(self) -> None:
        if self._phase:
            changes = f", {len(self._changed)} changes" if self._changed else ""
            self._display.display(f"{self._phase}: {time.monotonic() - self._started:.0f} s{changes}")
        self._phase = None

    def _show_failure(self, what: str, result: Any) -> None:
        details: dict[str, Any] = result._result
        failed_items = [item for item in details.get("results", []) if item.get("failed")] or [details]
        self._display.display(
            f"\n{result._host.get_name()} {what}: {result._task.get_name()}", color="red", stderr=True
        )
        for item in failed_items:
            for cause in self._causes(item):
                self._display.display(cause, color="red", stderr=True)

    @staticmethod
    def _causes(details: dict[str, Any]) -> list[str]:
        """Return what a result says about its failure, each thing once and at its end."""
        if details.get("_ansible_no_log"):
            return ["  (the cause is kept back: a secret passes through this task)"]
        causes: list[str] = []
        for key in _CAUSES:
            text = str(details.get(key) or "").strip()
            if text and not any(text in known for known in causes):
                causes.append("\n".join(f"  {line}" for line in text.splitlines()[-_LINES:]))
        return causes
