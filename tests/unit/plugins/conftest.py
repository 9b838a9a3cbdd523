"""Where Ansible puts our module_utils for a module that runs."""

from __future__ import annotations

import importlib
import sys

# systemd_limits itself finds slice_limits there
for name in ("host_memory", "host_selinux", "huge_pages", "origin", "slice_limits", "systemd_limits"):
    sys.modules.setdefault(f"ansible.module_utils.{name}", importlib.import_module(f"plugins.module_utils.{name}"))
