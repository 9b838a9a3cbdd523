"""Functions whose arrays of numbers are numpy's, and numpy's arrays as results."""

from __future__ import annotations

from pathlib import Path

import pytest
from plc import codec
from plc.codec import Array, Row, Type

from .support import (
    BOOL,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    OID,
    TEXT,
    CallError,
    Sandbox,
    array,
    composite,
    one_dimension,
)

NUMPY = codec.FUNCTION_NUMPY
SHOW = "return repr((type(x).__module__, type(x).__name__, str(x.dtype), x.shape, x.tolist(), x.flags.writeable))"


@pytest.fixture
def numeric(sandbox: Sandbox) -> Sandbox:
    """A sandbox whose Python has numpy."""
    try:
        sandbox.run("import numpy\nreturn 1")
    except CallError as error:
        pytest.skip(str(error))
    return sandbox


@pytest.mark.parametrize(
    ("element", "value", "shown"),
    [
        (INT2, one_dimension(-1, 2), "('numpy', 'ndarray', 'int16', (2,), [-1, 2], True)"),
        (INT4, one_dimension(-1, 2), "('numpy', 'ndarray', 'int32', (2,), [-1, 2], True)"),
        (INT8, one_dimension(2**62), f"('numpy', 'ndarray', 'int64', (1,), [{2**62}], True)"),
        (OID, one_dimension(2**32 - 1), f"('numpy', 'ndarray', 'uint32', (1,), [{2**32 - 1}], True)"),
        (FLOAT4, one_dimension(0.5), "('numpy', 'ndarray', 'float32', (1,), [0.5], True)"),
        (FLOAT8, one_dimension(0.1), "('numpy', 'ndarray', 'float64', (1,), [0.1], True)"),
        (BOOL, one_dimension(True, False), "('numpy', 'ndarray', 'bool', (2,), [True, False], True)"),
        (INT4, Array((), (), []), "('numpy', 'ndarray', 'int32', (0,), [], True)"),
        (
            INT4,
            Array((2, 3), (1, 1), [1, 2, 3, 4, 5, 6]),
            "('numpy', 'ndarray', 'int32', (2, 3), [[1, 2, 3], [4, 5, 6]], True)",
        ),
    ],
)
def test_arguments(numeric: Sandbox, element: Type, value: object, shown: str) -> None:
    function = numeric.define(SHOW, TEXT, [("x", array(element))], flags=NUMPY)
    assert numeric.call(function, value) == shown


def test_nulls_are_masked(numeric: Sandbox) -> None:
    source = "return repr((type(x).__name__, x.shape, x.tolist(), x.mask.tolist(), float(x.sum())))"
    function = numeric.define(source, TEXT, [("x", array(FLOAT8))], flags=NUMPY)
    value = Array((2, 2), (1, 1), [1.5, None, 2.0, None])
    shown = "('MaskedArray', (2, 2), [[1.5, None], [2.0, None]], [[False, True], [False, True]], 3.5)"
    assert numeric.call(function, value) == shown


def test_other_arguments_are_as_ever(numeric: Sandbox) -> None:
    arguments = [("a", array(TEXT)), ("b", INT4), ("c", array(INT4)), ("d", composite(x=array(INT4)))]
    function = numeric.define("return repr((a, b, c, type(d['x']).__name__))", TEXT, arguments, flags=NUMPY)
    values = (one_dimension("x", None), 1, None, Row([one_dimension(1)]))
    assert numeric.call(function, *values) == "(['x', None], 1, None, 'ndarray')"


def test_arrays_outlive_their_call_and_may_be_written(numeric: Sandbox) -> None:
    keep = numeric.define(
        "GD.setdefault('kept', []).append((x, y))\nreturn 0",
        INT4,
        flags=NUMPY,
        arguments=(("x", array(FLOAT8)), ("y", array(INT4))),
    )
    for count in (10, 100_000):
        numeric.call(keep, one_dimension(*(float(i) for i in range(count))), one_dimension(*range(count)))
    source = """
total = 0
for x, y in GD['kept']:
    x += 1
    x -= y
    total += int(x.sum()) == len(x)
return total
"""
    assert numeric.run(source) == 2


def test_a_million_each_way(numeric: Sandbox) -> None:
    function = numeric.define("return x * 2", array(INT8), [("x", array(INT8))], flags=NUMPY)
    result = numeric.call(function, one_dimension(*range(1_000_000)))
    assert result.items == list(range(0, 2_000_000, 2))


@pytest.mark.parametrize(
    ("element", "expression", "expected"),
    [
        (FLOAT8, "np.ma.masked_array([1, 2, 3.0], [0, 1, 0])", one_dimension(1.0, None, 3.0)),
        (INT8, "np.ma.masked_array(np.arange(4).reshape(2, 2), np.eye(2))", Array((2, 2), (1, 1), [None, 1, 2, None])),
        (INT8, "np.ma.masked_array([1, 2])", one_dimension(1, 2)),
        (INT4, "np.ma.masked_array([1, 2], [1, 0])", one_dimension(None, 2)),
        (INT4, "np.ma.masked_array([1, 2], [1, 1], dtype='int32')", one_dimension(None, None)),
        (INT8, "np.ma.masked_array(np.empty(0, int))", Array((), (), [])),
        (INT8, "np.ma.masked_array(np.arange(10), np.arange(10) % 3 == 0)[::2]", one_dimension(None, 2, 4, None, 8)),
        (BOOL, "np.array([True, False])[::-1]", one_dimension(False, True)),
        (INT8, "np.arange(6).reshape(2, 3).T", Array((3, 2), (1, 1), [0, 3, 1, 4, 2, 5])),
        (
            INT8,
            "np.arange(24).reshape(2, 3, 4)[:, ::2, 1:3]",
            Array((2, 2, 2), (1, 1, 1), [1, 2, 9, 10, 13, 14, 21, 22]),
        ),
        (INT8, "np.arange(3)[::-1]", one_dimension(2, 1, 0)),
        (INT8, "np.broadcast_to(np.int64(7), (3,))", one_dimension(7, 7, 7)),
        (FLOAT8, "np.arange(2, dtype='>f8')", one_dimension(0.0, 1.0)),
        (OID, "np.array([1, 2**32 - 1], 'uint32')", one_dimension(1, 2**32 - 1)),
        (INT4, "np.array([2**31], 'uint32')", one_dimension(str(2**31), text=True)),
        (FLOAT8, "np.array([[1.5], [2]])[:, 0]", one_dimension(1.5, 2.0)),
        (INT8, "[np.int64(2**62), 1]", one_dimension(str(2**62), "1", text=True)),
        (FLOAT8, "[np.float64(0.1), 'x']", one_dimension("0.1", "x", text=True)),
        (FLOAT8, "[np.float64(0.1), None]", one_dimension(0.1, None)),
        (TEXT, "[np.float64(0.1)]", one_dimension("0.1")),
    ],
)
def test_results(numeric: Sandbox, element: Type, expression: str, expected: object) -> None:
    assert numeric.run(f"import numpy as np\nreturn {expression}", array(element)) == expected


def test_a_runtime_without_numpy(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('No module named numpy')")
    assert (
        sandbox.run(f"import sys\nsys.modules.pop('numpy', None)\nsys.path.insert(0, {str(tmp_path)!r})\nreturn 1") == 1
    )
    function = sandbox.define("return 1", flags=NUMPY)
    with pytest.raises(CallError, match="runtime has no numpy") as caught:
        sandbox.call(function)
    assert caught.value.sqlstate == "0A000"
    assert sandbox.run("return 2") == 2
