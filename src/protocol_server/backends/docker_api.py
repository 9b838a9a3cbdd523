"""The few calls of Docker's HTTP API that sandboxes need, over Docker's unix socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from protocol_server.errors import BackendUnavailableError

#: The API of Docker 20.10, the oldest that is supported. A newer Docker that no longer speaks it names its own oldest.
PREFERRED_VERSION: Final = (1, 41)
_MAX_LOG_BYTES: Final = 256 * 1024


class DockerError(Exception):
    """Docker answered with an error: HTTP status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class DockerSilentError(BackendUnavailableError):
    """Docker took a request and did not answer in time: it may still do what was asked."""


class DockerApi:
    """A client of one Docker daemon. Every call is bounded; what cannot be reached raises BackendUnavailableError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: aiohttp.ClientSession | None = None
        self._version = ""

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Made here because a session belongs to the running loop.
            # A new connection to a local socket costs next to nothing; what a burst leaves open goes within seconds.
            connector = aiohttp.UnixConnector(path=str(self.path), limit=64, keepalive_timeout=2.0)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Drop all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _negotiate(self) -> str:
        if not self._version:
            answer = await self._exchange("GET", "/version", 5.0, None, None)
            oldest = tuple(int(part) for part in str(answer.get("MinAPIVersion") or "1.12").split("."))
            self._version = "/v{}.{}".format(*max(oldest, PREFERRED_VERSION))
        return self._version

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        timeout_s: float = 30.0,
    ) -> Any:
        """One exchange; the decoded JSON of the answer, None when it has no body. Raises DockerError."""
        return await self._exchange(method, await self._negotiate() + path, timeout_s, params, body)

    async def _exchange(
        self, method: str, path: str, timeout_s: float, params: Mapping[str, str] | None, body: object
    ) -> Any:
        limit = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._client().request(
                method, f"http://docker{path}", params=params, json=body, timeout=limit
            ) as response:
                data = await response.read()
                status = response.status
        except TimeoutError:
            raise DockerSilentError(f"Docker did not answer within {timeout_s:g} s at {self.path}") from None
        except (aiohttp.ClientError, OSError) as error:
            # Another daemon may be there when it comes back.
            self._version = ""
            raise BackendUnavailableError(f"Docker cannot be reached at {self.path}: {error}") from error
        if status >= 400:
            raise DockerError(status, _message(data, status))
        try:
            return json.loads(data) if data else None
        except ValueError:
            raise DockerError(status, "the answer is not JSON") from None

    @asynccontextmanager
    async def events(self, filters: Mapping[str, list[str]]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The stream of events from now on, open as long as the context and Docker live."""
        path = await self._negotiate() + "/events"
        limit = aiohttp.ClientTimeout(total=None, connect=5.0)
        try:
            async with self._client().get(
                f"http://docker{path}", params={"filters": json.dumps(filters)}, timeout=limit
            ) as response:
                if response.status >= 400:
                    raise DockerError(response.status, _message(await response.read(), response.status))
                yield _lines(response)
        except TimeoutError:
            raise BackendUnavailableError(f"Docker did not answer at {self.path}") from None
        except aiohttp.ClientPayloadError:
            self._version = ""
            raise BackendUnavailableError(f"Docker at {self.path} closed its stream of events") from None
        except (aiohttp.ClientError, OSError) as error:
            self._version = ""
            raise BackendUnavailableError(f"Docker cannot be reached at {self.path}: {error}") from error

    async def log_tail(self, container: str, lines: int) -> str:
        """The last lines that a container wrote to standard output and error."""
        path = await self._negotiate() + f"/containers/{container}/logs"
        params = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        try:
            async with self._client().get(
                f"http://docker{path}", params=params, timeout=aiohttp.ClientTimeout(total=2.0)
            ) as response:
                if response.status >= 400:
                    return ""
                data = bytearray()
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > _MAX_LOG_BYTES:
                        break
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""
        return demultiplex(bytes(data))


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.strip():
            yield json.loads(line)


def _message(data: bytes, status: int) -> str:
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode("utf-8", "replace")[:500]
    return str(message).strip() or f"HTTP status {status}"


def demultiplex(data: bytes) -> str:
    """The text of Docker's log stream: pieces behind a header of 8 bytes, the last 4 of them the length, big-endian."""
    pieces = []
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "big")
        pieces.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(pieces).decode("utf-8", "replace").replace("\0", "\ufffd")
