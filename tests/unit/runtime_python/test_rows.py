"""Composites and records, as arguments and as results."""

from __future__ import annotations

import pytest
from plc import codec
from plc.codec import ABSENT, Array, Record, Row, TextForm, Type

from .support import (
    BYTEA,
    DATE,
    FLOAT8,
    INT4,
    INT8,
    NUMERIC,
    OID,
    RECORD,
    TEXT,
    CallError,
    Sandbox,
    array,
    composite,
    one_dimension,
)

PERSON = composite("person", name=TEXT, age=INT4)
PAIR = composite("pair", first=PERSON, second=array(INT4))


@pytest.mark.parametrize(
    ("declared", "value", "shown"),
    [
        (OID, 4294967295, "4294967295"),
        (array(OID), one_dimension(0, None, 2**31), "[0, None, 2147483648]"),
        (PERSON, None, "None"),
        (PERSON, Row(["Ann", 7]), "{'name': 'Ann', 'age': 7}"),
        (PERSON, Row([None, None]), "{'name': None, 'age': None}"),
        (PERSON, Row(["Ann", ABSENT]), "{'name': 'Ann'}"),
        (PAIR, Row([Row(["b", 1]), one_dimension(1, 2)]), "{'first': {'name': 'b', 'age': 1}, 'second': [1, 2]}"),
        (PAIR, Row([None, None]), "{'first': None, 'second': None}"),
        (composite("none"), Row([]), "{}"),
        (array(PERSON), one_dimension(Row(["a", 1]), None), "[{'name': 'a', 'age': 1}, None]"),
        (
            array(composite(x=NUMERIC)),
            Array((2, 1), (1, 1), [Row(["1.50"]), Row([None])]),
            "[[{'x': Decimal('1.50')}], [{'x': None}]]",
        ),
        (RECORD, None, "None"),
        (RECORD, Record(PERSON, ["r", 2]), "{'name': 'r', 'age': 2}"),
        (RECORD, Record(composite(r=RECORD), [Record(PERSON, ["r", 2])]), "{'r': {'name': 'r', 'age': 2}}"),
        (
            array(RECORD),
            one_dimension(Record(PERSON, ["r", 2]), Record(composite(d=DATE), ["2026-02-03"]), None),
            "[{'name': 'r', 'age': 2}, {'d': '2026-02-03'}, None]",
        ),
        (composite(a=array(array(INT4).element or INT4)), Row([one_dimension(1)]), "{'a': [1]}"),
    ],
)
def test_arguments(sandbox: Sandbox, declared: Type, value: object, shown: str) -> None:
    assert sandbox.run("return repr(x)", TEXT, [("x", declared)], [value]) == shown


def test_deep_types(sandbox: Sandbox) -> None:
    declared, value = INT4, 5
    for _ in range(codec.MAX_TYPE_DEPTH - 1):
        declared, value = composite(x=declared), Row([value])  # type: ignore[assignment]
    source = "n = 0\nwhile isinstance(v, dict): v, n = v['x'], n + 1\nreturn n * 10 + v"
    assert sandbox.run("global v\n" + source, INT4, [("v", declared)], [value]) == 635
    assert sandbox.run("return v", declared, [("v", declared)], [value]) == value


CLASS = "type('P', (), {'name': 'Ann', 'age': 7})"
HINT = "To return null in a column, "
TUPLES = "To return a composite type in an array, return the composite type as a Python tuple, e.g., \"[('foo',)]\"."


@pytest.mark.parametrize(
    ("declared", "expression", "expected"),
    [
        (OID, "2**32 - 1", 2**32 - 1),
        (OID, "-1", TextForm("-1")),
        (array(OID), "[1, 2]", one_dimension(1, 2)),
        (PERSON, "None", None),
        (PERSON, "{'name': 'Ann', 'age': 7}", Row(["Ann", 7])),
        (PERSON, "{'name': None, 'age': '7', 'more': 1}", Row([None, TextForm("7")])),
        (PERSON, "__import__('collections').OrderedDict(age=7, name='Ann')", Row(["Ann", 7])),
        (PERSON, "__import__('collections').defaultdict(lambda: None, age=7)", Row([None, 7])),
        (PERSON, "__import__('collections').UserDict(age=7, name='Ann')", Row(["Ann", 7])),
        (PERSON, "__import__('types').MappingProxyType({'age': 7, 'name': 'Ann'})", Row(["Ann", 7])),
        (PERSON, "('Ann', 7)", Row(["Ann", 7])),
        (PERSON, "['Ann', None]", Row(["Ann", None])),
        (PERSON, "__import__('collections').namedtuple('P', 'age name')(7, 'Ann')", Row(["7", TextForm("Ann")])),
        (PERSON, "__import__('collections').deque(['Ann', 7])", Row(["Ann", 7])),
        (PERSON, f"{CLASS}()", Row(["Ann", 7])),
        (PERSON, CLASS, Row(["Ann", 7])),
        (PERSON, "'(Ann,7)'", TextForm("(Ann,7)")),
        (PERSON, "type('S', (str,), {})('x')", TextForm("x")),
        (composite("none"), "()", Row([])),
        (composite("none"), "{}", Row([])),
        (PAIR, "{'first': ('b', 1), 'second': [1, None]}", Row([Row(["b", 1]), one_dimension(1, None)])),
        (PAIR, "('(b,1)', None)", Row([TextForm("(b,1)"), None])),
        (array(PERSON), "[('a', 1), None, {'name': 'b', 'age': 2}]", one_dimension(Row(["a", 1]), None, Row(["b", 2]))),
        (array(PERSON), "(('a', 1), ' (b,2)')", one_dimension(Row(["a", 1]), TextForm(" (b,2)"))),
        (array(PERSON), "[[('a', 1)], [('b', 2)]]", Array((2, 1), (1, 1), [Row(["a", 1]), Row(["b", 2])])),
        (array(PERSON), "[]", Array((), (), [])),
        (composite(b=BYTEA, n=NUMERIC, f=FLOAT8), "(b'x', 10**20, 1)", Row([b"x", "1" + "0" * 20, 1.0])),
        (RECORD, "(1, 2)", TextForm("(1, 2)")),
        (RECORD, "None", None),
    ],
)
def test_results(sandbox: Sandbox, declared: Type, expression: str, expected: object) -> None:
    result = sandbox.run(f"return {expression}", declared)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("declared", "expression", "error"),
    [
        (PERSON, "{'name': 'x'}", ("42703", 'key "age" not found in mapping', HINT + "add the value None")),
        (PERSON, "('x',)", ("42804", "length of returned sequence did not match number of columns in row", "")),
        (PERSON, "[1, 2, 3]", ("42804", "length of returned sequence did not match number of columns in row", "")),
        (PERSON, "5", ("42703", 'attribute "name" does not exist in Python object', HINT + "let the returned object")),
        (array(PERSON), "[['a', 1]]", ("22P02", 'malformed record literal: "a"', TUPLES)),
        (array(PERSON), "[[5, 'a']]", ("42703", 'attribute "name" does not exist in Python object', TUPLES)),
        (PAIR, "(('a', {}), [[1], [2, 3]])", ("22P02", "multidimensional arrays must have", "")),
        (composite(x=array(INT4)), "(5,)", ("42804", "return value of function with array return type is not a", "")),
    ],
)
def test_results_that_are_refused(
    sandbox: Sandbox, declared: Type, expression: str, error: tuple[str, str, str]
) -> None:
    sqlstate, message, hint = error
    with pytest.raises(CallError) as caught:
        sandbox.run(f"return {expression}", declared)
    assert (caught.value.sqlstate, str(caught.value)[: len(message)]) == (sqlstate, message)
    assert caught.value.fields.get("H", "")[: len(hint)] == hint
    assert caught.value.context == "while creating return value"
    assert sandbox.run("return 1") == 1


def test_a_missing_parenthesis_is_explained(sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run("return ['x']", array(PERSON))
    assert caught.value.fields["D"] == "Missing left parenthesis."


@pytest.mark.parametrize(
    ("expression", "message", "detail"),
    [
        ("type('M', (dict,), {'__getitem__': lambda s, k: 1/0})()", 'key "name" not found in mapping', True),
        ("type('O', (), {'name': property(lambda s: 1/0)})()", 'attribute "name" does not exist', True),
        ("type('S', (), {'__len__': lambda s: 1/0, '__getitem__': 0})()", "length of returned sequence did", True),
        ("type('S', (), {'__len__': lambda s: 2, '__getitem__': lambda s, i: 1/0})()", "ZeroDivisionError", False),
        ("{'name': type('T', (), {'__str__': lambda s: 1/0})(), 'age': 1}", "could not create string rep", True),
    ],
)
def test_errors_of_methods(sandbox: Sandbox, expression: str, message: str, detail: bool) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(f"return {expression}", PERSON)
    assert str(caught.value).startswith(message)
    if detail:
        assert caught.value.fields["D"] == "ZeroDivisionError: division by zero"
    assert sandbox.run("return 1") == 1


def test_a_list_that_changes_while_it_is_converted(sandbox: Sandbox) -> None:
    source = """
items = []
class T:
    def __str__(self):
        items.clear()
        return 't'
items += [T(), 1]
return items
"""
    with pytest.raises(CallError) as caught:
        sandbox.run(source, PERSON)
    assert str(caught.value).startswith("IndexError")
    assert sandbox.run("return 1") == 1


def test_many_rows_in_an_array(sandbox: Sandbox) -> None:
    rows = [Row([f"name {i}", i]) for i in range(10_000)]
    function = sandbox.define("return [(r['name'], r['age'] + 1) for r in x]", array(PERSON), [("x", array(PERSON))])
    result = sandbox.call(function, one_dimension(*rows))
    assert result.items == [Row([f"name {i}", i + 1]) for i in range(10_000)]


def test_int8_is_exact_in_rows(sandbox: Sandbox) -> None:
    declared = composite(x=INT8)
    assert sandbox.run("return x", declared, [("x", declared)], [Row([2**53 + 1])]) == Row([2**53 + 1])
