"""The builder's command line: `python -m builder`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from builder import cache
from builder.description import SCRATCH, image_names, image_releases, load_image, package_names, package_releases
from builder.disks import BuiltDisk, build_disk, disk_names
from builder.errors import BuildError
from builder.images import BuiltImage, build_image, record_packages
from builder.packages import BuiltPackage, build_package
from builder.programs import find_program

_PARALLEL = 2
"""Builds at a time: each keeps a processor and a disk busy."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except BuildError as error:
        print(f"builder: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m builder", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    image = commands.add_parser("image", help="build an image into the cache")
    image.add_argument("name", choices=image_names())
    image.add_argument("--fresh", action="store_true", help="build it even if the cache has it")
    image.add_argument("--load", action="store_true", help="load it into this machine's Docker")
    image.add_argument("--oci", action="store_true", help="write it as an OCI archive, too, and print its path")
    image.set_defaults(run=_image)

    package = commands.add_parser("package", help="build a Debian package of a component into the cache")
    package.add_argument("name", choices=package_names())
    package.set_defaults(run=_package)

    disk = commands.add_parser("disk", help="make the disk of a virtual machine from an image")
    disk.add_argument("name", choices=disk_names())
    disk.set_defaults(run=_disk)
    for command in (image, package, disk):
        command.add_argument("--debian", metavar="RELEASE", help="Debian release (the usual one of the result)")
        command.add_argument("--json", action="store_true", help="describe the result as JSON")

    everything = commands.add_parser("all", help="build several results, two at a time")
    everything.add_argument("results", nargs="+", metavar="NAME[/RELEASE]", help="an image or a package")
    everything.set_defaults(run=_all)

    record = commands.add_parser("record", help="build images anew and record their Debian packages in images/")
    record.add_argument("names", nargs="*", metavar="NAME", help="all images by default")
    record.set_defaults(run=_record)

    bill = commands.add_parser("sbom", help="print what an image or a package is made of, as CycloneDX")
    bill.add_argument("name", choices=sorted({*image_names(), *package_names()}))
    bill.add_argument("--debian", metavar="RELEASE", help="Debian release (the usual one of the result)")
    bill.set_defaults(run=_bill)

    program = commands.add_parser("program", help="print the path of a program: that on PATH, else ours")
    program.add_argument("name")
    program.add_argument("--own", action="store_true", help="ours even where there is one on PATH")
    program.set_defaults(run=_program)

    clean = commands.add_parser("clean", help="empty the cache")
    clean.set_defaults(run=_clean)
    return parser


def _image(options: argparse.Namespace) -> None:
    built = build_image(options.name, options.debian or image_releases(options.name)[-1], say=_say, fresh=options.fresh)
    if options.load:
        built.load()
    _show(options, built, str(built.oci_archive()) if options.oci else built.tag)


def _package(options: argparse.Namespace) -> None:
    built = build_package(options.name, options.debian or package_releases(options.name)[-1], say=_say)
    _show(options, built, str(built.deb))


def _disk(options: argparse.Namespace) -> None:
    built = build_disk(options.name, options.debian or image_releases(options.name)[-1], say=_say)
    _show(options, built, str(built.disk))


def _show(options: argparse.Namespace, built: BuiltImage | BuiltPackage | BuiltDisk, brief: str) -> None:
    print(json.dumps(built.to_json(), indent=2) if options.json else brief)


def _all(options: argparse.Namespace) -> None:
    started = time.monotonic()

    def build(result: str) -> str:
        begun = time.monotonic()
        name, _, release = result.partition("/")
        if name in image_names():
            release = release or image_releases(name)[-1]
            changed = build_image(name, release, say=_say).changed
        else:
            release = release or package_releases(name)[-1]
            changed = build_package(name, release, say=_say).changed
        return f"  {name} for Debian {release}: {time.monotonic() - begun:.0f} s" if changed else ""

    with ThreadPoolExecutor(_PARALLEL) as pool:
        for built in as_completed([pool.submit(build, result) for result in options.results]):
            if line := built.result():
                print(line, flush=True)
    print(f"Build images and packages: {time.monotonic() - started:.0f} s", flush=True)


def _record(options: argparse.Namespace) -> None:
    for name in options.names or image_names():
        for release in image_releases(name):
            if load_image(name, release).variant == SCRATCH:
                continue
            record_packages(name, release, say=_say)


def _bill(options: argparse.Namespace) -> None:
    if options.name in image_names():
        release = options.debian or image_releases(options.name)[-1]
        print(build_image(options.name, release, say=_say).bill(), end="")
        return
    package = build_package(options.name, options.debian or package_releases(options.name)[-1], say=_say)
    if package.bill is None:
        raise BuildError(f"package {options.name} is made of the project's own files alone")
    print(package.bill.read_text(encoding="utf-8"), end="")


def _program(options: argparse.Namespace) -> None:
    print(find_program(options.name, say=_say, own=options.own))


def _clean(_: argparse.Namespace) -> None:
    shutil.rmtree(cache.root(), ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
