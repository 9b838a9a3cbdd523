# SPDX-License-Identifier: Apache-2.0
"""What check.yml adds to a run: check mode, and a line for each thing that is not as asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.utils.context_objects import CLIArgs
from ansible.utils.vars import load_options_vars

DOCUMENTATION = r"""
name: drifts
type: notification
short_description: Lists how hosts differ from what is asked, for check.yml
description:
  - Does nothing unless the playbook is check.yml, which it puts into check mode.
  - Gathers what roles found to differ, and what their tasks would change. The hosts get it as the fact C(check_drifts);
    at the end it is printed, one line each.
"""

PLAYBOOK = "check.yml"
FACT = "check_drifts"
# What names the thing that a task is about, the best first.
_SUBJECTS = ("path", "dest", "deb", "login_db", "name", "pkg", "package")


def subjects(details: dict[str, Any]) -> list[str]:
    """Return what a result is about: a file, units, packages."""
    arguments = details.get("invocation", {}).get("module_args", {})
    for key in _SUBJECTS:
        value = details.get(key) or arguments.get(key)
        if value:
            return [str(one) for one in value] if isinstance(value, list) else [str(value)]
    return []


def changes(task: str, action: str, details: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield a line for each thing that a task would change, with what it is about."""
    for item in details.get("results") or [details]:
        if not item.get("changed"):
            continue
        about = subjects(item)
        message = item.get("msg")
        if action.rpartition(".")[2] == "debug" and message:
            yield "; ".join(message) if isinstance(message, list) else str(message), []
        elif about:
            yield f"{', '.join(about)}: {task[:1].lower()}{task[1:]}", about
        else:
            yield task, []


class Drifts:
    """How hosts differ, by host and by role."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[str, str]]] = {}

    def add(self, host: str, role: str, task: str, action: str, details: dict[str, Any]) -> None:
        """Take up a result. What a role has found itself is not told again by the task that would mend it."""
        lines = self._found.setdefault(host, [])
        for difference in details.get("differences") or []:
            if (role, difference) not in lines:
                lines.append((role, str(difference)))
        told = " ".join(line for other, line in lines if other == role)
        for line, about in changes(task, action, details):
            if not (about and all(PurePath(one).name in told for one in about)) and (role, line) not in lines:
                lines.append((role, line))

    def fail(self, host: str, role: str, what: str) -> None:
        """Take up that a host could not be looked at, or not to its end."""
        self._found.setdefault(host, []).append((role, what))

    def of(self, host: str) -> list[str]:
        """Return the lines of a host."""
        return [f"{host}: {role}: {what}" for role, what in self._found.get(host, [])]

    def all(self) -> list[str]:
        """Return the lines of all hosts."""
        return [line for host in sorted(self._found) for line in self.of(host)]


class CallbackModule(CallbackBase):
    """Check mode and its findings."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "drifts"

    def __init__(self) -> None:
        super().__init__()
        self._drifts: Drifts | None = None
        self._variables: Any = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Turn check mode on, as --check does, where it is asked for by the playbook's name."""
        if PurePath(str(playbook._file_name)).name != PLAYBOOK:
            return
        context.CLIARGS = CLIArgs({**context.CLIARGS, "check": True})
        load_options_vars(None)["ansible_check_mode"] = True
        self._drifts = Drifts()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Note where facts of hosts are kept."""
        self._variables = play.get_variable_manager()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take up what a task found or would change."""
        if self._drifts is None or result._task._role is None:
            return
        host, task = result._host.get_name(), result._task
        self._drifts.add(host, task._role.get_name(), task.name, task.action, result._result)
        self._tell(host)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Take up that a role ended early."""
        role = result._task._role
        if self._drifts is not None and role is not None and not ignore_errors:
            details = result._result
            # where a connection breaks the module's message only says that there was no answer
            said = (details.get("module_stderr"), details.get("msg"), "failed")
            cause = next(str(one).strip().partition("\n")[0] for one in said if one)
            self._fail(result, role.get_name(), f"{result._task.name}: {cause}")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Take up that a host cannot be reached."""
        if self._drifts is not None:
            cause = " ".join(str(result._result.get("msg") or "").split())
            self._fail(result, "-", f"cannot be reached: {cause}")

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002
        """Print all lines."""
        if self._drifts is not None:
            lines = self._drifts.all()
            for line in lines:
                self._display.display(line, color="yellow")
            self._display.display(f"{len(lines)} differences" if lines else "All is as asked.")

    def _fail(self, result: Any, role: str, what: str) -> None:
        if self._drifts is not None:
            self._drifts.fail(result._host.get_name(), role, what)
            self._tell(result._host.get_name())

    def _tell(self, host: str) -> None:
        lines = self._drifts.of(host) if self._drifts else []
        if lines and self._variables is not None:
            self._variables.set_nonpersistent_facts(host, {FACT: lines})
