#!/usr/bin/python
"""Read the few facts that the roles need: the system's release and the packages that are installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: Read the facts that the roles need
description:
  - Reads the system's release under the names of M(ansible.builtin.setup), which Debian packages are installed, the
    host's address, and whether it is a container.
  - Takes a fraction of the time of M(ansible.builtin.setup) and M(ansible.builtin.package_facts).
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Read what the host has
  host_facts:
  when: ansible_facts['installed'] is not defined
"""

RETURN = r"""
ansible_facts:
  description: Facts of the host.
  returned: always
  type: dict
  contains:
    distribution:
      description: Name of the system, as C(Debian).
      type: str
    distribution_major_version:
      description: Its major release, as C(13).
      type: str
    installed:
      description: Version of each package that is installed, by its name.
      type: dict
    address:
      description: IPv4 address that the host has towards its default route; empty where there is none.
      type: str
    container:
      description: Whether the host is a container, that is shares its kernel with the machine it runs on.
      type: bool
    selinux:
      description: The kernel's C(mode) (enforcing, permissive or disabled), and whether its policy knows C(containers).
      type: dict
    unfinished:
      description: Names of packages whose installation was interrupted.
      type: list
      elements: str
"""

import shlex
import socket
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_selinux import containers, mode

UNFINISHED = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")


def system(os_release: str) -> tuple[str, str]:
    """Return name and major release from the text of /etc/os-release."""
    values = {}
    for line in os_release.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key] = " ".join(shlex.split(value))
    return values.get("NAME", "").partition(" ")[0], values.get("VERSION_ID", "").partition(".")[0]


def installed(listing: str) -> dict[str, str]:
    """Return the versions of installed packages from lines ``status name version``."""
    rows = [line.split(" ") for line in listing.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def unfinished(listing: str) -> list[str]:
    """Return the packages that dpkg was busy with when it was interrupted, from the same lines."""
    rows = [line.split(" ") for line in listing.splitlines()]
    return [row[1] for row in rows if row[0] in UNFINISHED]


def address(towards: str = "198.51.100.1") -> str:
    """Return the address that packets to ``towards`` would carry; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((towards, 9))
        except OSError:
            return ""
        return str(asked.getsockname()[0])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        listing = ""  # no Debian; the role preflight tells
    distribution, release = system(Path("/etc/os-release").read_text(encoding="utf-8"))
    facts = {
        "address": address(),
        "distribution": distribution,
        "distribution_major_version": release,
        "installed": installed(listing),
        "unfinished": unfinished(listing),
        "selinux": {"mode": mode(), "containers": containers()},
        # systemd, and only in a container, writes down there what kind it runs in
        "container": Path("/run/systemd/container").exists(),
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
