"""The module `plpy`."""

from __future__ import annotations

import pytest

from .support import TEXT, CallError, Sandbox

ATTRIBUTES = (
    "detail='d', hint='h', schema_name='s', table_name='t', column_name='c', datatype_name='dt', constraint_name='n'"
)


@pytest.mark.parametrize(
    ("call", "level", "fields"),
    [
        ("debug('m')", 1, {"M": "m"}),
        ("log('m')", 2, {"M": "m"}),
        ("info('m')", 3, {"M": "m"}),
        ("notice('m')", 4, {"M": "m"}),
        ("warning('m')", 5, {"M": "m"}),
        ("notice('a', 1)", 4, {"M": "('a', 1)"}),
        ("notice()", 4, {"M": "()"}),
        ("notice(('a',))", 4, {"M": "('a',)"}),
        ("notice(None)", 4, {"M": "None"}),
        ("notice('a\\0\\ud800')", 4, {"M": "a\\x00\\ud800"}),
        ("notice(message='m', hint=5)", 4, {"M": "m", "H": "5"}),
        ("notice('m', hint=None, sqlstate=None)", 4, {"M": "m"}),
        ("notice(message=None)", 4, {"M": "None"}),
        (
            f"info('m', sqlstate='XX555', {ATTRIBUTES})",
            3,
            {"M": "m", "D": "d", "H": "h", "C": "XX555", "s": "s", "t": "t", "c": "c", "d": "dt", "n": "n"},
        ),
    ],
)
def test_logging(sandbox: Sandbox, call: str, level: int, fields: dict[str, str]) -> None:
    assert sandbox.run(f"plpy.{call}\nreturn 1") == 1
    assert sandbox.logs == [(level, fields)]


def test_logs_leave_at_once(sandbox: Sandbox) -> None:
    function = sandbox.define("plpy.notice('started')\nimport time\ntime.sleep(1000)")
    call = sandbox.start(function)
    header, _ = sandbox.receive()
    assert (header.call_id, header.type) == (call, 5)


def test_logs_of_a_method_of_the_result_come_before_the_result(sandbox: Sandbox) -> None:
    source = "class T:\n  def __str__(self):\n    plpy.notice('x' * 100)\n    return 'shown'\nreturn T()"
    assert sandbox.run(source, TEXT) == "shown"
    assert sandbox.logs == [(4, {"M": "x" * 100})]


def test_logs_of_no_call_go_to_the_containers_log(sandbox: Sandbox) -> None:
    source = "class D:\n  def __del__(self): plpy.notice('late')\nreturn [D()]"
    sandbox.run(source, TEXT)
    function = sandbox.define("return 1")
    assert sandbox.call(function) == 1
    assert all(fields["M"] == "late" for _, fields in sandbox.logs)
    assert sandbox.logs or "late" in sandbox.log()


def test_logging_in_another_thread_is_refused(sandbox: Sandbox) -> None:
    source = """
import threading
caught = []
def run():
    try:
        plpy.notice('x')
    except RuntimeError as e:
        caught.append(str(e))
t = threading.Thread(target=run)
t.start()
t.join()
return caught[0]
"""
    assert sandbox.run(source, TEXT) == "plpy can be used in the function's own thread only"
    assert sandbox.logs == []


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ("notice('m', foo=1)", "TypeError", "'foo' is an invalid keyword argument for this function"),
        ("notice('m', message='n')", "TypeError", "argument 'message' given by name and position"),
        ("notice('m', sqlstate='54')", "ValueError", "invalid SQLSTATE code"),
        ("notice('m', sqlstate='abcde')", "ValueError", "invalid SQLSTATE code"),
        (
            "notice(type('T', (), {'__str__': lambda s: 1/0})())",
            "plpy.Error",
            "could not parse error message in plpy.elog",
        ),
    ],
)
def test_wrong_arguments(sandbox: Sandbox, call: str, kind: str, message: str) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(f"plpy.{call}")
    assert str(caught.value) == f"{kind}: {message}"


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("plpy.error('m')", {"M": "plpy.Error: m", "C": "XX000"}),
        ("plpy.fatal('m')", {"M": "plpy.Fatal: m", "C": "XX000"}),
        ("raise plpy.Error('m')", {"M": "plpy.Error: m", "C": "38000"}),
        ("raise plpy.SPIError('m')", {"M": "plpy.SPIError: m", "C": "38000"}),
        ("plpy.error('m', 1)", {"M": "plpy.Error: ('m', 1)", "C": "XX000"}),
        (
            f"plpy.error('m', sqlstate='22012', {ATTRIBUTES})",
            {"M": "plpy.Error: m", "C": "22012", "D": "d", "H": "h", "s": "s", "t": "t", "c": "c", "d": "dt", "n": "n"},
        ),
        ("plpy.error('m', sqlstate=None)", {"M": "plpy.Error: m", "C": "XX000"}),
        ("raise plpy.spiexceptions.DivisionByZero('m')", {"M": "spiexceptions.DivisionByZero: m", "C": "22012"}),
        (
            "e = plpy.spiexceptions.DivisionByZero('m')\ne.sqlstate = 'SILLY'\nraise e",
            {"M": "spiexceptions.DivisionByZero: m", "C": "SILLY"},
        ),
        ("class E(plpy.Error): detail = 'mine'\nraise E('m')", {"M": "E: m", "C": "38000", "D": "mine"}),
        ("class E(ValueError): detail = 'mine'\nraise E('m')", {"M": "E: m", "C": "38000"}),
    ],
)
def test_errors(sandbox: Sandbox, source: str, fields: dict[str, str]) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(source)
    del caught.value.fields["W"]
    assert caught.value.fields == fields


def test_errors_can_be_caught(sandbox: Sandbox) -> None:
    source = (
        "try:\n  plpy.error('m', detail='d')\nexcept plpy.Error as e:\n  return repr((str(e), e.detail, e.sqlstate))"
    )
    assert sandbox.run(source, TEXT) == "('m', 'd', 'XX000')"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("quote_literal('abc')", "'abc'"),
        ('quote_literal("a\'b")', "'a''b'"),
        ("quote_literal('a\\\\b')", "E'a\\\\b'"),
        ("quote_literal('')", "''"),
        ("quote_nullable(None)", "NULL"),
        ('quote_nullable("\'")', "''''"),
        ("quote_ident('abc_1')", "abc_1"),
        ("quote_ident('_a')", "_a"),
        ("quote_ident('Abc')", '"Abc"'),
        ("quote_ident('1a')", '"1a"'),
        ("quote_ident('a\"b')", '"a""b"'),
        ("quote_ident('user')", '"user"'),
        ("quote_ident('ü')", '"ü"'),
        ("quote_ident('')", '""'),
    ],
)
def test_quoting(sandbox: Sandbox, expression: str, expected: str) -> None:
    assert sandbox.run(f"return plpy.{expression}", TEXT) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("quote_literal(1)", "TypeError: quote_literal() argument 1 must be str, not int"),
        ("quote_literal(None)", "TypeError: quote_literal() argument 1 must be str, not None"),
        ("quote_nullable(1)", "TypeError: quote_nullable() argument 1 must be str or None, not int"),
        ("quote_ident('a\\0')", "ValueError: embedded null character"),
    ],
)
def test_quoting_what_is_no_text(sandbox: Sandbox, expression: str, message: str) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(f"return plpy.{expression}", TEXT)
    assert str(caught.value) == message


@pytest.mark.parametrize("call", ["execute('q')", "prepare('q')", "cursor('q')", "subtransaction()", "commit()"])
def test_queries_of_a_database_that_serves_none(sandbox: Sandbox, call: str) -> None:
    sandbox.greet(features=0)
    with pytest.raises(CallError) as caught:
        sandbox.run(f"plpy.{call}")
    assert caught.value.sqlstate == "0A000"
    assert str(caught.value) == f"plpy.Error: plpy.{call.partition('(')[0]} is not supported by this database"


def test_modules_can_import_it(sandbox: Sandbox) -> None:
    assert (
        sandbox.run("import sys, plpy as p\nreturn p is plpy and 'plpy.spiexceptions' in sys.modules", TEXT) == "True"
    )
