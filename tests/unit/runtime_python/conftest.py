"""Builds the C extension for the tests and runs them over both implementations of the loop."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from .support import Sandbox

SOURCE = Path(__file__).parents[3] / "src"
# More interpreters to run the sandboxes with: paths, separated by colons
PYTHONS = [sys.executable, *filter(None, os.environ.get("RUNTIME_PYTHONS", "").split(":"))]


@pytest.fixture(scope="session")
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime as it is installed: with its extension, without caches."""
    directory = tmp_path_factory.mktemp("runtime") / "runtime_python"
    shutil.copytree(SOURCE / "runtime_python", directory, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
            f"-I{sysconfig.get_paths()['include']}",
            *("-o", str(directory / "plc" / "_plc.abi3.so")),
            *map(str, sorted((SOURCE / "runtime_python" / "plc").glob("_plc*.c"))),
            *map(str, sorted((SOURCE / "protocol").glob("*.c"))),
        ],
        check=True,
    )
    return directory


@pytest.fixture(scope="session")
def extension(runtime_directory: Path) -> ModuleType:
    """The C extension, loaded into this process for its codec."""
    path = runtime_directory / "plc" / "_plc.abi3.so"
    spec = importlib.util.spec_from_file_location("plc._plc", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.configure()
    return module


@pytest.fixture(params=["c", "python"])
def variant(request: pytest.FixtureRequest) -> str:
    """Which implementation of the loop serves: `c` or `python`."""
    return str(request.param)


@pytest.fixture(params=PYTHONS, ids=lambda path: Path(path).parents[1].name if len(PYTHONS) > 1 else "")
def interpreter(request: pytest.FixtureRequest) -> str:
    """The Python that runs the sandbox."""
    return str(request.param)


@pytest.fixture
def sandbox(runtime_directory: Path, variant: str, interpreter: str, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox that was greeted."""
    with Sandbox(runtime_directory, tmp_path, interpreter, pure=variant == "python") as started:
        reply = started.greet()
        assert reply.codec == variant
        yield started
