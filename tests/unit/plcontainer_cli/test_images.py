"""Images of a host without Docker, and what is refused as one."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from protocol_server.images import ImageError, ImageStore

from .conftest import Machine, archive_of, tar_of


def layer_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


def add(tmp_path: Path, *layers: bytes) -> Path:
    """The root of an image with these layers."""
    (tmp_path / "a.tar").write_bytes(archive_of(list(layers), "a:1"))
    image, new = ImageStore(tmp_path / "images").add(tmp_path / "a.tar")
    assert new
    return image.root


def refused(tmp_path: Path, archive: bytes) -> str:
    (tmp_path / "a.tar").write_bytes(archive)
    with pytest.raises(ImageError) as caught:
        ImageStore(tmp_path / "images").add(tmp_path / "a.tar")
    assert list((tmp_path / "images").iterdir()) == [], "nothing is left behind"
    return str(caught.value)


def test_layers_lie_over_each_other(tmp_path: Path) -> None:
    first = layer_of(
        (entry("a/kept"), b"1"), (entry("a/gone"), b"2"), (entry("b/x"), b"3"), (entry("c"), b"4"),
        (entry("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
    )  # fmt: skip
    second = layer_of(
        (entry("a/.wh.gone"), b""), (entry("b/.wh..wh..opq"), b""), (entry("b/y"), b"5"), (entry("c/d"), b"6"),
        (entry("hard", tarfile.LNKTYPE, "a/kept"), b""), (entry("link"), b"a file now"),
    )  # fmt: skip
    with pytest.raises(ImageError, match="passes through c"):
        add(tmp_path, first, second)
    second = layer_of(
        (entry("a/.wh.gone"), b""), (entry("b/.wh..wh..opq"), b""), (entry("b/y"), b"5"),
        (entry("c", tarfile.DIRTYPE), b""), (entry("c/d"), b"6"),
        (entry("hard", tarfile.LNKTYPE, "a/kept"), b""), (entry("link"), b"a file now"),
    )  # fmt: skip
    root = add(tmp_path, first, second)
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == {"a/kept": b"1", "b/y": b"5", "c/d": b"6", "hard": b"1", "link": b"a file now"}


def test_no_set_user_id_and_no_devices(tmp_path: Path) -> None:
    device = entry("dev/null", tarfile.CHRTYPE)
    root = add(
        tmp_path,
        layer_of((entry("su", mode=0o6755), b""), (device, b""), (entry("d", tarfile.DIRTYPE, mode=0o1777), b"")),
    )
    assert (root / "su").stat().st_mode & 0o7777 == 0o755
    assert (root / "d").stat().st_mode & 0o7777 == 0o777
    assert not (root / "dev/null").exists()


def test_others_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        root = add(tmp_path, layer_of((entry("a/b", mode=0o644), b"x")))
    finally:
        os.umask(before)
    for path in (tmp_path / "images", root.parent, root.parent / "image.json", root, root / "a", root / "a/b"):
        assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.mark.parametrize("name", ["../out", "a/../../out", "x/../y"])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    assert "leaves the image" in refused(tmp_path, archive_of([layer_of((entry(name), b"x"))], "a:1"))


def test_absolute_names_are_inside(tmp_path: Path) -> None:
    assert (add(tmp_path, layer_of((entry("/etc/x"), b"x"))) / "etc/x").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["/etc", "../../../etc", "."])
def test_nothing_is_written_through_a_link(tmp_path: Path, target: str) -> None:
    layer = layer_of((entry("l", tarfile.SYMTYPE, target), b""), (entry("l/x"), b"x"))
    assert "passes through l" in refused(tmp_path, archive_of([layer], "a:1"))


def test_hard_links_lead_nowhere_else(tmp_path: Path) -> None:
    layer = layer_of((entry("l", tarfile.SYMTYPE, "/etc"), b""), (entry("h", tarfile.LNKTYPE, "l/passwd"), b""))
    assert "passes through l" in refused(tmp_path, archive_of([layer], "a:1"))


def test_damaged_layer(tmp_path: Path) -> None:
    archive = archive_of([tar_of({"a": b"1"})], "a:1", [f"sha256:{'0' * 64}"])
    assert "is damaged" in refused(tmp_path, archive)


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (b"no archive", "file could not be opened"),
        (tar_of({"x": b""}), "has no manifest.json"),
        (tar_of({"manifest.json": b"{"}), "manifest.json is not JSON"),
        (tar_of({"manifest.json": b"[]"}), "must hold one image"),
        (tar_of({"manifest.json": b'[{"Config": "c", "Layers": []}]'}), "has no c"),
    ],
)
def test_no_image(tmp_path: Path, archive: bytes, said: str) -> None:
    assert said in refused(tmp_path, archive)


def test_compressed_archive_and_layer(tmp_path: Path) -> None:
    layer = tar_of({"a": b"1"})
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(archive_of([gzip.compress(layer)], "a:1", [digest])))
    image, _ = ImageStore(tmp_path / "images").add(tmp_path / "a.tar.gz")
    assert (image.root / "a").read_bytes() == b"1"
    assert image.environment == ("A=1",)


def test_add_list_delete(machine: Machine) -> None:
    assert machine.json("image-add", "-f", str(machine.archive)) == {
        "id": machine.image,
        "name": "tiny:1",
        "new": False,
    }
    listed = machine.json("image-list")
    assert [(image["id"], image["names"], image["runtimes"]) for image in listed] == [
        (machine.image, ["tiny:1"], ["site"])
    ]
    assert "is used by site" in machine.run("image-delete", "-i", "tiny:1", status=1).output
    machine.run("runtime-delete", "-r", "site")
    machine.run("image-delete", "-i", machine.image[:19])
    assert "no images" in machine.run("image-list").output
    assert "is not on this host" in machine.run("image-delete", "-i", "tiny:1", status=1).output
    assert " added" in machine.run("image-add", "-f", str(machine.archive)).output


def test_from_the_web(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(machine.root))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    digest = hashlib.sha256(machine.archive.read_bytes()).hexdigest()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/tiny.tar"
        try:
            assert "is here already" in machine.run("image-add", "-u", url, "--digest", digest).output
            assert (
                "is not what was asked for"
                in machine.run("image-add", "-u", url, "--digest", "0" * 64, status=1).output
            )
            assert "cannot be fetched" in machine.run("image-add", "-u", f"{url}x", "--digest", digest, status=1).output
        finally:
            server.shutdown()
            thread.join()
    assert "needs --digest" in machine.run("image-add", "-u", url, status=2).output
    assert "neither https" in machine.run("image-add", "-u", "file:///etc/passwd", "--digest", digest, status=1).output
    assert "either -f or -u" in machine.run("image-add", status=2).output


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(machine: Machine) -> None:
    (machine.root / "server.yml").chmod(0)
    assert "Permission denied" in machine.run("runtime-show", status=1).output
