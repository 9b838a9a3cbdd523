"""Functions that return sets."""

from __future__ import annotations

import time

import pytest
from plc import codec
from plc.codec import Row, TextForm, Type

from .support import INT4, INT8, TEXT, VOID, CallError, Sandbox, composite

SET = codec.FUNCTION_SET


def define(sandbox: Sandbox, source: str, declared: Type = INT4, arguments: tuple[tuple[str, Type], ...] = ()) -> int:
    return sandbox.define(source, declared, arguments, flags=SET)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return [1, None, 3]", [1, None, 3]),
        ("return []", []),
        ("return (i for i in range(3))", [0, 1, 2]),
        ("for i in range(3): yield i", [0, 1, 2]),
        ("return {5: 1}", [5]),
        ("return '12'", [TextForm("1"), TextForm("2")]),
        ("return iter([1, '2'])", [1, TextForm("2")]),
        ("return type('S', (), {'__getitem__': lambda s, i: [7, 8][i]})()", [7, 8]),
        ("return range(1000)", list(range(1000))),
        ("if False: yield 1", []),
    ],
)
def test_sets(sandbox: Sandbox, source: str, expected: list[object]) -> None:
    assert sandbox.rows(define(sandbox, source)) == expected


def test_sets_of_rows(sandbox: Sandbox) -> None:
    declared = composite(a=INT4, b=TEXT)
    function = define(sandbox, "yield 1, 'x'\nyield {'a': None, 'b': 'y'}\nyield '(3,z)'\nyield None", declared)
    assert sandbox.rows(function) == [Row([1, "x"]), Row([None, "y"]), TextForm("(3,z)"), None]


def test_a_set_of_nothing(sandbox: Sandbox) -> None:
    assert sandbox.rows(define(sandbox, "return [None, None]", VOID)) == [None, None]
    with pytest.raises(CallError, match='return type "void" did not return None'):
        sandbox.rows(define(sandbox, "return [1]", VOID))


@pytest.mark.parametrize("expression", ["5", "None"])
def test_what_is_no_set(sandbox: Sandbox, expression: str) -> None:
    with pytest.raises(CallError, match="returned object cannot be iterated") as caught:
        sandbox.rows(define(sandbox, f"return {expression}"))
    assert caught.value.sqlstate == "42804"
    assert caught.value.fields["D"] == "PL/Container set-returning functions must return an iterable object."
    assert caught.value.context == ""


def test_a_generator_in_a_function_without_a_set_is_a_value(sandbox: Sandbox) -> None:
    assert sandbox.run("yield 1", TEXT).startswith("<generator object ")


def test_batches_have_what_was_allowed(sandbox: Sandbox) -> None:
    function = define(sandbox, "return range(1000)")
    call_id, rows, more = sandbox.open(function)
    assert (len(rows), more) == (codec.FIRST_ROWS, True)
    rows, more = sandbox.more(function, call_id, 10)
    assert (rows, more) == (list(range(64, 74)), True)
    rows, more = sandbox.more(function, call_id, 1 << 30, 100)
    assert (len(rows), more) == (20, True)
    rows, more = sandbox.more(function, call_id, 1 << 30, 1 << 30)
    assert (rows, more) == (list(range(94, 1000)), False)


def test_the_end_may_take_a_batch_of_its_own(sandbox: Sandbox) -> None:
    function = define(sandbox, "return range(64)")
    call_id, rows, more = sandbox.open(function)
    assert (len(rows), more) == (64, True)
    assert sandbox.more(function, call_id) == ([], False)


def test_slow_rows_do_not_wait_for_a_batch(sandbox: Sandbox) -> None:
    function = define(sandbox, "import time\nfor i in range(20):\n  time.sleep(0.03)\n  yield i")
    began = time.monotonic()
    _, rows, more = sandbox.open(function)
    assert 1 <= len(rows) < 20 and more
    assert time.monotonic() - began < 0.5


def test_a_row_too_many_waits_for_the_next_batch(sandbox: Sandbox) -> None:
    reply = sandbox.greet(max_frame=1 << 16)
    assert reply.max_frame == codec.MAX_FRAME_DEFAULT
    function = define(sandbox, "yield 'a' * 40000\nyield 'b' * 40000\nyield 'c' * 70000", TEXT)
    call_id, rows, more = sandbox.open(function)
    assert (rows, more) == (["a" * 40000], True)
    assert sandbox.more(function, call_id) == (["b" * 40000], True)
    with pytest.raises(CallError, match="too large for a message"):
        sandbox.more(function, call_id)
    assert sandbox.run("return 1") == 1


def test_many_sets_are_open_at_once(sandbox: Sandbox) -> None:
    function = define(sandbox, "for i in range(100): yield n * 1000 + i", INT4, (("n", INT4),))
    opened = [(n, *sandbox.open(function, n)) for n in range(50)]
    for n, call_id, rows, more in reversed(opened):
        assert more
        assert rows + sandbox.more(function, call_id)[0] == [n * 1000 + i for i in range(100)]


def test_what_a_generator_does_to_its_arguments_stays_its_own(sandbox: Sandbox) -> None:
    function = define(sandbox, "global n\nwhile True:\n  n += 1\n  yield n", INT4, (("n", INT4),))
    one, rows, _ = sandbox.open(function, 0)
    two, _, _ = sandbox.open(function, 1000)
    assert rows[-1] == 64
    assert sandbox.more(function, one, 2)[0] == [65, 66]
    assert sandbox.more(function, two, 2)[0] == [1065, 1066]
    assert sandbox.more(function, one, 2)[0] == [67, 68]


CLOSING = """
try:
    while True: yield 1
finally:
    print('closed', x)
    GD['closed'] = GD.get('closed', 0) + 1
"""


def test_closing_a_set_ends_its_generator(sandbox: Sandbox) -> None:
    function = define(sandbox, CLOSING, INT4, (("x", TEXT),))
    for name in ("a", "b"):
        call_id, _, _ = sandbox.open(function, name)
        sandbox.close(call_id)
        assert sandbox.run("return GD['closed']") == ord(name) - ord("a") + 1
    assert sandbox.log() == "closed a\nclosed b\n"


def test_errors_at_the_close_go_to_the_log(sandbox: Sandbox) -> None:
    source = "try:\n  while True: yield 1\nfinally:\n  plpy.notice('ends')\n  plpy.execute('select 1')"
    call_id, _, _ = sandbox.open(define(sandbox, source))
    sandbox.close(call_id)
    assert sandbox.run("return 1") == 1
    assert "ends\n" in sandbox.log()
    assert "plpy can be used within a call of a function only" in sandbox.log()
    assert (sandbox.logs, sandbox.requests) == ([], [])


def test_to_close_what_has_ended_is_no_error(sandbox: Sandbox) -> None:
    call_id, _, more = sandbox.open(define(sandbox, "return [1]"))
    assert not more
    sandbox.close(call_id)
    assert sandbox.run("return 1") == 1


@pytest.mark.parametrize("rows", [1, 10])
def test_credit_for_what_is_not_open_breaks_the_protocol(sandbox: Sandbox, rows: int) -> None:
    sandbox.send(7, codec.CREDIT, codec.encode_credit(rows, 100))
    header, payload = sandbox.receive()
    assert (header.type, dict(codec.decode_fields(payload))["C"]) == (codec.ERROR, "08P01")


def test_an_error_of_the_iterator(sandbox: Sandbox) -> None:
    function = define(sandbox, "\nfor i in range(100):\n  yield 1 // (99 - i)")
    call_id, rows, more = sandbox.open(function)
    assert len(rows) == 64 and more
    with pytest.raises(CallError, match="error fetching next item from iterator") as caught:
        sandbox.more(function, call_id)
    assert caught.value.sqlstate == "38000"
    assert caught.value.fields["D"].startswith("ZeroDivisionError: ")
    assert caught.value.context.splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  PL/Container function "f", line 3, in <module>',
    ]
    sandbox.close(call_id)
    assert sandbox.rows(define(sandbox, "return [1]")) == [1]


def test_an_error_of_a_row(sandbox: Sandbox) -> None:
    declared = composite(a=INT4)
    with pytest.raises(CallError, match="length of returned sequence") as caught:
        sandbox.rows(define(sandbox, "yield (1,)\nyield (1, 2)", declared))
    assert caught.value.context == "while creating return value"


def test_a_forgotten_function_goes_on_in_its_sets(sandbox: Sandbox) -> None:
    function = define(sandbox, "for i in range(100): yield i")
    call_id, _, _ = sandbox.open(function)
    sandbox.send(0, codec.FORGET, codec.encode_forget(function))
    assert sandbox.more(function, call_id)[0] == list(range(64, 100))


def test_a_cancel_of_a_set_that_waits(sandbox: Sandbox) -> None:
    function = define(sandbox, "while True: yield 1")
    call_id, _, _ = sandbox.open(function)
    other, _, _ = sandbox.open(function)
    sandbox.cancel(call_id)
    # The signal connection is another one: wait until the Cancel has arrived.
    with pytest.raises(CallError) as caught:
        while True:
            sandbox.more(function, call_id)
    assert caught.value.sqlstate == "57014"
    assert sandbox.more(function, other, 2) == ([1, 1], True)


def test_a_cancel_of_a_batch(sandbox: Sandbox) -> None:
    function = define(sandbox, "yield 1\nplpy.notice('runs')\nwhile True: pass")
    call_id = sandbox.start(function)
    header, _ = sandbox.receive()
    assert header.type == codec.LOG
    sandbox.cancel(call_id)
    with pytest.raises(CallError) as caught:
        sandbox.batch(function, call_id)
    assert caught.value.sqlstate == "57014"
    assert sandbox.rows(define(sandbox, "return [1]")) == [1]


def test_a_million_rows(sandbox: Sandbox) -> None:
    function = define(sandbox, "return range(1000000)", INT8)
    call_id, rows, more = sandbox.open(function)
    while more:
        batch, more = sandbox.more(function, call_id, 1 << 20, 1 << 20)
        rows += batch
    assert rows == list(range(1_000_000))
