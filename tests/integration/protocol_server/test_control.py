"""What an operator sees and does, with the real server, the real Docker and real containers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from .support import Backend, Daemon, eventually, refused

Make = Callable[..., Daemon]


def test_sandboxes_with_what_they_use(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("echo"), one.runtime("warm", pool=(1, 1))]
    with one.running(), Backend(one.socket).lease("echo", "alice") as backend:
        eventually(one.warm, "one is warm")
        status, answer = one.control("GET", "/v1/sandboxes")
        assert status == 200
        rows = {row["sandbox"]: row for row in answer["sandboxes"]}
        assert {(row["runtime"], row["state"]) for row in rows.values()} == {("echo", "leased"), ("warm", "ready")}
        leased = rows[backend.sandbox]
        assert (leased["role"], leased["database"], leased["backend_pid"]) == ("alice", "db", os.getpid())
        # A static program of some pages, in a container of 32 MiB.
        assert 0 < leased["memory_bytes"] < 32 * 1024 * 1024
        assert 0 < leased["cpu_s"] < 5
        assert 0 < leased["uptime_s"] < 60
        one.kill()
        one.start()
        with Backend(one.socket) as again:
            again.reclaim(backend.token)
            (row,) = [row for row in one.control("GET", "/v1/sandboxes")[1]["sandboxes"] if row["role"]]
            assert row["sandbox"] == backend.sandbox
            eventually(
                lambda: one.control("GET", "/v1/sandboxes")[1]["sandboxes"][0]["memory_bytes"],
                "what it uses is known again",
            )


def test_drain_of_a_host(daemon: Make) -> None:
    one = daemon()
    one.runtimes = [one.runtime("echo", pool=(1, 1))]
    with one.running():
        backend = Backend(one.socket).lease()
        eventually(one.warm, "one is warm")
        with ThreadPoolExecutor() as pool:
            drained = pool.submit(one.control, "POST", "/v1/drain", {"wait_s": 60})
            one.wait_event("drained")
            assert backend.echo(b"goes on") == b"goes on"
            assert refused(one.socket, runtime="echo")["C"] == "57P03"
            assert not drained.done()
            backend.close()
            status, state = drained.result(60)
        assert (status, state["draining"], state["leases"]) == (200, True, 0)
        eventually(lambda: not one.containers(), "no container is left")
        one.stop()
        one.start()
        assert refused(one.socket, runtime="echo")["C"] == "57P03"
        assert one.control("POST", "/v1/undrain")[1]["draining"] is False
        with Backend(one.socket).lease() as again:
            assert again.echo(b"x") == b"x"


def test_reload_and_metrics(daemon: Make) -> None:
    one = daemon()
    with one.running():
        (one.root / "runtimes.yml").write_text("runtimes:\n  - id: a b\n")
        status, answer = one.control("POST", "/v1/reload")
        assert status == 422
        assert answer["problems"][0]["line"] == 2
        one.write()
        assert one.control("POST", "/v1/reload")[0] == 200
        status, text = one.control("GET", "/metrics")
        assert status == 200
        assert 'protocol_server_reloads_total{outcome="rejected"} 1.0' in text
        assert 'protocol_server_reloads_total{outcome="applied"} 1.0' in text
        assert "process_resident_memory_bytes" in text


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_the_operator_s_socket_is_closed_to_the_database_s_user(daemon: Make) -> None:
    from .test_leases import as_nobody

    with daemon().running() as one, as_nobody(), pytest.raises(PermissionError):
        one.control("GET", "/v1/state")


def test_a_killed_operator_does_no_harm(daemon: Make) -> None:
    one = daemon()
    with one.running(), Backend(one.socket).lease() as backend:
        with ThreadPoolExecutor() as pool:
            drained = pool.submit(one.control, "POST", "/v1/drain", {"wait_s": 600})
            one.wait_event("drained")
            began = time.monotonic()
            assert one.stop() == 0, "a server with someone at the operator's socket ends in time"
            assert time.monotonic() - began < 8
            assert drained.exception(30) is None or isinstance(drained.exception(), OSError)
        assert backend.echo(b"goes on") == b"goes on"
