-- arrays=numpy: arrays of numbers are numpy's.
CREATE SCHEMA plc_numpy;
SET search_path = plc_numpy;
CREATE FUNCTION show(v anyarray) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
import numpy
if v is None:
    return "None"
mask = numpy.ma.getmaskarray(v).tolist() if isinstance(v, numpy.ma.MaskedArray) else None
return f"{type(v).__name__} {getattr(v, 'dtype', None)} {getattr(v, 'shape', None)} {v.tolist() if hasattr(v, 'tolist') else v} {mask}"
$$;
SELECT show('{1,2}'::int2[]), show('{1,2}'::int4[]), show('{1,2}'::int8[]);
SELECT show('{1.5,NaN}'::float4[]), show('{1.5,-Infinity}'::float8[]), show('{t,f}'::bool[]);
SELECT show('{1,NULL,3}'::int4[]), show('{NULL}'::float8[]), show('{t,NULL}'::bool[]);
SELECT show('{{1,2,3},{4,5,6}}'::int4[]), show('{{{1.5},{2.5}}}'::float8[]), show('{{1,NULL},{3,4}}'::int8[]);
SELECT show('{}'::int4[]), show(NULL::int4[]), show('[5:6]={7,8}'::int4[]);
-- Others stay lists.
SELECT show('{a,NULL}'::text[]), show('{1.10}'::numeric[]), show('{2026-01-02}'::date[]);
CREATE FUNCTION scalar(v int, w float8, x text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
return f"{type(v).__name__} {type(w).__name__} {type(x).__name__}"
$$;
SELECT scalar(1, 1.5, 'x');
CREATE FUNCTION plain(v int[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return type(v).__name__
$$;
SELECT plain('{1}');
-- Results: of any shape, mask and order of bytes or of axes.
CREATE FUNCTION floats(code text) RETURNS float8[] LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
import numpy
return eval(code)
$$;
CREATE FUNCTION ints(code text) RETURNS int4[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
import numpy
return eval(code)
$$;
CREATE FUNCTION bools(code text) RETURNS bool[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
import numpy
return eval(code)
$$;
SELECT code, floats(code) FROM unnest(ARRAY['numpy.arange(3.0)', 'numpy.arange(3)', 'numpy.arange(6.0).reshape(2, 3)', 'numpy.arange(6.0).reshape(2, 3).T',
    'numpy.arange(10.0)[::3]', 'numpy.arange(3.0)[::-1]', 'numpy.array([1.5, 2.5], dtype=">f8")', 'numpy.array([1.5], dtype="f4")',
    'numpy.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0])', 'numpy.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])',
    'numpy.ma.masked_all(2)', 'numpy.array([numpy.nan, numpy.inf])', 'numpy.zeros(0)', '[numpy.float64(1.5), numpy.float32(0.5), 2]']) code;
SELECT code, ints(code) FROM unnest(ARRAY['numpy.arange(3)', 'numpy.array([1, 2], dtype="i2")', 'numpy.array([1, 2], dtype="u1")', '[numpy.int64(5), numpy.int8(-1)]',
    'numpy.ma.masked_array([1, 2], mask=[1, 0])', 'numpy.array([[1], [2]])', 'numpy.array([2**31 - 1])']) code;
SELECT bools('numpy.array([True, False])'), bools('numpy.arange(3) > 1'), bools('[numpy.bool_(True), None]');
\set VERBOSITY sqlstate
SELECT ints('numpy.array([2**31])');
SELECT ints('numpy.array([1.5])');
SELECT ints('numpy.array([1 + 2j])');
SELECT ints('numpy.array(["x"])');
SELECT ints('numpy.zeros((1, 1, 1, 1, 1, 1, 1), dtype="i4")');
SELECT ints('numpy.array(5)');
\set VERBOSITY default
CREATE FUNCTION one(code text) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
import numpy
return eval(code)
$$;
SELECT one('numpy.float64(0.1)'), one('numpy.float32(0.5)'), one('numpy.int64(3)'), one('numpy.array([1.5, 2.5]).mean()');
-- An array may be changed and kept: it is the function's own.
CREATE FUNCTION keeps(v float8[]) RETURNS float8[] LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
before = SD.get("v")
mine = v
mine *= 2
SD["v"] = mine
return before
$$;
SELECT keeps('{1,2}');
SELECT keeps('{3,4}');
SELECT keeps('{5,6}'), keeps(NULL) FROM (SELECT 1) s WHERE false;
SELECT keeps('{5,6}');
-- Large, and within composites, sets, plans and triggers.
CREATE FUNCTION scale(v float8[], f float8) RETURNS float8[] LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
return v * f
$$;
SELECT sum(e) FROM unnest(scale((SELECT array_agg(i::float8) FROM generate_series(1, 1000000) i), 2)) e;
CREATE TYPE series AS (name text, v float8[], inner_v int[]);
CREATE FUNCTION shift_series(s series) RETURNS series LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
return {"name": s["name"], "v": s["v"] + 1, "inner_v": s["inner_v"].cumsum()}
$$;
SELECT shift_series(('n', '{1,2}', '{1,2,3}'));
CREATE FUNCTION rows_of(v int[]) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
return v
$$;
SELECT rows_of('{3,1,2}');
CREATE FUNCTION matrix_rows(v int[]) RETURNS SETOF int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared arrays=numpy
return v
$$;
SELECT matrix_rows('{{1,2},{3,4}}');
SET client_min_messages = warning;
DROP SCHEMA plc_numpy CASCADE;
