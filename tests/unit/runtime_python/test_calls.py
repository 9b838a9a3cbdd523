"""Functions behave as those of plpython3u do."""

from __future__ import annotations

import math

import pytest
from plc.codec import Array, TextForm, Type

from .support import (
    BOOL,
    BYTEA,
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    VOID,
    CallError,
    Sandbox,
    array,
    one_dimension,
)

EMPTY = Array((), (), [])


def test_adds_one(sandbox: Sandbox) -> None:
    function = sandbox.define("\nreturn i + 1\n", INT4, [("i", INT4)])
    assert [sandbox.call(function, i) for i in range(-2, 3)] == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("declared", "value", "shown"),
    [
        (BOOL, True, "True"),
        (BOOL, None, "None"),
        (INT2, -32768, "-32768"),
        (INT4, 2147483647, "2147483647"),
        (INT8, -9223372036854775808, "-9223372036854775808"),
        (FLOAT4, 0.5, "0.5"),
        (FLOAT8, -1e308, "-1e+308"),
        (FLOAT8, math.inf, "inf"),
        (TEXT, "a\"'ü\U0001f40d", "'a\"\\'ü\U0001f40d'"),
        (TEXT, "", "''"),
        (BYTEA, b"\0\xff", "b'\\x00\\xff'"),
        (NUMERIC, "1.10", "Decimal('1.10')"),
        (NUMERIC, "NaN", "Decimal('NaN')"),
        (NUMERIC, "-Infinity", "Decimal('-Infinity')"),
        (DATE, "2026-02-03", "'2026-02-03'"),
        (array(INT4), None, "None"),
        (array(INT4), EMPTY, "[]"),
        (array(INT4), one_dimension(1, None, 3), "[1, None, 3]"),
        (array(INT8), Array((2,), (-5,), [1, 2]), "[1, 2]"),
        (array(BOOL), one_dimension(True, False), "[True, False]"),
        (array(TEXT), one_dimension("a", None), "['a', None]"),
        (array(NUMERIC), one_dimension("1.5"), "[Decimal('1.5')]"),
        (array(BYTEA), one_dimension(b"", b"x"), "[b'', b'x']"),
        (array(DATE), one_dimension("infinity"), "['infinity']"),
        (array(INT2), Array((2, 3), (1, 1), [1, 2, 3, 4, 5, None]), "[[1, 2, 3], [4, 5, None]]"),
        (array(TEXT), Array((1, 2, 1), (1, 1, 1), ["a", "b"]), "[[['a'], ['b']]]"),
    ],
)
def test_arguments(sandbox: Sandbox, declared: Type, value: object, shown: str) -> None:
    assert sandbox.run("return repr(x)", TEXT, [("x", declared)], [value]) == shown


@pytest.mark.parametrize(
    ("declared", "expression", "expected"),
    [
        (BOOL, "'false'", True),
        (BOOL, "[]", False),
        (BOOL, "None", None),
        (INT2, "-32768", -32768),
        (INT2, "32768", TextForm("32768")),
        (INT4, "True", TextForm("True")),
        (INT4, "3.0", TextForm("3.0")),
        (INT4, "'42'", TextForm("42")),
        (INT4, "-2**31 - 1", TextForm("-2147483649")),
        (INT8, "2**63 - 1", 2**63 - 1),
        (INT8, "2**63", TextForm("9223372036854775808")),
        (INT8, "-2**63", -(2**63)),
        (INT8, "10**30", TextForm("1" + "0" * 30)),
        (FLOAT4, "0.1", 0.10000000149011612),
        (FLOAT4, "1e39", TextForm("1e+39")),
        (FLOAT4, "1e-60", TextForm("1e-60")),
        (FLOAT4, "float('-inf')", -math.inf),
        (FLOAT4, "2**24 + 1", TextForm("16777217")),
        (FLOAT8, "0.1", 0.1),
        (FLOAT8, "7", 7.0),
        (FLOAT8, "2**53 + 1", TextForm("9007199254740993")),
        (FLOAT8, "True", TextForm("True")),
        (FLOAT8, "' 1e3'", TextForm(" 1e3")),
        (FLOAT8, "__import__('decimal').Decimal('1.50')", TextForm("1.50")),
        (FLOAT8, "type('F', (float,), {'__repr__': lambda s: 'x'})(2)", 2.0),
        (NUMERIC, "10**40", "1" + "0" * 40),
        (NUMERIC, "1.5", TextForm("1.5")),
        (NUMERIC, "__import__('decimal').Decimal('-1.50')", "-1.50"),
        (NUMERIC, "__import__('decimal').Decimal('NaN')", "NaN"),
        (NUMERIC, "__import__('decimal').Decimal('sNaN')", TextForm("sNaN")),
        (NUMERIC, "__import__('decimal').Decimal('1E+5')", TextForm("1E+5")),
        (NUMERIC, "__import__('decimal').Decimal('-Infinity')", "-Infinity"),
        (TEXT, "5", "5"),
        (TEXT, "1e100", "1e+100"),
        (TEXT, "''", ""),
        (TEXT, "['a']", "['a']"),
        (TEXT, "'ü\U0001f40d'", "ü\U0001f40d"),
        (TEXT, "type('S', (str,), {'__str__': lambda s: 'x'})('y')", "y"),
        (BYTEA, "b'\\0a'", b"\0a"),
        (BYTEA, "bytearray(b'xy')", b"xy"),
        (BYTEA, "memoryview(b'xyz')[::2]", b"xz"),
        (BYTEA, "[1, 2]", b"\1\2"),
        (BYTEA, "type('B', (), {'__bytes__': lambda s: b'own'})()", b"own"),
        (DATE, "__import__('datetime').date(2026, 2, 3)", "2026-02-03"),
        (VOID, "None", None),
        (array(INT4), "None", None),
        (array(INT4), "[]", EMPTY),
        (array(INT4), "[[], []]", EMPTY),
        (array(INT4), "[1, 2]", one_dimension(1, 2)),
        (array(INT4), "(1, None)", one_dimension(1, None)),
        (array(INT4), "range(3)", one_dimension(0, 1, 2)),
        (array(INT4), "[1, None, '3']", one_dimension("1", None, "3", text=True)),
        (array(INT4), "[1, True]", one_dimension("1", "True", text=True)),
        (array(INT8), "[2**63]", one_dimension("9223372036854775808", text=True)),
        (array(INT2), "[-1, 40000]", one_dimension("-1", "40000", text=True)),
        (array(FLOAT8), "[1.5, 2, None, float('nan')]", "nan"),
        (array(FLOAT8), "[1.5, 'Infinity']", one_dimension("1.5", "Infinity", text=True)),
        (array(FLOAT4), "[1.5, 1e300]", one_dimension("1.5", "1e+300", text=True)),
        (array(FLOAT8), "__import__('array').array('d', [1, 2.5])", one_dimension(1.0, 2.5)),
        (array(INT8), "__import__('array').array('q', [1, 2])", one_dimension(1, 2)),
        (array(FLOAT8), "__import__('array').array('f', [0.5])", one_dimension(0.5)),
        (array(INT4), "__import__('array').array('d', [1])", one_dimension("1.0", text=True)),
        (array(INT4), "memoryview(__import__('array').array('i', range(6)))[::2]", one_dimension(0, 2, 4)),
        (array(INT4), "memoryview(bytes(24)).cast('i', [2, 3])", Array((2, 3), (1, 1), [0] * 6)),
        (array(INT4), "__import__('array').array('i')", EMPTY),
        (array(BOOL), "[1, '', None]", one_dimension(True, False, None)),
        (array(TEXT), "'abc'", one_dimension("a", "b", "c")),
        (array(TEXT), "['abc', 1, None, ('t',)]", one_dimension("abc", "1", None, "('t',)")),
        (array(BYTEA), "[b'\\0', None]", one_dimension(b"\0", None)),
        (array(NUMERIC), "[1, __import__('decimal').Decimal('2.50')]", one_dimension("1", "2.50")),
        (array(NUMERIC), "[1, 2.5, None]", one_dimension("1", "2.5", None, text=True)),
        (array(INT4), "[[1, 2], [3, None]]", Array((2, 2), (1, 1), [1, 2, 3, None])),
        (array(TEXT), "[[['a']], [['b']]]", Array((2, 1, 1), (1, 1, 1), ["a", "b"])),
        (array(DATE), "['2026-02-03']", one_dimension("2026-02-03")),
    ],
)
def test_results(sandbox: Sandbox, declared: Type, expression: str, expected: object) -> None:
    result = sandbox.run(f"return {expression}", declared)
    if expected == "nan":
        assert isinstance(result, Array)
        assert result.items[:3] == [1.5, 2.0, None] and math.isnan(result.items[3])  # type: ignore[arg-type]
        return
    assert result == expected
    assert type(result) is type(expected)


Refusal = tuple[str, str, str | None]
NOT_A_SEQUENCE = ("42804", "return value of function with array return type is not a Python sequence", None)
RAGGED = ("22P02", "multidimensional arrays must have array expressions with matching dimensions", None)
NULL_BYTES = "could not convert Python object into cstring: Python string representation appears to contain null bytes"
NO_ENCODING = "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed"
NO_BYTES = "could not create bytes representation of Python object"


@pytest.mark.parametrize(
    ("declared", "expression", "error"),
    [
        (VOID, "1", ("42804", 'PL/Container function with return type "void" did not return None', None)),
        (
            TEXT,
            "'a\\0b'",
            ("42804", NULL_BYTES, None),
        ),
        (
            TEXT,
            "'\\ud800'",
            (
                "38000",
                "could not convert Python Unicode object to bytes",
                NO_ENCODING,
            ),
        ),
        (
            TEXT,
            "type('T', (), {'__str__': lambda s: 1/0})()",
            (
                "38000",
                "could not create string representation of Python object",
                "ZeroDivisionError: division by zero",
            ),
        ),
        (
            BOOL,
            "type('T', (), {'__bool__': lambda s: 1/0})()",
            ("38000", "ZeroDivisionError: division by zero", None),
        ),
        (BYTEA, "5", ("38000", NO_BYTES, "TypeError: cannot convert 'int' object to bytes")),
        (BYTEA, "'x'", ("38000", NO_BYTES, "TypeError: cannot convert 'str' object to bytes")),
        (array(INT4), "5", NOT_A_SEQUENCE),
        (array(INT4), "{1: 2}", NOT_A_SEQUENCE),
        (array(INT4), "[[1], [2, 3]]", RAGGED),
        (array(INT4), "[1, [2]]", RAGGED),
        (array(INT4), "[[1], 2]", RAGGED),
        (
            array(INT4),
            "[[[[[[[1]]]]]]]",
            ("54000", "number of array dimensions exceeds the maximum allowed (6)", None),
        ),
    ],
)
def test_results_that_are_refused(sandbox: Sandbox, declared: Type, expression: str, error: Refusal) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(f"return {expression}", declared)
    assert (caught.value.sqlstate, str(caught.value), caught.value.fields.get("D")) == error
    assert sandbox.run("return 1") == 1


def test_unnamed_arguments_are_in_args(sandbox: Sandbox) -> None:
    arguments = [("", INT4), ("b", TEXT)]
    assert sandbox.run("return repr((args, b))", TEXT, arguments, [1, "x"]) == "([1, 'x'], 'x')"


def test_arguments_are_globals(sandbox: Sandbox) -> None:
    function = sandbox.define("\nglobal x\nx = x + 1\nreturn x", INT4, [("x", INT4)])
    assert [sandbox.call(function, i) for i in (1, 5)] == [2, 6]
    with pytest.raises(CallError, match=r"^UnboundLocalError: "):
        sandbox.run("x = x + 1\nreturn x", INT4, [("x", INT4)], [1])


def test_an_inner_function_sees_the_arguments_of_each_call(sandbox: Sandbox) -> None:
    source = "\ndef f():\n  return x\nif 'f' not in SD: SD['f'] = f\nreturn SD['f']()"
    function = sandbox.define(source, TEXT, [("x", TEXT)])
    assert [sandbox.call(function, value) for value in ("a", "b" * 10000, "c")] == ["a", "b" * 10000, "c"]


def test_sd_is_a_functions_own_and_gd_is_shared(sandbox: Sandbox) -> None:
    source = "\nSD['n'] = SD.get('n', 0) + 1\nGD['n'] = GD.get('n', 0) + 1\nreturn SD['n'] * 100 + GD['n']"
    first, second = sandbox.define(source), sandbox.define(source)
    assert [sandbox.call(first), sandbox.call(first), sandbox.call(second)] == [101, 202, 103]


def test_registering_again_replaces_a_function(sandbox: Sandbox) -> None:
    function = sandbox.define("SD['x'] = 1; return 1")
    assert sandbox.call(function) == 1
    sandbox.define("return 2 + len(SD)", function_id=function)
    assert sandbox.call(function) == 2


def test_many_functions_and_forgetting_them(sandbox: Sandbox) -> None:
    functions = [sandbox.define(f"return {i}") for i in range(300)]
    assert [sandbox.call(function) for function in functions] == list(range(300))
    for function in functions[::2]:
        sandbox.send(0, 10, function.to_bytes(4, "little"))
    assert [sandbox.call(function) for function in functions[1::2]] == list(range(1, 300, 2))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", None),
        ("\n# container: x\n", None),
        ("# only a comment", None),
        ("return 1", 1),
        ("  return 2", 2),
        ("\n  # container: x\n    \n  x = 3\n  return x\n", 3),
        ("\n\tif True:\n\t\treturn 4\n", 4),
        ("\r\nx = '''a\r\nb'''\r\nreturn len(x)\r\n", 3),
        ('\n  x = """a\n    b\nc"""\n  return len(x)', 9),
        ("x = 1; return x", 1),
        ("\n'a docstring'\nreturn 5", 5),
        ("from math import floor\nreturn floor(6.5)", 6),
        ("import plpy as p\nreturn 7 if p is plpy else 0", 7),
        ("return 8 if __name__ == '__main__' else 0", 8),
        ("import __main__\nreturn 8 if __main__.GD is GD and not hasattr(__main__, '__file__') else 0", 8),
        ("async def f(): return 9\nimport asyncio\nreturn asyncio.run(f())", 9),
        ("class A:\n  x = 10\nreturn A().x", 10),
        ("return (lambda: i)() + [i for _ in range(2)][1]", 2),
    ],
)
def test_bodies(sandbox: Sandbox, source: str, expected: int | None) -> None:
    assert sandbox.run(source, INT4, [("i", INT4)], [1]) == expected


def test_the_runtimes_own_future_imports_are_not_those_of_functions(sandbox: Sandbox) -> None:
    assert sandbox.run("def f(x: 1 + 1): pass\nreturn f.__annotations__['x']") == 2


def test_a_million_floats_each_way(sandbox: Sandbox) -> None:
    floats = [i * 0.5 for i in range(1_000_000)]
    function = sandbox.define("return [x + 1 for x in xs]", array(FLOAT8), [("xs", array(FLOAT8))])
    result = sandbox.call(function, Array((len(floats),), (1,), floats))
    assert result.lengths == (1_000_000,)
    assert result.items == [x + 1 for x in floats]


def test_a_million_integers_with_nulls_each_way(sandbox: Sandbox) -> None:
    items = [None if i % 1000 == 0 else i for i in range(1_000_000)]
    function = sandbox.define("return xs", array(INT4), [("xs", array(INT4))])
    assert sandbox.call(function, Array((len(items),), (1,), items)).items == items


def test_a_large_text_and_bytea(sandbox: Sandbox) -> None:
    text = "ü" * 20_000_000
    function = sandbox.define("return x + '!'", TEXT, [("x", TEXT)])
    assert sandbox.call(function, text) == text + "!"
    function = sandbox.define("return x[::-1]", BYTEA, [("x", BYTEA)])
    assert sandbox.call(function, b"a" * 10_000_000 + b"b") == b"b" + b"a" * 10_000_000


def test_large_values_do_not_stay(sandbox: Sandbox) -> None:
    function = sandbox.define("return len(x)", INT4, [("x", BYTEA)])
    sandbox.call(function, b"")
    before = sandbox.resident_bytes()
    assert sandbox.call(function, bytes(100_000_000)) == 100_000_000
    # A call after it, so that what follows the first one's answer is over.
    sandbox.call(function, b"")
    assert sandbox.resident_bytes() - before < 30_000_000


def test_numpy_arrays(sandbox: Sandbox) -> None:
    pytest.importorskip("numpy")
    try:
        sandbox.run("import numpy")
    except CallError as error:
        pytest.skip(str(error))
    for declared, expression, expected in (
        (FLOAT8, "numpy.arange(3) / 2", one_dimension(0.0, 0.5, 1.0)),
        (INT8, "numpy.arange(6)[::2]", one_dimension(0, 2, 4)),
        (INT4, "numpy.arange(3)", one_dimension(0, 1, 2)),
        (FLOAT8, "numpy.ones((2, 2))", Array((2, 2), (1, 1), [1.0] * 4)),
        (FLOAT8, "numpy.ones((2, 2)).T[:, :1]", Array((2, 1), (1, 1), [1.0] * 2)),
        (BOOL, "numpy.array([True, False])", one_dimension(True, False)),
        (FLOAT8, "[numpy.float64(0.5)]", one_dimension(0.5)),
        (INT4, "[numpy.int32(7)]", one_dimension("7", text=True)),
        (TEXT, "numpy.array(['a', 'b'])", one_dimension("a", "b")),
        (FLOAT8, "numpy.empty((0, 3))", EMPTY),
    ):
        assert sandbox.run(f"import numpy\nreturn {expression}", array(declared)) == expected


def test_print_goes_to_the_containers_log_at_once(sandbox: Sandbox) -> None:
    assert sandbox.run("print('seen')\nreturn 1") == 1
    assert "seen\n" in sandbox.log()
