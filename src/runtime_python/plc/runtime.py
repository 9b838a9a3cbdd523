"""Start-up of a sandbox: connections, signals, and the messages that are no calls."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
import types
from types import FrameType
from typing import Any, Callable, NoReturn, Optional

from . import codec, errors, functions, plpy
from .codec import ProtocolError


def _load_loop() -> Any:
    """Return the C loop, or the one in Python where it can't be loaded or PLC_PURE=1."""
    if os.environ.get("PLC_PURE") != "1":
        try:
            from . import _plc
        except ImportError:
            pass
        else:
            _plc.configure()
            return _plc
    from .loop import Loop

    return Loop()


class Runtime:
    """What a sandbox is besides its calls."""

    def __init__(self) -> None:
        self.loop = _load_loop()
        self._greeted = False
        self._field_limit = errors.FIELD_LIMIT
        self._interrupts = 0
        self._interrupted = -1

    # --- frames -----------------------------------------------------------

    def control(self, kind: int, flags: int, call_id: int, payload: bytes) -> Optional[bytes]:
        """Handle a frame that is no call; return the frame that answers it."""
        if flags != 0 or (kind != codec.PING and not self._greeted):
            raise ProtocolError("unexpected message")
        if kind == codec.PING:
            return self._ping(call_id, codec.decode_ping(payload))
        if kind == codec.REGISTER:
            register = codec.decode_register(payload)
            self.loop.install(register.function_id, functions.Function(register))
        elif kind == codec.CHECK:
            return _check(call_id, codec.decode_check(payload))
        elif kind == codec.FORGET:
            function_id = codec.decode_forget(payload)
            self.loop.remove(function_id)
            functions.forget_source(function_id)
        else:
            raise ProtocolError("unexpected message")
        return None

    def _ping(self, call_id: int, ping: codec.Ping) -> bytes:
        if not ping.lowest <= codec.VERSION <= ping.highest:
            message = "sandbox speaks versions %d to %d of the protocol" % ((codec.VERSION,) * 2)
            fields = codec.encode_fields([("C", "08P01"), ("M", message)])
            return codec.encode_frame(call_id, codec.ERROR, fields)
        limit = min(ping.max_frame, codec.MAX_FRAME_DEFAULT)
        if limit < codec.MAX_FRAME_HANDSHAKE:
            raise ProtocolError("max_frame is too small")
        self._greeted = True
        self.loop.allow(limit)
        # Sixteen fields of characters of four bytes each fit then.
        self._field_limit = min(errors.FIELD_LIMIT, limit // 128)
        plpy._set_keywords(ping.keywords)
        features = ping.features & codec.FEATURES
        plpy._agree(features, limit)
        reply = codec.PingReply(
            codec.VERSION,
            features,
            codec.MAX_FRAME_DEFAULT,
            "python %d.%d.%d" % sys.version_info[:3],
            self.loop.name,
        )
        payload = codec.encode_ping_reply(reply)
        return codec.encode_frame(call_id, codec.PING, payload, codec.FLAG_REPLY)

    def failure(self, error: BaseException) -> bytes:
        """Return the payload of the Error that ends a call."""
        fields = errors.canceled() if self.loop.canceled() else errors.describe(error)
        return codec.encode_fields([(key, errors.clean(text, self._field_limit)) for key, text in fields])

    def emit(self, level: int, fields: codec.Fields) -> None:
        """Send a Log; one that belongs to no call goes to the container's log."""
        cleaned = [(key, errors.clean(text, self._field_limit)) for key, text in fields]
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("plpy can be used in the function's own thread only")
        if not self.loop.send(codec.LOG, codec.encode_log(level, cleaned)):
            print(dict(cleaned)["M"], file=sys.stderr)
        # An interrupt that came within this package was put off until here.
        if self.loop.canceled():
            self._end_call(sys._getframe())

    # --- signals ----------------------------------------------------------

    def interrupt(self, _signum: int, frame: Optional[FrameType]) -> None:
        """Handle SIGINT: end the call that is to be cancelled, if its own code runs."""
        if self.loop.canceled() and frame is not None and not errors.is_own(frame.f_code):
            self._end_call(frame)

    def _end_call(self, frame: Optional[FrameType]) -> NoReturn:
        if self._interrupted != self.loop.current():
            self._interrupted, self._interrupts = self.loop.current(), 0
        self._interrupts += 1
        if self._interrupts > 1:
            # The function caught the first: raise in the clause that catches, too.
            sys.settrace(self._trace)
            while frame is not None:
                frame.f_trace = self._trace
                frame = frame.f_back
        raise errors.QueryCanceled

    def _trace(self, frame: FrameType, event: str, _arg: object) -> Optional[Callable[..., Any]]:
        if not self.loop.canceled():
            sys.settrace(None)
            return None
        if event == "line" and not errors.is_own(frame.f_code):
            raise errors.QueryCanceled
        return self._trace


def leave(status: int) -> NoReturn:
    """End the process at once: what users left running has no say."""
    for stream in (sys.stdout, sys.stderr):
        # They may be anything by now, and closed.
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _set_main_module() -> None:
    """Give functions a `__main__` of their own, as PL/Python does: children of theirs must not start this one's."""
    module = types.ModuleType("__main__")
    module.__dict__.update(plpy=plpy, GD=functions.global_data)
    sys.modules["__main__"] = module


def _warm_up() -> None:
    """Import what functions are likely to need, before anybody waits for it."""
    for name in filter(None, os.environ.get("PLC_PRELOAD", "").split(",")):
        try:
            importlib.import_module(name.strip())
        except ImportError as error:
            print("PLC_PRELOAD: %s" % error, file=sys.stderr)


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def main() -> NoReturn:
    """Serve the backend at $PLC_SOCKET until it is gone."""
    path = os.environ.get("PLC_SOCKET")
    if not path:
        sys.exit("PLC_SOCKET is not set")
    faulthandler.enable()
    # Output of functions goes to the container's log line by line.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    runtime = Runtime()
    signal.signal(signal.SIGINT, runtime.interrupt)
    os.register_at_fork(after_in_child=runtime.loop.disown)
    plpy._connect(runtime.emit, runtime.loop)
    _set_main_module()
    _warm_up()
    gc.collect()
    gc.freeze()
    try:
        data = _connect(path)
        signals = _connect(path)
        runtime.loop.watch(signals.fileno())
    except OSError as error:
        sys.exit("cannot connect to %s: %s" % (path, error))

    def end(error: Optional[BaseException]) -> NoReturn:
        if error is None or isinstance(error, ConnectionError):
            leave(0)
        if isinstance(error, ProtocolError):
            _refuse(data, runtime.loop.last(), error)
        else:
            traceback.print_exception(type(error), error, error.__traceback__)
        leave(1)

    answers = codec.encode_fields(errors.canceled()), codec.encode_fields(errors.too_deep())
    try:
        runtime.loop.serve(data.fileno(), runtime.control, runtime.failure, end, answers)
    except Exception as error:
        end(error)
    end(None)


def _check(call_id: int, register: codec.Register) -> bytes:
    failure = functions.check(register)
    if failure is not None:
        return codec.encode_frame(call_id, codec.ERROR, failure)
    return codec.encode_frame(call_id, codec.RESULT, bytes([codec.FORM_NULL]))


def _refuse(data: socket.socket, call_id: int, error: ProtocolError) -> None:
    print("data connection: %s" % error, file=sys.stderr)
    fields = codec.encode_fields([("C", "08P01"), ("M", "protocol violation: %s" % error)])
    with contextlib.suppress(OSError):
        data.send(codec.encode_frame(call_id, codec.ERROR, fields), socket.MSG_DONTWAIT)
