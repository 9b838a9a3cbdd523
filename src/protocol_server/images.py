"""The images of the backend `process`: unpacked directories, named by the id that Docker gives the same image.

An image's id is the SHA-256 of its configuration, which has the SHA-256 of each layer: both are checked while an
archive is read, so a directory holds what its name says. Whatever an archive says, files are written beneath the
directory only, belong to whoever unpacks them, and have no set-user-id bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

_ID: Final = re.compile(r"sha256:([0-9a-f]{64})")
_DESCRIPTION: Final = "image.json"
_ROOT: Final = "root"
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_MAX_JSON_BYTES: Final = 4 * 1024 * 1024
#: What a sandbox gets from elsewhere; a layer's device files and the like would be of no use.
_SKIPPED: Final = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


class ImageError(Exception):
    """An archive is no image that can be used, or the store cannot be written; the message says why."""


@dataclass(frozen=True)
class StoredImage:
    """An unpacked image."""

    id: str
    name: str
    environment: tuple[str, ...]
    size: int
    root: Path


class ImageStore:
    """The unpacked images of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, image: str) -> StoredImage | None:
        """The image with this id, or None. Raises ImageError when it is there but not readable."""
        match = _ID.fullmatch(image)
        if match is None:
            return None
        folder = self.directory / match[1]
        try:
            facts = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            return StoredImage(
                facts["id"], facts["name"], tuple(facts["environment"]), int(facts["size"]), folder / _ROOT
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageError(f"{folder / _DESCRIPTION} cannot be read: {error}") from error

    def list(self) -> list[StoredImage]:
        """All images, by name."""
        if not self.directory.is_dir():
            return []
        found = (self.get(f"sha256:{folder.name}") for folder in self.directory.iterdir())
        return sorted((image for image in found if image is not None), key=lambda image: (image.name, image.id))

    def add(self, archive: Path) -> tuple[StoredImage, bool]:
        """Unpack a Docker archive (`docker save`, compressed or not); the image, and whether it is new here.

        Raises ImageError, and leaves the store as it was.
        """
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True)
                # Whatever the caller's umask is: sandboxes are another user's.
                self.directory.chmod(0o755)
            with tarfile.open(archive) as tar:
                return self._add(tar)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise ImageError(f"{archive}: {error}") from error

    def _add(self, tar: tarfile.TarFile) -> tuple[StoredImage, bool]:
        manifest = _manifest(tar)
        config_text = _small(tar, manifest["Config"])
        digest = hashlib.sha256(config_text).hexdigest()
        existing = self.get(f"sha256:{digest}")
        if existing is not None:
            return existing, False
        config = _parse(config_text, "the image's configuration")
        name = next(iter(manifest.get("RepoTags") or ()), f"image-{digest[:12]}")
        with tempfile.TemporaryDirectory(prefix=".new-", dir=self.directory) as made:
            folder = Path(made) / digest
            root = folder / _ROOT
            root.mkdir(parents=True)
            _unpack_layers(tar, manifest, config, root)
            facts = {
                "id": f"sha256:{digest}",
                "name": name,
                "environment": _environment(config),
                "size": _size(root),
            }
            (folder / _DESCRIPTION).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            for path in (folder, root, folder / _DESCRIPTION):
                path.chmod(0o644 if path.is_file() else 0o755)
            folder.rename(self.directory / digest)
        added = self.get(f"sha256:{digest}")
        assert added is not None
        return added, True

    def delete(self, image: str) -> bool:
        """Remove an image; False when it is not there. Raises ImageError."""
        match = _ID.fullmatch(image)
        if match is None or not (self.directory / match[1]).is_dir():
            return False
        try:
            with tempfile.TemporaryDirectory(prefix=".old-", dir=self.directory) as trash:
                # First out of sight, so that a half-removed image is none.
                (self.directory / match[1]).rename(Path(trash) / match[1])
        except OSError as error:
            raise ImageError(f"image {image} cannot be removed: {error}") from error
        return True


def archive_id(archive: Path) -> tuple[str, str]:
    """Id and name of the image in a Docker archive, without reading its layers. Raises ImageError."""
    try:
        with tarfile.open(archive) as tar:
            manifest = _manifest(tar)
            digest = hashlib.sha256(_small(tar, manifest["Config"])).hexdigest()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ImageError(f"{archive}: {error}") from error
    return f"sha256:{digest}", next(iter(manifest.get("RepoTags") or ()), f"image-{digest[:12]}")


def _small(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        member = tar.getmember(name)
    except KeyError:
        raise ImageError(f"the archive has no {name}: is it one of `docker save`?") from None
    stream = tar.extractfile(member)
    if stream is None or member.size > _MAX_JSON_BYTES:
        raise ImageError(f"{name} in the archive is not a small file")
    return stream.read()


def _parse(text: bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ImageError(f"{what} is not JSON: {error}") from error


def _manifest(tar: tarfile.TarFile) -> dict[str, Any]:
    found = _parse(_small(tar, "manifest.json"), "manifest.json")
    if not (isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict)):
        raise ImageError("the archive must hold one image")
    manifest: dict[str, Any] = found[0]
    layers = manifest.get("Layers")
    if not isinstance(manifest.get("Config"), str) or not isinstance(layers, list):
        raise ImageError("manifest.json names no configuration and no layers")
    return manifest


def _environment(config: Mapping[str, Any]) -> list[str]:
    variables = (config.get("config") or {}).get("Env") or []
    return [item for item in variables if isinstance(item, str) and "=" in item and "\0" not in item]


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


class _Hashed:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _unpack_layers(tar: tarfile.TarFile, manifest: Mapping[str, Any], config: Mapping[str, Any], root: Path) -> None:
    layers, expected = manifest["Layers"], (config.get("rootfs") or {}).get("diff_ids") or []
    if len(layers) != len(expected):
        raise ImageError(f"the archive has {len(layers)} layers, the image's configuration {len(expected)}")
    for name, diff_id in zip(layers, expected, strict=True):
        try:
            stream = tar.extractfile(name)
        except KeyError:
            stream = None
        if stream is None:
            raise ImageError(f"the archive has no layer {name}")
        with tarfile.open(fileobj=stream) as probe:
            plain = probe.fileobj
            assert plain is not None
            plain.seek(0)
            # What tarfile opened is the layer without its compression, which is what the digest is of.
            hashed = _Hashed(plain)  # type: ignore[arg-type]
            with tarfile.open(fileobj=hashed, mode="r|") as layer:  # type: ignore[call-overload]
                _Unpacker(root).unpack(layer)
            while hashed.read(1 << 20):
                pass
        if f"sha256:{hashed.digest.hexdigest()}" != diff_id:
            raise ImageError(f"layer {name} is damaged: it is not {diff_id}")


class _Unpacker:
    """Writes one layer over those beneath it, never through a symbolic link."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._makers: dict[bytes, Callable[[tarfile.TarFile, tarfile.TarInfo, Path], None]] = {
            tarfile.REGTYPE: self._file,
            tarfile.AREGTYPE: self._file,
            tarfile.CONTTYPE: self._file,
            tarfile.DIRTYPE: self._directory,
            tarfile.SYMTYPE: self._symlink,
            tarfile.LNKTYPE: self._hard_link,
        }

    def unpack(self, layer: tarfile.TarFile) -> None:
        for member in layer:
            path = self._place(member.name)
            if path == self._root or member.type in _SKIPPED:
                continue
            if path.name.startswith(_WHITEOUT):
                self._white_out(path)
                continue
            maker = self._makers.get(member.type)
            if maker is None:
                raise ImageError(f"{member.name} is of a kind that an image cannot have")
            if maker != self._directory:
                _remove(path)
            maker(layer, member, path)

    def _place(self, name: str) -> Path:
        """Where a member belongs; directories above it are made. Raises ImageError for a place outside of the root."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
        if ".." in parts:
            raise ImageError(f"{name!r} leaves the image's directory")
        path = self._root
        for part in parts[:-1]:
            path /= part
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                path.mkdir()
                path.chmod(0o755)
                continue
            if not stat.S_ISDIR(mode):
                raise ImageError(f"{name!r} passes through {path.relative_to(self._root)}, which is no directory")
        return path / parts[-1] if parts else path

    def _file(self, layer: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = layer.extractfile(member)
        assert source is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            os.fchmod(target.fileno(), member.mode & 0o777)

    def _directory(self, _layer: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        if path.is_symlink() or not path.is_dir():
            _remove(path)
            path.mkdir()
        # Whoever unpacks must be able to write into it.
        path.chmod(member.mode & 0o777 | 0o700)

    def _symlink(self, _layer: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        path.symlink_to(member.linkname)

    def _hard_link(self, _layer: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        target = self._place(member.linkname)
        if target.is_dir() and not target.is_symlink():
            raise ImageError(f"{member.name} links to a directory")
        os.link(target, path, follow_symlinks=False)

    def _white_out(self, path: Path) -> None:
        if path.name == _OPAQUE:
            for child in path.parent.iterdir():
                _remove(child)
        else:
            _remove(path.parent / path.name.removeprefix(_WHITEOUT))


def _remove(path: Path) -> None:
    """Remove whatever is at `path`, itself and not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
