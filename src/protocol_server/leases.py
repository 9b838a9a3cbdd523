"""Leases and what is remembered of them for the time after a restart."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from protocol_server.logs import Log
from protocol_server.process import Peer, start_time


@dataclass(frozen=True)
class Lease:
    """One session's hold on one sandbox. `granted_at` is seconds since 1970; the token itself is never kept."""

    id: str
    sandbox: str
    runtime: str
    role: str
    database: str
    token_sha256: str
    backend_pid: int
    backend_start: int | None
    backend_uid: int
    granted_at: float

    @property
    def backend_gone(self) -> bool:
        """Whether the process that held the lease has ended (and its process id may belong to another one now)."""
        return self.backend_pid > 0 and start_time(self.backend_pid) != self.backend_start

    def belongs_to(self, peer: Peer) -> bool:
        """Whether `peer` is the process that the lease was granted to."""
        return peer.uid == self.backend_uid and peer.pid == self.backend_pid and not self.backend_gone


def token_hash(token: str) -> str:
    """How a token is remembered: whoever reads the state cannot reclaim a lease with it."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_lease(sandbox: str, runtime: str, role: str, database: str, peer: Peer) -> tuple[Lease, str]:
    """A lease for `peer` and its token, which only the backend keeps."""
    token = secrets.token_hex(16)
    lease = Lease(
        id=secrets.token_hex(4),
        sandbox=sandbox,
        runtime=runtime,
        role=role,
        database=database,
        token_sha256=token_hash(token),
        backend_pid=peer.pid,
        backend_start=start_time(peer.pid) if peer.pid > 0 else None,
        backend_uid=peer.uid,
        granted_at=time.time(),
    )
    return lease, token


class LeaseStore:
    """One small file per lease, in a directory that a reboot empties (/run)."""

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory = directory
        self._log = log

    def _file(self, sandbox: str) -> Path:
        return self._directory / f"{sandbox}.json"

    def write(self, lease: Lease) -> None:
        """Remember a lease; the file appears whole or not at all. Raises OSError."""
        file = self._file(lease.sandbox)
        part = file.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(asdict(lease), stream)
        part.rename(file)

    def remove(self, sandbox: str) -> None:
        """Forget a lease; one that is not there is fine."""
        self._file(sandbox).unlink(missing_ok=True)
        self._file(sandbox).with_suffix(".part").unlink(missing_ok=True)

    def load(self) -> list[Lease]:
        """All leases that an earlier server left; a file that does not hold one is removed."""
        leases = []
        for file in sorted(self._directory.iterdir()):
            try:
                lease = _parse(json.loads(file.read_text(encoding="utf-8")), file.stem)
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._log.warning("lease_unreadable", file=str(file), problem=str(error))
                file.unlink(missing_ok=True)
                continue
            leases.append(lease)
        return leases


def _parse(values: dict[str, object], name: str) -> Lease:
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "int | None": (int, type(None)),
    }
    for field in fields(Lease):
        if not isinstance(values[field.name], kinds[str(field.type)]):
            raise TypeError(f"{field.name} is not of type {field.type}")
    lease = Lease(**values)  # type: ignore[arg-type]
    if len(lease.sandbox) != 16 or not set(lease.sandbox) <= set("0123456789abcdef"):
        raise ValueError("not a sandbox id")
    if lease.sandbox != name:
        raise ValueError("the file's name is not that of its lease")
    return lease
