"""What isolates a sandbox, behind one interface: Docker, with gVisor where a runtime asks for it, or plain namespaces.

A backend knows nothing of leases, roles or pools. It names a sandbox by its id alone, so that a server that was
restarted finds sandboxes again without having remembered anything.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol_server.cgroup import Usage
from protocol_server.config import Runtime, ServerConfig
from protocol_server.logs import Log

ENTRY_POINT_GROUP: Final = "caisson.protocol_server.backends"
_BUILT_IN: Final = {
    "docker": "protocol_server.backends.docker:DockerBackend",
    "process": "protocol_server.backends.process:ProcessBackend",
}


@dataclass(frozen=True)
class Exit:
    """How a sandbox ended: `reason` completes "sandbox x ...", `sqlstate` is what the running call fails with."""

    reason: str
    sqlstate: str


@dataclass(frozen=True)
class Connections:
    """A started sandbox's connected stream sockets, non-blocking.

    A remote backend may give one end of a local pair whose other end it serves.
    """

    data: socket.socket
    signal: socket.socket

    def close(self) -> None:
        """Close this process's copies."""
        self.data.close()
        self.signal.close()


class Backend(ABC):
    """One way to isolate sandboxes. All methods are called from the event loop's thread."""

    def __init__(self, config: ServerConfig, log: Log, on_available: Callable[[], None]) -> None:
        """`on_available` is to be called whenever the backend can be reached (again)."""
        self.config = config
        self.log = log
        self.on_available = on_available

    def configure(self, config: ServerConfig) -> None:
        """Use `config` for sandboxes started from now on."""
        self.config = config

    @abstractmethod
    async def open(self) -> None:
        """Start to work; returns at once, also when what lies behind cannot be reached yet."""

    @abstractmethod
    async def close(self) -> None:
        """Stop to work and leave every sandbox as it is."""

    @property
    @abstractmethod
    def available(self) -> bool:
        """Whether what lies behind answers, as far as is known."""

    @abstractmethod
    async def wait_available(self, timeout_s: float) -> bool:
        """Wait until `available`; False when that took longer than `timeout_s`."""

    @abstractmethod
    def unavailable_message(self) -> str:
        """What to tell a user while the backend is not available."""

    @abstractmethod
    async def check(self, runtime: Runtime) -> str | None:
        """What keeps sandboxes of `runtime` from being started on this host; None when nothing is known to."""

    @abstractmethod
    async def start(self, sandbox: str, runtime: Runtime) -> Connections:
        """Start a sandbox and return once it has connected.

        Raises StartFailedError when it cannot be started and BackendUnavailableError when that may be tried again.
        Whatever the outcome, and also when cancelled, the caller calls `stop` in the end.
        """

    @abstractmethod
    async def wait(self, sandbox: str) -> Exit:
        """Return once the sandbox has ended, also one that an earlier server started. It is left in place."""

    @abstractmethod
    def alive(self, sandbox: str) -> bool:
        """Whether a sandbox that was started here still runs: a quick look, no conversation."""

    async def usage(self, sandbox: str) -> Usage | None:  # noqa: ARG002 - a backend that knows overrides this
        """What a running sandbox uses; None where the backend cannot tell."""
        return None

    @abstractmethod
    async def stop(self, sandbox: str) -> None:
        """Kill a sandbox and remove what is left of it; one that is not there is fine.

        Raises BackendUnavailableError when that has to be tried again.
        """

    @abstractmethod
    async def list_sandboxes(self) -> set[str]:
        """Ids of all sandboxes of this instance, running or not. Raises BackendUnavailableError."""


def backend_class(name: str) -> type[Backend]:
    """The class of the backend called `name`: a built-in one or one that an installed package offers.

    Raises LookupError that lists what there is, TypeError when what is installed is not a backend.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
        if name not in entries:
            raise LookupError(f"backend {name!r} does not exist; there are {', '.join(sorted({*_BUILT_IN, *entries}))}")
        found = entries[name].load()
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise TypeError(f"backend {name!r} is not a subclass of protocol_server.backends.Backend")
    return found
