"""The backend's side of a data conversation, small and strict, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from plc import codec
from plc.codec import Type

TIMEOUT_S = 30.0

VOID, BOOL, INT2, INT4, INT8 = (Type(kind) for kind in range(5))
FLOAT4, FLOAT8, TEXT, BYTEA, NUMERIC = (Type(kind) for kind in range(5, 10))
DATE, OID, RECORD = Type(codec.OTHER, None, "date"), Type(codec.OID), Type(codec.RECORD)


def array(element: Type) -> Type:
    """The type of arrays of an element."""
    return Type(codec.ARRAY, element)


def composite(name: str = "row", /, **fields: Type) -> Type:
    """A composite type of these fields."""
    return Type(codec.COMPOSITE, None, name, tuple(fields.items()))


def one_dimension(*items: Any, text: bool = False) -> codec.Array:
    """An array as it mostly is."""
    return codec.Array((len(items),), (1,), list(items), text)


class CallError(Exception):
    """An Error as a backend gets it; fields by key."""

    def __init__(self, fields: codec.Fields) -> None:
        self.fields = dict(fields)
        super().__init__(self.fields["M"])

    @property
    def sqlstate(self) -> str:
        return self.fields["C"]

    @property
    def context(self) -> str:
        return self.fields.get("W", "")


# The answer to an SQL or Subtransaction: a payload, several with MORE between them, or the fields of an Error.
Answer = bytes | list[bytes] | dict[str, str]


class Sandbox:
    """A runtime in a process of its own, connected twice.

    Its requests are kept in `requests` and answered from `script`, whose items are answers or functions that make
    calls of their own and return an answer.
    """

    def __init__(
        self,
        directory: Path,
        scratch: Path,
        interpreter: str,
        *,
        pure: bool = False,
        command: Sequence[str] | None = None,
        **environment: str,
    ) -> None:
        self.path = scratch / "sandbox.sock"
        self.output = scratch / "output"
        self.logs: list[tuple[int, dict[str, str]]] = []
        self.call_id = 100
        self.requests: list[tuple[int, bytes]] = []
        self.script: deque[Answer | Callable[[], Answer]] = deque()
        self._function_id = 0
        self._types: dict[int, tuple[list[Type], Type]] = {}
        self._flags: dict[int, int] = {}
        with socket.socket(socket.AF_UNIX) as listener, self.output.open("wb") as output:
            listener.bind(str(self.path))
            listener.listen(2)
            listener.settimeout(TIMEOUT_S)
            self.process = subprocess.Popen(
                command or [interpreter, "-I", str(directory)],
                env={"PLC_SOCKET": str(self.path), "PLC_PURE": "1" if pure else "0", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            self.data, _ = listener.accept()
            self.signals, _ = listener.accept()
        self.data.settimeout(TIMEOUT_S)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.data.close()
        self.signals.close()
        try:
            self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """What the process wrote to its output."""
        return self.output.read_text()

    # --- frames -----------------------------------------------------------

    def send(self, call_id: int, kind: int, payload: bytes = b"", flags: int = 0) -> None:
        """Send a frame."""
        self.data.sendall(codec.encode_frame(call_id, kind, payload, flags))

    def read(self, count: int) -> bytes:
        """Read exactly so many bytes; fewer at the end of the connection."""
        parts = bytearray()
        while len(parts) < count:
            part = self.data.recv(min(count - len(parts), 1 << 20))
            if not part:
                break
            parts += part
        return bytes(parts)

    def receive(self) -> tuple[codec.Header, bytes]:
        """Receive a frame."""
        header = codec.decode_header(self.read(codec.HEADER_SIZE), codec.MAX_FRAME_DEFAULT)
        return header, self.read(header.length)

    def greet(
        self, lowest: int = 1, highest: int = 1, max_frame: int = 1 << 30, features: int = codec.FEATURES
    ) -> codec.PingReply:
        """Exchange Pings."""
        ping = codec.Ping(lowest, highest, features, max_frame, "test backend", ["select", "user"])
        self.send(1, codec.PING, codec.encode_ping(ping))
        header, payload = self.receive()
        if header.type == codec.ERROR:
            raise CallError(codec.decode_fields(payload))
        assert (header.call_id, header.type, header.flags) == (1, codec.PING, codec.FLAG_REPLY)
        return codec.decode_ping_reply(payload)

    # --- functions --------------------------------------------------------

    def define(
        self,
        source: str,
        result: Type = INT4,
        arguments: Sequence[tuple[str, Type]] = (),
        name: str = "f",
        *,
        function_id: int | None = None,
        flags: int = 0,
    ) -> int:
        """Register a function and return its id."""
        if function_id is None:
            self._function_id += 1
            function_id = self._function_id
        self._types[function_id] = [declared for _, declared in arguments], result
        self._flags[function_id] = flags
        register = codec.Register(function_id, name, source, list(arguments), result, flags)
        self.send(0, codec.REGISTER, codec.encode_register(register))
        return function_id

    def start(self, function_id: int, *values: Any) -> int:
        """Send a CallReq and return the call's id."""
        self.call_id += 1
        types, _ = self._types[function_id]
        self.send(self.call_id, codec.CALLREQ, codec.encode_call(function_id, types, values))
        return self.call_id

    def answer(self, call_id: int) -> tuple[codec.Header, bytes]:
        """Receive the answer to a call; keep the Logs before it, and answer its requests from the script."""
        while True:
            header, payload = self.receive()
            assert header.call_id == call_id
            if header.type == codec.ERROR:
                raise CallError(codec.decode_fields(payload))
            if header.type == codec.LOG:
                level, fields = codec.decode_log(payload)
                self.logs.append((level, dict(fields)))
            elif header.type in (codec.SQL, codec.SUBTRANSACTION):
                assert header.flags == 0
                self.requests.append((header.type, payload))
                if (header.type, payload[0]) != (codec.SQL, codec.SQL_DISCARD):
                    self.reply(header, self.script.popleft())
            else:
                return header, payload

    def reply(self, request: codec.Header, answer: Answer | Callable[[], Answer]) -> None:
        """Answer a request."""
        if callable(answer):
            answer = answer()
        if isinstance(answer, dict):
            self.send(request.call_id, codec.ERROR, codec.encode_fields(answer.items()), codec.FLAG_REPLY)
            return
        *parts, last = [answer] if isinstance(answer, bytes) else answer
        for part in parts:
            self.send(request.call_id, request.type, part, codec.FLAG_REPLY | codec.FLAG_MORE)
        self.send(request.call_id, request.type, last, codec.FLAG_REPLY)

    def finish(self, function_id: int, call_id: int | None = None) -> Any:
        """Return the wire value of the answer to the latest call, or to another one."""
        header, payload = self.answer(self.call_id if call_id is None else call_id)
        assert (header.type, header.flags) == (codec.RESULT, 0)
        declared = self._types[function_id][1]
        if self._flags[function_id] & codec.FUNCTION_TRIGGER:
            return codec.decode_trigger(payload, declared)
        return codec.decode_result(payload, declared)

    def call(self, function_id: int, *values: Any) -> Any:
        """Call a function and return the wire value of its result."""
        self.start(function_id, *values)
        return self.finish(function_id)

    def run(
        self, source: str, result: Type = INT4, arguments: Sequence[tuple[str, Type]] = (), values: Sequence[Any] = ()
    ) -> Any:
        """Define a function and call it once."""
        return self.call(self.define(source, result, arguments), *values)

    # --- sets -------------------------------------------------------------

    def batch(self, function_id: int, call_id: int) -> tuple[list[Any], bool]:
        """Return the rows of the answer to a call or Credit, and whether there are more."""
        header, payload = self.answer(call_id)
        assert header.type == codec.ROWS
        return codec.decode_rows(payload, self._types[function_id][1]), header.flags == codec.FLAG_MORE

    def open(self, function_id: int, *values: Any) -> tuple[int, list[Any], bool]:
        """Call a function that returns a set: the call's id, the first rows, whether there are more."""
        call_id = self.start(function_id, *values)
        return call_id, *self.batch(function_id, call_id)

    def more(self, function_id: int, call_id: int, rows: int = 1000, size: int = 1 << 20) -> tuple[list[Any], bool]:
        """Ask for the next rows of a set."""
        self.send(call_id, codec.CREDIT, codec.encode_credit(rows, size))
        return self.batch(function_id, call_id)

    def close(self, call_id: int) -> None:
        """End a set."""
        self.send(call_id, codec.CREDIT, codec.encode_credit(0, 0))

    def rows(self, function_id: int, *values: Any) -> list[Any]:
        """Call a function that returns a set and return all of it."""
        call_id, rows, more = self.open(function_id, *values)
        while more:
            batch, more = self.more(function_id, call_id)
            rows += batch
        return rows

    def cancel(self, call_id: int) -> None:
        """Ask for the end of a call."""
        self.signals.sendall(codec.encode_frame(call_id, codec.CANCEL, b""))

    def resident_bytes(self) -> int:
        """The process's resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")
