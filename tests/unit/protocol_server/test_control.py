"""The operator's socket, queries of backends, idle sessions: over real sockets, with sandboxes in memory."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from protocol_server import codec, server
from protocol_server.activity import Activity, sleeps_when_idle
from protocol_server.config import ConfigError, Problem
from protocol_server.statistics import Statistics
from tests.integration.protocol_server.support import Backend, ServerError

from .memory import MemoryBackend, make_config, runtime, until
from .test_server import World, run


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "backend_class", lambda _: MemoryBackend)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


async def ask(world: World, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and body of one exchange on the operator's socket."""
    connector = aiohttp.UnixConnector(path=str(world.config.server.control_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://server{path}", json=body) as response,
    ):
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


def query(path: Path, what: str, role: str = "alice", *, monitor: bool = False) -> Any:
    with Backend(path) as backend:
        backend.sock.sendall(codec.encode_query(3, codec.QueryRequest(what, role, "db", monitor)))
        kind, payload = backend.receive()
        assert kind == codec.TYPE_ANSWER
        reader = codec.Reader(payload)
        answer = json.loads(reader.text("the answer", codec.MAX_ANSWER))
        reader.end()
        assert backend.sock.recv(1) == b"", "the connection ends with the answer"
        return answer


def test_the_socket_is_the_operators_own(directory: Path) -> None:
    async def test(world: World) -> None:
        file = world.config.server.control_socket
        assert stat.S_IMODE(file.stat().st_mode) == 0o660
        assert file.stat().st_gid == os.getgid()

    run(directory, test)
    assert not (directory / "control.sock").exists()


def test_sandboxes(directory: Path) -> None:
    async def test(world: World) -> None:
        await until(lambda: world.backend.started == 1)
        with await world.lease(runtime="cold", role="alice") as backend:
            status, answer = await ask(world, "GET", "/v1/sandboxes")
            assert status == 200
            rows = {row["sandbox"]: row for row in answer["sandboxes"]}
            leased = rows.pop(backend.sandbox)
            assert leased["state"] == "leased"
            assert (leased["runtime"], leased["role"], leased["database"]) == ("cold", "alice", "db")
            assert leased["backend_pid"] == os.getpid()
            assert 0 <= leased["uptime_s"] < 30
            assert leased["memory_bytes"] is None, "this backend cannot tell"
            (warm,) = rows.values()
            assert (warm["state"], warm["role"], warm["leased_at"]) == ("ready", None, None)

    run(directory, test, runtime("warm", 1, 1), runtime("cold"))


def test_state_runtimes_and_config(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease():
            _, state = await ask(world, "GET", "/v1/state")
            assert (state["leases"], state["sandboxes"]["leased"], state["draining"]) == (1, 1, False)
            _, answer = await ask(world, "GET", "/v1/runtimes")
            assert [one["id"] for one in answer["runtimes"]] == ["echo"]
            assert answer["runtimes"][0]["pool"] == {"min": 0, "max": 0}
            _, config = await ask(world, "GET", "/v1/config")
            assert config["server"]["max_sandboxes"] == 8
            assert config["server"]["socket"] == str(directory / "server.sock")

    run(directory, test)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/v1/drain", 405), ("POST", "/v1/config", 405)]
)
def test_what_there_is_not(directory: Path, method: str, path: str, status: int) -> None:
    async def test(world: World) -> None:
        assert (await ask(world, method, path))[0] == status

    run(directory, test)


def test_metrics(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease(role="alice"):
            await world.refused(runtime="nope")
            _, text = await ask(world, "GET", "/metrics")
            lines = set(text.splitlines())
            assert {
                'protocol_server_leases{runtime="echo"} 1.0',
                'protocol_server_sandboxes{state="leased"} 1.0',
                'protocol_server_leases_granted_total{runtime="echo"} 1.0',
                'protocol_server_requests_refused_total{sqlstate="42704"} 1.0',
                'protocol_server_sandbox_start_seconds_count{runtime="echo"} 1.0',
                'protocol_server_lease_grant_seconds_count{warm="no"} 1.0',
                "protocol_server_queue_length 0.0",
                "protocol_server_queue_wait_seconds_count 1.0",
                "protocol_server_draining 0.0",
            } <= lines
            assert "alice" not in text
        await until(lambda: not len(world.sandboxes))
        _, text = await ask(world, "GET", "/metrics")
        assert 'protocol_server_sandboxes_removed_total{reason="released"} 1.0' in text

    run(directory, test)


def test_metrics_on_a_port_and_nothing_else_there(directory: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def test(world: World) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                assert "protocol_server_sandboxes_limit 8.0" in await response.text()
            async with session.post(f"http://127.0.0.1:{port}/v1/drain") as response:
                assert response.status == 404

    run(directory, test, metrics_port=port)


def test_a_port_that_is_taken(directory: Path) -> None:
    async def test(world: World) -> None:
        raise AssertionError("it must not start")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(server.ServerError, match=r"cannot tell metrics on port \d+ of 127.0.0.1"):
            run(directory, test, metrics_port=taken.getsockname()[1])


def test_drain_waits_for_leases_and_survives_a_restart(directory: Path) -> None:
    async def drain(world: World) -> None:
        backend = await world.lease()
        _, state = await ask(world, "POST", "/v1/drain", {"wait_s": 0.05})
        assert (state["draining"], state["leases"]) == (True, 1)
        fields = await world.refused()
        assert fields["C"] == "57P03"
        assert "drained" in fields["M"]
        backend.close()
        _, state = await ask(world, "POST", "/v1/drain", {"wait_s": 20})
        assert state["leases"] == 0

    async def still_drained(world: World) -> None:
        assert world.lines.events("still_draining")
        assert (await world.refused())["C"] == "57P03"
        _, state = await ask(world, "POST", "/v1/undrain")
        assert state["draining"] is False
        (await world.lease()).close()

    async def drained_no_more(world: World) -> None:
        (await world.lease()).close()

    run(directory, drain)
    run(directory, still_drained)
    run(directory, drained_no_more)


@pytest.mark.parametrize("body", [[], {"wait_s": "long"}, {"wait_s": -1}, {"idle_s": True}, {"wait_s": 1e9}])
def test_drain_refuses_nonsense(directory: Path, body: Any) -> None:
    async def test(world: World) -> None:
        status, answer = await ask(world, "POST", "/v1/drain", body)
        assert status == 400
        assert answer["error"]
        assert not world.sandboxes.draining

    run(directory, test)


def test_reload_tells_what_is_wrong(directory: Path) -> None:
    async def test(world: World) -> None:
        world.next_config = ConfigError([Problem("runtimes.yml", 7, "no")])
        status, answer = await ask(world, "POST", "/v1/reload")
        assert status == 422
        assert answer["problems"] == [
            {"file": "runtimes.yml", "line": 7, "rule": "no", "text": "runtimes.yml:7: no"},
        ]
        (await world.lease()).close()
        world.next_config = make_config(directory, runtime("other"), allowed_uids=frozenset({os.getuid()}))
        status, answer = await ask(world, "POST", "/v1/reload")
        assert (status, answer["runtimes"]) == (200, 1)
        (await world.lease(runtime="other")).close()

    run(directory, test)


# queries of backends


def test_containers_are_one_s_own_unless_one_is_a_monitor(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease(role="alice") as hers, await world.lease(role="bob") as his:
            rows = await world.call(query, world.path, "containers")
            assert [row["sandbox"] for row in rows] == [hers.sandbox]
            rows = await world.call(query, world.path, "containers", "carol")
            assert rows == []
            rows = await world.call(query, world.path, "containers", "carol", monitor=True)
            assert {row["sandbox"] for row in rows} == {hers.sandbox, his.sandbox}

    run(directory, test)


def test_an_answer_may_be_large(directory: Path) -> None:
    async def test(world: World) -> None:
        rows = await world.call(query, world.path, "config")
        assert [row["id"] for row in rows] == [f"runtime{number}" for number in range(500)]

    run(directory, test, *(runtime(f"runtime{number}") for number in range(500)))


def test_statistics_are_summed_up(directory: Path) -> None:
    async def test(world: World) -> None:
        one = codec.FunctionStatistics(16400, 2, 3, 1, 100, 200, 5000)
        with await world.lease(role="alice") as hers, await world.lease(role="bob") as his:
            for backend in (hers, hers, his):
                backend.sock.sendall(codec.encode_statistics([one]))
            await until(lambda: world.server._statistics.rows("db", None)[:1] and _calls(world) == 6)
            (row,) = await world.call(query, world.path, "statistics")
            assert row == {
                "function": 16400,
                "calls": 4,
                "rows": 6,
                "errors": 2,
                "bytes_sent": 200,
                "bytes_received": 400,
                "microseconds": 10000,
            }
            (row,) = await world.call(query, world.path, "statistics", monitor=True)
            assert row["calls"] == 6
            assert world.backend.alive(hers.sandbox)
        assert world.server._statistics.rows("other", None) == []

    run(directory, test)


def _calls(world: World) -> object:
    return world.server._statistics.rows("db", None)[0]["calls"]


def test_statistics_that_are_cut_off_end_the_lease(directory: Path) -> None:
    async def test(world: World) -> None:
        with await world.lease() as backend:
            backend.sock.sendall(codec.pack_frame(codec.TYPE_STATISTICS, 0, b"\x01\0\0\0short"))
            with pytest.raises(ServerError) as caught:
                await world.call(backend.receive)
            assert caught.value.fields["C"] == "08P01"

    run(directory, test)


def test_sums_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol_server.statistics._MAX_SUMS", 2)
    statistics = Statistics()
    statistics.add("db", "alice", [codec.FunctionStatistics(number, 1, 1, 0, 0, 0, 0) for number in range(5)])
    statistics.add("db", "alice", [codec.FunctionStatistics(0, 1, 1, 0, 0, 0, 0)])
    assert [(row["function"], row["calls"]) for row in statistics.rows("db", None)] == [(0, 2), (1, 1)]


def test_refresh_is_for_monitors(directory: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(ServerError) as caught:
            await world.call(query, world.path, "refresh")
        assert caught.value.fields["C"] == "42501"
        assert await world.call(query, world.path, "refresh", monitor=True) == [{"runtimes": 1}]
        world.next_config = ConfigError([Problem("runtimes.yml", 7, "no")])
        with pytest.raises(ServerError) as caught:
            await world.call(query, world.path, "refresh", monitor=True)
        assert caught.value.fields["C"] == "F0000"
        assert caught.value.fields["D"] == "runtimes.yml:7: no"

    run(directory, test)


@pytest.mark.parametrize(
    "payload",
    [
        codec.encode_query(1, codec.QueryRequest("everything", "alice", "db", False))[16:],
        codec.encode_query(1, codec.QueryRequest("config", "alice", "db", False))[16:-1] + b"\x02",
        codec.encode_query(1, codec.QueryRequest("config", "alice", "db", False))[16:] + b"\0",
        codec.encode_query(1, codec.QueryRequest("config", "r" * 64, "db", False))[16:],
    ],
)
def test_bad_queries(directory: Path, payload: bytes) -> None:
    async def test(world: World) -> None:
        with Backend(world.path) as backend:
            backend.sock.sendall(codec.pack_frame(codec.TYPE_QUERY, 1, payload))
            with pytest.raises(ServerError) as caught:
                await world.call(backend.receive)
            assert caught.value.fields["C"] == "08P01"

    run(directory, test)


# idle sessions


def fake_process(proc: Path, pid: int, title: str, sleeps: int) -> None:
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "cmdline").write_bytes(title.encode() + b"\0\0")
    status = f"Name:\tpostgres\nvoluntary_ctxt_switches:\t{sleeps}\nnonvoluntary_ctxt_switches:\t1\n"
    (proc / str(pid) / "status").write_text(status)


@pytest.mark.parametrize(
    ("title", "idle"),
    [
        ("postgres: alice db [local] idle", True),
        ("postgres: 15/main: alice db 10.0.0.1(4711) idle in transaction", True),
        ("postgres: alice db [local] idle in transaction (aborted)", True),
        ("postgres: alice db [local] SELECT", False),
        ("postgres: alice db [local]", False),
    ],
)
def test_who_is_idle(tmp_path: Path, title: str, idle: bool) -> None:
    fake_process(tmp_path, 7, title, 42)
    assert sleeps_when_idle(7, tmp_path) == (42 if idle else None)
    assert sleeps_when_idle(8, tmp_path) is None
    assert sleeps_when_idle(0, tmp_path) is None


def test_an_idle_session_that_ran_something_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("protocol_server.activity.time.monotonic", lambda: now)
    activity = Activity(tmp_path)
    fake_process(tmp_path, 7, "postgres: alice db [local] idle", 42)
    assert activity.idle_s(7) == 0
    now = 110.0
    assert activity.idle_s(7) == 10
    fake_process(tmp_path, 7, "postgres: alice db [local] idle", 44)
    assert activity.idle_s(7) == 0, "it slept twice more: it did something"
    fake_process(tmp_path, 7, "postgres: alice db [local] SELECT", 44)
    assert activity.idle_s(7) is None
    activity.keep(set())
    fake_process(tmp_path, 7, "postgres: alice db [local] idle", 44)
    assert activity.idle_s(7) == 0


def test_sandboxes_of_idle_sessions_are_taken_back(directory: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.server._activity = Activity(tmp_path)
        fake_process(tmp_path, os.getpid(), "postgres: alice db [local] SELECT", 1)
        with await world.lease() as backend:
            await until(lambda: world.server._config.server.lease_idle_s == 0.5)
            assert world.backend.alive(backend.sandbox)
            fake_process(tmp_path, os.getpid(), "postgres: alice db [local] idle", 1)
            sandbox, reason, sqlstate = await world.call(backend.exited)
            assert sandbox == backend.sandbox
            assert reason.startswith("was taken back: its session was idle for ")
            assert sqlstate == "57P05"
            await until(lambda: not len(world.sandboxes))
            assert not list((directory / "leases").iterdir())

    run(directory, test, lease_idle_s=0.5)


def test_drain_takes_idle_sandboxes_back_when_asked(directory: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.server._activity = Activity(tmp_path)
        fake_process(tmp_path, os.getpid(), "postgres: alice db [local] idle", 1)
        with await world.lease() as backend:
            _, state = await ask(world, "POST", "/v1/drain", {"wait_s": 20, "idle_s": 0})
            assert state["leases"] == 0
            assert (await world.call(backend.exited))[2] == "57P05"

    run(directory, test)


def test_a_clock_that_jumps_costs_no_lease(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        clock = time.time
        with await world.lease() as first:
            for jump_s in (3600, -3600):
                monkeypatch.setattr(time, "time", lambda jump_s=jump_s: clock() + jump_s)
                world.server._take_back(600)
                _, answer = await ask(world, "GET", "/v1/sandboxes")
                assert [row["sandbox"] for row in answer["sandboxes"]] == [first.sandbox]
                assert answer["sandboxes"][0]["uptime_s"] >= 0
                (await world.lease()).close()
                await until(lambda: len(world.sandboxes) == 1)
            assert world.backend.alive(first.sandbox)

    run(directory, test, lease_idle_s=600)
