"""What image.yml and package.yml of the folders in images/ and src/ say, checked and with inheritance resolved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from builder.errors import BuildError
from builder.project import ROOT, read_yaml, settings

_TEXTS = {"type": "array", "items": {"type": "string"}}
_BY_RELEASE = {"type": "object", "additionalProperties": _TEXTS}
_RELEASES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_TEXT_MAP = {"type": "object", "additionalProperties": {"type": "string"}}

_GO = {
    "type": "object",
    "additionalProperties": False,
    "required": ["programs"],
    "properties": {
        "module": {"type": "string"},
        "programs": {**_TEXT_MAP, "minProperties": 1},
        "tags": _TEXTS,
        "variables": _TEXT_MAP,
        "files": _TEXT_MAP,
    },
}
_GO_MODULES = {"oneOf": [_GO, {"type": "array", "items": _GO, "minItems": 1}]}

_PACKAGE_FOLDERS = ("src", "images")
PACKAGE_BUILDER = "package_builder"
SCRATCH = "scratch"
"""The variant of an image that no Debian is in."""

IMAGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["description", "releases"],
    "properties": {
        "description": {"type": "string"},
        "from": {"type": "string"},
        "releases": _RELEASES,
        "variant": {"enum": ["essential", "minbase", "scratch"]},
        "packages": _BY_RELEASE,
        "extract": _BY_RELEASE,
        "prefetch": _BY_RELEASE,
        "exclude": _TEXTS,
        "python_requirements": {"type": "string"},
        "go": _GO_MODULES,
        "steps": {"type": "array", "items": _TEXTS},
        "remove": _TEXTS,
        "apt": {"type": "boolean"},
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "user": {"type": "string"},
                "working_dir": {"type": "string"},
                "stop_signal": {"type": "string"},
                "entrypoint": _TEXTS,
                "cmd": _TEXTS,
                "env": _TEXT_MAP,
                "labels": _TEXT_MAP,
            },
        },
    },
}

PACKAGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["description", "package", "releases", "architecture", "sources"],
    "properties": {
        "description": {"type": "string"},
        "package": {"type": "string"},
        "releases": _RELEASES,
        "architecture": {"enum": ["any", "all"]},
        "sources": _TEXTS,
        "depends": _TEXTS,
        "image": {"type": "string"},
        "build": _TEXTS,
        "go": _GO_MODULES,
        "artefacts": _TEXT_MAP,
        "maintainer_scripts": {
            "type": "object",
            "propertyNames": {"enum": ["preinst", "postinst", "prerm", "postrm"]},
            "additionalProperties": {"type": "string"},
        },
    },
}


@dataclass(frozen=True)
class GoPrograms:
    """Programs that are compiled from a Go module beside the description, and what it requires."""

    programs: dict[str, str]
    """Name -> the Go package of its main function, such as ./cmd/x or that of a required module."""
    tags: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Variables of Go packages that are set when linking, such as a version."""
    files: dict[str, str] = field(default_factory=dict)
    """Name -> a file or folder taken as it is: a required module's path, a colon, the file's path in the module."""
    module: str = "."
    """The folder of the module, seen from the description."""


@dataclass(frozen=True)
class Image:
    """An image of one Debian release."""

    name: str
    debian: str
    variant: str
    packages: list[str]
    """Installed."""
    extract: list[str]
    """Unpacked without what they depend on and without being installed."""
    prefetch: list[str]
    """Laid into apt's archive with what they depend on, so that installing them later downloads nothing."""
    exclude: list[str]
    """dpkg's path-exclude (or, with a leading !, path-include) patterns."""
    requirements: list[Path]
    """Locks of Python packages; their wheels are unpacked into dist-packages."""
    overlays: list[Path]
    """Folders whose files are laid over the root, in this order."""
    steps: list[list[str]]
    """Commands run inside the root."""
    remove: list[str]
    """Glob patterns of what does not stay in the image."""
    apt: bool
    """Whether apt is left ready to use, with the mirrors the image was built from."""
    config: dict[str, Any]
    go: list[GoPrograms] = field(default_factory=list)
    """Laid into /usr/bin."""

    @property
    def folder(self) -> Path:
        """Return images/<name>."""
        return ROOT / "images" / self.name

    @property
    def record(self) -> Path:
        """Return the committed record of the image's packages."""
        return self.folder / f"packages.{self.debian}.lock"


@dataclass(frozen=True)
class Package:
    """A Debian package made from folders of src/ and from Go modules, for one Debian release."""

    name: str
    debian: str
    postgresql: int
    package: str
    description: str
    architecture: str
    sources: list[str]
    depends: list[str]
    build: list[str]
    """Shell commands, run in a copy of src/ with DESTDIR, DEBIAN and POSTGRESQL set."""
    artefacts: dict[str, str]
    """Name -> a file of the builder image that tests want beside the package."""
    maintainer_scripts: dict[str, str]
    go: list[GoPrograms] = field(default_factory=list)
    image: str = PACKAGE_BUILDER
    """The image in which it is built."""


def image_names() -> list[str]:
    """Return the names of all images."""
    return sorted(path.parent.name for path in (ROOT / "images").glob("*/image.yml"))


def package_names() -> list[str]:
    """Return the names of all components that become Debian packages."""
    return sorted(path.parent.name for path in ROOT.glob("*/*/package.yml") if path.parts[-3] in _PACKAGE_FOLDERS)


def package_folder(name: str, root: Path) -> Path:
    """Return the folder of a package's description: below src/ or, for what is built of others' sources, images/."""
    folders = [root / top / name for top in _PACKAGE_FOLDERS]
    return next((folder for folder in folders if (folder / "package.yml").is_file()), folders[0])


def image_releases(name: str) -> list[str]:
    """Return the Debian releases that an image can be made of, the usual one last."""
    return list(_read(ROOT / "images" / name / "image.yml", IMAGE_SCHEMA)["releases"])


def package_releases(name: str) -> list[str]:
    """Return the Debian releases that a package can be built for, the usual one last."""
    return list(_read(package_folder(name, ROOT) / "package.yml", PACKAGE_SCHEMA)["releases"])


def load_image(name: str, debian: str) -> Image:
    """Read images/<name>/image.yml and what it builds on; `{postgresql}` in a package's name is the release's."""
    chain = _chain(name)
    if debian not in chain[-1]["releases"]:
        raise BuildError(f"image {name} is not described for Debian {debian}, only for {chain[-1]['releases']}")
    if above := [level["name"] for level in chain[:-1] if "go" in level]:
        raise BuildError(f"image {name} cannot build on {above[0]}: Go programs are not inherited")
    folders = [ROOT / "images" / level["name"] for level in chain]
    config: dict[str, Any] = {}
    for level in chain:
        for key, value in level.get("config", {}).items():
            config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value

    def by_release(key: str) -> list[str]:
        return [
            item.format(postgresql=settings().postgresql_versions[debian])
            for level in chain
            for part in ("all", debian)
            for item in level.get(key, {}).get(part, [])
        ]

    def joined(key: str) -> list[Any]:
        return [item for level in chain for item in level.get(key, [])]

    return Image(
        name=name,
        debian=debian,
        variant=next((level["variant"] for level in reversed(chain) if "variant" in level), "essential"),
        packages=by_release("packages"),
        extract=by_release("extract"),
        prefetch=by_release("prefetch"),
        exclude=joined("exclude"),
        requirements=[
            folder / level["python_requirements"]
            for folder, level in zip(folders, chain, strict=True)
            if "python_requirements" in level
        ],
        overlays=[folder / "files" for folder in folders if (folder / "files").is_dir()],
        steps=joined("steps"),
        remove=joined("remove"),
        apt=any(level.get("apt", False) for level in chain),
        config=config,
        go=_go(chain[-1]),
    )


def load_package(name: str, debian: str) -> Package:
    """Read a package.yml; `{debian}` and `{postgresql}` in it stand for the release and its PostgreSQL."""
    text = _read(package_folder(name, ROOT) / "package.yml", PACKAGE_SCHEMA)
    if debian not in text["releases"]:
        raise BuildError(f"package {name} is built on Debian {text['releases']}, not on {debian}")
    postgresql = settings().postgresql_versions[debian]

    def filled(value: str) -> str:
        return value.format(debian=debian, postgresql=postgresql)

    return Package(
        name=name,
        debian=debian,
        postgresql=postgresql,
        package=filled(text["package"]),
        description=text["description"].strip(),
        architecture=text["architecture"],
        sources=text["sources"],
        depends=[filled(item) for item in text.get("depends", [])],
        build=text.get("build", []),
        artefacts={key: filled(value) for key, value in text.get("artefacts", {}).items()},
        maintainer_scripts=text.get("maintainer_scripts", {}),
        go=_go(text),
        image=text.get("image", PACKAGE_BUILDER),
    )


def _go(text: dict[str, Any]) -> list[GoPrograms]:
    """Return what a description says of Go: one module, or a list of them."""
    said = text.get("go", [])
    return [GoPrograms(**one) for one in (said if isinstance(said, list) else [said])]


def _chain(name: str) -> list[dict[str, Any]]:
    """Return an image's description behind those of the images it builds on."""
    chain: list[dict[str, Any]] = []
    wanted: str | None = name
    while wanted is not None:
        if any(level["name"] == wanted for level in chain):
            raise BuildError(f"image {name} builds on itself, through {wanted}")
        level = _read(ROOT / "images" / wanted / "image.yml", IMAGE_SCHEMA)
        chain.insert(0, {**level, "name": wanted})
        wanted = level.get("from")
    return chain


def _read(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        raise BuildError(f"there is no {path.relative_to(ROOT)}")
    content = read_yaml(path)
    # the schemas are right, and looking at them takes longer than all else that finds a result
    if error := best_match(jsonschema.Draft202012Validator(schema).iter_errors(content)):
        where = "/".join(str(part) for part in error.absolute_path)
        raise BuildError(f"{path.relative_to(ROOT)}: {where or 'top level'}: {error.message}")
    return content
