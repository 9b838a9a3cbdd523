"""image.yml and package.yml: inheritance, and messages for what is wrong."""

from pathlib import Path

import jsonschema
import pytest

from builder import description
from builder.description import image_names, image_releases, load_image, load_package, package_names, package_releases
from builder.errors import BuildError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(description, "ROOT", tmp_path)
    return tmp_path


def image(root: Path, name: str, text: str) -> None:
    folder = root / "images" / name
    folder.mkdir(parents=True)
    (folder / "image.yml").write_text(f"description: {name}\nreleases: ['13']\n{text}")


def test_an_image_has_what_it_builds_on(project: Path) -> None:
    image(project, "base", "packages: {all: [a]}\nconfig: {cmd: [sh], env: {X: '1', Y: '1'}}\nremove: [r]")
    image(
        project, "child", "from: base\npackages: {all: [b], '13': [c], '12': [d]}\nconfig: {cmd: [py], env: {Y: '2'}}"
    )
    (project / "images/base/files").mkdir()
    (project / "images/child/files").mkdir()
    child = load_image("child", "13")
    assert child.packages == ["a", "b", "c"]
    assert child.config == {"cmd": ["py"], "env": {"X": "1", "Y": "2"}}
    assert child.remove == ["r"]
    assert child.variant == "essential"
    assert [folder.parent.name for folder in child.overlays] == ["base", "child"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("packets: []", r"images/x/image.yml: top level: .*'packets' was unexpected"),
        ("packages: {all: [1]}", r"images/x/image.yml: packages/all/0: 1 is not of type 'string'"),
        ("variant: huge", r"variant: 'huge' is not one of"),
        ("from: x", r"image x builds on itself"),
        ("from: y", r"there is no images/y/image.yml"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(project: Path, text: str, message: str) -> None:
    image(project, "x", text)
    with pytest.raises(BuildError, match=message):
        load_image("x", "13")


def test_programs_are_not_inherited(project: Path) -> None:
    image(project, "x", "variant: scratch\ngo: {programs: {p: ./cmd/p}, tags: [t]}\n")
    image(project, "y", "from: x")
    (go,) = load_image("x", "13").go
    assert (go.programs, go.tags) == ({"p": "./cmd/p"}, ["t"])
    with pytest.raises(BuildError, match="image y cannot build on x: Go programs are not inherited"):
        load_image("y", "13")


def test_a_release_that_is_not_described_is_refused(project: Path) -> None:
    image(project, "x", "")
    with pytest.raises(BuildError, match="not described for Debian 12"):
        load_image("x", "12")


def test_package_names_follow_the_releases_postgresql(project: Path) -> None:
    (project / "src/x").mkdir(parents=True)
    (project / "src/x/package.yml").write_text(
        "description: x\npackage: 'postgresql-{postgresql}-x'\nreleases: ['12', '13']\narchitecture: any\n"
        "sources: [x]\ndepends: ['postgresql-{postgresql}']\n"
    )
    assert load_package("x", "12").package == "postgresql-15-x"
    assert load_package("x", "13").depends == ["postgresql-17"]


def test_every_description_of_the_project_is_valid() -> None:
    assert {"base", "lab_host", "plpython", "package_builder"} <= set(image_names())
    for name in image_names():
        for release in image_releases(name):
            assert load_image(name, release).packages is not None
    assert {"plcontainer", "protocol_server", "runtime_python"} <= set(package_names())
    for name in package_names():
        for release in package_releases(name):
            assert load_package(name, release).package


@pytest.mark.parametrize("schema", [description.IMAGE_SCHEMA, description.PACKAGE_SCHEMA])
def test_schemas_are_right(schema: dict[str, object]) -> None:
    # whoever reads a description does not look at them
    jsonschema.Draft202012Validator.check_schema(schema)
