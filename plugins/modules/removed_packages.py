#!/usr/bin/python
"""Remove packages that provisioning brought, and what only they needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removed_packages
short_description: Remove packages that provisioning brought
description:
  - Removes packages with their configuration. A package that was there before the host was provisioned stays, as it is
    written down on the host. What the removed ones needed is marked as installed for their sake alone.
  - With O(unneeded=true) everything goes, too, that came since and that nothing needs which is to stay - what was there
    before, and what others have installed on their own.
options:
  names:
    description: Packages; shell patterns are understood.
    type: list
    elements: str
    default: []
  keep_configuration:
    description: Packages, as patterns, whose configuration and data stay.
    type: list
    elements: str
    default: []
  unneeded:
    description: Remove what nothing needs any more. For the end, when every role has removed its own.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Remove Docker
  removed_packages:
    names: [docker.io, docker-cli]
"""

RETURN = r"""
removed:
  description: Packages that are gone, or would be.
  returned: always
  type: list
  elements: str
"""

import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.origin import load

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
APT = ["apt-get", "--assume-yes", "--quiet", "--option=Dpkg::Use-Pty=0", "--option=DPkg::Lock::Timeout=60"]

# Built by the project, and copied to hosts outside of apt.
OWN = ["caisson-*", "postgresql-*-plcontainer"]
ARCHIVES = Path("/var/cache/apt/archives")
FIELDS = "${db:Status-Status}\\t${Package}\\t${Pre-Depends}, ${Depends}\\t${Recommends}\\t${Provides}\\n"

# Each is removed by the role that brought it, in its way, never for the sake of another: with one of them data go.
SETTLED = ["caisson-*", "postgresql*", "docker*", "containerd*", "runc*"]


def matches(name: str, patterns: list[str]) -> bool:
    """Tell whether one of the patterns is meant."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def known(listing: str) -> dict[str, str]:
    """Return packages with their states, from lines ``status name``; without those that are gone."""
    rows = (line.partition(" ") for line in listing.splitlines())
    return {name: status for status, _, name in rows if status != "not-installed"}


def unneeded(simulation: str) -> set[str]:
    """Return what apt would remove, from what it says to --simulate."""
    rows = (line.split() for line in simulation.splitlines())
    return {row[1].partition(":")[0] for row in rows if row[:1] == ["Remv"] or row[:1] == ["Purg"]}


def removable(names: set[str]) -> set[str]:
    """Return those that may go because nothing needs them any more."""
    return {name for name in names if not matches(name, SETTLED)}


def dependencies(listing: str) -> set[str]:
    """Return the names in lines like those of the field Depends, alternatives included."""
    found = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", listing, re.MULTILINE)
    return set(found)


@dataclass(frozen=True)
class Package:
    """What an installed package needs: groups of alternatives, each enough."""

    needs: list[list[str]]
    recommends: list[list[str]]
    provides: list[str]


def alternatives(field: str) -> list[list[str]]:
    """Return the names in a field like Depends, one list for each group of alternatives."""
    groups = ([re.split(r"[\s(:]", one.strip())[0] for one in group.split("|")] for group in field.split(","))
    return [group for group in groups if group[0]]


def installed(listing: str) -> dict[str, Package]:
    """Return the packages that are installed, from lines with the fields of FIELDS."""
    found = {}
    for line in listing.splitlines():
        status, name, needs, recommends, provides = line.split("\t")
        if status == "installed":
            given = [group[0] for group in alternatives(provides)]
            found[name] = Package(alternatives(needs), alternatives(recommends), given)
    return found


def needed(roots: Iterable[str], packages: dict[str, Package], before: set[str]) -> set[str]:
    """Return the packages that have to stay for others' sake, those included."""
    providers: dict[str, set[str]] = defaultdict(set)
    for name, package in packages.items():
        for given in (name, *package.provides):
            providers[given].add(name)
    found: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name in found or name not in packages:
            continue
        found.add(name)
        package = packages[name]
        for group in package.needs + ([] if name in before else package.recommends):
            there = {provider for one in group for provider in providers[one]}
            # what was there before had all that it needed
            pending += there & before if name in before and there & before else there
    return found


def run(module: AnsibleModule, *command: str) -> str:
    """Return what a command says; end where it fails."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        module.fail_json(msg=f"{' '.join(command[:3])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def remove(module: AnsibleModule, names: list[str]) -> None:
    """Remove packages; the configuration of those that are to keep it stays."""
    along = unneeded(run(module, *APT, "remove", "--simulate", *names)) - set(names)
    if taken := sorted(along - removable(along)):
        module.fail_json(msg=f"{', '.join(taken)} would go with {', '.join(names)}; remove it in its own way first")
    keep = [name for name in names if matches(name, module.params["keep_configuration"])]
    purge = [name for name in names if name not in keep]
    if keep:
        run(module, *APT, "remove", *keep)
    if purge:
        run(module, *APT, "purge", *purge)
    for name in names:
        for copy in ARCHIVES.glob(f"{name}_*.deb") if matches(name, OWN) else ():
            copy.unlink()


def protected(configuration: str, kernel: str) -> list[str]:
    """Return the patterns of what apt never removes by itself, from its configuration; kernels are never ours."""
    rows = [line.split(" ", 1) for line in configuration.splitlines()]
    never = [row[1].strip(' ";') for row in rows if row[0] == "APT::NeverAutoRemove::"]
    of_kernel = [row[1].strip(' ";') for row in rows if row[0] == "APT::VersionedKernelPackages::"]
    return [*never, "^linux-(image|modules)-", *(f"^{pattern}-{re.escape(kernel)}$" for pattern in of_kernel)]


def leftovers(module: AnsibleModule, before: set[str]) -> list[str]:
    """Return the packages that came since the host was provisioned and that nothing needs which is to stay."""
    packages = installed(run(module, "dpkg-query", "--show", f"--showformat={FIELDS}"))
    others = set(run(module, "apt-mark", "showmanual").split()) - before
    # apt alone would keep whatever is one of several that could satisfy a dependency
    rest = packages.keys() - before - needed(before | others, packages, before)
    never = re.compile("|".join(protected(run(module, "apt-config", "dump"), platform.release())))
    return sorted(name for name in removable(rest) if not never.search(name))


def remove_leftovers(module: AnsibleModule, before: set[str], automatic: set[str]) -> bool:
    """Remove what nothing needs; let others count as what they were before. Return whether there was something."""
    rest = leftovers(module, before)
    manual = set(run(module, "apt-mark", "showmanual").split()) & automatic
    if not module.check_mode:
        if rest:
            remove(module, rest)
        if manual:
            run(module, "apt-mark", "auto", *sorted(manual))
    return bool(rest or manual)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "keep_configuration": {"type": "list", "elements": "str", "default": []},
            "unneeded": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    origin = load()
    before = set(origin.get("packages", []))
    show = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"]
    there = known(run(module, *show))
    kept = module.params["keep_configuration"]
    mine = sorted(
        name
        for name, status in there.items()
        if matches(name, module.params["names"])
        and name not in before
        and not (status == "config-files" and matches(name, kept))
    )
    changed = bool(mine)
    if mine and not module.check_mode:
        # roles name what their packages need; from here on it is there for their sake alone
        fields = run(module, "dpkg-query", "--show", "--showformat=${Depends}\\n", *mine)
        named = (dependencies(fields) & there.keys()) - before
        if automatic := sorted(name for name in named if not matches(name, SETTLED)):
            run(module, "apt-mark", "auto", *automatic)
        remove(module, mine)
    # of a host that nothing is known of nobody can tell what came since
    if module.params["unneeded"] and before:
        changed |= remove_leftovers(module, before, set(origin.get("automatic", [])))
    gone = set(mine) if module.check_mode else there.keys() - known(run(module, *show)).keys()
    module.exit_json(changed=changed, removed=sorted(gone))


if __name__ == "__main__":
    main()
