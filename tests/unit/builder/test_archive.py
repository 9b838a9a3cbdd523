"""The Docker archive: what Docker reads, and the same bytes for the same inputs."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from builder.archive import image_tag, write_archive

EPOCH = 1_700_000_000
CONFIG = {"user": "10000:10000", "cmd": ["python3"], "env": {"B": "2", "A": "1"}, "labels": {"caisson.image": "x"}}


def layer(size: int = 1000, *, tar_format: int = tarfile.PAX_FORMAT, mtime: int = EPOCH - 5) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        file = tarfile.TarInfo("./data")
        file.size, file.mtime, file.uname = size, mtime, "somebody"
        tar.addfile(file, io.BytesIO(b"x" * size))
        device = tarfile.TarInfo("./dev/null")
        device.type, device.devmajor, device.devminor, device.mtime = tarfile.CHRTYPE, 1, 3, mtime
        tar.addfile(device)
        link = tarfile.TarInfo("./" + "long/" * 30 + "link")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "/data", mtime
        tar.addfile(link)
    return buffer.getvalue()


def write(path: Path, content: bytes, **changes: object) -> str:
    arguments = {"name": "x", "config": CONFIG, "architecture": "amd64", "epoch": EPOCH, **changes}
    return write_archive(path, layer=io.BytesIO(content), **arguments)  # type: ignore[arg-type]


def test_archive_is_what_docker_reads(tmp_path: Path) -> None:
    content = layer()
    image_id = write(tmp_path / "a.tar", content)
    with tarfile.open(tmp_path / "a.tar") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        assert {member.mtime for member in archive} == {EPOCH}
    (manifest,) = json.loads(files["manifest.json"])
    config = files[manifest["Config"]]
    assert image_id == f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert manifest["RepoTags"] == [image_tag("x", image_id)]
    written = files[manifest["Layers"][0]]
    read = json.loads(config)
    assert read["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(written).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        data, device, link = tar.getmembers()
        assert tar.extractfile(data).read() == b"x" * 1000  # type: ignore[union-attr]
    assert (data.name, data.mtime, data.uname) == ("./data", EPOCH - 5, "")
    assert (device.type, device.devmajor, device.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert link.linkname == "/data"
    assert read["created"] == "2023-11-14T22:13:20Z"
    assert read["config"]["User"] == "10000:10000"
    assert read["config"]["Env"] == ["A=1", "B=2"]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 3_000_001])
def test_files_of_every_size_are_padded(tmp_path: Path, size: int) -> None:
    write(tmp_path / "a.tar", layer(size))
    with tarfile.open(tmp_path / "a.tar") as archive:
        with tarfile.open(fileobj=archive.extractfile("layer.tar")) as tar:
            assert tar.extractfile("./data").read() == b"x" * size  # type: ignore[union-attr]
        assert "manifest.json" in archive.getnames()


def test_how_a_tar_program_writes_does_not_matter(tmp_path: Path) -> None:
    gnu = write(tmp_path / "1.tar", layer(tar_format=tarfile.GNU_FORMAT))
    assert gnu == write(tmp_path / "2.tar", layer(tar_format=tarfile.PAX_FORMAT))


def test_no_file_is_younger_than_the_image(tmp_path: Path) -> None:
    assert write(tmp_path / "1.tar", layer(mtime=EPOCH + 99)) == write(tmp_path / "2.tar", layer(mtime=EPOCH))


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    reordered = dict(reversed(CONFIG.items()))
    assert write(first, layer()) == write(second, layer(), config=reordered)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "change", [{"config": {}}, {"architecture": "arm64"}, {"epoch": EPOCH + 1}], ids=["config", "architecture", "epoch"]
)
def test_other_inputs_give_another_image(tmp_path: Path, change: dict[str, object]) -> None:
    assert write(tmp_path / "a.tar", layer()) != write(tmp_path / "b.tar", layer(), **change)
