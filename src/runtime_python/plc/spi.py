"""Queries of functions: what `plpy` has of PL/Python's plans, results, cursors and subtransactions.

A request goes to the backend through the loop, under the id of the call that runs, and is answered by
rows or by an Error, which is raised here as the exception of its SQLSTATE.
"""

from __future__ import annotations

import operator
import struct
from collections import deque
from contextlib import suppress
from typing import Any, Deque, Dict, Iterator, List, NoReturn, Sequence, Union, overload

from . import codec, spiexceptions
from .convert import ConversionError
from .errors import message_of, sqlstate_of
from .spiexceptions import Error, SPIError

Row = Dict[str, Any]

_SPI_OK_FETCH = 3
_SPI_ERROR_ARGUMENT = -6
_SPI_ERRORS = {
    -1: "SPI_ERROR_CONNECT",
    -2: "SPI_ERROR_COPY",
    -3: "SPI_ERROR_OPUNKNOWN",
    -4: "SPI_ERROR_UNCONNECTED",
    -5: "SPI_ERROR_CURSOR",
    -6: "SPI_ERROR_ARGUMENT",
    -7: "SPI_ERROR_PARAM",
    -8: "SPI_ERROR_TRANSACTION",
    -9: "SPI_ERROR_NOATTRIBUTE",
    -10: "SPI_ERROR_NOOUTFUNC",
    -11: "SPI_ERROR_TYPUNKNOWN",
    -12: "SPI_ERROR_REL_DUPLICATE",
    -13: "SPI_ERROR_REL_NOT_FOUND",
}
_NO_CURSOR = "34000"
_NO_STATE = "38000"
_NO_TRANSACTION = "25P01"

# Rows that a cursor asks for while it is iterated: more and more, as long as they come in small batches.
_FIRST_BATCH = 10
_LARGEST_BATCH = 1000
_BATCH_BYTES = 1 << 18

_U32 = struct.Struct("<I")
_VERB_PLAN = struct.Struct("<BI")
_VERB_PLAN_LIMIT = struct.Struct("<BIQ")
_ROWS_HEAD = struct.Struct("<iQI")
_LARGEST_LIMIT = (1 << 63) - 1

_BEGIN = bytes([codec.SUBTRANSACTION_BEGIN])
_COMMIT = bytes([codec.SUBTRANSACTION_COMMIT])
_ROLLBACK = bytes([codec.SUBTRANSACTION_ROLLBACK])

_NOT_OPEN = "there is no subtransaction to exit from"

# Stands for arguments that were not given, which messages show in another way than an empty list.
NO_VALUES: List[object] = []


class _State:
    """What all queries share."""

    # The loop, in C or in Python; the feature bits and the bytes of a payload that the backend agreed to.
    loop: Any = None
    features = 0
    max_frame = codec.MAX_FRAME_HANDSHAKE
    # Counts what may have ended cursors: failed statements, subtransactions and transactions that ended.
    upheavals = 0


# Plans (int) and cursors (str) that nobody refers to any more. A finalizer runs at any time in any thread:
# it leaves them here, for the next request to tell the backend.
_garbage: Deque[Union[int, str]] = deque()


class _Unique:
    """An object that stands for one of the backend's: a copy would end it too early."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle '%s' object" % type(self).__name__)


def connect(loop: Any) -> None:
    """Send requests through this loop."""
    _State.loop = loop


def agree(features: int, max_frame: int) -> None:
    """Note the features that both ends have, and the bytes that a payload may have."""
    _State.features, _State.max_frame = features, max_frame


# --- requests -------------------------------------------------------------


def _require(feature: int, name: str) -> None:
    if not _State.features & feature:
        error = Error("plpy.%s is not supported by this database" % name)
        error.sqlstate = "0A000"
        raise error


def _request(kind: int, payload: bytes) -> List[bytes]:
    """Return the payloads of the backend's answer."""
    if _garbage:
        _discard()
    if len(payload) > _State.max_frame:
        raise spiexceptions.make("54000", "query is too large for a message")
    answered, parts = _State.loop.request(kind, payload)
    if answered == codec.ERROR:
        _State.upheavals += 1
        raise spiexceptions.from_payload(parts[0])
    return parts  # type: ignore[no-any-return]


def _discard() -> None:
    """Tell the backend of plans and cursors that are no longer needed."""
    # Not iterated over: a finalizer may add to it at any moment.
    items = [_garbage.popleft() for _ in range(len(_garbage))]
    plans = [item for item in items if isinstance(item, int)]
    cursors = [item for item in items if isinstance(item, str)]
    payload = struct.pack("<BI%dI" % len(plans), codec.SQL_DISCARD, len(plans), *plans)
    try:
        _State.loop.discard(payload + _strings(cursors))
    except BaseException:
        _garbage.extend(items)
        raise


def _string(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("embedded null character")
    data = text.encode()
    return _U32.pack(len(data)) + data


def _strings(texts: Sequence[str]) -> bytes:
    return _U32.pack(len(texts)) + b"".join(map(_string, texts))


def _limit(value: object, function: str) -> int:
    """Return a limit of rows as it is sent; 0 is none."""
    number = operator.index(value)  # type: ignore[arg-type]
    if number > _LARGEST_LIMIT:
        raise OverflowError("Python int too large to convert to C long")
    if number < 0:
        _refuse_status(function, _SPI_ERROR_ARGUMENT)
    return number


def _refuse_status(function: str, status: int) -> NoReturn:
    raise SPIError("%s failed: %s" % (function, _SPI_ERRORS.get(status, "Unrecognized SPI code %d" % status)))


# --- results --------------------------------------------------------------


class PLyResult:
    """Results of a PostgreSQL query."""

    __module__ = "builtins"
    __slots__ = ("_nrows", "_rows", "_shape", "_status")

    def __init__(self, status: int, nrows: int, rows: List[Row], shape: Any) -> None:
        self._status = status
        self._nrows = nrows
        self._rows = rows
        self._shape = shape

    def nrows(self, *_args: object) -> int:
        """Return the number of rows that the command processed."""
        return self._nrows

    def status(self, *_args: object) -> int:
        """Return SPI's status: 5 is SPI_OK_SELECT."""
        return self._status

    def colnames(self) -> List[str]:
        """Return the names of the columns."""
        return list(self._described().names)

    def coltypes(self) -> List[int]:
        """Return the OIDs of the columns' types."""
        return list(self._described().types)

    def coltypmods(self) -> List[int]:
        """Return the modifiers of the columns' types, -1 where there is none."""
        return list(self._described().typmods)

    def _described(self) -> Any:
        if self._shape is None:
            raise Error("command did not produce a result set")
        return self._shape

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> List[Row]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[Row, List[Row]]:
        return self._rows[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._rows[index] = value

    def __str__(self) -> str:
        return "<%s status=%s nrows=%s rows=%s>" % (type(self).__name__, self._status, self._nrows, self._rows)


def _result(parts: List[bytes], function: str) -> PLyResult:
    """Return the result of an answer that has rows."""
    first = parts[0]
    status, processed, length = _ROWS_HEAD.unpack_from(first)
    if status < 0:
        _refuse_status(function, status)
    if length == 0:
        return PLyResult(status, processed, [], None)
    loop = _State.loop
    end = _ROWS_HEAD.size + length
    shape = loop.describe(first[_ROWS_HEAD.size : end])
    rows = loop.rows(shape, first, end)
    for i in range(1, len(parts)):
        rows += loop.rows(shape, parts[i], 0)
        # A large result is not held twice.
        parts[i] = b""
    return PLyResult(status, processed, rows, shape)


# --- plans ----------------------------------------------------------------


class PLyPlan(_Unique):
    """Store a PostgreSQL plan."""

    __module__ = "builtins"
    __slots__ = ("_count", "_number", "_types")

    def __init__(self, number: int, count: int, types: object) -> None:
        self._number = number
        self._count = count
        self._types = types

    def __del__(self) -> None:
        _garbage.append(self._number)

    def execute(self, values: Sequence[object] = NO_VALUES, limit: int = 0, /) -> PLyResult:
        """Execute the plan with values for its parameters; return at most `limit` rows."""
        if type(limit) is not int or limit < 0:
            limit = _limit(limit, "SPI_execute_plan")
        head = _VERB_PLAN_LIMIT.pack(codec.SQL_EXECUTE_PLAN, self._number, limit)
        return _result(_request(codec.SQL, self._payload(head, values, "execute")), "SPI_execute_plan")

    def cursor(self, values: Sequence[object] = NO_VALUES, /) -> PLyCursor:
        """Open a cursor of the plan with values for its parameters."""
        payload = self._payload(_VERB_PLAN.pack(codec.SQL_OPEN_PLAN, self._number), values, "cursor")
        return _opened(_request(codec.SQL, payload))

    def status(self) -> bool:
        """Return True: a plan that could not be made has raised an error."""
        return True

    def _payload(self, head: bytes, values: Sequence[object], name: str) -> bytes:
        if type(values) is not list and type(values) is not tuple:
            values = _sequence(values, name)
        if len(values) != self._count:
            self._refuse(values)
        try:
            return _State.loop.parameters(self._types, values, head)  # type: ignore[no-any-return]
        except ConversionError as error:
            raise _parameter_error(error) from error.__cause__

    def _refuse(self, values: Sequence[object]) -> NoReturn:
        expected = "Expected sequence of %d argument%s" % (self._count, "" if self._count == 1 else "s")
        shown = "<NULL>" if values is NO_VALUES else values
        raise TypeError("%s, got %d: %s" % (expected, len(values), shown))


def _sequence(values: Any, name: str) -> Sequence[object]:
    if isinstance(values, (str, dict)) or not hasattr(type(values), "__getitem__"):
        raise TypeError("plpy.%s takes a sequence as its second argument" % name)
    return [values[i] for i in range(len(values))]


def _parameter_error(error: ConversionError) -> SPIError:
    """Return the exception of a parameter that could not be converted: to PL/Python it is an error of the query."""
    cause = error.__cause__
    if cause is None:
        raised = spiexceptions.make(error.sqlstate, error.message)
        raised.detail = error.detail
    else:
        state = sqlstate_of(cause) if error.sqlstate == _NO_STATE else error.sqlstate
        raised = spiexceptions.make(state, error.message)
        raised.detail = message_of(cause)
    raised.hint = error.hint
    return raised


def prepare(query: str, types: Sequence[str]) -> PLyPlan:
    """Return the plan of a query whose parameters have these types."""
    _require(codec.FEATURE_SQL, "prepare")
    payload = bytes([codec.SQL_PREPARE]) + _string(query) + _strings(_type_names(types))
    (answer,) = _request(codec.SQL, payload)
    number, count = struct.unpack_from("<II", answer)
    return PLyPlan(number, count, _State.loop.parameter_types(answer[8:], count))


def _type_names(types: Any) -> List[str]:
    if isinstance(types, dict) or not hasattr(type(types), "__getitem__"):
        raise TypeError("second argument of plpy.prepare must be a sequence")
    names = [types[i] for i in range(len(types))]
    for i, name in enumerate(names):
        if not isinstance(name, str):
            message = "plpy.prepare: type name at ordinal position %d is not a string" % i
            raise spiexceptions.make("XX000", message)
    return names


def execute(query: str, limit: int) -> PLyResult:
    """Execute a query and return its result."""
    _require(codec.FEATURE_SQL, "execute")
    payload = bytes([codec.SQL_EXECUTE]) + _string(query) + struct.pack("<Q", _limit(limit, "SPI_execute"))
    return _result(_request(codec.SQL, payload), "SPI_execute")


def commit() -> None:
    """Commit the transaction."""
    _end_transaction(codec.SQL_COMMIT, "commit")


def rollback() -> None:
    """Roll the transaction back."""
    _end_transaction(codec.SQL_ROLLBACK, "rollback")


def _end_transaction(verb: int, name: str) -> None:
    _require(codec.FEATURE_SQL, name)
    _State.upheavals += 1
    _request(codec.SQL, bytes([verb]))


# --- cursors --------------------------------------------------------------


class PLyCursor(_Unique):
    """Wrapper around a PostgreSQL cursor."""

    __module__ = "builtins"
    __slots__ = ("_ahead", "_batch", "_call", "_closed", "_done", "_name", "_shape", "_upheavals")

    def __init__(self, name: str) -> None:
        self._name = name
        self._closed = False
        # Rows that the backend has sent and nobody has seen.
        self._ahead: Deque[Row] = deque()
        self._batch = _FIRST_BATCH
        self._done = False
        self._shape: Any = None
        # When it was last known to be open.
        self._call, self._upheavals = _State.loop.current(), _State.upheavals

    def __del__(self) -> None:
        if not self._closed:
            _garbage.append(self._name)
            # At once where that is possible: it may keep tables locked after the call.
            with suppress(RuntimeError):
                _discard()

    def __iter__(self) -> PLyCursor:
        return self

    def __next__(self) -> Row:
        """Return the next row."""
        if self._closed:
            raise ValueError("iterating a closed cursor")
        if self._is_doubtful():
            # Rows that came before it ended must not be seen.
            self._fetch(1)
        elif not self._ahead and not self._done:
            self._fetch_batch()
        if not self._ahead:
            raise StopIteration
        return self._ahead.popleft()

    next = __next__

    def fetch(self, count: int, /) -> PLyResult:
        """Return the next `count` rows, fewer at the end."""
        count = operator.index(count)
        if self._closed:
            raise ValueError("fetch from a closed cursor")
        if count < 0:
            raise ValueError("cannot fetch backwards")
        missing = _limit(count, "SPI_cursor_fetch") - len(self._ahead)
        if self._is_doubtful() or (missing > 0 and not self._done):
            self._fetch(max(missing, 1))
        rows = [self._ahead.popleft() for _ in range(min(count, len(self._ahead)))]
        return PLyResult(_SPI_OK_FETCH, len(rows), rows, self._shape)

    def close(self) -> None:
        """Close the cursor; to do so twice is no error."""
        if not self._closed:
            self._ask(bytes([codec.SQL_CLOSE]) + _string(self._name), "closing")
            self._closed = True
            self._ahead.clear()

    def _is_doubtful(self) -> bool:
        return self._upheavals != _State.upheavals or self._call != _State.loop.current()

    def _fetch_batch(self) -> None:
        size = self._fetch(self._batch)
        if size > _BATCH_BYTES:
            self._batch = max(self._batch * _BATCH_BYTES // size, 1)
        elif size <= _BATCH_BYTES // 2:
            self._batch = min(self._batch * 2, _LARGEST_BATCH)

    def _fetch(self, count: int) -> int:
        """Fetch rows ahead. Return the bytes of the answer."""
        payload = bytes([codec.SQL_FETCH]) + _string(self._name) + struct.pack("<Q", count)
        parts = self._ask(payload, "iterating")
        size = sum(map(len, parts))
        result = _result(parts, "SPI_cursor_fetch")
        self._ahead.extend(result)
        self._done = len(result) < count
        self._shape = result._shape
        self._call, self._upheavals = _State.loop.current(), _State.upheavals
        return size

    def _ask(self, payload: bytes, action: str) -> List[bytes]:
        try:
            return _request(codec.SQL, payload)
        except SPIError as error:
            # The query itself may meet another cursor that does not exist.
            if error.sqlstate == _NO_CURSOR and self._name in str(error):
                self._ahead.clear()
                raise ValueError("%s a cursor in an aborted subtransaction" % action) from None
            raise


def open_cursor(query: str) -> PLyCursor:
    """Open a cursor of a query."""
    _require(codec.FEATURE_SQL, "cursor")
    return _opened(_request(codec.SQL, bytes([codec.SQL_OPEN]) + _string(query)))


def _opened(parts: List[bytes]) -> PLyCursor:
    (name,) = codec.decode_strings(parts[0], 1)
    return PLyCursor(name)


# --- subtransactions ------------------------------------------------------


class PLySubtransaction(_Unique):
    """PostgreSQL subtransaction context manager."""

    __module__ = "builtins"
    __slots__ = ("_call", "_exited", "_started")

    def __init__(self) -> None:
        self._started = False
        self._exited = False
        self._call = -1

    def __enter__(self) -> PLySubtransaction:
        """Begin the subtransaction."""
        if self._started:
            raise ValueError("this subtransaction has already been entered")
        self._started = True
        self._call = _State.loop.current()
        _request(codec.SUBTRANSACTION, _BEGIN)
        return self

    def __exit__(self, kind: object, error: object, trace: object, /) -> None:
        """Commit the subtransaction, or roll it back if there was an exception."""
        if not self._started:
            raise ValueError("this subtransaction has not been entered")
        if self._exited:
            raise ValueError("this subtransaction has already been exited")
        # One that was left open ended with the call that had begun it.
        if self._call != _State.loop.current():
            raise ValueError(_NOT_OPEN)
        self._exited = True
        if kind is not None:
            _State.upheavals += 1
        try:
            _request(codec.SUBTRANSACTION, _COMMIT if kind is None else _ROLLBACK)
        except SPIError as refused:
            # So did one that was open when rows of a set were returned.
            if refused.sqlstate == _NO_TRANSACTION:
                raise ValueError(_NOT_OPEN) from None
            raise

    enter = __enter__
    exit = __exit__


def subtransaction() -> PLySubtransaction:
    """Return a new subtransaction, to be entered."""
    _require(codec.FEATURE_SUBTRANSACTIONS, "subtransaction")
    return PLySubtransaction()
