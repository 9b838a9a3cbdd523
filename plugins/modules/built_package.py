#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: a Debian package of a component, built on the control node."""

DOCUMENTATION = r"""
module: built_package
short_description: Build the Debian package of a component on the control node
description:
  - Builds src/<name> as its package.yml says, in a container of the image package_builder, unless the cache has the
    package with the same inputs.
  - Runs where Ansible runs, so use it with C(delegate_to: localhost).
options:
  name:
    description: The component, a folder of src/ with a package.yml.
    type: str
    required: true
  debian:
    description: Debian release the package is for. The last of its description when not given.
    type: str
attributes:
  check_mode:
    support: full
    description: Nothing is built; C(available) says whether the cache has the package.
author: Caisson
"""

EXAMPLES = r"""
- name: Build the extension
  built_package:
    name: plcontainer
    debian: "12"
  delegate_to: localhost
  register: plcontainer
"""

RETURN = r"""
available:
  description: Whether the package is in the cache; the other values are only there when it is.
  type: bool
  returned: always
package:
  description: The package's name for apt.
  type: str
  returned: when available
version:
  description: The package's version, another one for other contents.
  type: str
  returned: when available
deb:
  description: Path of the package on the control node.
  type: str
  returned: when available
sha256:
  description: Digest of the package, hexadecimal.
  type: str
  returned: when available
depends:
  description: Names of the packages that it needs.
  type: list
  elements: str
  returned: when available
notes:
  description: What the build had to say, such as that the mirror has newer packages than those recorded.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from builder.description import package_releases
    from builder.errors import BuildError
    from builder.packages import build_package, find_package
except ImportError:
    HAS_BUILDER = False
else:
    HAS_BUILDER = True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "debian": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if not HAS_BUILDER:
        module.fail_json(msg=missing_required_lib("builder", reason="run ./bootstrap, then Ansible from .venv"))
    name, debian = module.params["name"], module.params["debian"]
    notes: list[str] = []
    try:
        debian = debian or package_releases(name)[-1]
        package = find_package(name, debian) if module.check_mode else build_package(name, debian, say=notes.append)
    except BuildError as error:
        module.fail_json(msg=str(error))
        return
    if package is None:
        module.exit_json(changed=False, available=False, name=name, debian=debian, notes=notes)
        return
    module.exit_json(**package.to_json(), available=True, notes=notes)


if __name__ == "__main__":
    main()
