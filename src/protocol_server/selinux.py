"""SELinux: what keeps sandboxes apart where the kernel has it.

Each sandbox runs in a type of its own policy and with a pair of categories that no other sandbox has; its directory
and the socket in it carry the same pair. The types come from src/selinux_policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol_server.errors import SQLSTATE_SYSTEM_ERROR, StartFailedError

CATEGORIES: Final = 1024
USER: Final = "system_u"
SANDBOX_TYPE: Final = "plcontainer_sandbox_t"
#: The same with a network, for runtimes that have one.
NETWORK_SANDBOX_TYPE: Final = "plcontainer_net_sandbox_t"
DIRECTORY_TYPE: Final = "plcontainer_ipc_t"
#: The socket that a sandbox meets the server at; the server's other sockets are of the server's own type.
RENDEZVOUS_TYPE: Final = "plcontainer_rendezvous_t"
_LEVEL: Final = re.compile(r"s0:c(\d{1,4}),c(\d{1,4})")
_ATTRIBUTE: Final = "security.selinux"
#: Between two looks at a process that has yet to get its label.
_INTERVAL_S: Final = 0.05


class LevelsExhaustedError(Exception):
    """Every pair of categories is in use."""


@dataclass(frozen=True)
class Label:
    """What a sandbox is labelled with: the type of its processes, and the level of everything that is its own."""

    type: str
    level: str

    @property
    def process(self) -> str:
        """The context of its processes."""
        return f"{USER}:system_r:{self.type}:{self.level}"

    @property
    def directory(self) -> str:
        """The context of its directory and of the socket's file in it."""
        return f"{USER}:object_r:{DIRECTORY_TYPE}:{self.level}"

    @property
    def docker_options(self) -> list[str]:
        """What Docker is told as security options."""
        parts = {"user": USER, "role": "system_r", "type": self.type, "level": self.level}
        return [f"label={name}:{value}" for name, value in parts.items()]

    def apply(self, path: Path) -> None:
        """Label a directory or a file. Raises OSError, EINVAL when the policy does not know the context."""
        os.setxattr(path, _ATTRIBUTE, f"{self.directory}\0".encode(), follow_symlinks=False)


class Levels:
    """Pairs of categories, each given to one sandbox at a time.

    They are given in turn from a random one on, so that a pair that was just given back rests for long.
    """

    def __init__(self, categories: int = CATEGORIES) -> None:
        self._categories = categories
        self._pairs = math.comb(categories, 2)
        self._next = secrets.randbelow(self._pairs)
        self._of: dict[str, int] = {}

    def take(self, sandbox: str) -> str:
        """The level of a sandbox, which keeps it until `free`. Raises LevelsExhaustedError."""
        if sandbox not in self._of:
            taken = set(self._of.values())
            if len(taken) >= self._pairs:
                raise LevelsExhaustedError(f"all {self._pairs} pairs of SELinux categories are in use")
            while self._next in taken:
                self._next = (self._next + 1) % self._pairs
            self._of[sandbox] = self._next
            self._next = (self._next + 1) % self._pairs
        return _level(self._of[sandbox])

    def learn(self, sandbox: str, level: str) -> bool:
        """Note the level of a sandbox that an earlier server started; False when it is not one that it gives."""
        match = _LEVEL.fullmatch(level)
        if match is None:
            return False
        low, high = int(match[1]), int(match[2])
        if not low < high < self._categories:
            return False
        self._of[sandbox] = math.comb(high, 2) + low
        return True

    def free(self, sandbox: str) -> None:
        """Give back what a sandbox had; one that had nothing is fine."""
        self._of.pop(sandbox, None)


def _level(index: int) -> str:
    """The pair with an index, lower category first, as the kernel writes it."""
    high = (1 + math.isqrt(1 + 8 * index)) // 2
    return f"s0:c{index - math.comb(high, 2)},c{high}"


class Selinux:
    """What this host's SELinux says of sandboxes, asked anew each time: policies come and go."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._file_system = root / "sys/fs/selinux"
        self._proc = root / "proc"
        self._seen = False

    @property
    def enabled(self) -> bool:
        """Whether the kernel has a policy loaded."""
        return (self._file_system / "enforce").exists()

    @property
    def enforcing(self) -> bool:
        """Whether what the policy forbids is denied, not only logged."""
        try:
            return (self._file_system / "enforce").read_text(encoding="ascii").strip() == "1"
        except OSError:
            return False

    def knows(self, context: str) -> bool:
        """Whether the loaded policy has this context."""
        try:
            descriptor = os.open(self._file_system / "context", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(descriptor, f"{context}\0".encode())
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wanted(self, setting: str) -> bool:
        """Whether sandboxes are to be labelled: `setting` is auto, required or off.

        Raises StartFailedError when they are and cannot be. What was labelled once is not left unlabelled later: a
        policy that went away on a running host is no reason to go on without it.
        """
        if setting == "off":
            return False
        problem = self._problem()
        if not problem:
            if setting == "required" and not self.enforcing:
                raise _refused("SELinux is permissive on this host", "Make it enforcing with `setenforce 1`.")
            self._seen = True
            return True
        if setting == "required" or self._seen:
            raise _refused(
                problem, "The role selinux_policy installs what is missing: run the playbook site.yml again."
            )
        return False

    def _problem(self) -> str:
        if not self.enabled:
            return "this host's kernel runs without SELinux"
        contexts = [f"{USER}:system_r:{name}:s0" for name in (SANDBOX_TYPE, NETWORK_SANDBOX_TYPE)]
        contexts.append(f"{USER}:object_r:{DIRECTORY_TYPE}:s0")
        if not all(self.knows(context) for context in contexts):
            return "the SELinux policy of this host has no module plcontainer"
        return ""

    def check_process(self, pid: int, label: Label) -> None:
        """Compare the kernel's word on a sandbox's first process with its label. Raises StartFailedError.

        A process that has ended is fine: its end is told elsewhere.
        """
        try:
            context = (self._proc / str(pid) / "attr/current").read_text(encoding="utf-8").rstrip("\0\n")
        except (FileNotFoundError, ProcessLookupError):
            return
        except OSError as error:
            context = f"one that cannot be read ({error.strerror})"
        if context != label.process:
            raise _refused(
                f"a sandbox got the context {context} in place of {label.process}",
                "Docker labels containers only with `selinux-enabled` in /etc/docker/daemon.json.",
            )

    async def wait_for_process(self, pid: int, label: Label, connected: asyncio.Future[Any], *, limit_s: float) -> None:
        """Like `check_process`, of a process that gets its label soon, and has it once it has connected.

        Docker calls a container started whose first process has yet to execute the runtime, which is what changes
        its label. One that neither gets it nor connects is refused after `limit_s`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while not connected.done() and loop.time() < end:
            with contextlib.suppress(StartFailedError):
                self.check_process(pid, label)
                return
            await asyncio.wait((connected,), timeout=min(_INTERVAL_S, limit_s))
        self.check_process(pid, label)


def _refused(problem: str, hint: str) -> StartFailedError:
    return StartFailedError(
        SQLSTATE_SYSTEM_ERROR, "no sandbox is started without the protection of SELinux", detail=problem, hint=hint
    )


@contextlib.contextmanager
def rendezvous_sockets(label: Label | None, proc: Path = Path("/proc")) -> Iterator[None]:
    """Sockets that this thread makes meanwhile are of the rendezvous' type, at no sandbox's level."""
    if label is None:
        yield
        return
    attribute = proc / "thread-self/attr/sockcreate"
    attribute.write_text(f"{USER}:object_r:{RENDEZVOUS_TYPE}:s0", encoding="ascii")
    try:
        yield
    finally:
        attribute.write_text("\n", encoding="ascii")
