"""Queries of `plpy`: requests, results, plans, and the exceptions of errors."""

from __future__ import annotations

import copy
import gc
import struct
from typing import Any

import pytest
from plc import codec, convert, errors, plpy, spi, spiexceptions

from .scripted import ScriptedLoop, done, failed, plan, prepared, rows_answer, scripted


def text(value: str) -> bytes:
    return codec.encode_strings(value)


def numbers(*values: int) -> list[dict[str, Any]]:
    return [{"i": value} for value in values]


# --- execute and results --------------------------------------------------


@pytest.mark.parametrize(("arguments", "limit"), [((), 0), ((5,), 5), ((0,), 0), ((True,), 1)])
def test_execute_sends_the_query_and_its_limit(arguments: tuple[int, ...], limit: int) -> None:
    with scripted(rows_answer({"i": 1})) as loop:
        result = plpy.execute("select 'ü'", *arguments)
        assert loop.sent == [(codec.SQL, b"\x01" + text("select 'ü'") + struct.pack("<Q", limit))]
    assert list(result) == [{"i": 1}]


def test_a_result_is_a_sequence_of_rows() -> None:
    with scripted(rows_answer(*numbers(1, 2, 3, 4))):
        result = plpy.execute("q")
    assert (len(result), result.nrows(), result.status()) == (4, 4, 5)
    assert (result[1], result[-1]) == ({"i": 2}, {"i": 4})
    assert result[1:3] == numbers(2, 3)
    assert result[::2] == numbers(1, 3)
    result[-1] = {"i": 1000}
    result[:2] = numbers(10, 100)
    assert result[:] == numbers(10, 100, 3, 1000)
    with pytest.raises(TypeError):
        result["foo"]  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        result[4]


def test_a_result_shows_itself_as_in_plpython() -> None:
    with scripted(rows_answer({"foo": 1}, {"foo": 2}), done(4)):
        assert str(plpy.execute("q")) == "<PLyResult status=5 nrows=2 rows=[{'foo': 1}, {'foo': 2}]>"
        result = plpy.execute("create table")
    assert str(result) == "<PLyResult status=4 nrows=0 rows=[]>"
    assert repr(result).startswith("<PLyResult object at ")


def test_the_columns_of_a_result() -> None:
    with scripted(rows_answer({"a": 1, "b": 2}), rows_answer()):
        result = plpy.execute("q")
        assert (result.colnames(), result.coltypes(), result.coltypmods()) == (["a", "b"], [23, 23], [-1, -1])
        assert plpy.execute("q").colnames() == ["i"]


@pytest.mark.parametrize("method", ["colnames", "coltypes", "coltypmods"])
def test_a_command_has_no_columns(method: str) -> None:
    with scripted(done(7, 2)):
        result = plpy.execute("insert")
    assert (len(result), result.nrows(), result.status()) == (0, 2, 7)
    with pytest.raises(plpy.Error, match=r"^command did not produce a result set$"):
        getattr(result, method)()


def test_a_result_of_several_messages() -> None:
    with scripted(rows_answer({"i": 1}, more=[numbers(2, 3), numbers(4)])):
        result = plpy.execute("q")
    assert result[:] == numbers(1, 2, 3, 4)
    assert result.nrows() == 4


@pytest.mark.parametrize(
    "arguments",
    [(), (1,), (None,), (["select 1"],), ("q", "1"), ("q", 1.5), ("q", None), ("q", [1], 5), (b"q",)],
)
def test_execute_refuses_what_is_no_query_and_no_plan(arguments: Any) -> None:
    with scripted(), pytest.raises(plpy.Error, match=r"^plpy\.execute expected a query or a plan$"):
        plpy.execute(*arguments)


def test_a_query_with_what_no_text_may_have() -> None:
    with scripted():
        with pytest.raises(ValueError, match="embedded null character"):
            plpy.execute("select\0 1")
        with pytest.raises(UnicodeEncodeError):
            plpy.execute("select '\ud800'")


def test_a_query_that_is_too_large() -> None:
    with scripted() as loop:
        spi.agree(codec.FEATURES, 100)
        with pytest.raises(plpy.spiexceptions.ProgramLimitExceeded, match="query is too large for a message"):
            plpy.execute("x" * 100)
        assert loop.sent == []


def test_a_limit_below_none() -> None:
    with scripted() as loop:
        with pytest.raises(plpy.SPIError, match=r"^SPI_execute failed: SPI_ERROR_ARGUMENT$"):
            plpy.execute("q", -1)
        made = plan(loop, count=0)
        with pytest.raises(plpy.SPIError, match=r"^SPI_execute_plan failed: SPI_ERROR_ARGUMENT$"):
            made.execute([], -1)
        assert loop.sent == []


def test_a_limit_that_is_too_large() -> None:
    with scripted(), pytest.raises(OverflowError):
        plpy.execute("q", 1 << 63)


@pytest.mark.parametrize(("status", "name"), [(-8, "SPI_ERROR_TRANSACTION"), (-99, "Unrecognized SPI code -99")])
def test_statements_that_spi_refuses(status: int, name: str) -> None:
    with scripted(done(status), done(status)) as loop:
        with pytest.raises(plpy.SPIError, match=f"^SPI_execute failed: {name}$"):
            plpy.execute("savepoint s")
        with pytest.raises(plpy.SPIError, match=f"^SPI_execute_plan failed: {name}$"):
            plan(loop, count=0).execute()


@pytest.mark.parametrize("call", ["execute", "prepare", "cursor", "commit", "rollback", "subtransaction"])
def test_without_the_feature(call: str) -> None:
    with scripted() as loop:
        spi.agree(0, codec.MAX_FRAME_DEFAULT)
        arguments = ("q",) if call in ("execute", "prepare", "cursor") else ()
        with pytest.raises(plpy.Error, match=f"plpy.{call} is not supported") as caught:
            getattr(plpy, call)(*arguments)
        assert loop.sent == []
    assert errors.describe(caught.value)[0] == ("C", "0A000")


@pytest.mark.parametrize(("call", "verb"), [(plpy.commit, b"\x08"), (plpy.rollback, b"\x09")])
def test_the_end_of_a_transaction(call: Any, verb: bytes) -> None:
    with scripted((codec.SQL, [b""]), failed("2D000", "invalid transaction termination")) as loop:
        call()
        assert loop.sent == [(codec.SQL, verb)]
        with pytest.raises(plpy.spiexceptions.InvalidTransactionTermination):
            call()


# --- plans ----------------------------------------------------------------


def test_prepare_sends_the_types() -> None:
    with scripted(prepared(3, 2), prepared(4, 0), prepared(5, 1)) as loop:
        first = plpy.prepare("q", ["int4", "text"])
        second = plpy.prepare("q")
        third = plpy.prepare("q", ("a.b[]",))
        assert [payload for _, payload in loop.sent] == [
            b"\x02" + text("q") + struct.pack("<I", 2) + text("int4") + text("text"),
            b"\x02" + text("q") + struct.pack("<I", 0),
            b"\x02" + text("q") + struct.pack("<I", 1) + text("a.b[]"),
        ]
    assert first.status() is second.status() is third.status() is True
    assert repr(first).startswith("<PLyPlan object at ")


def test_a_plan_is_executed_in_three_ways() -> None:
    with scripted() as loop:
        made = plan(loop)
        loop.answers.extend([rows_answer({"i": 1})] * 4)
        plpy.execute(made, [1])
        plpy.execute(made, (1,), 2)
        made.execute([1])
        made.execute([1], 2)
        one, two = (b"\x03" + struct.pack("<IQI", 3, limit, 1) + b"[1]" for limit in (0, 2))
        assert loop.sent == [(codec.SQL, payload) for payload in (one, two, one, two)]


def test_a_plan_without_parameters() -> None:
    with scripted() as loop:
        made = plan(loop, count=0)
        loop.answers.extend([done(4)] * 3)
        assert made.execute().status() == plpy.execute(made).status() == made.execute([]).status() == 4


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (1, (["a", "b"],), "Expected sequence of 1 argument, got 2: ['a', 'b']"),
        (2, (("a",),), "Expected sequence of 2 arguments, got 1: ('a',)"),
        (0, ([1],), "Expected sequence of 0 arguments, got 1: [1]"),
        (1, (), "Expected sequence of 1 argument, got 0: <NULL>"),
        (1, ([],), "Expected sequence of 1 argument, got 0: []"),
    ],
)
@pytest.mark.parametrize("name", ["execute", "cursor"])
def test_a_wrong_number_of_values(count: int, arguments: Any, message: str, name: str) -> None:
    with scripted() as loop:
        made = plan(loop, count=count)
        for call in (getattr(made, name), lambda *rest: getattr(plpy, name)(made, *rest)):
            with pytest.raises(TypeError) as caught:
                call(*arguments)
            assert str(caught.value) == message


@pytest.mark.parametrize("values", ["a", None, {"a": 1}, 5, {1}])
@pytest.mark.parametrize("name", ["execute", "cursor"])
def test_values_that_are_no_sequence(values: Any, name: str) -> None:
    with scripted() as loop:
        made = plan(loop)
        with pytest.raises(TypeError, match=rf"^plpy\.{name} takes a sequence as its second argument$"):
            getattr(made, name)(values)


def test_any_sequence_can_hold_the_values() -> None:
    with scripted() as loop:
        made = plan(loop, count=2)
        loop.answers.append(done(4))
        made.execute(range(2))
        assert loop.sent[0][1].endswith(b"[0, 1]")


@pytest.mark.parametrize("types", [5, {"a": 1}, None])
def test_types_that_are_no_sequence(types: Any) -> None:
    with scripted(), pytest.raises(TypeError, match=r"^second argument of plpy\.prepare must be a sequence$"):
        plpy.prepare("q", types)


def test_a_type_that_is_no_name() -> None:
    with scripted(), pytest.raises(plpy.spiexceptions.InternalError) as caught:
        plpy.prepare("q", ["int4", 5])  # type: ignore[list-item]
    assert str(caught.value) == "plpy.prepare: type name at ordinal position 1 is not a string"


def test_a_query_to_prepare_must_be_text() -> None:
    with scripted(), pytest.raises(TypeError, match=r"^prepare\(\) argument 1 must be str, not int$"):
        plpy.prepare(1)  # type: ignore[arg-type]


def test_a_parameter_that_can_not_be_converted_is_an_error_of_the_query() -> None:
    def refuse(_types: object, _values: object, _head: bytes) -> bytes:
        cause = ZeroDivisionError("division by zero")
        raise convert.ConversionError("38000", "could not create string representation") from cause

    with scripted() as loop:
        made = plan(loop)
        loop.parameters = refuse
        with pytest.raises(plpy.spiexceptions.ExternalRoutineException) as caught:
            made.execute([object()])
    assert str(caught.value) == "could not create string representation"
    assert caught.value.detail == "ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_parameter_of_another_shape() -> None:
    def refuse(_types: object, _values: object, _head: bytes) -> bytes:
        raise convert.ConversionError("42703", "no such key", hint="a hint")

    with scripted() as loop:
        made = plan(loop)
        loop.parameters = refuse
        with pytest.raises(plpy.spiexceptions.UndefinedColumn, match="no such key") as caught:
            made.execute([{}])
    assert caught.value.hint == "a hint"


def test_plans_that_nobody_has_are_discarded_with_the_next_request() -> None:
    with scripted() as loop:
        kept, first, second = (plan(loop, number, 0) for number in (1, 2, 3))
        del first, second
        gc.collect()
        assert loop.discarded == []
        loop.answers.extend([done(4), done(4)])
        kept.execute()
        kept.execute()
        assert loop.discarded == [struct.pack("<BIIII", 10, 2, 2, 3, 0)]


def test_a_discard_that_fails_is_repeated() -> None:
    def refuse(payload: bytes) -> None:
        raise RuntimeError("another thread")

    with scripted() as loop:
        plan(loop, 9, 0)
        gc.collect()
        send, loop.discard = loop.discard, refuse  # type: ignore[method-assign]
        with pytest.raises(RuntimeError):
            plpy.execute("q")
        loop.discard = send  # type: ignore[method-assign]
        loop.answers.append(done(4))
        plpy.execute("q")
        assert loop.discarded == [struct.pack("<BIII", 10, 1, 9, 0)]


def test_plans_that_nobody_has_any_more_while_others_are_discarded() -> None:
    with scripted() as loop:
        first, second = plan(loop, 1, 0), plan(loop, 2, 0)
        held = [second]

        def discard(payload: bytes) -> None:
            held.clear()
            loop.discarded.append(payload)

        loop.discard = discard  # type: ignore[method-assign]
        del first, second
        loop.answers.extend([done(4)] * 3)
        for _ in range(3):
            plpy.execute("q")
        assert loop.discarded == [struct.pack("<BIII", 10, 1, number, 0) for number in (1, 2)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_plan_has_no_copies(copied: Any) -> None:
    with scripted() as loop, pytest.raises(TypeError, match="cannot pickle 'PLyPlan' object"):
        copied(plan(loop))


# --- exceptions -----------------------------------------------------------


def fail(**fields: str) -> plpy.SPIError:
    """The exception of a query that fails."""
    with scripted(failed(fields.pop("C"), fields.pop("M"), **fields)), pytest.raises(plpy.SPIError) as caught:
        plpy.execute("q")
    return caught.value


FIELDS = {"D": "de", "H": "hi", "q": "select x", "p": "8", "s": "sc", "t": "ta", "c": "co", "d": "dt", "n": "ct"}


def test_an_error_has_its_class_and_its_fields() -> None:
    error = fail(C="42601", M='syntax error at or near "x"', W="not kept", **FIELDS)
    assert type(error) is plpy.spiexceptions.SyntaxError
    assert error.args == ('syntax error at or near "x"',)
    assert (error.sqlstate, error.detail, error.hint, error.query, error.position) == (
        "42601",
        "de",
        "hi",
        "select x",
        8,
    )
    names = error.schema_name, error.table_name, error.column_name, error.datatype_name, error.constraint_name
    assert names == ("sc", "ta", "co", "dt", "ct")


def test_an_error_that_nobody_catches_keeps_its_fields() -> None:
    error = fail(C="42601", M="m", **FIELDS)
    fields = dict(errors.describe(error))
    del fields["W"]
    assert fields == {"C": "42601", "M": "spiexceptions.SyntaxError: m", **FIELDS}


def test_an_error_of_a_nested_function_keeps_its_state() -> None:
    inner = fail(C="2D000", M="invalid transaction termination")
    outer = fail(**{key: value for key, value in errors.describe(inner) if key in "CM"})
    fields = dict(errors.describe(outer))
    assert fields["C"] == "2D000"
    name = "spiexceptions.InvalidTransactionTermination"
    assert fields["M"] == f"{name}: {name}: invalid transaction termination"


def test_a_state_without_a_class() -> None:
    error = fail(C="XX987", M="plpy.Error: my message", H="some hint", t="users_tab", d="user_type")
    assert type(error) is plpy.SPIError
    assert error.spidata == (119577128, None, "some hint", None, 0, None, "users_tab", None, "user_type", None)
    fields = dict(errors.describe(error))
    assert (fields["C"], fields["M"]) == ("XX987", "plpy.SPIError: plpy.Error: my message")


def test_the_details_as_a_tuple_can_be_set() -> None:
    error = plpy.SPIError("m")
    error.spidata = fail(C="23505", M="x", **FIELDS).spidata
    fields = dict(errors.describe(error))
    assert fields == {"C": "23505", "M": "plpy.SPIError: m", **FIELDS}


def test_details_that_were_changed_are_sent() -> None:
    error = fail(C="23505", M="m", D="before")
    error.detail, error.sqlstate = "after", "SILLY"
    fields = dict(errors.describe(error))
    assert (fields["C"], fields["D"]) == ("SILLY", "after")


@pytest.mark.parametrize("position", ["", "0", "-1", "x", "\u00b2"])
def test_positions_that_are_none(position: str) -> None:
    error = fail(C="42601", M="m", p=position)
    assert error.position is None or error.position == 0
    assert "p" not in dict(errors.describe(error))


def test_raising_an_exception_of_a_condition() -> None:
    error = plpy.spiexceptions.DivisionByZero("m")
    assert errors.describe(error) == [("C", "22012"), ("M", "spiexceptions.DivisionByZero: m")]


def test_every_class_is_an_spi_error_with_its_state() -> None:
    classes = [kind for name, kind in vars(plpy.spiexceptions).items() if not name.startswith("__")]
    assert len(classes) > 240
    for kind in classes:
        assert issubclass(kind, plpy.SPIError)
        assert codec.is_sqlstate(kind.sqlstate)
        assert spiexceptions._unpack(spiexceptions._pack(kind.sqlstate)) == kind.sqlstate
    assert plpy.spiexceptions.UniqueViolation.sqlstate == "23505"
    assert plpy.spiexceptions.TransactionTimeout.sqlstate == "25P04"


def test_the_module_shows_what_plpython_shows() -> None:
    assert [name for name in dir(plpy) if not name.startswith("__")] == [
        *(
            "Error",
            "Fatal",
            "SPIError",
            "commit",
            "cursor",
            "debug",
            "error",
            "execute",
            "fatal",
            "info",
            "log",
            "notice",
        ),
        *("prepare", "quote_ident", "quote_literal", "quote_nullable", "rollback", "spiexceptions", "subtransaction"),
        "warning",
    ]
    with pytest.raises(AttributeError, match=r"^module 'plpy' has no attribute 'nonexistent'"):
        _ = plpy.nonexistent  # type: ignore[attr-defined]


def test_everything_has_a_help_text() -> None:
    for name in dir(plpy):
        assert getattr(plpy, name).__doc__
    for kind in (spi.PLyPlan, spi.PLyResult, spi.PLyCursor, spi.PLySubtransaction):
        assert kind.__doc__
        assert kind.__module__ == "builtins"


def test_scripts_are_asked_to_their_end() -> None:
    assert isinstance(ScriptedLoop().sent, list)
    with pytest.raises(AssertionError), scripted(done(4)):
        pass
