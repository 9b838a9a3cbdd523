"""How the end of a sandbox is told."""

from __future__ import annotations

import signal
from typing import Final

from protocol_server.backends import Exit
from protocol_server.errors import SQLSTATE_CONNECTION_FAILURE, SQLSTATE_OUT_OF_MEMORY

_SIGKILL_STATUS: Final = 128 + signal.SIGKILL


def describe_exit(status: int | None, memory_kill: bool, limit_hit: bool, memory_mb: int | None) -> Exit:
    """What to tell a backend of a sandbox that ended with `status` (None: not known), 128 + n for signal n."""
    if memory_kill and status in (None, _SIGKILL_STATUS):
        if not limit_hit:
            return Exit("was killed because its resource group or the host ran out of memory", SQLSTATE_OUT_OF_MEMORY)
        limit = f" of {memory_mb} MB" if memory_mb is not None else ""
        return Exit(f"exceeded its memory limit{limit}", SQLSTATE_OUT_OF_MEMORY)
    if status is None:
        return Exit("ended, and its exit status was not told", SQLSTATE_CONNECTION_FAILURE)
    try:
        name = signal.Signals(status - 128).name.removeprefix("SIG")
    except ValueError:
        return Exit(f"exited with status {status}", SQLSTATE_CONNECTION_FAILURE)
    return Exit(f"terminated by signal {name}", SQLSTATE_CONNECTION_FAILURE)
