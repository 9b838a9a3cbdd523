"""The module host_state: what it compares, and what it takes for a difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugins.modules import host_state


def run(**options: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, host_state.__file__],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": options}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that prints the file that is returned."""
    answer = tmp_path / "answer"
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat {answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return answer


def unit(name: str, **properties: str) -> str:
    usual = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    return "\n".join(f"{key}={value}" for key, value in ({"Id": name} | usual | properties).items()) + "\n"


def test_a_host_that_is_as_wanted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("ä\n", encoding="utf-8")
    file.chmod(0o640)
    answer = run(
        directories=[{"path": str(tmp_path), "owner": str(os.getuid())}],
        files=[{"path": str(file), "text": "ä\n", "mode": "0640"}],
        absent=[str(tmp_path / "other")],
        kernel_parameters={"kernel.ostype": "Linux"},
    )
    assert answer["changed"] is False
    assert answer["differences"] == []


def test_every_kind_of_difference_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    answer = run(
        packages=["no-such-package"],
        users=[{"name": "no-such-user"}, {"name": "root", "groups": ["root", "no-such-group"]}],
        directories=[{"path": str(file)}],
        files=[
            {"path": str(file), "text": "new", "owner": "12345", "group": "no-such-group", "mode": "0644"},
            {"path": str(tmp_path / "other")},
        ],
        absent=[str(link)],
        kernel_parameters={"kernel.ostype": "Other", "kernel.no_such": 1},
    )
    assert answer["differences"] == [
        "no-such-package: not installed",
        "no-such-user: no user",
        "root: not in the group no-such-group",
        f"{file}: no directory",
        f"{file}: other contents",
        f"{file}: owner is not 12345",
        f"{file}: group is not no-such-group",
        f"{file}: mode is 0600, not 0644",
        f"{tmp_path / 'other'}: no file",
        f"{link}: is there",
        "kernel.ostype: Linux, not Other",
        "kernel.no_such: not there",
    ]
    assert answer["missing_packages"] == ["no-such-package"]
    assert file.read_text() == "old"


def test_what_lies_in_a_directory_and_was_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "wanted").touch()
    (tmp_path / "other").touch()
    answer = run(directories=[{"path": str(tmp_path), "only": ["wanted", "missing"]}, {"path": "/", "mode": "0755"}])
    assert answer["unexpected"] == [str(tmp_path / "other")]
    assert answer["differences"] == [f"{tmp_path / 'other'}: not asked for"]
    assert run(directories=[{"path": str(tmp_path / "none"), "only": []}])["unexpected"] == []


def test_units(systemctl: Path) -> None:
    systemctl.write_text(
        unit("a.service") + "\n" + unit("b.service", ActiveState="failed", UnitFileState="", NeedDaemonReload="yes")
    )
    wanted = [{"name": name, "active": True, "enabled": True} for name in ("a.service", "b.service")]
    assert run(units=wanted)["differences"] == [
        "b.service: failed",
        "b.service: not there, not enabled",
        "b.service: systemd has not read its unit again",
    ]


def test_a_unit_that_is_to_be_stopped(systemctl: Path) -> None:
    systemctl.write_text(unit("a.service"))
    assert run(units=[{"name": "a.service", "active": False, "enabled": False}])["differences"] == [
        "a.service: active",
        "a.service: enabled, not disabled",
    ]


@pytest.mark.parametrize(
    ("key", "stamp"),
    [("reads", "StateChangeTimestampMonotonic"), ("starts_with", "ActiveEnterTimestampMonotonic")],
)
def test_a_file_that_is_newer_than_the_process(systemctl: Path, tmp_path: Path, key: str, stamp: str) -> None:
    file = tmp_path / "configuration"
    file.write_text("x")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    wanted = [{"name": "a.service", key: [str(file), str(tmp_path / "not-there")]}]
    systemctl.write_text(unit("a.service", **{stamp: str(int((uptime + 60) * 1e6))}))
    assert run(units=wanted)["stale"] == []
    systemctl.write_text(unit("a.service", **{stamp: str(int((uptime - 60) * 1e6))}))
    answer = run(units=wanted)
    assert answer["stale"] == ["a.service"]
    assert answer["differences"] == [f"a.service: has not read {file} since it changed"]


@pytest.mark.parametrize("stamp", ["UnitsLoadFinishTimestampMonotonic", "UnitsLoadTimestampMonotonic"])
def test_what_systemd_itself_has_not_read(systemctl: Path, tmp_path: Path, stamp: str) -> None:
    file = tmp_path / "configuration"
    file.write_text("x")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    wanted = [{"name": "systemd", "reads": [str(file)]}]
    systemctl.write_text(f"{stamp}={int((uptime + 60) * 1e6)}\n")
    assert run(units=wanted)["differences"] == []
    systemctl.write_text(f"{stamp}={int((uptime - 60) * 1e6)}\n")
    assert run(units=wanted)["stale"] == ["systemd"]


def test_no_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(units=[{"name": "a.service", "active": True}])["differences"] == ["a.service: unknown"]


@pytest.mark.parametrize("entry", [{"path": "/x", "txt": "x"}, {"text": "x"}])
def test_a_key_that_means_nothing_is_refused(entry: dict[str, str]) -> None:
    assert "has other keys than" in run(files=[entry])["msg"]


def test_a_kernel_parameter_that_is_unknown_may_be_a_warning() -> None:
    answer = run(kernel_parameters={"kernel.no_such": 1}, unknown_kernel_parameters="warning")
    assert answer["differences"] == []
    assert "this kernel has no parameter kernel.no_such" in json.dumps(answer["warnings"])


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nft that lists the contents of the file `loaded`, and in a network namespace of its own what it was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "nft": 'if [ "$1" = --file ]; then exec cp "$2" "$FILTERS/new"; fi; exec cat "$FILTERS/${NAMESPACE:-loaded}"',
        "unshare": 'shift; NAMESPACE=new exec "$@"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FILTERS", str(tmp_path))
    return tmp_path


def test_packet_filters(nft: Path) -> None:
    (nft / "file").write_text("table inet a {}")
    wanted = [{"family": "inet", "table": "a", "file": str(nft / "file")}]
    assert run(packet_filters=wanted)["differences"] == ["a: not loaded"]
    (nft / "loaded").write_text("table inet a { chain }")
    assert run(packet_filters=wanted)["differences"] == [f"a: not loaded as {nft}/file has it"]
    (nft / "loaded").write_text("table inet a {}")
    assert run(packet_filters=wanted)["differences"] == []


def test_no_nftables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = [{"family": "inet", "table": "a", "file": "/file"}]
    assert run(packet_filters=wanted)["differences"] == ["a: there is no nftables"]


def test_a_certificate_that_ends_too_soon_is_told(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=test", "-days", "30"]
    subprocess.run([*make, "-keyout", "/dev/null", "-out", str(certificate)], check=True, capture_output=True)
    missing = {"path": str(tmp_path / "missing.pem"), "days": 1}
    assert run(certificates=[{"path": str(certificate), "days": 29}, missing])["differences"] == []
    answer = run(certificates=[{"path": str(certificate), "days": 31}])
    assert answer["ending"] == [str(certificate)]
    assert answer["differences"] == [f"{certificate}: ends soon"]
    certificate.write_text("no certificate")
    assert run(certificates=[{"path": str(certificate), "days": 1}])["ending"] == [str(certificate)]
