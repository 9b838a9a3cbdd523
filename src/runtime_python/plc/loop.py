"""The loop that serves calls, in pure Python: what `_plc_loop.c` is, for where that can't be loaded."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Sequence, Tuple

from . import codec, convert, triggers
from .codec import ProtocolError
from .convert import Shape
from .errors import QueryCanceled
from .functions import Function

Control = Callable[[int, int, int, bytes], Optional[bytes]]
Failure = Callable[[BaseException], bytes]
End = Callable[[Optional[BaseException]], NoReturn]

# Calls within calls: beyond it one is answered by an Error, before the interpreter's stack ends.
MAX_CALLS = 250
# Frames of Python's that a nested call may have beyond the limit of the one that waits for it: what this package
# itself needs must not end in a RecursionError.
_FRAMES_PER_CALL = 40
# Results of queries whose shape is kept, and seconds after which a batch of a set that has a row goes out
_MAX_SHAPES = 256
_BATCH_S = 0.05
_NOTHING = object()
_BUFFER_SIZE = 1 << 16
# Seconds between two interrupts of a call that goes on after a Cancel.
_INSIST = 0.1


class _OpenSet:
    """A set that the backend may want more of: its function, its iterator and the arguments, which are globals."""

    def __init__(self, function: Function, iterator: Iterator[Any]) -> None:
        self.function = function
        self.iterator = iterator
        self.arguments: Dict[str, Any] = {}
        # A row that did not fit into the batch before
        self.pending: Any = _NOTHING


class Loop:
    """Serves one data connection, and the signal connection in a thread.

    An operation that keeps the interpreter lock (a regular expression, a large power) keeps the
    thread from seeing a Cancel. In `_plc_watch.c` it does not.
    """

    name = "python"

    def __init__(self) -> None:
        self._functions: Dict[int, Function] = {}
        self._sets: Dict[int, _OpenSet] = {}
        self._shapes: Dict[bytes, Shape] = {}
        # How many calls there are on the stack, and how many of them are of a function
        self._depth = 0
        self._running: Dict[int, int] = {}
        self._limit = codec.MAX_FRAME_HANDSHAKE
        self._current = -1
        self._cancel = -1
        self._last = 0
        self._owned = True
        self._buffer = bytearray(_BUFFER_SIZE)
        self._have = 0
        self._data: socket.socket

    def allow(self, max_frame: int) -> None:
        """Set the limit of a payload's bytes, both ways."""
        self._limit = max_frame

    def install(self, function_id: int, function: Function) -> None:
        """Make a function callable by its id."""
        self._functions[function_id] = function

    def remove(self, function_id: int) -> None:
        """Forget a function."""
        self._functions.pop(function_id, None)

    def current(self) -> int:
        """Return the id of the call whose user code runs, -1 when none does."""
        return self._current

    def last(self) -> int:
        """Return the call id of the last frame."""
        return self._last

    def canceled(self) -> bool:
        """Whether the call that runs shall end."""
        return self._cancel == self._current != -1

    def disown(self) -> None:
        """In a child process: the connection is not ours."""
        self._owned = False
        self._current = -1

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a frame of the call that runs. Return False when there is none."""
        if self._current == -1:
            return False
        self._data.sendall(codec.encode_frame(self._current, kind, payload))
        return True

    def watch(self, fd: int) -> None:
        """Serve the signal connection in a thread; its end is the end of this process, as SIGTERM is."""
        # A handler in Python waits for the main thread, which may just be about to wait for a call.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        wakeup, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
        # Signals are the main thread's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Thread(target=self._watch, args=(socket.socket(fileno=os.dup(fd)), wakeup), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _watch(self, connection: socket.socket, wakeup: socket.socket) -> None:
        try:
            self._watch_until_end(connection, wakeup)
        except ConnectionError:
            os._exit(0)
        except (OSError, ProtocolError) as error:
            print("signal connection: %s" % error, file=sys.stderr, flush=True)
            os._exit(1)

    def _watch_until_end(self, connection: socket.socket, wakeup: socket.socket) -> None:
        main = threading.main_thread().ident or 0
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        received = b""
        target = -1
        while True:
            ready = [fd for fd, _ in poll.poll(None if target == -1 else _INSIST * 1000)]
            if wakeup.fileno() in ready and signal.SIGTERM in wakeup.recv(4096):
                os._exit(0)
            if connection.fileno() in ready:
                data = connection.recv(codec.HEADER_SIZE - len(received))
                if not data:
                    os._exit(0)
                received += data
                if len(received) == codec.HEADER_SIZE:
                    header = codec.decode_header(received, 0)
                    if header.type != codec.CANCEL or header.flags != 0:
                        raise ProtocolError("unexpected message")
                    received = b""
                    target = self._cancel = header.call_id
            if target != -1 and self._current == target:
                signal.pthread_kill(main, signal.SIGINT)
            elif self._depth == 0:
                # A call that comes after its Cancel sees it itself.
                target = -1

    def serve(self, fd: int, control: Control, failure: Failure, end: End, answers: Tuple[bytes, bytes]) -> None:
        """Serve calls until the connection's end.

        `control` handles the frames that are no calls and returns the bytes of an answer, `failure`
        makes the payload of an Error, `end` ends the process within a call when the connection has ended or
        for the error it is given, `answers` are the payloads of the Errors of a cancelled call and of one too
        deep in others.
        """
        self._control, self._failure, self._end = control, failure, end
        self._canceled, self._too_deep = answers
        with socket.socket(fileno=os.dup(fd)) as self._data:
            while True:
                frame = self._receive()
                if frame is None:
                    return
                self._serve_frame(*frame)
                del frame

    def request(self, kind: int, payload: bytes) -> Tuple[int, List[bytes]]:
        """Send an SQL or Subtransaction of the call that runs and serve the backend until its answer is here.

        Return the type of the answer and the payloads of its frames. Raise QueryCanceled when the call shall end.
        """
        call_id = self._check_running()
        self._check_canceled()
        self._data.sendall(codec.encode_frame(call_id, kind, payload))
        # While it waits the call is not interrupted.
        self._current = -1
        sys.setrecursionlimit(sys.getrecursionlimit() + _FRAMES_PER_CALL)
        try:
            answered, parts = self._await(call_id, kind)
        except Exception as error:
            self._end(error)
        finally:
            # Python before 3.11 refuses to lower it so near to the limit: the next time, then.
            with contextlib.suppress(RecursionError):
                sys.setrecursionlimit(sys.getrecursionlimit() - _FRAMES_PER_CALL)
            self._current = call_id
        if answered == codec.ERROR and dict(codec.decode_fields(parts[0])).get("C") == "57014":
            self._cancel = call_id
        self._check_canceled()
        return answered, parts

    def _check_canceled(self) -> None:
        if self.canceled():
            raise QueryCanceled

    def discard(self, payload: bytes) -> None:
        """Send an SQL of the call that runs which has no answer."""
        self._data.sendall(codec.encode_frame(self._check_running(), codec.SQL, payload))

    def _check_running(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("plpy can be used in the function's own thread only")
        if self._current == -1:
            raise RuntimeError("plpy can be used within a call of a function only")
        return self._current

    def _await(self, call_id: int, kind: int) -> Tuple[int, List[bytes]]:
        parts: List[bytes] = []
        while True:
            frame = self._receive()
            if frame is None:
                self._end(None)
            header, payload = frame
            if not header.flags & codec.FLAG_REPLY:
                self._serve_frame(header, payload)
                del frame, payload
                continue
            if header.call_id != call_id or header.type not in (kind, codec.ERROR) or (parts and header.type != kind):
                raise ProtocolError("unexpected message")
            parts.append(bytes(payload))
            if not header.flags & codec.FLAG_MORE:
                return header.type, parts

    def _serve_frame(self, header: codec.Header, payload: bytearray) -> None:
        answer: Optional[bytes]
        if header.type == codec.CALLREQ and header.flags == 0:
            answer = self._call(header.call_id, payload)
        elif header.type == codec.CREDIT and header.flags == 0:
            answer = self._credit(header.call_id, payload)
        else:
            answer = self._control(header.type, header.flags, header.call_id, bytes(payload))
        if answer is not None:
            self._data.sendall(answer)

    # --- values of queries ------------------------------------------------

    def describe(self, description: bytes) -> Shape:
        """Return the shape of a query's result."""
        shape = self._shapes.get(description)
        if shape is None:
            shape = Shape(description)
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[description] = shape
        return shape

    def rows(self, shape: Shape, payload: bytes, offset: int) -> List[Dict[str, Any]]:
        """Return the rows that a payload has from `offset` to its end: a count and a value per row and column."""
        reader = codec.Reader(payload)
        reader.offset = offset
        columns = shape.columns
        rows = [
            {
                column.name: convert.to_python(column.type, codec.read_value(reader, column.type, False))
                for column in columns
            }
            for _ in range(reader.count(None if columns else codec.MAX_ELEMENTS, len(columns)))
        ]
        reader.finish()
        return rows

    def parameter_types(self, descriptors: bytes, count: int) -> object:
        """Return what `parameters` knows the types of a plan by."""
        reader = codec.Reader(descriptors)
        types = [codec.read_type(reader) for _ in range(count)]
        reader.finish()
        return types

    def parameters(self, handle: Any, values: Sequence[object], head: bytes = b"") -> bytes:
        """Return `head`, which begins a payload, with a count and the values of a plan's parameters behind it."""
        if len(values) != len(handle):
            raise ValueError("plan has %d parameters" % len(handle))
        out = bytearray(head)
        out += len(values).to_bytes(4, "little")
        for declared, value in zip(handle, values):
            codec.write_value(out, declared, convert.from_python(declared, value))
        return bytes(out)

    # --- frames -----------------------------------------------------------

    def _receive(self) -> Optional[Tuple[codec.Header, bytearray]]:
        view = memoryview(self._buffer)
        if not self._fill(view, codec.HEADER_SIZE):
            return None
        self._last = int.from_bytes(view[:4], "little")
        header = codec.decode_header(view[: codec.HEADER_SIZE], self._limit)
        payload = bytearray(header.length)
        total = codec.HEADER_SIZE + header.length
        if total <= len(view):
            if not self._fill(view, total):
                return None
            payload[:] = view[codec.HEADER_SIZE : total]
            rest = self._have - total
            view[:rest] = view[total : self._have]
            self._have = rest
            return header, payload
        start = self._have - codec.HEADER_SIZE
        payload[:start] = view[codec.HEADER_SIZE : self._have]
        self._have = 0
        large = memoryview(payload)
        while start < len(large):
            count = self._data.recv_into(large[start:], 0, socket.MSG_WAITALL)
            if count == 0:
                return None
            start += count
        return header, payload

    def _fill(self, view: memoryview, needed: int) -> bool:
        while self._have < needed:
            count = self._data.recv_into(view[self._have :])
            if count == 0:
                return False
            self._have += count
        return True

    # --- calls ------------------------------------------------------------

    def _call(self, call_id: int, payload: bytearray) -> bytes:
        function = self._functions.get(codec.decode_call_id(payload))
        if function is None:
            raise ProtocolError("call of a function that is not registered")
        if call_id in self._sets:
            raise ProtocolError("call has the id of an open set")
        if function.failure is not None or function.call is None:
            return codec.encode_frame(call_id, codec.ERROR, function.failure or b"")
        if self._depth >= MAX_CALLS:
            return codec.encode_frame(call_id, codec.ERROR, self._too_deep)
        outer = self._enter(function)
        arguments = self._arguments(function, payload)
        function.namespace.update(arguments)
        del payload[:]
        answer = self._run(call_id, lambda: self._result(function, call_id, arguments))
        self._leave(function, outer)
        return answer

    def _credit(self, call_id: int, payload: bytearray) -> Optional[bytes]:
        rows, size = codec.decode_credit(payload)
        opened = self._sets.get(call_id)
        if opened is None:
            if rows > 0:
                raise ProtocolError("credit for a set that is not open")
            return None
        outer = self._enter(opened.function)
        opened.function.namespace.update(opened.arguments)
        answer = None
        if rows > 0:
            answer = self._run(call_id, lambda: self._batch(call_id, opened, rows, size))
        else:
            self._close(call_id)
        self._leave(opened.function, outer)
        return answer

    def _run(self, call_id: int, body: Callable[[], Tuple[int, int, bytes]]) -> bytes:
        """Return the frame that answers a call: what `body` returns, or the Error of its exception."""
        before, self._current = self._current, call_id
        self._depth += 1
        # The handler of an interrupt raises nothing while code of this package runs, so that what
        # follows is interrupted in the function and in methods of its objects only.
        try:
            try:
                self._check_canceled()
                kind, flags, answer = body()
            except BaseException as error:
                kind, flags, answer = codec.ERROR, 0, self._failure(error)
        except QueryCanceled:
            kind, flags, answer = codec.ERROR, 0, self._canceled
        except RecursionError:
            kind, flags, answer = codec.ERROR, 0, self._too_deep
        self._current = before
        self._depth -= 1
        if not self._owned:
            os._exit(0)
        if kind == codec.ERROR:
            self._sets.pop(call_id, None)
        return codec.encode_frame(call_id, kind, answer, flags)

    def _result(self, function: Function, call_id: int, arguments: Dict[str, Any]) -> Tuple[int, int, bytes]:
        # The function may change its TD.
        event = arguments["TD"].get("event") if "TD" in arguments else None
        result: Any = function.call()  # type: ignore[misc]
        if function.flags & codec.FUNCTION_SET:
            opened = _OpenSet(function, _iterator(result))
            return self._batch(call_id, opened, codec.FIRST_ROWS, codec.FIRST_BYTES)
        answer = bytearray()
        if function.flags & codec.FUNCTION_TRIGGER:
            _write_trigger(answer, function, result, arguments["TD"], event)
        elif function.flags & codec.FUNCTION_EVENT_TRIGGER:
            answer.append(codec.FORM_NULL)
        else:
            codec.write_value(answer, function.result, _converted(function, result))
        if len(answer) > self._limit:
            convert.fail(convert.TOO_LARGE)
        return codec.RESULT, 0, bytes(answer)

    def _batch(self, call_id: int, opened: _OpenSet, rows: int, size: int) -> Tuple[int, int, bytes]:
        deadline = time.monotonic() + _BATCH_S
        out = bytearray(4)
        count = 0
        declared = opened.function.result
        while count == 0 or (count < rows and len(out) < size and time.monotonic() < deadline):
            row = _next(opened)
            if row is _NOTHING:
                self._sets.pop(call_id, None)
                break
            mark = len(out)
            codec.write_value(out, declared, _converted(opened.function, row))
            if len(out) > self._limit:
                if count == 0:
                    convert.fail(convert.TOO_LARGE)
                del out[mark:]
                opened.pending = row
                size = 0
            else:
                count += 1
        else:
            opened.arguments = _saved(opened.function)
            self._sets[call_id] = opened
        out[:4] = count.to_bytes(4, "little")
        return codec.ROWS, codec.FLAG_MORE if call_id in self._sets else 0, bytes(out)

    def _close(self, call_id: int) -> None:
        """End a set: a generator of it runs its clauses `finally`."""
        opened = self._sets.pop(call_id)
        before, self._current = self._current, -1
        try:
            close = getattr(opened.iterator, "close", None)
            if close is not None:
                close()
        except BaseException:
            traceback.print_exc()
        self._current = before

    # --- arguments --------------------------------------------------------

    def _enter(self, function: Function) -> Optional[Dict[str, Any]]:
        """Begin a call. Return the arguments of one that waits: they are globals of the same function."""
        calls = self._running.get(id(function), 0)
        self._running[id(function)] = calls + 1
        return _saved(function) if calls > 0 else None

    def _leave(self, function: Function, outer: Optional[Dict[str, Any]]) -> None:
        self._running[id(function)] -= 1
        if outer is not None:
            function.namespace.update(outer)
            return
        del self._running[id(function)]
        # What may be large is let go of; the rest spares the next call some work.
        for name in function.heavy:
            if name in function.namespace:
                function.namespace[name] = None

    @staticmethod
    def _arguments(function: Function, payload: bytearray) -> Dict[str, Any]:
        """Return the globals that are the arguments of a call."""
        numpy = bool(function.flags & codec.FUNCTION_NUMPY)
        types = [declared for _, declared in function.arguments]
        values = [
            convert.to_python(declared, value, numpy)
            for declared, value in zip(types, codec.decode_call(payload, types))
        ]
        names = [name for name, _ in function.arguments]
        if function.flags & (codec.FUNCTION_TRIGGER | codec.FUNCTION_EVENT_TRIGGER):
            return {"TD": dict(zip(names, values))}
        arguments = {name: value for name, value in zip(names, values) if name}
        arguments["args"] = values
        return arguments


def _saved(function: Function) -> Dict[str, Any]:
    return {name: function.namespace[name] for name in function.globals if name in function.namespace}


def _iterator(result: Any) -> Iterator[Any]:
    try:
        return iter(result)
    except Exception:
        convert.fail(convert.NOT_ITERABLE)


def _next(opened: _OpenSet) -> Any:
    """Return the next row of a set, _NOTHING at its end."""
    row, opened.pending = opened.pending, _NOTHING
    if row is not _NOTHING:
        return row
    try:
        return next(opened.iterator, _NOTHING)
    except Exception as error:
        convert.fail(convert.ITERATION_FAILED, error)


def _converted(function: Function, result: Any) -> codec.Value:
    if not function.flags & codec.FUNCTION_PROCEDURE:
        return convert.from_python(function.result, result)
    if function.result.kind == codec.VOID and result is not None:
        convert.fail(convert.PROCEDURE_NOT_VOID)
    try:
        return convert.from_python(function.result, result)
    except convert.ConversionError as error:
        # A procedure has no return value to speak of.
        error.context = None
        raise


def _write_trigger(out: bytearray, function: Function, result: Any, data: Dict[str, Any], event: object) -> None:
    action, changes = triggers.action(result, data, event, function.fields)
    out.append(action)
    if action != codec.TRIGGER_MODIFY:
        return
    out += len(changes).to_bytes(4, "little")
    try:
        for field, value in changes:
            out += field.to_bytes(4, "little")
            declared = function.result.fields[field][1]
            codec.write_value(out, declared, convert.from_python(declared, value))
    except convert.ConversionError as error:
        error.context = triggers.CONTEXT
        raise
