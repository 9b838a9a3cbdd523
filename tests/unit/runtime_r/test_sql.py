"""SQL of functions, over a scripted backend."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from plc import codec
from plc.codec import Column, Row, Type

from tests.unit.runtime_python.support import (
    FLOAT8,
    INT4,
    INT8,
    TEXT,
    VOID,
    CallError,
    Sandbox,
    array,
    composite,
    one_dimension,
)

OK_UTILITY, OK_SELECT, OK_INSERT = 4, 5, 7
COLUMNS = [Column("id", INT4, 23, -1), Column("name", TEXT, 25, -1)]
PAIR = composite("pair", id=INT4, name=TEXT)
SYNTAX = {"C": "42601", "M": 'syntax error at or near "x"', "D": "a detail", "H": "a hint", "q": "select x", "p": "8"}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def selected(*rows: Any) -> bytes:
    return codec.encode_answer(OK_SELECT, len(rows), COLUMNS, rows)


def further(*rows: Any) -> bytes:
    out = bytearray()
    codec.write_columns(out, COLUMNS, rows)
    return bytes(out)


def prepared(plan: int, *types: Type) -> bytes:
    return struct.pack("<II", plan, len(types)) + b"".join(map(codec.encode_type, types))


@pytest.fixture(autouse=True)
def script(sandbox: Sandbox) -> None:
    """Each test has requests and a script of its own, and no plan of another test is discarded within it."""
    sandbox.run("invisible(gc())", VOID)
    sandbox.script.clear()
    sandbox.script.append(codec.encode_answer(OK_UTILITY, 0))
    sandbox.run("invisible(pg.spi.exec('clean'))", VOID)
    sandbox.requests.clear()
    sandbox.script.clear()


def test_exec_returns_a_data_frame(sandbox: Sandbox) -> None:
    sandbox.script.append(selected([1, "a"], [2, None]))
    source = "d <- pg.spi.exec('select 1'); paste(class(d), nrow(d), sum(d$id), is.na(d$name[2]))"
    assert sandbox.run(source, TEXT) == "data.frame 2 3 TRUE"
    assert sandbox.requests == [(codec.SQL, bytes([codec.SQL_EXECUTE]) + text("select 1") + bytes(8))]


def test_answers_of_many_parts(sandbox: Sandbox) -> None:
    parts = [selected(*([i, str(i)] for i in range(100)))]
    parts += [further(*([i, str(i)] for i in range(start, start + 100))) for start in range(100, 1000, 100)]
    sandbox.script.append(parts)
    function = sandbox.define("pg.spi.exec('select')", PAIR, flags=codec.FUNCTION_SET)
    assert sandbox.rows(function) == [Row([i, str(i)]) for i in range(1000)]


def test_no_rows_are_null_and_commands_tell_their_number(sandbox: Sandbox) -> None:
    sandbox.script.extend([selected(), codec.encode_answer(OK_INSERT, 12), codec.encode_answer(OK_UTILITY, 0)])
    source = "c(is.null(pg.spi.exec('a')), pg.spi.exec('b'), pg.spi.exec('c'))"
    assert sandbox.run(source, array(TEXT)) == one_dimension("TRUE", "12", "0")


def test_columns_of_every_kind_return_as_they_came(sandbox: Sandbox) -> None:
    columns = [
        Column("big", INT8, 20, -1),
        Column("numbers", array(FLOAT8), 1022, -1),
        Column("pair", PAIR, 0, -1),
        Column("pairs", array(PAIR), 0, -1),
    ]
    rows: list[list[Any]] = [
        [2**60, one_dimension(1.5, None), Row([1, "x"]), one_dimension(Row([3, "z"]))],
        [None, None, None, None],
        [5, one_dimension(2.5), Row([2, None]), one_dimension(Row([4, "y"]), Row([5, None]))],
    ]
    sandbox.script.append(codec.encode_answer(OK_SELECT, 3, columns, rows))
    result = composite("r", big=INT8, numbers=array(FLOAT8), pair=PAIR, pairs=array(PAIR))
    function = sandbox.define("pg.spi.exec('x')", result, flags=codec.FUNCTION_SET)
    assert sandbox.rows(function) == [Row(row) for row in rows]


def test_errors_are_conditions(sandbox: Sandbox) -> None:
    sandbox.script.append(SYNTAX)
    source = (
        "e <- tryCatch(pg.spi.exec('select x'), spi_error = function(e) e)\n"
        "c(conditionMessage(e), e$sqlstate, e$detail, e$hint, e$query, e$position, deparse(conditionCall(e)))"
    )
    assert sandbox.run(source, array(TEXT)) == one_dimension(
        SYNTAX["M"], "42601", "a detail", "a hint", "select x", "8", 'pg.spi.exec("select x")'
    )


def test_errors_that_nobody_catches_keep_their_fields(sandbox: Sandbox) -> None:
    sandbox.script.append({**SYNTAX, "W": "SQL statement"})
    with pytest.raises(CallError) as caught:
        sandbox.run("x <- 1\npg.spi.exec('select x')")
    fields = caught.value.fields
    assert {key: fields[key] for key in "CMDHqp"} == SYNTAX
    assert 'PL/Container function "f", line 2, in f()' in fields["W"]
    assert fields["W"].endswith("SQL statement")


def test_plans(sandbox: Sandbox) -> None:
    sandbox.script.extend([prepared(7, INT4, array(TEXT)), selected([1, "a"]), selected([2, "b"])])
    sandbox.run("plan <<- pg.spi.prepare('q', c(INT4OID, _TEXTOID))".replace("_TEXTOID", "`_TEXTOID`"), VOID)
    assert sandbox.run("pg.spi.execp(plan, list(5, c('u', NA)))$name", TEXT) == "a"
    assert sandbox.run("pg.spi.execp(plan, list(NA, NULL))$name", TEXT) == "b"
    types = struct.pack("<I", 2) + text('pg_catalog."int4"') + text('pg_catalog."_text"')
    assert sandbox.requests[0] == (codec.SQL, bytes([codec.SQL_PREPARE]) + text("q") + types)
    values = codec.encode_call(0, [INT4, array(TEXT)], [5, one_dimension("u", None)])[4:]
    assert sandbox.requests[1][1] == bytes([codec.SQL_EXECUTE_PLAN]) + struct.pack("<IQ", 7, 0) + values
    assert sandbox.requests[2][1].endswith(struct.pack("<I", 2) + b"\0\0")


def test_plans_want_their_number_of_arguments(sandbox: Sandbox) -> None:
    sandbox.script.append(prepared(8, INT4))
    with pytest.raises(CallError, match="not the same length"):
        sandbox.run("pg.spi.execp(pg.spi.prepare('q', 'int4'), list(1, 2))")
    assert sandbox.run("tryCatch(pg.spi.execp(5, list()), error = function(e) e$sqlstate)", TEXT) == "26000"


@pytest.mark.parametrize(
    ("status", "message"), [(-2, "SPI_ERROR_COPY"), (-13, "SPI_ERROR_REL_NOT_FOUND"), (-99, "code -99")]
)
def test_what_spi_refuses_is_an_error(sandbox: Sandbox, status: int, message: str) -> None:
    sandbox.script.append(codec.encode_answer(status, 0))
    with pytest.raises(CallError, match=f"^SPI_execute failed: {message}$"):
        sandbox.run("pg.spi.exec('copy t from stdin')")


def test_plans_that_are_collected_are_discarded(sandbox: Sandbox) -> None:
    sandbox.script.extend([prepared(41), prepared(42), selected()])
    sandbox.run("for (i in 1:2) pg.spi.prepare('q')\ngc()\ninvisible(pg.spi.exec('x'))", VOID)
    discards = [payload for _, payload in sandbox.requests if payload[0] == codec.SQL_DISCARD]
    assert len(discards) >= 1
    found = {number for (number,) in struct.iter_unpack("<I", b"".join(payload[5:-4] for payload in discards))}
    assert found <= {41, 42}
    assert found


def test_cursors(sandbox: Sandbox) -> None:
    cursor = '<unnamed "1">'
    sandbox.script.extend(
        [prepared(9), text(cursor), selected([1, "a"]), selected([2, "b"]), codec.encode_answer(OK_UTILITY, 0), b""]
    )
    source = """
plan <- pg.spi.prepare("q")
cursor <- pg.spi.cursor_open("any", plan)
one <- pg.spi.cursor_fetch(cursor, TRUE, as.integer(1))
two <- pg.spi.cursor_fetch(cursor, FALSE, as.integer(3))
pg.spi.cursor_move(cursor, TRUE, 2)
pg.spi.cursor_close(cursor)
c(one$name, two$name)
"""
    assert sandbox.run(source, array(TEXT)) == one_dimension("a", "b")
    payloads = [payload for _, payload in sandbox.requests]
    quoted = '"<unnamed ""1"">"'
    assert payloads[1:] == [
        bytes([codec.SQL_OPEN_PLAN]) + struct.pack("<II", 9, 0),
        bytes([codec.SQL_FETCH]) + text(cursor) + struct.pack("<Q", 1),
        bytes([codec.SQL_EXECUTE]) + text(f"fetch backward 3 from {quoted}") + bytes(8),
        bytes([codec.SQL_EXECUTE]) + text(f"move forward 2 from {quoted}") + bytes(8),
        bytes([codec.SQL_CLOSE]) + text(cursor),
    ]


def test_dbi(sandbox: Sandbox) -> None:
    sandbox.script.extend([selected([1, "a"]), text("c"), selected([2, "b"]), b"", selected([3, "c"])])
    source = """
conn <- dbConnect(dbDriver("PostgreSQL"))
one <- dbGetQuery(conn, "q")
rs <- dbSendQuery(conn, "q")
two <- fetch(rs, 10)
dbClearResult(rs)
three <- dbReadTable(conn, "t")
dbDisconnect(conn)
c(one$name, two$name, three$name)
"""
    assert sandbox.run(source, array(TEXT)) == one_dimension("a", "b", "c")


def test_transactions(sandbox: Sandbox) -> None:
    sandbox.script.extend([b"", b""])
    sandbox.run("pg.spi.commit(); pg.spi.rollback()", VOID)
    assert [payload for _, payload in sandbox.requests] == [bytes([codec.SQL_COMMIT]), bytes([codec.SQL_ROLLBACK])]


def test_subtransactions(sandbox: Sandbox) -> None:
    sandbox.script.extend([b"", selected([1, "a"]), b"", b"", SYNTAX, b""])
    source = """
one <- pg.spi.subtransaction(pg.spi.exec("q")$name)
two <- tryCatch(pg.spi.subtransaction(pg.spi.exec("q")), error = function(e) e$sqlstate)
c(one, two)
"""
    assert sandbox.run(source, array(TEXT)) == one_dimension("a", "42601")
    verbs = [payload[0] for kind, payload in sandbox.requests if kind == codec.SUBTRANSACTION]
    assert verbs == [1, 2, 1, 3]


def test_a_statement_calls_functions_of_the_same_sandbox(sandbox: Sandbox) -> None:
    inner = sandbox.define("if (x > 3) stop('too deep')\n10L * x", INT4, [("x", INT4)], name="inner")

    def call_inner(value: int) -> bytes:
        call_id = sandbox.start(inner, value)
        return selected([sandbox.finish(inner, call_id), "r"])

    outer = sandbox.define("y <- 5L\nz <- pg.spi.exec('x')$id\ny + z", INT4, name="outer")
    sandbox.script.append(lambda: call_inner(2))
    sandbox.call_id += 1
    call_id = sandbox.start(outer)
    assert sandbox.finish(outer, call_id) == 25

    def failing() -> dict[str, str]:
        call_id = sandbox.start(inner, 4)
        with pytest.raises(CallError, match="too deep") as caught:
            sandbox.finish(inner, call_id)
        assert "outer" not in caught.value.context
        return {"C": caught.value.sqlstate, "M": str(caught.value)}

    sandbox.script.append(failing)
    call_id = sandbox.start(outer)
    with pytest.raises(CallError, match="too deep") as caught:
        sandbox.finish(outer, call_id)
    assert 'PL/Container function "outer", line 2' in caught.value.context


def test_calls_nest(sandbox: Sandbox) -> None:
    function = sandbox.define("if (x == 0L) 0L else 1L + pg.spi.exec('x')$id", INT4, [("x", INT4)])

    def call(depth: int) -> int:
        call_id = sandbox.start(function, depth)
        if depth > 0:
            sandbox.script.append(lambda: selected([call(depth - 1), ""]))
        return int(sandbox.finish(function, call_id))

    assert call(20) == 20


def test_a_cancel_of_a_call_that_waits(sandbox: Sandbox) -> None:
    function = sandbox.define("repeat tryCatch(pg.spi.exec('x'), error = function(e) NULL)")

    def canceled() -> dict[str, str]:
        sandbox.cancel(sandbox.call_id)
        return {"C": "57014", "M": "canceling statement due to user request"}

    sandbox.script.extend([canceled] + [canceled] * 10000)
    sandbox.start(function)
    with pytest.raises(CallError) as caught:
        sandbox.finish(function)
    assert caught.value.sqlstate == "57014"


def test_quoting(sandbox: Sandbox) -> None:
    source = "c(pg.quoteident('abc'), pg.quoteident('user'), pg.quoteident('A\"b'), pg.quoteliteral(\"a'b\"),"
    source += " pg.quoteliteral('a\\\\b'))"
    assert sandbox.run(source, array(TEXT)) == one_dimension("abc", '"user"', '"A""b"', "'a''b'", "E'a\\\\b'")
