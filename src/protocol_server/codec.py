"""The lease conversation's frames and messages (src/protocol/PROTOCOL.md), strict in what is accepted.

Everything here is pure: bytes in, values out. A violation raises ProtocolViolationError and ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Final

from protocol_server.errors import ProtocolViolationError

MAGIC: Final = 0x31434C50  # "PLC1"
VERSION: Final = 1
MAX_PAYLOAD: Final = 64 * 1024
HEADER: Final = struct.Struct("<IBBHQ")
_HELLO: Final = struct.Struct("<IHH")
_U32: Final = struct.Struct("<I")

TYPE_ERROR: Final = 4
TYPE_LEASE: Final = 32
TYPE_GRANT: Final = 33
TYPE_RECLAIM: Final = 34
TYPE_RECLAIMED: Final = 35
TYPE_EXITED: Final = 36
TYPE_QUERY: Final = 37
TYPE_ANSWER: Final = 38
TYPE_STATISTICS: Final = 39

#: An Answer may be larger than other messages of this conversation.
MAX_ANSWER: Final = 64 * 1024 * 1024

#: Longest name PostgreSQL stores, in bytes; a role, database or runtime beyond it cannot exist.
MAX_NAME: Final = 63
_TOKEN_LENGTH: Final = 64


@dataclass(frozen=True)
class Header:
    """A frame's header. `length` is the payload's size in bytes."""

    call_id: int
    type: int
    length: int


@dataclass(frozen=True)
class LeaseRequest:
    """A backend asks for a sandbox of `runtime` on behalf of `role`, a member of `member_of`."""

    runtime: str
    role: str
    member_of: tuple[str, ...]
    database: str


@dataclass(frozen=True)
class ReclaimRequest:
    """A backend asks for the lease it held before the server was restarted."""

    token: str


@dataclass(frozen=True)
class QueryRequest:
    """A backend asks for what its SQL views show, or for a reload; `monitor` says that `role` may see others' rows."""

    what: str
    role: str
    database: str
    monitor: bool


@dataclass(frozen=True)
class FunctionStatistics:
    """What a session added to the sums of one function, an object id of its database."""

    function: int
    calls: int
    rows: int
    errors: int
    bytes_sent: int
    bytes_received: int
    microseconds: int


Request = LeaseRequest | ReclaimRequest | QueryRequest

#: What a Query may ask for.
QUERIES: Final = ("containers", "statistics", "config", "refresh")
_STATISTICS: Final = struct.Struct("<I6Q")


class Reader:
    """Reads the encoding's scalars from one payload; every length is checked before use."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._position = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        end = self._position + count
        if end > len(self._payload):
            raise ProtocolViolationError(f"payload ends inside {what}")
        piece = self._payload[self._position : end]
        self._position = end
        return piece

    def flag(self, what: str) -> bool:
        """A `u8` that is 0 or 1."""
        value = self.take(1, what)[0]
        if value > 1:
            raise ProtocolViolationError(f"{what} is {value}, neither 0 nor 1")
        return value == 1

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer."""
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def text(self, what: str, limit: int = MAX_PAYLOAD) -> str:
        """A `str` of at most `limit` bytes: UTF-8, no NUL."""
        length = self.u32(what)
        if length > limit:
            raise ProtocolViolationError(f"{what} of {length} bytes is longer than {limit}")
        piece = self.take(length, what)
        if b"\0" in piece:
            raise ProtocolViolationError(f"{what} contains a NUL byte")
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolViolationError(f"{what} is not valid UTF-8") from None

    def texts(self, what: str, limit: int) -> tuple[str, ...]:
        """A `list<str>`; the items must fit into the payload, so a forged count costs nothing."""
        count = self.u32(what)
        if count * 4 > len(self._payload) - self._position:
            raise ProtocolViolationError(f"{what} names {count} items, more than the payload holds")
        return tuple(self.text(what, limit) for _ in range(count))

    def hello(self) -> None:
        """Magic, version and the reserved word that open a request."""
        magic, version, reserved = _HELLO.unpack(self.take(_HELLO.size, "the request's head"))
        if magic != MAGIC:
            raise ProtocolViolationError("this is not the lease conversation (wrong magic)")
        if version != VERSION:
            raise ProtocolViolationError(f"protocol version {version} is not supported, this server speaks {VERSION}")
        if reserved != 0:
            raise ProtocolViolationError("the reserved word of the request is not 0")

    def end(self) -> None:
        """Nothing may follow."""
        left = len(self._payload) - self._position
        if left:
            raise ProtocolViolationError(f"{left} bytes follow the message")


def decode_header(data: bytes) -> Header:
    """A request's header from exactly 16 bytes."""
    return _header(data, (TYPE_LEASE, TYPE_RECLAIM, TYPE_QUERY), "a request to the protocol server")


def decode_notice_header(data: bytes) -> Header:
    """The header, from exactly 16 bytes, of what a backend sends while it has a lease."""
    return _header(data, (TYPE_STATISTICS,), "what the connection of a lease carries behind its request")


def _header(data: bytes, kinds: tuple[int, ...], what: str) -> Header:
    call_id, kind, flags, reserved, length = HEADER.unpack(data)
    if kind not in kinds:
        raise ProtocolViolationError(f"message type {kind} is not {what}")
    if flags != 0 or reserved != 0:
        raise ProtocolViolationError("reserved bits of the frame header are set")
    if length > MAX_PAYLOAD:
        raise ProtocolViolationError(f"payload of {length} bytes is larger than {MAX_PAYLOAD}")
    return Header(call_id, kind, length)


def decode_statistics(payload: bytes) -> tuple[FunctionStatistics, ...]:
    """What a Statistics frame adds."""
    reader = Reader(payload)
    count = reader.u32("the number of functions")
    items = reader.take(count * _STATISTICS.size, "the functions")
    reader.end()
    return tuple(FunctionStatistics(*item) for item in _STATISTICS.iter_unpack(items))


def decode_request(header: Header, payload: bytes) -> Request:
    """The request that `payload` holds."""
    reader = Reader(payload)
    reader.hello()
    request: Request
    if header.type == TYPE_LEASE:
        # The runtime may be longer than any that exists: "does not exist" is the better answer then.
        request = LeaseRequest(
            runtime=reader.text("the runtime"),
            role=reader.text("the role", MAX_NAME),
            member_of=reader.texts("the list of roles", MAX_NAME),
            database=reader.text("the database", MAX_NAME),
        )
    elif header.type == TYPE_QUERY:
        request = QueryRequest(
            what=reader.text("what is asked for", MAX_NAME),
            role=reader.text("the role", MAX_NAME),
            database=reader.text("the database", MAX_NAME),
            monitor=reader.flag("whether the role is a monitor"),
        )
        if request.what not in QUERIES:
            raise ProtocolViolationError(f"there is no answer to {request.what!r}, only to {', '.join(QUERIES)}")
    else:
        request = ReclaimRequest(token=reader.text("the token", _TOKEN_LENGTH))
    reader.end()
    return request


def pack_text(value: str) -> bytes:
    """A `str`. NUL bytes and lone surrogates cannot travel and are replaced."""
    data = value.replace("\0", "\ufffd").encode("utf-8", "replace")
    return _U32.pack(len(data)) + data


def pack_frame(kind: int, call_id: int, payload: bytes, limit: int = MAX_PAYLOAD) -> bytes:
    """A frame: 16 bytes of header, then the payload."""
    if len(payload) > limit:
        raise ValueError(f"payload of {len(payload)} bytes is larger than {limit}")
    return HEADER.pack(call_id, kind, 0, 0, len(payload)) + payload


def encode_lease(call_id: int, request: LeaseRequest) -> bytes:
    """A Lease frame, as a backend sends it."""
    members = _U32.pack(len(request.member_of)) + b"".join(pack_text(name) for name in request.member_of)
    payload = _HELLO.pack(MAGIC, VERSION, 0) + pack_text(request.runtime) + pack_text(request.role)
    return pack_frame(TYPE_LEASE, call_id, payload + members + pack_text(request.database))


def encode_reclaim(call_id: int, token: str) -> bytes:
    """A Reclaim frame, as a backend sends it."""
    return pack_frame(TYPE_RECLAIM, call_id, _HELLO.pack(MAGIC, VERSION, 0) + pack_text(token))


def encode_query(call_id: int, request: QueryRequest) -> bytes:
    """A Query frame, as a backend sends it."""
    payload = _HELLO.pack(MAGIC, VERSION, 0) + pack_text(request.what) + pack_text(request.role)
    return pack_frame(TYPE_QUERY, call_id, payload + pack_text(request.database) + bytes([request.monitor]))


def encode_statistics(items: Iterable[FunctionStatistics]) -> bytes:
    """A Statistics frame, as a backend sends it."""
    packed = [_STATISTICS.pack(*astuple(item)) for item in items]
    return pack_frame(TYPE_STATISTICS, 0, _U32.pack(len(packed)) + b"".join(packed))


def encode_answer(call_id: int, text: str) -> bytes:
    """An Answer frame."""
    return pack_frame(TYPE_ANSWER, call_id, pack_text(text), MAX_ANSWER)


def encode_grant(call_id: int, sandbox: str, token: str) -> bytes:
    """A Grant frame; the descriptors travel with its first byte."""
    return pack_frame(TYPE_GRANT, call_id, pack_text(sandbox) + pack_text(token))


def encode_reclaimed(call_id: int, sandbox: str) -> bytes:
    """A Reclaimed frame."""
    return pack_frame(TYPE_RECLAIMED, call_id, pack_text(sandbox))


def encode_exited(sandbox: str, reason: str, sqlstate: str) -> bytes:
    """An Exited frame. It opens an exchange of its own: call id 0."""
    return pack_frame(TYPE_EXITED, 0, pack_text(sandbox) + pack_text(reason) + pack_text(sqlstate))


def encode_error(call_id: int, fields: Mapping[str, str]) -> bytes:
    """An Error frame of `fields` by their one-letter key. Long values are cut so that the frame fits."""
    limit = MAX_PAYLOAD // 8
    body = b"".join(key.encode("ascii") + pack_text(_cut(value, limit)) for key, value in fields.items())
    return pack_frame(TYPE_ERROR, call_id, body + b"\0")


def _cut(value: str, limit: int) -> str:
    # Four bytes is the longest UTF-8 form of a character.
    return value if len(value) * 4 <= limit else value[: limit // 4 - 3] + "..."


def decode_fields(payload: bytes) -> dict[str, str]:
    """The fields of an Error frame by their key, as a backend reads them."""
    reader = Reader(payload)
    fields: dict[str, str] = {}
    while (key := reader.take(1, "a field's key")) != b"\0":
        name = key.decode("latin-1")
        if name not in "CMDHWstcdn" or name in fields or len(fields) == 16:
            raise ProtocolViolationError(f"field {name!r} is unknown, repeated or one too many")
        fields[name] = reader.text(f"field {name}")
    reader.end()
    return fields
