"""PostgreSQL in huge pages. Runs last: the pages are the machine's, and are given back at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.segment_host import SegmentHost

UNIT = "postgresql@17-analytics.service"
POOL = "/proc/sys/vm/nr_hugepages"
Options = dict[str, Any]
Role = Callable[..., str]


def pages(segment: SegmentHost) -> int:
    return int(segment.run("cat", POOL))


@pytest.fixture(scope="module", autouse=True)
def given_back(segment: SegmentHost, role: Role) -> Iterator[None]:
    """Give the machine its pages back, whatever a test has left."""
    yield
    role("hugepages", succeeds=True, hugepages_mode="off")
    assert pages(segment) == 0
    assert (
        segment.run("sh", "-c", "ls /etc/sysctl.d/60-hugepages.conf /etc/postgresql/*/*/conf.d/hugepages.conf || true")
        == ""
    )
    assert segment.sql("SHOW huge_pages_status") == "off"


def mapped(segment: SegmentHost) -> int:
    """Return how many huge pages the server has mapped."""
    smaps = segment.run("cat", f"/proc/{segment.unit(UNIT, 'MainPID')}/smaps")
    return (
        sum(int(size) for size in re.findall(r"^Size:\s+(\d+) kB\nKernelPageSize:\s+2048 kB", smaps, re.MULTILINE))
        // 2048
    )


def used_kb(segment: SegmentHost) -> int:
    """Return how much of them it has touched."""
    smaps = segment.run("cat", f"/proc/{segment.unit(UNIT, 'MainPID')}/smaps")
    return sum(map(int, re.findall(r"^(?:Shared|Private)_Hugetlb:\s+(\d+) kB", smaps, re.MULTILINE)))


def test_its_shared_memory_is_in_huge_pages(segment: SegmentHost, options: Options) -> None:
    needed = int(segment.sql("SHOW shared_memory_size_in_huge_pages"))
    assert segment.sql("SHOW huge_pages") == "on"
    assert segment.sql("SHOW huge_pages_status") == "on"
    assert mapped(segment) == needed
    assert 0 < used_kb(segment) <= needed * 2048
    assert pages(segment) == needed + options["hugepages_reserved"][0]["pages"]


@pytest.mark.parametrize(
    ("reserved", "complaint"),
    [
        # a container may not write where pages of other sizes are reserved
        ({"size": "1GB", "pages": 1}, "1 pages of 1GB are wanted, the kernel has 0 (Read-only file system)"),
        ({"size": "2MB", "pages": 5000}, "in huge pages are wanted, this host has 3072 MiB of memory"),
        ({"size": "2MB", "pages": 1, "node": 7}, "1 pages of 2MB on node 7 are wanted, this host has memory on 0"),
    ],
)
def test_pages_that_cannot_be_had(segment: SegmentHost, role: Role, reserved: Options, complaint: str) -> None:
    before = segment.unit(UNIT, "MainPID"), pages(segment)
    assert complaint in role("hugepages", succeeds=False, hugepages_reserved=[reserved, {"size": "2MB", "pages": 8}])
    assert (segment.unit(UNIT, "MainPID"), pages(segment)) == before
    assert segment.sql("SHOW huge_pages_status") == "on"


def test_9_an_empty_pool_is_told_and_ends_nothing_else(segment: SegmentHost) -> None:
    before = pages(segment)
    segment.run("systemctl", "stop", UNIT)
    segment.run("sh", "-c", f"echo 0 > {POOL}")
    try:
        segment.fails("systemctl", "start", UNIT)
        log = segment.run("sh", "-c", "tail -20 /var/log/postgresql/postgresql-17-analytics.log")
        assert re.search(r"FATAL:\s+could not map anonymous shared memory: Cannot allocate memory", log), log
        assert "signal 7" not in log
    finally:
        segment.run("sh", "-c", f"echo {before} > {POOL}")
        segment.run("systemctl", "start", UNIT)
    assert segment.sql("SHOW huge_pages_status") == "on"
