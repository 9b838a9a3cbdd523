"""What is written down of a host before it is changed, and how it is brought back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from plugins.module_utils import origin
from plugins.modules import removed_packages, restored_host


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "record"


def test_a_file_is_what_it_was_before_the_first_change(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"first \xff\n")
    file.chmod(0o640)
    origin.remember(file, folder)
    file.write_text("second", encoding="utf-8")
    origin.remember(file, folder)
    file.write_text("third", encoding="utf-8")
    file.chmod(0o600)
    before = origin.load(folder)["files"][str(file)]
    assert origin.bring_back(file, before) is True
    assert file.read_bytes() == b"first \xff\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert origin.bring_back(file, before) is False


def test_a_file_that_was_not_there_goes(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "file"
    origin.remember(file, folder)
    file.write_text("ours", encoding="utf-8")
    assert origin.bring_back(file, origin.load(folder)["files"][str(file)]) is True
    assert not file.exists()


def test_a_link_is_a_link_again(tmp_path: Path, folder: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere")
    origin.remember(link, folder)
    link.unlink()
    link.write_text("ours", encoding="utf-8")
    origin.bring_back(link, origin.load(folder)["files"][str(link)])
    assert str(link.readlink()) == "/nowhere"


def test_the_record_is_for_root_alone(tmp_path: Path, folder: Path) -> None:
    origin.remember(tmp_path / "file", folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / origin.FILE).stat().st_mode) == 0o600


def test_a_host_is_described_once(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0\n", encoding="utf-8")
    (tmp_path / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
    parameter = tmp_path / "proc/sys/net/ipv4/conf"
    parameter.mkdir(parents=True)
    (parameter / "forwarding").write_text("0\n", encoding="ascii")
    origin.begin(["bash"], tmp_path, folder)
    origin.begin(["bash", "docker.io"], tmp_path, folder)
    assert origin.load(folder) == {
        "packages": ["bash"],
        "users": ["root"],
        "groups": ["root"],
        "directories": ["/etc"],
        "kernel_parameters": {"net.ipv4.conf.forwarding": "0"},
    }


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "old/new/newer"
    new.mkdir(parents=True)
    restored_host.remove_empty(new, [str(tmp_path), str(old)])
    assert (old.is_dir(), (old / "new").exists()) == (True, False)


def test_units_end_before_the_slices_that_they_run_in() -> None:
    units = "/etc/systemd/system"
    files = {
        f"{units}/sandboxes.slice": None,
        f"{units}/protocol_server.service": None,
        f"{units}/ssh.service": {"text": "was there"},
        f"{units}/postgresql@.service.d/slice.conf": None,
        "/etc/docker/daemon.json": None,
    }
    assert restored_host.own_units(files) == ["protocol_server.service", "sandboxes.slice"]


def test_parameters_of_a_file() -> None:
    assert restored_host.parameters("# why\n-net.ipv4.tcp_rfc1337 = 1\n\nkernel.sysrq=0\n") == [
        "net.ipv4.tcp_rfc1337",
        "kernel.sysrq",
    ]


def test_what_apt_would_remove() -> None:
    said = "NOTE: nothing\nRemv tini [0.19]\nPurg libslirp0:amd64 [4.8]\nInst x\n"
    assert removed_packages.unneeded(said) == {"tini", "libslirp0"}
    assert removed_packages.known("installed a\nnot-installed b\nconfig-files c\n") == {
        "a": "installed",
        "c": "config-files",
    }
    fields = "adduser, docker-cli (>= 1) | podman, python3:any (<< 3.14)\nlibc6\n"
    assert removed_packages.dependencies(fields) == {"adduser", "docker-cli", "podman", "python3", "libc6"}
    assert removed_packages.removable({"postgresql-17", "caisson-runtime-r", "libpq5", "docker.io"}) == {"libpq5"}
    assert removed_packages.matches("caisson-runtime-r", ["caisson-*"])
