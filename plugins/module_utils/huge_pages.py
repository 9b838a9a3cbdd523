"""The kernel's pools of huge pages: how many pages there are of each size and node, and how they are changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: Names of sizes in options, in KiB.
SIZES = {"2MB": 2048, "1GB": 1048576}
COMMAND_LINE_NAMES = {2048: "2M", 1048576: "1G"}


class PagesError(Exception):
    """The kernel has not the pages that are wanted; says how many are wanted and how many it has."""


class ShortError(PagesError):
    """The kernel takes the number, but has not as much free memory in pieces of that size."""


@dataclass(frozen=True)
class Pool:
    """Pages of one size (KiB); of one node of memory, or of all where that is None."""

    size_kb: int
    node: int | None
    pages: int

    def told(self) -> str:
        """Return which pages these are."""
        name = next(name for name, size in SIZES.items() if size == self.size_kb)
        return f"pages of {name}" + ("" if self.node is None else f" on node {self.node}")


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def spread(pages: int, nodes: list[int]) -> dict[int, int]:
    """Return the pages of each node when all have the same, but for what is left over."""
    share, more = divmod(pages, len(nodes))
    return {node: share + (index < more) for index, node in enumerate(nodes)}


class Kernel:
    """The pools of a host whose / is ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        text = (root / "proc/meminfo").read_text(encoding="ascii")
        found = re.search(r"^Hugepagesize:\s+(\d+) kB", text, re.MULTILINE)
        self.default_kb = int(found[1]) if found else 0
        directories = (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")
        self.sizes = sorted(int(re.sub(r"\D", "", path.name)) for path in directories)
        self.nodes = self._nodes()

    def _nodes(self) -> list[int]:
        """Return the nodes that have memory."""
        path, found = self.root / "sys/devices/system/node/has_memory", []
        if path.exists():
            for part in filter(None, path.read_text(encoding="ascii").strip().split(",")):
                first, _, last = part.partition("-")
                found += list(range(int(first), int(last or first) + 1))
        return found or [0]

    def file(self, pool: Pool) -> Path:
        """Return the file that says how many pages a pool has and that takes another number."""
        everywhere = pool.node is None or len(self.nodes) == 1
        # the only one that a host which is a container may write to
        if everywhere and pool.size_kb == self.default_kb:
            return self.root / "proc/sys/vm/nr_hugepages"
        above = "sys/kernel/mm" if everywhere else f"sys/devices/system/node/node{pool.node}"
        return self.root / above / f"hugepages/hugepages-{pool.size_kb}kB/nr_hugepages"

    def pages(self, pool: Pool) -> int:
        """Return how many pages a pool has now, without those that vanish when they are given back."""
        path = self.file(pool)
        # the kernel parameter does not count them
        surplus = 0 if path.parent.name == "vm" else _number(path.with_name("surplus_hugepages"))
        return _number(path) - surplus

    def free(self, size_kb: int) -> int:
        """Return how many pages of a size nobody has and nobody was promised."""
        directory = self.root / f"sys/kernel/mm/hugepages/hugepages-{size_kb}kB"
        return _number(directory / "free_hugepages") - _number(directory / "resv_hugepages")

    def plan(self, wanted: list[Pool]) -> list[Pool]:
        """Return one number for each file that is to be written.

        Pages without a node are left to the kernel, unless others of their size have one: then they are spread.
        Raises PagesError for what the host does not have.
        """
        plan: list[Pool] = []
        for size in sorted({pool.size_kb for pool in wanted if pool.pages}):
            pools = [pool for pool in wanted if pool.size_kb == size and pool.pages]
            if size not in self.sizes:
                raise PagesError(f"{pools[0].pages} {pools[0].told()} are wanted, this kernel has none of that size")
            if all(pool.node is None for pool in pools):
                plan.append(Pool(size, None, sum(pool.pages for pool in pools)))
                continue
            sums = dict.fromkeys(self.nodes, 0)
            for pool in pools:
                if pool.node is not None and pool.node not in sums:
                    nodes = ", ".join(map(str, self.nodes))
                    raise PagesError(f"{pool.pages} {pool.told()} are wanted, this host has memory on {nodes}")
                shares = spread(pool.pages, self.nodes) if pool.node is None else {pool.node: pool.pages}
                for node, pages in shares.items():
                    sums[node] += pages
            plan += [Pool(size, node, pages) for node, pages in sums.items()]
        return plan

    def differences(self, plan: list[Pool]) -> list[str]:
        """Return which pools have another number of pages, one line each."""
        return [
            f"{pool.told()}: {self.pages(pool)}, not {pool.pages}" for pool in plan if self.pages(pool) != pool.pages
        ]

    def _write(self, pool: Pool) -> str:
        """Write and return what the kernel says of it; nothing when it has taken it."""
        try:
            self.file(pool).write_text(f"{pool.pages}\n", encoding="ascii")
        except OSError as error:
            return f" ({error.strerror})"
        return ""

    def _compact(self) -> None:
        """Ask the kernel to put free memory together. What it can't is told by the number of pages it has then."""
        path = self.root / "proc/sys/vm/compact_memory"
        if path.exists():
            path.write_text("1\n", encoding="ascii")

    def reserve(self, plan: list[Pool]) -> None:
        """Write and read back. Raises PagesError, with all as it was, when the kernel has not all pages of the plan."""
        before = [Pool(pool.size_kb, pool.node, self.pages(pool)) for pool in plan]
        for pool in plan:
            said = self._write(pool)
            if not said and self.pages(pool) < pool.pages:
                self._compact()
                said = self._write(pool)
            got = self.pages(pool)
            if got < pool.pages:
                for earlier in before:
                    self._write(earlier)
                kind = PagesError if said else ShortError
                raise kind(f"{pool.pages} {pool.told()} are wanted, the kernel has {got}{said}")

    def command_line(self, plan: list[Pool]) -> str:
        """Return what the kernel's command line needs so that these pages are there before memory is in pieces."""
        parts = []
        for size in sorted({pool.size_kb for pool in plan}):
            pools = [pool for pool in plan if pool.size_kb == size]
            number = ",".join(str(pool.pages) if pool.node is None else f"{pool.node}:{pool.pages}" for pool in pools)
            parts.append(f"hugepagesz={COMMAND_LINE_NAMES[size]} hugepages={number}")
        return " ".join(parts)
