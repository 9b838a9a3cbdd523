"""Whether a database session does anything, seen from outside.

The server is not in the path of calls, so it looks at what the kernel and PostgreSQL tell everyone: how often the
backend went to sleep, and the title of its process, which ends with "idle" between statements. A session whose title
says so and whose number stays the same has run nothing. Where titles are switched off, nobody counts as idle.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

_IDLE: Final = (" idle", " idle in transaction", " idle in transaction (aborted)")


def sleeps_when_idle(pid: int, proc: Path = Path("/proc")) -> int | None:
    """How often an idle session has gone to sleep so far; None when it is busy or cannot be looked at."""
    if pid <= 0:
        return None
    try:
        title = (proc / str(pid) / "cmdline").read_bytes().rstrip(b"\0 ").decode("utf-8", "replace")
        status = (proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not title.endswith(_IDLE):
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches" and value.strip().isdigit():
            return int(value)
    return None


class Activity:
    """Since when each of some sessions is idle, as far as was looked."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._seen: dict[int, tuple[int, float]] = {}

    def idle_s(self, pid: int) -> float | None:
        """Look at a session: the seconds for which it is known to have been idle, None when it is not."""
        sleeps = sleeps_when_idle(pid, self._proc)
        if sleeps is None:
            self._seen.pop(pid, None)
            return None
        now = time.monotonic()
        known, since = self._seen.get(pid, (None, now))
        if known != sleeps:
            since = now
        self._seen[pid] = (sleeps, since)
        return now - since

    def keep(self, pids: set[int]) -> None:
        """Forget all other sessions."""
        for pid in self._seen.keys() - pids:
            del self._seen[pid]
