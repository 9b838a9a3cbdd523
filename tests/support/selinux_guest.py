"""The machine with SELinux enforcing that the molecule scenario ``selinux`` plays on: a virtual one.

python -m tests.support.selinux_guest start DIRECTORY, and stop: a playbook calls it. The directory then has
``ssh_config``, by which everything else reaches the guest as the host ``guest``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from builder.disks import build_disk
from tests.support import qemu
from tests.support.segment_host import wait_until

HOST = "guest"
IMAGE = "selinux_guest"
RELEASE = "13"
BOOT_S = 180
"""An emulated processor takes 20 to 40 s; more when the machine has other things to do."""


def start(directory: Path) -> None:
    """Boot the guest and wait until one can log in; what it writes to its disk is gone when it ends."""
    disk = build_disk(IMAGE, RELEASE, say=lambda line: print(line, file=sys.stderr))
    directory.mkdir(parents=True, exist_ok=True)
    port = qemu.free_port()
    access = _access(directory, port)
    machine = qemu.Machine(
        directory=directory,
        kernel=disk.kernel,
        initrd=disk.initrd,
        # mitigations guard against neighbours that an emulated processor does not have
        arguments="root=/dev/vda rw security=selinux selinux=1 enforcing=1 mitigations=off",
        memory_mb=3072,
        disks=[qemu.Disk(disk.disk), qemu.Disk(access, read_only=True)],
        forwarded={port: 22},
    )
    machine.start()
    try:
        machine.wait_for(r"login:", BOOT_S)
        wait_until(lambda: ssh(directory, "true").returncode == 0, 60, "the guest lets in who has the key")
    except Exception:
        qemu.end(directory)
        raise


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


def _access(directory: Path, port: int) -> Path:
    """Make keys for this machine alone, the disk that carries them into it, and the way in. Returns the disk."""
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
    disk = directory / "access.img"
    disk.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(directory / "host_key", Path(folder, "host_key"))
        shutil.copy(directory / "key.pub", Path(folder, "authorized_keys"))
        Path(folder).chmod(0o755)
        command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, str(disk), "4M"]
        subprocess.run(command, check=True)
    return disk


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).absolute())
