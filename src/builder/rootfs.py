"""Runs mmdebstrap, which makes a root file system out of Debian packages."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from builder import debian, project
from builder.description import Image
from builder.errors import BuildError
from builder.finish import Task
from builder.project import ROOT, settings

_LOG_LINES = 25


@contextmanager
def packed_root(image: Image, *, records: Path, log: Path) -> Iterator[IO[bytes]]:
    """Give the image's root file system as a tar stream; its list of packages is in `records` when it has ended.

    Raises BuildError with the end of mmdebstrap's output when it fails.
    """
    if os.geteuid() != 0:
        raise BuildError("a root file system is built as root (make uses sudo for it)")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as task_file, log.open("wb") as errors:
        _task(image, records).write(Path(task_file.name))
        with subprocess.Popen(
            _command(image, task_file.name), stdout=subprocess.PIPE, stderr=errors, env=_environment()
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            except tarfile.TarError:
                # the stream of a build that fails ends early: that it failed is the cause
                if process.wait() == 0:
                    raise
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise BuildError(f"mmdebstrap could not build {image.name} for Debian {image.debian}:\n{tail}")


def _command(image: Image, task_file: str) -> list[str]:
    hook = f"PYTHONPATH={shlex.quote(str(ROOT / 'src'))} {shlex.quote(sys.executable)} -m builder.finish "
    options = ["--mode=root", "--format=tar", f"--variant={image.variant}"]
    options += [f'--customize-hook={hook}{shlex.quote(task_file)} "$1"']
    options += [f"--aptopt={line}" for line in debian.proxy_options()]
    options += ["--dpkgopt=force-unsafe-io"]
    options += [
        f"--dpkgopt=path-{'include' if item[0] == '!' else 'exclude'}={item.lstrip('!')}" for item in image.exclude
    ]
    if image.packages:
        options.append(f"--include={','.join(image.packages)}")
    if image.prefetch:
        options.append("--skip=cleanup/apt/cache")
    sources = [source.line() for source in debian.sources(image.debian)]
    return ["mmdebstrap", *options, debian.suite(image.debian), "-", *sources]


def _task(image: Image, records: Path) -> Task:
    apt_files = _apt_files(image) if image.apt else {}
    # without sources of ours, mmdebstrap's own choice stays
    stale = [] if image.apt and not debian.sources(image.debian) else ["etc/apt/sources.list"]
    return Task(
        extract=image.extract,
        prefetch=image.prefetch,
        requirements=[str(lock) for lock in image.requirements],
        overlays=[str(folder) for folder in image.overlays],
        steps=image.steps,
        remove=image.remove + stale,
        apt_files=apt_files,
        records=str(records),
    )


def _apt_files(image: Image) -> dict[str, str]:
    sources = "".join(f"{source.line()}\n" for source in debian.sources(image.debian))
    files = {"etc/apt/sources.list.d/debian.list": sources} if sources else {}
    if proxies := debian.proxy_options():
        files["etc/apt/apt.conf.d/80proxy"] = "".join(f"{line}\n" for line in proxies)
    return files


def _environment() -> dict[str, str]:
    """Return the environment of a build: nothing of the person's locale or time, and room for a root file system."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return {
        "TMPDIR": str(project.LARGE_TEMPORARY),
        **kept,
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(settings().source_date_epoch),
    }
