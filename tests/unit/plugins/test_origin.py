"""What is written down of a host before it is changed, and how it is brought back."""

from __future__ import annotations

import re
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
    states = tmp_path / "var/lib/apt/extended_states"
    states.parent.mkdir(parents=True)
    states.write_text("Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: b\nAuto-Installed: 0\n", "ascii")
    origin.begin(["bash"], tmp_path, folder)
    origin.begin(["bash", "docker.io"], tmp_path, folder)
    assert origin.load(folder) == {
        "packages": ["bash"],
        "automatic": ["a"],
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
    assert restored_host.own_units(files, restored_host.SUFFIXES) == ["protocol_server.service", "sandboxes.slice"]


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


# There before: base, which needs one of two, and mail, which ours would like. Since then: ours, and a person's own.
LISTING = """installed\tbase\tlibbase | libours, \t\t
installed\tlibbase\t, \t\t
installed\tmail\t, libmail (>= 2)\tours\t
installed\tours\t, libours, python3:any\t\t
installed\tlibours\t, \t\tlibbase
installed\tpython3-yes\t, \t\tpython3
installed\teditor\t, libeditor\tspell\t
installed\tlibeditor\t, \t\t
installed\tspell\t, \t\t
config-files\tgone\t, libours\t\t
"""
BEFORE = {"base", "libbase", "mail"}


def test_what_has_to_stay_for_others() -> None:
    packages = removed_packages.installed(LISTING)
    assert "gone" not in packages
    # what was there before needs nothing that came since
    assert removed_packages.needed(BEFORE, packages, BEFORE) == BEFORE
    # what others have installed stays with all it needs and all it was installed with
    assert removed_packages.needed({"editor"}, packages, BEFORE) == {"editor", "libeditor", "spell"}
    # a name that another package provides
    assert removed_packages.needed({"ours"}, packages, BEFORE) == {"ours", "libours", "python3-yes"}


def test_a_newer_version_of_what_was_there_may_need_more() -> None:
    packages = removed_packages.installed("installed\tbase\t, libnew\t\t\ninstalled\tlibnew\t, \t\t\n")
    assert removed_packages.needed({"base"}, packages, {"base"}) == {"base", "libnew"}


def test_where_a_unit_mounts(tmp_path: Path) -> None:
    (tmp_path / "proc.mount").write_text("[Mount]\nWhere=/proc\n", encoding="utf-8")
    (tmp_path / "srv.mount").write_text(f"[Mount]\nWhere={tmp_path}\n", encoding="utf-8")
    assert restored_host.mounted_at("proc.mount", tmp_path) == Path("/proc")
    assert restored_host.mounted_at("srv.mount", tmp_path) is None
    assert restored_host.mounted_at("gone.mount", tmp_path) is None


def test_volumes_are_no_units_that_end_first() -> None:
    files = {"/etc/systemd/system/srv.mount": None, "/etc/systemd/system/srv-data.mount": None}
    assert restored_host.own_units(files, restored_host.SUFFIXES) == []
    assert restored_host.own_units(files, {".mount"}) == ["srv-data.mount", "srv.mount"]


def test_who_reads_a_file_is_told() -> None:
    files = ["/etc/docker/daemon.json", "/etc/systemd/journald.conf.d/a.conf", "/etc/systemd/journald.conf.d/b.conf"]
    assert restored_host.readers(files) == [
        ["systemctl", "try-restart", "systemd-journald.service"],
        ["systemctl", "try-restart", "docker.service"],
    ]
    assert restored_host.readers(["/etc/hosts"]) == []


def test_what_apt_never_removes_by_itself() -> None:
    said = ['APT::NeverAutoRemove "";', 'APT::NeverAutoRemove:: "^firmware-.*";', 'Dir "/";']
    said += ['APT::VersionedKernelPackages:: ".*-modules";']
    never = re.compile("|".join(removed_packages.protected("\n".join(said), "6.12.1")))
    names = ["firmware-x", "linux-image-6.1", "zfs-modules-6.12.1", "perl-modules-5.40", "adduser"]
    assert [name for name in names if never.search(name)] == names[:3]


def test_what_is_to_stay_stays_inside_of_what_goes(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    for name in ("pki/ca.key", "addons/dns.yaml", "kubelet.conf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("", encoding="utf-8")
    work = restored_host.Restoration([str(folder / "pki")], dry=False)
    work.remove_directories([str(folder)])
    assert [path.name for path in folder.rglob("*")] == ["pki", "ca.key"]
    assert work.done == [f"{folder}: removed"]
    again = restored_host.Restoration([str(folder / "pki")], dry=False)
    again.remove_directories([str(folder)])
    assert again.done == []
    restored_host.Restoration([], dry=False).remove_directories([str(folder)])
    assert not folder.exists()
