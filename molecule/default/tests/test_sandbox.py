"""A sandbox as Docker describes it, and the same from inside of a function."""

from __future__ import annotations

import re
import time

import pytest
from scripts import role_options
from tests.support.segment_host import SegmentHost, Session, setting, wait_until

LIMITS = setting("plcontainer_runtimes_defaults")
MIB = 2**20
UID = role_options.defaults("protocol_server")["protocol_server_sandbox_uid"]


def tried(segment: SegmentHost, session: Session, statement: str) -> str:
    """Run a Python statement in a function; returns ``done`` or the name of the OSError and the time it took."""
    segment.function(
        f"""
import errno, os, socket, time
started = time.monotonic()
try:
    {statement}
except OSError as error:
    return f"{{errno.errorcode[error.errno]}} {{time.monotonic() - started:.1f}}"
return "done"
""",
        "test_tried",
    )
    return session.run("SELECT test_tried()")


def test_what_docker_says(segment: SegmentHost, session: Session) -> None:
    found = segment.inspect(segment.leased_sandbox(session))
    host = found["HostConfig"]
    assert found["Config"]["User"] == f"{UID}:{UID}"
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges" in [option.removesuffix(":true") for option in host["SecurityOpt"]]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["Memory"] == host["MemorySwap"] == LIMITS["memory_mb"] * MIB
    assert host["CpuShares"] == LIMITS["cpu_shares"]
    assert host["NanoCpus"] == LIMITS["cpus"] * 1e9
    assert host["PidsLimit"] == LIMITS["pids"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    assert limits["nofile"] == (LIMITS["nofile"], LIMITS["nofile"])
    assert limits["core"] == (0, 0)
    assert not host["Devices"]
    assert found["Mounts"]
    assert all(mount["RW"] is False for mount in found["Mounts"])
    assert not any("docker.sock" in mount["Source"] or "postgresql" in mount["Source"] for mount in found["Mounts"])
    assert not found["NetworkSettings"]["Ports"]


def test_the_image_is_the_one_that_was_brought(segment: SegmentHost, session: Session) -> None:
    runtimes = segment.run("cat", "/etc/plcontainer/runtimes.yml")
    assert segment.inspect(segment.leased_sandbox(session))["Image"] in runtimes


def test_who_a_function_is(segment: SegmentHost, session: Session) -> None:
    segment.function("return open('/proc/self/status').read()", "test_status")
    status = dict(re.findall(r"^(\w+):\t(.*)$", session.run("SELECT test_status()"), re.MULTILINE))
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].strip() in ("", str(UID))
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@pytest.mark.parametrize(
    ("statement", "answers"),
    [
        ("open('/x', 'w')", {"EROFS"}),
        ("open('/etc/passwd', 'a')", {"EROFS", "EACCES"}),
        ("open('/opt/caisson/runtime_python/x', 'w')", {"EROFS", "EACCES"}),
        ("open('/run/caisson/x', 'w')", {"EROFS", "EACCES"}),
        ("open('/proc/sys/kernel/core_pattern', 'w')", {"EROFS", "EACCES"}),
        ("open('/etc/shadow').read()", {"EACCES", "ENOENT"}),
        ("os.listdir('/root')", {"EACCES", "ENOENT"}),
        ("open('/run/docker.sock')", {"ENOENT", "EACCES"}),
        ("socket.socket(socket.AF_UNIX).connect('/run/plcontainer/protocol_server.sock')", {"ENOENT", "EACCES"}),
        ("os.kill(1, 0) if os.getpid() != 1 else os.setuid(0)", {"EPERM"}),
        ("os.setgroups([0])", {"EPERM"}),
        ("os.chroot('/tmp')", {"EPERM"}),
        ("os.mknod('/tmp/x', 0o60600, os.makedev(254, 0))", {"EPERM"}),
        ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", {"EPERM", "EACCES", "EPROTONOSUPPORT"}),
    ],
)
def test_what_a_function_may_not(segment: SegmentHost, session: Session, statement: str, answers: set[str]) -> None:
    assert tried(segment, session, statement).partition(" ")[0] in answers


@pytest.mark.parametrize(
    "call", ["mount(None, b'/tmp', b'tmpfs', 0, None)", "unshare(0x10000000)", "umount2(b'/tmp', 0)"]
)
def test_namespaces_and_mounts_are_refused(segment: SegmentHost, session: Session, call: str) -> None:
    segment.function(
        f"import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\nresult = libc.{call}\n"
        "return f'{result} {errno.errorcode.get(ctypes.get_errno())}'",
        "test_libc",
    )
    assert session.run("SELECT test_libc()") == "-1 EPERM"


def test_the_network_is_refused_at_once(segment: SegmentHost, session: Session) -> None:
    for address in ("('192.0.2.1', 80)", "('10.0.0.1', 53)"):
        answer = tried(segment, session, f"socket.create_connection({address}, 10)")
        assert answer == "ENETUNREACH 0.0"


def test_what_is_in_tmp_is_not_executed(segment: SegmentHost, session: Session) -> None:
    statement = "open('/tmp/x', 'w').write('#!/bin/sh'); os.chmod('/tmp/x', 0o755); os.execv('/tmp/x', ['x'])"
    assert tried(segment, session, statement).startswith("EACCES")


def test_tmp_has_a_size(segment: SegmentHost, session: Session) -> None:
    write = (
        "f = open('/tmp/big', 'wb')\n    for _ in range({}): f.write(bytes(1 << 20)); f.flush()\n    os.unlink(f.name)"
    )
    assert tried(segment, session, write.format(LIMITS["tmpfs_mb"] - 4)) == "done"
    assert tried(segment, session, write.format(LIMITS["tmpfs_mb"] + 1)).startswith("ENOSPC")


def test_processes_are_counted(segment: SegmentHost, session: Session) -> None:
    segment.function(
        """
import os, signal, time
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
except OSError as error:
    return f"{error.errno} {len(children)}"
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
return "no limit"
""",
        "test_fork",
    )
    code, _, count = session.run("SELECT test_fork()").partition(" ")
    assert code == "11"  # EAGAIN
    assert LIMITS["pids"] // 2 < int(count) < LIMITS["pids"]
    assert session.run("SELECT test_sandbox()")


def test_descriptors_are_counted(segment: SegmentHost, session: Session) -> None:
    statement = "files = [open('/dev/null') for _ in range(100000)]"
    assert tried(segment, session, statement).startswith("EMFILE")


def test_too_much_memory_ends_the_sandbox_only(segment: SegmentHost, session: Session) -> None:
    segment.function("return len(bytearray(megabytes << 20))", "test_memory", "int8", "megabytes int4")
    assert session.run(f"SELECT test_memory({LIMITS['memory_mb'] // 2})") == str(LIMITS["memory_mb"] // 2 * MIB)
    before = segment.leased_sandbox(session)
    started = time.monotonic()
    answer = session.run(f"SELECT test_memory({LIMITS['memory_mb'] * 2})")
    assert time.monotonic() - started < 5
    assert "53200" in answer, answer
    assert session.alive()
    assert segment.leased_sandbox(session) != before


def test_sessions_do_not_share_a_sandbox(segment: SegmentHost, session: Session) -> None:
    with segment.session() as other:
        assert segment.leased_sandbox(session) != segment.leased_sandbox(other)


def test_roles_of_a_session_do_not_share_a_sandbox(segment: SegmentHost, session: Session) -> None:
    session.run("DROP ROLE IF EXISTS molecule_role")
    session.run("CREATE ROLE molecule_role; GRANT EXECUTE ON FUNCTION test_sandbox() TO molecule_role")
    try:
        first = segment.leased_sandbox(session)
        session.run("SET ROLE molecule_role")
        assert segment.leased_sandbox(session) != first
        session.run("RESET ROLE")
        assert segment.leased_sandbox(session) == first
    finally:
        session.run("RESET ROLE")
        session.run("DROP OWNED BY molecule_role; DROP ROLE molecule_role")


def test_a_sandbox_goes_with_its_session(segment: SegmentHost) -> None:
    with segment.session() as session:
        sandbox = segment.leased_sandbox(session)
        assert sandbox in segment.sandboxes()
    wait_until(lambda: sandbox not in segment.sandboxes(), 5, "the sandbox is gone")


def test_processors_are_limited(segment: SegmentHost, session: Session) -> None:
    segment.function(
        """
import os, time
children = []
started = time.monotonic()
for _ in range(2):
    child = os.fork()
    if child == 0:
        while time.monotonic() - started < 2:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
spent = os.times()
return (spent.children_user + spent.children_system) / (time.monotonic() - started)
""",
        "test_burn",
        "float8",
    )
    assert float(session.run("SELECT test_burn()")) < LIMITS["cpus"] * 1.25
