"""The golden vectors, over the pure-Python codec, the C extension and the C codec below it."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from plc import codec, convert
from plc.codec import Array, ProtocolError, TextForm, Type

from .conftest import SOURCE

Vector = dict[str, Any]
VECTORS = SOURCE / "protocol" / "vectors"


def load(name: str, part: str) -> list[Any]:
    """The vectors of a file as parameters named after them."""
    vectors = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))[part]
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def to_type(notation: Any) -> Type:
    if isinstance(notation, str):
        return Type(getattr(codec, notation))
    if "array" in notation:
        return Type(codec.ARRAY, to_type(notation["array"]))
    if "fields" in notation:
        fields = tuple((field["name"], to_type(field["type"])) for field in notation["fields"])
        return Type(codec.COMPOSITE, None, notation["composite"], fields)
    return Type(codec.OTHER, None, notation["other"])


def to_scalar(kind: int, notation: Any) -> Any:
    if notation is None:
        return None
    if kind in (codec.INT2, codec.INT4, codec.INT8, codec.OID):
        return int(notation)
    if kind in (codec.FLOAT4, codec.FLOAT8):
        return float.fromhex(notation)
    return bytes.fromhex(notation) if kind == codec.BYTEA else notation


def to_value(declared: Type, notation: Any) -> Any:
    if isinstance(notation, dict) and "text" in notation:
        return TextForm(notation["text"])
    if isinstance(notation, dict) and "absent" in notation:
        return codec.ABSENT
    if isinstance(notation, dict) and "record" in notation:
        shape = to_type(notation["record"])
        return codec.Record(shape, to_values(shape, notation["row"]))
    if isinstance(notation, dict) and "row" in notation:
        return codec.Row(to_values(declared, notation["row"]))
    if notation is None or declared.element is None:
        return to_scalar(declared.kind, notation)
    text = notation.get("elements") == "TEXT"
    items = [item if text else to_value(declared.element, item) for item in notation["items"]]
    return Array(tuple(notation["lengths"]), tuple(notation["bounds"]), items, text)


def to_values(declared: Type, notation: Any) -> list[Any]:
    return [to_value(field, value) for (_, field), value in zip(declared.fields, notation, strict=True)]


def same(one: Any, other: Any) -> bool:
    """Equality that knows NaN, the sign of zero and types."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (float, Decimal)) and type(one) is type(other):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return bool(one == other) and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and bool(one == other)


def is_produced(vector: Vector) -> bool:
    return bool(vector.get("produce", True))


# --- values ---------------------------------------------------------------


VALID = [*load("values", "valid"), *load("rows", "valid")]
INVALID = [*load("values", "invalid"), *load("rows", "invalid")]


@pytest.mark.parametrize("vector", VALID)
def test_value(vector: Vector) -> None:
    declared = to_type(vector["type"])
    value = to_value(declared, vector["value"])
    data = bytes.fromhex(vector["hex"])
    reader = codec.Reader(data)
    assert same(codec.read_value(reader, declared, vector["direction"] != "call"), value)
    reader.finish()
    if is_produced(vector):
        assert codec.encode_result(declared, value).hex() == vector["hex"]


@pytest.mark.parametrize("vector", VALID)
def test_value_in_c(vector: Vector, extension: ModuleType) -> None:
    declared = to_type(vector["type"])
    value = to_value(declared, vector["value"])
    data = bytes.fromhex(vector["hex"])
    if vector["direction"] == "result":
        if value is not None:
            with pytest.raises(ProtocolError, match="form is not allowed here"):
                extension.decode(declared, data)
        seen = convert.to_python(Type(codec.TEXT) if isinstance(value, TextForm) else declared, value)
    else:
        seen = convert.to_python(declared, value)
        assert same(extension.decode(declared, data), seen)
    if vector["direction"] == "call":
        return
    # What a function that returns this object sends: the vector, unless that has other lower bounds.
    sent = codec.encode_result(declared, convert.from_python(declared, seen))
    assert extension.encode(declared, seen) == sent
    bounds = vector["value"]["bounds"] if isinstance(value, Array) else []
    text_form = declared.kind == codec.NUMERIC and isinstance(value, TextForm)
    if is_produced(vector) and all(bound == 1 for bound in bounds) and "text_elements_numeric" not in vector["name"]:
        assert text_form or sent.hex() == vector["hex"]


@pytest.mark.parametrize("vector", INVALID)
def test_invalid_value(vector: Vector) -> None:
    declared = to_type(vector["type"])
    data = bytes.fromhex(vector["hex"])
    for result in {"both": (False, True), "result": (True,), "call": (False,)}[vector["direction"]]:
        reader = codec.Reader(data)
        with pytest.raises(ProtocolError):
            codec.read_value(reader, declared, result)
            reader.finish()


@pytest.mark.parametrize("vector", INVALID)
def test_invalid_value_in_c(vector: Vector, extension: ModuleType) -> None:
    declared, data = to_type(vector["type"]), bytes.fromhex(vector["hex"])
    if vector["direction"] == "result":
        # The extension decodes arguments only.
        assert seen(extension.decode, declared, data) == seen(decode_argument, declared, data)
        return
    with pytest.raises(ProtocolError):
        extension.decode(declared, data)


def seen(function: Callable[..., Any], *arguments: Any) -> str:
    """What a codec makes of something: a value, or the kind of its refusal."""
    try:
        return repr(function(*arguments))
    except (ProtocolError, convert.ConversionError) as error:
        return type(error).__name__


def decode_argument(declared: Type, data: bytes) -> Any:
    reader = codec.Reader(data)
    value = codec.read_value(reader, declared, result=False)
    reader.finish()
    return convert.to_python(declared, value)


def encode_object(declared: Type, value: object) -> bytes:
    return codec.encode_result(declared, convert.from_python(declared, value))


def test_both_codecs_see_the_same_in_mutated_vectors(extension: ModuleType) -> None:
    vectors = [param.values[0] for param in VALID + INVALID]
    generator = random.Random(20240229)
    accepted = 0
    for _ in range(30_000):
        data = bytearray.fromhex(generator.choice(vectors)["hex"])
        declared = to_type(generator.choice(vectors)["type"])
        for _ in range(generator.randrange(3)):
            at = generator.randrange(len(data) + 1)
            data[at : at + generator.randrange(3)] = bytes(generator.choices((0, 1, 2, 3, 128, 255), k=1))
        outcome = seen(decode_argument, declared, bytes(data))
        assert seen(extension.decode, declared, bytes(data)) == outcome
        if outcome != "ProtocolError":
            accepted += 1
            value = decode_argument(declared, bytes(data))
            assert seen(extension.encode, declared, value) == seen(encode_object, declared, value)
    assert accepted > 1000


# --- messages -------------------------------------------------------------


def register(fields: Vector) -> codec.Register:
    arguments = [(argument["name"], to_type(argument["type"])) for argument in fields["arguments"]]
    result, flags = to_type(fields["result"]), fields.get("flags", 0)
    return codec.Register(fields["function_id"], fields["name"], fields["source"], arguments, result, flags)


def large(fields: Vector) -> Vector:
    """Integers of 64 bits, which are text in JSON."""
    return {**fields, "features": int(fields["features"]), "max_frame": int(fields["max_frame"])}


def call_values(fields: Vector) -> tuple[list[Type], list[Any]]:
    types = [to_type(notation) for notation in fields["types"]]
    return types, [to_value(declared, value) for declared, value in zip(types, fields["values"], strict=True)]


def request(fields: Vector) -> tuple[codec.Request, list[Type]]:
    """An SQL and the types of its plan's parameters."""
    types = [to_type(notation) for notation in fields.get("parameters", [])]
    parts = {name: value for name, value in fields.items() if name in codec.Request._fields}
    parts["number"] = int(parts.get("number", 0))
    if "parameters" in fields:
        parts["values"] = [to_value(declared, value) for declared, value in zip(types, parts["values"], strict=True)]
    return codec.Request(**parts), types


def columns(notation: Any) -> list[codec.Column] | None:
    if notation is None:
        return None
    return [codec.Column(c["name"], to_type(c["type"]), c["oid"], c["modifier"]) for c in notation]


def cells(described: Any, rows: Any) -> list[list[Any]]:
    types = [column.type for column in described or []]
    return [[to_value(declared, value) for declared, value in zip(types, row, strict=True)] for row in rows]


def answer(fields: Vector) -> codec.Answer:
    described = columns(fields["columns"])
    return codec.Answer(fields["status"], int(fields["processed"]), described, cells(described, fields["rows"]))


def more_rows(fields: Vector) -> bytes:
    out = bytearray()
    described = columns(fields["columns"]) or []
    codec.write_columns(out, described, cells(described, fields["rows"]))
    return bytes(out)


def set_rows(fields: Vector) -> tuple[Type, list[Any]]:
    declared = to_type(fields["type"])
    return declared, [to_value(declared, value) for value in fields["values"]]


def trigger(fields: Vector) -> tuple[Type, int, list[tuple[int, Any]]]:
    declared = to_type(fields["type"])
    changes = [(field, to_value(declared.fields[field][1], value)) for field, value in fields.get("changes", [])]
    return declared, fields["action"], changes


def encode_trigger(fields: Vector) -> bytes:
    declared, action, changes = trigger(fields)
    return codec.encode_modify(declared, changes) if action == codec.TRIGGER_MODIFY else bytes([action])


ENCODERS: dict[str, Callable[[Vector], bytes]] = {
    "Ping": lambda f: codec.encode_ping(codec.Ping(**large(f))),
    "PingReply": lambda f: codec.encode_ping_reply(codec.PingReply(**large(f))),
    "CallReq": lambda f: codec.encode_call(f["function_id"], *call_values(f)),
    "Result": lambda f: codec.encode_result(to_type(f["type"]), to_value(to_type(f["type"]), f["value"])),
    "Error": lambda f: codec.encode_fields(map(tuple, f["fields"])),
    "Log": lambda f: codec.encode_log(f["level"], map(tuple, f["fields"])),
    "Register": lambda f: codec.encode_register(register(f)),
    "Forget": lambda f: codec.encode_forget(f["function_id"]),
    "Cancel": lambda f: b"",
    "Check": lambda f: codec.encode_check(f["flags"], f["name"], f["source"]),
    "Rows": lambda f: codec.encode_rows(*set_rows(f)),
    "Credit": lambda f: codec.encode_credit(f["rows"], f["bytes"]),
    "Trigger": encode_trigger,
    "Sql": lambda f: codec.encode_request(*request(f)),
    "SqlRows": lambda f: codec.encode_answer(*answer(f)),
    "SqlMoreRows": more_rows,
    "SqlPlan": lambda f: codec.encode_plan(f["plan"], [to_type(notation) for notation in f["types"]]),
    "SqlCursor": lambda f: codec.encode_strings(f["cursor"]),
    "Subtransaction": lambda f: bytes([f["verb"]]),
    "Lease": lambda f: codec.encode_lease(codec.Lease(**f)),
    "Grant": lambda f: codec.encode_strings(f["sandbox"], f["token"]),
    "Reclaim": lambda f: codec.encode_reclaim(f["version"], f["token"]),
    "Reclaimed": lambda f: codec.encode_strings(f["sandbox"]),
    "Exited": lambda f: codec.encode_exited(codec.Exited(**f)),
}


def decode(message: str, fields: Vector, data: bytes) -> Any:
    """Decode a payload to what ENCODERS take."""
    simple: dict[str, Callable[[bytes], Any]] = {
        "Ping": codec.decode_ping,
        "PingReply": codec.decode_ping_reply,
        "Error": codec.decode_fields,
        "Log": codec.decode_log,
        "Register": codec.decode_register,
        "Forget": codec.decode_forget,
        "Lease": codec.decode_lease,
        "Grant": lambda data: codec.decode_strings(data, 2),
        "Reclaim": codec.decode_reclaim,
        "Reclaimed": lambda data: codec.decode_strings(data, 1),
        "Exited": codec.decode_exited,
        "Check": codec.decode_check,
        "Credit": codec.decode_credit,
        "SqlRows": codec.decode_answer,
        "SqlPlan": codec.decode_plan,
        "SqlCursor": lambda data: codec.decode_strings(data, 1),
    }
    if message in simple:
        return simple[message](data)
    if message == "CallReq":
        types = [to_type(notation) for notation in fields["types"]]
        return codec.decode_call_id(data), codec.decode_call(data, types)
    typed: dict[str, Callable[[], Any]] = {
        "Result": lambda: codec.decode_result(data, to_type(fields["type"])),
        "Rows": lambda: codec.decode_rows(data, to_type(fields["type"])),
        "Trigger": lambda: codec.decode_trigger(data, to_type(fields["type"])),
        "Sql": lambda: codec.decode_request(data, [to_type(notation) for notation in fields.get("parameters", [])]),
        "SqlMoreRows": lambda: codec.decode_more(data, columns(fields["columns"]) or []),
        "Subtransaction": lambda: data[0],
        "Cancel": lambda: data or None,
    }
    return typed[message]()


EXPECTED: dict[str, Callable[[Vector], Any]] = {
    "Ping": lambda f: tuple(large(f).values()),
    "PingReply": lambda f: tuple(large(f).values()),
    "CallReq": lambda f: (f["function_id"], call_values(f)[1]),
    "Result": lambda f: to_value(to_type(f["type"]), f["value"]),
    "Error": lambda f: [tuple(pair) for pair in f["fields"]],
    "Log": lambda f: (f["level"], [tuple(pair) for pair in f["fields"]]),
    "Register": register,
    "Forget": lambda f: f["function_id"],
    "Cancel": lambda _: None,
    "Check": lambda f: codec.Register(0, f["name"], f["source"], [], Type(codec.VOID), f["flags"]),
    "Rows": lambda f: set_rows(f)[1],
    "Credit": lambda f: (f["rows"], f["bytes"]),
    "Trigger": lambda f: trigger(f)[1:],
    "Sql": lambda f: request(f)[0],
    "SqlRows": answer,
    "SqlMoreRows": lambda f: cells(columns(f["columns"]), f["rows"]),
    "SqlPlan": lambda f: (f["plan"], [to_type(notation) for notation in f["types"]]),
    "SqlCursor": lambda f: list(f.values()),
    "Subtransaction": lambda f: f["verb"],
    "Grant": lambda f: list(f.values()),
    "Reclaimed": lambda f: list(f.values()),
}


def expected(message: str, fields: Vector) -> Any:
    """What `decode` makes of a vector's fields."""
    return EXPECTED[message](fields) if message in EXPECTED else tuple(fields.values())


@pytest.mark.parametrize("vector", load("messages", "valid"))
def test_message(vector: Vector) -> None:
    message, fields = vector["message"], vector["fields"]
    assert ENCODERS[message](fields).hex() == vector["hex"]
    assert decode(message, fields, bytes.fromhex(vector["hex"])) == expected(message, fields)


@pytest.mark.parametrize("vector", load("messages", "invalid"))
def test_invalid_message(vector: Vector) -> None:
    with pytest.raises(ProtocolError):
        decode(vector["message"], vector, bytes.fromhex(vector["hex"]))


def test_every_message_has_vectors() -> None:
    messages = {param.values[0]["message"] for param in load("messages", "valid")}
    assert messages == set(ENCODERS)


# --- frames ---------------------------------------------------------------


@pytest.mark.parametrize("vector", load("frames", "valid"))
def test_frame(vector: Vector) -> None:
    payload = bytes.fromhex(vector["payload"])
    data = bytes.fromhex(vector["hex"])
    assert codec.encode_frame(vector["call_id"], vector["type"], payload, vector["flags"]) == data
    header = codec.decode_header(data[: codec.HEADER_SIZE], codec.MAX_FRAME_DEFAULT)
    assert header == (vector["call_id"], vector["type"], vector["flags"], len(payload))
    assert data[codec.HEADER_SIZE :] == payload


@pytest.mark.parametrize("vector", load("frames", "invalid"))
def test_invalid_frame(vector: Vector) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_header(bytes.fromhex(vector["hex"]), int(vector["max_frame"]))


# --- the C codec ----------------------------------------------------------


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], list[str]]:
    """Takes lines through codec_probe.c, which is built with the sanitizers."""
    program = tmp_path_factory.mktemp("probe") / "codec_probe"
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"),
            *("-fno-sanitize-recover=all", f"-I{SOURCE / 'protocol'}", "-o", str(program)),
            str(Path(__file__).with_name("codec_probe.c")),
            str(SOURCE / "protocol" / "plc_protocol.c"),
        ],
        check=True,
    )

    def run(lines: list[str]) -> list[str]:
        done = subprocess.run(
            [str(program)], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def probe_line(vector: Vector, *, result: bool) -> str:
    declared = to_type(vector["type"])
    element = declared.element.kind if declared.element else 0
    return f"value {declared.kind} {element} {int(result)} {vector['hex']}"


def unpack(name: str, part: str) -> list[Vector]:
    return [param.values[0] for param in load(name, part)]


def test_valid_vectors_in_the_c_codec(probe: Callable[[list[str]], list[str]]) -> None:
    values = unpack("values", "valid")
    fields = [vector for vector in unpack("messages", "valid") if vector["message"] == "Error"]
    frames = unpack("frames", "valid")
    vectors = values + fields + frames
    lines = [probe_line(vector, result=True) for vector in values]
    lines += [f"fields {vector['hex']}" for vector in fields]
    lines += [f"frame {codec.MAX_FRAME_DEFAULT} {vector['hex']}" for vector in frames]
    outcomes = dict(zip((vector["name"] for vector in vectors), probe(lines), strict=True))
    assert outcomes == {vector["name"]: vector["hex"] for vector in vectors}


def test_invalid_vectors_in_the_c_codec(probe: Callable[[list[str]], list[str]]) -> None:
    values = [vector for vector in unpack("values", "invalid") if not vector.get("content")]
    fields = [
        vector for vector in unpack("messages", "invalid") if vector["message"] == "Error" and not vector.get("content")
    ]
    frames = unpack("frames", "invalid")
    lines = [probe_line(vector, result=vector["direction"] != "call") for vector in values]
    lines += [f"fields {vector['hex']}" for vector in fields]
    lines += [f"frame {vector['max_frame']} {vector['hex']}" for vector in frames]
    outcomes = dict(zip((vector["name"] for vector in values + fields + frames), probe(lines), strict=True))
    assert len(outcomes) > 40
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.startswith("refused: ")} == {}
