#!/usr/bin/python
"""Compare a host's SELinux with what is asked of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: selinux_policy
short_description: Compare a host's SELinux with what is asked of it
description:
  - Tells whether the host can have our policy module, and how module, mode and labels differ from what is asked.
  - The module is compared by its checksum, the one that C(semodule -lfull --checksum) gives.
  - Changes nothing.
options:
  mode:
    description: What is asked for.
    type: str
    choices: [auto, enforcing, permissive, disabled]
    required: true
  paths:
    description: Files and directories whose labels are compared with those of the policy, with all that is beneath.
    type: list
    elements: path
    default: []
  record:
    description: File in which the state is kept.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at the host's SELinux
  selinux_policy:
    mode: auto
    paths: [/etc/plcontainer]
    record: /etc/plcontainer/selinux.json
  register: selinux
"""

RETURN = r"""
kernel:
  description: C(enforcing), C(permissive) or C(disabled).
  returned: always
  type: str
store:
  description: Name of the policy.
  returned: always
  type: str
reason:
  description: Why the host cannot have our policy; empty when it can.
  returned: always
  type: str
module:
  description: Whether the module in the store is missing (C(missing)), not the package's (C(other)) or C(right).
  returned: always
  type: str
permissive:
  description: Whether the module is there that lets our domains do what the policy forbids.
  returned: always
  type: bool
mislabelled:
  description: Paths with another label than that of the policy.
  returned: always
  type: list
  elements: str
record:
  description: What belongs into the record.
  returned: always
  type: str
differences:
  description: What is not as asked, one line each.
  returned: always
  type: list
  elements: str
"""

import bz2
import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_selinux import containers, knows
from ansible.module_utils.host_selinux import mode as kernel_mode

ROOT = Path("/")
PRIORITY = "400"
MODULE = "plcontainer"
PERMISSIVE = "plcontainer_permissive"
CHECKSUM = "usr/share/selinux/packages/plcontainer/plcontainer.sha256"
DOMAIN = "system_u:system_r:plcontainer_sandbox_t:s0"


@dataclass
class State:
    """What was found."""

    kernel: str = "disabled"
    configured: str = ""
    store: str = ""
    containers: bool = False
    loaded: bool = False
    module: str = "missing"
    permissive: bool = False
    mislabelled: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why the host cannot have our policy."""
        if self.kernel == "disabled":
            return "the kernel of this host runs without SELinux"
        if not self.containers:
            return f"the policy {self.store} of this host knows no containers"
        return ""


def configuration(text: str) -> dict[str, str]:
    """Return the settings of /etc/selinux/config."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def checksum(cil: bytes) -> str:
    """Return the checksum of a module as the store has it, compressed or not."""
    return hashlib.sha256(bz2.decompress(cil) if cil.startswith(b"BZh") else cil).hexdigest()


def installed(root: Path, store: str) -> str:
    """Return whether the store's module is the package's."""
    file = root / "var/lib/selinux" / store / "active/modules" / PRIORITY / MODULE / "cil"
    try:
        found = checksum(file.read_bytes())
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError):
        return "other"
    try:
        wanted = (root / CHECKSUM).read_text(encoding="ascii").strip()
    except OSError:
        return "other"
    return "right" if found == wanted else "other"


def mislabelled(paths: list[str]) -> list[str]:
    """Return what restorecon would relabel."""
    there = [path for path in paths if Path(path).exists()]
    if not there:
        return []
    listing = subprocess.run(["restorecon", "-nvR", *there], capture_output=True, text=True, check=False).stdout
    return [line.split()[2] for line in listing.splitlines() if line.startswith("Would relabel ")]


def look(paths: list[str], root: Path = ROOT) -> State:
    """Look at the host."""
    state = State()
    try:
        config = configuration((root / "etc/selinux/config").read_text(encoding="utf-8"))
    except OSError:
        config = {}
    state.configured, state.store = config.get("SELINUX", ""), config.get("SELINUXTYPE", "")
    state.kernel = kernel_mode(root)
    if state.kernel == "disabled":
        return state
    state.containers = containers(root)
    state.loaded = knows(DOMAIN, root)
    state.module = installed(root, state.store)
    state.permissive = (root / "var/lib/selinux" / state.store / "active/modules" / PRIORITY / PERMISSIVE).exists()
    state.mislabelled = mislabelled(paths)
    return state


def record(state: State, mode: str) -> str:
    """Return what is kept of the state once the host is as asked."""
    if mode == "disabled":
        reached = "off"
    elif state.reason:
        reached = "unavailable"
    else:
        reached = state.kernel if mode == "auto" else mode
    kept = {"asked": mode, "state": reached, "reason": state.reason if reached == "unavailable" else ""}
    return json.dumps(kept, indent=2) + "\n"


def differences(state: State, mode: str) -> list[str]:
    """Return how a host that can have our policy differs from what is asked."""
    if state.kernel == "disabled":
        return []
    if mode == "disabled":
        return [] if state.module == "missing" else ["the SELinux module plcontainer is installed"]
    if state.reason:
        return []
    found = []
    if state.module == "missing":
        found.append("the SELinux module plcontainer is not installed")
    elif state.module == "other":
        found.append("the SELinux module plcontainer is not the one of its package")
    elif not state.loaded:
        found.append("the kernel has not loaded the SELinux module plcontainer")
    if state.permissive != (mode == "permissive"):
        found.append(f"our SELinux domains are {'permissive' if state.permissive else 'confined'}")
    if mode == "enforcing":
        if state.kernel != "enforcing":
            found.append("SELinux is permissive")
        if state.configured != "enforcing":
            found.append(f"SELinux will be {state.configured or 'off'} after a restart of the host")
    return found + [f"{path}: not labelled as the SELinux policy says" for path in state.mislabelled]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str", "choices": ["auto", "enforcing", "permissive", "disabled"], "required": True},
            "paths": {"type": "list", "elements": "path", "default": []},
            "record": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    mode, file = module.params["mode"], Path(module.params["record"])
    state = look(module.params["paths"])
    kept = record(state, mode)
    found = differences(state, mode)
    try:
        same = file.read_text(encoding="utf-8") == kept
    except OSError:
        same = False
    if not same:
        found.append(f"{file}: does not tell the state of SELinux")
    module.exit_json(
        changed=False,
        kernel=state.kernel,
        configured=state.configured,
        store=state.store,
        reason=state.reason,
        module=state.module,
        loaded=state.loaded,
        permissive=state.permissive,
        mislabelled=state.mislabelled,
        record=kept,
        differences=found,
    )


if __name__ == "__main__":
    main()
