"""Builds images into the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from builder import cache, debian, engine
from builder.archive import image_tag, write_archive
from builder.description import Image, load_image
from builder.project import ROOT, settings
from builder.records import differing, read_records, write_records
from builder.rootfs import packed_root

_KIND = "images"
_OCI_ARCHITECTURES = {"amd64": "amd64", "arm64": "arm64"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache."""

    name: str
    debian: str
    id: str
    """`sha256:` and 64 hex digits; the same inputs give the same id."""
    tag: str
    archive: Path
    """A Docker archive, for `docker load`."""
    key: str
    """Digest of everything that goes into the image."""
    changed: bool
    """Whether it was built just now."""

    @property
    def packages(self) -> Path:
        """Return the list of the Debian packages that went into the image."""
        return self.archive.with_name("packages.txt")

    def to_json(self) -> dict[str, object]:
        """Return the image as plain data."""
        return {**asdict(self), "archive": str(self.archive)}

    def describe(self, folder: Path) -> None:
        """Write the image's description beside its archive."""
        (folder / "image.json").write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

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
    return cache.digest({
        "description": {**asdict(image), "overlays": [], "requirements": []},
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
    return BuiltImage(**{**found, "archive": folder / "image.tar", "changed": False})


def _build(image: Image) -> BuiltImage:
    key = image_key(image)
    name = _entry_name(image, key)
    labels = {"caisson.image": image.name, "caisson.debian": image.debian, **image.config.get("labels", {})}
    with cache.new_entry(_KIND, name) as folder:
        with packed_root(image, records=folder / "packages.txt", log=folder / "build.log") as layer:
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
            tag=image_tag(image.name, image_id),
            archive=cache.entry(_KIND, name) / "image.tar",
            key=key,
            changed=True,
        )
        built.describe(folder)
    return built


def _compare_with_record(image: Image, built: BuiltImage, say: Say) -> None:
    recorded = read_records(image.record)
    if recorded and (names := differing(recorded, read_records(built.packages), debian.architecture())):
        say(
            f"{image.name} for Debian {image.debian}: {len(names)} packages are not those of "
            f"{image.record.relative_to(ROOT)} any more ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
            f"what was built: {built.packages}"
        )
