"""The daemon: its socket, one task per backend connection, restarts and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from protocol_server import __version__, codec
from protocol_server.activity import Activity
from protocol_server.backends import Backend, Exit, backend_class
from protocol_server.backends.rendezvous import describe_full, remove_directory, sandboxes_directory
from protocol_server.config import RESTART_KEYS, Config, ConfigError, Problem, Runtime
from protocol_server.control import ControlServer, Operations
from protocol_server.errors import (
    SQLSTATE_CONFIG_FILE_ERROR,
    SQLSTATE_CONNECTION_DOES_NOT_EXIST,
    SQLSTATE_IDLE_SESSION_TIMEOUT,
    SQLSTATE_INSUFFICIENT_PRIVILEGE,
    SQLSTATE_OBJECT_IN_USE,
    SQLSTATE_SYSTEM_ERROR,
    SQLSTATE_TOO_MANY_CONNECTIONS,
    BackendUnavailableError,
    LeaseError,
    ProtocolViolationError,
)
from protocol_server.leases import Lease, LeaseStore, new_lease, token_hash
from protocol_server.logs import Log
from protocol_server.metrics import Gauge, Metrics
from protocol_server.overview import Overview, Row, config_row, runtime_row
from protocol_server.process import Peer, Watch, peer_of
from protocol_server.sandboxes import Sandbox, Sandboxes, State
from protocol_server.sockets import listen, read, send
from protocol_server.statistics import Statistics
from protocol_server.systemd import Notifier

#: How long a connection may stay after its sandbox has ended, for the backend to read why.
_LINGER_S: Final = 60.0
_RECONCILE_INTERVAL_S: Final = 60.0
_SHUTDOWN_S: Final = 5.0
_IDLE_LOOK_S: Final = 1.0
_IDLE_LOOK_MOST_S: Final = 10.0


class ServerError(Exception):
    """The server cannot start; the message says why."""


class _Unclaimed:
    """A lease of an earlier server that its backend may still claim."""

    def __init__(self, lease: Lease, sandbox: Sandbox) -> None:
        self.lease = lease
        self.sandbox = sandbox
        self.timer: asyncio.TimerHandle | None = None
        self.watch: Watch | None = None

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.watch is not None:
            self.watch.close()


class Server(Operations):
    """The protocol server of one host."""

    def __init__(
        self, config: Config, log: Log, reload_config: Callable[[], Config], notifier: Notifier | None = None
    ) -> None:
        self._config = config
        self._log = log
        self._reload_config = reload_config
        self._notifier = notifier or Notifier()
        try:
            make: Callable[[Any, Log, Callable[[], None]], Backend] = backend_class(config.server.backend)
        except (LookupError, TypeError) as error:
            raise ServerError(str(error)) from error
        self._backend = make(config.server, log, self._on_available)
        self._metrics = Metrics()
        self._sandboxes = Sandboxes(config, self._backend, log, self._metrics)
        self._store = LeaseStore(config.server.state_directory / "leases", log)
        self._unclaimed: dict[str, _Unclaimed] = {}
        #: Leases in force by sandbox, held ones and unclaimed ones.
        self._leases: dict[str, Lease] = {}
        self._held: set[str] = set()
        self._overview = Overview(self._sandboxes, self._backend, self._leases)
        self._statistics = Statistics()
        self._activity = Activity()
        self._control = ControlServer(self)
        self._metrics.observe(self._gauges)
        self._connections: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._without_lease = 0
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._lease_ended = asyncio.Event()
        self._started_at = time.time()
        self._reconcile_wanted = asyncio.Event()
        self._reconciled = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ServerError when the server cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        loop.set_exception_handler(self._on_loop_error)
        listener, control = await asyncio.to_thread(self._prepare)
        await self._open_control(control)
        if self._drain_file.exists():
            self._sandboxes.drain()
            self._log.warning("still_draining", hint="plcontainer drain --off")
        self._adopt_leases(await asyncio.to_thread(self._store.load))
        await self._backend.open()
        for work in (
            self._accept(listener),
            self._follow_reloads(),
            self._follow_reconciles(),
            self._check_images(),
            self._take_idle_leases_back(),
        ):
            self._spawn(work)
        if (interval_s := self._notifier.watchdog_interval_s) is not None:
            self._spawn(self._ping(interval_s))
        self._log.info("ready", version=__version__, runtimes=len(self._config.runtimes), pid=os.getpid())
        self._notifier.ready(f"{len(self._config.runtimes)} runtimes")
        await self._stop.wait()
        await self._shut_down(listener)

    async def _shut_down(self, listener: socket.socket) -> None:
        """Leave leased sandboxes to their backends and to the next server, take the rest away."""
        self._notifier.stopping()
        self._log.info("stopping", leases=len(self._held), sandboxes=len(self._sandboxes))
        listener.close()
        self._config.server.socket.unlink(missing_ok=True)
        self._config.server.control_socket.unlink(missing_ok=True)
        self._lease_ended.set()
        await self._control.close()
        for unclaimed in self._unclaimed.values():
            unclaimed.close()
        tasks = self._background | self._connections
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sandboxes.close(_SHUTDOWN_S)
        await self._backend.close()
        self._log.info("stopped")

    # start

    def _prepare(self) -> tuple[socket.socket, socket.socket]:
        """Make the directories and the listening sockets, that for backends and that for operators."""
        config = self._config.server
        path = config.socket
        try:
            for directory in (sandboxes_directory(config.state_directory), config.state_directory / "leases"):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)
            listener = listen(path, config.socket_gid)
            path = config.control_socket
            return listener, listen(path, config.control_gid)
        except OSError as error:
            raise ServerError(f"cannot listen at {path}: {error}") from error

    async def _open_control(self, listener: socket.socket) -> None:
        port = self._config.server.metrics_port
        try:
            await self._control.open(listener, port)
        except OSError as error:
            raise ServerError(f"cannot tell metrics on port {port} of 127.0.0.1: {error}") from error

    def _adopt_leases(self, leases: list[Lease]) -> None:
        for lease in leases:
            sandbox = self._sandboxes.adopt(lease.sandbox, lease.runtime, lease.role)
            unclaimed = _Unclaimed(lease, sandbox)
            if lease.backend_gone:
                self._reap(unclaimed, "backend is gone")
                continue
            self._leases[sandbox.id] = lease
            self._unclaimed[lease.token_sha256] = unclaimed
            grace_s = self._config.server.reclaim_grace_s
            loop = asyncio.get_running_loop()
            unclaimed.timer = loop.call_later(grace_s, self._reap, unclaimed, "not reclaimed")
            if lease.backend_pid > 0:
                # A process that cannot be seen is bounded by the grace alone.
                with contextlib.suppress(OSError):
                    unclaimed.watch = Watch(lease.backend_pid, _later(self._reap, unclaimed, "backend is gone"))
        if leases:
            self._log.info("leases_found", leases=len(leases), unclaimed=len(self._unclaimed))

    def _reap(self, unclaimed: _Unclaimed, why: str) -> None:
        unclaimed.close()
        self._unclaimed.pop(unclaimed.lease.token_sha256, None)
        self._log.warning("lease_reaped", why=why, **_facts(unclaimed.lease))
        self._end_lease(unclaimed.lease, unclaimed.sandbox, why)

    def _end_lease(self, lease: Lease, sandbox: Sandbox, why: str) -> None:
        self._forget(lease)
        self._sandboxes.retire(sandbox, why)

    def _forget(self, lease: Lease) -> None:
        self._store.remove(lease.sandbox)
        self._leases.pop(lease.sandbox, None)
        self._lease_ended.set()

    # connections

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors: those who are connected go on, the others wait in the backlog.
                if not failing:
                    self._log.alert("accept_failed", problem=str(error))
                failing = True
                await asyncio.sleep(0.2)
                continue
            failing = False
            task = asyncio.create_task(self._serve(sock))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, sock: socket.socket) -> None:
        """One connection from its first byte to its last."""
        with sock:
            peer = peer_of(sock)
            log = self._log.bind(backend_pid=peer.pid)
            call_id = 0
            self._without_lease += 1
            counted = True
            try:
                self._check_load()
                header, payload = await self._read_request(sock)
                call_id = header.call_id
                self._check_peer(peer)
                request = codec.decode_request(header, payload)
                if isinstance(request, codec.QueryRequest):
                    await send(sock, codec.encode_answer(call_id, json.dumps(await self._answer(request))))
                    return
                if isinstance(request, codec.LeaseRequest):
                    # Whoever is refused is on record, too.
                    log = log.bind(runtime=request.runtime[:64], role=request.role, database=request.database)
                    held = self._grant(sock, peer, call_id, request, log)
                else:
                    held = self._reclaim(sock, peer, call_id, request, log)
                async with held as (lease, sandbox, gone):
                    self._without_lease -= 1
                    counted = False
                    await self._hold(sock, lease, sandbox, gone)
            except LeaseError as error:
                self._metrics.refusals.labels(error.sqlstate).inc()
                log.info("request_refused", sqlstate=error.sqlstate, message=error.message)
                await self._refuse(sock, call_id, error)
            except (OSError, TimeoutError) as error:
                log.info("connection_lost", problem=str(error) or type(error).__name__)
            finally:
                if counted:
                    self._without_lease -= 1

    async def _read_request(self, sock: socket.socket) -> tuple[codec.Header, bytes]:
        limit_s = self._config.server.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                header = codec.decode_header(await read(sock, codec.HEADER.size))
                return header, await read(sock, header.length)
        except TimeoutError:
            raise ProtocolViolationError(f"the request was not complete within {limit_s:g} s") from None

    def _check_load(self) -> None:
        limit = self._config.server.max_connections
        if self._without_lease > limit:
            raise LeaseError(
                SQLSTATE_TOO_MANY_CONNECTIONS,
                f"too many connections wait for the protocol server ({limit})",
                hint="The limit is max_connections in the protocol server's configuration.",
            )

    def _check_peer(self, peer: Peer) -> None:
        config = self._config.server
        if peer.uid not in config.allowed_uids:
            raise LeaseError(
                SQLSTATE_INSUFFICIENT_PRIVILEGE,
                f"user id {peer.uid} (process {peer.pid}) may not use the protocol server",
                detail=f"Allowed are the users {', '.join(config.allowed_users)}.",
                hint="Add the user that PostgreSQL runs as to allowed_users in the protocol server's configuration.",
            )

    async def _refuse(self, sock: socket.socket, call_id: int, error: LeaseError) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            await send(sock, codec.encode_error(call_id, error.fields()))

    @contextlib.asynccontextmanager
    async def _grant(
        self, sock: socket.socket, peer: Peer, call_id: int, request: codec.LeaseRequest, log: Log
    ) -> AsyncIterator[tuple[Lease, Sandbox, asyncio.Task[None]]]:
        """A new lease, granted; it ends with the context, except when the server stops."""
        began = time.monotonic()
        _check_role(self._sandboxes.runtime(request.runtime), request)
        gone = asyncio.create_task(self._follow(sock, request.database, request.role))
        try:
            sandbox, warm = await self._acquire(request, gone)
            lease, token = new_lease(sandbox.id, request.runtime, request.role, request.database, peer)
            try:
                await self._hand_over(sock, call_id, sandbox, lease, token)
            except BaseException:
                # Nobody has the token, so nobody could ever claim this lease.
                self._end_lease(lease, sandbox, "not granted")
                raise
            took_s = time.monotonic() - began
            self._metrics.leases.labels(request.runtime).inc()
            self._metrics.grants.labels("yes" if warm else "no").observe(took_s)
            # The record of who ran something where; the image is named by its digest.
            image = sandbox.definition.image if sandbox.definition is not None else None
            log.info("lease_granted", warm=warm, ms=round(took_s * 1000, 1), image=image, **_facts(lease))
            async with self._holding(lease, sandbox):
                yield lease, sandbox, gone
        finally:
            gone.cancel()

    async def _acquire(self, request: codec.LeaseRequest, gone: asyncio.Task[None]) -> tuple[Sandbox, bool]:
        """A sandbox, unless the backend goes away first."""
        wanted = asyncio.create_task(self._sandboxes.acquire(request.runtime, request.role))
        try:
            await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            gone.result()
            raise ConnectionResetError(errno.ECONNRESET, "the backend gave up waiting")
        finally:
            if not wanted.done():
                wanted.cancel()
                await asyncio.gather(wanted, return_exceptions=True)

    async def _hand_over(self, sock: socket.socket, call_id: int, sandbox: Sandbox, lease: Lease, token: str) -> None:
        """Remember the lease, then give the backend the sandbox's descriptors."""
        connections = sandbox.connections
        if connections is None:
            raise LeaseError(SQLSTATE_SYSTEM_ERROR, "the sandbox ended before it could be handed over")
        try:
            # A few hundred bytes into the page cache: less than what another thread would cost.
            self._store.write(lease)
        except OSError as error:
            raise LeaseError(
                SQLSTATE_SYSTEM_ERROR,
                "could not remember the lease",
                detail=describe_full(self._config.server.state_directory, error),
            ) from error
        frame = codec.encode_grant(call_id, sandbox.id, token)
        await send(sock, frame, (connections.data.fileno(), connections.signal.fileno()))
        sandbox.close_connections()

    @contextlib.asynccontextmanager
    async def _reclaim(
        self, sock: socket.socket, peer: Peer, call_id: int, request: codec.ReclaimRequest, log: Log
    ) -> AsyncIterator[tuple[Lease, Sandbox, asyncio.Task[None]]]:
        """A lease of before the restart, in its backend's hands again."""
        key = token_hash(request.token)
        unclaimed = self._unclaimed.get(key)
        if unclaimed is None:
            if key in self._held:
                raise LeaseError(SQLSTATE_OBJECT_IN_USE, "the lease is held by a connection")
            raise LeaseError(
                SQLSTATE_CONNECTION_DOES_NOT_EXIST,
                "there is no such lease to reclaim",
                detail="It ended, or it was not reclaimed in time after a restart of the protocol server.",
            )
        lease, sandbox = unclaimed.lease, unclaimed.sandbox
        if not lease.belongs_to(peer):
            raise LeaseError(SQLSTATE_INSUFFICIENT_PRIVILEGE, "the lease belongs to another process")
        del self._unclaimed[key]
        unclaimed.close()
        gone = asyncio.create_task(self._follow(sock, lease.database, lease.role))
        try:
            async with self._holding(lease, sandbox):
                await send(sock, codec.encode_reclaimed(call_id, sandbox.id))
                log.info("lease_reclaimed", **_facts(lease))
                yield lease, sandbox, gone
        finally:
            gone.cancel()

    @contextlib.asynccontextmanager
    async def _holding(self, lease: Lease, sandbox: Sandbox) -> AsyncIterator[None]:
        """While a connection holds a lease. A server that stops leaves the lease to its successor."""
        self._held.add(lease.token_sha256)
        self._leases[lease.sandbox] = lease
        why = "released"
        try:
            yield
            if sandbox.exit is not None:
                why = "exited"
        finally:
            self._held.discard(lease.token_sha256)
            if not self._stop.is_set():
                self._end_lease(lease, sandbox, why)
                duration = round(time.time() - lease.granted_at, 3)
                self._log.info("lease_ended", why=why, duration_s=duration, **_facts(lease))

    async def _hold(self, sock: socket.socket, lease: Lease, sandbox: Sandbox, gone: asyncio.Task[None]) -> None:
        """Wait for the end of the connection; tell the backend when the sandbox ends first."""
        exited = asyncio.create_task(sandbox.exited.wait())
        try:
            await asyncio.wait((gone, exited), return_when=asyncio.FIRST_COMPLETED)
        finally:
            exited.cancel()
        if sandbox.exit is not None and not gone.done():
            end = sandbox.exit
            self._forget(lease)
            await send(sock, codec.encode_exited(sandbox.id, end.reason, end.sqlstate))
            await asyncio.wait((gone,), timeout=_LINGER_S)
        if gone.done():
            gone.result()

    async def _follow(self, sock: socket.socket, database: str, role: str) -> None:
        """Take what a backend says while it waits for a lease and has it; return when it closes the connection."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                start = await loop.sock_recv(sock, codec.HEADER.size)
                if not start:
                    return
                head = start + await read(sock, codec.HEADER.size - len(start))
                header = codec.decode_notice_header(head)
                payload = await read(sock, header.length)
            except OSError:
                return
            self._statistics.add(database, role, codec.decode_statistics(payload))

    async def _answer(self, request: codec.QueryRequest) -> list[Row]:
        """What a backend asked for, as rows that its role may see."""
        role = None if request.monitor else request.role
        if request.what == "containers":
            return await self._overview.sandboxes(role)
        if request.what == "statistics":
            return self._statistics.rows(request.database, role)
        if request.what == "config":
            return self.runtimes()
        if role is not None:
            raise LeaseError(SQLSTATE_INSUFFICIENT_PRIVILEGE, f'role "{role}" may not have the configuration read anew')
        problems = await self.reload()
        if problems:
            raise LeaseError(
                SQLSTATE_CONFIG_FILE_ERROR,
                "the configuration is refused; the one before stays in force",
                detail="\n".join(map(str, problems)),
            )
        return [{"runtimes": len(self._config.runtimes)}]

    # what an operator may ask for

    def state(self) -> dict[str, Any]:
        """The server in a few figures."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": round(self._started_at, 3),
            "draining": self._sandboxes.draining,
            "backend": self._config.server.backend,
            "backend_available": self._backend.available,
            "runtimes": len(self._config.runtimes),
            "leases": len(self._leases),
            "sandboxes": {state.value: self._sandboxes.count(state) for state in State},
            "max_sandboxes": self._config.server.max_sandboxes,
            "waiting": self._sandboxes.waiting,
        }

    async def sandboxes(self) -> list[Row]:
        """One row per sandbox."""
        return await self._overview.sandboxes()

    def runtimes(self) -> list[Row]:
        """One row per runtime."""
        return [runtime_row(runtime) for runtime in self._config.runtimes.values()]

    def config(self) -> Row:
        """The configuration that is in force."""
        return config_row(self._config)

    def metrics(self) -> bytes:
        """All figures in Prometheus' text format."""
        return self._metrics.text()

    def _gauges(self) -> Iterator[Gauge]:
        yield from self._sandboxes.gauges()
        per_runtime = Counter(lease.runtime for lease in self._leases.values())
        leases = [((name,), float(per_runtime[name])) for name in self._config.runtimes]
        yield "leases", "Leases in force, by runtime.", ("runtime",), leases
        yield "backend_available", "Whether sandboxes can be started.", (), [((), float(self._backend.available))]
        yield "draining", "Whether new leases are refused.", (), [((), float(self._sandboxes.draining))]

    @property
    def _drain_file(self) -> Path:
        """There while the host is drained: a restart of the server in the middle of maintenance does not end it."""
        return self._config.server.state_directory / "drained"

    async def drain(self, wait_s: float, idle_s: float | None) -> None:
        """Refuse new leases and wait for the end of those that are there; see Operations."""
        self._sandboxes.drain()
        self._drain_file.touch(mode=0o600)
        self._log.warning("drained", leases=len(self._leases))
        deadline = time.monotonic() + wait_s
        while self._leases and not self._stop.is_set() and self._sandboxes.draining:
            if idle_s is not None:
                self._take_back(idle_s)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._lease_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s if idle_s is None else min(left_s, _IDLE_LOOK_S)):
                    await self._lease_ended.wait()

    def undrain(self) -> None:
        """Grant leases again."""
        self._drain_file.unlink(missing_ok=True)
        self._sandboxes.undrain()
        self._lease_ended.set()
        self._log.info("undrained")

    # idle sessions

    async def _take_idle_leases_back(self) -> None:
        while True:
            limit_s = self._config.server.lease_idle_s
            # A reload may lower the limit meanwhile.
            pause_s = max(_IDLE_LOOK_S, limit_s / 10) if limit_s else _IDLE_LOOK_MOST_S
            await asyncio.sleep(min(pause_s, _IDLE_LOOK_MOST_S))
            if limit_s > 0:
                self._take_back(limit_s)

    def _take_back(self, limit_s: float) -> None:
        """Take the sandboxes of sessions back that have been idle for `limit_s`."""
        leases = [lease for lease in self._leases.values() if lease.token_sha256 in self._held]
        self._activity.keep({lease.backend_pid for lease in leases})
        for lease in leases:
            sandbox = self._sandboxes.get(lease.sandbox)
            idle_s = self._activity.idle_s(lease.backend_pid)
            if sandbox is not None and idle_s is not None and idle_s >= limit_s:
                end = Exit(f"was taken back: its session was idle for {idle_s:.0f} s", SQLSTATE_IDLE_SESSION_TIMEOUT)
                self._log.info("lease_idle", idle_s=round(idle_s, 1), **_facts(lease))
                self._sandboxes.take_back(sandbox, end)

    # restarts and reloads

    def _on_available(self) -> None:
        self._reconcile_wanted.set()
        self._sandboxes.backend_available()

    async def _follow_reconciles(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECONCILE_INTERVAL_S):
                    await self._reconcile_wanted.wait()
            self._reconcile_wanted.clear()
            try:
                await self._reconcile()
            except BackendUnavailableError:
                # Asked for again as soon as the backend is back.
                continue
            except OSError as error:
                self._log.alert("reconcile_failed", problem=str(error))

    async def _reconcile(self) -> None:
        """Remove what carries this instance's label, or lies in its directories, and belongs to nobody."""
        directory = sandboxes_directory(self._config.server.state_directory)
        names = await asyncio.to_thread(os.listdir, directory)
        found = await self._backend.list_sandboxes()
        orphans = {sandbox for sandbox in found if sandbox not in self._sandboxes}
        for sandbox in orphans:
            self._sandboxes.reap(sandbox)
        left = [name for name in names if name not in self._sandboxes and name not in orphans]
        for name in left:
            await asyncio.to_thread(remove_directory, directory / name)
        level = "info" if orphans or left or not self._reconciled else "debug"
        self._reconciled = True
        self._log.write(level, "reconciled", found=len(found), reaped=len(orphans), directories_removed=len(left))

    async def _follow_reloads(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self.reload()

    async def reload(self) -> list[Problem]:
        """Read the configuration anew; when there are problems, the one before stays in force."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                config = await asyncio.to_thread(self._reload_config)
            except ConfigError as error:
                for problem in error.problems:
                    self._log.alert("config_rejected", file=problem.file, line=problem.line, rule=problem.rule)
                self._metrics.reloads.labels("rejected").inc()
                self._notifier.ready(f"{len(self._config.runtimes)} runtimes; the last reload was rejected")
                return error.problems
            self._apply(config)
            self._metrics.reloads.labels("applied").inc()
            self._notifier.ready(f"{len(config.runtimes)} runtimes")
        self._spawn(self._check_images())
        return []

    def _apply(self, config: Config) -> None:
        old = self._config.server
        ignored = {key: getattr(old, key) for key in (*RESTART_KEYS, "socket_gid", "control_gid")}
        changed = [key for key in RESTART_KEYS if getattr(config.server, key) != ignored[key]]
        if changed:
            self._log.warning("config_needs_restart", keys=changed)
        server = type(old)(**{**vars(config.server), **ignored})
        self._config = Config(server, config.runtimes)
        self._log.set_level(server.log_level)
        self._backend.configure(server)
        self._sandboxes.apply(self._config)
        self._log.info("config_applied", runtimes=len(config.runtimes))

    async def _check_images(self) -> None:
        """Say early what would otherwise show at the first call only."""
        if not await self._backend.wait_available(60.0):
            return
        for runtime in tuple(self._config.runtimes.values()):
            problem = await self._backend.check(runtime)
            if problem is not None:
                self._log.warning("runtime_unusable", runtime=runtime.id, problem=problem)

    async def _ping(self, interval_s: float) -> None:
        while True:
            self._notifier.watchdog()
            await asyncio.sleep(interval_s)

    # small things

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._log.alert("internal_error", message=str(context.get("message")), error=repr(error) if error else None)


def _facts(lease: Lease) -> dict[str, object]:
    return {
        "lease": lease.id,
        "sandbox": lease.sandbox,
        "runtime": lease.runtime,
        "role": lease.role,
        "database": lease.database,
        "backend_pid": lease.backend_pid,
    }


def _later(function: Callable[[_Unclaimed, str], None], unclaimed: _Unclaimed, why: str) -> Callable[[], None]:
    return lambda: function(unclaimed, why)


def _check_role(runtime: Runtime, request: codec.LeaseRequest) -> None:
    if runtime.roles and not set(runtime.roles) & {request.role, *request.member_of}:
        raise LeaseError(
            SQLSTATE_INSUFFICIENT_PRIVILEGE,
            f'role "{request.role}" may not use runtime "{runtime.id}"',
            detail=f"Allowed are {', '.join(sorted(runtime.roles))} and their members.",
        )
