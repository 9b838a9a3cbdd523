"""What is there on this host, as rows: for the operator's socket and for the SQL views."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from protocol_server.backends import Backend
from protocol_server.cgroup import Usage
from protocol_server.config import Config, Runtime
from protocol_server.leases import Lease
from protocol_server.sandboxes import Sandbox, Sandboxes, State

Row = dict[str, Any]


class Overview:
    """Looks at the sandboxes and leases of a server; changes nothing."""

    def __init__(self, sandboxes: Sandboxes, backend: Backend, leases: Mapping[str, Lease]) -> None:
        """`leases` are those that are in force, by sandbox; it is looked at and not copied."""
        self._sandboxes = sandboxes
        self._backend = backend
        self._leases = leases

    async def sandboxes(self, role: str | None = None) -> list[Row]:
        """One row per sandbox, the oldest first: of the leases of `role` only, or of all when it is None."""
        found = [sandbox for sandbox in self._sandboxes if role is None or self._holder(sandbox) == role]
        usages = await asyncio.gather(*map(self._usage, found))
        rows = [self._row(sandbox, usage) for sandbox, usage in zip(found, usages, strict=True)]
        return sorted(rows, key=lambda row: (-row["uptime_s"], row["sandbox"]))

    def _holder(self, sandbox: Sandbox) -> str | None:
        lease = self._leases.get(sandbox.id)
        return None if lease is None else lease.role

    async def _usage(self, sandbox: Sandbox) -> Usage:
        unknown = Usage(None, None)
        if sandbox.state not in (State.READY, State.LEASED):
            return unknown
        return await self._backend.usage(sandbox.id) or unknown

    def _row(self, sandbox: Sandbox, usage: Usage) -> Row:
        lease = self._leases.get(sandbox.id)
        now = time.time()
        # When one of before a restart was started is not known; its lease is the best that is.
        began = sandbox.started_at or (lease.granted_at if lease is not None else now)
        return {
            "sandbox": sandbox.id,
            "runtime": sandbox.runtime,
            "image": sandbox.definition.image_name if sandbox.definition is not None else None,
            "state": sandbox.state.value,
            "role": lease.role if lease is not None else None,
            "database": lease.database if lease is not None else None,
            "backend_pid": lease.backend_pid if lease is not None else None,
            "leased_at": round(lease.granted_at, 3) if lease is not None else None,
            "uptime_s": round(max(0.0, now - began), 3),
            "memory_bytes": usage.memory_bytes,
            "cpu_s": usage.cpu_s,
        }


def runtime_row(runtime: Runtime) -> Row:
    """A runtime with the keys of runtimes.yml."""
    row: Row = plain(asdict(runtime))
    return row


def config_row(config: Config) -> Row:
    """The configuration that is in force, as plain values."""
    server = plain(vars(config.server))
    return {"server": server, "runtimes": [runtime_row(runtime) for runtime in config.runtimes.values()]}


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value
