#!/usr/bin/python
"""Tell the state of the pieces of a host: services, packages, databases, disks, kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_status
short_description: Tell the state of the pieces of a host
description:
  - Changes nothing. Returns what was looked at as C(pieces), each with C(kind), C(name), C(state) in words and C(ok).
options:
  units:
    description: Units of systemd that are to be active.
    type: list
    elements: str
    default: []
  packages:
    description: Debian packages, each with the version that it is to have; an empty one is any.
    type: dict
    default: {}
  directories:
    description: Directories, each with the space (GiB) that is to be free there.
    type: dict
    default: {}
  databases:
    description: Databases that are to have C(extension) in its newest version.
    type: list
    elements: str
    default: []
  extension:
    description: The extension that the databases are to have.
    type: str
    default: ""
  postgresql_port:
    description: Port of the PostgreSQL to ask; 0 asks none.
    type: int
    default: 0
  images:
    description: Images that are to be on the host, each with its id.
    type: dict
    default: {}
  plcontainer:
    description: Whether to ask the command C(plcontainer) what it finds, and for the sandboxes.
    type: bool
    default: false
  compared:
    description: What other modules have compared, by its name, each with the differences that they have found.
    type: dict
    default: {}
  kernel:
    description: Whether to tell units that failed, and the state of SELinux, cgroups and huge pages.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at Docker
  host_status:
    units: [docker.service]
    packages: {docker.io: ""}
    directories: {/var/lib/docker: 5}
  register: found
"""

RETURN = r"""
pieces:
  description: What was looked at.
  returned: always
  type: list
  elements: dict
"""

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ROOT = Path("/")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
TIMEOUT_S = 30
EXTENSIONS = "SELECT name, installed_version, default_version FROM pg_available_extensions"

Piece = dict[str, Any]


def piece(kind: str, name: str, state: str, ok: bool = True) -> Piece:
    """Return a thing that was looked at."""
    return {"kind": kind, "name": name, "state": state, "ok": ok}


def output(*command: str, user: str | None = None) -> tuple[bool, str]:
    """Return whether a command succeeded, and what it said."""
    extra: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    try:
        done = subprocess.run(
            command, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False, timeout=TIMEOUT_S, **extra
        )
    except (OSError, KeyError, subprocess.TimeoutExpired) as error:
        return False, f"{command[0]}: {error}"
    return done.returncode == 0, done.stdout or done.stderr.strip()


def units(names: list[str]) -> list[Piece]:
    """Return the states of units."""
    if not names:
        return []
    properties = "--property=ActiveState,SubState,UnitFileState,NRestarts"
    _, shown = output("systemctl", "show", properties, *names)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    found = []
    for name, unit in zip(names, blocks + [{}] * (len(names) - len(blocks)), strict=True):
        state = unit.get("ActiveState", "unknown")
        words = [state, unit.get("UnitFileState") or "not there"]
        if unit.get("NRestarts", "0") not in ("0", ""):
            words.append(f"restarted {unit['NRestarts']} times")
        found.append(piece("service", name, ", ".join(words), state == "active"))
    return found


def packages(wanted: dict[str, Any]) -> list[Piece]:
    """Return the versions of packages."""
    if not wanted:
        return []
    _, listing = output("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n", *wanted)
    rows = [line.split(" ") for line in listing.splitlines()]
    installed = {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}
    found = []
    for name, version in wanted.items():
        there = installed.get(name, "")
        if not there:
            found.append(piece("package", name, "not installed", ok=False))
        elif version and there != version:
            found.append(piece("package", name, f"{there}, wanted is {version}", ok=False))
        else:
            found.append(piece("package", name, there))
    return found


def directories(wanted: dict[str, Any]) -> list[Piece]:
    """Return the space that is free in directories."""
    found = []
    for name, gib in wanted.items():
        try:
            space = os.statvfs(name)
        except OSError as error:
            found.append(piece("disk", name, str(error.strerror), ok=False))
            continue
        free = space.f_bavail * space.f_frsize / 2**30
        found.append(piece("disk", name, f"{free:.1f} GiB free, {float(gib):g} are needed", free >= float(gib)))
    return found


def databases(port: int, names: list[str], extension: str) -> list[Piece]:
    """Return the state of PostgreSQL, and the version of the extension in each database."""
    if not port:
        return []
    psql = ("psql", "-XAtq", f"--port={port}", "--no-password")
    ok, version = output(*psql, "--dbname=postgres", "--command=SHOW server_version", user="postgres")
    # who asks for databases is told of PostgreSQL itself only where it does not answer
    found = [] if ok and names else [piece("postgresql", str(port), version.strip() if ok else last_line(version), ok)]
    for name in names if ok else []:
        answered, rows = output(*psql, f"--dbname={name}", f"--command={EXTENSIONS}", user="postgres")
        row = next((line for line in rows.splitlines() if line.startswith(f"{extension}|")), "||")
        _, there, newest = row.split("|")
        if not answered:
            found.append(piece("extension", f"{extension} in {name}", last_line(rows), ok=False))
        elif not there:
            found.append(piece("extension", f"{extension} in {name}", "not there", ok=False))
        else:
            words = there if there == newest else f"{there}, wanted is {newest}"
            found.append(piece("extension", f"{extension} in {name}", words, there == newest))
    return found


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    return (text.strip().splitlines() or ["no answer"])[-1]


def images(wanted: dict[str, Any]) -> list[Piece]:
    """Return which images are on the host."""
    if not wanted:
        return []
    ok, text = output("plcontainer", "image-list", "--json")
    there = {row["id"] for row in json.loads(text)} if ok else set()
    return [
        piece(
            "image", name, f"{identifier}" if identifier in there else f"{identifier} is missing", identifier in there
        )
        for name, identifier in wanted.items()
    ]


def plcontainer() -> list[Piece]:
    """Return what the command `plcontainer` finds, and how many sandboxes wait or work."""
    _, text = output("plcontainer", "doctor", "--json")
    try:
        checks = json.loads(text)
    except ValueError:
        return [piece("plcontainer", "doctor", last_line(text), ok=False)]
    found = [piece("plcontainer", check["name"], check["detail"], check["state"] == "ok") for check in checks]
    ok, text = output("plcontainer", "containers", "--json")
    if not ok:
        return [*found, piece("plcontainer", "sandboxes", last_line(text), ok=False)]
    counts = Counter((row["runtime"], row["state"]) for row in json.loads(text))
    words = [f"{runtime}: {count} {state}" for (runtime, state), count in sorted(counts.items())]
    return [*found, piece("plcontainer", "sandboxes", ", ".join(words) or "none")]


def compared(found: dict[str, Any]) -> list[Piece]:
    """Return what other modules have compared: a line for each difference, or one that says that there is none."""
    return [
        piece("setting", name, str(words), ok=not differences)
        for name, differences in found.items()
        for words in differences or ["as asked"]
    ]


def read(path: Path) -> str:
    """Return the text of a file of the kernel, empty when there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def selinux(root: Path = ROOT) -> Piece:
    """Return the state of SELinux, and what the role selinux_policy was asked for."""
    enforce = read(root / "sys/fs/selinux/enforce")
    state = {"1": "enforcing", "0": "permissive"}.get(enforce, "not in this kernel or off")
    try:
        asked = str(json.loads(read(root / "etc/plcontainer/selinux.json"))["asked"])
    except (ValueError, KeyError, TypeError):
        return piece("kernel", "SELinux", state)
    return piece("kernel", "SELinux", f"{state}, asked for {asked}", asked != "enforcing" or state == "enforcing")


def kernel(root: Path = ROOT) -> list[Piece]:
    """Return the state of SELinux, cgroups and huge pages."""
    version = "2" if (root / "sys/fs/cgroup/cgroup.controllers").exists() else "1"
    controllers = read(root / "sys/fs/cgroup/cgroup.controllers")
    found = [
        selinux(root),
        piece("kernel", "cgroups", f"version {version}" + (f": {controllers}" if controllers else "")),
    ]
    for pool in sorted((root / "sys/kernel/mm/hugepages").glob("hugepages-*")):
        size = re.sub(r"\D", "", pool.name)
        total, free = read(pool / "nr_hugepages"), read(pool / "free_hugepages")
        if total not in ("", "0"):
            found.append(piece("kernel", f"huge pages of {size} KiB", f"{total}, {free} are free"))
    return found


def failed_units() -> list[Piece]:
    """Return the units that failed, whoever they belong to."""
    _, listing = output("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    names = [line.split()[0] for line in listing.splitlines() if line.split()]
    return [piece("service", name, "failed", ok=False) for name in names]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "dict", "default": {}},
            "directories": {"type": "dict", "default": {}},
            "databases": {"type": "list", "elements": "str", "default": []},
            "extension": {"type": "str", "default": ""},
            "postgresql_port": {"type": "int", "default": 0},
            "images": {"type": "dict", "default": {}},
            "plcontainer": {"type": "bool", "default": False},
            "compared": {"type": "dict", "default": {}},
            "kernel": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    found = units(wanted["units"]) + packages(wanted["packages"]) + directories(wanted["directories"])
    found += databases(wanted["postgresql_port"], wanted["databases"], wanted["extension"]) + images(wanted["images"])
    found += compared(wanted["compared"])
    if wanted["plcontainer"]:
        found += plcontainer()
    if wanted["kernel"]:
        found += kernel() + failed_units()
    module.exit_json(changed=False, pieces=found)


if __name__ == "__main__":
    main()
