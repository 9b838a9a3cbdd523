#!/usr/bin/python
"""Remove packages that provisioning brought, and what only they needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removed_packages
short_description: Remove packages that provisioning brought
description:
  - Removes packages with their configuration, and what was installed for their sake alone.
  - A package that was there before the host was provisioned stays, as it is written down on the host.
options:
  names:
    description: Packages; shell patterns are understood.
    type: list
    elements: str
    required: true
  keep_configuration:
    description: Packages, as patterns, whose configuration and data stay.
    type: list
    elements: str
    default: []
  keep_installed:
    description: Packages that stay although only the removed ones needed them, until they are named themselves.
    type: list
    elements: str
    default: []
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
  description: Packages that are gone.
  returned: always
  type: list
  elements: str
"""

import re
import subprocess
from fnmatch import fnmatch

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.origin import load

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
APT = [
    *("apt-get", "--assume-yes", "--quiet", "--option=Dpkg::Use-Pty=0", "--option=DPkg::Lock::Timeout=60"),
    # that something else would like to have it was no reason to install it
    *("--option=APT::AutoRemove::RecommendsImportant=false", "--option=APT::AutoRemove::SuggestsImportant=false"),
]


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


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "keep_configuration": {"type": "list", "elements": "str", "default": []},
            "keep_installed": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    before = set(load().get("packages", []))
    show = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"]
    there = known(run(module, *show))
    kept = module.params["keep_configuration"]
    mine = [
        name
        for name, status in there.items()
        if matches(name, module.params["names"])
        and name not in before
        and not (status == "config-files" and matches(name, kept))
    ]
    if not mine or module.check_mode:
        module.exit_json(changed=bool(mine), removed=sorted(mine))
    # what was unneeded before is none of ours
    # roles name what their packages need; from here on it is there for their sake alone
    needed = dependencies(run(module, "dpkg-query", "--show", "--showformat=${Depends}\\n", *mine))
    if automatic := sorted(name for name in (needed & there.keys()) - before if not matches(name, SETTLED)):
        run(module, "apt-mark", "auto", *automatic)
    if stay := sorted(set(module.params["keep_installed"]) & there.keys()):
        run(module, "apt-mark", "manual", *stay)
    strangers = unneeded(run(module, *APT, "autoremove", "--simulate"))
    remove(module, mine)
    while rest := sorted(removable(unneeded(run(module, *APT, "autoremove", "--simulate"))) - strangers - before):
        remove(module, rest)
    module.exit_json(changed=True, removed=sorted(there.keys() - known(run(module, *show)).keys()))


if __name__ == "__main__":
    main()
