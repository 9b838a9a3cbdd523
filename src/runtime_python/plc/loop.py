"""The loop that serves calls, in pure Python: what `_plc_loop.c` is, for where that can't be loaded."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from typing import Any, Callable, Dict, Optional, Tuple

from . import codec, convert
from .codec import ProtocolError
from .errors import QueryCanceled
from .functions import Function

Control = Callable[[int, int, int, bytes], Optional[bytes]]
Failure = Callable[[BaseException], bytes]

# Values of these kinds may be large: the namespace lets go of them when a call has ended.
_HEAVY = frozenset((codec.TEXT, codec.BYTEA, codec.NUMERIC, codec.OTHER, codec.ARRAY))
_BUFFER_SIZE = 1 << 16
# Seconds between two interrupts of a call that goes on after a Cancel.
_INSIST = 0.1


class Loop:
    """Serves one data connection, and the signal connection in a thread.

    An operation that keeps the interpreter lock (a regular expression, a large power) keeps the
    thread from seeing a Cancel. In `_plc_watch.c` it does not.
    """

    name = "python"

    def __init__(self) -> None:
        self._functions: Dict[int, Function] = {}
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
            else:
                target = -1

    def serve(self, fd: int, control: Control, failure: Failure, canceled: bytes) -> None:
        """Serve calls until the connection's end.

        `control` handles the frames that are no calls and returns the bytes of an answer, `failure`
        makes the payload of an Error, `canceled` is that of a cancelled call.
        """
        with socket.socket(fileno=os.dup(fd)) as self._data:
            while True:
                frame = self._receive()
                if frame is None:
                    return
                header, payload = frame
                answer: Optional[bytes]
                if header.type == codec.CALLREQ and header.flags == 0:
                    answer = self._call(header.call_id, payload, failure, canceled)
                else:
                    answer = control(header.type, header.flags, header.call_id, bytes(payload))
                del payload, frame
                if answer is not None:
                    self._data.sendall(answer)

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

    def _call(self, call_id: int, payload: bytearray, failure: Failure, canceled: bytes) -> bytes:
        function = self._functions.get(codec.decode_call_id(payload))
        if function is None:
            raise ProtocolError("call of a function that is not registered")
        if function.failure is not None or function.call is None:
            return codec.encode_frame(call_id, codec.ERROR, function.failure or b"")
        self._set_arguments(function, payload)
        del payload[:]
        # The handler of an interrupt raises nothing while code of this package runs, so that what
        # follows is interrupted in the function and in methods of its objects only.
        try:
            try:
                self._current = call_id
                kind, answer = codec.RESULT, self._result(function)
            except BaseException as error:
                kind, answer = codec.ERROR, failure(error)
        except QueryCanceled:
            kind, answer = codec.ERROR, canceled
        self._current = -1
        if not self._owned:
            os._exit(0)
        self._release_arguments(function)
        return codec.encode_frame(call_id, kind, answer)

    def _result(self, function: Function) -> bytes:
        if self.canceled():
            raise QueryCanceled
        result: Any = function.call()  # type: ignore[misc]
        answer = codec.encode_result(function.result, convert.from_python(function.result, result))
        if len(answer) > self._limit:
            convert.fail(convert.TOO_LARGE)
        return answer

    @staticmethod
    def _set_arguments(function: Function, payload: bytearray) -> None:
        types = [declared for _, declared in function.arguments]
        values = [
            convert.to_python(declared, value) for declared, value in zip(types, codec.decode_call(payload, types))
        ]
        for (name, _), value in zip(function.arguments, values):
            if name:
                function.namespace[name] = value
        function.namespace["args"] = values

    @staticmethod
    def _release_arguments(function: Function) -> None:
        heavy = [name for name, declared in function.arguments if declared.kind in _HEAVY]
        if heavy:
            function.namespace.update((name, None) for name in [*heavy, "args"] if name)
