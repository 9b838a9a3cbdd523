#!/usr/bin/python
"""Make a file of the host have a text, an owner and a mode, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: text_file
short_description: Make a file have a text, an owner and a mode
description:
  - Does in one execution on the host what M(ansible.builtin.template) needs two for.
  - The text is rendered on the control node, with the lookup C(ansible.builtin.template).
  - The file is replaced in one step and only after C(validate) has agreed. What it was before the first change is
    written down on the host, for destroy.yml.
options:
  path:
    description: The file. Its directory exists.
    type: path
    required: true
  text:
    description: All of its contents.
    type: str
    required: true
  validate:
    description: Command that checks the new file before it takes the place of the old one; C(%s) is its path.
    type: str
  backup:
    description: Keep the old file beside the new one.
    type: bool
    default: false
extends_documentation_fragment: [ansible.builtin.files]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Write the configuration
  text_file:
    path: /etc/docker/daemon.json
    text: "{{ lookup('ansible.builtin.template', 'etc/docker/daemon.json.j2') }}"
    owner: root
    group: root
    mode: "0644"
    validate: dockerd --validate --config-file=%s
"""

RETURN = r"""
backup_file:
  description: Where the old file is.
  returned: changed and backup
  type: str
"""

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.origin import remember


def replace(module: AnsibleModule, path: Path, text: str) -> None:
    """Give ``path`` the text, after the command that validates it has agreed."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=module.tmpdir, delete=False) as file:
        file.write(text)
    command = module.params["validate"]
    if command:
        if "%s" not in command:
            module.fail_json(msg=f"validate has no %s: {command}")
        status, out, err = module.run_command(command % file.name)
        if status != 0:
            said = "\n".join(part.strip() for part in (out, err) if part.strip()).replace(file.name, str(path))
            module.fail_json(msg=f"{path} is left as it is, {command.split()[0]} refuses the new one:\n{said}")
    module.atomic_move(file.name, str(path))


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "text": {"type": "str", "required": True},
            "validate": {"type": "str"},
            "backup": {"type": "bool", "default": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path, text = Path(module.params["path"]), module.params["text"]
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    changed = before != text
    result: dict[str, Any] = {"path": str(path)}
    if changed:
        result["diff"] = {"before": before or "", "after": text, "before_header": str(path), "after_header": str(path)}
        if not path.parent.is_dir():
            module.fail_json(msg=f"{path.parent} is no directory")
        if not module.check_mode:
            if before is not None and module.params["backup"]:
                result["backup_file"] = module.backup_local(str(path))
            remember(path)
            replace(module, path, text)
    if path.exists():
        attributes = module.load_file_common_arguments(module.params, path=str(path))
        changed = module.set_fs_attributes_if_different(attributes, changed)
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
