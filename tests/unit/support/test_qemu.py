"""Virtual machines for tests: which process is a machine, and what ends it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import qemu

# takes QEMU's place: goes into the background with its options, says a word on its console and stays
STAND_IN = """
import os, subprocess, sys, time
options = sys.argv[1:]
pid_file = options[options.index("-pidfile") + 1]
console = next(option for option in options if option.startswith("file:")).removeprefix("file:")
if "-refuse" in options:
    sys.exit("no such device")
if os.fork():
    while not os.path.exists(pid_file):
        time.sleep(0.01)
    os._exit(0)
os.setsid()
open(console, "w").write("login:\\r\\n")
open(pid_file + ".new", "w").write(str(os.getpid()))
os.rename(pid_file + ".new", pid_file)
for descriptor in (0, 1, 2):
    os.close(descriptor)
time.sleep(60)
"""


@pytest.fixture
def machine(tmp_path: Path) -> qemu.Machine:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    return qemu.Machine(
        directory=tmp_path / "machine",
        kernel=tmp_path / "vmlinuz",
        command=(sys.executable, str(program)),
        disks=[
            qemu.Disk(tmp_path / "a"),
            qemu.Disk(tmp_path / "b", keep=True),
            qemu.Disk(tmp_path / "c", read_only=True),
        ],
        forwarded={2222: 22},
    )


def test_a_machine_runs_until_it_is_ended(machine: qemu.Machine) -> None:
    with machine:
        assert qemu.running(machine.directory)
        assert machine.wait_for(r"^login:$", 10)
        with pytest.raises(qemu.MachineError, match="already"):
            machine.start()
    assert not qemu.running(machine.directory)
    qemu.end(machine.directory)


def test_what_does_not_come_is_told_with_the_console(machine: qemu.Machine) -> None:
    with machine, pytest.raises(qemu.MachineError, match=r"(?s)'never': not within 0.5 s.*login:"):
        machine.wait_for("never", 0.5)
    with pytest.raises(qemu.MachineError, match="ended before that"):
        machine.wait_for("never", 60)


def test_what_qemu_refuses_is_told(machine: qemu.Machine) -> None:
    refused = qemu.Machine(machine.directory, kernel=machine.kernel, command=machine.command, options=["-refuse"])
    with pytest.raises(qemu.MachineError, match="no such device"):
        refused.start()


def test_another_process_of_that_number_is_no_machine(tmp_path: Path) -> None:
    qemu.pid_file(tmp_path).write_text(str(os.getpid()))
    assert not qemu.running(tmp_path)
    qemu.end(tmp_path)  # else this test would have ended itself


def test_disks_lose_what_is_written_unless_it_is_to_be_kept(machine: qemu.Machine) -> None:
    with machine:
        pid = qemu.process_id(machine.directory)
        options = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    modes = [re.search(rf"/{name},\S*cache=unsafe,(\S+)", options) for name in "abc"]
    assert [mode and mode[1] for mode in modes] == ["snapshot=on", "snapshot=off", "readonly=on"]
    assert "restrict=on,hostfwd=tcp:127.0.0.1:2222-:22 " in options


def test_a_free_port_is_free() -> None:
    assert 1024 <= qemu.free_port() < 65536
