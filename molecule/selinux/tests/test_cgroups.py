"""Slices in version 2 of cgroups, which the containers of other scenarios may not have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.segment_host import setting
from tests.support.selinux_guest import Guest

SANDBOXES = setting("protocol_server_cgroup_parent")
TREE = f"/sys/fs/cgroup/{SANDBOXES}"
POOL = "/proc/sys/vm/nr_hugepages"
HOG = "held = bytearray(400 << 20)"
TAKE = """
import mmap
held = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
held.write(b"x" * (4 << 20))
"""


def run_in(guest: Guest, unit: str, name: str, program: str) -> int:
    """Run a Python program in a slice; returns its status."""
    guest.run(f"cat > /root/{name}.py", program)
    command = f"systemd-run --quiet --slice={unit} --unit={name} --property=OOMScoreAdjust=1000 --wait"
    try:
        return guest.attempt(f"{command} python3 /root/{name}.py")[0]
    finally:
        guest.run(f"rm /root/{name}.py; systemctl reset-failed {name} 2>/dev/null || true")


@pytest.fixture
def pages(guest: Guest) -> Iterator[None]:
    before = guest.run(f"cat {POOL}")
    guest.run(f"echo $(({before} + 16)) > {POOL}")
    yield
    guest.run(f"echo {before} > {POOL}")


def test_limits_are_the_kernels(guest: Guest) -> None:
    assert guest.run("stat -fc %T /sys/fs/cgroup") == "cgroup2fs"
    percent = setting("cgroups_sandboxes")["memory_percent"]
    total = int(guest.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) * 1024
    assert int(guest.run(f"cat {TREE}/memory.max")) == pytest.approx(total * percent / 100, rel=0.01)
    assert guest.run(f"cat {TREE}/hugetlb.2MB.max {TREE}/hugetlb.2MB.rsvd.max").split() == ["0", "0"]
    assert "postgresql.slice/postgresql@" in guest.run("cat /proc/$(pgrep -o postgres)/cgroup")


def test_a_hog_is_ended_and_its_neighbour_is_not(guest: Guest) -> None:
    guest.run(f"systemd-run --quiet --slice={SANDBOXES} --unit=neighbour sleep 600")
    used = int(guest.run(f"cat {TREE}/memory.current"))
    guest.run(f"systemctl set-property --runtime {SANDBOXES} MemoryMax={used + (150 << 20)}")
    try:
        assert run_in(guest, SANDBOXES, "hog", HOG) != 0
        assert guest.run("systemctl is-active neighbour postgresql@17-main").split() == ["active", "active"]
    finally:
        guest.run(f"rm -r /run/systemd/system.control/{SANDBOXES}.d; systemctl daemon-reload; systemctl stop neighbour")
    assert run_in(guest, SANDBOXES, "hog", HOG) == 0


@pytest.mark.usefixtures("pages")
def test_a_sandbox_takes_no_huge_page(guest: Guest) -> None:
    assert run_in(guest, SANDBOXES, "take", TAKE) != 0
    assert "Cannot allocate memory" in guest.run("journalctl --unit take --output cat --no-pager")
    assert run_in(guest, "system.slice", "take", TAKE) == 0
