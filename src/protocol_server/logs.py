"""Structured logs: one JSON object a line on standard error, which journald keeps.

Fields are names, ids, states and durations. Argument values, function sources and tokens never come here.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """A logger with fixed fields; `bind` makes another one with more of them."""

    def __init__(self, stream: TextIO | None = None, level: str = "info") -> None:
        self._stream = stream
        self._shared: dict[str, int] = {"level": LEVELS[level]}
        self._fields: dict[str, object] = {}

    def bind(self, **fields: object) -> Log:
        """A logger that adds `fields` to every line; level and stream stay shared."""
        other = Log(self._stream)
        other._fields = {**self._fields, **fields}
        other._shared = self._shared
        return other

    def set_level(self, level: str) -> None:
        """Drop lines below `level` from now on."""
        self._shared["level"] = LEVELS[level]

    def write(self, level: str, event: str, **fields: object) -> None:
        """Write one line; fields that are None are left out."""
        if LEVELS[level] < self._shared["level"]:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"ts": now, "level": level, "event": event, **self._fields, **fields}
        text = json.dumps({key: value for key, value in line.items() if value is not None}, default=str)
        stream = self._stream if self._stream is not None else sys.stderr
        try:
            stream.write(text + "\n")
            stream.flush()
        except (OSError, ValueError):
            # A reader that went away must not take the leases with it.
            return

    def debug(self, event: str, **fields: object) -> None:
        """A line for whoever traces the server."""
        self.write("debug", event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """A line for the record."""
        self.write("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something an operator may want to look at."""
        self.write("warning", event, **fields)

    def alert(self, event: str, **fields: object) -> None:
        """Something an operator must look at."""
        self.write("error", event, **fields)
