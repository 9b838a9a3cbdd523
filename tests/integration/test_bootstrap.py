"""bootstrap refuses what it cannot serve: everything that is wrong at once, and nothing is changed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UBUNTU = 'ID=ubuntu\nVERSION_ID="20.04"\n'
LITTLE_MEMORY = "MemTotal:        1024000 kB\n"


@pytest.fixture
def clone() -> Iterator[Path]:
    """The files bootstrap needs, on a machine that has nothing of ours yet, where everyone may read them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name in ("bootstrap", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(ROOT / name, path)
        yield path


def bootstrap(clone: Path, *, prefix: str = "", **files: str) -> subprocess.CompletedProcess[str]:
    """Run it where other files stand in for some of the machine's (`__` in a name is a slash)."""
    script = ""
    for name, content in files.items():
        fake = clone / name
        fake.write_text(content)
        script += f"mount --bind {fake} /{name.replace('__', '/').replace('_', '-')}\n"
    script += f"exec {prefix} ./bootstrap\n"
    command = ["unshare", "--mount", "sh", "-euc", script]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=60)


def test_all_problems_are_told_at_once(clone: Path) -> None:
    before = sorted(path.name for path in clone.iterdir())
    done = bootstrap(clone, etc__os_release=UBUNTU, proc__meminfo=LITTLE_MEMORY)
    assert done.returncode == 1
    assert "this is ubuntu 20.04; Debian 12 and 13 are supported" in done.stderr
    assert "there are 1000 MB of memory" in done.stderr
    assert set(before) | {"etc__os_release", "proc__meminfo"} == {path.name for path in clone.iterdir()}


def test_without_rights_nothing_is_begun(clone: Path) -> None:
    nobody = "env PATH=/nowhere:/bin HOME=/nonexistent setpriv --reuid 65534 --regid 65534 --clear-groups"
    sudo_hidden = {"usr__bin__sudo": ""} if Path("/usr/bin/sudo").exists() else {}
    done = bootstrap(clone, prefix=nobody, **sudo_hidden)
    assert done.returncode == 1
    assert "neither root nor allowed to become root with sudo" in done.stderr
    assert not (clone / ".venv").exists()


def test_nothing_to_do_is_quick_and_silent() -> None:
    done = subprocess.run([ROOT / "bootstrap"], capture_output=True, text=True, check=False, timeout=5)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
