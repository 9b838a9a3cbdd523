#!/usr/bin/python3
"""Limits of slices that systemd does not set: huge pages, and in cgroup version 1 the processors.

The module cgroups compares and sets them with this file, and the role of that name installs it as the program that sets
them when a host boots: slice_limits SLICE [--hugepages-mb N] [--cpuset LIST].
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

#: What version 1 takes for no limit: the largest multiple of the page size, whatever that is.
UNLIMITED = 2**62


class LimitError(Exception):
    """A limit cannot be set; says what is wanted and what the kernel has."""


@dataclass(frozen=True)
class Limits:
    """What a slice is to have. None is no limit."""

    name: str
    hugepages_mb: int | None = None
    cpuset: str | None = None


def cpus(text: str) -> frozenset[int]:
    """Return the processors of a list such as 0-3,6. Raises ValueError for what is none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def slice_path(name: str) -> Path:
    """Return where systemd puts a slice: a-b.slice lies in a.slice."""
    parts = name.removesuffix(".slice").split("-")
    return Path(*("-".join(parts[: length + 1]) + ".slice" for length in range(len(parts))))


def _page_label(kilobytes: int) -> str:
    for unit, size in (("GB", 2**20), ("MB", 2**10)):
        if kilobytes >= size:
            return f"{kilobytes // size}{unit}"
    return f"{kilobytes}KB"


class Tree:
    """The cgroups of a host whose / is ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.mount = root / "sys/fs/cgroup"
        self.version = 2 if (self.mount / "cgroup.controllers").exists() else 1

    def _top(self) -> Path:
        """Return where slices begin: the root, unless a container is the host. systemd's own place tells."""
        for line in (self.root / "proc/1/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "name=systemd") and path.endswith("/init.scope"):
                return Path(path).parent.relative_to("/")
        return Path()

    def has(self, controller: str) -> bool:
        """Tell whether the kernel has the controller where slices are."""
        if self.version == 1:
            return (self.mount / controller).is_dir()
        return controller in (self.mount / "cgroup.controllers").read_text(encoding="ascii").split()

    def directory(self, controller: str, name: str) -> Path:
        """Return the directory of a slice."""
        base = self.mount / controller if self.version == 1 else self.mount
        return base / self._top() / slice_path(name)

    def page_sizes(self) -> dict[str, int]:
        """Return the sizes of huge pages in bytes, by the name that cgroups give them."""
        found = {}
        for directory in sorted((self.root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")):
            kilobytes = int(re.sub(r"\D", "", directory.name))
            found[_page_label(kilobytes)] = kilobytes * 1024
        return found


def _hugepage_files(tree: Tree, limits: Limits) -> dict[Path, int | None]:
    """Return the files that limit huge pages, each with its bytes. With reservations mmap() fails, not an access."""
    if not tree.has("hugetlb"):
        if limits.hugepages_mb:
            raise LimitError(f"{limits.name}: this kernel cannot limit huge pages, it has no controller hugetlb")
        return {}
    directory = tree.directory("hugetlb", limits.name)
    word = "max" if tree.version == 2 else "limit_in_bytes"
    found: dict[Path, int | None] = {}
    for label, size in tree.page_sizes().items():
        value = None if limits.hugepages_mb is None else limits.hugepages_mb * 2**20 // size * size
        found |= {directory / f"hugetlb.{label}.rsvd.{word}": value, directory / f"hugetlb.{label}.{word}": value}
    return found


def _bytes(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip()
    return None if text == "max" or not 0 <= int(text) < UNLIMITED else int(text)


def _told(value: int | None) -> str:
    return "no limit" if value is None else str(value)


def _wanted_cpus(tree: Tree, limits: Limits) -> tuple[Path, frozenset[int]] | None:
    """Return the group and the processors that it is to have, None where systemd sets them."""
    if tree.version == 2 or not tree.has("cpuset"):
        if tree.version == 1 and limits.cpuset:
            raise LimitError(f"{limits.name}: this kernel binds no group to processors, it has no controller cpuset")
        return None
    directory = tree.directory("cpuset", limits.name)
    wanted = limits.cpuset or (directory.parent / "cpuset.cpus").read_text(encoding="ascii")
    return directory, cpus(wanted)


def differences(tree: Tree, limits: Limits) -> list[str]:
    """Return how the limits that the kernel has differ, one line each."""
    found = []
    for path, wanted in _hugepage_files(tree, limits).items():
        if not path.parent.exists():
            found.append(f"{path.parent}: not there")
            break
        if path.exists() and _bytes(path) != wanted:
            found.append(f"{path}: {_told(_bytes(path))}, not {_told(wanted)}")
        elif not path.exists() and ".rsvd." not in path.name:
            found.append(f"{path}: not there")
    bound = _wanted_cpus(tree, limits)
    if bound:
        directory, processors = bound
        path = directory / "cpuset.cpus"
        if not path.exists():
            if limits.cpuset:
                found.append(f"{path}: not there")
        elif cpus(path.read_text(encoding="ascii")) != processors:
            found.append(f"{path}: {path.read_text(encoding='ascii').strip() or 'none'}, not {limits.cpuset or 'all'}")
    return found


def _write(path: Path, text: str) -> str:
    """Write and return what the kernel says of it; nothing when it has taken it."""
    try:
        path.write_text(f"{text}\n", encoding="ascii")
    except OSError as error:
        return f" ({error.strerror})"
    return ""


def _delegate_hugetlb(tree: Tree, directory: Path) -> None:
    """Let version 2 count huge pages in the groups above a slice; systemd does not know that controller."""
    for group in reversed([*directory.relative_to(tree.mount).parents]):
        switch = tree.mount / group / "cgroup.subtree_control"
        if "hugetlb" not in switch.read_text(encoding="ascii").split() and (said := _write(switch, "+hugetlb")):
            raise LimitError(f"{switch}: hugetlb cannot be turned on{said}")


def _set_hugepages(tree: Tree, limits: Limits) -> None:
    files = _hugepage_files(tree, limits)
    if not files:
        return
    directory = next(iter(files)).parent
    if tree.version == 2:
        _delegate_hugetlb(tree, directory)
    else:
        directory.mkdir(parents=True, exist_ok=True)
    for path, value in files.items():
        if not path.exists() and ".rsvd." in path.name:
            continue  # kernels before 5.7
        if not path.exists():
            raise LimitError(f"{path}: the kernel has no such limit; is {limits.name} active?")
        unlimited = "max" if tree.version == 2 else "-1"
        said = _write(path, unlimited if value is None else str(value))
        if _bytes(path) != value:
            raise LimitError(
                f"{path}: {_told(value)} is wanted, the kernel keeps {_told(_bytes(path))}{said};"
                " processes in it may use more than that already"
            )


def _bind(directory: Path, processors: frozenset[int]) -> None:
    """Bind a group of version 1 and those inside of it, innermost first: none may have what its parent lacks."""
    for group in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        has = cpus((group / "cpuset.cpus").read_text(encoding="ascii"))
        if not has <= processors:
            _write(group / "cpuset.cpus", ",".join(map(str, sorted(has & processors or processors))))
    for name in ("cpuset.mems", "cpuset.cpus"):
        inherited = (directory.parent / name).read_text(encoding="ascii").strip()
        if not (directory / name).exists() or not (directory / name).read_text(encoding="ascii").strip():
            _write(directory / name, inherited)
    path = directory / "cpuset.cpus"
    said = _write(path, ",".join(map(str, sorted(processors))))
    if (got := cpus(path.read_text(encoding="ascii"))) != processors:
        raise LimitError(f"{path}: processors {sorted(processors)} are wanted, the kernel keeps {sorted(got)}{said}")


def set_limits(tree: Tree, limits: Limits) -> None:
    """Set the limits and read them back. Raises LimitError when the kernel does not take one."""
    _set_hugepages(tree, limits)
    bound = _wanted_cpus(tree, limits)
    # without a group there are no sandboxes in it, and those that come have what their parent has
    if bound and (limits.cpuset or bound[0].exists()):
        directory, processors = bound
        directory.mkdir(parents=True, exist_ok=True)
        _bind(directory, processors)


def main(arguments: list[str], root: Path = Path("/")) -> int:
    """Set the limits of one slice."""
    parser = argparse.ArgumentParser(description="Set limits of a slice that systemd does not set.")
    parser.add_argument("slice")
    parser.add_argument("--hugepages-mb", type=int)
    parser.add_argument("--cpuset")
    asked = parser.parse_args(arguments)
    try:
        set_limits(Tree(root), Limits(asked.slice, asked.hugepages_mb, asked.cpuset))
    except (LimitError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
