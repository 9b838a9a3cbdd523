"""What callers are told of errors, and what survives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from plc import codec

from tests.unit.runtime_python.support import INT4, TEXT, VOID, CallError, Sandbox, array, composite

from .conftest import Start


def failure(sandbox: Sandbox, source: str, result: codec.Type = INT4, name: str = "f") -> CallError:
    """The error that a function ends with; the sandbox goes on after it."""
    function = sandbox.define(source, result, name=name)
    with pytest.raises(CallError) as caught:
        sandbox.call(function)
    assert sandbox.run("1L") == 1
    return caught.value


def test_the_users_message_comes_first_and_the_place_is_told(sandbox: Sandbox) -> None:
    error = failure(
        sandbox, "\n# container: plc_r_shared\ninner <- function(x) {\n  stop('boom ', x)\n}\ninner(1)", name="outer"
    )
    assert error.fields["M"] == "boom 1"
    assert error.sqlstate == "38000"
    assert error.context.splitlines() == [
        "R call stack (most recent call last):",
        '  PL/Container function "outer", line 6, in outer()',
        "    inner(1)",
        '  PL/Container function "outer", line 4, in inner()',
        "    stop('boom ', x)",
    ]


def test_errors_of_r_itself_have_their_line(sandbox: Sandbox) -> None:
    error = failure(sandbox, "\nx <- 1\nlog(-1 + 'a')")
    assert error.fields["M"] == "non-numeric argument to binary operator"
    assert 'PL/Container function "f", line 3, in f()' in error.context


def test_the_place_is_told_of_compiled_code_too(sandbox: Sandbox) -> None:
    function = sandbox.define("\nfor (i in 1:3) NULL\nif (x > 2) stop('late')\nx", INT4, [("x", INT4)])
    for _ in range(5):
        assert sandbox.call(function, 1) == 1
    with pytest.raises(CallError) as caught:
        sandbox.call(function, 3)
    assert "line 3, in f()\n    if (x > 2) stop(" in caught.value.context


def test_a_long_stack_is_told_from_both_ends(sandbox: Sandbox) -> None:
    error = failure(sandbox, "g <- function(n) if (n == 0) stop('deep') else g(n - 1)\ng(100)")
    assert "more calls]" in error.context
    assert len(error.context) < 6000


def test_a_source_that_does_not_compile(sandbox: Sandbox) -> None:
    error = failure(sandbox, "x <- 1\ny <- )\n")
    assert error.sqlstate == "42601"
    assert error.fields["M"] == 'could not compile PL/Container function "f"'
    assert "unexpected ')' (line 2)" in error.fields["D"]
    assert error.context == 'PL/Container function "f", line 2\n    y <- )'


def test_check(sandbox: Sandbox) -> None:
    sandbox.send(900, codec.CHECK, codec.encode_check(0, "f", "1 +"))
    with pytest.raises(CallError) as caught:
        sandbox.answer(900)
    assert caught.value.sqlstate == "42601"
    sandbox.send(901, codec.CHECK, codec.encode_check(0, "f", "1 + 1"))
    header, payload = sandbox.answer(901)
    assert (header.type, payload) == (codec.RESULT, b"\0")


def test_throwerror_has_fields(sandbox: Sandbox) -> None:
    error = failure(sandbox, "pg.throwerror('mine', detail = 'd', hint = 'h', table = 't', sqlstate = '22012')")
    assert {key: error.fields[key] for key in "CMDHt"} == {"C": "22012", "M": "mine", "D": "d", "H": "h", "t": "t"}
    assert failure(sandbox, "pg.throwerror('x', sqlstate = '1')").fields["M"] == "invalid SQLSTATE"


def test_an_errors_own_sqlstate_is_used(sandbox: Sandbox) -> None:
    source = (
        "stop(structure(class = c('mine', 'error', 'condition'), list(message = 'm', call = NULL, sqlstate = '22003')))"
    )
    assert failure(sandbox, source).sqlstate == "22003"


def test_conversions_say_so(sandbox: Sandbox) -> None:
    error = failure(sandbox, "sum", TEXT)
    assert (error.sqlstate, error.context) == ("42804", "while creating return value")
    assert failure(sandbox, "array(1:8, c(2, 2, 2))", composite("r", a=INT4)).sqlstate == "42804"


@pytest.mark.parametrize("source", ["quote(stop('not run'))", "quote(x)", "as.name('x')", "environment()", "~ x"])
def test_code_that_is_returned_is_not_run(source: str, sandbox: Sandbox) -> None:
    error = failure(sandbox, source, array(INT4))
    assert error.sqlstate in ("42804", "38000")


def test_warnings_are_told_and_do_not_end_the_call(sandbox: Sandbox) -> None:
    sandbox.logs.clear()
    assert sandbox.run("warning('careful'); suppressWarnings(warning('unheard')); 1L") == 1
    assert sandbox.logs == [(codec.LOG_WARNING, {"M": "careful"})]


def test_messages_have_levels_and_fields(sandbox: Sandbox) -> None:
    sandbox.logs.clear()
    source = "\n".join(f"pg.throw{level}('m', hint = 'h')" for level in ("debug", "log", "info", "notice", "warning"))
    sandbox.run(source, VOID)
    assert sandbox.logs == [(level, {"M": "m", "H": "h"}) for level in range(1, 6)]


def test_a_function_catches_errors_itself(sandbox: Sandbox) -> None:
    assert sandbox.run("tryCatch(stop('a'), error = function(e) conditionMessage(e), finally = NULL)", TEXT) == "a"
    assert sandbox.run("x <- try(stop('a'), silent = TRUE); class(x)", TEXT) == "try-error"


def test_endless_recursion_is_an_error(sandbox: Sandbox) -> None:
    assert failure(sandbox, "f <- function() f(); f()").sqlstate == "54001"


@pytest.mark.parametrize("source", ["q()", "quit(status = 1)", "base::invokeRestart('abort')"])
def test_a_function_cannot_end_r(source: str, sandbox: Sandbox) -> None:
    failure(sandbox, source)


def test_a_result_beyond_the_frame_is_an_error(start: Start) -> None:
    with start() as small:
        small.greet(max_frame=1 << 16)
        error = failure(small, "strrep('x', 70000)", TEXT)
        assert error.sqlstate == "54000"
        assert len(failure(small, "stop(strrep('x', 100000))").fields["M"]) < 9000


# --- Cancel ---------------------------------------------------------------------------------------


def cancelled(sandbox: Sandbox, source: str) -> float:
    """Cancel a call once it runs; returns the seconds until its end."""
    function = sandbox.define(f"pg.thrownotice('runs')\n{source}")
    call_id = sandbox.start(function)
    header, _ = sandbox.receive()
    assert header.type == codec.LOG
    begin = time.monotonic()
    sandbox.cancel(call_id)
    with pytest.raises(CallError) as caught:
        sandbox.finish(function)
    assert caught.value.sqlstate == "57014"
    return time.monotonic() - begin


@pytest.mark.parametrize(
    "source",
    [
        "repeat {}",
        "Sys.sleep(100)",
        "repeat tryCatch(Sys.sleep(100), error = function(e) NULL, interrupt = function(e) NULL)",
        "repeat try(stop('x'), silent = TRUE)",
        "tryCatch(repeat {}, finally = repeat {})",
        "lapply(1:3, function(i) repeat i)",
    ],
)
def test_cancel(source: str, sandbox: Sandbox) -> None:
    sandbox.run("kept <<- 7")
    assert cancelled(sandbox, source) < 10
    assert sandbox.run("kept", INT4) == 7


def test_a_cancel_that_comes_first(sandbox: Sandbox) -> None:
    function = sandbox.define("Sys.sleep(0.2); 1L")
    sandbox.cancel(sandbox.call_id + 1)
    try:
        assert sandbox.call(function) == 1
    except CallError as error:
        assert error.sqlstate == "57014"


def test_a_late_cancel_is_ignored(sandbox: Sandbox) -> None:
    assert sandbox.run("1L") == 1
    sandbox.cancel(sandbox.call_id)
    assert sandbox.run("sum(sapply(1:2000, identity))", INT4) == 2001000


# --- the end ----------------------------------------------------------------------------------------


def ends(sandbox: Sandbox, act: Callable[[], None]) -> None:
    waiting = threading.Thread(target=sandbox.process.wait, args=(30,))
    act()
    waiting.start()
    waiting.join()
    assert sandbox.process.returncode is not None


def test_the_end_of_the_signal_connection_ends_the_process(start: Start) -> None:
    with start() as sandbox:
        sandbox.greet()
        sandbox.start(sandbox.define("repeat {}"))
        ends(sandbox, sandbox.signals.close)


def test_the_end_of_the_data_connection_ends_the_process(start: Start) -> None:
    with start() as sandbox:
        sandbox.greet()
        ends(sandbox, sandbox.data.close)
        assert sandbox.process.returncode == 0


def test_children_have_no_part_in_the_conversation(sandbox: Sandbox) -> None:
    source = (
        "unlist(parallel::mclapply(1:2, function(i) tryCatch(pg.spi.exec('x'), error = function(e) conditionCall(e))))"
    )
    sandbox.run(source, TEXT)
    assert sandbox.run("unlist(parallel::mclapply(1:2, function(i) 10 * i))", array(INT4)).items == [10, 20]


def test_a_source_is_read_as_the_body_of_a_function(sandbox: Sandbox) -> None:
    source = "\nif (x > 1)\n{\n  1L\n}\nelse\n{\n  2L\n} # end"
    function = sandbox.define(source, INT4, [("x", INT4)])
    assert (sandbox.call(function, 5), sandbox.call(function, 0)) == (1, 2)
    assert failure(sandbox, "1L }; {").sqlstate == "42601"
    assert "unexpected end of input" in failure(sandbox, "{ 1L").fields["D"]
