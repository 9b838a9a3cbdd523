"""Functions, arguments and results."""

from __future__ import annotations

from typing import Any

import pytest
from plc import codec
from plc.codec import Array, Record, Row, TextForm, Type

from tests.unit.runtime_python.support import (
    BOOL,
    BYTEA,
    DATE,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    OID,
    RECORD,
    TEXT,
    VOID,
    CallError,
    Sandbox,
    array,
    composite,
    one_dimension,
)

from .conftest import Start

TIMESTAMPTZ = Type(codec.OTHER, None, "timestamp with time zone")
PAIR = composite("pair", a=INT4, b=TEXT)
NESTED = composite("nested", id=INT4, pair=PAIR, numbers=array(INT4))


# --- names and bodies -------------------------------------------------------------


def test_arguments_have_the_names_of_plr(sandbox: Sandbox) -> None:
    arguments = [("", INT4), ("second", INT4), ("", INT4)]
    assert sandbox.run("100 * arg1 + 10 * second + arg3", INT4, arguments, [1, 2, 3]) == 123


def test_an_empty_body_stands_for_the_function_of_that_name(sandbox: Sandbox) -> None:
    function = sandbox.define("\n# container: plc_r_shared\n", FLOAT8, [("", array(FLOAT8))], name="mean")
    assert sandbox.call(function, one_dimension(1.0, 2.0)) == 1.5


def test_assignments_outlive_calls_where_plr_has_them(sandbox: Sandbox) -> None:
    assert sandbox.run("kept <<- 5; kept", INT4) == 5
    assert sandbox.run("kept", INT4) == 5
    assert sandbox.run("pg.reval('kept')", INT4) == 5


def test_the_global_environment_is_the_functions_own(start: Start) -> None:
    with start() as fresh:
        fresh.greet()
        assert fresh.run("rm(list = ls(globalenv())); ls(globalenv())", array(TEXT)) == Array((), (), [])
        assert fresh.run("pg.quoteident('a')", TEXT) == "a"


def test_a_function_is_replaced_and_forgotten(sandbox: Sandbox) -> None:
    function = sandbox.define("1L")
    sandbox.define("2L", function_id=function)
    assert sandbox.call(function) == 2


def test_recursion_by_name_finds_what_the_function_defines(sandbox: Sandbox) -> None:
    source = "f <- function(n) if (n < 2) 1 else n * f(n - 1)\nf(n)"
    assert sandbox.run(source, INT4, [("n", INT4)], [5]) == 120


# --- NULL ---------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [BOOL, INT2, INT4, INT8, FLOAT4, FLOAT8, NUMERIC, TEXT, DATE, OID])
def test_null_is_na_and_known_to_is_null(declared: Type, sandbox: Sandbox) -> None:
    source = "c(is.na(x), is.null(x), is.null(NA), is.null(x[1]))"
    seen = sandbox.run(source, array(BOOL), [("x", declared)], [None])
    assert seen == one_dimension(True, True, False, False)


@pytest.mark.parametrize("declared", [BYTEA, array(INT4), PAIR, RECORD])
def test_null_of_what_is_no_scalar_is_null(declared: Type, sandbox: Sandbox) -> None:
    assert sandbox.run("is.null(x)", BOOL, [("x", declared)], [None]) is True


@pytest.mark.parametrize("source", ["NULL", "NA", "NA_character_", "integer()", "list()", "invisible(NULL)"])
def test_what_is_null(source: str, sandbox: Sandbox) -> None:
    assert sandbox.run(source, INT4) is None


def test_nan_is_not_null(sandbox: Sandbox) -> None:
    seen = sandbox.run("c(NaN, NA, Inf)", array(FLOAT8))
    assert str(seen.items) == "[nan, None, inf]"


# --- numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_int8_is_exact(value: int, sandbox: Sandbox) -> None:
    assert int(sandbox.run("x", INT8, [("x", INT8)], [value])) == value


def test_large_int8_are_numbers_of_bit64(sandbox: Sandbox) -> None:
    given = one_dimension(1, 2**60, None)
    seen = sandbox.run("c(class(x), as.character(x + 1L))", array(TEXT), [("x", array(INT8))], [given])
    assert seen == one_dimension("integer64", "2", str(2**60 + 1), None)
    assert sandbox.run("class(x)", TEXT, [("x", array(INT8))], [one_dimension(1, 2**53)]) == "numeric"


def test_the_least_int4_is_no_na(sandbox: Sandbox) -> None:
    assert sandbox.run("x - 0", INT4, [("x", INT4)], [-(2**31)]) == -(2**31)
    given = one_dimension(-(2**31), 5, None)
    assert sandbox.run("x", array(INT4), [("x", array(INT4))], [given]) == given


@pytest.mark.parametrize(
    ("source", "declared", "sent"),
    [
        ("3e9", INT4, "3000000000"),
        ("1.5", INT4, "1.5"),
        ("NaN", INT4, "NaN"),
        ("'12'", INT4, "12"),
        ("70000L", INT2, "70000"),
        ("1e300", FLOAT4, "1.0000000000000001e+300"),
        ("2L", BOOL, "2"),
        ("-1L", OID, "-1"),
        ("'x'", FLOAT8, "x"),
    ],
)
def test_what_does_not_fit_is_left_to_the_database(source: str, declared: Type, sent: str, sandbox: Sandbox) -> None:
    seen = sandbox.run(source, declared)
    assert isinstance(seen, TextForm)
    assert float(seen) == float(sent) if declared is FLOAT4 else seen == sent


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("0.1 + 0.2", "0.30000000000000004"),
        ("1e5", "100000"),
        ("12L", "12"),
        ("'1.000000000000000000000000001'", "1.000000000000000000000000001"),
        ("bit64::as.integer64('9223372036854775807')", "9223372036854775807"),
        ("-Inf", "-Infinity"),
    ],
)
def test_numeric(source: str, sent: str, sandbox: Sandbox) -> None:
    assert sandbox.run(source, NUMERIC) == sent


def test_oids_are_numbers(sandbox: Sandbox) -> None:
    given = one_dimension(25, 2**32 - 1)
    assert sandbox.run("x", array(OID), [("x", array(OID))], [given]) == given


# --- text and bytes -------------------------------------------------------------------------


def test_text_is_utf8(sandbox: Sandbox) -> None:
    assert sandbox.run("paste0(x, nchar(x))", TEXT, [("x", TEXT)], ["aü€😀"]) == "aü€😀4"
    assert sandbox.run("'\\xe4'; y <- '\\xe4'; Encoding(y) <- 'latin1'; y", TEXT) == "ä"


@pytest.mark.parametrize(
    "source", ["'\\xff'", "y <- '\\xff'; Encoding(y) <- 'UTF-8'; y", "y <- '\\xff'; Encoding(y) <- 'bytes'; y"]
)
def test_bytes_that_are_no_text_are_an_error(source: str, sandbox: Sandbox) -> None:
    for declared in (TEXT, array(TEXT), PAIR):
        with pytest.raises(CallError) as caught:
            sandbox.run(source if declared is not PAIR else f"list(1, {{ {source} }})", declared)
        assert caught.value.sqlstate == "22021"


@pytest.mark.parametrize(
    ("source", "declared", "sent"),
    [
        ("factor(c('b', 'a'))", TEXT, "b"),
        ("as.Date('2024-02-29')", DATE, "2024-02-29"),
        ("as.POSIXct('2024-02-29 12:00:00', tz = 'UTC')", TIMESTAMPTZ, "2024-02-29 12:00:00.000000+0000"),
        ("as.POSIXlt('2024-02-29 12:00:00', tz = 'UTC')", TIMESTAMPTZ, "2024-02-29 12:00:00.000000+0000"),
        ("1.23", TEXT, "1.23"),
        ("TRUE", TEXT, "TRUE"),
        ("1i", TEXT, "0+1i"),
    ],
)
def test_objects_as_text(source: str, declared: Type, sent: str, sandbox: Sandbox) -> None:
    assert sandbox.run(source, declared) == sent


def test_bytes(sandbox: Sandbox) -> None:
    assert sandbox.run("rev(x)", BYTEA, [("x", BYTEA)], [b"\0\1\xff"]) == b"\xff\1\0"
    given = one_dimension(b"\0", None, b"")
    assert sandbox.run("x", array(BYTEA), [("x", array(BYTEA))], [given]) == given


def test_any_object_is_serialized_into_bytes(sandbox: Sandbox) -> None:
    kept = sandbox.run("list(a = 5L, b = letters)", BYTEA)
    assert sandbox.run("y <- unserialize(x); y$a + length(y$b)", INT4, [("x", BYTEA)], [kept]) == 31


# --- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(3,), (2, 3), (2, 3, 4), (1, 2, 1, 3), (2, 1, 2, 1, 2, 1)])
def test_arrays_keep_their_shape(lengths: tuple[int, ...], sandbox: Sandbox) -> None:
    count = 1
    for length in lengths:
        count *= length
    for element, items in ((INT4, list(range(count))), (TEXT, [None, *map(str, range(1, count))])):
        given = Array(lengths, (1,) * len(lengths), items)
        assert sandbox.run("x", array(element), [("x", array(element))], [given]) == given


def test_indices_are_the_databases(sandbox: Sandbox) -> None:
    given = Array((2, 3, 2), (1, 1, 1), [111, 112, 121, 122, 131, 132, 211, 212, 221, 222, 231, 232])
    assert sandbox.run("x[2, 3, 1]", INT4, [("x", array(INT4))], [given]) == 231
    assert sandbox.run("dim(x)", array(INT4), [("x", array(INT4))], [given]) == one_dimension(2, 3, 2)


@pytest.mark.parametrize(
    ("source", "lengths", "items"),
    [
        ("array(1:6, c(2, 3))", (2, 3), [1, 3, 5, 2, 4, 6]),
        ("as.data.frame(array(1:6, c(2, 3)))", (2, 3), [1, 3, 5, 2, 4, 6]),
        ("list(1L, NULL, 3)", (3,), [1, None, 3]),
        ("list(1:2, 3:4)", (2, 2), [1, 2, 3, 4]),
        ("list(list(1, 2), list(3, 4))", (2, 2), [1, 2, 3, 4]),
        ("integer()", (), []),
        ("7", (1,), [7]),
    ],
)
def test_what_makes_an_array(source: str, lengths: tuple[int, ...], items: list[Any], sandbox: Sandbox) -> None:
    assert sandbox.run(source, array(INT4)) == Array(lengths, (1,) * len(lengths), items)


def test_a_data_frame_of_several_kinds_is_an_array_of_text(sandbox: Sandbox) -> None:
    seen = sandbox.run("data.frame(letters[1:2], 1:2, factor(c('u', NA)))", array(TEXT))
    assert seen == Array((2, 3), (1, 1), ["a", "1", "u", "b", "2", None])


def test_elements_that_do_not_fit_are_left_to_the_database(sandbox: Sandbox) -> None:
    assert sandbox.run("c(1, NA, 2.5)", array(INT4)) == one_dimension("1", None, "2.5", text=True)
    assert sandbox.run("c('a', NA)", array(INT4)) == one_dimension("a", None, text=True)


@pytest.mark.parametrize("source", ["list(1:2, 3L)", "list(list(1, 2), list(3))", "list(1, 2:3)"])
def test_ragged_lists_are_an_error(source: str, sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        sandbox.run(source, array(INT4))
    assert caught.value.sqlstate == "2202E"


def test_a_large_array_goes_both_ways(sandbox: Sandbox) -> None:
    given = Array((100_000,), (1,), [float(i) for i in range(100_000)])
    assert sandbox.run("x", array(FLOAT8), [("x", array(FLOAT8))], [given]) == given
    assert sandbox.run("x + 0", array(FLOAT8), [("x", array(FLOAT8))], [given]) == given


# --- rows ---------------------------------------------------------------------------------------


def test_a_composite_is_a_data_frame(sandbox: Sandbox) -> None:
    given = Row([1, "x"])
    assert sandbox.run("paste(class(x), nrow(x), x$a, x$b)", TEXT, [("x", PAIR)], [given]) == "data.frame 1 1 x"
    assert sandbox.run("x$a <- x$a + 1; x", PAIR, [("x", PAIR)], [given]) == Row([2, "x"])


def test_a_nested_composite_returns_as_it_came(sandbox: Sandbox) -> None:
    for pair in (Row([2, None]), None):
        given = Row([1, pair, one_dimension(1, None)])
        assert sandbox.run("x", NESTED, [("x", NESTED)], [given]) == given
    assert sandbox.run("x$pair[[1]]$b", TEXT, [("x", NESTED)], [Row([1, Row([2, "deep"]), None])]) == "deep"


@pytest.mark.parametrize(
    "source",
    [
        "list(1, 'x')",
        "list(b = 'x', a = 1)",
        "data.frame(b = 'x', a = 1)",
        "data.frame(some = 1, other = 'x')",
        "c('1', 'x')",
        "data.frame(a = 1:2, b = factor(c('x', 'y')))",
        "list(a = 1, b = 'x', c = 'further')",
    ],
)
def test_what_makes_a_row(source: str, sandbox: Sandbox) -> None:
    assert sandbox.run(source, PAIR) in (Row([1, "x"]), Row([TextForm("1"), "x"]))


def test_a_list_has_whole_values(sandbox: Sandbox) -> None:
    seen = sandbox.run("list(1, list(2, 'y'), 1:3)", NESTED)
    assert seen == Row([1, Row([2, "y"]), one_dimension(1, 2, 3)])


def test_a_row_of_other_columns_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(CallError, match="returned 3 columns where 2 are expected") as caught:
        sandbox.run("list(1, 2, 3)", PAIR)
    assert caught.value.sqlstate == "42804"


def test_an_array_of_composites_is_a_data_frame(sandbox: Sandbox) -> None:
    given = one_dimension(Row([1, "x"]), Row([2, None]))
    assert sandbox.run("sum(x$a)", INT4, [("x", array(PAIR))], [given]) == 3
    assert sandbox.run("x", array(PAIR), [("x", array(PAIR))], [given]) == given
    assert sandbox.run("list(list(1, 'x'), list(2, NA))", array(PAIR)) == given
    nested = one_dimension(Row([1, Row([2, "y"]), one_dimension(1)]), Row([3, None, None]))
    assert sandbox.run("x", array(NESTED), [("x", array(NESTED))], [nested]) == nested


def test_a_record_tells_its_shape(sandbox: Sandbox) -> None:
    assert sandbox.run("x$b", TEXT, [("x", RECORD)], [Record(PAIR, [1, "x"])]) == "x"


def test_void_is_null(sandbox: Sandbox) -> None:
    assert sandbox.run("print('to the log')", VOID) is None


# --- sets ---------------------------------------------------------------------------------------------


def rows(sandbox: Sandbox, source: str, result: Type) -> list[Any]:
    return sandbox.rows(sandbox.define(source, result, flags=codec.FUNCTION_SET))


def test_sets_of_scalars(sandbox: Sandbox) -> None:
    assert rows(sandbox, "1:200", INT4) == list(range(1, 201))
    assert rows(sandbox, "NULL", INT4) == []
    assert rows(sandbox, "factor(c('a', NA))", TEXT) == ["a", None]
    assert rows(sandbox, "list('a', NULL)", TEXT) == ["a", None]
    assert rows(sandbox, "data.frame(x = 1:3)", INT4) == [1, 2, 3]
    assert rows(sandbox, "list(1:2, 3L)", array(INT4)) == [one_dimension(1, 2), one_dimension(3)]


def test_sets_of_rows(sandbox: Sandbox) -> None:
    expected = [Row([1, "a"]), Row([2, None])]
    assert rows(sandbox, "data.frame(x = 1:2, y = c('a', NA))", PAIR) == expected
    assert rows(sandbox, "list(1:2, c('a', NA))", PAIR) == expected
    assert rows(sandbox, "list(list(1, 'a'), list(2, NULL))", PAIR) == expected
    assert rows(sandbox, "matrix(1:4, 2)", composite("m", a=INT4, b=INT4)) == [Row([1, 3]), Row([2, 4])]
    assert rows(sandbox, "1:2", composite("v", a=INT4)) == [Row([1]), Row([2])]
    frame = "d <- data.frame(id = 1:2); d$pair <- list(list(1, 'x'), NULL); d$numbers <- list(1:2, NULL); d"
    assert rows(sandbox, frame, NESTED) == [Row([1, Row([1, "x"]), one_dimension(1, 2)]), Row([2, None, None])]


def test_a_function_gives_rows_as_they_are_asked_for(sandbox: Sandbox) -> None:
    assert rows(sandbox, "n <- 0L; function() { n <<- n + 1L; if (n <= 3L) seq_len(n) }", INT4) == [1, 1, 2, 1, 2, 3]
    endless = sandbox.define("function() { asked <<- asked + 1; 1:10 }", INT4, flags=codec.FUNCTION_SET)
    sandbox.run("asked <<- 0")
    # A batch ends after some time, too: how many rows it has depends on the machine.
    call_id, rows_seen, more = sandbox.open(endless)
    assert more
    assert 0 < len(rows_seen) <= codec.FIRST_ROWS
    while len(rows_seen) < 100:
        batch, more = sandbox.more(endless, call_id, rows=6)
        assert more
        rows_seen += batch
    sandbox.close(call_id)
    assert rows_seen == [1 + i % 10 for i in range(len(rows_seen))]
    assert sandbox.run("asked", INT4) <= len(rows_seen) // 10 + 1


def test_sets_take_turns(sandbox: Sandbox) -> None:
    function = sandbox.define("100 * x + 1:100", INT4, [("x", INT4)], flags=codec.FUNCTION_SET)
    one, first_one, _ = sandbox.open(function, 1)
    two, first_two, _ = sandbox.open(function, 2)
    assert (first_one[-1], first_two[-1]) == (164, 264)
    assert sandbox.more(function, one)[0][-1] == 200
    assert sandbox.more(function, two, rows=1) == ([265], True)
    sandbox.define("0L", INT4, [("x", INT4)], function_id=function, flags=codec.FUNCTION_SET)
    assert sandbox.more(function, two)[0][-1] == 300


def test_an_error_ends_a_set(sandbox: Sandbox) -> None:
    source = "n <- 0; function() { n <<- n + 1; if (n > 8) stop('spent'); 1:10 }"
    function = sandbox.define(source, INT4, flags=codec.FUNCTION_SET)
    call_id, rows_seen, _ = sandbox.open(function)
    with pytest.raises(CallError, match="spent"):
        while len(rows_seen) < 100:
            rows_seen += sandbox.more(function, call_id)[0]
    assert sandbox.run("1L") == 1


# --- triggers ---------------------------------------------------------------------------------------------

NAMES = ["name", "relid", "table_name", "table_schema", "when", "level", "event", "args", "new", "old"]
UNCHANGED, SKIP, MODIFY = codec.TRIGGER_UNCHANGED, codec.TRIGGER_SKIP, codec.TRIGGER_MODIFY


def fire(
    sandbox: Sandbox, source: str, event: str, new: Any, old: Any, *, when: str = "BEFORE", level: str = "ROW"
) -> Any:
    types = [TEXT] * 7 + [array(TEXT), NESTED, NESTED]
    function = sandbox.define(source, NESTED, list(zip(NAMES, types, strict=True)), flags=codec.FUNCTION_TRIGGER)
    values = ["trig", "16384", "tab", "public", when, level, event, None, new, old]
    return sandbox.call(function, *values)


ROW = Row([1, Row([2, "x"]), one_dimension(1, 2)])
OTHER = Row([5, None, None])


def test_triggers(sandbox: Sandbox) -> None:
    assert fire(sandbox, "pg.tg.new", "INSERT", ROW, None) == (UNCHANGED, [])
    assert fire(sandbox, "NULL", "INSERT", ROW, None) == (SKIP, [])
    assert fire(sandbox, "pg.tg.old", "DELETE", None, ROW) == (UNCHANGED, [])
    assert fire(sandbox, "r <- pg.tg.new; r$id <- 9; r", "UPDATE", ROW, OTHER) == (MODIFY, [(0, 9)])
    assert fire(sandbox, "r <- pg.tg.new; r$numbers <- list(7:8); r", "UPDATE", ROW, OTHER) == (
        MODIFY,
        [(2, one_dimension(7, 8))],
    )
    assert fire(sandbox, "list(id = 1L, pair = NULL, numbers = 1:2)", "UPDATE", ROW, OTHER)[0] == MODIFY
    assert fire(sandbox, "NULL", "INSERT", ROW, None, when="AFTER") == (UNCHANGED, [])
    assert fire(sandbox, "NULL", "INSERT", None, None, level="STATEMENT") == (UNCHANGED, [])


def test_what_triggers_know(sandbox: Sandbox) -> None:
    source = (
        "pg.thrownotice(paste(pg.tg.name, pg.tg.relid, pg.tg.relname, pg.tg.relschema, pg.tg.when, pg.tg.level,"
        " pg.tg.op, pg.tg.args[1], is.null(pg.tg.old)))\nNULL"
    )
    sandbox.logs.clear()
    fire(sandbox, source, "INSERT", ROW, None)
    assert sandbox.logs == [(codec.LOG_NOTICE, {"M": "trig 16384 tab public BEFORE ROW INSERT NA TRUE"})]


def test_a_trigger_returns_a_row(sandbox: Sandbox) -> None:
    with pytest.raises(CallError) as caught:
        fire(sandbox, "'OK'", "INSERT", ROW, None)
    assert caught.value.sqlstate == "39P01"


def test_a_column_that_is_not_computed_yet(sandbox: Sandbox) -> None:
    new = Row([1, None, codec.ABSENT])
    assert fire(sandbox, "r <- pg.tg.new; r$id <- 2; r", "INSERT", new, None) == (MODIFY, [(0, 2)])


def test_event_triggers(sandbox: Sandbox) -> None:
    function = sandbox.define(
        "pg.thrownotice(paste(pg.tg.event, pg.tg.tag))",
        VOID,
        [("event", TEXT), ("tag", TEXT)],
        flags=codec.FUNCTION_EVENT_TRIGGER,
    )
    sandbox.logs.clear()
    sandbox.call(function, "ddl_command_start", "CREATE TABLE")
    assert sandbox.logs == [(codec.LOG_NOTICE, {"M": "ddl_command_start CREATE TABLE"})]


def test_inline_blocks(sandbox: Sandbox) -> None:
    function = sandbox.define("pg.throwinfo('here')", VOID, name="", flags=codec.FUNCTION_INLINE)
    sandbox.logs.clear()
    sandbox.call(function)
    assert sandbox.logs == [(codec.LOG_INFO, {"M": "here"})]
