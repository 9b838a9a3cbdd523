"""The exceptions of `plpy`: Error, Fatal, SPIError, and a class for each of PostgreSQL's conditions."""

from __future__ import annotations

import types
from typing import Dict, Optional, Tuple, Type

from . import codec
from .conditions import CONDITIONS

# The fields of an Error and the attributes that hold them.
ATTRIBUTES = {
    "D": "detail",
    "H": "hint",
    "q": "query",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "datatype_name",
    "n": "constraint_name",
}

_Text = Optional[str]
_SpiData = Tuple[int, _Text, _Text, _Text, int, _Text, _Text, _Text, _Text, _Text]


class _Details:
    """What an error of the database says besides its message."""

    sqlstate: _Text = None
    detail: _Text = None
    hint: _Text = None
    query: _Text = None
    schema_name: _Text = None
    table_name: _Text = None
    column_name: _Text = None
    datatype_name: _Text = None
    constraint_name: _Text = None


class Error(_Details, Exception):
    """An error that a function raises."""

    __module__ = "plpy"


class Fatal(_Details, Exception):  # noqa: N818 - PL/Python's name
    """An error that would end a session; a sandbox's word is not taken for that."""

    __module__ = "plpy"


class SPIError(_Details, Exception):
    """An error of a query: sqlstate, detail, hint, query, position in it, and the names of what it is about."""

    __module__ = "plpy"
    position: Optional[int] = None

    @property
    def spidata(self) -> _SpiData:
        """The attributes as one tuple, PL/Python's older form of them: the first is the SQLSTATE as a number."""
        return (
            _pack(self.sqlstate),
            self.detail,
            self.hint,
            self.query,
            self.position or 0,
            self.schema_name,
            self.table_name,
            self.column_name,
            self.datatype_name,
            self.constraint_name,
        )

    @spidata.setter
    def spidata(self, data: _SpiData) -> None:
        state, self.detail, self.hint, self.query, position, *names = data
        self.schema_name, self.table_name, self.column_name, self.datatype_name, self.constraint_name = names
        self.sqlstate, self.position = _unpack(state), position or None


def _pack(sqlstate: object) -> int:
    """Return a SQLSTATE as PostgreSQL's MAKE_SQLSTATE does: six bits a character, the first lowest."""
    if not isinstance(sqlstate, str) or not codec.is_sqlstate(sqlstate):
        return 0
    return sum((ord(character) - 48) << (6 * i) for i, character in enumerate(sqlstate))


def _unpack(number: int) -> _Text:
    text = "".join(chr((number >> (6 * i) & 0x3F) + 48) for i in range(5))
    return text if number and codec.is_sqlstate(text) else None


def _make_classes() -> Dict[str, Type[SPIError]]:
    attributes = {"__module__": "spiexceptions"}
    return {
        state: type(name, (SPIError,), {**attributes, "sqlstate": state, "__doc__": "SQLSTATE %s." % state})
        for state, name in CONDITIONS.items()
    }


_classes = _make_classes()

# Where two conditions have one name, the name is that of the later one, as in PL/Python.
module = types.ModuleType("spiexceptions", "An exception for each condition of PostgreSQL.")
module.__dict__.update((kind.__name__, kind) for kind in _classes.values())


def make(sqlstate: _Text, message: str) -> SPIError:
    """Return the exception of a SQLSTATE; a SPIError where it has no class of its own."""
    error = _classes.get(sqlstate or "", SPIError)(message)
    if sqlstate is not None:
        error.sqlstate = sqlstate
    return error


def from_payload(payload: bytes) -> SPIError:
    """Return the exception for the fields of an Error that the backend sent."""
    fields = dict(codec.decode_fields(payload))
    error = make(fields.get("C"), fields["M"])
    for key, name in ATTRIBUTES.items():
        if key in fields:
            setattr(error, name, fields[key])
    position = fields.get("p", "")
    if position.isdecimal():
        error.position = int(position)
    return error
