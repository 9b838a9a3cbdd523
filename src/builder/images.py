"""Builds images into the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from builder import cache, debian, engine, golang, oci, project, sbom, scratch
from builder.archive import image_tag, write_archive
from builder.description import SCRATCH, Image, load_image
from builder.project import ROOT, settings
from builder.records import differing, read_records, write_records
from builder.rootfs import packed_root

_KIND = "images"
_MODULES = "modules.txt"
_OCI_ARCHITECTURES = {"amd64": "amd64", "arm64": "arm64"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache."""

    name: str
    debian: str
    id: str
    """`sha256:` and 64 hex digits; the same inputs give the same id."""
    digest: str
    """Of the manifest in its OCI archive, and in every registry that has it."""
    tag: str
    archive: Path
    """A Docker archive, for `docker load`."""
    key: str
    """Digest of everything that goes into the image."""
    changed: bool
    """Whether it was built just now."""

    @property
    def reference(self) -> str:
        """Return what pods call the image by."""
        return f"{engine.REGISTRY}/{self.tag.partition(':')[0]}@{self.digest}"

    @property
    def packages(self) -> Path:
        """Return the list of the Debian packages that went into the image."""
        return self.archive.with_name("packages.txt")

    def to_json(self) -> dict[str, object]:
        """Return the image as plain data."""
        return {**asdict(self), "archive": str(self.archive), "reference": self.reference}

    def describe(self, folder: Path) -> None:
        """Write the image's description beside its archive."""
        plain = {**asdict(self), "archive": str(self.archive)}
        (folder / "image.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")

    def oci_archive(self) -> Path:
        """Return an OCI archive of the image, for `ctr images import`; it is written when it is not there."""
        path = self.archive.with_name("image.oci.tar")
        with cache.locked(f"oci-{self.name}-{self.debian}"):
            if not path.is_file():
                unfinished = path.with_suffix(".unfinished")
                oci.write_oci_archive(self.archive, unfinished, name=f"{engine.REGISTRY}/{self.tag}")
                unfinished.rename(path)
        return path

    def bill(self) -> str:
        """Return what the image was made of, as CycloneDX."""
        image = load_image(self.name, self.debian)
        parts = sbom.of_debian(read_records(self.packages), self.debian) | sbom.of_python(image.requirements)
        modules = self.archive.with_name(_MODULES)
        of_go, needs = sbom.of_go(modules.read_text(encoding="utf-8") if modules.is_file() else "")
        return sbom.document(self.tag.partition(":")[0], self.digest, "container", parts | of_go, needs)

    def load(self) -> bool:
        """Load the image into this machine's Docker if it is not there; returns whether it was loaded."""
        return engine.ensure_loaded(self.id, self.tag, self.archive)


def find_image(name: str, release: str) -> BuiltImage | None:
    """Return an image that is in the cache and up to date, or None."""
    return _cached(load_image(name, release))


def build_image(name: str, release: str, *, say: Say, fresh: bool = False) -> BuiltImage:
    """Build an image unless it is in the cache; with `fresh` even then."""
    image = load_image(name, release)
    with cache.locked(f"image-{name}-{release}"):
        if not fresh and (found := _cached(image)):
            return found
        built = _build(image)
        cache.prune(_KIND, f"{name}-{release}")
    _compare_with_record(image, built, say)
    return built


def record_packages(name: str, release: str, *, say: Say) -> BuiltImage:
    """Build an image anew and make its packages the committed record."""
    built = build_image(name, release, say=lambda _: None, fresh=True)
    image = load_image(name, release)
    before = read_records(image.record)
    records = read_records(built.packages)
    write_records(image.record, records)
    changed = len({record.name for record in set(before) ^ set(records)})
    say(f"{image.record.relative_to(ROOT)}: {len(records)} packages, {changed} changed")
    # the record is an input: what was just built is what the new one describes
    key = image_key(image)
    folder = cache.entry(_KIND, _entry_name(image, key))
    with cache.locked(f"image-{name}-{release}"):
        if folder != built.archive.parent:
            shutil.rmtree(folder, ignore_errors=True)
            built.archive.parent.rename(folder)
        built = replace(built, key=key, archive=folder / "image.tar")
        built.describe(folder)
    return built


def image_key(image: Image) -> str:
    """Return the digest of everything that goes into an image but the state of the mirror."""
    config = settings()
    described = asdict(image)
    if image.go:
        described["toolchain"] = [golang.toolchain_key(), cache.tree_digest(image.folder)]
    else:
        del described["go"]
    if image.variant == SCRATCH:
        described["scratch"] = cache.file_digest(ROOT / "src" / "builder" / "scratch.py")
    return cache.digest({
        "description": {**described, "overlays": [], "requirements": []},
        "overlays": [cache.tree_digest(folder) for folder in image.overlays],
        "requirements": [cache.file_digest(lock) for lock in image.requirements],
        "record": cache.file_digest(image.record) if image.record.is_file() else "",
        "builder": [cache.file_digest(ROOT / "src" / "builder" / f"{module}.py")
                    for module in ("archive", "finish", "rootfs", "wheels")],
        "architecture": debian.architecture(),
        "suite": debian.suite(image.debian),
        # the mirror's address is part of an image only where apt is left in it
        "sources": [source.line() for source in debian.sources(image.debian)] if image.apt else config.debian_snapshot,
        "epoch": config.source_date_epoch,
    })  # fmt: skip


def _entry_name(image: Image, key: str) -> str:
    return f"{image.name}-{image.debian}-{key[:12]}"


def _cached(image: Image) -> BuiltImage | None:
    key = image_key(image)
    folder = cache.entry(_KIND, _entry_name(image, key))
    description = folder / "image.json"
    if not description.is_file():
        return None
    cache.mark_used(folder)
    found = json.loads(description.read_text(encoding="utf-8"))
    # what an older builder left does not say it
    found.setdefault("digest", "")
    found["digest"] = found["digest"] or oci.digest(folder / "image.tar")
    return BuiltImage(**{**found, "archive": folder / "image.tar", "changed": False})


def _build(image: Image) -> BuiltImage:
    key = image_key(image)
    name = _entry_name(image, key)
    labels = {"caisson.image": image.name, "caisson.debian": image.debian, **image.config.get("labels", {})}
    with cache.new_entry(_KIND, name) as folder:
        with _with_programs(image, folder) as complete, _layer(complete, folder) as layer:
            image_id = write_archive(
                folder / "image.tar",
                name=image.name,
                layer=layer,
                config={**image.config, "labels": labels},
                architecture=_OCI_ARCHITECTURES[debian.architecture()],
                epoch=settings().source_date_epoch,
            )
        built = BuiltImage(
            name=image.name,
            debian=image.debian,
            id=image_id,
            digest=oci.digest(folder / "image.tar"),
            tag=image_tag(image.name, image_id),
            archive=cache.entry(_KIND, name) / "image.tar",
            key=key,
            changed=True,
        )
        built.describe(folder)
    return built


@contextmanager
def _with_programs(image: Image, folder: Path) -> Iterator[Image]:
    """Give the image with its Go programs as one more folder to lay over it; says in `folder` what they are made of."""
    if not image.go:
        yield image
        return
    with tempfile.TemporaryDirectory(prefix="caisson-image-", dir=project.LARGE_TEMPORARY) as overlay:
        programs = Path(overlay) / "usr" / "bin"
        golang.build(image.go, image.folder, programs, debian.architecture())
        (folder / _MODULES).write_text(golang.modules(programs, debian.architecture()), encoding="utf-8")
        yield replace(image, overlays=[*image.overlays, Path(overlay)])


def _layer(image: Image, folder: Path) -> AbstractContextManager[IO[bytes]]:
    """Return the image's files as a tar stream; the Debian packages among them are listed in `folder`."""
    records = folder / "packages.txt"
    if image.variant == SCRATCH:
        write_records(records, [])
        return scratch.packed_files(image)
    return packed_root(image, records=records, log=folder / "build.log")


def _compare_with_record(image: Image, built: BuiltImage, say: Say) -> None:
    recorded = read_records(image.record)
    if recorded and (names := differing(recorded, read_records(built.packages), debian.architecture())):
        say(
            f"{image.name} for Debian {image.debian}: {len(names)} packages are not those of "
            f"{image.record.relative_to(ROOT)} any more ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
            f"what was built: {built.packages}"
        )
