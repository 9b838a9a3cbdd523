#!/usr/bin/python
"""Read which databases have the extension plcontainer as they should."""

from __future__ import annotations

DOCUMENTATION = r"""
module: plcontainer_databases
short_description: Read in which databases the extension is missing, old or too many
description:
  - Changes nothing.
  - Runs on the host as root, and asks PostgreSQL as the user postgres.
options:
  port:
    description: Where the server listens.
    type: int
    required: true
  present:
    description: Databases that have the extension, in the version that is installed.
    type: list
    elements: str
    default: []
  absent:
    description: Databases that do not have it.
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
- name: Look for the extension
  plcontainer_databases:
    port: 5432
    present: [postgres]
  register: state
"""

RETURN = r"""
differences:
  description: What is not as wanted, one line each.
  returned: always
  type: list
  elements: str
"""

import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule

QUERY = """
SELECT installed_version, installed_version = default_version
FROM pg_available_extensions WHERE name = 'plcontainer' AND installed_version IS NOT NULL
"""


def ask(port: int, database: str) -> tuple[bool, str]:
    """Return whether the database answered, and its answer or its error."""
    command = ["psql", "-XAtq", f"--port={port}", f"--dbname={database}", "--no-password", "--command", QUERY]
    try:
        done = subprocess.run(
            command, user="postgres", group="postgres", extra_groups=[], cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except (OSError, KeyError) as error:
        # no psql, or no user postgres yet
        return False, str(error.args[0] if isinstance(error, KeyError) else error)
    return done.returncode == 0, (done.stderr if done.returncode else done.stdout).strip()


def differences(present: list[str], absent: list[str], answers: dict[str, tuple[bool, str]]) -> list[str]:
    """Return how databases differ, from what each has answered."""
    found = []
    for database in [*present, *absent]:
        answered, text = answers[database]
        version, _, newest = text.partition("|")
        if not answered:
            found.append(f"database {database}: {text.splitlines()[0] if text else 'no answer'}")
        elif database in absent:
            found += [f"database {database}: has the extension"] if version else []
        elif not version:
            found.append(f"database {database}: no extension")
        elif newest != "t":
            found.append(f"database {database}: extension {version} is not the newest")
    return found


def main() -> None:
    """Run as an Ansible module."""
    names: dict[str, Any] = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={"port": {"type": "int", "required": True}, "present": names, "absent": names},
        supports_check_mode=True,
    )
    present, absent = module.params["present"], module.params["absent"]
    both = sorted(set(present) & set(absent))
    if both:
        module.fail_json(msg=f"present and absent both name {', '.join(both)}")
    answers = {database: ask(module.params["port"], database) for database in {*present, *absent}}
    module.exit_json(changed=False, differences=differences(present, absent, answers))


if __name__ == "__main__":
    main()
