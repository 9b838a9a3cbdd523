"""What every folder that compiles Go modules promises: pinned, whole, and each version written once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from builder import golang
from builder.description import (
    GoPrograms,
    image_names,
    image_releases,
    load_image,
    load_package,
    package_folder,
    package_names,
    package_releases,
)

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = re.compile(r"^(?:require)?\s*(\S+) (v\d\S*)$", re.MULTILINE)
NUMBER = re.compile(r"\d+\.\d+")


def modules() -> list[tuple[Path, GoPrograms]]:
    """Return the folder of every module, and what is taken from it."""
    described = [(ROOT / "images" / name, load_image(name, image_releases(name)[-1]).go) for name in image_names()]
    described += [
        (package_folder(name, ROOT), load_package(name, package_releases(name)[-1]).go) for name in package_names()
    ]
    return [(folder / one.module, one) for folder, go in described for one in go]


MODULES = modules()
IDS = [folder.relative_to(ROOT).as_posix() for folder, _ in MODULES]


@pytest.mark.parametrize(("folder", "go"), MODULES, ids=IDS)
def test_a_module_is_pinned_and_written_for_the_toolchain(folder: Path, go: GoPrograms) -> None:
    text = (folder / "go.mod").read_text(encoding="utf-8")
    assert f"\ngo {golang.version().rpartition('.')[0]}.0\n" in text
    assert "://" not in text
    sums = (folder / "go.sum").read_text(encoding="utf-8")
    assert all(len(line.split()) == 3 and line.split()[2].startswith("h1:") for line in sums.splitlines())
    replaced = set(re.findall(r"^\t?(?:replace )?(\S+)(?: v\S+)? =>", text, re.MULTILINE))
    for module, version in REQUIRED.findall(text):
        assert module in replaced or f"{module} {version}/go.mod h1:" in sums or f"{module} {version} h1:" in sums


@pytest.mark.parametrize(("folder", "go"), MODULES, ids=IDS)
def test_programs_are_those_of_what_is_required(folder: Path, go: GoPrograms) -> None:
    required = dict(REQUIRED.findall((folder / "go.mod").read_text(encoding="utf-8")))
    kept = (folder / "tools.go").read_text(encoding="utf-8") if (folder / "tools.go").is_file() else ""
    for package in go.programs.values():
        if package.startswith("./"):
            assert list((folder / package).glob("*.go")), package
        else:
            assert any(f"{package}/".startswith(f"{module}/") for module in required), package
            assert f'_ "{package}"\n' in kept, f"{package}: without tools.go `go mod tidy` forgets it"
    for name, value in go.variables.items():
        assert not NUMBER.search(value), f"{name}: {{module}} stands for the version that go.mod has"


def test_versions_of_programs_are_in_go_mod_alone() -> None:
    """A program's version changes in one place: nothing else may repeat it."""
    versions = set()
    for folder, go in MODULES:
        direct = (folder / "go.mod").read_text(encoding="utf-8").partition("// indirect")[0]
        wanted = {package.split(":")[0] for package in [*go.programs.values(), *go.files.values()]}
        for module, version in REQUIRED.findall(direct):
            if any(f"{package}/".startswith(f"{module}/") for package in wanted):
                versions.add(version.removeprefix("v"))
    assert versions
    tracked = subprocess.run(
        ["git", "ls-files", "roles", "settings", "playbooks", "inventories", "infra", "stacks", "Makefile", "*.yml"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        if (path := ROOT / name).is_file() and path.suffix in (".yml", ".yaml", ".py", ".j2", ""):
            words = set(re.findall(r"\d+\.\d+\.\d+", path.read_text(encoding="utf-8")))
            assert not words & versions, name
