"""The module unfinished_packages with commands that stand in for dpkg and apt-get."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.modules import unfinished_packages


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, status in (("dpkg", 1), ("apt-get", 0)):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/said\nexit {status}\n', encoding="utf-8")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "said"


def test_what_dpkg_cannot_do_alone_apt_does(said: Path) -> None:
    assert unfinished_packages.finish() == ""
    lines = said.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["dpkg", "apt-get", "apt-get"]
    assert "--fix-broken install" in lines[-1]


def test_a_failure_is_told(said: Path) -> None:
    (said.parent / "apt-get").write_text("#!/bin/sh\necho no space left >&2\nexit 100\n", encoding="utf-8")
    assert unfinished_packages.finish() == "no space left\n"
