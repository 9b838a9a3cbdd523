"""Queries of functions in a sandbox: over both loops, with values as they travel."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
from plc import codec

from .support import BYTEA, FLOAT8, INT4, INT8, NUMERIC, TEXT, CallError, Sandbox, array, composite, one_dimension

COLUMNS = [
    codec.Column("i", INT4, 23, -1),
    codec.Column("t", TEXT, 25, -1),
    codec.Column("a", array(FLOAT8), 1022, -1),
]


def rows(*values: Any, columns: Any = COLUMNS, status: int = 5) -> bytes:
    """The answer to a statement that returns these rows."""
    return codec.encode_answer(status, len(values), columns, values)


def more(*values: Any) -> bytes:
    """A further message of an answer."""
    out = bytearray()
    codec.write_columns(out, COLUMNS, values)
    return bytes(out)


def prepared(*types: codec.Type, number: int = 1) -> bytes:
    """The answer to a prepare."""
    return struct.pack("<II", number, len(types)) + b"".join(map(codec.encode_type, types))


def integers(*values: int, status: int = 5) -> bytes:
    """Rows of one integer."""
    return rows(*([value] for value in values), columns=COLUMNS[:1], status=status)


def error(sqlstate: str, message: str, **fields: str) -> dict[str, str]:
    """The answer to what fails."""
    return {"C": sqlstate, "M": message, **fields}


def test_rows_are_dictionaries(sandbox: Sandbox) -> None:
    sandbox.script.append(rows([1, "ü", one_dimension(0.5, None)], [None, None, None]))
    source = "r = plpy.execute('select')\nreturn repr((r.nrows(), r[:], r.colnames(), r.coltypes(), r.coltypmods()))"
    assert sandbox.run(source, TEXT) == repr(
        (
            2,
            [{"i": 1, "t": "ü", "a": [0.5, None]}, {"i": None, "t": None, "a": None}],
            ["i", "t", "a"],
            [23, 25, 1022],
            [-1, -1, -1],
        )
    )
    assert sandbox.requests == [(codec.SQL, b"\x01" + codec.encode_strings("select") + bytes(8))]


def test_rows_of_several_messages(sandbox: Sandbox) -> None:
    row = [1, "x", one_dimension(1.0)]
    sandbox.script.append([rows(row), more(row, row), more()])
    assert sandbox.run("return len(plpy.execute('q'))") == 3


def test_commands(sandbox: Sandbox) -> None:
    sandbox.script.append(codec.encode_answer(7, 3))
    source = "r = plpy.execute('insert')\nreturn '%s %s %s' % (r.status(), r.nrows(), len(r))"
    assert sandbox.run(source, TEXT) == "7 3 0"


def test_rows_without_columns(sandbox: Sandbox) -> None:
    sandbox.script.append(rows([], [], columns=[]))
    assert (
        sandbox.run("return str(plpy.execute('select from t'))", TEXT) == "<PLyResult status=5 nrows=2 rows=[{}, {}]>"
    )


def test_parameters(sandbox: Sandbox) -> None:
    types = [INT8, TEXT, NUMERIC, array(FLOAT8), BYTEA, composite("pair", a=INT4, b=TEXT), INT4]
    sandbox.script.extend([prepared(*types), codec.encode_answer(4, 0)])
    source = """
from decimal import Decimal
plan = plpy.prepare("q", ["int8", "text", "numeric", "float8[]", "bytea", "pair", "int4"])
plan.execute([1 << 40, "ü", Decimal("1.50"), [1.5, None], b"\\0x", {"a": 1, "b": None}, "wrong"], 7)
"""
    sandbox.run(source, TEXT)
    payload = sandbox.requests[1][1]
    reader = codec.Reader(payload)
    assert (reader.u8(), reader.u32(), reader.u64(), reader.u32()) == (codec.SQL_EXECUTE_PLAN, 1, 7, 7)
    # Padding is counted from the first byte of the payload.
    values = [codec.read_value(reader, declared, True) for declared in types]
    reader.finish()
    assert values[:5] == [1 << 40, "ü", "1.50", one_dimension(1.5, None), b"\0x"]
    assert values[5] == codec.Row([1, None])
    assert isinstance(values[6], codec.TextForm)
    assert values[6] == "wrong"


def test_a_parameter_without_text(sandbox: Sandbox) -> None:
    sandbox.script.append(prepared(TEXT))
    source = """
class T:
    def __str__(self): return 1/0
try:
    plpy.prepare("q", ["text"]).execute([T()])
except plpy.SPIError as e:
    return "%s | %s | %s" % (type(e).__name__, e, e.detail)
"""
    assert sandbox.run(source, TEXT) == (
        "ExternalRoutineException | could not create string representation of Python object | "
        "ZeroDivisionError: division by zero"
    )


def test_errors_can_be_caught(sandbox: Sandbox) -> None:
    sandbox.script.extend([error("23505", "m", D="d", n="c"), integers(5)])
    source = """
try:
    plpy.execute("insert")
except plpy.spiexceptions.UniqueViolation as e:
    assert (e.detail, e.constraint_name, e.sqlstate) == ("d", "c", "23505")
return plpy.execute("select")[0]["i"]
"""
    assert sandbox.run(source) == 5


def test_an_error_that_nobody_catches(sandbox: Sandbox) -> None:
    fields = {"D": "d", "H": "h", "q": "syntax error", "p": "1", "s": "s", "t": "t", "c": "c", "d": "dt", "n": "n"}
    sandbox.script.append(error("42601", 'syntax error at or near "syntax"', W="SQL statement", **fields))
    with pytest.raises(CallError) as caught:
        sandbox.run("def g():\n  plpy.execute('syntax error')\ng()")
    assert caught.value.fields == {
        "C": "42601",
        "M": 'spiexceptions.SyntaxError: syntax error at or near "syntax"',
        "W": "Traceback (most recent call last):\n"
        '  PL/Container function "f", line 3, in <module>\n'
        "    g()\n"
        '  PL/Container function "f", line 2, in g\n'
        "    plpy.execute('syntax error')",
        **fields,
    }


def test_a_statement_may_call_functions(sandbox: Sandbox) -> None:
    inner = sandbox.define("return n + plpy.execute('deeper')[0]['i']", INT4, [("n", INT4)], name="inner")
    outer = sandbox.define("return n + plpy.execute('select inner(1)')[0]['i']", INT4, [("n", INT4)], name="outer")

    def call_inner() -> bytes:
        before = sandbox.call_id
        sandbox.script.append(integers(100))
        value = sandbox.call(inner, 10)
        sandbox.call_id = before
        return integers(value)

    sandbox.script.append(call_inner)
    assert sandbox.call(outer, 1) == 111


def test_a_plan_in_sd_outlives_its_call(sandbox: Sandbox) -> None:
    source = "p = SD.setdefault('p', None) or plpy.prepare('q', ['int4'])\nSD['p'] = p\nreturn p.execute([1])[0]['i']"
    function = sandbox.define(source)
    sandbox.script.extend([prepared(INT4), integers(1), integers(2)])
    assert [sandbox.call(function), sandbox.call(function)] == [1, 2]


def test_a_plan_that_was_dropped_is_discarded_later(sandbox: Sandbox) -> None:
    function = sandbox.define("plpy.prepare('q')\nreturn 1")
    sandbox.script.extend([prepared(number=1), prepared(number=2)])
    sandbox.call(function)
    assert len(sandbox.requests) == 1
    sandbox.call(function)
    discard = struct.pack("<BIII", codec.SQL_DISCARD, 1, 1, 0)
    assert [payload for _, payload in sandbox.requests][1:2] == [discard]


def test_cursors(sandbox: Sandbox) -> None:
    batches = [integers(*range(10), status=3), integers(*range(10, 15), status=3)]
    sandbox.script.extend([codec.encode_strings("c1"), *batches, b""])
    source = "c = plpy.cursor('q')\ns = sum(r['i'] for r in c)\nc.close()\nreturn s"
    assert sandbox.run(source) == sum(range(15))
    assert [payload[0] for _, payload in sandbox.requests] == [4, 6, 6, 7]


@pytest.mark.parametrize("end", ["return 1", "1/0"])
def test_a_cursor_ends_with_its_call(sandbox: Sandbox, end: str) -> None:
    sandbox.script.append(codec.encode_strings("c1"))
    function = sandbox.define(f"c = plpy.cursor('q')\n{end}")
    with suppress(CallError):
        sandbox.call(function)
    assert [payload[0] for _, payload in sandbox.requests] == [codec.SQL_OPEN, codec.SQL_DISCARD]


def test_a_cursor_in_an_aborted_subtransaction(sandbox: Sandbox) -> None:
    gone = error("34000", 'cursor "c1" does not exist')
    sandbox.script.extend([b"", codec.encode_strings("c1"), error("42883", "no such function"), b"", gone])
    source = """
try:
    with plpy.subtransaction():
        c = plpy.cursor("q")
        plpy.execute("select no_such_function()")
except plpy.SPIError:
    c.fetch(10)
"""
    with pytest.raises(CallError) as caught:
        sandbox.run(source)
    assert str(caught.value) == "ValueError: iterating a cursor in an aborted subtransaction"


def test_subtransactions(sandbox: Sandbox) -> None:
    sandbox.script.extend([b"", codec.encode_answer(7, 1), b"", b"", error("22012", "m"), b""])
    source = """
with plpy.subtransaction():
    plpy.execute("a")
try:
    with plpy.subtransaction():
        plpy.execute("b")
except plpy.spiexceptions.DivisionByZero:
    return 1
"""
    assert sandbox.run(source) == 1
    kinds = [(kind, payload[0]) for kind, payload in sandbox.requests]
    sub = codec.SUBTRANSACTION
    assert kinds == [(sub, 1), (codec.SQL, 1), (sub, 2), (sub, 1), (codec.SQL, 1), (sub, 3)]


def test_transactions(sandbox: Sandbox) -> None:
    sandbox.script.extend([b"", b""])
    sandbox.run("plpy.commit()\nplpy.rollback()")
    assert sandbox.requests == [(codec.SQL, b"\x08"), (codec.SQL, b"\x09")]


@pytest.mark.parametrize("call", ["plpy.execute('q')", "GD['plan'].execute()", "plpy.subtransaction().__enter__()"])
def test_queries_in_another_thread_are_refused(sandbox: Sandbox, call: str) -> None:
    sandbox.script.append(prepared())
    source = f"""
import threading
GD['plan'] = plpy.prepare('q')
caught = []
def run():
    try:
        {call}
    except RuntimeError as e:
        caught.append(str(e))
t = threading.Thread(target=run)
t.start()
t.join()
return caught[0]
"""
    assert sandbox.run(source, TEXT) == "plpy can be used in the function's own thread only"
    assert len(sandbox.requests) == 1


def test_a_call_that_only_asks_can_be_cancelled(sandbox: Sandbox) -> None:
    function = sandbox.define("while True:\n  try:\n    plpy.execute('q')\n  except Exception:\n    pass")
    call = sandbox.start(function)

    def cancel() -> dict[str, str]:
        sandbox.cancel(call)
        return error("57014", "canceling statement due to user request")

    sandbox.script.extend([codec.encode_answer(4, 0)] * 3)
    sandbox.script.append(cancel)
    with pytest.raises(CallError) as caught:
        sandbox.finish(function)
    assert caught.value.sqlstate == "57014"
    assert sandbox.run("return 1") == 1


def test_a_query_beyond_max_frame(sandbox: Sandbox) -> None:
    sandbox.greet(max_frame=1 << 16)
    with pytest.raises(CallError) as caught:
        sandbox.run("plpy.execute('x' * 100000)")
    assert caught.value.sqlstate == "54000"
    assert sandbox.requests == []


def test_queries_of_a_child_process_are_refused(sandbox: Sandbox) -> None:
    source = """
import os
child = os.fork()
if child == 0:
    try:
        plpy.execute('q')
    except RuntimeError:
        os._exit(3)
    os._exit(4)
return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
    assert sandbox.run(source) == 3
    assert sandbox.requests == []
