#!/usr/bin/python
"""Tell what a segment host has: memory, and the state of its PostgreSQL cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: segment_host_info
short_description: Tell what a segment host has
description:
  - Returns the memory that the host may use and the state of one PostgreSQL cluster laid out as Debian does it.
  - Works before there is a cluster and while it is stopped. Needs no database driver on the host.
options:
  postgresql_version:
    description: Major version of PostgreSQL.
    type: int
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    default: main
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at the cluster
  segment_host_info:
    postgresql_version: 17
  register: host
"""

RETURN = r"""
memory_mb:
  description: Memory that processes of this host share, in MiB; a cgroup's limit counts.
  type: int
  returned: always
exists:
  description: Whether there is a cluster.
  type: bool
  returned: always
left_data:
  description: Where data of a cluster lie that has no configuration any more; empty where there are none.
  type: str
  returned: always
running:
  description: Whether it answers.
  type: bool
  returned: always
port:
  description: Port it listens on now; 0 when it is not running.
  type: int
  returned: always
data_checksums:
  description: Whether its pages have checksums; null where PostgreSQL is not there to tell, as after destroy.yml.
  type: bool
  returned: always
stale:
  description: Whether a configuration file is newer than what the server has loaded.
  type: bool
  returned: always
pending_restart:
  description: Settings that take effect at the next start.
  type: list
  elements: str
  returned: always
hba_errors:
  description: Lines of pg_hba.conf that the server refuses.
  type: list
  elements: str
  returned: always
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_memory import memory_bytes

QUERY = """
SELECT json_build_object(
  'loaded', extract(epoch FROM pg_conf_load_time()),
  'pending_restart', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'hba_errors', (SELECT coalesce(json_agg(format('line %s: %s', line_number, error)), '[]')
                 FROM pg_hba_file_rules WHERE error IS NOT NULL))
"""


def data_directory(configuration: Path) -> Path | None:
    """Return the data directory that postgresql.conf names, None when there is no cluster."""
    try:
        text = (configuration / "postgresql.conf").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^\s*data_directory\s*=\s*'([^']*)'", text, re.MULTILINE)
    return Path(found[1]) if found else None


def newest_change(configuration: Path) -> float:
    """Return when the newest configuration file was changed, in seconds since 1970."""
    files = [*configuration.glob("*.conf"), *(configuration / "conf.d").glob("*.conf")]
    # The first two are read by the service manager's scripts, never by the server; the third only when it starts, for
    # which the role hugepages cares.
    others = ("pg_ctl.conf", "start.conf", "hugepages.conf")
    return max((file.stat().st_mtime for file in files if file.name not in others), default=0.0)


def ask(port: int) -> dict[str, Any] | None:
    """Return what the running server says about itself, None when it does not answer."""
    answer = subprocess.run(
        ["psql", "-XAtq", f"--port={port}", "--dbname=postgres", "--no-password", "--command", QUERY],
        user="postgres", group="postgres", extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    state: dict[str, Any] | None = json.loads(answer.stdout) if answer.returncode == 0 else None
    return state


def has_checksums(version: int, data: Path, root: Path) -> bool | None:
    """Return whether the pages of a cluster have checksums, None where PostgreSQL itself is not installed."""
    program = root / f"usr/lib/postgresql/{version}/bin/pg_controldata"
    try:
        said = subprocess.run([program, data], env={"LC_ALL": "C"}, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return None
    found = re.search(r"^Data page checksum version:\s+(\d+)", said, re.MULTILINE)
    return bool(found and int(found[1]))


def look(version: int, cluster: str, root: Path = Path("/")) -> dict[str, Any]:
    """Return the state of the cluster."""
    configuration = root / "etc/postgresql" / str(version) / cluster
    usual_data = root / "var/lib/postgresql" / str(version) / cluster
    state: dict[str, Any] = {
        "exists": False, "left_data": "", "running": False, "port": 0, "data_checksums": False,
        "stale": False, "pending_restart": [], "hba_errors": [],
    }  # fmt: skip
    data = data_directory(configuration)
    if data is None and (usual_data / "PG_VERSION").exists():
        state["left_data"] = str(usual_data)
    if data is None or not (data / "PG_VERSION").exists():
        return state
    state |= {"exists": True, "data_checksums": has_checksums(version, data, root)}
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return state
    port = int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else 0
    answer = ask(port) if port else None
    if answer is not None:
        loaded = answer.pop("loaded")
        state |= {"running": True, "port": port, "stale": newest_change(configuration) > loaded, **answer}
    return state


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "postgresql_version": {"type": "int", "required": True},
            "cluster": {"type": "str", "default": "main"},
        },
        supports_check_mode=True,
    )
    memory_mb = memory_bytes(Path("/")) // 2**20
    module.exit_json(
        changed=False, memory_mb=memory_mb, **look(module.params["postgresql_version"], module.params["cluster"])
    )


if __name__ == "__main__":
    main()
