"""Turns exceptions into the fields of an Error, worded as PL/Python words them."""

from __future__ import annotations

import itertools
import linecache
import os
from types import CodeType, TracebackType
from typing import Dict, List, NamedTuple, Optional

from .codec import Fields, is_sqlstate
from .convert import ConversionError
from .spiexceptions import ATTRIBUTES, Error, Fatal, SPIError

# Characters of one field: an exception's text must not become a frame that can't be sent.
FIELD_LIMIT = 1 << 18
# Repetitions of a line of a traceback that are shown, as Python's own tracebacks do.
_REPEATED = 3
_BARE_MODULES = ("builtins", "__main__")


class QueryCanceled(BaseException):
    """Interrupts the call that the backend no longer waits for."""


class Source(NamedTuple):
    """A registered function as a traceback shows it; the function of a DO block is None."""

    function: Optional[str]
    entry: CodeType
    lines: List[str]


# by the file name its code was compiled with
sources: Dict[str, Source] = {}


def is_own(code: CodeType) -> bool:
    """Whether code belongs to this runtime."""
    return code.co_filename.startswith(_PACKAGE)


# As code objects spell it, which is what they are compared with.
_PACKAGE = os.path.dirname(is_own.__code__.co_filename) + os.sep


def clean(text: str, limit: int = FIELD_LIMIT) -> str:
    """Return text that is valid UTF-8 without NUL, cut to `limit` characters."""
    if len(text) > limit:
        text = text[:limit] + " [truncated]"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def canceled() -> Fields:
    """Return the fields for a cancelled call."""
    return [("C", "57014"), ("M", "canceling statement due to user request")]


def too_deep() -> Fields:
    """Return the fields for a call within too many others."""
    return [("C", "54001"), ("M", "stack depth limit exceeded")]


def describe(error: BaseException) -> Fields:
    """Return the fields of the Error that ends a call."""
    if isinstance(error, ConversionError):
        return _describe_conversion(error)
    fields = [("C", sqlstate_of(error)), ("M", clean(message_of(error)))]
    if isinstance(error, (Error, Fatal, SPIError)):
        fields += _details(error)
    context = _traceback(error.__traceback__)
    if context:
        fields.append(("W", clean(context)))
    return fields


def _details(error: BaseException) -> Fields:
    """Return the fields of what an error carries as attributes."""
    values = [(key, _attribute(error, name)) for key, name in ATTRIBUTES.items()]
    fields = [(key, clean(_text(value))) for key, value in values if value is not None]
    position = _attribute(error, "position")
    if type(position) is int and position > 0:
        fields.append(("p", str(position)))
    return fields


def _describe_conversion(error: ConversionError) -> Fields:
    cause = error.__cause__
    fields = [("C", error.sqlstate), ("M", clean(error.message))]
    detail, context = error.detail, error.context
    if cause is not None:
        if error.sqlstate == "38000":
            fields[0] = ("C", sqlstate_of(cause))
        detail = message_of(cause)
        context = "\n".join(filter(None, (_traceback(cause.__traceback__), context)))
    for key, text in (("D", detail), ("H", error.hint), ("W", context)):
        if text:
            fields.append((key, clean(text)))
    return fields


def describe_compilation(function: Optional[str], source: str, error: BaseException) -> Fields:
    """Return the fields for a function, or a DO block, whose source does not compile."""
    name = "anonymous PL/Container code block" if function is None else _title(function)
    fields = [
        ("C", "42601" if isinstance(error, SyntaxError) else "38000"),
        ("M", clean("could not compile " + name)),
    ]
    if not isinstance(error, SyntaxError):
        fields.append(("D", clean(message_of(error))))
        return fields
    detail = "%s: %s" % (type(error).__name__, error.msg)
    if error.lineno is not None:
        detail += " (line %d)" % error.lineno
        context = "%s, line %d" % (_title(function), error.lineno)
        line = _line(source.split("\n"), error.lineno)
        fields.append(("W", clean(context + ("\n    " + line if line else ""))))
    fields.insert(2, ("D", clean(detail)))
    return fields


def _title(function: Optional[str]) -> str:
    return "PL/Container anonymous code block" if function is None else 'PL/Container function "%s"' % function


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE that an exception has or gets."""
    state = _attribute(error, "sqlstate")
    # The state of success on an error would say nothing.
    return str(state) if is_sqlstate(state) and state != "00000" else "38000"


def _attribute(error: BaseException, name: str) -> object:
    """Return an attribute of a user's exception, None where it can't be had."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return "unknown"


def message_of(error: BaseException) -> str:
    """Return an exception's class and text as one line of a traceback has them."""
    kind = type(error)
    name = kind.__name__
    if kind.__module__ not in _BARE_MODULES:
        name = "%s.%s" % (kind.__module__, name)
    return "%s: %s" % (name, _text(error))


def _line(lines: List[str], number: int) -> str:
    return lines[number - 1].lstrip() if 0 < number <= len(lines) else ""


def _traceback(trace: Optional[TracebackType]) -> str:
    """Return a traceback without this runtime's own frames, "" when nothing is left."""
    entries: List[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_own(code):
            entries.append(_entry(code, trace.tb_lineno or 0))
        trace = trace.tb_next
    lines = ["Traceback (most recent call last):"] if entries else []
    for entry, group in itertools.groupby(entries):
        count = len(list(group))
        lines += [entry] * min(count, _REPEATED)
        if count > _REPEATED:
            lines.append("  [Previous line repeated %d more times]" % (count - _REPEATED))
    return "\n".join(lines)


def _entry(code: CodeType, number: int) -> str:
    source = sources.get(code.co_filename)
    if source is None:
        entry = '  File "%s", line %d, in %s' % (code.co_filename, number, code.co_name)
        line = linecache.getline(code.co_filename, number).strip()
    else:
        name = "<module>" if code is source.entry else code.co_name
        entry = "  %s, line %d, in %s" % (_title(source.function), number, name)
        line = _line(source.lines, number)
    return entry + "\n    " + line if line else entry
