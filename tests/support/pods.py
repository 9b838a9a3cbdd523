"""Pods without Kubernetes: network namespaces of a host that ask CNI plugins for interfaces, and send to each other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.segment_host import SegmentHost

SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
connection, peer = listener.accept()
size = 0
while part := connection.recv(65536):
    size += len(part)
connection.sendall(f"{peer[0]} {size}".encode())
"""
"""Takes address and port; tells whoever connects which address it has and how much it sent."""

SEND = """
import socket, sys, time
source, address, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
connection = socket.create_connection((address, port), 5, (source, 0) if source else None)
connection.settimeout(30)
started = time.monotonic()
connection.sendall(bytes(size))
connection.shutdown(socket.SHUT_WR)
print(connection.recv(100).decode(), time.monotonic() - started)
"""
"""Takes its own address (empty for any), address, port and size; prints what it was told, and the time (seconds)."""


class Pods:
    """Pods of a host, whose CNI configuration lies in ``directory``."""

    def __init__(self, host: SegmentHost, directory: str, state: str) -> None:
        self.host, self.directory, self.state = host, directory, state

    def cni(self, verb: str, pod: str, network: str = "multus") -> list[str]:
        """Return the command for ADD, CHECK or DEL."""
        settings = ["CNI_PATH=/usr/lib/cni", f"NETCONFPATH={self.directory}"]
        return ["env", *settings, "cnitool", verb, network, f"/run/netns/{pod}"]

    def addresses(self, pod: str) -> dict[str, str]:
        """Return the addresses of a pod by the names of its interfaces."""
        shown = json.loads(self.host.run("ip", "-j", "-n", pod, "-4", "address"))
        return {one["ifname"]: one["addr_info"][0]["local"] for one in shown if one.get("ifname", "lo") != "lo"}

    def leases(self) -> list[str]:
        """Return the addresses that are in use."""
        find = ["find", f"{self.state}/networks", "-type", "f", "-name", "[0-9]*", "-printf", "%f\\n"]
        return self.host.run(*find).splitlines()

    def send(self, source: str, target: str, addresses: tuple[str, str]) -> str:
        """Send from an address of one pod to one of another; returns the address that the receiver saw."""
        own, other = addresses
        inside = ["docker", "exec", "-i", self.host.container, "ip", "netns", "exec", target]
        with subprocess.Popen(
            [*inside, "python3", "-c", SERVE, other, "4000"], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            said = self.host.run("ip", "netns", "exec", source, "python3", "-c", SEND, own, other, "4000", "100000")
        peer, size, _ = said.split()
        assert size == "100000"
        return peer


@contextmanager
def namespaces(host: SegmentHost, names: Sequence[str]) -> Iterator[None]:
    """Make network namespaces for pods; they are gone at the end, with what is left in them."""
    try:
        for name in names:
            host.run("ip", "netns", "add", name)
        yield
    finally:
        for name in host.run("ip", "netns", "list").split():
            if name in names:
                host.run("ip", "netns", "delete", name)
