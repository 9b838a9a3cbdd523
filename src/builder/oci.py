"""Docker archives as OCI archives: what containerd imports, and registries keep under the same digest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(archive: Path) -> str:
    """Return the digest of the manifest of a Docker archive's image: that in `name@sha256:...`."""
    with tarfile.open(archive) as source:
        return _digest(_parts(source)[0])


def write_oci_archive(archive: Path, target: Path, *, name: str) -> None:
    """Write the image of a Docker archive as an OCI archive; imported, it is called `name`, which has a tag.

    The Docker archive is one of archive.write_archive, with one layer. The same image gives the same bytes.
    """
    with tarfile.open(archive) as source:
        manifest, config, layer = _parts(source)
        named = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        index = {
            "schemaVersion": 2,
            "manifests": [{**_descriptor(_MANIFEST, manifest), "annotations": named}],
        }
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as copy:
            for path, content in (
                ("oci-layout", _canonical({"imageLayoutVersion": "1.0.0"})),
                ("index.json", _canonical(index)),
                (_blob(_digest(manifest)), manifest),
                (_blob(_digest(config)), config),
            ):
                copy.addfile(_member(path, len(content), layer.mtime), io.BytesIO(content))
            copy.addfile(_member(_blob(_diff_id(config)), layer.size, layer.mtime), source.extractfile(layer))


def _parts(archive: tarfile.TarFile) -> tuple[bytes, bytes, tarfile.TarInfo]:
    """Return the manifest that OCI wants, the configuration, and the layer's place."""
    (described,) = json.loads(_content(archive, "manifest.json"))
    config = _content(archive, described["Config"])
    (name,) = described["Layers"]
    layer = archive.getmember(name)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [{"mediaType": _LAYER, "digest": _diff_id(config), "size": layer.size}],
    }
    return _canonical(manifest), config, layer


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _diff_id(config: bytes) -> str:
    """Return the digest of the only layer, which is not compressed."""
    (diff_id,) = json.loads(config)["rootfs"]["diff_ids"]
    return str(diff_id)


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(content_digest: str) -> str:
    return f"blobs/{content_digest.replace(':', '/')}"


def _member(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, int(mtime)
    return info


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
