"""A virtual machine of QEMU for tests: started in the background, watched through its console, ended by its process id.

Everything of a machine lies in one directory, so another process can find it again and end it:
`console.log`, `qemu.pid`, and `qemu.log` with what QEMU itself had to say.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = "qemu-system-x86_64"


class MachineError(RuntimeError):
    """A machine did not do what was waited for; the message ends with the end of its console."""


@dataclass(frozen=True)
class Disk:
    """A raw disk image that the guest sees as a virtio disk, the first one as /dev/vda."""

    path: Path
    keep: bool = False
    """Whether what the guest writes stays in the file; else it is gone with the machine."""
    read_only: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine that boots a kernel directly."""

    directory: Path
    """Of this machine alone; made when it starts."""
    kernel: Path
    initrd: Path | None = None
    arguments: str = ""
    """The kernel's, beside the console's."""
    command: Sequence[str] = (PROGRAM,)
    """QEMU, perhaps behind a loader and with -L: one that is only unpacked works too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of QEMU beside those of this process."""
    memory_mb: int = 2048
    processors: int = 2
    disks: Sequence[Disk] = ()
    forwarded: Mapping[int, int] = field(default_factory=dict)
    """Port on 127.0.0.1 -> port of the guest. The guest reaches nothing else. Empty: it has no network."""
    options: Sequence[str] = ()
    """More of QEMU's options, such as -device."""

    def start(self) -> None:
        """Start the machine in the background. Raises MachineError when QEMU refuses."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if running(self.directory):
            raise MachineError(f"there is a machine in {self.directory} already")
        console(self.directory).unlink(missing_ok=True)
        done = subprocess.run(
            self._command(),
            env={"TMPDIR": "/var/tmp", **os.environ, **self.environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise MachineError(f"{self.command[0]}: {done.stderr.strip()}")

    def _command(self) -> list[str]:
        options = [*self.command, "-daemonize", "-pidfile", str(pid_file(self.directory)), "-name", self.directory.name]
        options += [*acceleration(), "-smp", str(self.processors), "-m", str(self.memory_mb)]
        options += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        options += ["-serial", f"file:{console(self.directory)}", "-D", str(self.directory / "qemu.log")]
        options += ["-kernel", str(self.kernel), "-append", f"console=ttyS0 {self.arguments}".strip()]
        if self.initrd:
            options += ["-initrd", str(self.initrd)]
        # a guest that starts has little else to make random numbers of
        options += ["-device", "virtio-rng-pci"]
        for disk in self.disks:
            mode = "readonly=on" if disk.read_only else "snapshot=off" if disk.keep else "snapshot=on"
            options += ["-drive", f"file={disk.path},format=raw,if=virtio,cache=unsafe,{mode}"]
        if self.forwarded:
            ports = "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{guest}" for port, guest in self.forwarded.items())
            options += ["-netdev", f"user,id=user,restrict=on{ports}", "-device", "virtio-net-pci,netdev=user,romfile="]
        return [*options, *self.options]

    def __enter__(self) -> Machine:
        """Start the machine."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the machine."""
        end(self.directory)

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Return where a pattern is on the console. Raises MachineError after a time, or when the machine ends."""
        started = time.monotonic()
        while True:
            alive = running(self.directory)
            if found := re.search(pattern, read_console(self.directory), re.MULTILINE):
                return found
            if not alive or time.monotonic() - started > timeout_s:
                why = f"not within {timeout_s:g} s" if alive else "the machine ended before that"
                raise MachineError(f"{pattern!r}: {why}:\n{read_console(self.directory)[-3000:]}")
            time.sleep(0.2)

    def wait_for_end(self, timeout_s: float) -> str:
        """Return the console once the guest has powered off."""
        if not _ended(self.directory, timeout_s):
            raise MachineError(f"no end within {timeout_s:g} s:\n{read_console(self.directory)[-3000:]}")
        return read_console(self.directory)


def acceleration() -> list[str]:
    """Return QEMU's options for the fastest processor that this machine can give to a guest."""
    if virtualization():
        return ["-machine", "q35,sata=off,smbus=off,accel=kvm", "-cpu", "host"]
    # QEMU 7.2 says it has cmpxchg16b, and a kernel of 2024 then takes a way through it that QEMU gets wrong
    return ["-machine", "q35,sata=off,smbus=off", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,cx16=off"]


def virtualization() -> bool:
    """Tell whether the processor runs guests itself; the device alone is there on machines whose processor does not."""
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return bool(flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def console(directory: Path) -> Path:
    """Return the file that a machine's console goes to."""
    return directory / "console.log"


def read_console(directory: Path) -> str:
    """Return what a machine has said so far, with the line ends of a file."""
    path = console(directory)
    return path.read_text(encoding="utf-8", errors="replace").replace("\r", "") if path.exists() else ""


def pid_file(directory: Path) -> Path:
    """Return the file with the process id of a machine."""
    return directory / "qemu.pid"


def process_id(directory: Path) -> int | None:
    """Return the process id of the machine that runs in a directory: of a process that was started with its file."""
    path = pid_file(directory)
    try:
        pid = int(path.read_text(encoding="utf-8"))
        started_with = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(path).encode() in started_with else None


def running(directory: Path) -> bool:
    """Tell whether the machine of a directory runs."""
    return process_id(directory) is not None


def end(directory: Path) -> None:
    """Cut the power of a machine, if it runs. What it wrote to disks that are not kept is gone."""
    for number, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        pid = process_id(directory)
        if pid is None:
            return
        os.kill(pid, number)
        if _ended(directory, patience_s):
            return
    raise MachineError(f"the machine in {directory} does not end")


def _ended(directory: Path, timeout_s: float) -> bool:
    limit = time.monotonic() + timeout_s
    while running(directory):
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True
