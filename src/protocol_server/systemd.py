"""systemd's notification protocol (sd_notify(3)); silent where the service manager does not ask for it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends state to the service manager named by NOTIFY_SOCKET."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL byte of an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_us = int(environment.get("WATCHDOG_USEC") or 0)
        if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            self._watchdog_us = 0

    @property
    def watchdog_interval_s(self) -> float | None:
        """Seconds between two pings: half of what the manager allows; None when it wants none."""
        return self._watchdog_us / 2_000_000 if self._address and self._watchdog_us else None

    def send(self, state: str) -> None:
        """Send one assignment, such as `WATCHDOG=1`. A manager that is away is no reason to fail."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(state.encode(), self._address)
        except OSError:
            return

    def ready(self, status: str) -> None:
        """The server (again) serves."""
        self.send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The server is on its way out."""
        self.send("STOPPING=1")

    def watchdog(self) -> None:
        """The event loop is alive."""
        self.send("WATCHDOG=1")
