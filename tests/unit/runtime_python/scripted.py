"""A loop that answers requests from a script: queries without a backend and without the wire's values."""

from __future__ import annotations

import gc
import json
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from plc import codec, plpy, spi

Answer = tuple[int, list[bytes]]
OK: Answer = (codec.SQL, [b""])
FEATURES = codec.FEATURE_SQL | codec.FEATURE_SUBTRANSACTIONS


class Shape(NamedTuple):
    """What `describe` returns."""

    names: tuple[str, ...]
    types: tuple[int, ...]
    typmods: tuple[int, ...]


def packed(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as this loop's `rows` reads them."""
    return struct.pack("<I", len(rows)) + json.dumps(rows).encode()


def rows_answer(*rows: dict[str, Any], status: int = 5, more: Sequence[Sequence[dict[str, Any]]] = ()) -> Answer:
    """The answer to a statement that returns rows of integers."""
    names = sorted(rows[0]) if rows else ["i"]
    description = json.dumps([names, [23] * len(names), [-1] * len(names)]).encode()
    processed = len(rows) + sum(map(len, more))
    head = struct.pack("<iQI", status, processed, len(description)) + description
    return codec.SQL, [head + packed(rows), *map(packed, more)]


def done(status: int, processed: int = 0) -> Answer:
    """The answer to a statement that returns no rows."""
    return codec.SQL, [struct.pack("<iQII", status, processed, 0, 0)]


def failed(sqlstate: str, message: str, **fields: str) -> Answer:
    """The answer to a statement that fails."""
    return codec.ERROR, [codec.encode_fields([("C", sqlstate), ("M", message), *fields.items()])]


class ScriptedLoop:
    """Answers requests in turn and keeps them."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.sent: list[tuple[int, bytes]] = []
        self.discarded: list[bytes] = []
        self.call = 7
        self.parameters: Callable[[Any, Sequence[object], bytes], bytes] = self._parameters

    def current(self) -> int:
        return self.call

    def request(self, kind: int, payload: bytes) -> Answer:
        self.sent.append((kind, payload))
        return self.answers.popleft()

    def discard(self, payload: bytes) -> None:
        if self.call == -1:
            raise RuntimeError("no call runs")
        self.discarded.append(payload)

    def describe(self, description: bytes) -> Shape:
        return Shape(*map(tuple, json.loads(description)))

    def rows(self, shape: Shape, payload: bytes, offset: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(payload[offset + 4 :])
        assert len(rows) == struct.unpack_from("<I", payload, offset)[0]
        return rows

    def parameter_types(self, descriptors: bytes, count: int) -> object:
        return descriptors, count

    @staticmethod
    def _parameters(_types: object, values: Sequence[object], head: bytes) -> bytes:
        return head + struct.pack("<I", len(values)) + json.dumps(values).encode()


@contextmanager
def scripted(*answers: Answer) -> Iterator[ScriptedLoop]:
    """Let `plpy` ask a scripted loop, which must be asked to the end of its script."""
    loop = ScriptedLoop(*answers)
    # What other tests left behind is not of this script.
    gc.collect()
    spi._garbage.clear()
    spi.connect(loop)
    spi.agree(FEATURES, codec.MAX_FRAME_DEFAULT)
    try:
        yield loop
        assert not loop.answers
    finally:
        loop.call = -1
        spi.agree(0, codec.MAX_FRAME_HANDSHAKE)


def prepared(number: int = 3, count: int = 1) -> Answer:
    """The answer to a prepare."""
    return codec.SQL, [struct.pack("<II", number, count) + bytes([codec.INT4]) * count]


def opened(name: str = "c1") -> Answer:
    """The answer to an open."""
    return codec.SQL, [codec.encode_strings(name)]


def plan(loop: ScriptedLoop, number: int = 3, count: int = 1) -> spi.PLyPlan:
    """A plan that was prepared."""
    loop.answers.appendleft(prepared(number, count))
    made = plpy.prepare("select 1", ["int4"] * count)
    loop.sent.clear()
    return made


def cursor(loop: ScriptedLoop) -> spi.PLyCursor:
    """A cursor that was opened."""
    loop.answers.appendleft(opened())
    made = plpy.cursor("select 1")
    loop.sent.clear()
    return made
