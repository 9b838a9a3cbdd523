"""The module hugepages and its pools, on trees of files that stand for the kernel's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plugins.module_utils import huge_pages
from plugins.module_utils.huge_pages import Kernel, PagesError, Pool, ShortError
from plugins.modules import hugepages

SMALL, LARGE = 2048, 1048576


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def kernel(root: Path, nodes: str = "0", memory_mb: int = 8192) -> Kernel:
    write(root / "proc/meminfo", f"MemTotal: {memory_mb * 1024} kB\nHugepagesize:       2048 kB\n")
    write(root / "proc/sys/vm/nr_hugepages", "0\n")
    write(root / "sys/devices/system/node/has_memory", f"{nodes}\n")
    places = ["kernel/mm", *(f"devices/system/node/node{node}" for node in (0, 1))]
    for place in places:
        for size in (SMALL, LARGE):
            for name in ("nr", "free", "surplus", "resv"):
                write(root / f"sys/{place}/hugepages/hugepages-{size}kB/{name}_hugepages", "0\n")
    return Kernel(root)


@pytest.fixture
def machine(tmp_path: Path) -> Kernel:
    """A machine with two nodes of memory."""
    return kernel(tmp_path, "0-1")


def short_of(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, has: int) -> list[tuple[int | None, int]]:
    """Let the kernel grant so many pages of a pool at most; returns what is written."""
    written: list[tuple[int | None, int]] = []

    def grant(self: Kernel, pool: Pool) -> str:
        written.append((pool.node, pool.pages))
        self.file(pool).write_text(f"{min(pool.pages, has)}\n")
        return ""

    monkeypatch.setattr(Kernel, "_write", grant)
    return written


def test_pages_without_a_node_are_left_to_the_kernel(machine: Kernel) -> None:
    plan = machine.plan([Pool(SMALL, None, 100), Pool(SMALL, None, 20), Pool(LARGE, None, 2), Pool(LARGE, 0, 0)])
    assert plan == [Pool(SMALL, None, 120), Pool(LARGE, None, 2)]
    machine.reserve(plan)
    assert (machine.root / "proc/sys/vm/nr_hugepages").read_text() == "120\n"
    assert (machine.root / "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages").read_text() == "2\n"
    assert machine.differences(plan) == []
    assert machine.command_line(plan) == "hugepagesz=2M hugepages=120 hugepagesz=1G hugepages=2"


def test_pages_of_nodes(machine: Kernel) -> None:
    plan = machine.plan([Pool(SMALL, 1, 10), Pool(SMALL, None, 5)])
    assert plan == [Pool(SMALL, 0, 3), Pool(SMALL, 1, 12)]
    machine.reserve(plan)
    assert machine.pages(Pool(SMALL, 1, 0)) == 12
    assert machine.command_line(plan) == "hugepagesz=2M hugepages=0:3,1:12"
    sysctl, files = hugepages.boot(machine, plan)
    assert sysctl == -1
    assert sorted(files.values()) == [3, 12]


def test_the_only_node_is_all_there_is(tmp_path: Path) -> None:
    only = kernel(tmp_path)
    plan = only.plan([Pool(SMALL, 0, 7)])
    assert hugepages.boot(only, plan) == (7, {})


def test_what_the_host_has_not(machine: Kernel) -> None:
    with pytest.raises(PagesError, match="4 pages of 2MB on node 5 are wanted, this host has memory on 0, 1"):
        machine.plan([Pool(SMALL, 5, 4)])
    machine.sizes.remove(LARGE)
    with pytest.raises(PagesError, match="1 pages of 1GB are wanted, this kernel has none of that size"):
        machine.plan([Pool(LARGE, None, 1)])


def test_fewer_pages_than_wanted(machine: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    compact = write(machine.root / "proc/sys/vm/compact_memory", "")
    machine.reserve(machine.plan([Pool(SMALL, 0, 3)]))
    written = short_of(machine, monkeypatch, 8)
    with pytest.raises(ShortError, match="12 pages of 2MB on node 1 are wanted, the kernel has 8"):
        machine.reserve([Pool(SMALL, 0, 5), Pool(SMALL, 1, 12)])
    # once more after memory was put together, then all as it was
    assert written == [(0, 5), (1, 12), (1, 12), (0, 3), (1, 0)]
    assert compact.read_text() == "1\n"


def test_a_kernel_that_refuses(machine: Kernel) -> None:
    path = machine.file(Pool(LARGE, None, 1))
    path.unlink()
    path.mkdir()
    with pytest.raises(PagesError, match=r"1 pages of 1GB are wanted, the kernel has 0 \(Is a directory\)"):
        machine.reserve([Pool(LARGE, None, 1)])


def test_pages_that_vanish_when_they_are_given_back_do_not_count(machine: Kernel) -> None:
    write(machine.root / "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "5\n")
    write(machine.root / "sys/kernel/mm/hugepages/hugepages-1048576kB/surplus_hugepages", "4\n")
    assert machine.pages(Pool(LARGE, None, 0)) == 1


def test_spreading() -> None:
    assert huge_pages.spread(7, [0, 1, 3]) == {0: 3, 1: 2, 3: 2}


def asked(**options: Any) -> dict[str, Any]:
    return {"size": "2MB", "nodes": [], "reserved": [], **options}


def test_what_is_wanted() -> None:
    assert hugepages.wanted_pools(asked(), 5) == [Pool(SMALL, None, 5)]
    assert hugepages.wanted_pools(asked(nodes=[0, 1], reserved=[{"size": "1GB", "pages": 2, "node": 1}]), 5) == [
        Pool(SMALL, 0, 3),
        Pool(SMALL, 1, 2),
        Pool(LARGE, 1, 2),
    ]


def found(pages: int, held: int = 0) -> dict[str, Any]:
    return {**hugepages.NO_CLUSTER, "pages": pages, "held": held}


def test_too_much_of_the_memory(machine: Kernel) -> None:
    with pytest.raises(PagesError, match="8000 MiB in huge pages are wanted, this host has 8192 MiB"):
        hugepages.check(machine, [Pool(SMALL, None, 4000)], found(4000), SMALL)


def test_pages_that_others_hold(machine: Kernel) -> None:
    pool = machine.root / "sys/kernel/mm/hugepages/hugepages-2048kB"
    write(machine.root / "proc/sys/vm/nr_hugepages", "100\n")
    write(pool / "free_hugepages", "60\n")
    write(pool / "resv_hugepages", "20\n")
    hugepages.check(machine, [Pool(SMALL, None, 100)], found(100, held=60), SMALL)
    with pytest.raises(PagesError, match="100 huge pages are wanted for PostgreSQL, others leave 40 of 100 to it"):
        hugepages.check(machine, [Pool(SMALL, None, 100)], found(100), SMALL)


def test_the_cluster_on_a_port() -> None:
    listing = "17 main 5432 online postgres /data/a /log\n17 other 5433 online,recovery postgres /data/b /log\nbroken\n"
    row = hugepages.find_cluster(listing, 5433)
    assert row is not None
    assert (row[1], row[5]) == ("other", "/data/b")
    assert hugepages.find_cluster(listing, 5434) is None


def test_pages_that_a_process_has_mapped() -> None:
    smaps = (
        "7f00-7f01 rw-s 00000000 00:10 1  /anon_hugepage (deleted)\n"
        "Size:             819200 kB\nKernelPageSize:     2048 kB\nMMUPageSize:        2048 kB\n"
        "7f02-7f03 rw-p 00000000 00:00 0 \nSize:                  4 kB\nKernelPageSize:        4 kB\n"
    )
    assert hugepages.mapped_pages(smaps, SMALL) == 400
    assert hugepages.mapped_pages(smaps, LARGE) == 0


def test_giving_back(machine: Kernel) -> None:
    plan = machine.plan([Pool(SMALL, None, 9), Pool(LARGE, 1, 1)])
    machine.reserve(plan)
    large = machine.file(Pool(LARGE, 1, 0))
    sysctl = write(machine.root / "sysctl.conf", "# comment\n-vm.nr_hugepages = 9\n")
    tmpfiles = write(
        machine.root / "tmpfiles.conf",
        f"# comment\nw- /{large.relative_to(machine.root)} - - - - 1\nw- /no/such - - - - 1\n",
    )
    hugepages.release([str(sysctl), str(tmpfiles), "/no/such"], machine.root)
    assert (machine.pages(Pool(SMALL, None, 0)), machine.pages(Pool(LARGE, 1, 0))) == (0, 0)
