"""The golden vectors, through an R function that returns its argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from plc import codec
from plc.codec import Array, Type

from tests.unit.runtime_python.support import Sandbox
from tests.unit.runtime_python.test_vectors import load, same, to_type, to_value

from .conftest import Start

# The messages that a sandbox gets and that need no function to be tested.
KINDS = {
    "Ping": codec.PING,
    "Register": codec.REGISTER,
    "Forget": codec.FORGET,
    "Credit": codec.CREDIT,
    "Check": codec.CHECK,
}


def chosen(name: str, part: str, wanted: Callable[[dict[str, Any]], bool]) -> list[Any]:
    """The vectors of a file that concern a sandbox."""
    return [parameter for parameter in load(name, part) if wanted(parameter.values[0])]


def is_argument(vector: dict[str, Any]) -> bool:
    """Whether a vector is a value, or refused as a value, of an argument."""
    return bool(vector["direction"] != "result" and vector["type"] != "VOID")


def echo(sandbox: Sandbox, declared: Type, data: bytes) -> bytes:
    """What the function sends back for the bytes of an argument."""
    function = sandbox.define("x", declared, [("x", declared)])
    sandbox.call_id += 1
    payload = function.to_bytes(4, "little") + (1).to_bytes(4, "little") + data
    sandbox.send(sandbox.call_id, codec.CALLREQ, payload)
    header, answer = sandbox.answer(sandbox.call_id)
    assert header.type == codec.RESULT
    return answer


def number(item: Any) -> Any:
    return None if item is None else float(item)


def seen_by_r(declared: Type, value: Any) -> Any:
    """A value as R has it: no lower bounds, numeric as double, int8 arrays with its least value as text."""
    if not isinstance(value, Array):
        return number(value) if declared.kind == codec.NUMERIC else value
    assert declared.element is not None
    items = list(value.items)
    if declared.element.kind == codec.NUMERIC:
        items = list(map(number, items))
    return tuple(value.lengths), tuple(1 for _ in value.bounds), items


def plain(declared: Type, value: Any) -> Any:
    """The value that was sent back, in the same form; text of a number is the number."""
    if isinstance(value, codec.TextForm) and declared.kind in (codec.INT8, codec.NUMERIC):
        return int(value) if declared.kind == codec.INT8 else float(value)
    if not isinstance(value, Array):
        return seen_by_r(declared, value)
    assert declared.element is not None
    items = list(value.items)
    if value.text and declared.element.kind == codec.INT8:
        items = [None if item is None else int(str(item)) for item in items]
    elif declared.element.kind == codec.NUMERIC:
        items = list(map(number, items))
    return tuple(value.lengths), tuple(value.bounds), items


@pytest.mark.parametrize("vector", chosen("values", "valid", is_argument))
def test_value(vector: dict[str, Any], sandbox: Sandbox) -> None:
    declared = to_type(vector["type"])
    value = to_value(declared, vector["value"])
    sent = echo(sandbox, declared, bytes.fromhex(vector["hex"]))
    answer = codec.decode_result(sent, declared)
    assert same(plain(declared, answer), seen_by_r(declared, value))
    bounds = vector["value"]["bounds"] if isinstance(value, Array) else []
    kind = declared.element.kind if declared.element else declared.kind
    if all(bound == 1 for bound in bounds) and vector.get("produce", True) and kind not in (codec.NUMERIC, codec.INT8):
        is_nan = isinstance(value, float) and math.isnan(value)
        assert is_nan or sent.hex() == vector["hex"]


@pytest.mark.parametrize("vector", chosen("values", "invalid", is_argument))
def test_invalid_value(vector: dict[str, Any], start: Start) -> None:
    declared = to_type(vector["type"])
    with start() as sandbox:
        sandbox.greet()
        function = sandbox.define("x", declared, [("x", declared)])
        payload = function.to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes.fromhex(vector["hex"])
        sandbox.send(7, codec.CALLREQ, payload)
        header, answer = sandbox.receive()
        assert (header.call_id, header.type) == (7, codec.ERROR)
        assert dict(codec.decode_fields(answer))["C"] == "08P01"
        assert sandbox.read(1) == b""


@pytest.mark.parametrize("vector", chosen("messages", "invalid", lambda vector: vector["message"] in KINDS))
def test_invalid_message(vector: dict[str, Any], start: Start) -> None:
    with start() as sandbox:
        if vector["message"] != "Ping":
            sandbox.greet()
        sandbox.send(7, KINDS[vector["message"]], bytes.fromhex(vector["hex"]))
        header, answer = sandbox.receive()
        assert header.type == codec.ERROR
        assert dict(codec.decode_fields(answer))["C"] == "08P01"
        assert sandbox.read(1) == b""
