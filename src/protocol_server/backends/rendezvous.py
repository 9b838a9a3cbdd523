"""Where a sandbox meets the server: a listening socket in a directory of its own, mounted into the sandbox."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Final

from protocol_server.backends import Connections
from protocol_server.errors import SQLSTATE_SYSTEM_ERROR, StartFailedError
from protocol_server.selinux import Label, rendezvous_sockets

SOCKET_NAME: Final = "sandbox.sock"


def sandboxes_directory(state_directory: Path) -> Path:
    """The directory that holds one directory per sandbox; closed to everyone but the server."""
    return state_directory / "sandboxes"


def remove_directory(directory: Path) -> None:
    """Remove a sandbox's directory; one that is not there is fine. Symbolic links are not followed."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return


def describe_full(directory: Path, error: OSError) -> str:
    """What went wrong in a directory, with the space that is left where that is what is missing."""
    text = f"{directory}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += f"; {free_space(directory)} are free there"
    return text


def free_space(directory: Path) -> str:
    """The space that is left where a directory lies. An inode may be what is missing, so both are told."""
    space = os.statvfs(directory)
    return f"{space.f_bavail * space.f_frsize} bytes and {space.f_favail} inodes"


class Rendezvous:
    """The directory and the listening socket of one sandbox that is being started."""

    def __init__(self, directory: Path, label: Label | None = None) -> None:
        self.directory = directory
        self._label = label
        self._listener: socket.socket | None = None

    async def open(self) -> None:
        """Make the directory and listen. Raises StartFailedError with path and free space when the host refuses."""
        self._listener = await asyncio.to_thread(self._listen)

    def _listen(self) -> socket.socket:
        try:
            with rendezvous_sockets(self._label):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR, "could not create the socket of a sandbox", detail=str(error)
            ) from error
        made = False
        try:
            self.directory.mkdir(mode=0o711)
            made = True
            # The sandbox's user has no rights here but these; everyone else is kept out by the parent directory.
            self.directory.chmod(0o711)
            path = self.directory / SOCKET_NAME
            if self._label is not None:
                self._label.apply(self.directory)
            listener.bind(str(path))
            if self._label is not None:
                self._label.apply(path)
            path.chmod(0o666)
            listener.listen(2)
        except OSError as error:
            detail = describe_full(self.directory.parent, error)
            listener.close()
            if made:
                remove_directory(self.directory)
            raise StartFailedError(
                SQLSTATE_SYSTEM_ERROR, "could not create the directory of a sandbox", detail=detail
            ) from error
        return listener

    async def accept(self) -> Connections:
        """The sandbox's two connections, in the order in which it made them."""
        if self._listener is None:
            raise RuntimeError("the rendezvous is not open")
        loop = asyncio.get_running_loop()
        data, _ = await loop.sock_accept(self._listener)
        try:
            signal, _ = await loop.sock_accept(self._listener)
        except BaseException:
            data.close()
            raise
        return Connections(data, signal)

    def close(self) -> None:
        """Stop listening and take the socket away, so that nothing can connect any more. The directory stays."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            (self.directory / SOCKET_NAME).unlink(missing_ok=True)
