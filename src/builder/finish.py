"""What happens to a root file system between the installation of its packages and its packing.

mmdebstrap calls this module as its customize hook: `python -m builder.finish <task.json> <root>`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import wheels
from builder.records import Record, parse_stanzas, write_records

ALWAYS_REMOVED = [
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
]
"""Of the machine that built the image, or different in every build."""


@dataclass(frozen=True)
class Task:
    """How to finish a root file system."""

    extract: list[str]
    prefetch: list[str]
    requirements: list[str]
    """Locks of Python packages for the root's Python."""
    overlays: list[str]
    """Folders laid over the root."""
    steps: list[list[str]]
    remove: list[str]
    apt_files: dict[str, str]
    """Path -> content of the files that leave apt ready to use."""
    records: str
    """Where the list of packages goes."""

    def write(self, path: Path) -> None:
        """Write the task for the hook to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def finish(task: Task, root: Path) -> None:
    """Bring `root` into its final state."""
    records = _installed(root)
    records += _extract(task.extract, root)
    records += _prefetch(task.prefetch, root)
    for requirements in task.requirements:
        _install_wheels(Path(requirements), root)
    for overlay in task.overlays:
        _lay_over(Path(overlay), root)
    for step in task.steps:
        subprocess.run(["chroot", str(root), *step], check=True, stdout=sys.stderr)
    for pattern in ALWAYS_REMOVED + task.remove:
        for path in list(root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name, content in task.apt_files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        path.chmod(0o644)
    write_records(Path(task.records), records)


def _installed(root: Path) -> list[Record]:
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}:${Architecture}=${Version}\\n"]
    return _show(_output(query).split())


def _show(packages: list[str]) -> list[Record]:
    return parse_stanzas(_output(["apt-cache", "show", "--no-all-versions", *packages])) if packages else []


def _extract(packages: list[str], root: Path) -> list[Record]:
    """Unpack packages without installing them or what they depend on."""
    if not packages:
        return []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages],
            check=True,
            cwd=folder,
            env=_apt(),
            stdout=sys.stderr,
        )
        for deb in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(deb), str(root)], check=True)
        return _show([_of_deb(deb) for deb in Path(folder).glob("*.deb")])


def _prefetch(packages: list[str], root: Path) -> list[Record]:
    """Leave packages and what they depend on in the root's apt archive, and nothing else there."""
    archives = root / "var/cache/apt/archives"
    for deb in archives.glob("*.deb"):
        deb.unlink()
    if not packages:
        return []
    subprocess.run(
        ["apt-get", "-qq", "--yes", "--no-install-recommends", "--download-only", "install", *packages],
        check=True, env=_apt(), stdout=sys.stderr,
    )  # fmt: skip
    return _show([_of_deb(deb) for deb in archives.glob("*.deb")])


def _install_wheels(requirements: Path, root: Path) -> None:
    python = (root / "usr/bin/python3").readlink().name
    libc = _output(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Version} ${Architecture}", "libc6"])
    version, architecture = libc.split()
    glibc = int(version.split(".")[1].split("-")[0])
    with tempfile.TemporaryDirectory() as folder:
        for wheel in wheels.download(
            requirements, Path(folder), python=python.removeprefix("python"), glibc=glibc, architecture=architecture
        ):
            wheels.unpack(wheel, root / "usr/local/lib" / python / "dist-packages")


def _of_deb(deb: Path) -> str:
    fields = _output(["dpkg-deb", "--show", "--showformat=${Package}:${Architecture}=${Version}", str(deb)])
    return fields.strip()


def _lay_over(folder: Path, root: Path) -> None:
    for source in sorted(folder.rglob("*")):
        target = root / source.relative_to(folder)
        if source.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(source.readlink())
        elif source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _apt() -> dict[str, str]:
    """Return an environment in which apt works on the root, as mmdebstrap set it up."""
    return {**os.environ, "APT_CONFIG": os.environ["MMDEBSTRAP_APT_CONFIG"], "DEBIAN_FRONTEND": "noninteractive"}


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, env=_apt(), stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    finish(Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), Path(sys.argv[2]))
