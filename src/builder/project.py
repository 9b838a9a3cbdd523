"""Where the project lies, and what its settings say to the builder."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]

LARGE_TEMPORARY = Path("/var/tmp")  # noqa: S108 - only ever used by tempfile and mmdebstrap
"""Where whole root file systems fit for a while: /tmp is in memory on Debian 13."""


@dataclass(frozen=True)
class Settings:
    """The part of settings/ that builds depend on."""

    debian_suites: dict[str, str]
    """Debian release ("13") -> suite ("trixie")."""
    debian_mirror: str
    debian_security_mirror: str
    debian_snapshot: str
    """URL with `{archive}`, or empty."""
    source_date_epoch: int
    """Seconds since 1970; no file in an image is younger."""
    postgresql_versions: dict[str, int]
    """Debian release -> PostgreSQL major version."""


@cache
def settings() -> Settings:
    """Read settings/images.yml and settings/versions.yml."""
    images = read_yaml(ROOT / "settings" / "images.yml")
    versions = read_yaml(ROOT / "settings" / "versions.yml")
    return Settings(
        debian_suites=dict(versions["builder_debian_suites"]),
        debian_mirror=images["builder_debian_mirror"],
        debian_security_mirror=images["builder_debian_security_mirror"],
        debian_snapshot=images["builder_debian_snapshot"],
        source_date_epoch=int(images["builder_source_date_epoch"]),
        postgresql_versions=dict(versions["segment_host_postgresql_versions"]),
    )


@cache
def version() -> str:
    """Return the distribution's version, as pyproject.toml has it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    with path.open(encoding="utf-8") as file:
        content = yaml.safe_load(file)
    if not isinstance(content, dict):
        raise TypeError(f"{path}: a mapping is expected")
    return content
