"""Debian packages: control file, build script, keys."""

from dataclasses import replace

import pytest

from builder import packages
from builder.description import Package

PACKAGE = Package(
    name="x",
    debian="13",
    postgresql=17,
    package="postgresql-17-x",
    description="summary\nfirst line\n\nlast line",
    architecture="any",
    sources=["x"],
    depends=["postgresql-17", "python3"],
    build=["make install"],
    artefacts={"tool": "/usr/lib/a tool"},
    maintainer_scripts={},
)


def test_control_file_is_what_dpkg_expects() -> None:
    text = packages.control_file(PACKAGE, "1.0+ab", "amd64")
    assert "Package: postgresql-17-x\nVersion: 1.0+ab\nArchitecture: amd64\n" in text
    assert "Depends: postgresql-17, python3\n" in text
    assert text.endswith("Description: summary\n first line\n .\n last line\n")
    assert "Architecture: all\n" in packages.control_file(replace(PACKAGE, architecture="all"), "1", "amd64")
    assert "Depends" not in packages.control_file(replace(PACKAGE, depends=[]), "1", "amd64")


def test_artefacts_with_odd_names_are_quoted() -> None:
    assert "cp '/usr/lib/a tool' /build/out/tool" in packages._script(PACKAGE)


def test_the_key_follows_the_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "image_key", lambda _image: "image")
    key = packages.package_key(PACKAGE)
    assert packages.package_key(replace(PACKAGE)) == key
    assert packages.package_key(replace(PACKAGE, build=["make"])) != key
    monkeypatch.setattr(packages, "image_key", lambda _image: "another image")
    assert packages.package_key(PACKAGE) != key
