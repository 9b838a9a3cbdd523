"""Listening and bounded reads and writes on non-blocking unix sockets."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Final

_LISTEN_BACKLOG: Final = 512
_SEND_TIMEOUT_S: Final = 5.0


def listen(path: Path, gid: int) -> socket.socket:
    """Listen at `path`, mode 0660, for group `gid` (-1: this process's own).

    A socket that nobody listens at is replaced in one step, with its rights set. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        else:
            raise OSError(errno.EADDRINUSE, "another server listens there")
    part = path.with_name(path.name + ".new")
    part.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(part))
        try:
            os.chown(part, -1, gid)
        except PermissionError as error:
            raise PermissionError(
                error.errno, f"could not give the socket to group {gid}: the server's user must be a member of it"
            ) from error
        part.chmod(0o660)
        listener.listen(_LISTEN_BACKLOG)
        part.rename(path)
    except OSError:
        listener.close()
        raise
    return listener


async def read(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes. Raises ConnectionResetError when the peer closes before."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the backend closed the connection")
        data += piece
    return bytes(data)


async def send(sock: socket.socket, frame: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send a frame; descriptors travel with its first byte. Bounded: a peer that does not read is given up."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_SEND_TIMEOUT_S):
        sent = 0
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            # The peer has read nothing yet and the socket's buffer is empty: this does not block.
            sent = sock.sendmsg([frame], rights)
        if sent < len(frame):
            await loop.sock_sendall(sock, frame[sent:])
