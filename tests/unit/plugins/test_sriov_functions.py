"""The module sriov_functions, over trees that look like /sys and /proc."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from plugins.modules import sriov_functions

PHYSICAL = "0000:01:00.0"


class Host:
    """A host's /sys and /proc, as far as the module looks at them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/class/net/lo").mkdir(parents=True)
        (root / "proc").mkdir()
        self.symbols("pci_enable_sriov")

    def symbols(self, *names: str) -> None:
        (self.root / "proc/kallsyms").write_text("".join(f"0000000000000000 T {name}\n" for name in ("other", *names)))

    def nic(self, name: str, address: str, driver: str, **attributes: int) -> Path:
        device = self.root / "sys/devices" / address
        (device / "net" / name).mkdir(parents=True)
        for attribute, value in attributes.items():
            (device / attribute).write_text(f"{value}\n")
        bound = self.root / "sys/bus/pci/drivers" / driver
        bound.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(bound)
        (device / "net" / name / "device").symlink_to(device)
        (self.root / "sys/class/net" / name).symlink_to(device / "net" / name)
        devices = self.root / "sys/bus/pci/devices"
        devices.mkdir(parents=True, exist_ok=True)
        (devices / address).symlink_to(device)
        return device

    def physical(self, number: int = 0) -> Path:
        device = self.nic(
            "ens1", PHYSICAL, "igb", sriov_totalvfs=7, sriov_numvfs=number, sriov_offset=128, sriov_stride=2
        )
        for index in range(number):
            self.virtual(device, index)
        return device

    def virtual(self, device: Path, index: int) -> Path:
        function = self.nic(f"ens1v{index}", f"0000:01:10.{2 * index}", "igbvf")
        (function / "physfn").symlink_to(device)
        (device / f"virtfn{index}").symlink_to(function)
        return function


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Run the module; what it writes reaches files only."""
    monkeypatch.setattr(sriov_functions, "ROOT", tmp_path)

    def run(*, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check}}
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode())
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
        with pytest.raises(SystemExit):
            sriov_functions.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    # the default root of functions is bound when they are defined
    for name in ("nics", "kernel_supports"):
        original = getattr(sriov_functions, name)
        monkeypatch.setattr(sriov_functions, name, lambda root=tmp_path, original=original: original(root))
    return run


def test_the_four_states(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    host.symbols()
    assert run()["state"] == "unsupported_kernel"
    host.symbols("pci_enable_sriov")
    host.nic("eth0", "0000:00:02.0", "virtio_net")
    assert run()["state"] == "no_device"
    device = host.physical()
    assert run()["state"] == "device_no_vfs"
    (device / "sriov_numvfs").write_text("2\n")
    for index in (0, 1):
        host.virtual(device, index)
    answer = run()
    assert answer["state"] == "ready(2)"
    assert answer["functions"] == {"ens1": ["0000:01:10.0", "0000:01:10.2"]}
    assert answer["devices"] == {"ens1": PHYSICAL}
    assert answer["nics"] == [
        "ens1 (igb, 0000:01:00.0, 2 of 7 virtual functions)",
        "eth0 (virtio_net, 0000:00:02.0, no SR-IOV)",
    ]
    assert answer["changed"] is False


@pytest.mark.parametrize(("text", "expected"), [("y", True), ("n", False)])
def test_the_kernel_s_configuration_says_whether_it_can(host: Host, text: str, expected: bool) -> None:
    (host.root / "proc/config.gz").write_bytes(gzip.compress(f"#\nCONFIG_PCI_IOV={text}\n".encode()))
    assert sriov_functions.kernel_supports(host.root) is expected
    (host.root / "proc/config.gz").unlink()
    (host.root / "proc/sys/kernel").mkdir(parents=True)
    (host.root / "proc/sys/kernel/osrelease").write_text("6.12\n")
    (host.root / "boot").mkdir()
    (host.root / "boot/config-6.12").write_text(f"#\nCONFIG_PCI_IOV={text}\n")
    assert sriov_functions.kernel_supports(host.root) is expected


def test_virtual_functions_are_made(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    device = host.physical()
    answer = run(interfaces={"ens1": 3}, required=True)
    assert (answer["changed"], answer["state"]) == (True, "ready(3)")
    assert (device / "sriov_numvfs").read_text() == "3"
    # where they are not seen yet, their addresses follow from what the device says
    assert answer["functions"]["ens1"] == ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4"]
    assert run(interfaces={"ens1": 3})["changed"] is False


def test_check_mode_makes_none_and_tells_what_would_be(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    device = host.physical()
    answer = run(check=True, interfaces={"ens1": 2}, required=True)
    assert (answer["changed"], answer["state"]) == (True, "ready(2)")
    assert answer["functions"]["ens1"] == ["0000:01:10.0", "0000:01:10.2"]
    assert (device / "sriov_numvfs").read_text() == "0\n"


@pytest.mark.parametrize("required", [True, False])
def test_more_than_there_can_be_are_refused(host: Host, run: Callable[..., dict[str, Any]], required: bool) -> None:
    device = host.physical()
    answer = run(interfaces={"ens1": 99}, required=required)
    assert answer["failed"] is True
    assert answer["msg"].startswith("ens1 has 7 virtual functions at most (sriov_totalvfs), 99 are asked for")
    assert (device / "sriov_numvfs").read_text() == "0\n"


def test_what_is_in_use_is_not_taken_away(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    device = host.physical(number=2)
    used = host.root / "sys/devices/0000:01:10.2/net/ens1v1"
    used.rename(host.root / "elsewhere")
    answer = run(interfaces={"ens1": 3})
    assert answer["failed"] is True
    assert "0000:01:10.2 are in use: move the pods away" in answer["msg"]
    assert (device / "sriov_numvfs").read_text() == "2\n"
    (host.root / "elsewhere").rename(used)
    assert run(interfaces={"ens1": 3})["changed"] is True


def test_required_fails_with_the_state_and_the_interfaces(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    host.nic("eth0", "0000:00:02.0", "virtio_net")
    answer = run(interfaces={"ens1": 2}, required=True)
    assert answer["msg"] == (
        "SR-IOV is required of ens1, and this host is no_device. "
        "Its network interfaces: eth0 (virtio_net, 0000:00:02.0, no SR-IOV)"
    )
    assert run(interfaces={"ens1": 2}, required=False)["state"] == "no_device"
    host.symbols()
    assert "this host is unsupported_kernel" in run(required=True)["msg"]


def test_what_the_kernel_refuses_is_told(
    host: Host, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = host.physical()
    (device / "sriov_numvfs").unlink()
    (device / "sriov_numvfs").mkdir()
    answer = run(interfaces={"ens1": 1})
    assert answer["msg"] == "ens1: the kernel refuses 1 virtual functions: Is a directory"
