"""Requests of functions, and what the backend does before it answers them."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator

import pytest
from plc import codec
from plc.codec import Column, Row, Type

from .support import FLOAT8, INT4, TEXT, TIMEOUT_S, CallError, Sandbox, array, composite, one_dimension

SELECT = "plpy.execute('select')"
COLUMNS = [Column("i", INT4, 23, -1), Column("t", TEXT, 25, 7), Column("r", composite(x=array(FLOAT8)), 16384, -1)]


def rows(*values: int) -> bytes:
    """The answer to a query that selects integers."""
    return codec.encode_answer(5, len(values), [Column("i", INT4, 23, -1)], [[value] for value in values])


def test_the_answer_to_a_query(sandbox: Sandbox) -> None:
    sandbox.script.append(codec.encode_answer(5, 2, COLUMNS, [[1, "a", None], [None, None, Row([one_dimension(0.5)])]]))
    source = f"r = {SELECT}\nreturn repr((list(r), r.colnames(), r.coltypes(), r.coltypmods(), r.nrows(), r.status()))"
    rows = "[{'i': 1, 't': 'a', 'r': None}, {'i': None, 't': None, 'r': {'x': [0.5]}}]"
    assert sandbox.run(source, TEXT) == f"({rows}, ['i', 't', 'r'], [23, 25, 16384], [-1, 7, -1], 2, 5)"
    assert sandbox.requests == [(codec.SQL, b"\1\6\0\0\0select" + bytes(8))]


def test_an_answer_in_several_frames(sandbox: Sandbox) -> None:
    parts = [rows(1, 2)]
    for values in ((3,), (), tuple(range(4, 30_000))):
        part = bytearray()
        codec.write_columns(part, [Column("i", INT4, 23, -1)], [[value] for value in values])
        parts.append(bytes(part))
    sandbox.script.append(parts)
    assert sandbox.run(f"return [r['i'] for r in {SELECT}]", array(INT4)).items == list(range(1, 30_000))


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (INT4, 7, 7),
        (INT4, None, None),
        (TEXT, "x", "x"),
        (composite(a=INT4, b=TEXT), (1, "y"), Row([1, "y"])),
        (array(FLOAT8), [1.5, None], one_dimension(1.5, None)),
        (array(composite(a=array(FLOAT8))), [([0.25],)], one_dimension(Row([one_dimension(0.25)]))),
    ],
)
def test_parameters_of_a_plan(sandbox: Sandbox, declared: Type, value: object, expected: object) -> None:
    sandbox.script += [struct.pack("<II", 9, 2) + codec.encode_type(INT4) + codec.encode_type(declared), rows(5)]
    source = f"p = plpy.prepare('q', ['int4', 'x'])\nGD['p'] = p\nreturn p.execute([3, {value!r}])[0]['i']"
    assert sandbox.run(source) == 5
    reader = codec.Reader(sandbox.requests[1][1])
    assert (reader.u8(), reader.u32(), reader.u64(), reader.u32()) == (codec.SQL_EXECUTE_PLAN, 9, 0, 2)
    assert codec.read_value(reader, INT4, True) == 3
    assert codec.read_value(reader, declared, True) == expected
    reader.finish()


def test_a_parameter_that_cannot_be_converted(sandbox: Sandbox) -> None:
    sandbox.script.append(struct.pack("<II", 9, 1) + codec.encode_type(array(INT4)))
    with pytest.raises(CallError, match="return value of function with array return type") as caught:
        sandbox.run("p = plpy.prepare('q', ['int4[]'])\np.execute([5])")
    assert caught.value.sqlstate == "42804"
    assert "while creating return value" not in caught.value.context


def test_an_error_is_an_exception_of_the_function(sandbox: Sandbox) -> None:
    sandbox.script.append({"C": "22012", "M": "division by zero"})
    source = f"try: {SELECT}\nexcept plpy.spiexceptions.DivisionByZero as e: return e.sqlstate"
    assert sandbox.run(source, TEXT) == "22012"


def test_subtransactions(sandbox: Sandbox) -> None:
    sandbox.script += [b"", b""]
    assert sandbox.run("with plpy.subtransaction(): pass\nreturn 1") == 1
    assert sandbox.requests == [(codec.SUBTRANSACTION, b"\1"), (codec.SUBTRANSACTION, b"\2")]


# --- calls before the answer ----------------------------------------------


def test_a_statement_calls_a_function(sandbox: Sandbox) -> None:
    def answer() -> bytes:
        inner = sandbox.define("return x * 2", INT4, [("x", INT4)])
        return rows(*(sandbox.call(inner, i) for i in range(3)))

    sandbox.script.append(answer)
    outer = sandbox.define(f"plpy.notice('a')\nr = {SELECT}\nplpy.notice('b')\nreturn sum(r['i'] for r in r)")
    call_id = sandbox.start(outer)
    assert sandbox.finish(outer, call_id) == 6
    assert [fields["M"] for _, fields in sandbox.logs] == ["a", "b"]


def test_recursion_keeps_the_arguments_of_each_call(sandbox: Sandbox) -> None:
    source = f"""
before = n, args[0], s
if n > 0: {SELECT}
assert (n, args[0], s) == before, (n, args, s)
return n
"""
    function = sandbox.define(source, INT4, [("n", INT4), ("s", TEXT)])

    def answer(n: int) -> Callable[[], bytes]:
        return lambda: rows(sandbox.call(function, n, "x" * n * 10_000))

    sandbox.script += [answer(n) for n in range(5)][::-1]
    call_id = sandbox.start(function, 5, "y")
    assert sandbox.finish(function, call_id) == 5


def nest(sandbox: Sandbox, function: int, depth: int) -> list[str]:
    """Call a function within itself; return the errors that calls have ended with."""
    errors: list[str] = []

    def answer() -> bytes:
        call_id = sandbox.start(function)
        try:
            sandbox.finish(function, call_id)
        except CallError as error:
            errors.append(error.sqlstate)
        return rows()

    sandbox.script += [answer] * depth
    call_id = sandbox.start(function)
    sandbox.finish(function, call_id)
    return errors


@pytest.fixture
def deep_stack() -> Iterator[None]:
    """This side keeps a stack as well."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("deep_stack")
@pytest.mark.parametrize("frames", [0, 30])
def test_calls_nest_only_so_deep(sandbox: Sandbox, frames: int) -> None:
    function = sandbox.define(f"def f(n): return f(n - 1) if n else {SELECT}\nf({frames})\nreturn 1")
    # The innermost one has no request of its own: its Error is the last answer.
    assert nest(sandbox, function, 250) == ["54001"]
    assert sandbox.run("return 1") == 1


def test_the_stack_of_python_may_be_deep_as_well(sandbox: Sandbox) -> None:
    source = f"def f(n): return f(n - 1) if n else {SELECT}\nf(700)\nreturn 1"
    function = sandbox.define(source)
    errors = nest(sandbox, function, 3)
    assert set(errors) <= {"38000", "54001"}
    assert sandbox.run("return 1") == 1


def test_registering_and_forgetting_before_the_answer(sandbox: Sandbox) -> None:
    function = sandbox.define(f"{SELECT}\nreturn SD.setdefault('x', 1) + len(plpy.quote_ident('a'))")

    def answer() -> bytes:
        sandbox.define("return 100", function_id=function)
        assert sandbox.call(function) == 100
        sandbox.send(0, codec.FORGET, codec.encode_forget(function))
        return rows()

    sandbox.script.append(answer)
    call_id = sandbox.start(function)
    assert sandbox.finish(function, call_id) == 2


def test_sets_go_on_before_the_answer(sandbox: Sandbox) -> None:
    source = "for i in range(100):\n  if i in (10, 70): plpy.execute('x')\n  yield n + i"
    function = sandbox.define(source, INT4, [("n", INT4)], flags=codec.FUNCTION_SET)
    outer = sandbox.define(f"{SELECT}\nreturn 1")

    def answer() -> bytes:
        sandbox.script += [rows(), rows(), rows(), rows()]
        one, first, _ = sandbox.open(function, 1000)
        two, _, _ = sandbox.open(function, 2000)
        assert first + sandbox.more(function, one)[0] == [1000 + i for i in range(100)]
        assert sandbox.more(function, two)[0][-1] == 2099
        return rows()

    sandbox.script.append(answer)
    call_id = sandbox.start(outer)
    assert sandbox.finish(outer, call_id) == 1


def test_a_set_is_closed_before_the_answer(sandbox: Sandbox) -> None:
    function = sandbox.define("try:\n  while True: yield 1\nfinally: plpy.execute('x')", flags=codec.FUNCTION_SET)
    opened, _, _ = sandbox.open(function)
    outer = sandbox.define(f"{SELECT}\nreturn 1")

    def answer() -> bytes:
        sandbox.close(opened)
        return rows()

    sandbox.script.append(answer)
    assert sandbox.call(outer) == 1
    assert len(sandbox.requests) == 1
    assert "plpy can be used within a call of a function only" in sandbox.log()


def test_methods_of_a_result_make_requests(sandbox: Sandbox) -> None:
    sandbox.script += [rows(1), rows(2)]
    source = f"class T:\n  def __str__(self): return str({SELECT}[0]['i'])\nreturn [T(), T()]"
    assert sandbox.run(source, array(TEXT)) == one_dimension("1", "2")


@pytest.mark.parametrize(
    ("call", "kind", "flags"),
    [
        (0, codec.SQL, codec.FLAG_REPLY),
        (1, codec.SUBTRANSACTION, codec.FLAG_REPLY),
        (1, codec.RESULT, 0),
        (1, codec.SQL, 0),
        (1, codec.RESULT, codec.FLAG_REPLY),
    ],
)
def test_junk_in_place_of_an_answer(sandbox: Sandbox, call: int, kind: int, flags: int) -> None:
    source = f"try: {SELECT}\nexcept BaseException: pass\nreturn 1"
    call_id = sandbox.start(sandbox.define(source))
    sandbox.receive()
    sandbox.send(call_id if call else 1, kind, rows(), flags)
    header, payload = sandbox.receive()
    assert (header.type, dict(codec.decode_fields(payload))["C"]) == (codec.ERROR, "08P01")
    assert sandbox.process.wait(TIMEOUT_S) == 1


def test_an_answer_that_nobody_waits_for(sandbox: Sandbox) -> None:
    sandbox.send(1, codec.SQL, rows(), codec.FLAG_REPLY)
    header, _ = sandbox.receive()
    assert header.type == codec.ERROR
    assert sandbox.process.wait(TIMEOUT_S) == 1


def test_the_end_of_the_connection_in_place_of_an_answer(sandbox: Sandbox) -> None:
    sandbox.start(sandbox.define(f"try: {SELECT}\nexcept BaseException: print('seen')"))
    sandbox.receive()
    sandbox.data.close()
    assert sandbox.process.wait(TIMEOUT_S) == 0
    assert "seen" not in sandbox.log()


# --- cancelling -----------------------------------------------------------

CANCELED = {"C": "57014", "M": "canceling statement due to user request"}
CATCH = f"""
for i in range(2):
    try: {SELECT}
    except BaseException as e: plpy.notice(type(e).__name__)
return 1
"""


def test_a_cancel_of_a_call_that_waits(sandbox: Sandbox) -> None:
    call_id = sandbox.start(sandbox.define(CATCH))

    def answer() -> dict[str, str]:
        sandbox.cancel(call_id)
        return CANCELED

    sandbox.script.append(answer)
    with pytest.raises(CallError) as caught:
        sandbox.finish(1, call_id)
    assert caught.value.sqlstate == "57014"
    assert len(sandbox.requests) == 1
    assert sandbox.run("return 1") == 1


def test_a_cancel_of_an_inner_call_ends_the_outer_ones(sandbox: Sandbox) -> None:
    inner = sandbox.define("plpy.notice('runs')\nwhile True: pass")
    outer = sandbox.define(CATCH)

    def answer() -> dict[str, str]:
        call_id = sandbox.start(inner)
        header, _ = sandbox.receive()
        assert header.type == codec.LOG
        sandbox.cancel(call_id)
        with pytest.raises(CallError) as caught:
            sandbox.finish(inner, call_id)
        assert caught.value.sqlstate == "57014"
        return CANCELED

    sandbox.script.append(answer)
    call_id = sandbox.start(outer)
    with pytest.raises(CallError) as caught:
        sandbox.finish(outer, call_id)
    assert caught.value.sqlstate == "57014"
    assert len(sandbox.requests) == 1
    assert sandbox.run("return 1") == 1


def test_a_cancel_that_the_answer_has_overtaken(sandbox: Sandbox) -> None:
    """The signal connection is another one: its Cancel may come late."""
    call_id = sandbox.start(sandbox.define(f"{SELECT}\nplpy.notice('goes on')\nwhile True: pass"))
    sandbox.script.append(rows())

    header, _ = sandbox.receive()
    sandbox.reply(header, rows())
    header, _ = sandbox.receive()
    assert header.type == codec.LOG
    sandbox.cancel(call_id)
    with pytest.raises(CallError) as caught:
        sandbox.finish(1, call_id)
    assert caught.value.sqlstate == "57014"


def test_a_cancel_of_an_outer_call_waits_for_the_inner_one(sandbox: Sandbox) -> None:
    outer = sandbox.define(CATCH)
    call_id = sandbox.start(outer)

    def answer() -> bytes:
        sandbox.cancel(call_id)
        inner = sandbox.define("import time\ntime.sleep(0.3)\nreturn 7")
        assert sandbox.finish(inner, sandbox.start(inner)) == 7
        return rows()

    sandbox.script.append(answer)
    with pytest.raises(CallError) as caught:
        sandbox.finish(outer, call_id)
    assert caught.value.sqlstate == "57014"


# --- where there is no call -----------------------------------------------


def test_requests_of_other_threads_are_refused(sandbox: Sandbox) -> None:
    source = f"""
import threading
seen = []
def run():
    try: {SELECT}
    except RuntimeError as e: seen.append(str(e))
thread = threading.Thread(target=run)
thread.start()
thread.join()
return seen[0]
"""
    assert sandbox.run(source, TEXT) == "plpy can be used in the function's own thread only"


def test_threads_run_while_a_request_waits(sandbox: Sandbox) -> None:
    source = f"""
import threading
done = threading.Event()
threading.Thread(target=done.set).start()
{SELECT}
return int(done.wait({TIMEOUT_S}))
"""
    sandbox.script.append(rows())
    assert sandbox.run(source) == 1


def test_requests_of_child_processes_are_refused(sandbox: Sandbox) -> None:
    source = f"""
import os
child = os.fork()
if child == 0:
    try: {SELECT}
    except RuntimeError as e: print(e, flush=True)
    return 0
os.waitpid(child, 0)
return 1
"""
    assert sandbox.run(source) == 1
    assert sandbox.requests == []
    assert "plpy can be used within a call of a function only\n" in sandbox.log()


def test_a_child_of_a_nested_call_never_answers(sandbox: Sandbox) -> None:
    def answer() -> bytes:
        inner = sandbox.define("import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\nreturn child and 1")
        return rows(sandbox.call(inner))

    sandbox.script.append(answer)
    outer = sandbox.define(f"return {SELECT}[0]['i']")
    assert sandbox.finish(outer, sandbox.start(outer)) == 1
    assert sandbox.run("return 2") == 2


def test_features_that_the_backend_lacks(sandbox: Sandbox) -> None:
    assert sandbox.greet(features=0).features == 0
    with pytest.raises(CallError) as caught:
        sandbox.run(SELECT)
    assert caught.value.sqlstate == "0A000"
