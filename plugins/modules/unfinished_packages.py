#!/usr/bin/python
"""Finish installations of Debian packages that were interrupted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unfinished_packages
short_description: Finish interrupted installations of packages
description:
  - Configures what is unpacked and installs what that still needs, as C(apt-get --fix-broken install) does. The module
    M(ansible.builtin.apt) refuses to work before that, and does it only for packages that a repository has.
options:
  names:
    description: The packages that are unfinished, as M(host_facts) names them.
    type: list
    elements: str
    required: true
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Finish what an interrupted run has left half installed
  unfinished_packages:
    names: "{{ ansible_facts['unfinished'] }}"
"""

RETURN = r""" # """

import os
import subprocess

from ansible.module_utils.basic import AnsibleModule

COMMANDS = (
    ("dpkg", "--configure", "--pending", "--force-confdef", "--force-confold"),
    ("apt-get", "update", "-q"),
    (
        "apt-get",
        "--fix-broken",
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        "-o",
        "Dpkg::Options::=--force-confold",
    ),
)


def finish() -> str:
    """Run the commands; return what the last one said against it, nothing when it has succeeded."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    for command in COMMANDS:
        # Each may fail for what the next one mends; the last one decides.
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return "" if done.returncode == 0 else done.stderr or done.stdout


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"names": {"type": "list", "elements": "str", "required": True}}, supports_check_mode=True
    )
    names = module.params["names"]
    if names and not module.check_mode:
        complaint = finish()
        if complaint:
            module.fail_json(msg=f"cannot finish the installation of {', '.join(names)}: {complaint.strip()}")
    module.exit_json(changed=bool(names))


if __name__ == "__main__":
    main()
