"""Debian's releases and mirrors, as this machine knows them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache

from builder.errors import BuildError
from builder.project import Settings, settings

SECURITY = "debian-security"
MAIN = "debian"


@dataclass(frozen=True)
class Source:
    """One line of an apt sources list."""

    uri: str
    suite: str
    options: str = ""

    def line(self) -> str:
        """Return the source in apt's one-line format."""
        options = f"[{self.options}] " if self.options else ""
        return f"deb {options}{self.uri} {self.suite} main"


def suite(debian: str) -> str:
    """Return the suite of a release: "13" -> "trixie"."""
    try:
        return settings().debian_suites[debian]
    except KeyError:
        known = ", ".join(settings().debian_suites)
        raise BuildError(f'Debian "{debian}" is not among the releases of settings/versions.yml: {known}') from None


@cache
def architecture() -> str:
    """Return this machine's Debian architecture, such as amd64."""
    return _output(["dpkg", "--print-architecture"]).strip()


@cache
def machine_mirrors() -> dict[str, str]:
    """Return the mirrors in this machine's apt configuration: archive (debian, debian-security) -> URI."""
    listing = _output(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
    )
    mirrors: dict[str, str] = {}
    for line in listing.splitlines():
        origin, label, uri = line.split("|", 2)
        if origin == "Debian" and uri.startswith(("http:", "https:", "mirror+", "file:")):
            mirrors.setdefault(SECURITY if label == "Debian-Security" else MAIN, uri.rstrip("/"))
    return mirrors


def sources(debian: str, config: Settings | None = None, machine: dict[str, str] | None = None) -> list[Source]:
    """Return where packages of a release come from.

    Settings come first, then the mirrors of this machine. An empty list (a machine that is no Debian and has no
    setting) leaves the choice to mmdebstrap.
    """
    config = config or settings()
    name = suite(debian)
    if config.debian_snapshot:
        main = config.debian_snapshot.format(archive=MAIN)
        security = config.debian_snapshot.format(archive=SECURITY)
        options = "check-valid-until=no"
    else:
        found = machine_mirrors() if machine is None else machine
        main = config.debian_mirror or found.get(MAIN, "")
        security = config.debian_security_mirror or found.get(SECURITY, "")
        options = ""
    if not main:
        return []
    result = [Source(main, name, options), Source(main, f"{name}-updates", options)]
    if security:
        result.append(Source(security, f"{name}-security", options))
    return result


@cache
def proxy_options() -> list[str]:
    """Return this machine's apt proxy settings as apt configuration lines."""
    dump = _output(["apt-config", "dump"])
    return [line for line in dump.splitlines() if "::proxy" in line.lower() and not line.endswith(' "";')]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
