"""The module text_file, run as Ansible runs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugins.modules import text_file

MODULE = Path(text_file.__file__)
ROOT = MODULE.parents[2]
# What Ansible does: our module_utils are there; and the record of what was there before is the test's own.
START = """
import os, runpy, sys
from pathlib import Path
from plugins.module_utils import origin
origin.FOLDER = Path(os.environ["ORIGIN"])
sys.modules["ansible.module_utils.origin"] = origin
sys.argv = ["text_file"]
runpy.run_path(os.environ["MODULE"], run_name="__main__")
"""


def run(path: Path, text: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
    arguments = {
        "path": str(path),
        "text": text,
        "_ansible_check_mode": check,
        "_ansible_remote_tmp": str(path.parent),
        **options,
    }
    done = subprocess.run(
        [sys.executable, "-c", START],
        cwd=ROOT,
        env={**os.environ, "MODULE": str(MODULE), "ORIGIN": str(path.parent / "origin")},
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file(path: Path) -> None:
    assert run(path, "ä\n", mode="0640")["changed"] is True
    assert path.read_text(encoding="utf-8") == "ä\n"
    assert mode(path) == 0o640
    assert run(path, "ä\n", mode="0640")["changed"] is False


def test_another_mode_alone(path: Path) -> None:
    run(path, "x", mode="0600")
    assert run(path, "x", mode="0644")["changed"] is True
    assert mode(path) == 0o644


def test_check_mode_tells_and_leaves_it(path: Path) -> None:
    path.write_text("old\n", encoding="utf-8")
    told = run(path, "new\n", check=True)
    assert told["changed"] is True
    assert (told["diff"]["before"], told["diff"]["after"]) == ("old\n", "new\n")
    assert path.read_text(encoding="utf-8") == "old\n"
    assert run(path, "old\n", check=True)["changed"] is False


def test_a_text_that_is_refused_leaves_the_file_and_no_other(path: Path) -> None:
    path.write_text("old\n", encoding="utf-8")
    told = run(path, "new\n", validate="grep -c old %s")
    assert told["failed"] is True
    assert f"{path} is left as it is, grep refuses the new one" in told["msg"]
    assert path.read_text(encoding="utf-8") == "old\n"
    assert [entry.name for entry in path.parent.iterdir() if entry.is_file()] == ["file"]


def test_a_text_that_is_accepted(path: Path) -> None:
    assert run(path, "new\n", validate="grep -q new %s")["changed"] is True


def test_a_backup_of_what_was_there(path: Path) -> None:
    assert "backup_file" not in run(path, "old\n", backup=True)
    kept = run(path, "new\n", backup=True)["backup_file"]
    assert Path(kept).read_text(encoding="utf-8") == "old\n"
    assert "backup_file" not in run(path, "new\n", backup=True)


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    assert "is no directory" in run(tmp_path / "a" / "b", "x", check=True)["msg"]
