"""The build cache: one directory per result, named by a digest of everything that went into it.

A result appears by an atomic rename, so a killed build leaves nothing that looks finished, and a lock per result lets
parallel runs wait for each other instead of building twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

KEPT_RESULTS = 2
"""Results of one name that stay in the cache, the most recently used first."""

_UNFINISHED = ".building-"

NOT_INPUTS = ("__pycache__", "*.pyc", "*.o", "*.so", "*.bc", ".*_cache", "results", "tmp_check", "regression.*", ".git")
"""File names that tools leave in source folders: no input of any build."""


def root() -> Path:
    """Return the cache directory of this user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "caisson"


def digest(inputs: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of plain data; mappings in any order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tree_files(folder: Path) -> Iterator[Path]:
    """Yield the files and links below a folder in a fixed order, without what tools leave there."""
    for entry in sorted(folder.iterdir()):
        if any(fnmatch(entry.name, pattern) for pattern in NOT_INPUTS):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from tree_files(entry)
        else:
            yield entry


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 (hex) of the names, modes and contents below a folder; a missing folder counts as empty."""
    state = hashlib.sha256()
    for file in tree_files(folder) if folder.is_dir() else ():
        if file.is_symlink():
            content, mode = str(file.readlink()).encode(), "link"
        else:
            content, mode = file.read_bytes(), "x" if os.access(file, os.X_OK) else "-"
        state.update(f"{file.relative_to(folder)}\0{mode}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the machine-wide lock of a result; waits until it is free."""
    locks = root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def new_entry(kind: str, name: str) -> Iterator[Path]:
    """Give a directory to build in; it becomes the cache entry `kind/name` when the block ends without an error.

    The caller holds the lock of the result.
    """
    building = root() / kind / f"{_UNFINISHED}{name}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        target = entry(kind, name)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def entry(kind: str, name: str) -> Path:
    """Return where the cache entry `kind/name` is or would be."""
    return root() / kind / name


def mark_used(path: Path) -> None:
    """Note that a cache entry was used just now."""
    with suppress(PermissionError):
        os.utime(path)


def prune(kind: str, prefix: str) -> None:
    """Remove all but the most recently used entries `kind/prefix-<key>`, and what killed builds of them left.

    The caller holds the lock of the result.
    """
    for path in (root() / kind).glob(f"{_UNFINISHED}{prefix}-*"):
        shutil.rmtree(path, ignore_errors=True)
    entries = sorted((root() / kind).glob(f"{prefix}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries[KEPT_RESULTS:]:
        shutil.rmtree(path, ignore_errors=True)
