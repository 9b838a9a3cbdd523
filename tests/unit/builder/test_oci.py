"""The OCI archive of an image: blobs are what their names say, and the digest is known beforehand."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

from builder import oci

from .test_archive import layer, write


def blobs(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_every_blob_is_what_its_name_says(tmp_path: Path) -> None:
    image_id = write(tmp_path / "docker.tar", layer())
    oci.write_oci_archive(tmp_path / "docker.tar", tmp_path / "oci.tar", name="docker.io/caisson/x:1")
    files = blobs(tmp_path / "oci.tar")
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads(files.pop("index.json"))["manifests"]
    for name, content in files.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    assert described["digest"] == oci.digest(tmp_path / "docker.tar")
    assert described["annotations"] == {
        "io.containerd.image.name": "docker.io/caisson/x:1",
        "org.opencontainers.image.ref.name": "1",
    }
    manifest = json.loads(files[f"blobs/{described['digest'].replace(':', '/')}"])
    assert manifest["config"]["digest"] == image_id
    (only,) = manifest["layers"]
    for descriptor in (described, manifest["config"], only):
        assert len(files[f"blobs/{descriptor['digest'].replace(':', '/')}"]) == descriptor["size"]
    # the layer is the one that Docker has
    assert files[f"blobs/{only['digest'].replace(':', '/')}"] == blobs(tmp_path / "docker.tar")["layer.tar"]


def test_same_image_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.tar", layer())
        oci.write_oci_archive(tmp_path / f"{name}.tar", tmp_path / f"{name}.oci", name="docker.io/caisson/x:1")
    assert (tmp_path / "a.oci").read_bytes() == (tmp_path / "b.oci").read_bytes()
    write(tmp_path / "other.tar", layer(1001))
    assert oci.digest(tmp_path / "other.tar") != oci.digest(tmp_path / "a.tar")
