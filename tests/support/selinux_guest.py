"""The machine with SELinux enforcing that the molecule scenario ``selinux`` plays on: a virtual one.

python -m tests.support.selinux_guest start DIRECTORY, and stop: a playbook calls it. The directory then has
``ssh_config``, by which everything else reaches the guest as the host ``guest``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from builder.disks import build_disk
from tests.support import qemu
from tests.support.segment_host import wait_until

HOST = "guest"
KEY_LABEL = "system_u:object_r:sshd_key_t:s0"
IMAGE = "selinux_guest"
RELEASE = "13"
BOOT_S = 180
"""An emulated processor takes 20 to 40 s; more when the machine has other things to do."""

ARGUMENTS = (
    "root=/dev/vda rw security=selinux selinux=1 enforcing=1 quiet"
    # guards against neighbours that a virtual machine of ours does not have, and against a clock that stands
    " mitigations=off tsc=reliable nowatchdog"
    # QEMU forgets more addresses than it has to when a huge page goes
    " transparent_hugepage=never"
    # what has to be done when /usr is newer than /etc was done when the disk was built, and so was the file system
    " systemd.condition-needs-update=no fsck.mode=skip"
)

AUDIT_LOG = "/var/log/audit/audit.log"
READY = "ready"
PSQL = "cd / && runuser -u postgres -- psql -XAtq -v VERBOSITY=verbose 2>&1"


def answer(session: subprocess.Popen[str]) -> list[str]:
    """Wait until a session says ready; returns the lines before."""
    assert session.stdout is not None
    said: list[str] = []
    for line in session.stdout:
        if line == f"{READY}\n":
            return said
        said.append(line.rstrip("\n"))
    raise AssertionError(f"the session ended: {said}")


@dataclass(frozen=True)
class Denial:
    """What the kernel denied: one line of the audit log."""

    program: str
    source: str
    target: str
    kind: str
    permissions: str
    line: str

    @classmethod
    def of(cls, line: str) -> Self:
        """Read a line of the audit log."""
        found = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
        permissions = re.search(r"denied  \{ (.*?) \}", line)
        assert permissions, line
        return cls(
            program=found["comm"].strip('"'),
            source=found["scontext"],
            target=found["tcontext"],
            kind=found["tclass"],
            permissions=permissions[1],
            line=line,
        )

    def source_type(self) -> str:
        """Return the domain of who was denied something."""
        return self.source.split(":")[2]


def start(directory: Path) -> None:
    """Boot the guest and wait until one can log in; what it writes to its disk is gone when it ends."""
    disk = build_disk(IMAGE, RELEASE, say=lambda line: print(line, file=sys.stderr))
    directory.mkdir(parents=True, exist_ok=True)
    port = qemu.free_port()
    _make_access(directory, port)
    machine = qemu.Machine(
        directory=directory,
        kernel=disk.kernel,
        initrd=disk.initrd,
        arguments=ARGUMENTS,
        memory_mb=3072,
        disks=[qemu.Disk(_disk_with_keys(directory, disk.disk), keep=True)],
        forwarded={port: 22},
    )
    machine.start()
    try:
        _wait_for_login(machine)
        wait_until(lambda: ssh(directory, "true").returncode == 0, 60, "the guest lets in who has the key")
    except Exception:
        qemu.end(directory)
        raise


def _wait_for_login(machine: qemu.Machine) -> None:
    if machine.wait_for(r"login:|emergency mode", BOOT_S)[0] != "login:":
        raise qemu.MachineError(f"the guest did not start:\n{qemu.read_console(machine.directory)[-3000:]}")


def stop(directory: Path) -> None:
    """End the guest and remove what it left."""
    if config(directory).exists():
        subprocess.run(["ssh", "-F", str(config(directory)), "-O", "exit", HOST], capture_output=True, check=False)
    qemu.end(directory)
    shutil.rmtree(directory, ignore_errors=True)


def config(directory: Path) -> Path:
    """Return the configuration of ssh that leads to the guest."""
    return directory / "ssh_config"


def ssh(directory: Path, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a shell command as root in the guest."""
    return subprocess.run(
        ["ssh", "-F", str(config(directory)), HOST, command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


class Guest:
    """The guest for tests: commands, SQL, and what the kernel denied."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command as root."""
        return subprocess.Popen(
            ["ssh", "-F", str(config(self.directory)), HOST, command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def attempt(self, command: str, text: str = "", timeout_s: float = 180) -> tuple[int, str]:
        """Run a shell command as root with a text on its standard input; returns its status and all of its output."""
        with self.start(f"({command}) 2>&1") as process:
            try:
                output, said = process.communicate(text, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, (output + said).rstrip("\n")

    def run(self, command: str, text: str = "", timeout_s: float = 180) -> str:
        """Run a shell command as root that must succeed; returns its output."""
        status, output = self.attempt(command, text, timeout_s)
        assert status == 0, f"{command}: {output}"
        return output

    def sql(self, sql: str, timeout_s: float = 180) -> str:
        """Run SQL as the user postgres in a session of its own; errors are part of the answer, SQLSTATE first."""
        return self.attempt(f"{PSQL}", sql, timeout_s)[1]

    def session(self, sql: str) -> subprocess.Popen[str]:
        """Open a session that runs SQL, says ready and stays open until its standard input is closed."""
        process = self.start(PSQL)
        assert process.stdin is not None
        process.stdin.write(f"{sql}\n\\echo {READY}\n")
        process.stdin.flush()
        return process

    def denials(self) -> list[Denial]:
        """Return what the kernel has denied so far, as the audit daemon wrote it."""
        return [Denial.of(line) for line in self.run(f"grep -a 'avc:  denied' {AUDIT_LOG} || true").splitlines()]


def _make_access(directory: Path, port: int) -> None:
    """Make keys for this machine alone, and the way in."""
    for name in ("host_key", "key"):
        (directory / name).unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name], check=True)
    public = (directory / "host_key.pub").read_text(encoding="utf-8").split()[:2]
    (directory / "known_hosts").write_text(" ".join([HOST, *public]) + "\n", encoding="utf-8")
    options = {
        "HostName": "127.0.0.1",
        "Port": port,
        "User": "root",
        "HostKeyAlias": HOST,
        "IdentityFile": directory / "key",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": 30,
        # a new connection takes an emulated processor a second
        "ControlMaster": "auto",
        "ControlPath": directory / "ssh.sock",
        "ControlPersist": 600,
        "LogLevel": "ERROR",
    }
    lines = [f"Host {HOST}", *(f"  {key} {value}" for key, value in options.items())]
    config(directory).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _disk_with_keys(directory: Path, original: Path) -> Path:
    """Return a copy of the disk that lets in who has the key: the guest never sees the file system changed under it."""
    disk = directory / "disk.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", original, disk], check=True)
    requests = ["cd /etc/ssh/access"]
    for source, name in (("host_key", "host_key"), ("key.pub", "authorized_keys")):
        requests.append(f"write {directory / source} {name}")
        requests.append(f"set_inode_field {name} uid 0")
        requests.append(f"ea_set {name} security.selinux {KEY_LABEL}")
    command = ["debugfs", "-w", "-f", "-", str(disk)]
    done = subprocess.run(command, input="\n".join(requests), capture_output=True, text=True, check=False)
    listed = subprocess.run(["debugfs", "-R", "ls /etc/ssh/access", disk], capture_output=True, text=True, check=True)
    if "authorized_keys" not in listed.stdout:
        raise qemu.MachineError(f"the keys could not be written: {done.stderr or done.stdout}")
    return disk


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).absolute())
