"""Runs inside the guest: what the module says and does, told as JSON on the console."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = ["/run/test", "/run/test_libraries"]
CARD = Path("/sys/class/net/eth0/device")
DIRECTORIES = {"directory": "/run/cni", "multus_directory": "/run/by_name", "state_directory": "/run/state"}


def ask(*, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module and return its answer."""
    import sriov_functions  # type: ignore[import-not-found]
    from ansible.module_utils import basic

    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check}}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        sriov_functions.main()
    answer: dict[str, Any] = json.loads(said.getvalue())
    answer.pop("invocation", None)
    return answer


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def tell(name: str, value: Any) -> None:
    print(f"RESULT {json.dumps({name: value})}", flush=True)


def cni(verb: str, network: str) -> str:
    os.environ |= {"CNI_PATH": "/usr/lib/cni", "NETCONFPATH": DIRECTORIES["multus_directory"]}
    return run("/run/test/cnitool", verb, network, "/run/netns/pod")


def interfaces(*where: str) -> dict[str, list[str]]:
    """Return the addresses of interfaces by their names."""
    shown = json.loads(run("ip", *where, "-j", "-4", "address")) + json.loads(run("ip", *where, "-j", "link"))
    found: dict[str, list[str]] = {}
    for one in shown:
        if one.get("ifname", "lo") != "lo":
            found.setdefault(one["ifname"], []).extend(info["local"] for info in one.get("addr_info", []))
    return found


def main() -> None:
    from cni_networks import cni_files, cni_udev_rules  # type: ignore[import-not-found]

    tell("seconds to the script", uptime())
    tell("without a driver", ask(interfaces={"eth0": 3}))
    run("modprobe", "igb")
    tell("before", ask())
    tell("required", ask(required=True))
    tell("too many", ask(interfaces={"eth0": 99}))
    try:
        (CARD / "sriov_numvfs").write_text("99")
    except OSError as error:
        tell("kernel", os.strerror(error.errno or 0))
    tell("check", ask(check=True, interfaces={"eth0": 3}))
    made = ask(interfaces={"eth0": 3}, required=True)
    tell("made", made)
    tell("numvfs", (CARD / "sriov_numvfs").read_text().strip())
    tell("again", ask(interfaces={"eth0": 3}, required=True))
    tell("rules", cni_udev_rules(made["functions"], made["devices"]).splitlines()[-1])

    run("modprobe", "igbvf")
    networks = [
        {"name": "pods", "type": "bridge", "every_pod": True, "subnet": "10.99.0.0/24"},
        {"name": "fast", "type": "sriov", "interface": "eth0", "vfs": 3, "subnet": "10.97.0.0/24"},
    ]
    for file in cni_files(networks, {}, made["functions"], bin_directory="/usr/lib/cni", **DIRECTORIES):
        Path(file["path"]).parent.mkdir(exist_ok=True)
        Path(file["path"]).write_text(file["text"])
    run("ip", "netns", "add", "pod")
    tell("host before", interfaces())
    cni("add", "fast-vf1")
    tell("pod", interfaces("-n", "pod"))
    tell("host meanwhile", interfaces())
    tell("in use", ask(interfaces={"eth0": 2}))
    cni("del", "fast-vf1")
    tell("pod after", interfaces("-n", "pod"))
    tell("host after", interfaces())
    tell("fewer", ask(interfaces={"eth0": 2}))
    tell("seconds to the end", uptime())


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001 - the console is all there is
        tell("failed", traceback.format_exc())
