"""A protocol server whose sandboxes are the Python runtime as plain processes: for functions that tests wrote."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cluster import ROOT
from .hostile import ERROR, EXITED, GRANT, HEADER, LEASE, Cursor, Server, frame, listening, text

START_TIMEOUT_S = 30.0
RUNTIME = b"plc_python_shared"


class Interpreters(Server):
    """Grants a process per lease, that of nobody where that can be."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda _: None)
        self.runtime = path.parent / "runtime_python"
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / "src/runtime_python", self.runtime, ignore=ignored)

    def lease(self, control: socket.socket) -> None:
        """Grant one interpreter and end it with its lease."""
        with control, tempfile.TemporaryDirectory(prefix="plfuzz-") as name, contextlib.suppress(OSError):
            _, kind, _, _, length = HEADER.unpack(control.recv(HEADER.size, socket.MSG_WAITALL))
            request = Cursor(control.recv(length, socket.MSG_WAITALL))
            if kind != LEASE:
                return
            request.number("Q")
            if request.text() != RUNTIME:
                control.sendall(frame(0, ERROR, b"C" + text(b"42704") + b"M" + text(b"no such runtime") + b"\0"))
                return
            self.counts.sandboxes += 1
            with self._started(Path(name)) as (process, connections):
                granted = frame(0, GRANT, text(b"python%d" % self.counts.sandboxes) + text(b"token"))
                socket.send_fds(control, [granted], [connection.fileno() for connection in connections])
                for connection in connections:
                    connection.close()
                self._wait(control, process)

    @contextlib.contextmanager
    def _started(self, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[socket.socket]]]:
        directory.chmod(0o755)
        identity: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "socket"))
            (directory / "socket").chmod(0o666)
            listener.listen(2)
            listener.settimeout(START_TIMEOUT_S)
            environment = {"PLC_SOCKET": str(directory / "socket"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
            command = [sys.executable, "-I", str(self.runtime)]
            with subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.DEVNULL, **identity) as process:
                try:
                    yield process, [listener.accept()[0] for _ in range(2)]
                finally:
                    process.kill()

    def _wait(self, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Return when the backend has ended the lease; tell it when the interpreter ends first."""
        control.settimeout(0.1)
        while process.poll() is None:
            try:
                if not control.recv(4096):
                    return
            except TimeoutError:
                continue
        status = process.returncode
        reason = f"exited with status {status}"
        if status < 0:
            reason = f"terminated by signal {signal.Signals(-status).name.removeprefix('SIG')}"
        control.sendall(frame(0, EXITED, text(b"python") + text(reason.encode()) + text(b"08006")))


@contextlib.contextmanager
def interpreting(path: Path) -> Iterator[Server]:
    """Serve interpreters on `path`."""
    server = Interpreters(path)
    with listening(server):
        yield server
