"""Images without Debian: their files, and nothing of the machine that built them."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from builder import description, scratch
from builder.description import Image
from builder.errors import BuildError


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    (folder / "image.yml").write_text("description: x\nreleases: ['13']\nvariant: scratch\n")
    monkeypatch.setattr(description, "ROOT", tmp_path)
    loaded = description.load_image("x", "13")
    for name in ("first", "second"):
        (tmp_path / name / "usr/bin").mkdir(parents=True)
        (tmp_path / name / "usr/bin" / "program").write_text(name)
    (tmp_path / "second/usr/bin/program").chmod(0o700)
    (tmp_path / "first/usr/data").write_text("data")
    os.link(tmp_path / "first/usr/data", tmp_path / "first/usr/same")
    (tmp_path / "first/link").symlink_to("usr")
    return replace(loaded, overlays=[tmp_path / "first", tmp_path / "second"])


def test_files_are_roots_and_readable_by_all(image: Image) -> None:
    with scratch.packed_files(image) as packed, tarfile.open(fileobj=packed) as tar:
        found = {member.name: member for member in tar}
        assert tar.extractfile("./usr/bin/program").read() == b"second"  # type: ignore[union-attr]
    assert list(found) == ["./link", "./usr", "./usr/bin", "./usr/bin/program", "./usr/data", "./usr/same"]
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {(0, 0, 0)}
    assert [oct(found[f"./usr/{name}"].mode) for name in ("bin", "bin/program", "data")] == ["0o755", "0o755", "0o644"]
    assert found["./link"].linkname == "usr"
    assert found["./usr/same"].isreg()


def test_what_only_debian_has_is_refused(image: Image) -> None:
    asked = replace(image, packages=["bash"], steps=[["true"]])
    refused = pytest.raises(BuildError, match="image x is made from scratch and cannot have packages, steps")
    with refused, scratch.packed_files(asked):
        pass
