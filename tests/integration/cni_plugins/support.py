"""A host that is a network namespace of this machine, whose pods are others, with the role's own configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from plugins.filter.cni_networks import cni_files

from tests.support.pods import SEND, SERVE

# cnitool notes what it did in a place that nobody can change; this namespace of mounts has its own there
OWN_CACHE = 'mkdir -p "$0" /var/lib/cni; mount --bind "$0" /var/lib/cni; exec "$@"'


class FailedError(Exception):
    """A command failed; the message is what it said."""


def run(*argv: str, **environment: str) -> str:
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(done.stdout + done.stderr)
    return done.stdout


class NetworkHost:
    """A network namespace with bridges and pods of its own; what happens in it never reaches the machine's network."""

    def __init__(self, folder: Path, programs: Path, plugins: Path) -> None:
        self.folder, self.programs, self.plugins = folder, programs, plugins
        self.name = f"cni{os.getpid()}"
        self.namespaces: list[str] = []
        self.namespace("")
        # the card that macvlan shares, with a switch that nobody else is at
        self.execute("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "switch0")
        for interface in ("uplink0", "switch0"):
            self.execute("ip", "link", "set", interface, "up")

    def namespace(self, pod: str) -> str:
        name = f"{self.name}{pod}"
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def execute(self, *argv: str, pod: str = "", **environment: str) -> str:
        """Run a command in the host's namespace or in that of a pod."""
        return run("ip", "netns", "exec", f"{self.name}{pod}", *argv, **environment)

    def configure(self, networks: list[dict[str, Any]], ranges: dict[str, Any] | None = None, **options: Any) -> None:
        """Write the files that the role would write, where containerd and Multus look for them."""
        given = {"directory": "cni", "multus_directory": "by_name", "state_directory": "state"}
        places: dict[str, Any] = {key: str(self.folder / name) for key, name in given.items()}
        for place in places.values():
            Path(place).mkdir(exist_ok=True)
        for file in cni_files(networks, ranges or {}, bin_directory=str(self.plugins), **places, **options):
            Path(file["path"]).write_text(file["text"], encoding="utf-8")

    @property
    def multus(self) -> Path:
        return self.folder / "cni/00-multus.conf"

    def check_files(self) -> None:
        """Hold the files against what is installed, as the role does before they take effect."""
        files = [str(path) for path in (self.multus, *sorted((self.folder / "by_name").glob("*")))]
        run(str(self.programs / "caisson-cni-check"), "-plugins", str(self.plugins), *files)

    def cni(self, verb: str, pod: str, network: str = "multus", **arguments: Any) -> dict[str, Any]:
        """Ask for ADD, CHECK or DEL as a container runtime does."""
        folder = self.folder / ("cni" if network == "multus" else "by_name")
        environment = {"CNI_PATH": str(self.plugins), "NETCONFPATH": str(folder)}
        if arguments:
            environment["CAP_ARGS"] = json.dumps(arguments)
        path = f"/run/netns/{self.name}{pod}"
        tool = str(self.programs / "cnitool")
        said = self.execute(
            "sh", "-euc", OWN_CACHE, str(self.folder / "cache"), tool, verb, network, path, **environment
        )
        found: dict[str, Any] = json.loads(said) if said.strip() else {}
        return found

    def addresses(self, pod: str) -> dict[str, str]:
        """Return the addresses of a pod by the names of its interfaces."""
        shown = json.loads(run("ip", "-j", "-n", f"{self.name}{pod}", "-4", "address"))
        return {one["ifname"]: one["addr_info"][0]["local"] for one in shown if one.get("ifname") != "lo"}

    def interfaces(self, pod: str = "") -> set[str]:
        shown = json.loads(run("ip", "-j", "-n", f"{self.name}{pod}", "link"))
        return {one["ifname"] for one in shown}

    def leases(self) -> set[str]:
        """Return the addresses that are in use, of all networks."""
        files = (self.folder / "state/networks").glob("*/*")
        return {file.name for file in files if file.name[0].isdigit()}

    def send(self, source: str, target: str, size: int, **where: Any) -> tuple[str, int, float]:
        """Send from one pod to another; returns what the receiver saw (whose address, bytes), and the time in seconds.

        ``target`` is a pod; ``address`` and ``port`` are where to connect to if not to its own address ``bind``.
        """
        bind, port = where["bind"], where.get("port", 4000)
        command = ["ip", "netns", "exec", f"{self.name}{target}", sys.executable, "-c", SERVE, bind, "4000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                said = self.execute(
                    sys.executable, "-c", SEND,
                    where.get("from_address", ""), where.get("address", bind), str(port), str(size),
                    pod=source,
                )  # fmt: skip
            finally:
                server.kill()
        peer, seen, seconds = said.split()
        return peer, int(seen), float(seconds)

    def close(self) -> None:
        for name in reversed(self.namespaces):
            run("ip", "netns", "delete", name)
