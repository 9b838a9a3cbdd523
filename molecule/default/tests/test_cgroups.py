"""Slices: who wants too much is ended, and the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.segment_host import SegmentHost, Session, setting, wait_until

MIB = 2**20
DATABASE = "postgresql.slice"
SANDBOXES = setting("protocol_server_cgroup_parent")
HOG = """
import os
held = bytearray(size_mb << 20)
return f"{len(held)} {os.getpid()}"
"""


def groups(segment: SegmentHost, pid: int | str) -> str:
    return segment.run("cat", f"/proc/{pid}/cgroup")


@contextmanager
def limited(segment: SegmentHost, unit: str, more_mb: int) -> Iterator[None]:
    """Let a slice have only so much more memory than it uses now."""
    used, before = int(segment.unit(unit, "MemoryCurrent")), segment.unit(unit, "MemoryMax")
    segment.run("systemctl", "set-property", "--runtime", unit, f"MemoryMax={used + more_mb * MIB}")
    try:
        yield
    finally:
        # systemd tells the kernel of this one, but not of a file that is gone
        segment.run("systemctl", "set-property", "--runtime", unit, f"MemoryMax={before}")
        segment.run("rm", "-r", f"/run/systemd/system.control/{unit}.d")
        segment.run("systemctl", "daemon-reload")
        assert segment.unit(unit, "MemoryMax") == before


def test_each_has_a_slice_of_its_own(segment: SegmentHost, session: Session) -> None:
    sandbox = segment.leased_sandbox(session)
    assert f"/{DATABASE}/postgresql@" in groups(segment, session.pid)
    of_sandbox = groups(segment, segment.inspect(sandbox)["State"]["Pid"])
    for line in of_sandbox.splitlines():
        controller = line.split(":")[1]
        if controller in ("memory", "pids", "hugetlb", ""):
            assert f"/{SANDBOXES}/" in line or "0::" in line, line
    assert DATABASE not in of_sandbox


def test_sandboxes_together_have_a_part_of_the_memory(segment: SegmentHost) -> None:
    percent = setting("cgroups_sandboxes")["memory_percent"]
    expected = setting("lab_memory_mb") * MIB * percent / 100
    assert int(segment.unit(SANDBOXES, "MemoryMax")) == pytest.approx(expected, rel=0.01)


def test_sandboxes_that_want_more_than_their_slice_has(segment: SegmentHost, session: Session) -> None:
    segment.function(HOG, "hog", "text", "size_mb int")
    with segment.session() as neighbour:
        # less than a sandbox may have on its own
        neighbour.run("SELECT test_sandbox()")
        before = neighbour.run("SELECT hog(1)").split()[1], segment.leased_sandbox(neighbour)
        with limited(segment, SANDBOXES, 150):
            answer = session.run("SELECT hog(300)")
            assert "53200" in answer, answer
            assert (neighbour.run("SELECT hog(1)").split()[1], segment.leased_sandbox(neighbour)) == before
        assert session.alive()
        assert neighbour.alive()
    assert session.run("SELECT hog(300)").startswith(str(300 * MIB))


def test_a_database_that_wants_more_than_its_slice_has(segment: SegmentHost, session: Session) -> None:
    sandbox = segment.leased_sandbox(session)
    process = segment.inspect(sandbox)["State"]["Pid"]
    command = ["python3", "-c", "held = bytearray(600 << 20)"]
    with limited(segment, DATABASE, 150):
        run = ["systemd-run", f"--slice={DATABASE}", "--unit=hog", "--property=OOMScoreAdjust=1000", *command]
        segment.run(*run)
        wait_until(lambda: segment.unit("hog.service", "ActiveState") == "failed", 30, "the hog is ended")
        assert segment.unit("hog.service", "Result") in ("oom-kill", "signal")
        assert segment.unit("hog.service", "ExecMainStatus") == "9"
        segment.run("systemctl", "reset-failed", "hog.service")
        assert segment.leased_sandbox(session) == sandbox
        assert segment.inspect(sandbox)["State"]["Pid"] == process
    assert session.alive()
    # with the slice as it was, the same is no hog
    segment.run("systemd-run", f"--slice={DATABASE}", "--wait", "--quiet", *command)
