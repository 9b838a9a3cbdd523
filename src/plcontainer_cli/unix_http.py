"""HTTP on unix sockets: the protocol server's own and Docker's."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class NoAnswerError(Exception):
    """Nobody answers at a socket; the message says why."""


@dataclass(frozen=True)
class Answer:
    """Status and decoded body; None where there was none."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether what was asked for was done."""
        return self.status < 400

    @property
    def error(self) -> str:
        """What the other side says is wrong."""
        body = self.body if isinstance(self.body, dict) else {}
        return str(body.get("error") or body.get("message") or f"HTTP status {self.status}")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path,
    method: str,
    target: str,
    *,
    body: object = None,
    upload: IO[bytes] | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """One exchange with the server at a socket. Raises NoAnswerError."""
    connection = _Connection(path, timeout_s)
    headers = {"Content-Type": "application/x-tar" if upload is not None else "application/json"}
    data = upload if upload is not None else None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, target, body=data, headers=headers, encode_chunked=upload is not None)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"no answer at {path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return Answer(response.status, _decode(text))


def _decode(text: bytes) -> Any:
    """JSON, also where it is one value a line, as Docker has it; the last value then. Other text is given as it is."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    try:
        return json.loads("\n".join(lines)) if lines else None
    except ValueError:
        try:
            return json.loads(lines[-1])
        except ValueError:
            return {"message": lines[-1][:500]}
