"""The sandboxes of this host: warm pools, starts, the cap and the queue in front of it.

A sandbox goes from STARTING to READY (in its runtime's pool) to LEASED to STOPPING, or leaves that way early. It is
never handed out twice. Everything runs in the event loop's thread; `_pump` is called after each change and decides
what to do next, so that there is one place to read.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol_server.backends import Backend, Connections, Exit
from protocol_server.caps import RoleCaps
from protocol_server.config import Config, Runtime
from protocol_server.errors import (
    SQLSTATE_CANNOT_CONNECT_NOW,
    SQLSTATE_SYSTEM_ERROR,
    SQLSTATE_TOO_MANY_CONNECTIONS,
    SQLSTATE_UNDEFINED_OBJECT,
    BackendUnavailableError,
    LeaseError,
    StartFailedError,
)
from protocol_server.logs import Log
from protocol_server.metrics import Gauge, Metrics

_BACKOFF_FIRST_S: Final = 1.0
_BACKOFF_LAST_S: Final = 60.0
#: A warm sandbox that lived this long did not die of how it was started.
_SETTLED_S: Final = 30.0
_REFILL_DELAY_S: Final = 0.05
_HINT_LISTED: Final = 50


class State(enum.Enum):
    """Where a sandbox is in its life."""

    STARTING = "starting"
    READY = "ready"
    LEASED = "leased"
    STOPPING = "stopping"


@dataclass(eq=False)
class Sandbox:
    """One sandbox. `connections` is there from READY until the backend has them; `definition` as it was at the start.

    `role` is there from LEASED on: whose place it takes until it is gone. `started_at` is seconds since 1970, 0 when an
    earlier server started it.
    """

    id: str
    runtime: str
    definition: Runtime | None
    state: State
    role: str | None = None
    connections: Connections | None = None
    started_at: float = 0.0
    ready_at: float = 0.0
    exit: Exit | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    watch: asyncio.Task[None] | None = None

    def close_connections(self) -> None:
        """Close this process's copies of the descriptors."""
        if self.connections is not None:
            self.connections.close()
            self.connections = None


class _Waiter(asyncio.Future[Sandbox]):
    """Someone who waits for a sandbox; `since` puts those of all pools in order."""

    def __init__(self) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.since = time.monotonic()


class _Pool:
    """The warm sandboxes of one runtime, and who waits for one."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.ready: deque[Sandbox] = deque()
        self.waiters: deque[_Waiter] = deque()
        self.starting = 0
        self.target = runtime.pool.min
        self.last_lease = time.monotonic()
        self.failures = 0
        self.failing_since_death = False
        self.retry_at = 0.0

    @property
    def unserved(self) -> int:
        """Waiters for whom no start is on its way."""
        return max(0, len(self.waiters) - self.starting)


class Sandboxes:
    """All sandboxes of this host, leased, warm and on their way."""

    def __init__(self, config: Config, backend: Backend, log: Log, metrics: Metrics | None = None) -> None:
        self._config = config.server
        self._backend = backend
        self._log = log
        self._metrics = metrics or Metrics()
        self._caps = RoleCaps(config.server)
        self._pools = {name: _Pool(runtime) for name, runtime in config.runtimes.items()}
        self._all: dict[str, Sandbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._starts = 0
        self._draining = False
        self._closing = False

    def __contains__(self, sandbox: object) -> bool:
        return sandbox in self._all

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    @property
    def waiting(self) -> int:
        """How many requests wait for a sandbox or for a place of their role."""
        return self._caps.waiting + sum(len(pool.waiters) for pool in self._pools.values())

    def count(self, state: State) -> int:
        """How many sandboxes are in `state`."""
        return sum(1 for sandbox in self._all.values() if sandbox.state is state)

    def get(self, sandbox_id: str) -> Sandbox | None:
        """A sandbox by its id."""
        return self._all.get(sandbox_id)

    def gauges(self) -> Iterator[Gauge]:
        """What the metrics tell of sandboxes and pools."""
        states = [((state.value,), float(self.count(state))) for state in State]
        yield "sandboxes", "Sandboxes by state.", ("state",), states
        yield "sandboxes_limit", "Sandboxes that this host allows.", (), [((), self._config.max_sandboxes)]
        yield "queue_length", "Requests that wait for a sandbox.", (), [((), self.waiting)]
        pools = self._pools.items()
        ready = [((name,), float(len(pool.ready))) for name, pool in pools]
        yield "pool_ready", "Sandboxes that are kept ready, by runtime.", ("runtime",), ready
        targets = [((name,), float(pool.target)) for name, pool in pools]
        yield "pool_target", "Sandboxes that are to be kept ready, by runtime.", ("runtime",), targets

    def runtime(self, name: str) -> Runtime:
        """The runtime called `name`. Raises LeaseError (42704) that lists those that exist."""
        pool = self._pools.get(name)
        if pool is None:
            raise _unknown_runtime(name, self._pools)
        return pool.runtime

    async def acquire(self, name: str, role: str) -> tuple[Sandbox, bool]:
        """A sandbox of a runtime for a new lease, and whether it was warm. Raises LeaseError when there is none.

        When the caller is cancelled, a sandbox that was about to be given to it goes back: it was never used.
        """
        self.runtime(name)
        self._check_open()
        began = time.monotonic()
        await self._caps.enter(role, self._queued())
        try:
            sandbox, warm = await self._acquire(name)
        except BaseException:
            self._caps.leave(role)
            raise
        sandbox.role = role
        if not warm:
            self._metrics.waits.observe(time.monotonic() - began)
        return sandbox, warm

    def _check_open(self) -> None:
        if self._closing:
            raise LeaseError(SQLSTATE_CANNOT_CONNECT_NOW, "the protocol server is shutting down")
        if self._draining:
            raise _drained()

    async def _acquire(self, name: str) -> tuple[Sandbox, bool]:
        # Both may have changed while a place was waited for.
        self.runtime(name)
        self._check_open()
        pool = self._pools[name]
        pool.last_lease = time.monotonic()
        if not pool.waiters:
            while pool.ready:
                sandbox = pool.ready.popleft()
                if self._backend.alive(sandbox.id):
                    self._lease(pool, sandbox)
                    # Not at once: the refill would compete with the call that this one is for.
                    self._call_later(_REFILL_DELAY_S, self._pump)
                    return sandbox, True
                self.retire(sandbox, "found dead")
        # Nobody would have waited had one more been ready.
        if pool.target < pool.runtime.pool.max:
            pool.target += 1
            self._call_later(self._config.pool_idle_s, self._shrink)
        return await self._wait(pool), False

    async def _wait(self, pool: _Pool) -> Sandbox:
        future = _Waiter()
        pool.waiters.append(future)
        self._pump()
        try:
            await self._wait_bounded(pool, future)
            return future.result()
        except BaseException:
            if future in pool.waiters:
                pool.waiters.remove(future)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise

    async def _wait_bounded(self, pool: _Pool, future: _Waiter) -> None:
        """Return once `future` is done. Raises LeaseError when the queue is full or the wait was too long."""
        limit = self._config
        full = self._full() or self._capped(pool)
        queued = self._queued()
        if full and not future.done() and queued + self._caps.waiting > limit.queue_length:
            raise self._too_many(pool, f"{limit.queue_length} requests are waiting already (queue_length).")
        # One whose own start has filled the host up waits for nobody.
        if full and not future.done() and queued > 0:
            self._log.info("lease_queued", runtime=pool.runtime.id, queued=queued)
        await asyncio.wait((future,), timeout=limit.queue_timeout_s)
        if future.done():
            return
        # A reload may have put another pool with the same queue in the place of this one.
        starting = self._pools.get(pool.runtime.id, pool).starting
        if list(pool.waiters).index(future) >= starting:
            raise self._too_many(pool, f"None became free within {limit.queue_timeout_s:g} s (queue_timeout_s).")
        # Its sandbox is on its way: starts are bounded by limits of their own.
        limit_s = limit.start_timeout_s + limit.start_retry_s
        await asyncio.wait((future,), timeout=limit_s)
        if not future.done():
            raise self._unavailable(f"No sandbox was started within {limit.queue_timeout_s + limit_s:g} s.")

    def _queued(self) -> int:
        """Requests that wait for others to end: those that are being removed make room for as many."""
        return max(0, sum(other.unserved for other in self._pools.values()) - self.count(State.STOPPING))

    def _too_many(self, pool: _Pool, why: str) -> LeaseError:
        limit = self._config.max_sandboxes
        if self._capped(pool):
            limit = pool.runtime.max_sandboxes
            message = f'too many sandboxes: runtime "{pool.runtime.id}" allows {limit} (its max_sandboxes)'
        elif len(self._all) < limit:
            limit = self._config.start_concurrency
            message = f"too many sandboxes: {limit} are being started at the same time (start_concurrency)"
        else:
            message = f"too many sandboxes: this host allows {limit} (max_sandboxes)"
        states = ", ".join(f"{self.count(state)} {state.value}" for state in State)
        return LeaseError(
            SQLSTATE_TOO_MANY_CONNECTIONS,
            message,
            detail=f"{why} Sandboxes: {states}.",
            hint="End sessions that use sandboxes, or raise the limit in the protocol server's configuration.",
        )

    def _lease(self, pool: _Pool, sandbox: Sandbox) -> None:
        sandbox.state = State.LEASED
        if pool.failures:
            self._log.info("pool_recovered", runtime=pool.runtime.id)
        pool.failures = 0

    def _give_back(self, sandbox: Sandbox) -> None:
        current = self._pools.get(sandbox.runtime)
        if current is not None and sandbox.definition == current.runtime and not self._closing:
            sandbox.state = State.READY
            current.ready.appendleft(sandbox)
            self._call_later(self._config.pool_idle_s, self._shrink)
            self._pump()
        else:
            self.retire(sandbox, "given back")

    def adopt(self, sandbox_id: str, runtime: str, role: str) -> Sandbox:
        """Take over a leased sandbox that an earlier server started; it counts against the caps."""
        sandbox = Sandbox(sandbox_id, runtime, None, State.LEASED, role)
        self._caps.adopt(role)
        self._all[sandbox_id] = sandbox
        sandbox.watch = self._spawn(self._watch(sandbox))
        return sandbox

    def reap(self, sandbox_id: str) -> None:
        """Remove a sandbox that belongs to nobody."""
        sandbox = Sandbox(sandbox_id, "", None, State.READY)
        self._all[sandbox_id] = sandbox
        self.retire(sandbox, "orphan")

    def take_back(self, sandbox: Sandbox, end: Exit) -> None:
        """End a leased sandbox; whoever holds it is told `end`."""
        if sandbox.state is State.LEASED:
            sandbox.exit = end
            sandbox.exited.set()
            self.retire(sandbox, "taken back")

    def retire(self, sandbox: Sandbox, why: str) -> None:
        """Kill a sandbox and remove it, in the background; it counts against the cap until it is gone."""
        if sandbox.state is State.STOPPING:
            return
        sandbox.state = State.STOPPING
        pool = self._pools.get(sandbox.runtime)
        if pool is not None and sandbox in pool.ready:
            pool.ready.remove(sandbox)
        sandbox.close_connections()
        self._spawn(self._stop(sandbox, why))

    async def _stop(self, sandbox: Sandbox, why: str) -> None:
        began = time.monotonic()
        pause_s = 0.25
        while True:
            try:
                await self._backend.stop(sandbox.id)
                break
            except (BackendUnavailableError, OSError) as error:
                if pause_s == 1.0:
                    self._log.warning("sandbox_stop_retried", sandbox=sandbox.id, problem=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 15.0)
                if not self._backend.available:
                    await self._backend.wait_available(3600)
        if sandbox.watch is not None and sandbox.watch is not asyncio.current_task():
            sandbox.watch.cancel()
        del self._all[sandbox.id]
        self._metrics.removals.labels(why).inc()
        if sandbox.role is not None:
            self._caps.leave(sandbox.role)
        duration = round((time.monotonic() - began) * 1000, 1)
        level = "debug" if why == "start failed" else "info"
        self._log.write(
            level, "sandbox_removed", sandbox=sandbox.id, runtime=sandbox.runtime or None, why=why, ms=duration
        )
        self._pump()

    def apply(self, config: Config) -> None:
        """Use another configuration: warm sandboxes of changed runtimes are replaced, leased ones are left alone."""
        self._config = config.server
        self._caps.configure(config.server)
        pools: dict[str, _Pool] = {}
        for name, runtime in config.runtimes.items():
            pool = self._pools.pop(name, None)
            if pool is None or pool.runtime != runtime:
                pool = self._replace(pool, runtime)
            pools[name] = pool
        gone, self._pools = self._pools, pools
        for name, pool in gone.items():
            while pool.waiters:
                _settle(pool.waiters.popleft(), _unknown_runtime(name, pools))
            for sandbox in tuple(pool.ready):
                pool.ready.remove(sandbox)
                self.retire(sandbox, "runtime removed")
        self._pump()

    def _replace(self, old: _Pool | None, runtime: Runtime) -> _Pool:
        new = _Pool(runtime)
        if old is not None:
            # Starts under way are of the old definition: they notice when they are done, and do not count here.
            new.waiters = old.waiters
            same = {**vars(old.runtime), "pool": None, "roles": None} == {**vars(runtime), "pool": None, "roles": None}
            for sandbox in tuple(old.ready):
                old.ready.remove(sandbox)
                if same:
                    sandbox.definition = runtime
                    new.ready.append(sandbox)
                else:
                    self.retire(sandbox, "runtime changed")
        self._call_later(0.0, self._shrink)
        return new

    @property
    def draining(self) -> bool:
        """Whether new leases are refused."""
        return self._draining

    def drain(self) -> None:
        """Refuse new leases, also those that wait, and remove what is warm. Leases go on."""
        self._draining = True
        self._refuse_waiters(_drained())
        for pool in self._pools.values():
            for sandbox in tuple(pool.ready):
                self.retire(sandbox, "drained")

    def undrain(self) -> None:
        """Grant leases again."""
        self._draining = False
        self._pump()

    def _refuse_waiters(self, error: LeaseError) -> None:
        self._caps.refuse_all(error)
        for pool in self._pools.values():
            while pool.waiters:
                _settle(pool.waiters.popleft(), error)

    async def close(self, timeout_s: float) -> None:
        """Remove what is not leased, within `timeout_s`; leased sandboxes are left for the next server."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._refuse_waiters(LeaseError(SQLSTATE_CANNOT_CONNECT_NOW, "the protocol server is shutting down"))
        for sandbox in tuple(self._all.values()):
            if sandbox.state is State.LEASED:
                if sandbox.watch is not None:
                    sandbox.watch.cancel()
            elif sandbox.state is State.READY:
                self.retire(sandbox, "shutdown")
            elif sandbox.state is State.STARTING and sandbox.watch is not None:
                sandbox.watch.cancel()
        deadline = time.monotonic() + timeout_s
        # Cancelled starts become stops, so there may be new tasks after the first wait.
        while self._tasks and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(tuple(self._tasks), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tuple(self._tasks):
            task.cancel()

    # deciding what to do next

    def _pump(self) -> None:
        if self._closing:
            return
        for pool in self._pools.values():
            while pool.ready and pool.waiters:
                waiter = pool.waiters.popleft()
                if not waiter.done():
                    sandbox = pool.ready.popleft()
                    self._lease(pool, sandbox)
                    waiter.set_result(sandbox)
            # Whoever had these started did not wait for them.
            while len(pool.ready) > (0 if self._draining else pool.runtime.pool.max):
                self.retire(pool.ready[-1], "drained" if self._draining else "pool is full")
        # Whoever waits comes before the pools.
        while self._starts < self._config.start_concurrency and (next_pool := self._longest_waiting()) is not None:
            self._start(next_pool)
        waiting = any(pool.unserved and not self._capped(pool) for pool in self._pools.values())
        if waiting or self._draining or not self._backend.available:
            return
        # Half of the places stay free for leases that find their pool empty.
        places = max(1, self._config.start_concurrency // 2)
        now = time.monotonic()
        for pool in self._pools.values():
            if pool.retry_at > now:
                self._call_later(pool.retry_at - now, self._pump)
                continue
            spare = pool.starting - len(pool.waiters)
            while len(pool.ready) + spare < pool.target and self._starts < places and self._has_room(pool):
                self._start(pool)
                spare += 1

    def _longest_waiting(self) -> _Pool | None:
        """The pool that may start a sandbox for whoever waits longest without one on its way."""
        waiting = [pool for pool in self._pools.values() if pool.unserved]
        # Not by their number: a busy runtime would keep another one's few from ever being served.
        waiting.sort(key=lambda pool: pool.waiters[pool.starting].since)
        return next((pool for pool in waiting if self._make_room(pool)), None)

    def _full(self) -> bool:
        return len(self._all) >= self._config.max_sandboxes

    def _capped(self, pool: _Pool) -> bool:
        """Whether a runtime has as many sandboxes as it may."""
        limit = pool.runtime.max_sandboxes
        return 0 < limit <= sum(1 for sandbox in self._all.values() if sandbox.runtime == pool.runtime.id)

    def _has_room(self, pool: _Pool) -> bool:
        return not self._full() and not self._capped(pool)

    def _make_room(self, pool: _Pool) -> bool:
        """Whether one more sandbox may be started; when not, a warm one of another runtime makes room."""
        if self._capped(pool):
            return False
        if not self._full():
            return True
        if any(sandbox.state is State.STOPPING for sandbox in self._all.values()):
            # Room is about to appear.
            return False
        others = [other for other in self._pools.values() if other is not pool and other.ready]
        if others:
            victim = max(others, key=lambda other: len(other.ready)).ready[0]
            self.retire(victim, "made room")
        return False

    def _shrink(self) -> None:
        """Bring pools that nobody asked for back to their smallest size."""
        now = time.monotonic()
        for pool in self._pools.values():
            quiet_s = now - pool.last_lease
            if quiet_s + 0.001 >= self._config.pool_idle_s:
                pool.target = pool.runtime.pool.min
                while len(pool.ready) > pool.target:
                    self.retire(pool.ready[-1], "pool shrinks")
            elif pool.target > pool.runtime.pool.min or len(pool.ready) > pool.target:
                self._call_later(self._config.pool_idle_s - quiet_s, self._shrink)
        self._pump()

    # starting and watching

    def _start(self, pool: _Pool) -> None:
        sandbox = Sandbox(secrets.token_hex(8), pool.runtime.id, pool.runtime, State.STARTING, started_at=time.time())
        self._all[sandbox.id] = sandbox
        pool.starting += 1
        self._starts += 1
        sandbox.watch = self._spawn(self._run(pool, sandbox))

    async def _run(self, pool: _Pool, sandbox: Sandbox) -> None:
        """The life of a sandbox that is started here: the start, then the wait for its end."""
        began = time.monotonic()
        failure: LeaseError | None = None
        try:
            sandbox.connections = await self._start_retried(pool, sandbox, began)
        except LeaseError as error:
            failure = error
        except asyncio.CancelledError:
            self.retire(sandbox, "shutdown")
            raise
        finally:
            pool.starting -= 1
            self._starts -= 1
        if failure is not None:
            self._metrics.start_failures.labels(sandbox.runtime).inc()
            self.retire(sandbox, "start failed")
            if self._pools.get(sandbox.runtime) is pool:
                self._failed(pool, failure)
            self._pump()
            return
        sandbox.ready_at = time.monotonic()
        self._metrics.starts.labels(sandbox.runtime).observe(sandbox.ready_at - began)
        duration = round((sandbox.ready_at - began) * 1000, 1)
        self._log.info("sandbox_started", sandbox=sandbox.id, runtime=sandbox.runtime, ms=duration)
        current = self._pools.get(sandbox.runtime)
        if current is None or current.runtime != sandbox.definition:
            self.retire(sandbox, "runtime changed")
            self._pump()
            return
        if current.failures and not current.failing_since_death:
            current.failures = 0
            self._log.info("pool_recovered", runtime=sandbox.runtime)
        sandbox.state = State.READY
        current.ready.append(sandbox)
        self._pump()
        await self._watch(sandbox)

    async def _start_retried(self, pool: _Pool, sandbox: Sandbox, began: float) -> Connections:
        """Start; where the backend is away, wait for it and try again, for a bounded time."""
        attempts = 0
        while True:
            left_s = began + self._config.start_retry_s - time.monotonic()
            if not await self._backend.wait_available(max(0.0, left_s)):
                raise self._unavailable()
            attempts += 1
            try:
                if attempts > 1:
                    # The same id is used again, so what the failed attempt left has to go first.
                    await self._backend.stop(sandbox.id)
                return await self._backend.start(sandbox.id, pool.runtime)
            except BackendUnavailableError as error:
                if time.monotonic() - began >= self._config.start_retry_s or not pool.waiters:
                    raise self._unavailable(str(error)) from error
            await asyncio.sleep(0.25)

    def _unavailable(self, detail: str = "") -> StartFailedError:
        return StartFailedError(
            SQLSTATE_SYSTEM_ERROR,
            self._backend.unavailable_message(),
            detail=detail or f"A start was tried for {self._config.start_retry_s:g} s (start_retry_s).",
            hint="Look at the service on this host; sandboxes can be started again as soon as it answers.",
        )

    def _failed(self, pool: _Pool, error: LeaseError) -> None:
        """A start failed: the one who waits longest is told, and the pool waits a while before it tries again."""
        while pool.waiters:
            waiter = pool.waiters.popleft()
            if not waiter.done():
                _settle(waiter, error)
                break
        self._back_off(pool, error.message, error.detail, from_death=False)

    def _back_off(self, pool: _Pool, problem: str, detail: str, *, from_death: bool) -> None:
        pool.failures += 1
        pool.failing_since_death = from_death
        delay_s = min(_BACKOFF_LAST_S, _BACKOFF_FIRST_S * 2.0 ** min(pool.failures - 1, 10))
        pool.retry_at = time.monotonic() + delay_s
        if pool.failures == 1:
            self._log.alert("pool_failing", runtime=pool.runtime.id, problem=problem, detail=detail or None)

    async def _watch(self, sandbox: Sandbox) -> None:
        end = await self._backend.wait(sandbox.id)
        if sandbox.state is State.STOPPING:
            return
        sandbox.exit = end
        self._metrics.deaths.labels(sandbox.runtime, end.sqlstate).inc()
        state = sandbox.state.value
        self._log.warning(
            "sandbox_exited",
            sandbox=sandbox.id,
            runtime=sandbox.runtime,
            state=state,
            reason=end.reason,
            sqlstate=end.sqlstate,
        )
        was_ready = sandbox.state is State.READY
        sandbox.exited.set()
        self.retire(sandbox, "exited")
        pool = self._pools.get(sandbox.runtime)
        if was_ready and pool is not None:
            if time.monotonic() - sandbox.ready_at > _SETTLED_S:
                pool.failures = 0
            self._back_off(pool, f"a warm sandbox {end.reason}", "", from_death=True)
        self._pump()

    def backend_available(self) -> None:
        """The backend answers (again): do what had to wait for it."""
        for pool in self._pools.values():
            pool.retry_at = 0.0
        self._pump()

    # small things

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call `function` after `delay_s`, or earlier where that was asked for before; it asks again as needed."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(function)
        if timer is not None:
            if timer.when() <= loop.time() + delay_s:
                return
            timer.cancel()

        def run() -> None:
            del self._timers[function]
            function()

        self._timers[function] = loop.call_later(delay_s, run)


def _settle(waiter: asyncio.Future[Sandbox], error: LeaseError) -> None:
    if not waiter.done():
        waiter.set_exception(error)


def _drained() -> LeaseError:
    return LeaseError(
        SQLSTATE_CANNOT_CONNECT_NOW,
        "this host is drained: it gives no sandboxes to new sessions",
        detail="Sessions that have one go on.",
        hint="Try again later, or on another host. `plcontainer drain --off` ends it.",
    )


def _unknown_runtime(name: str, existing: Mapping[str, object]) -> LeaseError:
    names = sorted(existing)
    listed = ", ".join(names[:_HINT_LISTED]) + (", ..." if len(names) > _HINT_LISTED else "")
    return LeaseError(
        SQLSTATE_UNDEFINED_OBJECT,
        f'runtime "{name[:64]}" does not exist',
        detail=f"Runtimes on this host: {listed}." if names else "This host has no runtimes.",
        hint="The runtime is named in the first line of the function's body: # container: <runtime>",
    )
