"""What a sandbox writes to standard output and error: read at a bounded rate, passed on to journald, kept for messages.

The pipe has a name and each end is opened for both ways: while there is no server, a sandbox that writes neither fails
nor ends, and the next server reads on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Final

_JOURNAL: Final = "/run/systemd/journal/socket"
_PIECE_BYTES: Final = 16 * 1024
#: A sandbox that writes more is slowed down by its full pipe.
_PIECES_AT_ONCE: Final = 16
_PAUSE_S: Final = 0.25
_TAIL_BYTES: Final = 4000
_TAIL_LINES: Final = 20
_MAX_LINE_BYTES: Final = 2000


class Output:
    """One sandbox's output."""

    def __init__(self, descriptor: int, sandbox: str, runtime: str = "") -> None:
        self._descriptor = descriptor
        self._fields = f"SYSLOG_IDENTIFIER=plcontainer\nPRIORITY=6\nPLC_SANDBOX={sandbox}\nPLC_RUNTIME={runtime}\n"
        self._kept = bytearray()
        self._line = bytearray()
        self._pieces = _PIECES_AT_ONCE
        self._timer: asyncio.TimerHandle | None = None
        self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    @classmethod
    def create(cls, path: Path, sandbox: str, runtime: str) -> tuple[Output, int]:
        """A new pipe; the second value is the sandbox's end. Raises OSError."""
        os.mkfifo(path, 0o600)
        output = cls.reopen(path, sandbox, runtime)
        try:
            return output, os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            output.close()
            raise

    @classmethod
    def reopen(cls, path: Path, sandbox: str, runtime: str = "") -> Output:
        """The pipe that an earlier server made. Raises OSError."""
        return cls(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), sandbox, runtime)

    def _read(self) -> None:
        try:
            piece = os.read(self._descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return
        self._keep(piece)
        self._pass_on(piece)
        self._pieces -= 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_S, self._resume)
        if self._pieces == 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _keep(self, piece: bytes) -> None:
        self._kept = (self._kept + piece)[-_TAIL_BYTES:]

    def _resume(self) -> None:
        self._timer = None
        if self._pieces == 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        self._pieces = _PIECES_AT_ONCE

    def _pass_on(self, piece: bytes) -> None:
        *lines, rest = (bytes(self._line) + piece).split(b"\n")
        self._line = bytearray(rest[:_MAX_LINE_BYTES])
        for line in lines:
            text = line[:_MAX_LINE_BYTES].replace(b"\0", b"?")
            # journald limits the rate of each service itself; a line that it has no room for is lost.
            with contextlib.suppress(OSError):
                self._journal.sendto(f"{self._fields}MESSAGE=".encode() + text + b"\n", _JOURNAL)

    def tail(self) -> str:
        """The last that the sandbox wrote."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PIECES_AT_ONCE):
                self._keep(os.read(self._descriptor, _PIECE_BYTES))
        text = bytes(self._kept).decode("utf-8", "replace").replace("\0", "\ufffd")
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    def close(self) -> None:
        """Stop reading. May be called again."""
        if self._descriptor < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._journal.close()
        self._descriptor = -1
