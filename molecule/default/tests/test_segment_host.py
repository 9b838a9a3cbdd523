"""PostgreSQL on a host."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from tests.support.segment_host import SegmentHost, Session, setting

SYS_RESOURCE = 24
PORT = setting("segment_host_postgresql_port")
USER, PASSWORD = "molecule_scram", "correct horse"


def test_its_version_is_the_one_that_settings_name(segment: SegmentHost, session: Session) -> None:
    version = int(session.run("SHOW server_version_num")) // 10000
    assert version == setting("segment_host_postgresql_versions")[segment.debian()]


def test_pages_have_checksums(session: Session) -> None:
    assert session.run("SHOW data_checksums") == "on"


def test_sizes_come_from_the_memory_of_the_host(session: Session) -> None:
    # a lab host is limited by its cgroup, which /proc/meminfo does not show
    expected = setting("lab_memory_mb") * setting("segment_host_shared_buffers_fraction")
    shown = int(session.run("SELECT pg_size_bytes(current_setting('shared_buffers'))"))
    assert shown == pytest.approx(expected * 2**20, rel=0.01)
    assert session.run("SHOW max_connections") == str(setting("segment_host_max_connections"))


def test_nothing_waits_for_a_restart(session: Session) -> None:
    assert session.run("SELECT name FROM pg_settings WHERE pending_restart") == ""
    assert session.run("SELECT error FROM pg_file_settings WHERE error IS NOT NULL") == ""


def test_it_listens_on_the_host_alone(segment: SegmentHost) -> None:
    assert segment.host.socket(f"tcp://127.0.0.1:{PORT}").is_listening
    assert not segment.host.socket(f"tcp://0.0.0.0:{PORT}").is_listening
    address = segment.run("hostname", "--ip-address").split()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, PORT), 5)


@pytest.fixture
def user(session: Session) -> Iterator[str]:
    session.run(f"DROP ROLE IF EXISTS {USER}")
    session.run(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    yield USER
    session.run(f"DROP ROLE {USER}")


def login(segment: SegmentHost, user: str, password: str) -> str:
    command = (
        f"PGPASSWORD='{password}' psql -XAtw -h 127.0.0.1 -p {PORT} -U {user} -d postgres -c 'SELECT current_user' 2>&1"
    )
    return str(segment.host.run(command).stdout).strip()


def test_a_password_is_needed_over_tcp(segment: SegmentHost, session: Session, user: str) -> None:
    assert session.run(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'").startswith("SCRAM-SHA-256$")
    assert login(segment, user, PASSWORD) == user
    assert "password authentication failed" in login(segment, user, "wrong")
    assert "no password supplied" in login(segment, user, "")
    assert "no password supplied" in login(segment, "postgres", "")


def test_another_user_of_the_host_is_not_the_superuser(segment: SegmentHost) -> None:
    assert "Peer authentication failed" in segment.fails(
        "su", "-s", "/bin/sh", "nobody", "-c", "psql -U postgres -c 'SELECT 1'"
    )


def test_the_postmaster_is_the_last_to_be_killed(segment: SegmentHost, session: Session) -> None:
    data = session.run("SHOW data_directory")
    postmaster = segment.run("head", "-1", f"{data}/postmaster.pid")
    unit = re.search(r"postgresql@[^/\s]+\.service", segment.run("cat", f"/proc/{postmaster}/cgroup"))
    assert unit
    assert segment.unit(unit[0], "OOMScoreAdjust") == "-900"
    # a lab host may not lower a score, a machine may
    expected = "-900" if segment.has_capability(SYS_RESOURCE) else "0"
    assert segment.run("cat", f"/proc/{postmaster}/oom_score_adj") == expected
    # its children are not protected with it
    assert "PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj" in segment.run("cat", f"/proc/{postmaster}/environ").split(
        "\0"
    )
    assert segment.run("cat", f"/proc/{session.pid}/oom_score_adj") == "0"
