"""Processes of this host, named so that a reused process id is never taken for the old one."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UCRED: Final = struct.Struct("iII")


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a socket. A pid of 0 is a process outside of this pid namespace."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """The credentials with which the peer of a unix socket connected; the kernel vouches for them."""
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or may not be looked at.

    Field 22 of proc(5)'s stat; the command before it may hold blanks and parentheses.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended; its descriptors are closed.
    return None if len(fields) < 20 or fields[0] == "Z" else int(fields[19])


class Watch:
    """Tells when a process ends. Needs no rights over the process, only that it is visible."""

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        """Call `on_end` once, in the event loop, when the process ends.

        Raises ProcessLookupError when there is no such process.
        """
        self._descriptor = os.pidfd_open(pid)
        self._on_end_call = on_end
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_end)

    @property
    def ended(self) -> bool:
        """Whether the process has ended, asked of the kernel at this moment."""
        if self._descriptor < 0:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def _on_end(self) -> None:
        self.close()
        self._on_end_call()

    def close(self) -> None:
        """Stop watching. May be called again."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
