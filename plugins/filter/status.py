# SPDX-License-Identifier: Apache-2.0
"""Filters of status.yml: what was found on hosts becomes a report, and that becomes lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Report = dict[str, Any]


def status_report(hosts: Iterable[Mapping[str, Any]]) -> Report:
    """Return the state of hosts from their variables; roles leave theirs in ``__<role>_status``."""
    found: dict[str, Report] = {}
    for variables in hosts:
        pieces: list[Report] = []
        for name in variables:
            role = re.fullmatch(r"__(\w+)_status", name)
            value = variables[name] if role else None
            if role and isinstance(value, Mapping) and "pieces" in value:
                pieces += [{"role": role[1], **piece} for piece in value["pieces"]]
        if not pieces:
            said = variables.get("status_reached", {})
            cause = next((str(said[key]) for key in ("module_stderr", "stderr", "msg") if said.get(key)), "not asked")
            pieces = [
                {"role": "-", "kind": "host", "name": "connection", "state": " ".join(cause.split()), "ok": False}
            ]
        found[str(variables["inventory_hostname"])] = {"ok": all(piece["ok"] for piece in pieces), "pieces": pieces}
    return {"ok": bool(found) and all(host["ok"] for host in found.values()), "hosts": found}


def status_lines(report: Report) -> list[str]:
    """Return a report as lines; what is not well is marked."""
    lines: list[str] = []
    for name, host in report["hosts"].items():
        wrong = sum(not piece["ok"] for piece in host["pieces"])
        summary = f"{wrong} of {len(host['pieces'])} not well" if wrong else "all is well"
        lines.append(f"{name}: {summary}")
        for piece in host["pieces"]:
            mark = " " if piece["ok"] else "!"
            lines.append(f"{mark} {piece['kind']:<11} {piece['name']:<34} {piece['state']}")
    return lines


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"status_report": status_report, "status_lines": status_lines}
