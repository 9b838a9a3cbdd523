"""This machine's Docker, through its command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder.errors import BuildError

REGISTRY = "docker.io"
"""What Docker and containerd put before a name that has no registry in it."""


def ensure_loaded(image_id: str, tag: str, archive: Path) -> bool:
    """Load an image unless Docker has it under its tag already; returns whether it was loaded."""
    found = docker("image", "inspect", "--format", "{{.Id}}", tag, check=False)
    if found.returncode == 0 and found.stdout.strip() == image_id:
        return False
    docker("load", "--quiet", "--input", str(archive))
    return True


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a docker command; raises BuildError with what it printed when `check` is set and it fails."""
    result = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    if check and result.returncode != 0:
        raise BuildError(f"docker {arguments[0]} failed:\n{result.stdout}{result.stderr}".rstrip())
    return result
