"""The `plpy` that functions see: logging and quoting as in PL/Python.

It is also what `import plpy` gives in modules that functions use.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Callable, Dict, FrozenSet, List, NoReturn, Optional, Tuple

from . import codec

_ATTRIBUTES = (
    "detail",
    "hint",
    "query",
    "schema_name",
    "table_name",
    "column_name",
    "datatype_name",
    "constraint_name",
)
_FIELD_KEYS = {
    "message": "M",
    "detail": "D",
    "hint": "H",
    "sqlstate": "C",
    "schema_name": "s",
    "table_name": "t",
    "column_name": "c",
    "datatype_name": "d",
    "constraint_name": "n",
}
_PLAIN_START = frozenset("abcdefghijklmnopqrstuvwxyz_")
_PLAIN = _PLAIN_START | frozenset("0123456789")


class _Session:
    """Set by the runtime: how a Log frame leaves, and the key words that the database quotes."""

    emit: Optional[Callable[[int, codec.Fields], None]] = None
    keywords: FrozenSet[str] = frozenset()


class Error(Exception):
    """An error that a function raises."""

    __module__ = "plpy"


class Fatal(Exception):  # noqa: N818 - PL/Python's name
    """An error that would end a session; a sandbox's word is not taken for that."""

    __module__ = "plpy"


class SPIError(Exception):
    """An error of a query."""

    __module__ = "plpy"


spiexceptions = types.ModuleType("plpy.spiexceptions", "A class for each SQLSTATE.")


def debug(*args: object, **kwargs: object) -> None:
    """Log at DEBUG2."""
    _log(codec.LOG_DEBUG, args, kwargs)


def log(*args: object, **kwargs: object) -> None:
    """Log at LOG."""
    _log(codec.LOG_LOG, args, kwargs)


def info(*args: object, **kwargs: object) -> None:
    """Log at INFO."""
    _log(codec.LOG_INFO, args, kwargs)


def notice(*args: object, **kwargs: object) -> None:
    """Log at NOTICE."""
    _log(codec.LOG_NOTICE, args, kwargs)


def warning(*args: object, **kwargs: object) -> None:
    """Log at WARNING."""
    _log(codec.LOG_WARNING, args, kwargs)


def error(*args: object, **kwargs: object) -> NoReturn:
    """Raise plpy.Error."""
    _raise(Error, args, kwargs)


def fatal(*args: object, **kwargs: object) -> NoReturn:
    """Raise plpy.Fatal."""
    _raise(Fatal, args, kwargs)


def _fields(args: Tuple[object, ...], kwargs: Dict[str, Any]) -> Dict[str, str]:
    """Return the fields of a message by the names of plpy's keyword arguments."""
    try:
        # A single argument is not shown as a tuple.
        fields = {"message": str(args[0] if len(args) == 1 else args)}
    except Exception as cause:
        raise _with_details(Error("could not parse error message in plpy.elog"), {}) from cause
    for name, value in kwargs.items():
        if name not in _FIELD_KEYS:
            raise TypeError("'%s' is an invalid keyword argument for this function" % name)
        if name == "message" and args:
            raise TypeError("argument 'message' given by name and position")
        fields[name] = str(value)
    if "sqlstate" in fields and not codec.is_sqlstate(fields["sqlstate"]):
        raise ValueError("invalid SQLSTATE code")
    return fields


def _log(level: int, args: Tuple[object, ...], kwargs: Dict[str, Any]) -> None:
    fields = _fields(args, kwargs)
    keyed = [(_FIELD_KEYS[name], value) for name, value in fields.items()]
    if _Session.emit is None:
        print(fields["message"], file=sys.stderr)
    else:
        _Session.emit(level, keyed)


def _with_details(raised: Exception, fields: Dict[str, str]) -> Exception:
    raised.sqlstate = fields.get("sqlstate", "XX000")  # type: ignore[attr-defined]
    for name in _ATTRIBUTES:
        setattr(raised, name, fields.get(name))
    return raised


def _raise(kind: Callable[[str], Exception], args: Tuple[object, ...], kwargs: Any) -> NoReturn:
    fields = _fields(args, kwargs)
    raise _with_details(kind(fields["message"]), fields)


def _checked(name: str, value: object, expected: str) -> str:
    if not isinstance(value, str):
        given = type(value).__name__ if value is not None else "None"
        raise TypeError("%s() argument 1 must be %s, not %s" % (name, expected, given))
    if "\0" in value:
        raise ValueError("embedded null character")
    return value


def _quote(value: str) -> str:
    quoted = "'" + value.replace("'", "''").replace("\\", "\\\\") + "'"
    return "E" + quoted if "\\" in value else quoted


def quote_literal(value: str, /) -> str:
    """Quote a string as a literal."""
    return _quote(_checked("quote_literal", value, "str"))


def quote_nullable(value: Optional[str], /) -> str:
    """Quote a string as a literal; None gives NULL."""
    return "NULL" if value is None else _quote(_checked("quote_nullable", value, "str or None"))


def quote_ident(value: str, /) -> str:
    """Quote a string as an identifier where it needs quotes."""
    name = _checked("quote_ident", value, "str")
    if name[:1] in _PLAIN_START and _PLAIN.issuperset(name) and name not in _Session.keywords:
        return name
    return '"' + name.replace('"', '""') + '"'


def _unsupported(name: str) -> Callable[..., NoReturn]:
    def function(*_args: object, **_kwargs: object) -> NoReturn:
        raise _with_details(Error("plpy.%s is not supported yet" % name), {"sqlstate": "0A000"})

    function.__name__ = function.__qualname__ = name
    return function


execute = _unsupported("execute")
prepare = _unsupported("prepare")
cursor = _unsupported("cursor")
subtransaction = _unsupported("subtransaction")
commit = _unsupported("commit")
rollback = _unsupported("rollback")


def _connect(emit: Callable[[int, codec.Fields], None]) -> None:
    """Make this the module `plpy`, whose logs go to `emit`."""
    _Session.emit = emit
    sys.modules["plpy"] = sys.modules[__name__]
    sys.modules["plpy.spiexceptions"] = spiexceptions


def _set_keywords(keywords: List[str]) -> None:
    _Session.keywords = frozenset(keywords)
