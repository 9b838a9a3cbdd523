"""The package of the role, Debian's plugins, and a host to use them on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.packages import build_package
from tests.support.archive import unpacked

from .support import NetworkHost

RELEASE = "13"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the programs of the package."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root only")
    root = tmp_path_factory.mktemp("package")
    built = build_package("cni_plugins", RELEASE, say=print)
    subprocess.run(["dpkg-deb", "-x", str(built.deb), str(root)], check=True)
    return root / "usr/sbin"


@pytest.fixture(scope="session")
def plugins(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with Debian's plugins and Multus, as /usr/lib/cni has them."""
    folder = tmp_path_factory.mktemp("plugins")
    theirs = unpacked("containernetworking-plugins", RELEASE, tmp_path_factory.mktemp("apt")) / "usr/lib/cni"
    for program in [*theirs.iterdir(), programs.parent / "lib/cni/multus"]:
        (folder / program.name).symlink_to(program)
    return folder


@pytest.fixture
def host(tmp_path: Path, programs: Path, plugins: Path) -> Iterator[NetworkHost]:
    host = NetworkHost(tmp_path, programs, plugins)
    yield host
    host.close()
