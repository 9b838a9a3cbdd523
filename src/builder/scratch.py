"""The root file system of an image without Debian: the files that are laid over it, and nothing else."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from builder import project
from builder.description import Image
from builder.errors import BuildError


@contextmanager
def packed_files(image: Image) -> Iterator[IO[bytes]]:
    """Give the files of the image's overlays as a tar stream: root's, readable by all, in the order of their names.

    Raises BuildError when the image also asks for what only Debian can give.
    """
    asked = [name for name in ("packages", "extract", "prefetch", "requirements", "steps") if getattr(image, name)]
    if asked:
        raise BuildError(f"image {image.name} is made from scratch and cannot have {', '.join(asked)}")
    # whatever comes later wins
    files = {path.relative_to(folder).as_posix(): path for folder in image.overlays for path in folder.rglob("*")}
    with tempfile.TemporaryFile(dir=project.LARGE_TEMPORARY) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(files):
                _add(tar, files[name], f"./{name}")
        packed.seek(0)
        yield packed


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    info = tar.gettarinfo(path, name)
    info.uid = info.gid = info.mtime = 0
    if info.issym():
        tar.addfile(info)
    elif info.isdir():
        info.mode = 0o755
        tar.addfile(info)
    else:
        # two names of one file are two files
        info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
        info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
        with path.open("rb") as file:
            tar.addfile(info, file)
