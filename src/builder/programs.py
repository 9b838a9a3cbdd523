"""Programs that this machine itself needs, such as pulumi: those on PATH, else our own."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.description import load_package, package_names, package_releases
from builder.errors import BuildError
from builder.images import Say
from builder.packages import build_package


def find_program(name: str, *, say: Say, own: bool = False) -> Path:
    """Return the program of that name on PATH; where there is none, or with `own`, that of a package of ours.

    Raises BuildError when no package has it.
    """
    if not own and (found := shutil.which(name)):
        return Path(found)
    for package in package_names():
        release = package_releases(package)[-1]
        if any(name in one.programs for one in load_package(package, release).go):
            (program,) = build_package(package, release, say=say).unpacked().glob(f"usr/*/{name}")
            return program
    raise BuildError(f"there is no {name} on PATH, and none of our packages has it")
