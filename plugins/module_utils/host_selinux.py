"""What a host's kernel says of SELinux."""

from __future__ import annotations

import os
from pathlib import Path

FILE_SYSTEM = "sys/fs/selinux"
CONTAINER = "system_u:system_r:container_t:s0"


def mode(root: Path = Path("/")) -> str:
    """Return ``enforcing``, ``permissive`` or ``disabled``: as seen from here.

    A container sees the file system of the machine's SELinux read-only; what it says there is not the container's.
    """
    file_system = root / FILE_SYSTEM
    try:
        text = (file_system / "enforce").read_text(encoding="ascii").strip()
        if os.statvfs(file_system).f_flag & os.ST_RDONLY:
            return "disabled"
    except OSError:
        return "disabled"
    return "enforcing" if text == "1" else "permissive"


def knows(context: str, root: Path = Path("/")) -> bool:
    """Return whether the loaded policy has a context."""
    try:
        descriptor = os.open(root / FILE_SYSTEM / "context", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, f"{context}\0".encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def containers(root: Path = Path("/")) -> bool:
    """Return whether SELinux is on and its policy knows containers."""
    return mode(root) != "disabled" and knows(CONTAINER, root)
