"""What breaks while a function runs, and what the session sees of it.

The numbers are those of docs/guarantees.md.
"""

from __future__ import annotations

import time

import pytest
from tests.support.segment_host import SERVER, SegmentHost, Session, wait_until

SLOW = "import time\ntime.sleep(seconds)\nreturn 'woke up'"


@pytest.fixture(autouse=True)
def slow(segment: SegmentHost) -> None:
    segment.function(SLOW, "test_slow", "text", "seconds float8")


def wait_for_call(segment: SegmentHost, session: Session) -> None:
    """Wait until the session is in a call: its backend is active and has been for a moment."""
    query = (
        f"SELECT 1 FROM pg_stat_activity WHERE pid = {session.pid} AND state = 'active' AND query LIKE 'SELECT test_%'"
    )
    wait_until(lambda: segment.sql(query) == "1", 5, "the call runs")


def test_1_the_server_is_killed_in_a_call(segment: SegmentHost, session: Session) -> None:
    sandbox = segment.leased_sandbox(session)
    server = segment.server_pid()
    session.start("SELECT test_slow(3)")
    wait_for_call(segment, session)
    segment.run("kill", "-KILL", str(server))
    killed = time.monotonic()
    wait_until(lambda: segment.server_pid() not in (0, server) and segment.server_is_up(), 5, "the server is back")
    assert session.finish() == "woke up"
    assert segment.leased_sandbox(session) == sandbox
    assert session.alive()
    with segment.session() as other:
        other.run("SELECT test_slow(0)")
        assert time.monotonic() - killed < 10
        assert other.run("SELECT test_slow(0)") == "woke up"
    # the session still owns its lease: its sandbox outlives the grace and ends with it
    assert segment.leased_sandbox(session) == sandbox


def test_1_without_the_server_a_new_session_is_told_soon(segment: SegmentHost) -> None:
    segment.run("systemctl", "stop", SERVER)
    try:
        with segment.session() as session:
            started = time.monotonic()
            answer = session.run("SELECT test_slow(0)")
            assert time.monotonic() - started < 2
            assert "08001" in answer, answer
            segment.run("systemctl", "start", SERVER)
            assert session.run("SELECT test_slow(0)") == "woke up"
            assert session.alive()
    finally:
        segment.run("systemctl", "start", SERVER)


def test_2_the_sandbox_is_killed_in_a_call(segment: SegmentHost, session: Session) -> None:
    sandbox = segment.leased_sandbox(session)
    session.start("SELECT test_slow(60)")
    wait_for_call(segment, session)
    killed = time.monotonic()
    segment.run("kill", "-KILL", str(segment.inspect(sandbox)["State"]["Pid"]))
    answer = session.finish(5)
    assert time.monotonic() - killed < 2
    assert "08006" in answer, answer
    assert "KILL" in answer, answer
    assert session.run("SELECT test_slow(0)") == "woke up"
    assert segment.leased_sandbox(session) != sandbox
    assert session.alive()


def test_2_the_sandbox_is_killed_between_calls(segment: SegmentHost, session: Session) -> None:
    sandbox = segment.leased_sandbox(session)
    segment.docker("kill", sandbox)
    wait_until(lambda: sandbox not in segment.sandboxes(), 5, "the sandbox is gone")
    answer = session.run("SELECT test_slow(0)")
    assert "WARNING:  08006" in answer, answer
    assert "terminated by signal KILL" in answer, answer
    assert answer.endswith("woke up"), answer
    assert segment.leased_sandbox(session) != sandbox
    assert session.alive()


@pytest.mark.parametrize("service", ["docker.service", "containerd.service"])
def test_5_6_docker_restarts_in_a_call(segment: SegmentHost, session: Session, service: str) -> None:
    sandbox = segment.leased_sandbox(session)
    session.start("SELECT test_slow(4)")
    wait_for_call(segment, session)
    segment.run("systemctl", "restart", service)
    assert session.finish() == "woke up"
    assert segment.leased_sandbox(session) == sandbox
    with segment.session() as other:
        assert other.run("SELECT test_slow(0)", 35) == "woke up"


def test_21_a_call_is_cancelled(segment: SegmentHost, session: Session) -> None:
    for body in (SLOW, "while True: pass"):
        segment.function(body, "test_endless", "text", "seconds float8")
        session.start("SELECT test_endless(60)")
        wait_for_call(segment, session)
        cancelled = time.monotonic()
        assert segment.sql(f"SELECT pg_cancel_backend({session.pid})") == "t"
        answer = session.finish(5)
        assert time.monotonic() - cancelled < 2
        assert "57014" in answer, answer
        assert session.run("SELECT test_slow(0)") == "woke up"
    assert session.alive()


def test_21_a_call_takes_too_long(session: Session) -> None:
    session.run("SET statement_timeout = '500ms'")
    started = time.monotonic()
    assert "57014" in session.run("SELECT test_slow(60)", 5)
    assert time.monotonic() - started < 2.5
    session.run("RESET statement_timeout")
    assert session.alive()


def test_33_the_backend_is_terminated_in_a_call(segment: SegmentHost) -> None:
    with segment.session() as session:
        sandbox = segment.leased_sandbox(session)
        session.start("SELECT test_slow(60)")
        wait_for_call(segment, session)
        assert segment.sql(f"SELECT pg_terminate_backend({session.pid})") == "t"
        wait_until(lambda: sandbox not in segment.sandboxes(), 5, "the sandbox is gone")


def test_33_the_client_is_gone(segment: SegmentHost) -> None:
    session = segment.session()
    sandbox = segment.leased_sandbox(session)
    session.close()
    wait_until(lambda: sandbox not in segment.sandboxes(), 5, "the sandbox is gone")
