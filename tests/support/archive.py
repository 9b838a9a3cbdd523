"""Debian's archive for tests: an apt that shares no state with this machine's. It checks signatures and checksums."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder import cache, debian


class ArchiveError(RuntimeError):
    """A package can't be had."""


def private_apt(release: str, scratch: Path, kind: str) -> list[str]:
    """Return the beginning of an apt-get command that knows a release's main archive; its state lies in ``scratch``.

    ``kind`` is "deb" or "deb-src", ``release`` a Debian release such as "13".
    """
    sources = [source for source in debian.sources(release) if not source.suite.endswith(("-updates", "-security"))]
    if not sources:
        raise ArchiveError("no Debian mirror is known: set builder_debian_mirror in settings/images.yml")
    for directory in ("state/lists/partial", "cache/archives/partial", "files"):
        (scratch / directory).mkdir(parents=True)
    listing = scratch / "sources.list"
    listing.write_text("".join(source.line().replace("deb ", f"{kind} ", 1) + "\n" for source in sources))
    options = {
        "Dir::Etc::sourcelist": listing,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": scratch / "state",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    run([*apt, "update"], scratch)
    return apt


def run(command: list[str], directory: Path) -> None:
    """Run a command in a directory. Raises ArchiveError with what it said."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArchiveError(f"{' '.join(command[-3:])}: {done.stderr.strip() or done.stdout.strip()}")


def unpacked(package: str, release: str, scratch: Path) -> Path:
    """Return a directory with the files of a release's binary package. What was fetched once is used again."""
    name = f"{debian.suite(release)}-{package}"
    with cache.locked(f"unpacked-{name}"):
        target = cache.entry("unpacked", name)
        if not target.is_dir():
            with cache.new_entry("unpacked", name) as building:
                run([*private_apt(release, scratch, "deb"), "download", package], scratch / "files")
                (deb,) = (scratch / "files").glob("*.deb")
                run(["dpkg-deb", "-x", str(deb), str(building)], scratch)
        return target
