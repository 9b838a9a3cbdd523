#!/usr/bin/python
"""Tell how many huge pages a host needs, and reserve them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hugepages
short_description: Tell how many huge pages PostgreSQL and others need, and reserve them
description:
  - Asks the server that is installed how many pages its shared memory will take with the configuration as it is now,
    whether it runs or not, and adds what is reserved for others.
  - With O(set=true) the pages are reserved and read back. Where the kernel has fewer all is left as it was.
options:
  mode:
    description: C(on), C(off), or C(auto) for what a machine has and a container, which shares its kernel, has not.
    type: str
    choices: ["on", "off", auto]
    required: true
  port:
    description: Port of the cluster.
    type: int
    required: true
  size:
    description: Size of PostgreSQL's pages, C(2MB) or C(1GB).
    type: str
    default: 2MB
  nodes:
    description: Nodes of memory that PostgreSQL's pages are spread over. Empty leaves it to the kernel.
    type: list
    elements: int
    default: []
  reserved:
    description: Pages for others, each with C(size), C(pages) and, where that matters, C(node).
    type: list
    elements: dict
    default: []
  set:
    description: Reserve the pages. With C(off), give those back that O(files) reserve.
    type: bool
    default: false
  files:
    description: Patterns of the role's files. Where no pages are wanted, they tell what to give back.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Look at huge pages
  hugepages:
    mode: auto
    port: 5432
    reserved:
      - {size: 1GB, pages: 2, node: 0}
  register: pages
"""

RETURN = r"""
active:
  description: Whether pages are wanted.
  returned: always
  type: bool
postgresql:
  description:
    - The cluster (C(version), C(cluster), C(data)), the C(pages) it needs, whether it is C(running), whether it C(uses)
      pages, and how many it has C(held).
  returned: always
  type: dict
plan:
  description: Wanted pages, each with C(size_kb), C(node), C(pages).
  returned: always
  type: list
  elements: dict
differences:
  description: Pools with another number of pages, one line each.
  returned: always
  type: list
  elements: str
sysctl:
  description: Number of pages that a kernel parameter reserves, -1 where none does.
  returned: always
  type: int
files:
  description: Other files that reserve pages, with their numbers.
  returned: always
  type: dict
command_line:
  description: What reserves the same when the kernel starts.
  returned: always
  type: str
left:
  description: Those of O(files) that are there though no pages are wanted.
  returned: always
  type: list
  elements: str
short:
  description: What the kernel did not have, in mode C(auto); empty where there is nothing.
  returned: always
  type: str
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_memory import memory_bytes
from ansible.module_utils.huge_pages import SIZES, Kernel, PagesError, Pool, ShortError, spread

NO_CLUSTER = {"version": "", "cluster": "", "data": "", "pages": 0, "running": False, "uses": False, "held": 0}
#: More of the host's memory in huge pages than this part leaves too little for everything else.
MOST = 0.75


def find_cluster(listing: str, port: int) -> list[str] | None:
    """Return version, cluster, port, status, owner and data directory of the cluster on a port, from pg_lsclusters."""
    rows = (line.split() for line in listing.splitlines())
    return next((row for row in rows if len(row) > 5 and row[2] == str(port)), None)


def needed_pages(version: str, cluster: str, data: Path, size_kb: int) -> int:
    """Return how many pages the server takes with the configuration that it would be started with.

    A server that runs has locked its data directory, so another one is asked about a copy of what it looks at.
    """
    owner = pwd.getpwuid(data.stat().st_uid)
    groups = os.getgrouplist(owner.pw_name, owner.pw_gid)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        (copy / "global").mkdir()
        for file in ("PG_VERSION", "global/pg_control", "postgresql.auto.conf"):
            if (data / file).exists():
                shutil.copy(data / file, copy / file)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        options = {
            "config_file": f"/etc/postgresql/{version}/{cluster}/postgresql.conf",
            "data_directory": name,
            "huge_page_size": f"{size_kb}kB",
        }
        done = subprocess.run(
            [f"/usr/lib/postgresql/{version}/bin/postgres", "-D", name]
            + [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
            + ["-C", "shared_memory_size_in_huge_pages"],
            user=owner.pw_uid, group=owner.pw_gid, extra_groups=groups, cwd="/", env={"LC_ALL": "C"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        raise PagesError(f"PostgreSQL does not tell how many huge pages it needs: {done.stderr.strip()}")
    return int(done.stdout)


def mapped_pages(smaps: str, size_kb: int) -> int:
    """Return how many pages of a size a process has mapped, from its smaps."""
    found = re.findall(r"^Size:\s+(\d+) kB\nKernelPageSize:\s+(\d+) kB", smaps, re.MULTILINE)
    return sum(int(size) for size, page in found if int(page) == size_kb) // size_kb


def find_postgresql(port: int, size_kb: int) -> dict[str, Any]:
    """Return what is to be known of the cluster on a port."""
    try:
        listing = subprocess.run(["pg_lsclusters", "--no-header"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return {**NO_CLUSTER}
    row = find_cluster(listing, port)
    if row is None or not (Path(row[5]) / "PG_VERSION").exists():
        return {**NO_CLUSTER}
    data, held = Path(row[5]), 0
    running = row[3].startswith("online")
    if running:
        process = (data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
        held = mapped_pages(Path(f"/proc/{process}/smaps").read_text(encoding="utf-8"), size_kb)
    known = {"version": row[0], "cluster": row[1], "data": row[5], "running": running, "uses": held > 0, "held": held}
    return {**NO_CLUSTER, **known}


def is_container() -> bool:
    """Tell whether the kernel is another host's."""
    try:
        return subprocess.run(["systemd-detect-virt", "--container", "--quiet"], check=False).returncode == 0
    except FileNotFoundError:
        return False


def wanted_pools(asked: dict[str, Any], pages: int) -> list[Pool]:
    """Return what is asked for, of PostgreSQL and of others."""
    size = SIZES[asked["size"]]
    nodes = asked["nodes"]
    pools = [Pool(size, node, share) for node, share in spread(pages, nodes).items()] if nodes else []
    others = [Pool(SIZES[entry["size"]], entry.get("node"), entry["pages"]) for entry in asked["reserved"]]
    return (pools or [Pool(size, None, pages)]) + others


def check(kernel: Kernel, plan: list[Pool], found: dict[str, Any], size_kb: int) -> None:
    """Raise PagesError when the plan can't be had, or others hold what PostgreSQL needs."""
    wanted, memory = sum(pool.pages * pool.size_kb for pool in plan) // 1024, memory_bytes(kernel.root) // 2**20
    if wanted > memory * MOST:
        raise PagesError(
            f"{wanted} MiB in huge pages are wanted, this host has {memory} MiB of memory; at most {MOST:.0%} may be"
        )
    there = sum(kernel.pages(pool) for pool in plan if pool.size_kb == size_kb)
    planned = sum(pool.pages for pool in plan if pool.size_kb == size_kb)
    left = kernel.free(size_kb) + found["held"] + planned - there
    if left < found["pages"]:
        raise PagesError(
            f"{found['pages']} huge pages are wanted for PostgreSQL, others leave {max(left, 0)} of {planned} to it;"
            " name in hugepages_reserved what they hold"
        )


def boot(kernel: Kernel, plan: list[Pool]) -> tuple[int, dict[str, int]]:
    """Return the number for the kernel parameter (-1: none), and that of each other file."""
    sysctl, files = -1, {}
    for pool in plan:
        path = kernel.file(pool)
        if path.parts[-3:] == ("sys", "vm", "nr_hugepages"):
            sysctl = max(sysctl, 0) + pool.pages
        else:
            files[str(path)] = pool.pages
    return sysctl, files


def release(files: list[str], root: Path = Path("/")) -> None:
    """Give back what these files reserve when the host boots: a line of sysctl.d or one of tmpfiles.d."""
    for file in map(Path, files):
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for line in text.splitlines():
            words = line.split()
            if line.startswith("-vm.nr_hugepages"):
                path = root / "proc/sys/vm/nr_hugepages"
            elif len(words) > 1 and words[0] == "w-":
                path = root / words[1].lstrip("/")
            else:
                continue
            try:
                if path.exists() and int(path.read_text(encoding="ascii")):
                    path.write_text("0\n", encoding="ascii")
            except OSError as error:
                raise PagesError(f"{path}: pages cannot be given back ({error.strerror})") from error


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "mode": {"type": "str", "choices": ["on", "off", "auto"], "required": True},
            "port": {"type": "int", "required": True},
            "size": {"type": "str", "choices": list(SIZES), "default": "2MB"},
            "nodes": {"type": "list", "elements": "int", "default": []},
            "reserved": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "size": {"type": "str", "choices": list(SIZES), "required": True},
                    "pages": {"type": "int", "required": True},
                    "node": {"type": "int"},
                },
            },
            "set": {"type": "bool", "default": False},
            "files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    asked = module.params
    size_kb = SIZES[asked["size"]]
    answer: dict[str, Any] = {
        "active": asked["mode"] == "on" or (asked["mode"] == "auto" and not is_container()),
        "postgresql": NO_CLUSTER, "plan": [], "differences": [], "sysctl": -1, "files": {}, "command_line": "",
        "short": "", "left": [],
    }  # fmt: skip
    if not answer["active"]:
        left = answer["left"] = [
            str(path) for pattern in asked["files"] for path in sorted(Path("/").glob(pattern.lstrip("/")))
        ]
        if left:
            answer["postgresql"] = find_postgresql(asked["port"], size_kb)
        if asked["set"] and left and not module.check_mode:
            try:
                release(left)
            except PagesError as error:
                module.fail_json(msg=str(error), **answer)
        module.exit_json(changed=bool(asked["set"] and left), **answer)
    kernel = Kernel()
    try:
        found = answer["postgresql"] = find_postgresql(asked["port"], size_kb)
        if found["version"]:
            found["pages"] = needed_pages(found["version"], found["cluster"], Path(found["data"]), size_kb)
        plan = kernel.plan(wanted_pools(asked, found["pages"]))
        check(kernel, plan, found, size_kb)
        answer["plan"] = [asdict(pool) for pool in plan]
        answer["sysctl"], answer["files"] = boot(kernel, plan)
        answer["command_line"] = kernel.command_line(plan)
        answer["differences"] = kernel.differences(plan)
        if asked["set"] and answer["differences"] and not module.check_mode:
            kernel.reserve(plan)
    except PagesError as error:
        if asked["mode"] == "on":
            advice = (
                " Free memory is in pieces on a host that has run for a while: restart it with"
                f" {answer['command_line']} on the kernel's command line, or ask for fewer."
                if isinstance(error, ShortError)
                else ""
            )
            module.fail_json(msg=f"{error}. PostgreSQL is left as it is.{advice}", **answer)
        answer["short"] = str(error)
        module.warn(f"{error}; PostgreSQL goes on without huge pages")
    module.exit_json(changed=bool(asked["set"] and answer["differences"] and not answer["short"]), **answer)


if __name__ == "__main__":
    main()
