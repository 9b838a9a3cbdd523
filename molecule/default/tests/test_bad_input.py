"""What people get wrong: a clear error, the session goes on, nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml
from tests.support.segment_host import SERVER, SegmentHost, Session, setting, wait_until

RUNTIMES = "/etc/plcontainer/runtimes.yml"
RUNTIME = setting("plcontainer_runtimes_list")[0]["id"]


def create(session: Session, body: str) -> str:
    return session.run(f"CREATE OR REPLACE FUNCTION test_bad() RETURNS int4 LANGUAGE plcontainer AS $body${body}$body$")


def test_the_function_of_the_talk(session: Session) -> None:
    answer = session.run(
        f"""CREATE OR REPLACE FUNCTION pylog10(n float8) RETURNS float8 LANGUAGE plcontainer AS $body$
# container: {RUNTIME}
import math
return math.log10(n)
$body$"""
    )
    assert answer == ""
    assert session.run("SELECT pylog10(100)") == "2"


def test_a_runtime_that_does_not_exist(session: Session) -> None:
    create(session, " # container: no_such_runtime\nreturn 1")
    answer = session.run("SELECT test_bad()")
    assert "42704" in answer, answer
    assert "no_such_runtime" in answer
    assert RUNTIME in answer
    assert session.alive()


@pytest.mark.parametrize(
    "body",
    [
        "return 1",
        " # contaner: x\nreturn 1",
        " # container x\nreturn 1",
        " # container: \nreturn 1",
        " # container: a b\nreturn 1",
    ],
)
def test_a_first_line_that_is_malformed(session: Session, body: str) -> None:
    session.run("DROP FUNCTION IF EXISTS test_bad()")
    answer = create(session, body)
    assert "42601" in answer, answer
    assert "container" in answer
    assert session.run("SELECT count(*) FROM pg_proc WHERE proname = 'test_bad'") == "0"
    assert session.alive()


def test_a_syntax_error_tells_the_line(session: Session) -> None:
    session.run("DROP FUNCTION IF EXISTS test_bad()")
    body = f" # container: {RUNTIME}\nx = 1\nreturn (("
    answer = create(session, body)
    assert "42601" in answer, answer
    assert "line 3" in answer
    assert session.run("SELECT count(*) FROM pg_proc WHERE proname = 'test_bad'") == "0"
    session.run("SET check_function_bodies = off")
    assert create(session, body) == ""
    answer = session.run("SELECT test_bad()")
    assert "42601" in answer, answer
    assert "line 3" in answer
    assert session.alive()


def test_an_exception_tells_where(session: Session) -> None:
    create(session, f" # container: {RUNTIME}\ndef f():\n    return 1 / 0\nreturn f()")
    answer = session.run("SELECT test_bad()")
    assert "38000" in answer, answer
    assert "ZeroDivisionError" in answer
    assert "line 3" in answer
    assert session.alive()


def reload(segment: SegmentHost, text: str) -> None:
    segment.put(RUNTIMES, text)
    segment.run("systemctl", "reload", SERVER)


@pytest.fixture
def runtimes(segment: SegmentHost) -> Iterator[str]:
    """Return the list of runtimes; what a test makes of it is put right behind it."""
    text = segment.run("cat", RUNTIMES) + "\n"
    yield text
    reload(segment, text)


def test_an_image_that_is_missing(segment: SegmentHost, session: Session, runtimes: str) -> None:
    listed = yaml.safe_load(runtimes)
    missing = {
        **listed["runtimes"][0],
        "id": "without_image",
        "image": "sha256:" + "0" * 64,
        "image_name": "caisson/not_there:1",
        "pool": {"min": 0, "max": 0},
    }
    reload(segment, yaml.safe_dump({"runtimes": [*listed["runtimes"], missing]}))
    create(session, " # container: without_image\nreturn 1")
    # until the server has taken the list over it knows no such runtime
    answer = wait_until(
        lambda: found if "42704" not in (found := session.run("SELECT test_bad()", 15)) else "",
        10,
        "the list is in force",
    )
    assert "58P01" in answer, answer
    assert "caisson/not_there:1" in answer
    assert session.alive()
    assert segment.docker("ps", "--all", "--quiet", "--filter", "label=caisson.runtime=without_image") == ""


def test_a_list_of_runtimes_that_is_broken_changes_nothing(
    segment: SegmentHost, session: Session, runtimes: str
) -> None:
    before = segment.server_pid()
    reload(segment, runtimes.replace("memory_mb:", "memory_megabytes:"))
    wait_until(
        lambda: "memory_megabytes" in segment.run("journalctl", "--unit", SERVER, "--since=-10s", "--no-pager"),
        5,
        "the server refuses it",
    )
    assert segment.server_pid() == before
    assert session.run("SELECT test_sandbox()")
    with segment.session() as other:
        assert other.run("SELECT test_sandbox()")


def test_a_socket_that_may_not_be_used(segment: SegmentHost) -> None:
    socket = "/run/plcontainer/protocol_server.sock"
    segment.run("chmod", "0600", socket)
    try:
        with segment.session() as session:
            started = time.monotonic()
            answer = session.run("SELECT test_sandbox()")
            assert time.monotonic() - started < 2
            assert "08001" in answer or "42501" in answer, answer
            assert socket in answer
            assert "ermission" in answer
            assert session.alive()
    finally:
        segment.run("chmod", "0660", socket)


def test_somebody_else_may_not_use_the_runtime(segment: SegmentHost, session: Session, runtimes: str) -> None:
    listed = yaml.safe_load(runtimes)
    private = {**listed["runtimes"][0], "id": "private", "roles": ["molecule_owner"], "pool": {"min": 0, "max": 0}}
    session.run("DROP ROLE IF EXISTS molecule_owner")
    session.run("CREATE ROLE molecule_owner; CREATE ROLE molecule_stranger")
    reload(segment, yaml.safe_dump({"runtimes": [*listed["runtimes"], private]}))
    try:
        create(session, " # container: private\nreturn 1")
        session.run("GRANT EXECUTE ON FUNCTION test_bad() TO molecule_owner, molecule_stranger")
        session.run("SET ROLE molecule_owner")
        wait_until(lambda: session.run("SELECT test_bad()", 15) == "1", 10, "the list is in force")
        session.run("RESET ROLE; SET ROLE molecule_stranger")
        answer = session.run("SELECT test_bad()")
        assert "42501" in answer, answer
        assert "private" in answer
    finally:
        session.run("RESET ROLE; DROP OWNED BY molecule_owner, molecule_stranger")
        session.run("DROP ROLE molecule_owner, molecule_stranger")
