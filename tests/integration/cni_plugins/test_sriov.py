"""Virtual functions for real: of an emulated network card, with the kernel of a guest."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from .guest import Guest, share

ROOT = Path(__file__).resolve().parents[3]
POWER_OFF_S = 120


@pytest.fixture(scope="module")
def results(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the guest told, by name."""
    if platform.machine() != "x86_64":
        pytest.skip("the emulated network card is of a PC, and this machine is none")
    folder = tmp_path_factory.mktemp("sriov")
    files = [Path(__file__).with_name("inside.py"), ROOT / "plugins/modules/sriov_functions.py"]
    files += [ROOT / "plugins/filter/cni_networks.py", programs / "cnitool"]
    with Guest(folder / "machine", share(folder / "shared", files)).machine() as machine:
        console = machine.wait_for_end(POWER_OFF_S)
    print(console)
    found: dict[str, Any] = {}
    for line in console.splitlines():
        if line.startswith("RESULT "):
            found |= json.loads(line.removeprefix("RESULT "))
    assert "failed" not in found, found["failed"]
    assert "fewer" in found, console[-3000:]
    return found


def test_the_states_before_and_after(results: dict[str, Any]) -> None:
    assert results["without a driver"]["state"] == "no_device"
    assert results["before"]["state"] == "device_no_vfs"
    assert results["before"]["nics"] == ["eth0 (igb, 0000:01:00.0, 0 of 7 virtual functions)"]
    assert results["required"]["failed"] is True
    assert "this host is device_no_vfs" in results["required"]["msg"]
    assert (results["made"]["changed"], results["made"]["state"]) == (True, "ready(3)")
    assert results["numvfs"] == "3"
    assert results["again"]["changed"] is False


def test_more_than_the_card_has_are_refused_by_us_and_by_the_kernel(results: dict[str, Any]) -> None:
    assert results["too many"]["msg"].startswith("eth0 has 7 virtual functions at most (sriov_totalvfs), 99")
    assert results["kernel"] == "Numerical result out of range"


def test_check_mode_knows_the_functions_before_they_are_there(results: dict[str, Any]) -> None:
    made = results["made"]["functions"]["eth0"]
    assert len(made) == 3
    assert results["check"]["functions"]["eth0"] == made
    assert results["rules"].startswith('ACTION=="add", SUBSYSTEM=="net", KERNELS=="0000:01:00.0"')


def test_a_function_moves_into_a_pod_and_back(results: dict[str, Any]) -> None:
    assert len(results["host before"]) == 4
    assert results["pod"] == {"eth0": ["10.97.0.3"]}
    assert len(results["host meanwhile"]) == 3
    assert results["pod after"] == {}
    assert results["host after"].keys() == results["host before"].keys()


def test_functions_in_use_are_not_taken_away(results: dict[str, Any]) -> None:
    used = results["made"]["functions"]["eth0"][1]
    assert f"{used} are in use" in results["in use"]["msg"]
    assert (results["fewer"]["changed"], results["fewer"]["state"]) == (True, "ready(2)")
