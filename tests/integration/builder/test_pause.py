"""The image pause: the same digest wherever it is compiled, and a program that does the little it is for."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import cache, description
from builder.images import BuiltImage, build_image
from builder.project import ROOT
from tests.support.segment_host import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def pause() -> BuiltImage:
    return build_image("pause", "13", say=print)


def test_compiled_anew_in_another_place_it_has_the_same_digest(
    pause: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "cache"
    # the toolchain is only fetched once, and nothing that it made is there
    (elsewhere / "caisson/go").mkdir(parents=True)
    for toolchain in cache.root().glob("go/toolchain-*"):
        (elsewhere / "caisson/go" / toolchain.name).symlink_to(toolchain)
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
    project = tmp_path / "project"
    shutil.copytree(ROOT / "images/pause", project / "images/pause")
    monkeypatch.setattr(description, "ROOT", project)
    again = build_image("pause", "13", say=print)
    assert again.changed
    assert again.archive.is_relative_to(elsewhere)
    assert (again.id, again.digest) == (pause.id, pause.digest)
    assert cache.file_digest(again.oci_archive()) == cache.file_digest(pause.oci_archive())


@pytest.fixture
def process(pause: BuiltImage, tmp_path: Path) -> Iterator[int]:
    """Return the process id of a pause that is the first process of its namespace."""
    if os.geteuid() != 0:
        pytest.skip("namespaces of processes are made by root only")
    program = tmp_path / "pause"
    with tarfile.open(pause.archive) as archive:
        layer = archive.extractfile("layer.tar")
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as files:
            program.write_bytes(files.extractfile("./usr/bin/pause").read())  # type: ignore[union-attr]
    program.chmod(0o755)
    with subprocess.Popen(["unshare", "--pid", "--fork", program]) as outside:
        (child,) = wait_until(lambda: children(outside.pid), 10, "pause has started")
        wait_until(lambda: Path(f"/proc/{child}/exe").readlink().name == "pause", 10, "it is pause")
        yield child
        if outside.poll() is None:
            os.kill(child, signal.SIGKILL)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_orphans_are_reaped_and_a_signal_ends_it(process: int) -> None:
    # a grandchild that lives until the pipe is closed, and whose parent is gone
    read, write = os.pipe()
    # what a shell starts beside itself has no standard input, and it takes no number of two digits for a file
    enter = ["nsenter", "--target", str(process), "--pid", "sh", "-c", "exec 3<&0; cat <&3 & exit 0"]
    subprocess.run(enter, check=True, stdin=read)
    (orphan,) = wait_until(lambda: children(process), 10, "the orphan is pause's child")
    os.close(read)
    os.close(write)
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), 10, "the orphan has ended and was reaped")
    os.kill(process, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{process}").exists(), 10, "pause has ended")


@pytest.fixture
def ctr(tmp_path: Path) -> Iterator[list[str]]:
    """Return the command ctr for a containerd of its own."""
    if os.geteuid() != 0 or not shutil.which("containerd"):
        pytest.skip("containerd is started as root, and comes with Docker")
    socket = tmp_path / "socket"
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
    )
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen(["containerd", "--config", tmp_path / "config.toml"], stderr=log) as daemon:
        command = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]

        def answers() -> bool:
            asked = subprocess.run([*command, "version"], check=False, capture_output=True)
            return socket.exists() and asked.returncode == 0

        wait_until(answers, 30, "containerd answers")
        yield command
        daemon.terminate()


def test_containerd_has_it_under_the_reference_that_was_told(pause: BuiltImage, ctr: list[str]) -> None:
    repository = pause.reference.partition("@")[0]
    archive = str(pause.oci_archive())
    subprocess.run(
        [*ctr, "images", "import", "--no-unpack", "--digests", "--base-name", repository, archive], check=True
    )
    names = subprocess.run([*ctr, "images", "list", "--quiet"], check=True, capture_output=True, text=True).stdout
    assert set(names.split()) == {pause.reference, f"docker.io/{pause.tag}"}
