"""Source packages of Debian, fetched when a test needs them and kept in the cache: none of it is in this project.

Only what the tests read is unpacked.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

from builder import cache, debian
from tests.support.archive import ArchiveError, private_apt, run

KIND = "sources"


def fetch(package: str, release: str, subtree: str) -> Path:
    """Return a directory with the folder ``subtree`` of a source package's upstream tree.

    ``release`` is a Debian release such as "13"; the package is the newest that its main archive has. What was fetched
    once is used again.
    """
    name = f"{debian.suite(release)}-{package}"
    with cache.locked(f"{KIND}-{name}"):
        target = cache.entry(KIND, name)
        if not (target / subtree).is_dir():
            with cache.new_entry(KIND, name) as building, tempfile.TemporaryDirectory() as scratch:
                unpack(download(package, release, Path(scratch)), subtree, building)
        return target / subtree


def download(package: str, release: str, scratch: Path) -> Path:
    """Return the upstream tarball of a source package, downloaded to ``scratch`` by an apt that shares no state."""
    apt = private_apt(release, scratch, "deb-src")
    run([*apt, "source", "--download-only", "--only-source", package], scratch / "files")
    tarballs = list((scratch / "files").glob("*.orig.tar.*[!c]"))
    if len(tarballs) != 1:
        raise ArchiveError(f"{package} has {len(tarballs)} upstream tarballs")
    return tarballs[0]


def unpack(tarball: Path, subtree: str, target: Path) -> None:
    """Unpack the regular files below ``subtree`` of a tarball that has one top directory."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = member.name.removeprefix("./").partition("/")[2]
            content = archive.extractfile(member) if member.isreg() and _is_below(path, subtree) else None
            if content is not None:
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with content, file.open("wb") as output:
                    shutil.copyfileobj(content, output)
    if not (target / subtree).is_dir():
        raise ArchiveError(f"{tarball.name} has no {subtree}")


def _is_below(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder) and ".." not in Path(path).parts
