#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ansible module: an image of images/, built on the control node."""

DOCUMENTATION = r"""
module: built_image
short_description: Build one of the distribution's images on the control node
description:
  - Builds an image of images/ from Debian packages and wheels unless the cache has it with the same inputs.
  - Runs where Ansible runs, so use it with C(delegate_to: localhost).
options:
  name:
    description: The image, a folder of images/.
    type: str
    required: true
  debian:
    description: Debian release the image is made of. The last of its description when not given.
    type: str
  load:
    description: Whether the control node's own Docker gets the image too.
    type: bool
    default: false
  oci:
    description: Whether an OCI archive is written too, for containerd.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Nothing is built; C(available) says whether the cache has the image.
author: Caisson
"""

EXAMPLES = r"""
- name: Build the image that Python functions run in
  built_image:
    name: plpython
  delegate_to: localhost
  register: plpython
"""

RETURN = r"""
available:
  description: Whether the image is in the cache; the other values are only there when it is.
  type: bool
  returned: always
id:
  description: The image's id, the same for the same inputs.
  type: str
  returned: when available
digest:
  description: Digest of the image's manifest in its OCI archive and in registries.
  type: str
  returned: when available
reference:
  description: What a pod calls the image by, with its digest.
  type: str
  returned: when available
oci_archive:
  description: Path of the OCI archive on the control node.
  type: str
  returned: when available and O(oci) is set
tag:
  description: Name and tag in the archive.
  type: str
  returned: when available
archive:
  description: Path of a Docker archive on the control node.
  type: str
  returned: when available
key:
  description: Digest of the image's inputs.
  type: str
  returned: when available
notes:
  description: What the build had to say, such as that the mirror has newer packages than those recorded.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from builder.description import image_releases
    from builder.errors import BuildError
    from builder.images import build_image, find_image
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
            "load": {"type": "bool", "default": False},
            "oci": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not HAS_BUILDER:
        module.fail_json(msg=missing_required_lib("builder", reason="run ./bootstrap, then Ansible from .venv"))
    name, debian = module.params["name"], module.params["debian"]
    notes: list[str] = []
    try:
        debian = debian or image_releases(name)[-1]
        image = find_image(name, debian) if module.check_mode else build_image(name, debian, say=notes.append)
        if image is None:
            module.exit_json(changed=False, available=False, name=name, debian=debian, notes=notes)
            return
        more = {"oci_archive": str(image.oci_archive())} if module.params["oci"] else {}
        loaded = module.params["load"] and not module.check_mode and image.load()
    except BuildError as error:
        module.fail_json(msg=str(error))
        return
    changed = image.changed or loaded
    module.exit_json(**{**image.to_json(), **more, "changed": changed}, available=True, notes=notes)


if __name__ == "__main__":
    main()
