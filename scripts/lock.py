"""Renew the locks of Python packages: the control node's from pyproject.toml, an image's from its requirements.in.

The builder's go.in, which pins the Go toolchain, has one too.
Locks have hashes and no addresses. The index is the one that pip is configured for on this machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = "3.11"
"""Of the control node; pyproject.toml's requires-python."""


def pip_index() -> list[str]:
    """Return uv's options for the index that pip uses; none when pip has no configuration."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    return ["--default-index", found.stdout.strip()] if found.returncode == 0 else []


def lock(source: Path, target: Path, python: str, *options: str) -> None:
    """Resolve `source` for a Python version and every later one, and write the result with hashes."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal", "--upgrade"]
    command += ["--python-version", python, "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    subprocess.run([*command, *pip_index(), *options, str(source), "--output-file", str(target)], check=True, cwd=ROOT)
    print(target.relative_to(ROOT))


def main() -> None:
    """Renew all locks."""
    project, control = ROOT / "pyproject.toml", ROOT / "requirements.lock"
    lock(project, control, OLDEST_PYTHON)
    lock(project, ROOT / "requirements-dev.lock", OLDEST_PYTHON, "--extra", "dev", "--constraints", str(control))
    go = ROOT / "src" / "builder" / "go.in"
    lock(go, go.with_suffix(".lock"), OLDEST_PYTHON)
    pythons = yaml.safe_load((ROOT / "settings" / "versions.yml").read_text(encoding="utf-8"))["builder_debian_pythons"]
    for source in sorted(ROOT.glob("images/*/requirements.in")):
        image = yaml.safe_load(source.with_name("image.yml").read_text(encoding="utf-8"))
        # environment markers are not evaluated for another Python than the builder's own: one version, no markers
        oldest = min(image["releases"], key=int)
        lock(source, source.with_suffix(".lock"), pythons[oldest])


if __name__ == "__main__":
    main()
