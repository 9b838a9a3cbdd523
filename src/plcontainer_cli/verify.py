"""Whether hosts agree: what is in force on each, compared with what site.yml rolled out and with each other."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plcontainer_cli.host import Host, differences
from protocol_server.runtimes import plain

_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_SSH_S = 60.0


def facts(host: Host) -> dict[str, Any]:
    """This host's runtimes in force, and how they differ from those rolled out. Raises Failure."""
    config = host.load()
    return {
        "runtimes": {identifier: plain(runtime) for identifier, runtime in config.runtimes.items()},
        "drift": differences(config.rolled_out, config.runtimes),
        "local_file": str(config.server.local_runtimes_file),
    }


def ask_hosts(hosts: Sequence[str], command: str) -> dict[str, dict[str, Any]]:
    """The facts of other hosts over ssh; {"error": text} for one that does not tell."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return dict(zip(hosts, pool.map(lambda host: _ask_host(host, command), hosts), strict=True))


def _ask_host(host: str, command: str) -> dict[str, Any]:
    remote = f"{shlex.join(shlex.split(command))} runtime-verify --json"
    try:
        done = subprocess.run(
            # Options end before the name of the host, whatever it begins with.
            [*_SSH, "--", host, remote], capture_output=True, text=True, check=False, timeout=_SSH_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    try:
        found = json.loads(done.stdout)
        return found if isinstance(found["runtimes"], dict) else {"error": "the answer has no runtimes"}
    except (ValueError, KeyError, TypeError):
        return {"error": done.stderr.strip() or f"status {done.returncode} and no answer"}


def disagreements(by_host: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Runtimes that are not the same on all hosts that told: id, and the hosts of each version (None: absent)."""
    told = {host: found["runtimes"] for host, found in by_host.items() if "error" not in found}
    found = []
    for identifier in _all_ids(told.values()):
        versions: dict[str, list[str]] = {}
        for host, runtimes in told.items():
            versions.setdefault(json.dumps(runtimes.get(identifier), sort_keys=True), []).append(host)
        if len(versions) > 1:
            values = [json.loads(version) for version in versions]
            keys = sorted(
                {key for value in values if value for key in value if len({_key(v, key) for v in values}) > 1}
            )
            groups = [{"hosts": hosts, "there": json.loads(version) is not None} for version, hosts in versions.items()]
            found.append({"id": identifier, "keys": keys, "versions": groups})
    return found


def _all_ids(runtimes: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(identifier for one in runtimes for identifier in one))


def _key(value: dict[str, Any] | None, key: str) -> str:
    return json.dumps((value or {}).get(key), sort_keys=True)
