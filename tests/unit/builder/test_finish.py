"""Finishing a root file system: overlays, wheels, removals."""

import zipfile
from pathlib import Path

import pytest

from builder import finish as finishing
from builder import wheels
from builder.errors import BuildError
from builder.finish import Task, finish
from builder.records import Record, read_records


def task(tmp_path: Path, **changes: object) -> Task:
    nothing: dict[str, object] = {
        "extract": [], "prefetch": [], "requirements": [], "overlays": [], "steps": [], "remove": [], "apt_files": {},
        "records": str(tmp_path / "packages.txt"),
    }  # fmt: skip
    return Task(**{**nothing, **changes})  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(finishing, "_installed", lambda _root: [Record("a", "1", "all", "00")])
    for name in ("etc/apt", "var/log", "var/cache/apt/archives", "usr/share/x"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return tmp_path / "root"


def test_what_differs_from_build_to_build_goes(root: Path, tmp_path: Path) -> None:
    for name in ("etc/hostname", "etc/resolv.conf", "var/log/dpkg.log", "usr/share/x/y"):
        (root / name).write_text("x")
    finish(task(tmp_path, remove=["usr/share/*"]), root)
    assert not any((root / name).exists() for name in ("etc/hostname", "etc/resolv.conf", "var/log/dpkg.log"))
    assert list((root / "usr/share").iterdir()) == []
    assert [record.name for record in read_records(tmp_path / "packages.txt")] == ["a"]


def test_overlays_come_in_their_order_and_keep_links(root: Path, tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number / "etc/new").mkdir(parents=True)
        (tmp_path / number / "etc/new/file").write_text(number)
    (tmp_path / "2/etc/new/run").write_text("#!/bin/sh\n")
    (tmp_path / "2/etc/new/run").chmod(0o700)
    (tmp_path / "2/etc/new/link").symlink_to("/dev/null")
    finish(task(tmp_path, overlays=[str(tmp_path / "1"), str(tmp_path / "2")]), root)
    assert (root / "etc/new/file").read_text() == "2"
    assert (root / "etc/new/file").stat().st_mode & 0o777 == 0o644
    assert (root / "etc/new/run").stat().st_mode & 0o777 == 0o755
    assert str((root / "etc/new/link").readlink()) == "/dev/null"


def test_apt_is_left_as_asked(root: Path, tmp_path: Path) -> None:
    (root / "etc/apt/sources.list").write_text("deb http://mirror.example x main\n")
    finish(
        task(tmp_path, apt_files={"etc/apt/sources.list.d/d.list": "deb x\n"}, remove=["etc/apt/sources.list"]), root
    )
    assert not (root / "etc/apt/sources.list").exists()
    assert (root / "etc/apt/sources.list.d/d.list").read_text() == "deb x\n"


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return path


def test_wheels_are_unpacked(tmp_path: Path) -> None:
    wheels.unpack(wheel(tmp_path / "w.whl", "pkg/__init__.py", "pkg-1.dist-info/METADATA"), tmp_path / "site")
    assert (tmp_path / "site/pkg/__init__.py").stat().st_mode & 0o777 == 0o644


def test_a_wheel_that_installs_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="outside its package"):
        wheels.unpack(wheel(tmp_path / "w.whl", "pkg-1.data/scripts/run"), tmp_path / "site")
