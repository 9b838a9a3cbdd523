"""Real builds: images from the mirror in use, a package in the builder's container."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import cache, description, images, packages
from builder.errors import BuildError
from builder.images import build_image, find_image
from builder.packages import build_package
from builder.project import ROOT
from builder.records import read_records

pytestmark = pytest.mark.slow


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "caisson"


def test_base_built_twice_has_the_same_id(own_cache: Path) -> None:
    first = build_image("base", "13", say=print)
    content = cache.file_digest(first.archive)
    assert first.changed
    second = build_image("base", "13", say=print, fresh=True)
    assert second.changed
    assert second.id == first.id
    assert cache.file_digest(second.archive) == content
    third = build_image("base", "13", say=print)
    assert not third.changed
    assert third.archive == second.archive
    assert {record.name for record in read_records(third.packages)} >= {"libc6", "dpkg", "bash"}
    # Docker agrees that this is the image's id
    third.load()
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", third.tag], check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == third.id


def test_a_mirror_that_moved_on_is_told_and_no_obstacle(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = description.load_image("base", "13")
    project = tmp_path / "project"
    shutil.copytree(base.folder, project / "images" / "base")
    record = project / "images" / "base" / "packages.13.lock"
    older = [line.replace("bash ", "bash 0~", 1) for line in record.read_text().splitlines()]
    record.write_text("\n".join(older) + "\n")
    monkeypatch.setattr(description, "ROOT", project)
    monkeypatch.setattr(images, "ROOT", project)
    monkeypatch.setattr(images, "image_key", lambda _image: "0" * 64)
    said: list[str] = []
    built = build_image("base", "13", say=said.append)
    assert built.changed
    assert any("packages are not those of images/base/packages.13.lock" in line and "bash" in line for line in said)


def test_a_build_that_fails_says_why_and_leaves_nothing(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images" / "broken"
    folder.mkdir(parents=True)
    (folder / "image.yml").write_text("description: x\nreleases: ['13']\npackages: {all: [no-such-package]}\n")
    monkeypatch.setattr(description, "ROOT", tmp_path)
    monkeypatch.setattr(images, "image_key", lambda _image: "0" * 64)
    with pytest.raises(BuildError, match="no-such-package"):
        build_image("broken", "13", say=print)
    assert find_image("broken", "13") is None
    assert list((own_cache / "images").iterdir()) == []


@pytest.fixture
def trivial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A component whose package says what the build could see."""
    source = tmp_path / "src" / "trivial"
    source.mkdir(parents=True)
    (source / "main.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    (source / "package.yml").write_text(
        json.dumps({
            "description": "a trivial component",
            "package": "caisson-trivial",
            "releases": ["13"],
            "architecture": "any",
            "sources": ["trivial"],
            "build": [
                'mkdir -p "$DESTDIR/usr/bin"',
                'cc -o "$DESTDIR/usr/bin/trivial" trivial/main.c',
                "id -u > /build/out/user",
                "ls /sys/class/net > /build/out/network",
            ],
            "artefacts": {"tool": "/usr/bin/make"},
            "maintainer_scripts": {"postinst": "true\n"},
        })
    )  # fmt: skip
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    real = ROOT
    load = description.load_package

    def load_here(name: str, release: str) -> description.Package:
        monkeypatch.setattr(description, "ROOT", tmp_path)
        try:
            return load(name, release)
        finally:
            monkeypatch.setattr(description, "ROOT", real)

    monkeypatch.setattr(packages, "load_package", load_here)
    yield source
    for entry in (cache.root() / "packages").glob("trivial-*"):
        shutil.rmtree(entry)


def test_a_package_is_built_without_root_or_network(trivial: Path) -> None:
    built = build_package("trivial", "13", say=print)
    assert built.changed
    folder = built.deb.parent
    assert (folder / "user").read_text().strip() != "0"
    assert (folder / "network").read_text().split() == ["lo"]
    assert Path(built.artefacts["tool"]).stat().st_mode & 0o111
    shown = subprocess.run(["dpkg-deb", "--contents", built.deb], check=True, capture_output=True, text=True).stdout
    assert "root/root" in shown
    assert "./usr/bin/trivial" in shown
    assert cache.file_digest(built.deb) == built.sha256
    shutil.rmtree(folder)
    again = build_package("trivial", "13", say=print)
    assert again.sha256 == built.sha256, "the same inputs give the same package"
    assert not build_package("trivial", "13", say=print).changed
    (trivial / "main.c").write_text("int main(void) { return 1; }\n")
    other = build_package("trivial", "13", say=print)
    assert other.version != built.version


def test_a_compiler_error_is_shown(trivial: Path) -> None:
    (trivial / "main.c").write_text("int main(void) { return missing; }\n")
    with pytest.raises(BuildError, match="missing"):
        build_package("trivial", "13", say=print)
