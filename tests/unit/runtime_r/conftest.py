"""Sandboxes with the R runtime, in the image and from the package that hosts get.

RUNTIME_R=host takes this machine's own R and compiler instead, which is quicker while working on the runtime.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from builder.description import image_releases, package_releases
from builder.images import build_image
from builder.packages import build_package
from tests.unit.runtime_python.support import Sandbox

SOURCE = Path(__file__).parents[3] / "src"
ON_HOST = os.environ.get("RUNTIME_R") == "host"

Start = Callable[[], AbstractContextManager[Sandbox]]


@pytest.fixture(scope="session")
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime as it is installed."""
    directory = tmp_path_factory.mktemp("runtime")
    if not ON_HOST:
        built = build_package("runtime_r", package_releases("runtime_r")[-1], say=print)
        subprocess.run(["dpkg-deb", "-x", str(built.deb), str(directory)], check=True)
        return directory / "usr" / "lib" / "caisson" / "runtime_r"
    for part in (SOURCE / "runtime_r").glob("*.R"):
        shutil.copy(part, directory)
    flags: tuple[str, ...] = (
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-O2",
        "-g",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
    )
    sources = [path for name in ("runtime_r", "protocol") for path in sorted((SOURCE / name).glob("*.c"))]
    flags = (*flags, *os.environ.get("CFLAGS", "").split())
    subprocess.run(
        ["gcc", *flags, "-I/usr/share/R/include", "-o", str(directory / "plc_r.so"), *map(str, sources)], check=True
    )
    return directory


@pytest.fixture(scope="session")
def command(runtime_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], list[str]]]:
    """What starts a sandbox whose socket is in a directory: a process in a container that all of them share."""
    if ON_HOST:
        yield lambda _scratch: ["Rscript", "--vanilla", str(runtime_directory / "main.R")]
        return
    image = build_image("plr", image_releases("plr")[-1], say=print)
    image.load()
    base = tmp_path_factory.getbasetemp()
    arguments = [
        *("--rm", "--detach", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{base}:{base}"),
        *("--volume", f"{runtime_directory}:/opt/caisson/runtime_r:ro", image.tag, "sleep", "infinity"),
    ]
    started = subprocess.run(["docker", "run", *arguments], check=True, capture_output=True, text=True)
    container = started.stdout.strip()
    try:
        yield lambda scratch: [
            *("docker", "exec", "--env", f"PLC_SOCKET={scratch}/sandbox.sock", container),
            *("Rscript", "--vanilla", "/opt/caisson/runtime_r/main.R"),
        ]
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


@pytest.fixture(scope="session")
def start(command: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a sandbox that was not greeted."""

    def started() -> AbstractContextManager[Sandbox]:
        scratch = tmp_path_factory.mktemp("sandbox")
        return Sandbox(
            scratch, scratch, "", command=command(scratch), PATH=os.environ["PATH"], LANG="C.UTF-8", HOME=str(scratch)
        )

    return started


@pytest.fixture(scope="module")
def sandbox(start: Start) -> Iterator[Sandbox]:
    """A sandbox that was greeted; the tests of a module share it."""
    with start() as started:
        reply = started.greet()
        assert reply.codec == "c"
        assert reply.software.startswith("R ")
        yield started
