"""The protocol server's own cage, and that it comes back."""

from __future__ import annotations

import re
import time

import pytest
from scripts import role_options
from tests.support.segment_host import SERVER, SegmentHost, setting, wait_until

SOCKET = "/run/plcontainer/protocol_server.sock"


def status(segment: SegmentHost, field: str) -> str:
    found = re.search(rf"^{field}:\s+(.*)$", segment.run("cat", f"/proc/{segment.server_pid()}/status"), re.MULTILINE)
    assert found, field
    return found[1]


def inside(segment: SegmentHost, command: str) -> str:
    """Run a command that must fail in the server's mount and network namespaces, as its user; returns what it said."""
    enter = ["nsenter", f"--target={segment.server_pid()}", "--mount", "--net", "--"]
    return segment.fails(*enter, "setpriv", "--reuid=protocol_server", "--regid=protocol_server", "--clear-groups",
                         "sh", "-c", command)  # fmt: skip


def test_it_is_nobody(segment: SegmentHost) -> None:
    uid = segment.host.user("protocol_server").uid
    assert uid != 0
    assert status(segment, "Uid").split() == [str(uid)] * 4
    assert {status(segment, field) for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status(segment, "NoNewPrivs") == "1"
    assert status(segment, "Seccomp") == "2"


def test_its_user_is_good_for_nothing_else(segment: SegmentHost) -> None:
    user = segment.host.user("protocol_server")
    assert sorted(user.groups) == ["docker", "postgres", "protocol_server"]
    assert user.shell == "/usr/sbin/nologin"
    assert user.password.startswith("!")


def test_the_unit_is_hardened(segment: SegmentHost) -> None:
    # 20 of 100 points of exposure; a unit without settings has 95
    segment.run("systemd-analyze", "security", "--no-pager", "--threshold=20", SERVER)


@pytest.mark.parametrize("path", ["/usr/x", "/etc/plcontainer/x", "/var/lib/x", "/home/x"])
def test_it_writes_nowhere_else(segment: SegmentHost, path: str) -> None:
    said = inside(segment, f"touch {path}")
    assert re.search("Read-only file system|Permission denied|No such file", said), said


def test_even_root_writes_nowhere_else_in_there(segment: SegmentHost) -> None:
    said = segment.fails("nsenter", f"--target={segment.server_pid()}", "--mount", "--", "touch", "/usr/x", "/etc/x")
    assert said.count("Read-only file system") == 2


def test_it_sees_no_network(segment: SegmentHost) -> None:
    pid = segment.server_pid()
    assert segment.run("cat", f"/proc/{pid}/net/route").count("\n") == 0
    assert segment.run("sh", "-c", f"tail -n +3 /proc/{pid}/net/dev").split(":")[0].strip() == "lo"


def test_it_has_limits(segment: SegmentHost) -> None:
    assert int(segment.unit(SERVER, "MemoryMax")) == setting("protocol_server_memory_mb") * 2**20
    assert int(segment.unit(SERVER, "TasksMax")) == setting("protocol_server_tasks")


def test_the_socket_is_for_the_database_alone(segment: SegmentHost) -> None:
    socket = segment.host.file(SOCKET)
    assert socket.is_socket
    assert (socket.user, socket.group, socket.mode) == ("protocol_server", "postgres", 0o660)
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKET}')"
    segment.run("su", "-s", "/bin/sh", "postgres", "-c", f'python3 -c "{connect}"')
    assert "PermissionError" in segment.fails("su", "-s", "/bin/sh", "nobody", "-c", f'python3 -c "{connect}"')


def test_docker_is_for_the_server_alone(segment: SegmentHost) -> None:
    assert "docker" not in segment.host.user("postgres").groups
    assert "denied" in segment.fails("su", "postgres", "-c", "docker ps")


def test_it_is_back_soon_after_it_was_killed(segment: SegmentHost) -> None:
    before = segment.server_pid()
    started = time.monotonic()
    segment.run("kill", "-KILL", str(before))
    wait_until(lambda: segment.server_pid() not in (0, before) and segment.server_is_up(), 5, "the server is back")
    assert time.monotonic() - started <= 5


def test_it_is_back_after_it_hung(segment: SegmentHost) -> None:
    before = segment.server_pid()
    segment.run("kill", "-STOP", str(before))
    watchdog_s = role_options.defaults("protocol_server")["protocol_server_watchdog_s"]
    wait_until(
        lambda: segment.server_pid() not in (0, before) and segment.server_is_up(), watchdog_s + 10, "systemd notices"
    )
