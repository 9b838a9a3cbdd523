"""Programs of this machine: what is on PATH comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import programs
from builder.description import GoPrograms
from builder.errors import BuildError

from .test_packages import PACKAGE


class Built:
    """A package that was built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def unpacked(self) -> Path:
        return self.folder


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program pulumi of the only package there is, and a PATH of one empty folder."""
    program = tmp_path / "root/usr/bin/pulumi"
    program.parent.mkdir(parents=True)
    program.write_text("ours")
    package = PACKAGE.__class__(**{**PACKAGE.__dict__, "go": [GoPrograms(programs={"pulumi": "./x"})]})
    monkeypatch.setattr(programs, "package_names", lambda: ["x"])
    monkeypatch.setattr(programs, "package_releases", lambda _name: ["13"])
    monkeypatch.setattr(programs, "load_package", lambda _name, _release: package)
    monkeypatch.setattr(programs, "build_package", lambda _name, _release, say: Built(tmp_path / "root"))
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return program


def test_a_program_on_path_is_used(ours: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "path/pulumi"
    theirs.write_text("#!/bin/sh\n")
    theirs.chmod(0o755)
    assert programs.find_program("pulumi", say=print) == theirs
    assert programs.find_program("pulumi", say=print, own=True) == ours


def test_without_one_ours_is(ours: Path) -> None:
    assert programs.find_program("pulumi", say=print) == ours


def test_what_nobody_has_is_told(ours: Path) -> None:
    with pytest.raises(BuildError, match="there is no helm on PATH, and none of our packages has it"):
        programs.find_program("helm", say=print)
