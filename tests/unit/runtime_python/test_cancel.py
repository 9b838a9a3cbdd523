"""Cancelling calls."""

from __future__ import annotations

import time

import pytest

from .support import INT4, TEXT, CallError, Sandbox

# The promise is two seconds; a busy machine gets some more.
ANSWER_S = 5.0


def start_and_wait(sandbox: Sandbox, source: str) -> tuple[int, int]:
    """Start a function and wait for its notice; return its id and the call's."""
    if "plpy.notice" not in source:
        source = "plpy.notice('runs')\n" + source
    function = sandbox.define(source)
    call = sandbox.start(function)
    header, _ = sandbox.receive()
    assert (header.call_id, header.type) == (call, 5)
    return function, call


def is_canceled(sandbox: Sandbox, function: int) -> bool:
    """Whether the call ends as a cancelled one, in time, with its interpreter alive."""
    began = time.monotonic()
    with pytest.raises(CallError) as caught:
        sandbox.finish(function)
    assert time.monotonic() - began < ANSWER_S
    assert str(caught.value) == "canceling statement due to user request"
    return caught.value.sqlstate == "57014"


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import threading\nthreading.Lock().acquire() and threading.Event().wait()",
        "import socket\na, b = socket.socketpair()\na.recv(1)",
        "import re\nreturn re.match('(a*)*b', 'a' * 40)",
        "class T:\n  def __str__(self):\n    while True: pass\nraise ValueError(T())",
        "sum(1 for _ in iter(int, 1))",
        "import subprocess\nsubprocess.run(['sleep', '1000'])",
        "import asyncio\nasyncio.run(asyncio.sleep(1000))",
    ],
    ids=["loop", "sleep", "lock", "read", "regex", "message", "generator", "child", "asyncio"],
)
def test_cancel(sandbox: Sandbox, variant: str, source: str) -> None:
    if variant == "python" and source.startswith("import re"):
        pytest.skip("a regular expression keeps the interpreter lock, which the pure-Python watcher needs")
    sandbox.call(sandbox.define("GD['kept'] = 5"))
    function, call = start_and_wait(sandbox, source)
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)
    assert sandbox.run("return GD['kept']") == 5


def test_cancel_while_the_result_is_converted(sandbox: Sandbox) -> None:
    source = "class T:\n  def __str__(self):\n    plpy.notice('runs')\n    while True: pass\nreturn T()"
    function = sandbox.define(source, TEXT)
    call = sandbox.start(function)
    sandbox.receive()
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)


def test_cancel_in_the_middle_of_logs(sandbox: Sandbox) -> None:
    function, call = start_and_wait(sandbox, "while True: plpy.notice('x' * 1000)")
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)
    assert sandbox.run("return 1") == 1


def test_a_function_may_catch_a_cancel_and_return(sandbox: Sandbox) -> None:
    function, call = start_and_wait(
        sandbox, "try:\n  plpy.notice('runs')\n  while True: pass\nexcept BaseException:\n  return 3"
    )
    sandbox.cancel(call)
    assert sandbox.finish(function) == 3
    assert sandbox.run("return 1") == 1


def test_an_error_after_a_cancel_is_the_cancel(sandbox: Sandbox) -> None:
    function, call = start_and_wait(
        sandbox, "try:\n  plpy.notice('runs')\n  while True: pass\nexcept BaseException:\n  1/0"
    )
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)


@pytest.mark.parametrize("statement", ["pass", "import time; time.sleep(1000)", "plpy.notice('more')"])
@pytest.mark.parametrize("clause", ["pass", "continue"])
def test_a_function_can_not_go_on_by_catching_all(sandbox: Sandbox, statement: str, clause: str) -> None:
    source = (
        "said = False\nwhile True:\n  try:\n    if not said:\n      said = True\n      plpy.notice('runs')\n"
        f"    {statement}\n  except BaseException:\n    {clause}"
    )
    function, call = start_and_wait(sandbox, source)
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)
    # What insisted on the end is gone.
    source = "import sys\nfor i in range(1000):\n  try:\n    i\n  except BaseException:\n    return 0\nreturn 1"
    assert sandbox.run(source) == 1
    assert sandbox.run("import sys\nreturn repr(sys.gettrace())", TEXT) == "None"


def test_a_late_cancel_hits_nothing(sandbox: Sandbox) -> None:
    function = sandbox.define("return sum(range(n))", INT4, [("n", INT4)])
    for _ in range(200):
        assert sandbox.call(function, 10) == 45
        sandbox.cancel(sandbox.call_id)
    assert sandbox.call(function, 1000) == 499500


def test_cancels_of_calls_that_end_just_then(sandbox: Sandbox) -> None:
    function = sandbox.define("x = 0\nfor i in range(n): x += 1\nreturn x", INT4, [("n", INT4)])
    outcomes = set()
    for i in range(500):
        call = sandbox.start(function, i * 20)
        sandbox.cancel(call)
        try:
            assert sandbox.finish(function) == i * 20
            outcomes.add("result")
        except CallError as error:
            outcomes.add(error.sqlstate)
        # Never cancelled itself.
        assert sandbox.call(function, 50) == 50
    assert outcomes <= {"result", "57014"}
    assert "57014" in outcomes


def test_a_cancel_that_comes_before_its_call(sandbox: Sandbox) -> None:
    function = sandbox.define("while True: pass")
    watched = sandbox.define("return 1")
    sandbox.cancel(sandbox.call_id + 2)
    # A cancel of another call behind it: when that has been seen, so has this one.
    other, call = start_and_wait(sandbox, "while True: pass")
    sandbox.cancel(call)
    assert is_canceled(sandbox, other)
    sandbox.cancel(call + 1)
    with pytest.raises(CallError) as caught:
        sandbox.call(function)
    assert caught.value.sqlstate == "57014"
    assert sandbox.call(watched) == 1


def test_cancel_of_an_unknown_call_is_ignored(sandbox: Sandbox) -> None:
    function, call = start_and_wait(sandbox, "import time\ntime.sleep(1000)")
    sandbox.cancel(call + 1)
    sandbox.cancel(call - 1)
    sandbox.cancel(call)
    assert is_canceled(sandbox, function)
