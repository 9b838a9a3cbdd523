"""The runtime at its connections: greeting, junk, ends."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plc import codec

from .support import INT4, TIMEOUT_S, CallError, Sandbox


@pytest.fixture
def fresh(runtime_directory: Path, variant: str, interpreter: str, tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts a sandbox that was not greeted."""
    started: list[Sandbox] = []

    def start(**environment: str) -> Sandbox:
        started.append(Sandbox(runtime_directory, tmp_path, interpreter, pure=variant == "python", **environment))
        return started[-1]

    yield start
    for sandbox in started:
        with sandbox:
            pass


def test_ping_is_answered_whenever_no_call_runs(sandbox: Sandbox) -> None:
    for _ in range(3):
        reply = sandbox.greet()
        assert (reply.version, reply.features, reply.max_frame) == (1, codec.FEATURES, 1 << 30)
        assert reply.software.startswith("python 3.")


def test_without_a_common_version(fresh: Callable[..., Sandbox]) -> None:
    sandbox = fresh()
    with pytest.raises(CallError, match="versions 1 to 1") as caught:
        sandbox.greet(2, 9)
    assert caught.value.sqlstate == "08P01"
    assert sandbox.greet(1, 9).version == 1


def test_frames_in_pieces_and_several_at_once(sandbox: Sandbox) -> None:
    function = sandbox.define("return i", INT4, [("i", INT4)])
    frames = [
        codec.encode_frame(i, codec.CALLREQ, codec.encode_call(function, [codec.Type(codec.INT4)], [i]))
        for i in range(1, 2000)
    ]
    for byte in frames[0]:
        sandbox.data.sendall(bytes([byte]))
    sandbox.data.sendall(b"".join(frames[1:]))
    for i in range(1, 2000):
        header, payload = sandbox.receive()
        assert (header.call_id, header.type) == (i, codec.RESULT)
        assert codec.decode_result(payload, codec.Type(codec.INT4)) == i


def is_refused(sandbox: Sandbox, reason: str, call_id: int = 1) -> bool:
    """Whether the sandbox says 08P01 and ends."""
    header, payload = sandbox.receive()
    fields = dict(codec.decode_fields(payload))
    assert (header.call_id, header.type, fields["C"]) == (call_id, codec.ERROR, "08P01")
    assert reason in fields["M"]
    assert sandbox.process.wait(TIMEOUT_S) == 1
    return reason in sandbox.log()


HEADER = struct.Struct("<IBBHQ")
REGISTER = codec.encode_register(codec.Register(1, "f", "return 1", [], codec.Type(codec.INT4)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (HEADER.pack(1, 2, 0, 1, 0), "reserved bits"),
        (HEADER.pack(1, 2, 4, 0, 0), "unknown flags"),
        (HEADER.pack(1, 2, 0, 0, (1 << 30) + 1), "longer than allowed"),
        (HEADER.pack(1, 2, 0, 0, 1 << 63), "longer than allowed"),
        (codec.encode_frame(1, 200, b""), "unexpected message"),
        (codec.encode_frame(1, codec.RESULT, b"\0"), "unexpected message"),
        (codec.encode_frame(1, codec.CANCEL, b""), "unexpected message"),
        (codec.encode_frame(1, codec.CALLREQ, b"\1\0\0\0\0\0\0\0", codec.FLAG_MORE), "unexpected message"),
        (codec.encode_frame(1, codec.REGISTER, REGISTER, codec.FLAG_REPLY), "unexpected message"),
        (codec.encode_frame(1, codec.CALLREQ, b"\7\0\0\0\0\0\0\0"), "not registered"),
        (codec.encode_frame(1, codec.CALLREQ, b"\7\0"), "message ends"),
        (codec.encode_frame(1, codec.REGISTER, REGISTER + b"\0"), "bytes are left"),
        (codec.encode_frame(1, codec.REGISTER, REGISTER[:-1]), "message ends"),
        (codec.encode_frame(1, codec.PING, b"GET / HTTP/1.1\r\n"), "does not speak"),
        (codec.encode_frame(1, codec.FORGET, b"\1"), "message ends"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_junk_is_refused(sandbox: Sandbox, frame: bytes, reason: str) -> None:
    sandbox.data.sendall(frame)
    assert is_refused(sandbox, reason)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (b"\0\0\0\0", "another number of arguments"),
        (b"\1\0\0\0", "message ends"),
        (b"\1\0\0\0\1\0\0\0", "message ends"),
        (b"\1\0\0\0\2\0\0\0\0", "form is not allowed"),
        (b"\1\0\0\0\3", "form is not allowed"),
        (b"\1\0\0\0\1\0\0\0\0\0", "bytes are left"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_junk_in_a_call_is_refused(sandbox: Sandbox, arguments: bytes, reason: str) -> None:
    function = sandbox.define("return i", INT4, [("i", INT4)])
    sandbox.send(9, codec.CALLREQ, function.to_bytes(4, "little") + arguments)
    assert is_refused(sandbox, reason, 9)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (codec.encode_frame(1, codec.REGISTER, REGISTER), "unexpected message"),
        (codec.encode_frame(1, codec.PING, bytes(1 << 16)), "does not speak"),
        (HEADER.pack(1, codec.PING, 0, 0, (1 << 16) + 1), "longer than allowed"),
        (
            codec.encode_frame(1, codec.PING, codec.encode_ping(codec.Ping(1, 1, 0, 1000, "", []))),
            "max_frame is too small",
        ),
    ],
    ids=["register", "no_ping", "too_long", "max_frame"],
)
def test_before_the_greeting(fresh: Callable[..., Sandbox], frame: bytes, reason: str) -> None:
    sandbox = fresh()
    sandbox.data.sendall(frame)
    assert is_refused(sandbox, reason)


@pytest.mark.parametrize(
    "junk",
    [b"x" * 16, codec.encode_frame(1, codec.CALLREQ, b""), HEADER.pack(1, codec.CANCEL, 0, 0, 1)],
    ids=["text", "call", "payload"],
)
def test_junk_on_the_signal_connection_ends_the_sandbox(sandbox: Sandbox, junk: bytes) -> None:
    sandbox.signals.sendall(junk)
    assert sandbox.process.wait(TIMEOUT_S) == 1
    assert "signal connection: " in sandbox.log()


def test_the_end_of_the_data_connection_ends_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.data.close()
    assert sandbox.process.wait(TIMEOUT_S) == 0


def test_the_end_within_a_frame_ends_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.data.sendall(HEADER.pack(1, codec.CALLREQ, 0, 0, 1 << 20) + bytes(1000))
    sandbox.data.close()
    assert sandbox.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "try:\n  while True: pass\nfinally:\n  while True: pass",
        "import re\nre.match('(a*)*b', 'a' * 40)",
    ],
    ids=["loop", "sleep", "finally", "regex"],
)
def test_the_end_of_the_signal_connection_ends_the_sandbox_within_a_call(
    sandbox: Sandbox, variant: str, body: str
) -> None:
    if variant == "python" and body.startswith("import re"):
        pytest.skip("a regular expression keeps the interpreter lock, which the pure-Python watcher needs")
    sandbox.start(sandbox.define("plpy.notice('runs')\n" + body))
    sandbox.receive()
    sandbox.signals.close()
    assert sandbox.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("body", [None, "while True: pass"])
def test_sigterm_ends_the_sandbox(sandbox: Sandbox, body: str | None) -> None:
    if body is not None:
        sandbox.start(sandbox.define("plpy.notice('runs')\n" + body))
        sandbox.receive()
    sandbox.process.send_signal(signal.SIGTERM)
    assert sandbox.process.wait(TIMEOUT_S) == 0


def test_sigint_from_elsewhere_is_ignored(sandbox: Sandbox) -> None:
    function = sandbox.define("plpy.notice('runs')\nx = 0\nfor i in range(10**6): x += 1\nreturn x")
    sandbox.start(function)
    sandbox.receive()
    sandbox.process.send_signal(signal.SIGINT)
    assert sandbox.finish(function) == 10**6
    sandbox.process.send_signal(signal.SIGINT)
    assert sandbox.run("return 1") == 1


def test_a_child_process_never_answers(sandbox: Sandbox) -> None:
    source = """
import os
child = os.fork()
if child == 0:
    plpy.notice('from the child')
    return 0
os.waitpid(child, 0)
return 1
"""
    assert sandbox.run(source) == 1
    assert sandbox.logs == []
    assert "from the child" in sandbox.log()
    assert sandbox.run("return 2") == 2


def test_a_function_that_closes_its_descriptors_harms_its_sandbox_only(sandbox: Sandbox) -> None:
    sandbox.start(sandbox.define("import os\nos.closerange(0, 1000)"))
    assert sandbox.read(1) == b""
    assert sandbox.process.wait(TIMEOUT_S) != 0


def test_preloading(fresh: Callable[..., Sandbox]) -> None:
    sandbox = fresh(PLC_PRELOAD="csv, no_such_module")
    sandbox.greet()
    assert sandbox.run("import sys\nreturn 'csv' in sys.modules", codec.Type(codec.TEXT)) == "True"
    assert "no_such_module" in sandbox.log()


def test_without_a_socket(runtime_directory: Path, interpreter: str, tmp_path: Path) -> None:
    command = [interpreter, "-I", str(runtime_directory)]
    missing = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert (missing.returncode, missing.stderr) == (1, "PLC_SOCKET is not set\n")
    path = str(tmp_path / "absent.sock")
    refused = subprocess.run(
        command, env={"PLC_SOCKET": path}, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert refused.returncode == 1
    assert f"cannot connect to {path}: " in refused.stderr


def test_functions_do_not_see_the_runtimes_directory(sandbox: Sandbox, runtime_directory: Path) -> None:
    shown = sandbox.run("import sys\nreturn repr(sys.path)", codec.Type(codec.TEXT))
    assert os.fspath(runtime_directory) not in shown


def test_the_socket_is_not_inherited(sandbox: Sandbox) -> None:
    command = "subprocess.run(['ls', '-l', '/proc/self/fd'], close_fds=False, stdout=-1)"
    source = f"import subprocess\nreturn {command}.stdout.decode()"
    assert "socket:" not in sandbox.run(source, codec.Type(codec.TEXT))


def test_user_threads_run_while_the_sandbox_is_idle(sandbox: Sandbox) -> None:
    # The thread waits for a child that reads to the end of what the main thread holds until its call is over.
    source = """
import subprocess, threading
child = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def run():
    print('heard', child.stdout.read(), flush=True)
threading.Thread(target=run, daemon=True).start()
class End:
    def __del__(self): child.stdin.close()
return [End()] and 1
"""
    assert sandbox.run(source) == 1
    assert wait_for(sandbox, "heard b''")


def wait_for(sandbox: Sandbox, text: str) -> bool:
    """Wait until the process has written a text, without a call to it."""
    with subprocess.Popen(["tail", "-n", "+1", "-F", str(sandbox.output)], stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        try:
            return any(text in line for line in tail.stdout)
        finally:
            tail.kill()
