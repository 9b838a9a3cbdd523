"""Cursors of `plpy`: rows in batches, and what ends a cursor."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from plc import codec, plpy, spi

from .scripted import OK, Answer, ScriptedLoop, cursor, done, failed, opened, plan, rows_answer, scripted

GONE = failed("34000", 'cursor "c1" does not exist')


def text(value: str) -> bytes:
    return codec.encode_strings(value)


def fetched(loop: ScriptedLoop) -> list[int]:
    """The numbers of rows that were asked for."""
    head = b"\x06" + text("c1")
    assert all(kind == codec.SQL and payload.startswith(head) for kind, payload in loop.sent)
    return [struct.unpack("<Q", payload[len(head) :])[0] for _, payload in loop.sent]


def numbers(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"i": i} for i in range(start, stop)]


def batch(start: int, stop: int) -> Answer:
    return rows_answer(*numbers(start, stop), status=3)


def test_opening() -> None:
    with scripted(opened(), opened("<unnamed portal 2>")) as loop:
        plpy.cursor("select 1")
        made = plan(loop)
        loop.answers.append(opened())
        assert repr(plpy.cursor(made, [1])).startswith("<PLyCursor object at ")
        assert loop.sent == [(codec.SQL, b"\x05" + struct.pack("<II", 3, 1) + b"[1]")]
        made.cursor([2])
        assert loop.sent[1] == (codec.SQL, b"\x05" + struct.pack("<II", 3, 1) + b"[2]")


@pytest.mark.parametrize("arguments", [(), (5,), (None,), ("q", [1])])
def test_what_is_no_query_and_no_plan(arguments: Any) -> None:
    with scripted(), pytest.raises(plpy.Error, match=r"^plpy\.cursor expected a query or a plan$"):
        plpy.cursor(*arguments)


def test_iterating_asks_for_more_and_more() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.extend([batch(0, 10), batch(10, 30), batch(30, 50)])
        assert list(made) == numbers(0, 50)
        assert fetched(loop) == [10, 20, 40]
        # at the end there is nothing to ask for
        assert list(made) == []
        assert len(made.fetch(5)) == 0


def test_batches_of_large_rows_are_small() -> None:
    wide = [{"i": "x" * 100_000} for _ in range(10)]
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.extend([rows_answer(*wide, status=3), rows_answer(status=3)])
        assert len(list(made)) == 10
        assert fetched(loop) == [10, 2]


def test_batches_have_a_largest_size() -> None:
    with scripted() as loop:
        made = cursor(loop)
        sizes = [10, 20, 40, 80, 160, 320, 640, 1000, 1000]
        loop.answers.extend([rows_answer(*numbers(0, size), status=3) for size in sizes])
        loop.answers.append(rows_answer(status=3))
        assert sum(1 for _ in made) == sum(sizes)
        assert fetched(loop) == [*sizes, 1000]


def test_fetching() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.extend([batch(0, 3), batch(3, 4)])
        first = made.fetch(3)
        assert (first[:], first.nrows(), first.status(), first.colnames()) == (numbers(0, 3), 3, 3, ["i"])
        assert [len(made.fetch(3)) for _ in range(3)] == [1, 0, 0]
        assert fetched(loop) == [3, 3]
        with pytest.raises(StopIteration):
            next(made)


def test_fetching_between_iterating() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.extend([batch(0, 2), batch(2, 12), batch(12, 14), batch(14, 15)])
        assert made.fetch(2)[:] == numbers(0, 2)
        assert [next(made)["i"], made.next()["i"]] == [2, 3]
        assert made.fetch(10)[:] == numbers(4, 14)
        assert made.fetch(1)[:] == numbers(14, 15)
        assert fetched(loop) == [2, 10, 2, 1]


def test_fetching_none() -> None:
    with scripted() as loop:
        assert len(cursor(loop).fetch(0)) == 0
        assert loop.sent == []


@pytest.mark.parametrize(
    ("count", "kind"), [(-1, ValueError), ("1", TypeError), (1.0, TypeError), (1 << 63, OverflowError)]
)
def test_fetching_what_is_no_number_of_rows(count: Any, kind: type[Exception]) -> None:
    with scripted() as loop:
        made = cursor(loop)
        with pytest.raises(kind):
            made.fetch(count)


def test_closing() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(OK)
        made.close()
        made.close()
        assert loop.sent == [(codec.SQL, b"\x07" + text("c1"))]
        with pytest.raises(ValueError, match=r"^fetch from a closed cursor$"):
            made.fetch(1)
        with pytest.raises(ValueError, match=r"^iterating a closed cursor$"):
            next(made)
        del made
        assert not spi._garbage


DISCARD = struct.pack("<BII", 10, 0, 1) + text("c1")


def test_a_cursor_that_nobody_has_is_closed() -> None:
    with scripted() as loop:
        cursor(loop)
        assert loop.discarded == [DISCARD]


def test_a_cursor_that_nobody_has_is_closed_in_the_next_call() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.call = -1
        del made
        assert loop.discarded == []
        loop.call = 8
        loop.answers.append(done(4))
        plpy.execute("q")
        assert loop.discarded == [DISCARD]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (next, "iterating a cursor in an aborted subtransaction"),
        (lambda made: made.fetch(10), "iterating a cursor in an aborted subtransaction"),
        (lambda made: made.close(), "closing a cursor in an aborted subtransaction"),
    ],
)
def test_a_cursor_that_is_gone(use: Any, message: str) -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(GONE)
        with pytest.raises(ValueError, match=f"^{message}$"):
            use(made)


def test_another_cursor_that_is_gone_is_an_error_of_the_query() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(failed("34000", 'cursor "other" does not exist'))
        with pytest.raises(plpy.spiexceptions.InvalidCursorName):
            next(made)


def upset_by_subtransaction(loop: ScriptedLoop) -> None:
    loop.answers.extend([OK, OK])
    with pytest.raises(KeyError), plpy.subtransaction():
        raise KeyError


def upset_by_error(loop: ScriptedLoop) -> None:
    loop.answers.append(failed("22012", "division by zero"))
    with pytest.raises(plpy.SPIError):
        plpy.execute("select 1/0")


def upset_by_rollback(loop: ScriptedLoop) -> None:
    loop.answers.append(OK)
    plpy.rollback()


def upset_by_another_call(loop: ScriptedLoop) -> None:
    loop.call += 1


UPSETS = [upset_by_subtransaction, upset_by_error, upset_by_rollback, upset_by_another_call]


@pytest.mark.parametrize("upset", UPSETS)
@pytest.mark.parametrize("use", [next, lambda made: made.fetch(1)])
def test_rows_of_a_cursor_that_ended_are_not_seen(upset: Any, use: Any) -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(batch(0, 10))
        next(made)
        upset(loop)
        loop.answers.append(GONE)
        with pytest.raises(ValueError, match="aborted subtransaction"):
            use(made)


@pytest.mark.parametrize("upset", UPSETS)
def test_rows_of_a_cursor_that_lives_on_keep_their_order(upset: Any) -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(batch(0, 10))
        assert next(made)["i"] == 0
        upset(loop)
        loop.answers.extend([batch(10, 11), batch(11, 12)])
        assert [row["i"] for row in itertools.islice(made, 11)] == list(range(1, 12))


def test_an_error_while_rows_are_fetched() -> None:
    with scripted() as loop:
        made = cursor(loop)
        loop.answers.append(failed("22007", 'invalid value "xy" for "DD"'))
        with pytest.raises(plpy.spiexceptions.InvalidDatetimeFormat):
            next(made)
