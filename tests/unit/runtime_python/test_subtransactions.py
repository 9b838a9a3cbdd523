"""Subtransactions of `plpy`."""

from __future__ import annotations

from typing import Any

import pytest
from plc import codec, plpy

from .scripted import OK, failed, scripted

BEGIN, COMMIT, ROLLBACK = ((codec.SUBTRANSACTION, bytes([verb])) for verb in (1, 2, 3))
ENTERED = "this subtransaction has already been entered"
EXITED = "this subtransaction has already been exited"


def test_a_block_that_ends_is_committed() -> None:
    with scripted(OK, OK) as loop:
        with plpy.subtransaction() as made:
            assert loop.sent == [BEGIN]
            assert repr(made).startswith("<PLySubtransaction object at ")
        assert loop.sent == [BEGIN, COMMIT]


def test_a_block_that_an_exception_leaves_is_rolled_back() -> None:
    with scripted(OK, OK) as loop:
        with pytest.raises(KeyError), plpy.subtransaction():
            raise KeyError
        assert loop.sent == [BEGIN, ROLLBACK]


def test_blocks_can_be_nested() -> None:
    with scripted(OK, OK, OK, OK) as loop:
        with plpy.subtransaction(), pytest.raises(KeyError), plpy.subtransaction():
            raise KeyError
        assert loop.sent == [BEGIN, BEGIN, ROLLBACK, COMMIT]


def test_the_old_names() -> None:
    with scripted(OK, OK, OK, OK) as loop:
        first, second = plpy.subtransaction(), plpy.subtransaction()
        assert first.enter() is first
        first.exit(None, None, None)
        second.enter()
        second.exit(KeyError, KeyError(), None)
        assert loop.sent == [BEGIN, COMMIT, BEGIN, ROLLBACK]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["exit"], "this subtransaction has not been entered"),
        (["enter", "enter"], ENTERED),
        (["enter", "exit", "exit"], EXITED),
        (["enter", "exit", "enter"], ENTERED),
    ],
)
def test_steps_out_of_order(steps: list[str], message: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"enter": (), "exit": (None, None, None)}
    with scripted(*[OK] * (len(steps) - 1)):
        made = plpy.subtransaction()
        *before, last = steps
        for step in before:
            getattr(made, step)(*arguments[step])
        with pytest.raises(ValueError, match=f"^{message}$"):
            getattr(made, last)(*arguments[last])


def test_exit_needs_three_arguments() -> None:
    with scripted(OK):
        made = plpy.subtransaction().enter()
        with pytest.raises(TypeError):
            made.exit()  # type: ignore[call-arg]


def test_one_that_was_left_open_ended_with_its_call() -> None:
    with scripted(OK) as loop:
        made = plpy.subtransaction().enter()
        loop.call += 1
        with pytest.raises(ValueError, match=r"^there is no subtransaction to exit from$"):
            made.exit(None, None, None)
        assert loop.sent == [BEGIN]


def test_an_error_at_its_begin() -> None:
    answer = failed("25000", "cannot start subtransactions during a parallel operation")
    with scripted(answer), pytest.raises(plpy.spiexceptions.InvalidTransactionState), plpy.subtransaction():
        pytest.fail("the block is not entered")


def test_an_error_at_its_end() -> None:
    answers = OK, failed("23503", "m")
    with scripted(*answers), pytest.raises(plpy.spiexceptions.ForeignKeyViolation), plpy.subtransaction():
        pass


def test_one_that_the_backend_has_ended() -> None:
    message = "there is no subtransaction to exit from"
    with scripted(OK, failed("25P01", message)), pytest.raises(ValueError, match=f"^{message}$"), plpy.subtransaction():
        pass
