"""How many sandboxes a database role may hold, and who waits for one of its places."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from protocol_server.config import ServerConfig
from protocol_server.errors import SQLSTATE_TOO_MANY_CONNECTIONS, LeaseError


class RoleCaps:
    """One place per sandbox that a role holds; a place is free again when its sandbox is gone.

    A cap that a reload lowers takes nothing away: it holds for those that come.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._taken: Counter[str] = Counter()
        self._waiters: dict[str, deque[asyncio.Future[None]]] = {}

    def configure(self, config: ServerConfig) -> None:
        """Use other caps; those who wait may get their places by it."""
        self._config = config
        for role in tuple(self._waiters):
            self._wake(role)

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return sum(map(len, self._waiters.values()))

    def taken(self, role: str) -> int:
        """How many places a role has."""
        return self._taken[role]

    def adopt(self, role: str) -> None:
        """Count a place that was given before this server was started."""
        self._taken[role] += 1

    async def enter(self, role: str, queued: int) -> None:
        """Take a place, or wait for one. `queued` requests wait for other reasons. Raises LeaseError (53300)."""
        if self._has_room(role):
            self._taken[role] += 1
            return
        if queued + self.waiting >= self._config.queue_length:
            raise self._too_many(role, f"{self._config.queue_length} requests are waiting already (queue_length).")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(role, deque()).append(future)
        limit_s = self._config.queue_timeout_s
        try:
            await asyncio.wait((future,), timeout=limit_s)
        except asyncio.CancelledError:
            self._forget(role, future)
            raise
        if not future.done():
            self._forget(role, future)
            raise self._too_many(role, f"None became free within {limit_s:g} s (queue_timeout_s).")
        future.result()

    def leave(self, role: str) -> None:
        """Give a place back."""
        self._taken[role] -= 1
        if not self._taken[role]:
            del self._taken[role]
        self._wake(role)

    def refuse_all(self, error: LeaseError) -> None:
        """Send everyone away who waits."""
        waiters, self._waiters = self._waiters, {}
        for queue in waiters.values():
            for future in queue:
                if not future.done():
                    future.set_exception(error)

    def _limit(self, role: str) -> int:
        return self._config.role_limits.get(role, self._config.max_sandboxes_per_role)

    def _has_room(self, role: str) -> bool:
        limit = self._limit(role)
        return limit == 0 or self._taken[role] < limit

    def _wake(self, role: str) -> None:
        queue = self._waiters.get(role)
        while queue and self._has_room(role):
            future = queue.popleft()
            if not future.done():
                self._taken[role] += 1
                future.set_result(None)
        if queue is not None and not queue:
            self._waiters.pop(role, None)

    def _forget(self, role: str, future: asyncio.Future[None]) -> None:
        if future.done() and not future.cancelled() and future.exception() is None:
            # The place came together with the end of the wait.
            self.leave(role)
            return
        queue = self._waiters.get(role)
        if queue is not None and future in queue:
            queue.remove(future)
            if not queue:
                del self._waiters[role]

    def _too_many(self, role: str, why: str) -> LeaseError:
        key = "role_limits" if role in self._config.role_limits else "max_sandboxes_per_role"
        return LeaseError(
            SQLSTATE_TOO_MANY_CONNECTIONS,
            f'too many sandboxes: role "{role}" may hold {self._limit(role)} ({key})',
            detail=why,
            hint="End sessions of this role, or raise the limit in the protocol server's configuration.",
        )
