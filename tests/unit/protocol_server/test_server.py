"""Leases over real sockets, with a backend that keeps its "sandboxes" in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol_server import codec, server
from protocol_server.backends import backend_class
from protocol_server.config import Config, ConfigError, Problem, Runtime
from protocol_server.leases import Lease, LeaseStore, token_hash
from protocol_server.process import start_time
from protocol_server.sandboxes import State
from protocol_server.systemd import Notifier
from tests.integration.protocol_server.support import Backend, ServerError

from .memory import LogLines, MemoryBackend, make_config, runtime, until

CLIENTS = ThreadPoolExecutor(64)


class RecordingNotifier(Notifier):
    def __init__(self) -> None:
        super().__init__({})
        self.sent: list[str] = []

    def send(self, state: str) -> None:
        self.sent.append(state.partition("\n")[0])


class World:
    """A server in this process."""

    def __init__(self, directory: Path, *runtimes: Runtime, **settings: Any) -> None:
        settings.setdefault("allowed_uids", frozenset({os.getuid()}))
        self.directory = directory
        self.lines = LogLines()
        self.notifier = RecordingNotifier()
        self.config = make_config(directory, *runtimes, **settings)
        self.next_config: Config | ConfigError = self.config
        self.server = server.Server(self.config, self.lines.log, self.reload, self.notifier)
        self.backend: MemoryBackend = self.server._backend  # type: ignore[assignment]
        self.sandboxes = self.server._sandboxes
        self.path = self.config.server.socket

    def reload(self) -> Config:
        if isinstance(self.next_config, ConfigError):
            raise self.next_config
        return self.next_config

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.server.run())
        try:
            await until(lambda: self.lines.events("ready") or task.done(), "ready")
            if task.done():
                task.result()
            yield
        finally:
            self.backend.up.set()
            self.backend.gate.set()
            self.backend.stop_gate.set()
            self.server._stop.set()
            await asyncio.wait((task,), timeout=10)
        task.result()

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        # Not the loop's own threads: the server needs those.
        return await asyncio.get_running_loop().run_in_executor(CLIENTS, partial(function, *arguments, **named))

    async def lease(self, **request: Any) -> Backend:
        connection = Backend(self.path)
        try:
            await self.call(connection.lease, **request)
        except BaseException:
            connection.close()
            raise
        return connection

    async def refused(self, **request: Any) -> dict[str, str]:
        with pytest.raises(ServerError) as caught:
            await self.lease(**request)
        return caught.value.fields


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "backend_class", lambda _: MemoryBackend)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def run(world_directory: Path, test: Callable[[World], Awaitable[None]], *runtimes: Runtime, **settings: Any) -> World:
    async def body() -> World:
        world = World(world_directory, *(runtimes or (runtime("echo"),)), **settings)
        async with asyncio.timeout(30), world.running():
            await test(world)
        return world

    return asyncio.run(body())


def test_grant_brings_both_descriptors(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            peers = world.backend.peers[backend.sandbox]
            for mine, theirs in ((backend.data, peers.data), (backend.signal, peers.signal)):
                assert mine is not None
                theirs.sendall(b"hello")
                assert mine.recv(5) == b"hello"
            # The server kept no copy: closing the backend's ends is the end of the connection.
            assert backend.data is not None
            backend.data.close()
            assert await world.call(peers.data.recv, 1) == b""

    run(directory, test)


def test_the_end_of_the_connection_is_the_end_of_the_lease(directory: Path) -> None:
    async def test(world: World) -> None:
        backend = await world.lease()
        state_file = directory / "leases" / f"{backend.sandbox}.json"
        assert state_file.exists()
        backend.close()
        await until(lambda: backend.sandbox not in world.sandboxes)
        assert not world.backend.running
        assert not state_file.exists()
        assert world.lines.events("lease_ended")[0]["why"] == "released"

    run(directory, test)


def test_state_file_is_private_and_holds_no_token(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            file = directory / "leases" / f"{backend.sandbox}.json"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
            text = file.read_text()
            assert backend.token not in text
            assert backend.token not in world.lines.stream.getvalue()
            remembered = json.loads(text)
            assert remembered["token_sha256"] == token_hash(backend.token)
            assert remembered["backend_pid"] == os.getpid()
            assert remembered["backend_start"] == start_time(os.getpid())

    run(directory, test)


def test_socket_rights(directory: Path) -> None:
    async def test(world: World) -> None:
        assert stat.S_IMODE(world.path.stat().st_mode) == 0o660
        assert stat.S_IMODE((directory / "sandboxes").stat().st_mode) == 0o700

    run(directory, test)
    assert not (directory / "server.sock").exists()


def test_other_users_are_told_who_may(directory: Path) -> None:
    async def test(world: World) -> None:
        fields = await world.refused()
        assert fields["C"] == "42501"
        assert f"user id {os.getuid()} (process {os.getpid()})" in fields["M"]
        assert fields["D"] == "Allowed are the users root."
        assert "allowed_users" in fields["H"]
        assert not world.backend.started

    run(directory, test, allowed_uids=frozenset({os.getuid() + 1}))


def test_roles_of_a_runtime(directory: Path) -> None:
    async def test(world: World) -> None:
        fields = await world.refused(runtime="r", role="alice", member_of=("staff",))
        assert (fields["C"], fields["M"]) == ("42501", 'role "alice" may not use runtime "r"')
        (refusal,) = world.lines.events("request_refused")
        assert (refusal["role"], refusal["runtime"], refusal["sqlstate"]) == ("alice", "r", "42501")
        (await world.lease(runtime="r", role="analyst")).close()
        (await world.lease(runtime="r", role="alice", member_of=("staff", "analyst"))).close()

    run(directory, test, runtime("r", roles=("analyst",)))


def test_unknown_runtime(directory: Path) -> None:
    async def test(world: World) -> None:
        fields = await world.refused(runtime="nope")
        assert (fields["C"], fields["M"]) == ("42704", 'runtime "nope" does not exist')
        assert "echo" in fields["D"]

    run(directory, test)


def head(kind: int = 32, flags: int = 0, length: int = 0) -> bytes:
    return struct.pack("<IBBHQ", 5, kind, flags, 0, length)


@pytest.mark.parametrize(
    "junk",
    [head(kind=1), head(flags=1), head(length=2**63), head(length=8) + b"notmagic", b"GET / HTTP/1.1\r\nHost: x\r\n"],
)
def test_junk_is_answered_and_costs_one_connection(directory: Path, junk: bytes) -> None:
    async def test(world: World) -> None:
        with Backend(world.path) as hostile:
            hostile.sock.sendall(junk)
            with pytest.raises(ServerError) as caught:
                await world.call(hostile.receive)
            assert caught.value.fields["C"] == "08P01"
            with pytest.raises(ConnectionResetError):
                await world.call(hostile.receive)
        (await world.lease()).close()

    run(directory, test)


def test_random_junk_does_no_harm(directory: Path) -> None:
    import random

    async def test(world: World) -> None:
        chance = random.Random(3)
        for _ in range(300):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(world.path))
                frame = bytearray(codec.encode_lease(1, codec.LeaseRequest("echo", "a", ("b",), "c")))
                for _ in range(chance.randint(1, 6)):
                    frame[chance.randrange(len(frame))] = chance.randrange(256)
                sock.sendall(frame[: chance.randint(1, len(frame))])
            await asyncio.sleep(0)
        await until(lambda: not world.server._connections, "all connections ended")
        assert world.server._without_lease == 0
        (await world.lease()).close()
        await until(lambda: not len(world.sandboxes))
        assert not world.lines.events("internal_error")

    run(directory, test)


def test_a_request_must_come_in_time(directory: Path) -> None:
    async def test(world: World) -> None:
        with Backend(world.path) as slow:
            slow.sock.sendall(head()[:7])
            with pytest.raises(ServerError, match=r"not complete within 0\.1 s"):
                await world.call(slow.receive)

    run(directory, test, request_timeout_s=0.1)


def test_connections_without_a_lease_are_bounded(directory: Path) -> None:
    async def test(world: World) -> None:
        idle = [Backend(world.path) for _ in range(3)]
        await until(lambda: world.server._without_lease == 3)
        with Backend(world.path) as one_more, pytest.raises(ServerError) as caught:
            await world.call(one_more.receive)
        assert caught.value.fields["C"] == "53300"
        assert "max_connections" in caught.value.fields["H"]
        for backend in idle:
            backend.close()
        await until(lambda: world.server._without_lease == 0)
        held = [await world.lease() for _ in range(5)]
        assert world.server._without_lease == 0
        for backend in held:
            backend.close()

    run(directory, test, max_connections=3)


def test_anything_after_the_grant_is_a_violation(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            backend.sock.sendall(codec.encode_lease(8, codec.LeaseRequest("echo", "alice", (), "db")))
            with pytest.raises(ServerError) as caught:
                await world.call(backend.receive)
            assert caught.value.fields["C"] == "08P01"
            await until(lambda: backend.sandbox not in world.sandboxes)

    run(directory, test)


def test_a_backend_that_gives_up_waiting_leaves_nothing(directory: Path) -> None:
    async def test(world: World) -> None:
        world.backend.gate.clear()
        backend = Backend(world.path)
        backend.ask("echo")
        await until(lambda: world.backend.at_once == 1)
        backend.close()
        await until(lambda: world.server._without_lease == 0)
        world.backend.gate.set()
        await until(lambda: not len(world.sandboxes))
        assert not list((directory / "leases").iterdir())

    run(directory, test)


def test_exited_is_sent(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            world.backend.end(backend.sandbox, "exceeded its memory limit of 32 MB", "53200")
            exited = await world.call(backend.exited)
            assert exited == (backend.sandbox, "exceeded its memory limit of 32 MB", "53200")
        await until(lambda: not len(world.sandboxes) and world.lines.events("lease_ended"))
        assert world.lines.events("lease_ended")[0]["why"] == "exited"

    run(directory, test)


def test_a_sandbox_that_dies_during_the_grant(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        write = LeaseStore.write

        def die_meanwhile(store: LeaseStore, lease: Lease) -> None:
            write(store, lease)
            world.backend.end(lease.sandbox)

        monkeypatch.setattr(LeaseStore, "write", die_meanwhile)
        with await world.lease() as backend:
            assert (await world.call(backend.exited))[2] == "08006"
        await until(lambda: not len(world.sandboxes))
        assert not list((directory / "leases").iterdir())

    run(directory, test)


def test_full_run_directory_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_store: LeaseStore, _lease: Lease) -> None:
        raise OSError(28, "No space left on device")

    async def test(world: World) -> None:
        monkeypatch.setattr(LeaseStore, "write", full)
        fields = await world.refused()
        assert fields["C"] == "58000"
        assert fields["D"].startswith(f"{directory}: No space left on device; ")
        await until(lambda: not len(world.sandboxes))

    run(directory, test)


def test_many_at_once(directory: Path) -> None:
    async def test(world: World) -> None:
        backends = await asyncio.gather(*(world.lease() for _ in range(60)))
        assert len({backend.sandbox for backend in backends}) == 60
        for backend in backends:
            backend.close()
        await until(lambda: not len(world.sandboxes))
        assert not list((directory / "leases").iterdir())

    run(directory, test, max_sandboxes=60, queue_length=60, max_connections=60)


# Restarts: the first server leaves its leases, the second one finds them.


async def left_by_a_server(directory: Path, count: int = 1, **changes: Any) -> list[tuple[str, str]]:
    """Sandbox and token of leases that a server left when it was stopped."""
    world = World(directory, runtime("echo"))
    left = []
    async with world.running():
        for _ in range(count):
            backend = await world.lease()
            left.append((backend.sandbox, backend.token))
            # What a session holds outlives the server; here its descriptors do not matter.
        world.server._stop.set()
        await until(lambda: world.lines.events("stopped"))
        assert {sandbox for sandbox, _ in left} <= set(world.backend.running)
    for sandbox, _ in left:
        file = directory / "leases" / f"{sandbox}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return left


def restarted(
    directory: Path,
    test: Callable[[World, list[tuple[str, str]]], Awaitable[None]],
    *,
    changes: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    async def body() -> None:
        left = await left_by_a_server(directory, 2, **(changes or {}))
        world = World(directory, runtime("echo"), **settings)
        for sandbox, _ in left:
            world.backend.running[sandbox] = asyncio.Event()
        async with asyncio.timeout(30), world.running():
            await test(world, left)

    asyncio.run(body())


def test_leases_are_reclaimed_by_token(directory: Path) -> None:
    async def test(world: World, left: list[tuple[str, str]]) -> None:
        for sandbox, token in left:
            backend = Backend(world.path)
            assert await world.call(backend.reclaim, token) == sandbox
            with Backend(world.path) as second, pytest.raises(ServerError) as caught:
                await world.call(second.reclaim, token)
            assert caught.value.fields["C"] == "55006"
            world.backend.end(sandbox)
            assert (await world.call(backend.exited))[0] == sandbox
            backend.close()
        await until(lambda: not len(world.sandboxes))

    restarted(directory, test)


def test_what_nobody_reclaims_is_reaped(directory: Path) -> None:
    async def test(world: World, left: list[tuple[str, str]]) -> None:
        backend = Backend(world.path)
        await world.call(backend.reclaim, left[0][1])
        await until(lambda: left[1][0] not in world.backend.running, "reaped")
        assert world.lines.events("lease_reaped")[0]["why"] == "not reclaimed"
        assert left[0][0] in world.backend.running
        with Backend(world.path) as late, pytest.raises(ServerError) as caught:
            await world.call(late.reclaim, left[1][1])
        assert caught.value.fields["C"] == "08003"
        backend.close()
        await until(lambda: not len(world.sandboxes))
        assert not list((directory / "leases").iterdir())

    restarted(directory, test, reclaim_grace_s=0.3)


@pytest.mark.parametrize("changes", [{"backend_pid": 2**22 + 5}, {"backend_start": 1}])
def test_leases_of_backends_that_are_gone_are_reaped_at_once(directory: Path, changes: dict[str, Any]) -> None:
    async def test(world: World, left: list[tuple[str, str]]) -> None:
        await until(lambda: not world.backend.running)
        assert {event["why"] for event in world.lines.events("lease_reaped")} == {"backend is gone"}

    restarted(directory, test, changes=changes, reclaim_grace_s=3600)


def test_a_backend_that_ends_before_it_reclaims(directory: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    async def test(world: World, left: list[tuple[str, str]]) -> None:
        assert len(world.backend.running) == 2
        with Backend(world.path) as thief, pytest.raises(ServerError) as caught:
            await world.call(thief.reclaim, left[0][1])
        assert caught.value.fields["C"] == "42501"
        await world.call(child.communicate, b"\n")
        await until(lambda: not world.backend.running, "reaped at the end of the backend")

    try:
        changes = {"backend_pid": child.pid, "backend_start": start_time(child.pid)}
        restarted(directory, test, changes=changes, reclaim_grace_s=3600)
    finally:
        child.kill()
        child.wait()


def test_orphans_directories_and_broken_files_are_removed(directory: Path) -> None:
    async def body() -> None:
        (directory / "sandboxes" / "0123456789abcdef").mkdir(parents=True)
        (directory / "leases").mkdir()
        for name, content in (("aaaaaaaaaaaaaaaa.json", "{"), ("x.part", ""), ("bbbbbbbbbbbbbbbb.json", '{"id": 1}')):
            (directory / "leases" / name).write_text(content)
        world = World(directory, runtime("echo"))
        world.backend.foreign = {"00000000000000aa", "00000000000000bb"}
        async with asyncio.timeout(30), world.running():
            await until(lambda: world.lines.events("reconciled"))
            await until(lambda: not world.backend.foreign and not len(world.sandboxes))
            assert not list((directory / "sandboxes").iterdir())
            assert not list((directory / "leases").iterdir())
            assert len(world.lines.events("lease_unreadable")) == 3

    asyncio.run(body())


def test_reconciling_leaves_the_living_alone(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            world.server._on_available()
            await until(lambda: len(world.lines.events("reconciled")) >= 2)
            assert world.backend.alive(backend.sandbox)

    run(directory, test)


def test_a_second_server_does_not_take_the_socket(directory: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(server.ServerError, match="another server listens there"):
            await World(directory, runtime("echo")).server.run()
        (await world.lease()).close()

    run(directory, test)


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(directory / "server.sock"))

    async def test(world: World) -> None:
        (await world.lease()).close()

    run(directory, test)


# Reloads


def test_reload(directory: Path) -> None:
    async def test(world: World) -> None:
        backend = await world.lease()
        limits = dataclasses.replace(world.config.server, max_sandboxes=2, instance="other", log_level="info")
        world.next_config = Config(limits, {"fresh": runtime("fresh", 1, 1)})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: world.sandboxes.count(State.READY) == 1)
        assert world.lines.events("config_needs_restart")[0]["keys"] == ["instance"]
        assert (await world.refused(runtime="echo"))["C"] == "42704"
        (await world.lease(runtime="fresh")).close()
        assert world.backend.alive(backend.sandbox)
        assert world.notifier.sent[:3] == ["READY=1", "RELOADING=1", "READY=1"]
        backend.close()

    run(directory, test)


def test_a_bad_reload_changes_nothing(directory: Path) -> None:
    async def test(world: World) -> None:
        world.next_config = ConfigError([Problem("/etc/plcontainer/runtimes.yml", 7, "min of 5 is more than max of 4")])
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: world.lines.events("config_rejected"))
        rejected = world.lines.events("config_rejected")[0]
        assert (rejected["file"], rejected["line"]) == ("/etc/plcontainer/runtimes.yml", 7)
        (await world.lease()).close()
        await until(lambda: world.notifier.sent[-1] == "READY=1")

    run(directory, test)


def test_an_end_is_announced(directory: Path) -> None:
    async def test(world: World) -> None:
        return

    assert run(directory, test).notifier.sent == ["READY=1", "STOPPING=1"]


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_class("docker").__name__ == "DockerBackend"
    with pytest.raises(LookupError, match="backend 'nope' does not exist; there are docker"):
        backend_class("nope")
