"""The operator's socket: JSON over HTTP on a unix socket that only root and the operators' group can open.

`GET /v1/state, /v1/sandboxes, /v1/runtimes, /v1/config, /metrics`; `POST /v1/drain, /v1/undrain, /v1/reload`.
Whoever can connect may do all of it. The metrics alone may be told on a port of 127.0.0.1, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from protocol_server.document import Problem

_CLOSE_S: Final = 1.0
_MAX_BODY: Final = 4096
_MAX_WAIT_S: Final = 86400.0
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Operations(ABC):
    """What an operator may ask of the server."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The server in a few figures."""

    @abstractmethod
    async def sandboxes(self) -> list[dict[str, Any]]:
        """One row per sandbox."""

    @abstractmethod
    def runtimes(self) -> list[dict[str, Any]]:
        """One row per runtime."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The configuration that is in force."""

    @abstractmethod
    def metrics(self) -> bytes:
        """All figures in Prometheus' text format."""

    @abstractmethod
    async def reload(self) -> list[Problem]:
        """Read the configuration anew; when there are problems, the one before stays in force."""

    @abstractmethod
    async def drain(self, wait_s: float, idle_s: float | None) -> None:
        """Refuse new leases, then wait for the end of those that are there, `wait_s` at most.

        With `idle_s`, sandboxes of sessions that have been idle for that long are taken back meanwhile.
        """

    @abstractmethod
    def undrain(self) -> None:
        """Grant leases again."""


class ControlServer:
    """Listens until it is closed."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._runners: list[web.AppRunner] = []

    async def open(self, listener: socket.socket, metrics_port: int) -> None:
        """Serve on `listener`, and the metrics on a port of 127.0.0.1 unless that is 0. Raises OSError."""
        runner = await self._runner(self._application())
        await web.SockSite(runner, listener).start()
        if metrics_port:
            await web.TCPSite(await self._runner(self._metrics_application()), "127.0.0.1", metrics_port).start()

    async def close(self) -> None:
        """Stop listening; whoever waits for an answer gets none."""
        for runner in self._runners:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await runner.cleanup()

    async def _runner(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(application, access_log=None)
        self._runners.append(runner)
        await runner.setup()
        return runner

    def _application(self) -> web.Application:
        application = self._metrics_application()
        routes: list[tuple[str, str, Callable[[web.Request], Awaitable[web.Response]]]] = [
            ("GET", "/v1/state", self._state),
            ("GET", "/v1/sandboxes", self._sandboxes),
            ("GET", "/v1/runtimes", self._runtimes),
            ("GET", "/v1/config", self._config),
            ("POST", "/v1/reload", self._reload),
            ("POST", "/v1/drain", self._drain),
            ("POST", "/v1/undrain", self._undrain),
        ]
        for method, path, handler in routes:
            application.router.add_route(method, path, handler)
        return application

    def _metrics_application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_route("GET", "/metrics", self._metrics)
        return application

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._operations.metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(self._operations.state())

    async def _sandboxes(self, _: web.Request) -> web.Response:
        return web.json_response({"sandboxes": await self._operations.sandboxes()})

    async def _runtimes(self, _: web.Request) -> web.Response:
        return web.json_response({"runtimes": self._operations.runtimes()})

    async def _config(self, _: web.Request) -> web.Response:
        return web.json_response(self._operations.config())

    async def _reload(self, _: web.Request) -> web.Response:
        problems = await self._operations.reload()
        if not problems:
            return web.json_response(self._operations.state())
        rows = [{"file": one.file, "line": one.line, "rule": one.rule, "text": str(one)} for one in problems]
        error = "the configuration is refused; the one before stays in force"
        return web.json_response({"error": error, "problems": rows}, status=422)

    async def _drain(self, request: web.Request) -> web.Response:
        try:
            body = await request.json() if request.can_read_body else {}
            wait_s = _seconds(body, "wait_s", 0.0)
            idle_s = _seconds(body, "idle_s", None)
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        await self._operations.drain(wait_s or 0.0, idle_s)
        return web.json_response(self._operations.state())

    async def _undrain(self, _: web.Request) -> web.Response:
        self._operations.undrain()
        return web.json_response(self._operations.state())


def _seconds(body: Any, key: str, default: float | None) -> float | None:
    if not isinstance(body, dict):
        raise TypeError("the body must be an object")
    value = body.get(key, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_WAIT_S:
        raise ValueError(f"{key} must be a number from 0 to {_MAX_WAIT_S:g}, not {json.dumps(value)}")
    return float(value)
