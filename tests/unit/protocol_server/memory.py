"""A backend without sandboxes: starts are what a test says they are."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol_server.backends import Backend, Connections, Exit
from protocol_server.config import Config, Pool, Runtime, ServerConfig
from protocol_server.errors import BackendUnavailableError
from protocol_server.logs import Log


class MemoryBackend(Backend):
    """Keeps "sandboxes" in a dict; the other ends of their connections are here for tests to use."""

    def __init__(self, config: ServerConfig, log: Log, on_available: Callable[[], None]) -> None:
        super().__init__(config, log, on_available)
        self.up = asyncio.Event()
        self.up.set()
        self.running: dict[str, asyncio.Event] = {}
        self.ends: dict[str, Exit] = {}
        self.peers: dict[str, Connections] = {}
        self.foreign: set[str] = set()
        self.started = 0
        self.at_once = 0
        self.most_at_once = 0
        self.failure: Exception | None = None
        # Starts and stops wait for these; set, they pass.
        self.gate = asyncio.Event()
        self.gate.set()
        self.stop_gate = asyncio.Event()
        self.stop_gate.set()
        self.start_calls: list[str] = []

    async def open(self) -> None:
        if self.available:
            self.on_available()

    async def close(self) -> None:
        for peer in self.peers.values():
            peer.close()

    @property
    def available(self) -> bool:
        return self.up.is_set()

    async def wait_available(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.up.wait()
        except TimeoutError:
            return False
        return True

    def unavailable_message(self) -> str:
        return "the memory backend is away"

    async def check(self, runtime: Runtime) -> str | None:
        return None

    async def start(self, sandbox: str, runtime: Runtime) -> Connections:
        self.start_calls.append(runtime.id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if self.failure is not None:
            raise self.failure
        (data, data_peer), (signal, signal_peer) = socket.socketpair(), socket.socketpair()
        self.started += 1
        self.running[sandbox] = asyncio.Event()
        self.peers[sandbox] = Connections(data_peer, signal_peer)
        return Connections(data, signal)

    def end(self, sandbox: str, reason: str = "terminated by signal KILL", sqlstate: str = "08006") -> None:
        self.ends[sandbox] = Exit(reason, sqlstate)
        self.running[sandbox].set()

    async def wait(self, sandbox: str) -> Exit:
        ended = self.running.setdefault(sandbox, asyncio.Event())
        await ended.wait()
        return self.ends.get(sandbox, Exit("ended", "08006"))

    def alive(self, sandbox: str) -> bool:
        return sandbox in self.running and not self.running[sandbox].is_set()

    async def stop(self, sandbox: str) -> None:
        await self.stop_gate.wait()
        if not self.available:
            raise BackendUnavailableError("away")
        self.foreign.discard(sandbox)
        ended = self.running.pop(sandbox, None)
        if ended is not None:
            ended.set()
        peer = self.peers.pop(sandbox, None)
        if peer is not None:
            peer.close()

    async def list_sandboxes(self) -> set[str]:
        if not self.available:
            raise BackendUnavailableError("away")
        return set(self.running) | self.foreign


def runtime(name: str = "r", minimum: int = 0, maximum: int = 0, **more: Any) -> Runtime:
    values: dict[str, Any] = {
        "id": name,
        "language": "python",
        "image": "sha256:" + "0" * 64,
        "image_name": "test/image",
        "command": ("python3",),
        "memory_mb": 32,
        "cpu_shares": 1024,
        "cpus": 1.0,
        "pids": 16,
        "tmpfs_mb": 8,
        "nofile": 64,
        "cpuset": "",
        "max_sandboxes": 0,
        "resource_group_id": "",
        "enable_network": False,
        "roles": (),
        "pool": Pool(minimum, maximum),
        **more,
    }
    return Runtime(**values)


def server_config(directory: Path, **more: Any) -> ServerConfig:
    values: dict[str, Any] = {
        "instance": "test",
        "socket": directory / "server.sock",
        "socket_group": "root",
        "socket_gid": -1,
        "control_socket": directory / "control.sock",
        "control_group": "",
        "control_gid": -1,
        "metrics_port": 0,
        "allowed_users": ("root",),
        "allowed_uids": frozenset(),
        "state_directory": directory,
        "runtimes_file": directory / "runtimes.yml",
        "runtime_directories": {"python": "/usr/lib/caisson/runtime_python"},
        "local_runtimes_file": directory / "runtimes.local.xml",
        "image_directory": directory / "images",
        "allowed_mounts": (),
        "backend": "memory",
        "docker_socket": directory / "docker.sock",
        "cgroup_parent": "",
        "resource_groups": (),
        "network": "",
        "network_dns": (),
        "sandbox_uid": 10000,
        "sandbox_gid": 10000,
        "selinux": "auto",
        "max_sandboxes": 8,
        "max_sandboxes_per_role": 0,
        "role_limits": {},
        "queue_length": 4,
        "queue_timeout_s": 5.0,
        "max_connections": 16,
        "request_timeout_s": 2.0,
        "start_timeout_s": 5.0,
        "start_retry_s": 2.0,
        "start_concurrency": 4,
        "reclaim_grace_s": 5.0,
        "lease_idle_s": 0.0,
        "pool_idle_s": 300.0,
        "sandbox_log_mb": 1,
        "sandbox_log_files": 2,
        "log_level": "debug",
        **more,
    }
    return ServerConfig(**values)


def make_config(directory: Path, *runtimes: Runtime, **more: Any) -> Config:
    return Config(server_config(directory, **more), {one.id: one for one in runtimes})


class LogLines:
    """A log whose lines a test can look at."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = Log(self.stream, "debug")

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


async def until(condition: Callable[[], Any], what: str = "condition", timeout_s: float = 5.0) -> None:
    """Let the loop run until `condition` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(0.001)
