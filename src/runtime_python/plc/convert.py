"""What wire values are to a Python function, and back, as PL/Python has it.

`_plc_arguments.c` and `_plc_results.c` do the same without the wire values between; the tests run over both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from . import codec
from .codec import ABSENT, Array, ProtocolError, Record, Row, Scalar, TextForm, Type, Value

# What integers of a kind are at least and below
_RANGES = {
    codec.INT2: (-(1 << 15), 1 << 15),
    codec.INT4: (-(1 << 31), 1 << 31),
    codec.INT8: (-(1 << 63), 1 << 63),
    codec.OID: (0, 1 << 32),
}
# Integers up to this size are exact in a floating point number.
_EXACT = {codec.FLOAT4: 1 << 24, codec.FLOAT8: 1 << 53}
_SPECIAL_NUMERICS = ("NaN", "Infinity", "-Infinity")
# What C calls white space
_SPACE = " \t\n\v\f\r"
_PLAIN_NUMERIC = frozenset("0123456789.-")

BYTES_FAILED = 0
TEXT_FAILED = 1
ENCODING_FAILED = 2
NULL_BYTES = 3
NOT_A_SEQUENCE = 4
NO_LENGTH = 5
RAGGED = 6
TOO_DEEP = 7
TOO_MANY = 8
NOT_VOID = 9
TOO_LARGE = 10
KEY_MISSING = 11
LENGTH_DIFFERS = 12
ATTRIBUTE_MISSING = 13
ATTRIBUTE_OF_ELEMENT_MISSING = 14
MALFORMED_RECORD = 15
NOT_ITERABLE = 16
ITERATION_FAILED = 17
PROCEDURE_NOT_VOID = 18
ELEMENT_FAILED = 19

_USE_TUPLES = (
    "To return a composite type in an array, return the composite type as a Python tuple, e.g., \"[('foo',)]\"."
)


class _Reason(NamedTuple):
    """The fields of a ConversionError; `%s` in a message is its argument."""

    sqlstate: str
    message: str
    detail: Optional[str] = None
    hint: Optional[str] = None
    context: Optional[str] = "while creating return value"


_REASONS = {
    BYTES_FAILED: _Reason("38000", "could not create bytes representation of Python object"),
    TEXT_FAILED: _Reason("38000", "could not create string representation of Python object"),
    ENCODING_FAILED: _Reason("38000", "could not convert Python Unicode object to bytes"),
    NULL_BYTES: _Reason(
        "42804",
        "could not convert Python object into cstring: Python string representation appears to contain null bytes",
    ),
    NOT_A_SEQUENCE: _Reason("42804", "return value of function with array return type is not a Python sequence"),
    NO_LENGTH: _Reason("38000", "could not determine sequence length for function return value"),
    RAGGED: _Reason("22P02", "multidimensional arrays must have array expressions with matching dimensions"),
    TOO_DEEP: _Reason("54000", "number of array dimensions exceeds the maximum allowed (%d)" % codec.MAX_DIMENSIONS),
    TOO_MANY: _Reason("54000", "array size exceeds the maximum allowed (%d)" % codec.MAX_ELEMENTS),
    NOT_VOID: _Reason("42804", 'PL/Container function with return type "void" did not return None'),
    TOO_LARGE: _Reason("54000", "result of function is too large for a message"),
    KEY_MISSING: _Reason(
        "42703",
        'key "%s" not found in mapping',
        hint="To return null in a column, add the value None to the mapping with the key named after the column.",
    ),
    LENGTH_DIFFERS: _Reason("42804", "length of returned sequence did not match number of columns in row"),
    ATTRIBUTE_MISSING: _Reason(
        "42703",
        'attribute "%s" does not exist in Python object',
        hint=(
            "To return null in a column, let the returned object have an attribute named after column with value None."
        ),
    ),
    ATTRIBUTE_OF_ELEMENT_MISSING: _Reason("42703", 'attribute "%s" does not exist in Python object', hint=_USE_TUPLES),
    MALFORMED_RECORD: _Reason(
        "22P02", 'malformed record literal: "%s"', detail="Missing left parenthesis.", hint=_USE_TUPLES
    ),
    NOT_ITERABLE: _Reason(
        "42804",
        "returned object cannot be iterated",
        detail="PL/Container set-returning functions must return an iterable object.",
        context=None,
    ),
    ITERATION_FAILED: _Reason("38000", "error fetching next item from iterator", context=None),
    PROCEDURE_NOT_VOID: _Reason("42804", "PL/Container procedure did not return None", context=None),
    ELEMENT_FAILED: _Reason("38000", "could not get element %s from sequence"),
}


class ConversionError(Exception):
    """An object is not what it is declared to be.

    `context` says what the object was needed for; the cause, where there is one, makes the detail.
    """

    def __init__(
        self,
        sqlstate: str,
        message: str,
        detail: Optional[str] = None,
        hint: Optional[str] = None,
        context: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.context = context


def fail(reason: int, cause: Optional[BaseException] = None, argument: str = "") -> NoReturn:
    """Raise the ConversionError of a reason; a cause that is no error of the object goes on itself."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause
    fields = _REASONS[reason]
    message = fields.message % argument if "%s" in fields.message else fields.message
    raise ConversionError(fields.sqlstate, message, *fields[2:]) from cause


# --- from the wire --------------------------------------------------------


def to_python(declared: Type, value: Value, numpy: bool = False) -> Any:
    """Return what a function sees of a value: arrays are lists (or numpy arrays), numerics Decimals, rows dicts."""
    if isinstance(value, Array):
        return _to_array(declared.element or declared, value, numpy)
    if isinstance(value, Row):
        return _to_dict(declared, value.values, numpy)
    if isinstance(value, Record):
        return _to_dict(value.type, value.values, numpy)
    if declared.kind == codec.NUMERIC and value is not None:
        return decimal(value)
    return value


def _to_dict(declared: Type, values: Sequence[Value], numpy: bool) -> Dict[str, Any]:
    return {
        name: to_python(inner, value, numpy)
        for (name, inner), value in zip(declared.fields, values)
        if value is not ABSENT
    }


def _to_array(element: Type, array: Array, numpy: bool) -> Any:
    if numpy and element.kind in _NUMPY_TYPES:
        nulls = "".join("1" if item is None else "0" for item in reversed(array.items)) if None in array.items else ""
        layout = "<%d%s" % (len(array.items), codec.FIXED[element.kind])
        data = struct.pack(layout, *(0 if item is None else item for item in array.items))
        bitmap = int(nulls, 2).to_bytes((len(nulls) + 7) // 8, "little") if nulls else None
        return numpy_array(bytearray(data), 0, element.kind, array.lengths or (0,), bitmap)
    items: List[Any] = list(array.items)
    if element.kind in (codec.NUMERIC, codec.COMPOSITE, codec.RECORD):
        items = [to_python(element, item, numpy) for item in items]
    for length in reversed(array.lengths[1:]):
        items = [items[i : i + length] for i in range(0, len(items), length)]
    return items


# The numpy types of the kinds whose arrays may be numpy's
_NUMPY_TYPES = {
    codec.BOOL: "?",
    codec.INT2: "<i2",
    codec.INT4: "<i4",
    codec.INT8: "<i8",
    codec.FLOAT4: "<f4",
    codec.FLOAT8: "<f8",
    codec.OID: "<u4",
}


def numpy_array(data: bytearray, offset: int, kind: int, lengths: Tuple[int, ...], nulls: Optional[bytes]) -> Any:
    """Return a numpy array whose elements lie in `data` at `offset`; a masked one where `nulls` is their bitmap."""
    import numpy

    count = 1
    for length in lengths:
        count *= length
    elements = (
        numpy.frombuffer(data, _NUMPY_TYPES[kind], count, offset) if count else numpy.empty(0, _NUMPY_TYPES[kind])
    )
    array = elements.reshape(lengths)
    if nulls is None:
        return array
    mask = numpy.unpackbits(numpy.frombuffer(nulls, numpy.uint8), count=count, bitorder="little")
    return numpy.ma.masked_array(array, mask=mask.astype(bool).reshape(lengths))


def decimal(text: object) -> Decimal:
    """Return the Decimal of a NUMERIC's text."""
    try:
        return Decimal(str(text))
    except InvalidOperation as error:
        raise ProtocolError("malformed numeric") from error


def filled(array: Any) -> Tuple[Any, Any]:
    """Return a masked array's elements, 0 where they are masked, and its mask, whose bytes are 1 there."""
    import numpy

    return numpy.ma.filled(array, 0), numpy.ascontiguousarray(numpy.ma.getmaskarray(array))


# --- to the wire ----------------------------------------------------------


def from_python(declared: Type, result: object, in_array: bool = False) -> Value:
    """Return the wire value of an object; `in_array`: it is an element of an array."""
    if result is None:
        return None
    if declared.kind == codec.VOID:
        fail(NOT_VOID)
    if declared.kind == codec.ARRAY and declared.element is not None:
        return _array(declared.element, result)
    if declared.kind == codec.COMPOSITE:
        return _composite(declared, result, in_array)
    value = None if declared.kind == codec.RECORD else _exact(declared.kind, result)
    return TextForm(_string(result)) if value is None else value


def _composite(declared: Type, result: Any, in_array: bool) -> Value:
    if isinstance(result, str):
        text = _string(result)
        # The database would say so as well, but not what most likely is the reason.
        if in_array and not text.lstrip(_SPACE).startswith("("):
            fail(MALFORMED_RECORD, None, text)
        return TextForm(text)
    if isinstance(result, Mapping):
        return Row([from_python(inner, _value(result, name)) for name, inner in declared.fields])
    if hasattr(type(result), "__getitem__"):
        _check_length(declared, result)
        return Row([from_python(inner, result[i]) for i, (_, inner) in enumerate(declared.fields)])
    reason = ATTRIBUTE_OF_ELEMENT_MISSING if in_array else ATTRIBUTE_MISSING
    return Row([from_python(inner, _attribute(result, name, reason)) for name, inner in declared.fields])


def _check_length(declared: Type, sequence: Any) -> None:
    try:
        length = len(sequence)
    except Exception as error:
        fail(LENGTH_DIFFERS, error)
    if length != len(declared.fields):
        fail(LENGTH_DIFFERS)


def _value(mapping: Any, name: str) -> Any:
    try:
        return mapping[name]
    except KeyError:
        fail(KEY_MISSING, None, name)
    except Exception as error:
        fail(KEY_MISSING, error, name)


def _attribute(value: Any, name: str, reason: int) -> Any:
    try:
        return getattr(value, name)
    except AttributeError:
        fail(reason, None, name)
    except Exception as error:
        fail(reason, error, name)


def _exact(kind: int, value: Any) -> Scalar:
    """Return what travels in form BINARY, None for what only has a text form."""
    if kind == codec.BOOL:
        return bool(value)
    if kind in _RANGES:
        least, beyond = _RANGES[kind]
        return int(value) if type(value) is int and least <= value < beyond else None
    if kind in _EXACT:
        return _exact_float(kind, value)
    if kind == codec.BYTEA:
        return _bytes(value)
    if kind == codec.NUMERIC:
        return _exact_numeric(value)
    return _string(value)


def _exact_float(kind: int, value: Any) -> Optional[float]:
    if isinstance(value, float):
        if kind == codec.FLOAT8:
            return value
        try:
            (narrow,) = struct.unpack("<f", struct.pack("<f", value))
        except OverflowError:
            return None
        # The database calls a number too small for its type an error.
        return None if narrow == 0 and value != 0 else float(narrow)
    if type(value) is int and -_EXACT[kind] <= value <= _EXACT[kind]:
        return float(value)
    return None


def _exact_numeric(value: Any) -> Optional[str]:
    if type(value) is int:
        return _string(value)
    if type(value) is not Decimal:
        return None
    text = str(value)
    return text if text in _SPECIAL_NUMERICS or _PLAIN_NUMERIC.issuperset(text) else None


def _string(value: Any) -> str:
    """Return the text of any object as PL/Python makes it: a subclass of str is its own text."""
    if isinstance(value, str):
        value = str.__str__(value)
    try:
        text = float.__repr__(value) if isinstance(value, float) else str(value)
    except Exception as error:
        fail(TEXT_FAILED, error)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fail(ENCODING_FAILED, error)
    if "\0" in text:
        fail(NULL_BYTES)
    return text


def _bytes(value: Any) -> bytes:
    """Return PyObject_Bytes of an object: bytes() would make zeroes of an integer."""
    if type(value) is bytes:
        return value
    try:
        if hasattr(type(value), "__bytes__"):
            return bytes(value)
        try:
            return memoryview(value).tobytes()
        except TypeError:
            if isinstance(value, str) or hasattr(type(value), "__index__"):
                name = type(value).__name__
                raise TypeError("cannot convert '%s' object to bytes" % name) from None
            return bytes(value)
    except Exception as error:
        fail(BYTES_FAILED, error)


# --- arrays ---------------------------------------------------------------


def _sequence(value: Any) -> Sequence[Any]:
    """Return the list of an array result's items."""
    if type(value) in (list, tuple):
        return value  # type: ignore[no-any-return]
    try:
        if hasattr(value, "tolist"):
            value = value.tolist()
    except Exception as error:
        fail(NO_LENGTH, error)
    if isinstance(value, dict) or not hasattr(type(value), "__getitem__"):
        fail(NOT_A_SEQUENCE)
    try:
        length = len(value)
    except Exception as error:
        fail(NO_LENGTH, error)
    return [_element(value, i) for i in range(length)]


def _element(sequence: Any, i: int) -> Any:
    try:
        return sequence[i]
    except Exception as error:
        fail(ELEMENT_FAILED, error, str(i))


class _Flattener:
    """Collects the elements of nested lists; only true lists are dimensions, as in PL/Python."""

    def __init__(self, outermost: Sequence[Any]) -> None:
        self.lengths = [len(outermost)]
        self.items: List[Any] = []
        self.walk(outermost, 1)

    def walk(self, sequence: Sequence[Any], depth: int) -> None:
        for i, item in enumerate(sequence):
            if not isinstance(item, list):
                if len(self.lengths) != depth:
                    fail(RAGGED)
                self.items.append(item)
                continue
            if i == 0 and len(self.lengths) == depth:
                if self.items:
                    fail(RAGGED)
                if depth >= codec.MAX_DIMENSIONS:
                    fail(TOO_DEEP)
                self.lengths.append(len(item))
            elif depth >= len(self.lengths) or len(item) != self.lengths[depth]:
                fail(RAGGED)
            self.walk(item, depth + 1)


def _array(element: Type, result: Any) -> Array:
    kind = element.kind
    sequence = _sequence(result)
    lengths: Tuple[int, ...] = (len(sequence),)
    if any(isinstance(item, list) for item in sequence):
        nested = _Flattener(sequence)
        sequence, lengths = nested.items, tuple(nested.lengths)
    if not sequence:
        return Array((), (), ())
    if len(sequence) > codec.MAX_ELEMENTS:
        fail(TOO_MANY)
    items: List[Value]
    if kind in (codec.COMPOSITE, codec.RECORD):
        items = [from_python(element, item, True) for item in sequence]
        return Array(lengths, (1,) * len(lengths), items)
    items = [None if item is None else _exact(kind, item) for item in sequence]
    if items.count(None) == sum(item is None for item in sequence):
        return Array(lengths, (1,) * len(lengths), items)
    texts = [None if item is None else _string(item) for item in sequence]
    return Array(lengths, (1,) * len(lengths), texts, True)


# --- results of queries ---------------------------------------------------


class Shape:
    """The columns of a query's result: their names, the OIDs of their types, the types' modifiers.

    `handle` is the loop's own.
    """

    __slots__ = ("columns", "handle", "names", "types", "typmods")

    def __init__(self, description: bytes) -> None:
        self.columns = codec.decode_description(description)
        self.names = tuple(column.name for column in self.columns)
        self.types = tuple(column.oid for column in self.columns)
        self.typmods = tuple(column.typmod for column in self.columns)
        self.handle: object = None
