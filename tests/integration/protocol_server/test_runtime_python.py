"""The real Python runtime in a sandbox that the real server started: one handshake, one call, one death."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.description import image_releases
from builder.images import build_image

from .support import SOURCE, Backend, Daemon, eventually, inspect

INT4 = 3


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def exchange(backend: Backend, kind: int, payload: bytes, call_id: int = 1) -> tuple[int, int, bytes]:
    """Type, flags and payload of the answer on the data connection."""
    assert backend.data is not None
    backend.data.sendall(struct.pack("<IBBHQ", call_id, kind, 0, 0, len(payload)) + payload)
    return answer(backend)


def answer(backend: Backend) -> tuple[int, int, bytes]:
    assert backend.data is not None
    header = backend.data.recv(16)
    if not header:
        raise ConnectionResetError("the sandbox closed its connection")
    _, kind, flags, _, length = struct.unpack("<IBBHQ", header)
    payload = b""
    while len(payload) < length:
        payload += backend.data.recv(length - len(payload))
    return kind, flags, payload


@pytest.fixture(scope="module")
def plpython() -> str:
    image = build_image("plpython", image_releases("plpython")[-1], say=print)
    image.load()
    return image.id


def test_call_and_kill(daemon: Callable[..., Daemon], plpython: str) -> None:
    one = daemon(runtime_directories={"python": str(SOURCE / "runtime_python")})
    runtime = one.runtime("py", pool=(1, 1), image=plpython, image_name="caisson/plpython", memory_mb=256, pids=64)
    del runtime["command"]
    one.runtimes = [{**runtime, "tmpfs_mb": 64, "nofile": 1024, "cpus": 1}]
    with one.running():
        eventually(one.warm, "one is warm", 20)
        with Backend(one.socket).lease("py") as backend:
            hello = struct.pack("<IHHQQ", 0x31434C50, 1, 1, 0, 1 << 30) + text(b"test") + struct.pack("<I", 0)
            kind, flags, payload = exchange(backend, 1, hello)
            assert (kind, flags) == (1, 1)
            assert b"python 3" in payload
            assert backend.data is not None
            register = struct.pack("<II", 1, 0) + text(b"f") + text(b"return a + 1") + struct.pack("<I", 1)
            register += text(b"a") + bytes([INT4, INT4])
            backend.data.sendall(struct.pack("<IBBHQ", 2, 9, 0, 0, len(register)) + register)
            call = struct.pack("<II", 1, 1) + b"\1" + struct.pack("<i", 41)
            assert exchange(backend, 2, call, 3) == (3, 0, b"\1" + struct.pack("<i", 42))
            pid = inspect(f"plcontainer-{backend.sandbox}")["State"]["Pid"]
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            assert backend.exited() == (backend.sandbox, "terminated by signal KILL", "08006")
            assert time.monotonic() - began < 1
        # The runtime ends by itself when its backend is gone; the server sees to what is left.
        eventually(one.warm, "one is warm again", 20)
        backend = Backend(one.socket).lease("py")
        pid = inspect(f"plcontainer-{backend.sandbox}")["State"]["Pid"]
        backend.close()
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the sandbox is gone", 5)
