"""A guest with a network card that has virtual functions: Debian 13's QEMU emulates it, its kernel drives it.

Its root is the image that has both, read through 9p; its initial file system only gets it there.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import ansible

from builder import cache
from builder.images import build_image
from tests.support.qemu import Machine

IMAGE = "sriov_guest"
RELEASE = "13"
NEEDED_MODULES = ("9pnet_virtio", "9p")
INIT = """#!/bin/busybox sh
for module in /modules/*; do /bin/busybox insmod $module; done
mount() { /bin/busybox mkdir -p "$4"; /bin/busybox mount -t "$1" -o "$2" "$3" "$4"; }
share() { mount 9p "trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro" "$1" "$2"; }
share root /root
mount proc rw proc /root/proc
mount sysfs rw sysfs /root/sys
mount devtmpfs rw devtmpfs /root/dev
mount tmpfs rw tmpfs /root/run
mount tmpfs rw tmpfs /root/tmp
mount tmpfs rw tmpfs /root/var/lib
share test /root/run/test
share ansible /root/run/test_libraries/ansible
/bin/busybox chroot /root /usr/bin/python3 -B /run/test/inside.py
/bin/busybox poweroff -f
"""


def unpacked_image() -> Path:
    """Return the folder of the image's files; unpacked once."""
    built = build_image(IMAGE, RELEASE, say=print)
    name = f"{IMAGE}-{built.id.removeprefix('sha256:')[:12]}"
    with cache.locked(f"unpacked-{name}"):
        target = cache.entry("unpacked", name)
        if not target.is_dir():
            with cache.new_entry("unpacked", name) as building, tarfile.open(built.archive) as archive:
                layer = archive.extractfile("layer.tar")
                assert layer is not None
                with subprocess.Popen(["tar", "-x", "-C", str(building)], stdin=subprocess.PIPE) as tar:
                    assert tar.stdin is not None
                    shutil.copyfileobj(layer, tar.stdin)
                assert tar.returncode == 0
            cache.prune("unpacked", IMAGE)
        cache.mark_used(target)
    return target


def modules(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files of kernel modules with those that they need, in the order to load them."""
    (folder,) = (root / "usr/lib/modules").iterdir()
    needs = {}
    for line in (folder / "modules.dep").read_text(encoding="utf-8").splitlines():
        path, _, others = line.partition(":")
        needs[Path(path).name.partition(".")[0].replace("-", "_")] = [path, *others.split()]
    found: list[Path] = []
    for name in names:
        found += [folder / path for path in reversed(needs[name]) if folder / path not in found]
    return found


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return an initial file system: mode and contents by path."""
    archive = bytearray()
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4)
        archive += content + bytes(-len(content) % 4)
    return bytes(archive)


def initial_files(root: Path) -> bytes:
    """Return the initial file system: a shell, modules, and what to do."""
    folder, program, device = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, (root / "usr/bin/busybox").read_bytes()
    files = dict.fromkeys(("bin", "modules", "root"), (folder, b""))
    files |= {"bin/busybox": (program, device), "init": (program, INIT.encode())}
    for index, path in enumerate(modules(root, NEEDED_MODULES)):
        files[f"modules/{index:02}.ko"] = (program, lzma.decompress(path.read_bytes()))
    return cpio(files)


@dataclass(frozen=True)
class Guest:
    """A machine of one network card (igb, seven virtual functions) that runs a script and powers off."""

    directory: Path
    shared: Path
    """What the guest has at /run/test; its inside.py is run."""

    def machine(self) -> Machine:
        root = unpacked_image()
        self.directory.mkdir()
        initrd = self.directory / "initrd"
        initrd.write_bytes(initial_files(root))
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        libraries = root / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        loader = next((root / "usr/lib64").glob("ld-linux*"))
        command = [str(loader), "--library-path", str(libraries), str(root / "usr/bin/qemu-system-x86_64")]
        command += ["-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")]
        options = ["-device", "pcie-root-port,id=slot1", "-netdev", "hubport,id=hub,hubid=0"]
        options += ["-device", "igb,netdev=hub,bus=slot1,romfile="]
        shares = {"root": root, "test": self.shared, "ansible": Path(ansible.__file__).parent}
        for tag, path in shares.items():
            options += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"]
        return Machine(
            self.directory,
            kernel,
            initrd,
            arguments="quiet panic=-1",
            command=command,
            environment={"QEMU_MODULE_DIR": str(libraries / "qemu")},
            memory_mb=512,
            options=options,
        )


def share(folder: Path, files: list[Path]) -> Path:
    """Return a folder with copies of files, for a guest."""
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder / file.name)
    return folder
