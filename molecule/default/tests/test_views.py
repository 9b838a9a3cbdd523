"""What the database shows of sandboxes, runtimes and functions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.segment_host import SegmentHost, Session, setting

RUNTIME = setting("plcontainer_runtimes_list")[0]["id"]


@pytest.fixture
def analyst(segment: SegmentHost) -> Iterator[Session]:
    """A session of a role that may use the language and nothing else."""
    with segment.session() as session:
        session.run("DROP OWNED BY view_analyst; DROP ROLE view_analyst")
        session.run("CREATE ROLE view_analyst; GRANT USAGE ON LANGUAGE plcontainer TO view_analyst")
        session.run("GRANT CREATE ON SCHEMA public TO view_analyst; SET ROLE view_analyst")
        yield session
        session.run("RESET ROLE; DROP OWNED BY view_analyst; DROP ROLE view_analyst")


def test_containers_of_a_session(session: Session) -> None:
    sandbox = session.run("SELECT test_sandbox()")
    shown = session.run(
        "SELECT runtime, role, database, backend_pid, memory_kb > 1000, cpu_seconds >= 0, up_time > '0'"
        f" FROM plcontainer_containers_info() WHERE sandbox = '{sandbox}'"
    )
    assert shown == f"{RUNTIME}|postgres|postgres|{session.pid}|t|t|t"
    assert session.run(f"SELECT role FROM plcontainer_containers_summary() WHERE sandbox = '{sandbox}'") == "postgres"


def test_others_are_seen_by_monitors_only(session: Session, analyst: Session) -> None:
    session.run("SELECT test_sandbox()")
    analyst.run("SELECT test_sandbox()")
    seen = "SELECT string_agg(DISTINCT role, ',' ORDER BY role) FROM plcontainer_containers_info() WHERE role <> ''"
    assert analyst.run(seen) == "view_analyst"
    assert session.run(seen) == "postgres,view_analyst"


def test_configuration(session: Session) -> None:
    shown = session.run(
        f"SELECT language, memory_mb > 0, image <> '' FROM plcontainer_show_config WHERE id = '{RUNTIME}'"
    )
    assert shown == "python|t|t"


def test_refresh_is_an_administrators(session: Session, analyst: Session) -> None:
    assert "42501" in analyst.run("SELECT plcontainer_refresh_config()")
    assert session.run("SELECT jsonb_typeof(plcontainer_refresh_config())") == "array"


def test_statistics_add_up(segment: SegmentHost) -> None:
    body = "n = args[0]\nif n < 0: raise ValueError('negative')\nreturn range(n)"
    segment.function(body, "test_counted", result="SETOF integer", arguments="integer")
    shown = "SELECT calls, rows, errors, bytes_received > 100, total_time > '0' FROM plcontainer_statistics"
    shown += " WHERE function = 'test_counted(integer)'::regprocedure"
    with segment.session() as session:
        session.run("SELECT count(*) FROM test_counted(5)")
        session.run("SELECT count(*) FROM test_counted(200)")
        assert "negative" in session.run("SELECT * FROM test_counted(-1)")
        assert session.run(shown) == "3|205|1|t|t"
    assert segment.sql(shown) == "3|205|1|t|t"
