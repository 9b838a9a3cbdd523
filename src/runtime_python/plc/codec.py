"""The wire codec of PROTOCOL.md in pure Python.

Values are decoded to *wire values*, which keep all that the bytes say (lower bounds,
forms); `convert` turns them into what a function sees. A decoder checks every length,
count, kind, form and reserved bit and raises ProtocolError for what does not fit. An
encoder is given what fits: it raises ValueError or struct.error for the rest.
"""

from __future__ import annotations

import struct
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

MAGIC = 0x31434C50
VERSION = 1
FEATURE_SQL = 1
FEATURE_SUBTRANSACTIONS = 2
FEATURE_SETS = 8
FEATURE_CHECKS = 16
FEATURES = FEATURE_SQL | FEATURE_SUBTRANSACTIONS | FEATURE_SETS | FEATURE_CHECKS

HEADER_SIZE = 16
MAX_FRAME_DEFAULT = 1 << 30
MAX_FRAME_HANDSHAKE = 1 << 16
MAX_ARGUMENTS = 100
MAX_DIMENSIONS = 6
MAX_ELEMENTS = (1 << 28) - 1
MAX_TYPE_DEPTH = 64
MAX_COLUMNS = 1664
MAX_PLANS = 10000
MAX_SOURCE = 16 << 20
MAX_FIELDS = 16

FLAG_REPLY = 1
FLAG_MORE = 2

PING, CALLREQ, RESULT, ERROR, LOG, SQL, SUBTRANSACTION, RAW = range(1, 9)
REGISTER, FORGET, ROWS, CREDIT, CANCEL, CHECK = range(9, 15)
LEASE, GRANT, RECLAIM, RECLAIMED, EXITED = range(32, 37)

VOID, BOOL, INT2, INT4, INT8, FLOAT4, FLOAT8, TEXT, BYTEA, NUMERIC, OTHER = range(11)
OID = 11
ARRAY, COMPOSITE, RECORD = range(16, 19)

FORM_NULL, FORM_BINARY, FORM_TEXT, FORM_ABSENT = range(4)
ARRAY_HAS_NULLS = 1
ARRAY_TEXT_ELEMENTS = 2

FUNCTION_SET, FUNCTION_TRIGGER, FUNCTION_EVENT_TRIGGER, FUNCTION_PROCEDURE, FUNCTION_NUMPY, FUNCTION_INLINE = (
    1 << bit for bit in range(6)
)
FUNCTION_FLAGS_KNOWN = (1 << 6) - 1

SQL_EXECUTE, SQL_PREPARE, SQL_EXECUTE_PLAN, SQL_OPEN, SQL_OPEN_PLAN = range(1, 6)
SQL_FETCH, SQL_CLOSE, SQL_COMMIT, SQL_ROLLBACK, SQL_DISCARD = range(6, 11)
SUBTRANSACTION_BEGIN, SUBTRANSACTION_COMMIT, SUBTRANSACTION_ROLLBACK = range(1, 4)
TRIGGER_UNCHANGED, TRIGGER_SKIP, TRIGGER_MODIFY = range(3)

# What a set may have in its first batch: rows and bytes
FIRST_ROWS = 64
FIRST_BYTES = 64 << 10

LOG_DEBUG, LOG_LOG, LOG_INFO, LOG_NOTICE, LOG_WARNING = range(1, 6)

# struct's letter of each kind whose values all have one size
FIXED = {BOOL: "B", INT2: "h", INT4: "i", INT8: "q", FLOAT4: "f", FLOAT8: "d", OID: "I"}

_HEADER = struct.Struct("<IBBHQ")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_DIMENSION = struct.Struct("<ii")
_CREDIT = struct.Struct("<II")
_SQLSTATE_CHARACTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")

Buffer = Union[bytes, bytearray, memoryview]


class ProtocolError(Exception):
    """The peer sent what PROTOCOL.md does not allow."""


class Type(NamedTuple):
    """A type descriptor: `element` of an ARRAY, `name` of an OTHER or COMPOSITE, `fields` of a COMPOSITE with names."""

    kind: int
    element: Optional[Type] = None
    name: str = ""
    fields: Tuple[Tuple[str, Type], ...] = ()


class TextForm(str):
    """A value or element in form TEXT: input for the database's own input function."""

    __slots__ = ()


class Array(NamedTuple):
    """An array as it travels: flat items, None for a NULL; `text`: elements in form TEXT."""

    lengths: Tuple[int, ...]
    bounds: Tuple[int, ...]
    items: Sequence[Value]
    text: bool = False


class Absent:
    """The value of a field that has none yet; there is only ABSENT."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


class Row(NamedTuple):
    """A COMPOSITE as it travels: a value per field."""

    values: Sequence[Value]


class Record(NamedTuple):
    """A RECORD as it travels: the COMPOSITE that describes it, a value per field."""

    type: Type
    values: Sequence[Value]


Scalar = Union[None, bool, int, float, str, bytes]
Value = Union[Scalar, Array, Row, Record, Absent]


class Header(NamedTuple):
    """A frame's header; `length` is that of the payload in bytes."""

    call_id: int
    type: int
    flags: int
    length: int


class Ping(NamedTuple):
    """The backend's Ping."""

    lowest: int
    highest: int
    features: int
    max_frame: int
    software: str
    keywords: List[str]


class PingReply(NamedTuple):
    """The sandbox's answer to a Ping."""

    version: int
    features: int
    max_frame: int
    software: str
    codec: str


class Register(NamedTuple):
    """A function: name, source, (name or "", type) of each argument, type of its result, flags."""

    function_id: int
    name: str
    source: str
    arguments: List[Tuple[str, Type]]
    result: Type
    flags: int = 0


class Lease(NamedTuple):
    """A backend's request for a sandbox."""

    version: int
    runtime: str
    role: str
    roles: List[str]
    database: str


class Exited(NamedTuple):
    """The server's word on a sandbox that ended."""

    sandbox: str
    reason: str
    sqlstate: str


Fields = List[Tuple[str, str]]


class Reader:
    """Walks over one payload."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, payload: Buffer) -> None:
        self.data = memoryview(payload)
        self.end = len(self.data)
        self.offset = 0

    def take(self, length: int) -> memoryview:
        """Return the next `length` bytes."""
        start = self.offset
        if self.end - start < length:
            raise ProtocolError("message ends within a field")
        self.offset = start + length
        return self.data[start : start + length]

    def u8(self) -> int:
        """Return an unsigned integer of 8 bits."""
        return self.take(1)[0]

    def peek(self) -> int:
        """Return the next byte without taking it, -1 at the end."""
        return self.data[self.offset] if self.offset < self.end else -1

    def u16(self) -> int:
        """Return an unsigned integer of 16 bits."""
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        """Return an unsigned integer of 32 bits."""
        return int(_U32.unpack(self.take(4))[0])

    def i32(self) -> int:
        """Return a signed integer of 32 bits."""
        return int(_I32.unpack(self.take(4))[0])

    def u64(self) -> int:
        """Return an unsigned integer of 64 bits."""
        return int(_U64.unpack(self.take(8))[0])

    def raw(self) -> memoryview:
        """Return the bytes of a `str`."""
        return self.take(self.u32())

    def text(self) -> str:
        """Return a `str` as text."""
        return _text(self.raw())

    def count(self, limit: Optional[int] = None, smallest: int = 1) -> int:
        """Return a u32 that counts items of at least `smallest` bytes each."""
        count = self.u32()
        if limit is not None and count > limit:
            raise ProtocolError("count is beyond its limit")
        if count * smallest > self.end - self.offset:
            raise ProtocolError("message ends within a list")
        return count

    def padding(self) -> None:
        """Skip zero bytes up to the next multiple of 8."""
        if any(self.take(-self.offset % 8)):
            raise ProtocolError("padding is not zero")

    def finish(self) -> None:
        """Check that nothing is left."""
        if self.offset != self.end:
            raise ProtocolError("bytes are left at the end of a message")


def _text(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("text is not valid UTF-8") from error


def _write_str(out: bytearray, value: Union[str, Buffer]) -> None:
    data = value.encode() if isinstance(value, str) else value
    out += _U32.pack(len(data))
    out += data


def is_sqlstate(value: object) -> bool:
    """Whether `value` is a text of five characters out of [0-9A-Z]."""
    return isinstance(value, str) and len(value) == 5 and _SQLSTATE_CHARACTERS.issuperset(value)


# --- frames ---------------------------------------------------------------


def decode_header(data: Buffer, max_frame: int) -> Header:
    """Decode 16 bytes; a payload beyond `max_frame` bytes is refused."""
    call_id, kind, flags, reserved, length = _HEADER.unpack(data)
    if reserved != 0:
        raise ProtocolError("reserved bits of a frame header are set")
    if flags & ~(FLAG_REPLY | FLAG_MORE):
        raise ProtocolError("unknown flags in a frame header")
    if length > max_frame:
        raise ProtocolError("frame is longer than allowed")
    return Header(call_id, kind, flags, length)


def encode_frame(call_id: int, kind: int, payload: Buffer, flags: int = 0) -> bytes:
    """Return header and payload."""
    return _HEADER.pack(call_id, kind, flags, 0, len(payload)) + payload


# --- types and values -----------------------------------------------------


def read_type(reader: Reader, depth: int = 1) -> Type:
    """Read a type descriptor."""
    if depth > MAX_TYPE_DEPTH:
        raise ProtocolError("type descriptor is nested too deeply")
    kind = reader.u8()
    if kind == OTHER:
        return Type(OTHER, None, reader.text())
    if kind == ARRAY:
        element = read_type(reader, depth + 1)
        if element.kind in (ARRAY, VOID):
            raise ProtocolError("type cannot be an element of an array")
        return Type(ARRAY, element)
    if kind == COMPOSITE:
        name = reader.text()
        return Type(COMPOSITE, None, name, _read_type_fields(reader, depth + 1))
    if kind > OID and kind != RECORD:
        raise ProtocolError("unknown kind of type")
    return Type(kind)


def _read_type_fields(reader: Reader, depth: int) -> Tuple[Tuple[str, Type], ...]:
    fields = []
    for _ in range(reader.count(MAX_COLUMNS, 5)):
        field, declared = reader.text(), read_type(reader, depth)
        if declared.kind == VOID:
            raise ProtocolError("field of type void")
        fields.append((field, declared))
    return tuple(fields)


def write_type(out: bytearray, declared: Type) -> None:
    """Append a type descriptor."""
    out.append(declared.kind)
    if declared.kind == OTHER:
        _write_str(out, declared.name)
    elif declared.kind == COMPOSITE:
        _write_str(out, declared.name)
        out += _U32.pack(len(declared.fields))
        for field, inner in declared.fields:
            _write_str(out, field)
            write_type(out, inner)
    elif declared.element is not None:
        write_type(out, declared.element)


def encode_type(declared: Type) -> bytes:
    """Encode a type descriptor."""
    out = bytearray()
    write_type(out, declared)
    return bytes(out)


def read_value(reader: Reader, declared: Type, result: bool, depth: int = 1) -> Value:
    """Read a value of a declared type.

    Form TEXT is allowed in results only, and so is no RECORD's own. `depth` counts what the value is nested in.
    """
    form = reader.u8()
    if form == FORM_NULL:
        return None
    if form == FORM_TEXT and result:
        return TextForm(reader.text())
    if form != FORM_BINARY or declared.kind == VOID or (result and declared.kind == RECORD):
        raise ProtocolError("form is not allowed here")
    return _read_binary(reader, declared, result, depth)


def _read_binary(reader: Reader, declared: Type, result: bool, depth: int) -> Value:
    if declared.kind == COMPOSITE:
        return Row(_read_values(reader, declared, result, depth + 1))
    if declared.kind == RECORD:
        shape = read_type(reader, depth + 1)
        if shape.kind != COMPOSITE:
            raise ProtocolError("record is not described as a composite")
        return Record(shape, _read_values(reader, shape, result, depth + 2))
    if declared.element is not None:
        return _read_array(reader, declared.element, result, depth + 1)
    letter = FIXED.get(declared.kind)
    if letter is None:
        return _read_variable(reader, declared.kind)
    items = _read_fixed(reader, letter, 1)
    return _truths(items)[0] if declared.kind == BOOL else items[0]


def _read_values(reader: Reader, declared: Type, result: bool, depth: int) -> List[Value]:
    values: List[Value] = []
    for _, field in declared.fields:
        if not result and reader.peek() == FORM_ABSENT:
            reader.u8()
            values.append(ABSENT)
        else:
            values.append(read_value(reader, field, result, depth))
    return values


def _read_variable(reader: Reader, kind: int) -> Union[str, bytes]:
    raw = reader.raw()
    return bytes(raw) if kind == BYTEA else _text(raw)


def _read_fixed(reader: Reader, letter: str, count: int) -> List[Value]:
    layout = "<%d%s" % (count, letter)
    return list(struct.unpack(layout, reader.take(struct.calcsize(layout))))


def _truths(values: Sequence[Value]) -> List[Value]:
    if any(value not in (0, 1, None) for value in values):
        raise ProtocolError("boolean is neither 0 nor 1")
    return [None if value is None else value == 1 for value in values]


def _read_dimensions(reader: Reader, dimensions: int) -> Tuple[List[int], List[int], int]:
    lengths, bounds = [], []
    count = 1 if dimensions else 0
    for _ in range(dimensions):
        length, bound = _DIMENSION.unpack(reader.take(8))
        if length < 1:
            raise ProtocolError("array has a dimension without elements")
        if bound > 0x7FFFFFFF - length:
            raise ProtocolError("array has a lower bound out of range")
        count *= length
        if count > MAX_ELEMENTS:
            raise ProtocolError("array has too many elements")
        lengths.append(length)
        bounds.append(bound)
    return lengths, bounds, count


def _read_bitmap(reader: Reader, count: int) -> List[bool]:
    bits = int.from_bytes(reader.take((count + 7) // 8), "little")
    if bits >> count:
        raise ProtocolError("bits behind the last element of an array are set")
    # A number's digits in one go: to shift it once per element would take time quadratic in count.
    return [digit == "1" for digit in reversed(format(bits, "0%db" % count))] if count else []


def _read_array(reader: Reader, element: Type, result: bool, depth: int) -> Array:
    kind = element.kind
    is_row = kind in (COMPOSITE, RECORD)
    dimensions, flags, reserved = reader.u8(), reader.u8(), reader.u16()
    if reserved != 0:
        raise ProtocolError("reserved bits of an array are set")
    if dimensions > MAX_DIMENSIONS:
        raise ProtocolError("array has too many dimensions")
    if flags & ~(ARRAY_HAS_NULLS | ARRAY_TEXT_ELEMENTS):
        raise ProtocolError("unknown flags of an array")
    text = bool(flags & ARRAY_TEXT_ELEMENTS)
    if text and (is_row or not result):
        raise ProtocolError("form is not allowed here")
    lengths, bounds, count = _read_dimensions(reader, dimensions)
    nulls: Sequence[bool] = ()
    if flags & ARRAY_HAS_NULLS:
        nulls = _read_bitmap(reader, count)
    letter = None if text else FIXED.get(kind)
    items: List[Value]
    if letter is not None:
        reader.padding()
        items = _read_fixed(reader, letter, count)
        if flags & ARRAY_HAS_NULLS:
            items = [None if null else item for null, item in zip(nulls, items)]
        if kind == BOOL:
            items = _truths(items)
    else:
        # Refused before anything is allocated for what can't be there.
        present = nulls.count(False) if nulls else count
        if present * (1 if is_row else 4) > reader.end - reader.offset:
            raise ProtocolError("message ends within an array")
        stored = Type(TEXT) if text else element
        read = _read_row if is_row else _read_element
        items = [None if null else read(reader, stored, result, depth) for null in nulls or [False] * count]
    return Array(tuple(lengths), tuple(bounds), items, text)


def _read_element(reader: Reader, element: Type, _result: bool, _depth: int) -> Value:
    return _read_variable(reader, element.kind)


def _read_row(reader: Reader, element: Type, result: bool, depth: int) -> Value:
    if reader.peek() == FORM_NULL:
        raise ProtocolError("form is not allowed here")
    return read_value(reader, element, result, depth)


def write_value(out: bytearray, declared: Type, value: Value) -> None:
    """Append a value of a declared type. `out` must begin at the payload's first byte."""
    if value is None:
        out.append(FORM_NULL)
    elif isinstance(value, Absent):
        out.append(FORM_ABSENT)
    elif isinstance(value, TextForm):
        out.append(FORM_TEXT)
        _write_str(out, value)
    else:
        out.append(FORM_BINARY)
        if isinstance(value, Array):
            if declared.element is None:
                raise ValueError("not a type of arrays")
            _write_array(out, declared.element, value)
        elif isinstance(value, Row):
            write_values(out, declared, value.values)
        elif isinstance(value, Record):
            write_type(out, value.type)
            write_values(out, value.type, value.values)
        elif declared.kind in FIXED:
            out += struct.pack("<" + FIXED[declared.kind], value)
        elif isinstance(value, (str, bytes)):
            _write_str(out, value)
        else:
            raise ValueError("value does not fit its type")


def write_values(out: bytearray, declared: Type, values: Sequence[Value]) -> None:
    """Append a value per field of a COMPOSITE."""
    if len(values) != len(declared.fields):
        raise ValueError("row does not fit its type")
    for (_, field), value in zip(declared.fields, values):
        write_value(out, field, value)


def _write_array(out: bytearray, element: Type, array: Array) -> None:
    kind, items = element.kind, array.items
    has_nulls = None in items
    out.append(len(array.lengths))
    out.append((ARRAY_HAS_NULLS if has_nulls else 0) | (ARRAY_TEXT_ELEMENTS if array.text else 0))
    out += b"\0\0"
    for dimension in zip(array.lengths, array.bounds):
        out += _DIMENSION.pack(*dimension)
    if has_nulls:
        bits = "".join("1" if item is None else "0" for item in reversed(items))
        out += int(bits, 2).to_bytes((len(items) + 7) // 8, "little")
    letter = None if array.text else FIXED.get(kind)
    if letter is not None:
        out += bytes(-len(out) % 8)
        fixed = [0 if item is None else item for item in items] if has_nulls else items
        out += struct.pack("<%d%s" % (len(fixed), letter), *fixed)
        return
    for item in items:
        if item is not None and kind in (COMPOSITE, RECORD):
            write_value(out, element, item)
        elif isinstance(item, (str, bytes)):
            _write_str(out, item)
        elif item is not None:
            raise ValueError("element does not fit its type")


# --- messages of the data conversation ------------------------------------


def encode_ping(ping: Ping) -> bytes:
    """Encode the backend's Ping."""
    out = bytearray(struct.pack("<IHHQQ", MAGIC, *ping[:4]))
    _write_str(out, ping.software)
    _write_list(out, ping.keywords)
    return bytes(out)


def decode_ping(payload: Buffer) -> Ping:
    """Decode the backend's Ping."""
    reader = Reader(payload)
    _read_magic(reader)
    lowest, highest = reader.u16(), reader.u16()
    if lowest > highest:
        raise ProtocolError("lowest version is above the highest")
    ping = Ping(lowest, highest, reader.u64(), reader.u64(), reader.text(), _read_list(reader))
    reader.finish()
    return ping


def encode_ping_reply(reply: PingReply) -> bytes:
    """Encode the sandbox's answer."""
    out = bytearray(struct.pack("<IHHQQ", MAGIC, reply.version, 0, reply.features, reply.max_frame))
    _write_str(out, reply.software)
    _write_str(out, reply.codec)
    return bytes(out)


def decode_ping_reply(payload: Buffer) -> PingReply:
    """Decode the sandbox's answer."""
    reader = Reader(payload)
    _read_magic(reader)
    version = reader.u16()
    _read_reserved(reader)
    reply = PingReply(version, reader.u64(), reader.u64(), reader.text(), reader.text())
    reader.finish()
    return reply


def encode_call(function_id: int, types: Sequence[Type], values: Sequence[Value]) -> bytes:
    """Encode a CallReq."""
    out = bytearray(struct.pack("<II", function_id, len(values)))
    for declared, value in zip(types, values):
        write_value(out, declared, value)
    return bytes(out)


def decode_call_id(payload: Buffer) -> int:
    """Return the function a CallReq names."""
    return Reader(payload).u32()


def decode_call(payload: Buffer, types: Sequence[Type]) -> List[Value]:
    """Decode the values of a CallReq to a function with these argument types."""
    reader = Reader(payload)
    reader.u32()
    if reader.u32() != len(types):
        raise ProtocolError("call has another number of arguments than its function")
    values = [read_value(reader, declared, False) for declared in types]
    reader.finish()
    return values


def encode_result(declared: Type, value: Value) -> bytes:
    """Encode a Result."""
    out = bytearray()
    write_value(out, declared, value)
    return bytes(out)


def decode_result(payload: Buffer, declared: Type) -> Value:
    """Decode a Result."""
    reader = Reader(payload)
    value = read_value(reader, declared, True)
    reader.finish()
    return value


def encode_fields(fields: Iterable[Tuple[str, str]]) -> bytes:
    """Encode the fields of an Error."""
    out = bytearray()
    for key, value in fields:
        out += key.encode("ascii")
        _write_str(out, value)
    out.append(0)
    return bytes(out)


def _read_fields(reader: Reader) -> Fields:
    fields: Fields = []
    keys = set()
    while True:
        key = reader.u8()
        if key == 0:
            break
        if len(fields) == MAX_FIELDS or key in keys:
            raise ProtocolError("too many fields, or one of them twice")
        keys.add(key)
        fields.append((chr(key), reader.text()))
    values = dict(fields)
    if "M" not in values:
        raise ProtocolError("message text is missing")
    if "C" in values and not is_sqlstate(values["C"]):
        raise ProtocolError("malformed SQLSTATE")
    reader.finish()
    return fields


def decode_fields(payload: Buffer) -> Fields:
    """Decode the fields of an Error."""
    return _read_fields(Reader(payload))


def encode_log(level: int, fields: Iterable[Tuple[str, str]]) -> bytes:
    """Encode a Log."""
    return bytes([level]) + encode_fields(fields)


def decode_log(payload: Buffer) -> Tuple[int, Fields]:
    """Decode a Log to its level and fields."""
    reader = Reader(payload)
    level = reader.u8()
    if not LOG_DEBUG <= level <= LOG_WARNING:
        raise ProtocolError("unknown log level")
    return level, _read_fields(reader)


def encode_register(register: Register) -> bytes:
    """Encode a Register."""
    out = bytearray(struct.pack("<II", register.function_id, register.flags))
    _write_str(out, register.name)
    _write_str(out, register.source)
    out += _U32.pack(len(register.arguments))
    for name, declared in register.arguments:
        _write_str(out, name)
        write_type(out, declared)
    write_type(out, register.result)
    return bytes(out)


def decode_register(payload: Buffer) -> Register:
    """Decode a Register."""
    reader = Reader(payload)
    function_id, flags = reader.u32(), _read_function_flags(reader)
    name, source = reader.text(), _read_source(reader)
    arguments = []
    for _ in range(reader.count(MAX_ARGUMENTS, 5)):
        argument, declared = reader.text(), read_type(reader)
        if declared.kind == VOID:
            raise ProtocolError("argument of type void")
        arguments.append((argument, declared))
    register = Register(function_id, name, source, arguments, read_type(reader), flags)
    reader.finish()
    return register


def _read_function_flags(reader: Reader) -> int:
    flags = reader.u32()
    if flags & ~FUNCTION_FLAGS_KNOWN:
        raise ProtocolError("unknown flags of a function")
    return flags


def _read_source(reader: Reader) -> str:
    raw = reader.raw()
    if len(raw) > MAX_SOURCE:
        raise ProtocolError("source of a function is too long")
    return _text(raw)


def encode_check(flags: int, name: str, source: str) -> bytes:
    """Encode a Check."""
    out = bytearray(_U32.pack(flags))
    _write_str(out, name)
    _write_str(out, source)
    return bytes(out)


def decode_check(payload: Buffer) -> Register:
    """Decode a Check to the function that it would be, without arguments and result."""
    reader = Reader(payload)
    flags = _read_function_flags(reader)
    register = Register(0, reader.text(), _read_source(reader), [], Type(VOID), flags)
    reader.finish()
    return register


def encode_forget(function_id: int) -> bytes:
    """Encode a Forget."""
    return _U32.pack(function_id)


def decode_forget(payload: Buffer) -> int:
    """Decode a Forget to its function id."""
    reader = Reader(payload)
    function_id = reader.u32()
    reader.finish()
    return function_id


def encode_rows(declared: Type, values: Sequence[Value]) -> bytes:
    """Encode a Rows."""
    out = bytearray(_U32.pack(len(values)))
    for value in values:
        write_value(out, declared, value)
    return bytes(out)


def decode_rows(payload: Buffer, declared: Type) -> List[Value]:
    """Decode a Rows."""
    reader = Reader(payload)
    values = [read_value(reader, declared, True) for _ in range(reader.count())]
    reader.finish()
    return values


def encode_credit(rows: int, size: int) -> bytes:
    """Encode a Credit."""
    return _CREDIT.pack(rows, size)


def decode_credit(payload: Buffer) -> Tuple[int, int]:
    """Decode a Credit to rows and bytes."""
    reader = Reader(payload)
    rows, size = reader.u32(), reader.u32()
    reader.finish()
    return rows, size


def encode_modify(declared: Type, changes: Sequence[Tuple[int, Value]]) -> bytes:
    """Encode the Result of a trigger that changes fields of a row."""
    out = bytearray([TRIGGER_MODIFY])
    out += _U32.pack(len(changes))
    for field, value in changes:
        out += _U32.pack(field)
        write_value(out, declared.fields[field][1], value)
    return bytes(out)


def decode_trigger(payload: Buffer, declared: Type) -> Tuple[int, List[Tuple[int, Value]]]:
    """Decode a trigger's Result to its action and the changes of fields."""
    reader = Reader(payload)
    action = reader.u8()
    if action > TRIGGER_MODIFY:
        raise ProtocolError("unknown action of a trigger")
    changes = []
    for _ in range(reader.count(MAX_COLUMNS, 5) if action == TRIGGER_MODIFY else 0):
        field = reader.u32()
        if field >= len(declared.fields):
            raise ProtocolError("trigger changes a field that is not there")
        changes.append((field, read_value(reader, declared.fields[field][1], True)))
    reader.finish()
    return action, changes


class Request(NamedTuple):
    """An SQL: its verb and what that has.

    `text` is a query or the name of a cursor, `number` a limit or a number of rows, `types` are names; values
    are those of a plan's parameters.
    """

    verb: int
    text: str = ""
    number: int = 0
    plan: int = 0
    types: Sequence[str] = ()
    values: Sequence[Value] = ()
    plans: Sequence[int] = ()
    cursors: Sequence[str] = ()


_WITH_TEXT = (SQL_EXECUTE, SQL_PREPARE, SQL_OPEN, SQL_FETCH, SQL_CLOSE)
_WITH_PLAN = (SQL_EXECUTE_PLAN, SQL_OPEN_PLAN)
_WITH_COUNT = (SQL_EXECUTE, SQL_EXECUTE_PLAN, SQL_FETCH)


def encode_request(request: Request, parameters: Sequence[Type] = ()) -> bytes:
    """Encode an SQL; `parameters` are the types of its values."""
    out = bytearray([request.verb])
    if request.verb in _WITH_TEXT:
        _write_str(out, request.text)
    if request.verb in _WITH_PLAN:
        out += _U32.pack(request.plan)
    if request.verb in _WITH_COUNT:
        out += _U64.pack(request.number)
    if request.verb == SQL_PREPARE:
        _write_list(out, request.types)
    if request.verb in _WITH_PLAN:
        out += _U32.pack(len(request.values))
        for declared, value in zip(parameters, request.values):
            write_value(out, declared, value)
    if request.verb == SQL_DISCARD:
        out += struct.pack("<I%dI" % len(request.plans), len(request.plans), *request.plans)
        _write_list(out, request.cursors)
    return bytes(out)


def decode_request(payload: Buffer, parameters: Sequence[Type] = ()) -> Request:
    """Decode an SQL; `parameters` are the types of its plan's values."""
    reader = Reader(payload)
    verb = reader.u8()
    if not SQL_EXECUTE <= verb <= SQL_DISCARD:
        raise ProtocolError("unknown verb of an SQL")
    request = Request(
        verb,
        text=reader.text() if verb in _WITH_TEXT else "",
        plan=reader.u32() if verb in _WITH_PLAN else 0,
        number=reader.u64() if verb in _WITH_COUNT else 0,
        types=_read_list(reader) if verb == SQL_PREPARE else (),
        values=_read_parameters(reader, parameters) if verb in _WITH_PLAN else (),
        plans=[reader.u32() for _ in range(reader.count(MAX_PLANS, 4))] if verb == SQL_DISCARD else (),
        cursors=_read_list(reader) if verb == SQL_DISCARD else (),
    )
    reader.finish()
    return request


def _read_parameters(reader: Reader, parameters: Sequence[Type]) -> List[Value]:
    if reader.u32() != len(parameters):
        raise ProtocolError("request has another number of values than its plan")
    return [read_value(reader, declared, True) for declared in parameters]


def encode_plan(plan: int, parameters: Sequence[Type]) -> bytes:
    """Encode the answer to an SQL that prepares."""
    out = bytearray(struct.pack("<II", plan, len(parameters)))
    for declared in parameters:
        write_type(out, declared)
    return bytes(out)


def decode_plan(payload: Buffer) -> Tuple[int, List[Type]]:
    """Decode the answer to an SQL that prepares to the plan and the types of its parameters."""
    reader = Reader(payload)
    plan = reader.u32(), [read_type(reader) for _ in range(reader.count())]
    reader.finish()
    return plan


class Column(NamedTuple):
    """A column of a result of SQL: name, how its values travel, type and its modifier."""

    name: str
    type: Type
    oid: int
    typmod: int


def encode_description(columns: Sequence[Column]) -> bytes:
    """Encode the description of a result of SQL."""
    out = bytearray(_U32.pack(len(columns)))
    for column in columns:
        _write_str(out, column.name)
        write_type(out, column.type)
        out += struct.pack("<Ii", column.oid, column.typmod)
    return bytes(out)


def decode_description(description: Buffer) -> List[Column]:
    """Decode the description of a result of SQL."""
    reader = Reader(description)
    columns = []
    for _ in range(reader.count(MAX_COLUMNS, 13)):
        name, declared = reader.text(), read_type(reader)
        if declared.kind == VOID:
            raise ProtocolError("column of type void")
        columns.append(Column(name, declared, reader.u32(), reader.i32()))
    reader.finish()
    return columns


def encode_answer(
    status: int, processed: int, columns: Optional[Sequence[Column]] = None, rows: Sequence[Sequence[Value]] = ()
) -> bytes:
    """Encode an answer to an SQL request that executes or fetches; columns None: there are no rows to return."""
    out = bytearray(struct.pack("<iQ", status, processed))
    _write_str(out, b"" if columns is None else encode_description(columns))
    write_columns(out, columns or (), rows)
    return bytes(out)


class Answer(NamedTuple):
    """An answer to an SQL that executes or fetches; columns None: the statement returns no rows."""

    status: int
    processed: int
    columns: Optional[List[Column]]
    rows: List[List[Value]]


def decode_answer(payload: Buffer) -> Answer:
    """Decode the first answer to an SQL that executes or fetches."""
    reader = Reader(payload)
    status, processed = reader.i32(), reader.u64()
    description = reader.raw()
    columns = decode_description(description) if len(description) else None
    rows = _read_columns(reader, columns or [])
    return Answer(status, processed, columns, rows)


def decode_more(payload: Buffer, columns: Sequence[Column]) -> List[List[Value]]:
    """Decode the rows of an answer that another one has begun."""
    return _read_columns(Reader(payload), columns)


def _read_columns(reader: Reader, columns: Sequence[Column]) -> List[List[Value]]:
    count = reader.count(None if columns else MAX_ELEMENTS, len(columns))
    rows = [[read_value(reader, column.type, False) for column in columns] for _ in range(count)]
    reader.finish()
    return rows


def write_columns(out: bytearray, columns: Sequence[Column], rows: Sequence[Sequence[Value]]) -> None:
    """Append a count of rows and a value per row and column. `out` must begin at the payload's first byte."""
    out += _U32.pack(len(rows))
    for row in rows:
        for column, value in zip(columns, row):
            write_value(out, column.type, value)


# --- messages of the lease conversation -----------------------------------


def encode_lease(lease: Lease) -> bytes:
    """Encode a Lease."""
    out = bytearray(struct.pack("<IHH", MAGIC, lease.version, 0))
    _write_str(out, lease.runtime)
    _write_str(out, lease.role)
    _write_list(out, lease.roles)
    _write_str(out, lease.database)
    return bytes(out)


def decode_lease(payload: Buffer) -> Lease:
    """Decode a Lease."""
    reader = Reader(payload)
    version = _read_version(reader)
    lease = Lease(version, reader.text(), reader.text(), _read_list(reader), reader.text())
    reader.finish()
    return lease


def encode_strings(*values: str) -> bytes:
    """Encode a Grant (sandbox, token) or a Reclaimed (sandbox)."""
    out = bytearray()
    for value in values:
        _write_str(out, value)
    return bytes(out)


def decode_strings(payload: Buffer, count: int) -> List[str]:
    """Decode a Grant (2) or a Reclaimed (1)."""
    reader = Reader(payload)
    values = [reader.text() for _ in range(count)]
    reader.finish()
    return values


def encode_reclaim(version: int, token: str) -> bytes:
    """Encode a Reclaim."""
    out = bytearray(struct.pack("<IHH", MAGIC, version, 0))
    _write_str(out, token)
    return bytes(out)


def decode_reclaim(payload: Buffer) -> Tuple[int, str]:
    """Decode a Reclaim to version and token."""
    reader = Reader(payload)
    reclaim = _read_version(reader), reader.text()
    reader.finish()
    return reclaim


def encode_exited(exited: Exited) -> bytes:
    """Encode an Exited."""
    return encode_strings(*exited)


def decode_exited(payload: Buffer) -> Exited:
    """Decode an Exited."""
    exited = Exited(*decode_strings(payload, 3))
    if not is_sqlstate(exited.sqlstate):
        raise ProtocolError("malformed SQLSTATE")
    return exited


def _write_list(out: bytearray, values: Sequence[str]) -> None:
    out += _U32.pack(len(values))
    for value in values:
        _write_str(out, value)


def _read_list(reader: Reader) -> List[str]:
    return [reader.text() for _ in range(reader.count(smallest=4))]


def _read_magic(reader: Reader) -> None:
    if reader.u32() != MAGIC:
        raise ProtocolError("peer does not speak this protocol")


def _read_reserved(reader: Reader) -> None:
    if reader.u16() != 0:
        raise ProtocolError("reserved bits of a message are set")


def _read_version(reader: Reader) -> int:
    _read_magic(reader)
    version = reader.u16()
    _read_reserved(reader)
    return version
