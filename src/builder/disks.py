"""Makes the disk of a virtual machine of an image: images/<name>/disk.yml says how."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema

from builder import cache, project
from builder.errors import BuildError
from builder.images import BuiltImage, Say, build_image
from builder.packages import BuiltPackage, build_package
from builder.project import ROOT, read_yaml, settings

_KIND = "disks"
_LABEL = "root"

DISK_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["size_mb"],
    "properties": {
        "size_mb": {"type": "integer", "minimum": 64},
        "install": {"type": "object", "additionalProperties": {"type": "string"}},
        "docker_images": {"type": "object", "additionalProperties": {"type": "string"}},
        "selinux_policy": {"type": "string"},
    },
}


@dataclass(frozen=True)
class BuiltDisk:
    """A disk in the cache, and what boots it."""

    name: str
    debian: str
    disk: Path
    """A raw image of an ext4 file system, without partitions."""
    kernel: Path
    initrd: Path
    key: str
    """Digest of everything that goes into the disk."""
    changed: bool
    """Whether it was made just now."""

    def to_json(self) -> dict[str, object]:
        """Return the disk as plain data."""
        return {**asdict(self), "disk": str(self.disk), "kernel": str(self.kernel), "initrd": str(self.initrd)}


def disk_names() -> list[str]:
    """Return the names of the images that disks can be made of."""
    return sorted(path.parent.name for path in (ROOT / "images").glob("*/disk.yml"))


def load_disk(name: str) -> dict[str, Any]:
    """Read images/<name>/disk.yml."""
    path = ROOT / "images" / name / "disk.yml"
    content = read_yaml(path)
    try:
        jsonschema.validate(content, DISK_SCHEMA)
    except jsonschema.ValidationError as error:
        raise BuildError(f"{path.relative_to(ROOT)}: {error.message}") from None
    return content


def build_disk(name: str, release: str, *, say: Say) -> BuiltDisk:
    """Make the disk of an image, which is built when it has to be, unless the cache has it."""
    description = load_disk(name)
    image = build_image(name, release, say=say)
    packages = [
        build_package(package, built_for, say=say) for package, built_for in description.get("install", {}).items()
    ]
    docker_images = [
        build_image(content, built_for, say=say) for content, built_for in description.get("docker_images", {}).items()
    ]
    key = cache.digest({
        "image": image.id,
        "packages": [package.sha256 for package in packages],
        "docker_images": [content.id for content in docker_images],
        "description": description,
        "builder": cache.file_digest(Path(__file__)),
    })  # fmt: skip
    entry = f"{name}-{release}-{key[:12]}"
    with cache.locked(f"disk-{name}-{release}"):
        if found := _cached(entry, name, release, key):
            return found
        with cache.new_entry(_KIND, entry) as folder:
            _build(image, packages, docker_images, description, folder)
        cache.prune(_KIND, f"{name}-{release}")
    found = _cached(entry, name, release, key)
    assert found is not None
    return BuiltDisk(**{**found.__dict__, "changed": True})


def _cached(entry: str, name: str, release: str, key: str) -> BuiltDisk | None:
    folder = cache.entry(_KIND, entry)
    if not folder.is_dir():
        return None
    cache.mark_used(folder)
    return BuiltDisk(name, release, folder / "disk.img", folder / "vmlinuz", folder / "initrd.img", key, changed=False)


def _build(
    image: BuiltImage,
    packages: list[BuiltPackage],
    docker_images: list[BuiltImage],
    description: dict[str, Any],
    folder: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="caisson-disk-", dir=project.LARGE_TEMPORARY) as temporary:
        root = Path(temporary) / "root"
        root.mkdir()
        _unpack(image.archive, root)
        _install(packages, root)
        if docker_images:
            load_docker_images(root, [content.archive for content in docker_images])
        for name in ("vmlinuz", "initrd.img"):
            files = list((root / "boot").glob(f"{name}-*"))
            if len(files) != 1:
                raise BuildError(f"a virtual machine boots one kernel; image {image.name} has {len(files)} {name}")
            (folder / name).write_bytes(files[0].read_bytes())
        if policy := description.get("selinux_policy"):
            label_files(root, policy)
        _make_file_system(root, folder / "disk.img", description["size_mb"], image.id)


def _unpack(archive: Path, root: Path) -> None:
    """Unpack the only layer of an image's archive."""
    with subprocess.Popen(["tar", "-xOf", str(archive), "layer.tar"], stdout=subprocess.PIPE) as layer:
        command = ["tar", "-x", "-C", str(root), "--numeric-owner", "--same-owner", "-p", "--xattrs"]
        done = subprocess.run([*command, "--xattrs-include=*"], stdin=layer.stdout, check=False)
    if done.returncode or layer.returncode:
        raise BuildError(f"{archive} could not be unpacked")


def _install(packages: list[BuiltPackage], root: Path) -> None:
    """Install packages of ours; the image has what they need."""
    if not packages:
        return
    for package in packages:
        shutil.copy(package.deb, root / package.deb.name)
    debs = [f"/{package.deb.name}" for package in packages]
    _run(["chroot", str(root), "dpkg", "--force-unsafe-io", "--install", *debs], "packages could not be installed")
    for package in packages:
        (root / package.deb.name).unlink()


def load_docker_images(root: Path, archives: list[Path]) -> None:
    """Load images into the Docker of a root by its own daemon, which runs for that long and sees no network.

    Raises BuildError where the root lies in a file system that Docker's layers cannot lie in, an overlay say.
    """
    alone = ["timeout", str(_LOAD_S), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    command = [*alone, "sh", "-eu", "-c", _LOAD, "sh", str(root), *map(str, archives)]
    _run(command, "images could not be loaded into the disk's Docker")
    # what the daemon made of itself is the machine's business
    for path in (root / "var/lib/docker").iterdir():
        if path.name not in {"image", "overlay2"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


_LOAD_S = 600
_LOAD = r"""
root=$1
shift
# Docker unpacks in a mount namespace of its own, whose root has to be a mount
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
chroot "$root" dockerd --host=unix:///run/docker.sock --pidfile=/run/docker.pid --exec-root=/run/docker \
  --storage-driver=overlay2 --bridge=none --iptables=false --ip6tables=false \
  --ip-forward=false >"$root/run/dockerd.log" 2>&1 &
daemon=$!
until chroot "$root" docker version >/dev/null 2>&1; do
  kill -0 "$daemon" 2>/dev/null || { cat "$root/run/dockerd.log" >&2; exit 1; }
done
for archive; do
  chroot "$root" docker load --quiet <"$archive"
done
kill "$daemon"
wait "$daemon" || :
"""


def label_files(root: Path, policy: str) -> None:
    """Put the labels on the files of a root that its SELinux policy gives them; no SELinux is needed here."""
    contexts = f"/etc/selinux/{policy}/contexts/files/file_contexts"
    # -m: what this machine has mounted says nothing about the root
    _run(["chroot", str(root), "setfiles", "-F", "-m", contexts, "/"], "files could not be labelled")


def _make_file_system(root: Path, disk: Path, size_mb: int, image_id: str) -> None:
    """Make a file system of what is below a folder, extended attributes included."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, image_id))
    command = ["mke2fs", "-q", "-t", "ext4", "-L", _LABEL, "-m", "0", "-U", identity, "-E", f"hash_seed={identity}"]
    _run([*command, "-d", str(root), str(disk), f"{size_mb}M"], "the file system could not be made")


def _run(command: list[str], what: str) -> None:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "E2FSPROGS_FAKE_TIME": str(settings().source_date_epoch),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{what}: {(done.stderr.strip() or done.stdout.strip())[-2000:]}")
