"""Python packages for images: fetched by pip with hashes, unpacked without running anything of theirs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from builder.errors import BuildError

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def download(requirements: Path, target: Path, *, python: str, glibc: int, architecture: str) -> list[Path]:
    """Fetch the wheels a lock names, for another Python ("3.13") with glibc 2.`glibc`; returns their paths."""
    target.mkdir(parents=True, exist_ok=True)
    machine = _MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)] + [f"manylinux2014_{machine}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(target), "-r", str(requirements)]
    for platform in platforms:
        command += ["--platform", platform]
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"pip could not fetch what {requirements} names:\n{result.stdout.strip()}")
    return sorted(target.glob("*.whl"))


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel into a directory of importable packages; its scripts are left out."""
    site.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            top = member.filename.split("/", 1)[0]
            if top.endswith(".data"):
                raise BuildError(f"{wheel.name} wants to install files outside its package ({member.filename})")
            path = Path(archive.extract(member, site))
            if not member.is_dir():
                path.chmod(0o755 if member.external_attr >> 16 & 0o111 else 0o644)
