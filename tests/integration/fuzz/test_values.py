"""Values through the database's side of the codec alone: written as a sandbox gets them, read as it sends them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from .cluster import Cluster
from .hostile import text


@pytest.fixture
def session(cluster: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with cluster.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def one(session: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = session.execute(query, values).fetchone()
    assert row is not None
    return row[0]


ROUND_TRIPS = (
    "true::bool",
    "(-32768)::int2",
    "9223372036854775807::int8",
    "'-0'::float8",
    "4294967295::oid",
    "12345678901234567890.0123456789::numeric",
    "''::text",
    "'\\x0001ff'::bytea",
    "'é€🐘'::varchar",
    "'2024-02-29 12:34:56.789+02'::timestamptz",
    "'{}'::int4[]",
    "'[0:1][-1:0]={{1,NULL},{NULL,4}}'::int2[]",
    "'{{{t}},{{f}}}'::bool[]",
    '\'{a,NULL,"b c",""}\'::text[]',
    "'{red,NULL}'::color[]",
    "'{1.50,-0.25}'::price[]",
    '\'{"{1,2}","{3,4}"}\'::pair[]',
    "ROW(1.5, NULL, 3)::point3",
    "ROW()::nothing",
    "ARRAY[ROW(1, 'é', 2.5, 'abc', 'x', '101')::leaf, NULL]",
    """ROW(ROW(1, NULL, ARRAY[ROW(1, NULL, NULL, NULL, NULL, NULL)::leaf], '{x}', 7, ROW(1, 2, 3)::point3,
        '{"{1,2}"}', 'abc', '{d}', '{t}')::branch,
        NULL, '{"a": 1}', '2024-02-29 00:00:00+00', '[1,5)', '\\x00')::tree""",
    "(SELECT array_agg(repeat('x', 70000)) FROM generate_series(1, 12))",
    "(SELECT array_agg(i) FROM generate_series(1, 30000) i)",
)


@pytest.mark.parametrize("value", ROUND_TRIPS)
def test_what_is_written_reads_as_what_it_was(session: psycopg.Connection[Any], value: str) -> None:
    query = f"SELECT fuzz_read(fuzz_write(v), v)::text = v::text FROM (SELECT {value} AS v) AS s"
    assert one(session, query) is True


def test_dropped_columns_do_not_cross(session: psycopg.Connection[Any]) -> None:
    with session.transaction(force_rollback=True):
        session.execute("TRUNCATE sink")
        session.execute("ALTER TABLE sink DISABLE TRIGGER ALL")
        session.execute("INSERT INTO sink VALUES (1, 'x', DEFAULT, '{abc}')")
        described = one(session, "SELECT fuzz_describe('sink')")
        assert described.startswith(b"\x11" + text(b"sink") + struct.pack("<I", 4) + text(b"n"))
        assert b"gone" not in described
        assert one(session, "SELECT fuzz_read(fuzz_write(sink), sink)::text FROM sink") == "(1,x,2,{abc})"


def test_records_describe_themselves(session: psycopg.Connection[Any]) -> None:
    inner = b"\x11" + text(b"record") + struct.pack("<I", 1) + text(b"f1") + b"\3" + b"\1" + struct.pack("<i", 5)
    outer = b"\x11" + text(b"record") + struct.pack("<I", 2) + text(b"f1") + b"\1" + text(b"f2") + b"\x12"
    assert one(session, "SELECT fuzz_write(ROW(true, ROW(5)))") == b"\1" + outer + b"\1\1" + b"\1" + inner


def test_records_nest_no_deeper_than_types_do(session: psycopg.Connection[Any]) -> None:
    def nested(levels: int) -> str:
        return "SELECT fuzz_write(" + "ROW(" * levels + "1" + ")" * levels + ")"

    assert one(session, nested(20))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="nested too deeply"):
        session.execute(nested(70))


def test_a_type_that_changes_is_seen(session: psycopg.Connection[Any]) -> None:
    with session.transaction(force_rollback=True):
        session.execute("CREATE TYPE grows AS (a int4)")
        session.execute("CREATE TABLE holder AS SELECT ROW(1)::grows AS g")
        session.execute("ALTER TYPE grows ADD ATTRIBUTE b text")
        assert one(session, "SELECT fuzz_read(fuzz_write(g), g)::text FROM holder") == "(1,)"


def value(form: int, payload: bytes) -> bytes:
    return bytes((form,)) + payload


BINARY, TEXT, ABSENT = 1, 2, 3
LEAF = value(BINARY, struct.pack("<Bi", 1, 1) + b"\0%s" + b"\0" * 2)
REFUSED_VALUES = (
    ("int4", value(TEXT, text(b"2147483648")), "22003"),
    ("int4", value(TEXT, text(b"x")), "22P02"),
    ("positive", value(BINARY, struct.pack("<i", -1)), "23514"),
    ("positive[]", value(BINARY, struct.pack("<BBHiiii", 1, 0, 0, 1, 1, 0, -1)), "23514"),
    ("(NULL::price[])[1]", b"\0", "23502"),
    ("(NULL::price[])[1]", value(BINARY, text(b"123456")), "22003"),
    ("short", value(BINARY, text(b"too long")), "22001"),
    ("short[]", value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1, 1) + text(b"too long")), "22001"),
    ("pair", value(BINARY, struct.pack("<BBHiiii", 1, 0, 0, 1, 1, 0, 7)), "23514"),
    ("ahead", value(BINARY, value(BINARY, struct.pack("<d", -1)) + b"\0\0"), "23514"),
    ("leaf", value(BINARY, b"\0\0" + value(BINARY, text(b"1234.5")) + b"\0\0\0"), "22003"),
    ("leaf", value(BINARY, b"\0\0\0" + value(BINARY, text(b"abcd")) + b"\0\0"), "22001"),
    ("leaf", value(BINARY, b"\0\0\0\0" + value(BINARY, text(b"abcde")) + b"\0"), "22001"),
    ("leaf", value(BINARY, b"\0\0\0\0\0" + value(BINARY, text(b"1"))), "22026"),
    ("sink", value(BINARY, b"\0\0\0" + value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1, 1) + text(b"abcd"))), "22001"),
    ("text", value(BINARY, text(b"a\0b")), "22021"),
    ("text", value(BINARY, text(b"\xff")), "22021"),
    ("bytea[]", value(TEXT, text(b"{a\0}")), "22021"),
    ("color", value(BINARY, text(b"blue")), "22P02"),
    ("record", value(TEXT, text(b"(1)")), "0A000"),
    # What a message can't say.
    ("bool", value(BINARY, b"\2"), "08P01"),
    ("int4", value(ABSENT, b""), "08P01"),
    ("leaf", value(BINARY, value(ABSENT, b"") + b"\0" * 5), "08P01"),
    ("record", value(BINARY, b"\x11"), "08P01"),
    ("void", value(BINARY, b""), "08P01"),
    ("nothing[]", value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1, 1) + b"\0"), "08P01"),
    ("nothing[]", value(BINARY, struct.pack("<BBHii", 1, 2, 0, 1, 1) + text(b"()")), "08P01"),
    ("nothing[]", value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1 << 20, 1)), "08P01"),
    ("text[]", value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1 << 20, 1)), "08P01"),
    ("int4[]", value(BINARY, struct.pack("<BBHii", 1, 0, 0, 1, 0x7FFFFFFF)), "08P01"),
    ("int4", value(BINARY, struct.pack("<i", 1) + b"x"), "08P01"),
)


@pytest.mark.parametrize(("name", "message", "state"), REFUSED_VALUES)
def test_what_is_no_value_of_its_type(session: psycopg.Connection[Any], name: str, message: bytes, state: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        session.execute(f"SELECT fuzz_read(%s, {name if '(' in name else f'NULL::{name}'})", (message,))
    assert raised.value.sqlstate == state


def test_blanks_fill_and_bits_fit(session: psycopg.Connection[Any]) -> None:
    message = value(BINARY, b"\0\0" + value(BINARY, text(b"1.239")) + b"\0" + value(BINARY, text(b"a  ")) + b"\0")
    assert one(session, "SELECT fuzz_read(%s, NULL::leaf)::text", message) == '(,,1.24,,"a   ",)'


def test_no_array_larger_than_the_database_takes(session: psycopg.Connection[Any]) -> None:
    count = 200_000_000
    message = value(BINARY, struct.pack("<BBHii", 1, 1, 0, count, 1) + b"\xff" * (count // 8))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        session.execute("SELECT fuzz_read(%s, NULL::text[])", (message,))
