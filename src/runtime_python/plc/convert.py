"""What wire values are to a Python function, and back, as PL/Python has it.

`_plc_arguments.c` and `_plc_results.c` do the same without the wire values between; the tests run over both.
"""

from __future__ import annotations

import struct
from decimal import Decimal, InvalidOperation
from typing import Any, List, NoReturn, Optional, Sequence, Tuple

from . import codec
from .codec import Array, ProtocolError, Scalar, TextForm, Type, Value

_RANGES = {codec.INT2: 1 << 15, codec.INT4: 1 << 31, codec.INT8: 1 << 63}
# Integers up to this size are exact in a floating point number.
_EXACT = {codec.FLOAT4: 1 << 24, codec.FLOAT8: 1 << 53}
_SPECIAL_NUMERICS = ("NaN", "Infinity", "-Infinity")
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

_REASONS = {
    BYTES_FAILED: ("38000", "could not create bytes representation of Python object"),
    TEXT_FAILED: ("38000", "could not create string representation of Python object"),
    ENCODING_FAILED: ("38000", "could not convert Python Unicode object to bytes"),
    NULL_BYTES: (
        "42804",
        "could not convert Python object into cstring: Python string representation appears to contain null bytes",
    ),
    NOT_A_SEQUENCE: (
        "42804",
        "return value of function with array return type is not a Python sequence",
    ),
    NO_LENGTH: ("38000", "could not determine sequence length for function return value"),
    RAGGED: (
        "22P02",
        "multidimensional arrays must have array expressions with matching dimensions",
    ),
    TOO_DEEP: (
        "54000",
        "number of array dimensions exceeds the maximum allowed (%d)" % codec.MAX_DIMENSIONS,
    ),
    TOO_MANY: ("54000", "array size exceeds the maximum allowed (%d)" % codec.MAX_ELEMENTS),
    NOT_VOID: ("42804", 'PL/Container function with return type "void" did not return None'),
    TOO_LARGE: ("54000", "result of function is too large for a message"),
}


class ConversionError(Exception):
    """A function's result is not what it declares; `reason` is one of this module's numbers."""

    def __init__(self, reason: int) -> None:
        self.sqlstate, self.message = _REASONS[reason]
        super().__init__(self.message)


def fail(reason: int, cause: Optional[BaseException] = None) -> NoReturn:
    """Raise the ConversionError of a reason; a cause that is no error of the object goes on itself."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause
    raise ConversionError(reason) from cause


# --- from the wire --------------------------------------------------------


def to_python(declared: Type, value: Value) -> Any:
    """Return what a function sees of an argument: arrays are lists, numerics are Decimals."""
    if isinstance(value, Array):
        items: List[Any] = list(value.items)
        if declared.element is not None and declared.element.kind == codec.NUMERIC:
            items = [None if item is None else decimal(item) for item in items]
        for length in reversed(value.lengths[1:]):
            items = [items[i : i + length] for i in range(0, len(items), length)]
        return items
    if declared.kind == codec.NUMERIC and value is not None:
        return decimal(value)
    return value


def decimal(text: Scalar) -> Decimal:
    """Return the Decimal of a NUMERIC's text."""
    try:
        return Decimal(str(text))
    except InvalidOperation as error:
        raise ProtocolError("malformed numeric") from error


# --- to the wire ----------------------------------------------------------


def from_python(declared: Type, result: object) -> Value:
    """Return the wire value of a function's result."""
    if declared.kind == codec.VOID and result is not None:
        fail(NOT_VOID)
    if result is None:
        return None
    if declared.kind == codec.ARRAY and declared.element is not None:
        return _array(declared.element.kind, result)
    value = _exact(declared.kind, result)
    return TextForm(_string(result)) if value is None else value


def _exact(kind: int, value: Any) -> Scalar:
    """Return what travels in form BINARY, None for what only has a text form."""
    if kind == codec.BOOL:
        return bool(value)
    if kind in _RANGES:
        bound = _RANGES[kind]
        return int(value) if type(value) is int and -bound <= value < bound else None
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
        text = repr(value) if isinstance(value, float) else str(value)
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
        return [value[i] for i in range(len(value))]
    except Exception as error:
        fail(NO_LENGTH, error)


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


def _array(kind: int, result: Any) -> Array:
    sequence = _sequence(result)
    lengths: Tuple[int, ...] = (len(sequence),)
    if any(isinstance(item, list) for item in sequence):
        nested = _Flattener(sequence)
        sequence, lengths = nested.items, tuple(nested.lengths)
    if not sequence:
        return Array((), (), ())
    if len(sequence) > codec.MAX_ELEMENTS:
        fail(TOO_MANY)
    items = [None if item is None else _exact(kind, item) for item in sequence]
    if items.count(None) == sum(item is None for item in sequence):
        return Array(lengths, (1,) * len(lengths), items)
    texts = [None if item is None else _string(item) for item in sequence]
    return Array(lengths, (1,) * len(lengths), texts, True)
