"""Builds Debian packages of our components, in a container without a network."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import cache, debian, engine, golang, project, sbom
from builder.description import Package, load_image, load_package, package_folder
from builder.images import Say, build_image, image_key
from builder.project import ROOT, settings

_KIND = "packages"
BILL = "sbom.cdx.json"
"""The file beside a result that says what it was made of."""
_BUILD_USER = 10000
"""Who compiles in the container when the builder itself runs as root."""


@dataclass(frozen=True)
class BuiltPackage:
    """A Debian package in the cache."""

    name: str
    debian: str
    package: str
    """The package's name for apt, such as postgresql-17-plcontainer."""
    version: str
    deb: Path
    sha256: str
    depends: list[str]
    """The names of the packages that it needs."""
    artefacts: dict[str, str]
    """Name -> path of a file that tests want beside the package, such as pg_regress."""
    changed: bool
    """Whether it was built just now."""

    @property
    def bill(self) -> Path | None:
        """Return the list of the modules in its programs, when others' modules are."""
        path = self.deb.with_name(BILL)
        return path if path.is_file() else None

    def unpacked(self) -> Path:
        """Return a folder with the package's files, for use on this machine without installing it."""
        folder = self.deb.with_name("root")
        with cache.locked(f"unpacked-{self.name}-{self.debian}"):
            if not folder.is_dir():
                unfinished = self.deb.with_name("root.unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                subprocess.run(["dpkg-deb", "--extract", str(self.deb), str(unfinished)], check=True)
                unfinished.rename(folder)
        return folder

    def to_json(self) -> dict[str, object]:
        """Return the package as plain data; artefacts are keys of their own."""
        plain = asdict(self)
        artefacts = plain.pop("artefacts")
        return {**plain, **artefacts, "deb": str(self.deb)}


def find_package(name: str, release: str) -> BuiltPackage | None:
    """Return a package that is in the cache and up to date, or None."""
    return _cached(load_package(name, release))


def build_package(name: str, release: str, *, say: Say) -> BuiltPackage:
    """Build a package unless it is in the cache."""
    package = load_package(name, release)
    with cache.locked(f"package-{name}-{release}"):
        if found := _cached(package):
            return found
        image = build_image(package.image, release, say=say)
        image.load()
        built = _build(package, image.tag)
        cache.prune(_KIND, f"{name}-{release}")
    return built


def package_key(package: Package) -> str:
    """Return the digest of everything that goes into a package."""
    return cache.digest({
        "description": asdict(package),
        "sources": {name: cache.tree_digest(ROOT / "src" / name) for name in sorted(set(package.sources))},
        "own": cache.tree_digest(package_folder(package.name, ROOT)),
        "builder": cache.file_digest(Path(__file__)),
        "go": [golang.toolchain_key(), cache.file_digest(Path(sbom.__file__))] if package.go else "",
        "image": image_key(load_image(package.image, package.debian)),
        "version": project.version(),
        "epoch": settings().source_date_epoch,
    })  # fmt: skip


def control_file(package: Package, version: str, architecture: str) -> str:
    """Return the contents of DEBIAN/control."""
    summary, *rest = package.description.splitlines()
    fields = {
        "Package": package.package,
        "Version": version,
        "Architecture": architecture if package.architecture == "any" else "all",
        "Maintainer": "Caisson <root@localhost>",
        "Section": "database",
        "Priority": "optional",
        "Depends": ", ".join(package.depends),
        "Description": "\n ".join([summary, *(line or "." for line in rest)]),
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def _version(key: str) -> str:
    """Return a version that differs whenever the contents may."""
    return f"{project.version()}+{key[:12]}"


def _cached(package: Package) -> BuiltPackage | None:
    folder = cache.entry(_KIND, _entry_name(package))
    description = folder / "package.json"
    if not description.is_file():
        return None
    cache.mark_used(folder)
    found = json.loads(description.read_text(encoding="utf-8"))
    artefacts = {name: str(folder / name) for name in package.artefacts}
    return BuiltPackage(**{**found, "deb": folder / found["deb"], "artefacts": artefacts, "changed": False})


def _entry_name(package: Package) -> str:
    return f"{package.name}-{package.debian}-{package_key(package)[:12]}"


def _build(package: Package, image: str) -> BuiltPackage:
    version = _version(package_key(package))
    with cache.new_entry(_KIND, _entry_name(package)) as folder:
        with tempfile.TemporaryDirectory(prefix="caisson-package-", dir=project.LARGE_TEMPORARY) as workspace:
            deb = _build_in_container(package, version, image, Path(workspace), folder)
        built = BuiltPackage(
            name=package.name,
            debian=package.debian,
            package=package.package,
            version=version,
            deb=Path(deb.name),
            sha256=cache.file_digest(deb),
            depends=[item.split()[0] for item in package.depends],
            artefacts={},
            changed=True,
        )
        (folder / "package.json").write_text(
            json.dumps({**asdict(built), "deb": deb.name}, indent=2) + "\n", encoding="utf-8"
        )
    found = _cached(package)
    assert found is not None
    return BuiltPackage(**{**found.__dict__, "changed": True})


def _build_in_container(package: Package, version: str, image: str, workspace: Path, target: Path) -> Path:
    """Run the package's commands; the package and its artefacts are moved to `target`. Returns the package's path."""
    architecture = debian.architecture()
    (workspace / "src").mkdir()
    for source in package.sources:
        _copy_source(ROOT / "src" / source, workspace / "src" / source)
    if package.go:
        golang.build(package.go, package_folder(package.name, ROOT), workspace / "go", architecture)
        _write_bill(package, version, workspace, target, architecture)
    control = workspace / "root" / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(control_file(package, version, architecture), encoding="utf-8")
    for name, script in package.maintainer_scripts.items():
        (control / name).write_text(f"#!/bin/sh\nset -e\n{script}", encoding="utf-8")
        (control / name).chmod(0o755)
    out = workspace / "out"
    out.mkdir()
    user = os.geteuid() or _BUILD_USER
    if os.geteuid() == 0:
        for path in (workspace, *workspace.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    environment = {
        "DEBIAN": package.debian,
        "DESTDIR": "/build/root",
        "GO_PROGRAMS": "/build/go",
        "HOME": "/build",
        "POSTGRESQL": str(package.postgresql),
        "SOURCE_DATE_EPOCH": str(settings().source_date_epoch),
    }
    options = ["--rm", "--network", "none", "--user", f"{user}:{user}", "--cap-drop", "ALL", "--workdir", "/build/src"]
    options += ["--security-opt", "no-new-privileges", "--volume", f"{workspace}:/build", "--label", "caisson.builder"]
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    engine.docker("run", *options, image, "sh", "-euc", _script(package))
    for path in out.iterdir():
        shutil.copyfile(path, target / path.name)
        (target / path.name).chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    return next(target.glob("*.deb"))


def _write_bill(package: Package, version: str, workspace: Path, target: Path, architecture: str) -> None:
    """Say in the package and beside it of which modules its programs were compiled."""
    bill = sbom.document(
        package.package, version, "application", *sbom.of_go(golang.modules(workspace / "go", architecture))
    )
    documentation = workspace / "root" / "usr/share/doc" / package.package
    documentation.mkdir(parents=True)
    for folder in (documentation, target):
        (folder / BILL).write_text(bill, encoding="utf-8")


def _script(package: Package) -> str:
    """Return the shell script that runs in the container."""
    artefacts = [f"cp {shlex.quote(path)} /build/out/{shlex.quote(name)}" for name, path in package.artefacts.items()]
    return "\n".join([
        "umask 022",
        *package.build,
        *artefacts,
        # directories and files that the build made carry its time
        'find "$DESTDIR" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +',
        # by zstd: xz takes minutes for what Go compiles
        'dpkg-deb --root-owner-group -Zzstd -z9 --build "$DESTDIR" /build/out',
    ])  # fmt: skip


def _copy_source(source: Path, target: Path) -> None:
    for file in cache.tree_files(source):
        path = target / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path, follow_symlinks=False)
