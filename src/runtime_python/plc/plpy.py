"""The `plpy` that functions see, as PL/Python has it: queries, logging, quoting.

It is also what `import plpy` gives in modules that functions use.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, FrozenSet, List, NoReturn, Optional, Sequence, Tuple, Type, Union

from . import codec
from . import spi as _spi
from . import spiexceptions as _spiexceptions
from .spiexceptions import Error, Fatal, SPIError

__all__ = [
    "Error",
    "Fatal",
    "SPIError",
    "commit",
    "cursor",
    "debug",
    "error",
    "execute",
    "fatal",
    "info",
    "log",
    "notice",
    "prepare",
    "quote_ident",
    "quote_literal",
    "quote_nullable",
    "rollback",
    "spiexceptions",
    "subtransaction",
    "warning",
]
_THIS = sys.modules[__name__]
# What functions see in messages.
__name__ = "plpy"

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


spiexceptions = _spiexceptions.module


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
        raised = Error("could not parse error message in plpy.elog")
        raised.sqlstate = "XX000"
        raise raised from cause
    for name, value in kwargs.items():
        if name not in _FIELD_KEYS:
            raise TypeError("'%s' is an invalid keyword argument for this function" % name)
        if name == "message" and args:
            raise TypeError("argument 'message' given by name and position")
        if value is not None or name == "message":
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


def _raise(kind: Union[Type[Error], Type[Fatal]], args: Tuple[object, ...], kwargs: Dict[str, Any]) -> NoReturn:
    fields = {"sqlstate": "XX000", **_fields(args, kwargs)}
    raised = kind(fields.pop("message"))
    vars(raised).update(fields)
    raise raised


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


def prepare(query: str, types: Sequence[str] = (), /) -> _spi.PLyPlan:
    """Prepare a query whose parameters $1, $2 ... have these types."""
    return _spi.prepare(_checked("prepare", query, "str"), types)


def execute(
    query: Union[str, _spi.PLyPlan, None] = None, values: Any = _spi.NO_VALUES, limit: Any = None, /
) -> _spi.PLyResult:
    """Execute a query, `execute(query, limit)`, or a plan, `execute(plan, values, limit)`."""
    if isinstance(query, _spi.PLyPlan):
        return query.execute(values, 0 if limit is None else limit)
    if isinstance(query, str) and limit is None:
        if values is _spi.NO_VALUES:
            return _spi.execute(query, 0)
        if hasattr(type(values), "__index__"):
            return _spi.execute(query, values)
    raise Error("plpy.execute expected a query or a plan")


def cursor(query: Union[str, _spi.PLyPlan, None] = None, values: Any = _spi.NO_VALUES, /) -> _spi.PLyCursor:
    """Open a cursor of a query, `cursor(query)`, or of a plan, `cursor(plan, values)`."""
    if isinstance(query, _spi.PLyPlan):
        return query.cursor(values)
    if isinstance(query, str) and values is _spi.NO_VALUES:
        return _spi.open_cursor(query)
    raise Error("plpy.cursor expected a query or a plan")


def subtransaction() -> _spi.PLySubtransaction:
    """Return a context manager: what is executed within it is rolled back when an exception leaves it."""
    return _spi.subtransaction()


def commit() -> None:
    """Commit the transaction; in procedures and DO blocks."""
    _spi.commit()


def rollback() -> None:
    """Roll the transaction back; in procedures and DO blocks."""
    _spi.rollback()


def _connect(emit: Callable[[int, codec.Fields], None], loop: Any) -> None:
    """Make this the module `plpy`, whose logs go to `emit` and whose queries go through `loop`."""
    _Session.emit = emit
    _spi.connect(loop)
    sys.modules["plpy"] = _THIS
    sys.modules["plpy.spiexceptions"] = spiexceptions


def _set_keywords(keywords: List[str]) -> None:
    _Session.keywords = frozenset(keywords)


def _agree(features: int, max_frame: int) -> None:
    _spi.agree(features, max_frame)


def __dir__() -> List[str]:
    return __all__
