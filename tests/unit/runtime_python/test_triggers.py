"""Triggers, event triggers, procedures, DO blocks and checks of sources."""

from __future__ import annotations

from typing import Any

import pytest
from plc import codec
from plc.codec import ABSENT, Row, TextForm

from .support import INT4, TEXT, VOID, CallError, Sandbox, array, composite, one_dimension

ROW = composite("t", a=INT4, b=TEXT, c=array(INT4))
ARGUMENTS = [
    *((name, TEXT) for name in ("name", "relid", "table_name", "table_schema", "when", "level", "event")),
    ("args", array(TEXT)),
    ("new", ROW),
    ("old", ROW),
]
NEW, OLD = Row([1, "new", None]), Row([0, "old", one_dimension(1, 2)])
UNCHANGED: tuple[int, list[Any]] = (codec.TRIGGER_UNCHANGED, [])


def fire(
    sandbox: Sandbox,
    source: str,
    event: str = "UPDATE",
    new: Row | None = NEW,
    *,
    old: Row | None = OLD,
    args: Any = None,
) -> Any:
    """Call a trigger that is defined for this."""
    function = sandbox.define(source, ROW, ARGUMENTS, flags=codec.FUNCTION_TRIGGER)
    return sandbox.call(function, "tr", "16385", "t", "public", "BEFORE", "ROW", event, args, new, old)


def test_what_a_trigger_knows(sandbox: Sandbox) -> None:
    fire(
        sandbox, "import json\nplpy.notice(json.dumps(TD))\nGD['globals'] = sorted(globals())", args=one_dimension("x")
    )
    ((_, fields),) = sandbox.logs
    assert fields["M"] == (
        '{"name": "tr", "relid": "16385", "table_name": "t", "table_schema": "public", "when": "BEFORE", '
        '"level": "ROW", "event": "UPDATE", "args": ["x"], "new": {"a": 1, "b": "new", "c": null}, '
        '"old": {"a": 0, "b": "old", "c": [1, 2]}}'
    )
    names = sandbox.run("return ' '.join(GD['globals'])", TEXT)
    assert names == "GD SD TD __builtins__ __name__ plpy"


def test_what_is_not_there_is_none(sandbox: Sandbox) -> None:
    fire(sandbox, "plpy.notice(repr([TD[k] for k in ('args', 'new', 'old')]))", "DELETE", None, old=None)
    assert sandbox.logs[0][1]["M"] == "[None, None, None]"


def test_generated_columns_are_left_out(sandbox: Sandbox) -> None:
    assert fire(sandbox, "assert list(TD['new']) == ['a', 'b']", new=Row([1, "x", ABSENT])) == UNCHANGED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return None", UNCHANGED),
        ("TD['new']['a'] = 5", UNCHANGED),
        ("return 'ok'", UNCHANGED),
        ("return 'OK'", UNCHANGED),
        ("return 'skip'", (codec.TRIGGER_SKIP, [])),
        ("TD['event'] = 'DELETE'\nreturn 'MODIFY'", (codec.TRIGGER_MODIFY, [(0, 1), (1, "new"), (2, None)])),
        (
            "TD['new'].update(a='5', b=6, c=(7,))\nreturn 'Modify'",
            (codec.TRIGGER_MODIFY, [(0, TextForm("5")), (1, "6"), (2, one_dimension(7))]),
        ),
        ("TD['new'] = {'b': None}\nreturn 'MODIFY'", (codec.TRIGGER_MODIFY, [(1, None)])),
        ("TD['new'] = {}\nreturn 'MODIFY'", (codec.TRIGGER_MODIFY, [])),
    ],
)
def test_what_a_trigger_returns(sandbox: Sandbox, source: str, expected: object) -> None:
    assert fire(sandbox, source) == expected


def test_modify_in_a_delete_trigger_is_ignored(sandbox: Sandbox) -> None:
    assert fire(sandbox, "return 'MODIFY'", "DELETE", None) == UNCHANGED
    message = 'PL/Container trigger function returned "MODIFY" in a DELETE trigger -- ignored'
    assert sandbox.logs == [(codec.LOG_WARNING, {"M": message})]


UNEXPECTED = "unexpected return value from trigger procedure"
MODIFYING = "while modifying trigger row"


@pytest.mark.parametrize(
    ("source", "sqlstate", "message", "context"),
    [
        ("return 5", "22000", UNEXPECTED, ""),
        ("return 'maybe'", "22000", UNEXPECTED, ""),
        ("del TD['new']\nreturn 'MODIFY'", "42704", 'TD["new"] deleted, cannot modify row', MODIFYING),
        ("TD['new'] = []\nreturn 'MODIFY'", "42804", 'TD["new"] is not a dictionary', MODIFYING),
        (
            "TD['new'] = {'a': 1, 5: 2}\nreturn 'MODIFY'",
            "42804",
            'TD["new"] dictionary key at ordinal position 1 is not a string',
            MODIFYING,
        ),
        (
            "TD['new']['z'] = 1\nreturn 'MODIFY'",
            "42703",
            'key "z" found in TD["new"] does not exist as a column in the triggering row',
            MODIFYING,
        ),
        (
            "TD['new']['c'] = 1\nreturn 'MODIFY'",
            "42804",
            "return value of function with array return type is not a Python sequence",
            MODIFYING,
        ),
    ],
)
def test_what_a_trigger_may_not_return(
    sandbox: Sandbox, source: str, sqlstate: str, message: str, context: str
) -> None:
    with pytest.raises(CallError) as caught:
        fire(sandbox, source)
    assert (caught.value.sqlstate, str(caught.value), caught.value.context) == (sqlstate, message, context)


def test_details_of_unexpected_values(sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        fire(sandbox, "return 5")
    assert caught.value.fields["D"] == "Expected None or a string."
    with pytest.raises(CallError) as caught:
        fire(sandbox, "return 'maybe'")
    assert caught.value.fields["D"] == 'Expected None, "OK", "SKIP", or "MODIFY".'


def test_a_trigger_within_itself(sandbox: Sandbox) -> None:
    source = "if TD['new']['a']: plpy.execute('insert')\nTD['new']['b'] = TD['event']\nreturn 'MODIFY'"
    function = sandbox.define(source, ROW, ARGUMENTS, flags=codec.FUNCTION_TRIGGER)
    arguments = ("tr", "1", "t", "public", "BEFORE", "ROW")

    def answer() -> bytes:
        inner = sandbox.start(function, *arguments, "INSERT", None, Row([0, "x", None]), None)
        assert sandbox.finish(function, inner)[1][1] == (1, "INSERT")
        return codec.encode_answer(7, 1)

    sandbox.script.append(answer)
    outer = sandbox.start(function, *arguments, "UPDATE", None, NEW, OLD)
    assert sandbox.finish(function, outer) == (codec.TRIGGER_MODIFY, [(0, 1), (1, "UPDATE"), (2, None)])


def test_event_triggers(sandbox: Sandbox) -> None:
    source = "plpy.notice(repr(TD))\nreturn 'anything'"
    function = sandbox.define(source, VOID, [("event", TEXT), ("tag", TEXT)], flags=codec.FUNCTION_EVENT_TRIGGER)
    assert sandbox.call(function, "ddl_command_end", "CREATE TABLE") is None
    assert sandbox.logs[0][1]["M"] == "{'event': 'ddl_command_end', 'tag': 'CREATE TABLE'}"


def test_procedures(sandbox: Sandbox) -> None:
    procedure = codec.FUNCTION_PROCEDURE
    assert sandbox.call(sandbox.define("pass", VOID, flags=procedure)) is None
    assert sandbox.call(sandbox.define("return 1, 'x'", composite(a=INT4, b=TEXT), flags=procedure)) == Row([1, "x"])
    with pytest.raises(CallError, match="PL/Container procedure did not return None") as caught:
        sandbox.call(sandbox.define("return 1", VOID, flags=procedure))
    assert (caught.value.sqlstate, caught.value.context) == ("42804", "")
    with pytest.raises(CallError, match="length of returned sequence") as caught:
        sandbox.call(sandbox.define("return 1,", composite(a=INT4, b=TEXT), flags=procedure))
    assert caught.value.context == ""


def test_do_blocks_have_no_name(sandbox: Sandbox) -> None:
    inline = codec.FUNCTION_INLINE
    with pytest.raises(CallError) as caught:
        sandbox.call(sandbox.define("\ndef f(): 1/0\nf()", VOID, name="", flags=inline))
    assert caught.value.context == (
        "Traceback (most recent call last):\n"
        "  PL/Container anonymous code block, line 3, in <module>\n    f()\n"
        "  PL/Container anonymous code block, line 2, in f\n    def f(): 1/0"
    )
    with pytest.raises(CallError, match="could not compile anonymous PL/Container code block") as caught:
        sandbox.call(sandbox.define("1 +", VOID, name="", flags=inline))
    assert caught.value.sqlstate == "42601"


def check(sandbox: Sandbox, source: str, flags: int = 0) -> tuple[codec.Header, bytes]:
    sandbox.send(9, codec.CHECK, codec.encode_check(flags, "f", source))
    return sandbox.receive()


def test_checks_of_sources(sandbox: Sandbox) -> None:
    header, payload = check(sandbox, "yield 1", codec.FUNCTION_SET)
    assert (header.call_id, header.type, payload) == (9, codec.RESULT, b"\0")
    header, payload = check(sandbox, "return ))")
    fields = dict(codec.decode_fields(payload))
    assert (header.type, fields["C"], fields["M"]) == (
        codec.ERROR,
        "42601",
        'could not compile PL/Container function "f"',
    )
    assert sandbox.run("return 1") == 1
