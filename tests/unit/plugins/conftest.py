"""Where Ansible puts our module_utils for a module that runs."""

from __future__ import annotations

import sys

from plugins.module_utils import host_memory, host_selinux, huge_pages, origin, slice_limits

sys.modules.setdefault("ansible.module_utils.host_memory", host_memory)
sys.modules.setdefault("ansible.module_utils.origin", origin)
sys.modules.setdefault("ansible.module_utils.slice_limits", slice_limits)
sys.modules.setdefault("ansible.module_utils.huge_pages", huge_pages)
sys.modules.setdefault("ansible.module_utils.host_selinux", host_selinux)
