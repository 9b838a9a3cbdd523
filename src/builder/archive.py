"""Writes an image as a Docker archive, byte for byte the same for the same root file system and configuration."""

from __future__ import annotations

import hashlib
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

_CONFIG_KEYS = {
    "user": "User",
    "working_dir": "WorkingDir",
    "stop_signal": "StopSignal",
    "entrypoint": "Entrypoint",
    "cmd": "Cmd",
    "labels": "Labels",
}


def write_archive(
    path: Path, *, name: str, layer: IO[bytes], config: dict[str, Any], architecture: str, epoch: int
) -> str:
    """Write the files of `layer`, an uncompressed tar stream, as the only layer of a Docker archive.

    `config` has the keys of image.yml's `config`; `epoch` is in seconds since 1970. The layer is read once and never
    held in memory. The image's tag is image_tag's. Returns the image id, `sha256:` and 64 hex digits: the digest of the
    configuration.
    """
    with path.open("wb") as archive:
        archive.write(bytes(tarfile.BLOCKSIZE))
        diff_id, size = _copy_layer(layer, archive, epoch)
        image = _canonical(_image_config(config, architecture, diff_id, epoch))
        digest = hashlib.sha256(image).hexdigest()
        image_id = f"sha256:{digest}"
        manifest = [{"Config": f"{digest}.json", "Layers": ["layer.tar"], "RepoTags": [image_tag(name, image_id)]}]
        for member, content in ((f"{digest}.json", image), ("manifest.json", _canonical(manifest))):
            archive.write(_header(member, len(content), epoch) + content + _padding(len(content)))
        archive.write(bytes(2 * tarfile.BLOCKSIZE))
        archive.seek(0)
        archive.write(_header("layer.tar", size, epoch))
    return image_id


def image_tag(name: str, image_id: str) -> str:
    """Return the name under which an image is loaded: one tag, one content."""
    return f"caisson/{name}:{image_id.removeprefix('sha256:')[:12]}"


class _Digesting:
    """A file that is only written to; knows the digest and size of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._state = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._state.update(data)
        self.size += len(data)
        return self._file.write(data)

    def digest(self) -> str:
        return f"sha256:{self._state.hexdigest()}"


def _copy_layer(layer: IO[bytes], archive: IO[bytes], epoch: int) -> tuple[str, int]:
    """Write the members of a tar stream anew: how a tar program encodes them depends on its version."""
    target = _Digesting(archive)
    with (
        tarfile.open(fileobj=layer, mode="r|") as source,
        tarfile.open(fileobj=cast("IO[bytes]", target), mode="w|", format=tarfile.PAX_FORMAT) as copy,
    ):
        for member in source:
            member.mtime = min(int(member.mtime), epoch)
            member.uname = member.gname = ""
            member.pax_headers = {
                key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")
            }
            copy.addfile(member, source.extractfile(member) if member.isreg() else None)
    archive.write(_padding(target.size))
    return target.digest(), target.size


def _image_config(config: dict[str, Any], architecture: str, diff_id: str, epoch: int) -> dict[str, Any]:
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    container: dict[str, Any] = {_CONFIG_KEYS[key]: value for key, value in config.items() if key in _CONFIG_KEYS}
    container["Env"] = [f"{name}={value}" for name, value in sorted(config.get("env", {}).items())]
    return {
        "architecture": architecture,
        "config": container,
        "created": created,
        "history": [{"created": created, "created_by": "builder"}],
        "os": "linux",
        "rootfs": {"diff_ids": [diff_id], "type": "layers"},
    }


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _header(name: str, size: int, epoch: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, epoch
    return info.tobuf(format=tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
