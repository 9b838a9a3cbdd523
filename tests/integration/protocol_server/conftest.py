"""The tiny image that the tests' sandboxes run, and servers in directories of their own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .support import Daemon, docker

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The id of an image with one static program."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs a Docker that answers")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    directory = tmp_path_factory.mktemp("image")
    program = directory / "sandbox"
    subprocess.run(
        ["gcc", "-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "sandbox.c"], check=True
    )
    archive = directory / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(program, "sandbox")
    identifier = docker("import", str(archive))
    yield identifier
    docker("rmi", "-f", identifier, check=False)


@pytest.fixture
def daemon(image: str) -> Iterator[Callable[..., Daemon]]:
    """Makes servers; they and their containers are removed in the end."""
    made: list[Daemon] = []
    # pytest's own directories are too deep for the path of a unix socket.
    root = Path(tempfile.mkdtemp(prefix="plserver-"))
    root.chmod(0o755)

    def make(**settings: Any) -> Daemon:
        one = Daemon(root, image, f"test-{secrets.token_hex(4)}", settings)
        made.append(one)
        return one

    yield make
    for one in made:
        one.remove()
    shutil.rmtree(root)
