-- record: as an argument its shape comes with the value; as a result the query names it.
CREATE SCHEMA plc_records;
SET search_path = plc_records;
CREATE FUNCTION keys(v record) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return None if v is None else ", ".join(f"{key}={value!r}" for key, value in v.items())
$$;
SELECT keys(ROW(1, 'a'::text, NULL::int, 1.50)), keys(NULL);
SELECT keys(s) FROM (VALUES (1, 'x'::text), (2, NULL)) s(number, word);
SELECT keys(ROW(ROW(1, ARRAY[ROW(2)]), '{3,4}'::int[]));

CREATE FUNCTION rec(how text) RETURNS record LANGUAGE plcontainer AS $$
# container: plc_python_shared
return {"tuple": (1, "one"), "dict": {"a": 2, "b": "two"}, "none": None}[how]
$$;
SELECT * FROM rec('tuple') AS (a int, b text);
SELECT * FROM rec('tuple') AS (x text, y varchar(2));
SELECT * FROM rec('dict') AS (b text, a int8);
SELECT * FROM rec('none') AS (a int, b text);
\set VERBOSITY sqlstate
SELECT * FROM rec('tuple') AS (a int, b text, c text);
SELECT * FROM rec('tuple') AS (a int, b int);
SELECT rec('tuple');
\set VERBOSITY default

CREATE FUNCTION recs(n int) RETURNS SETOF record LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield {"i": i, "square": i * i, "word": "w" * i}
$$;
SELECT * FROM recs(3) AS (i int, square int8);
SELECT * FROM recs(3) AS (word text, i numeric);
SELECT sum(square) FROM recs(1000) AS (square int);
-- The same function with two shapes in one query.
SELECT * FROM recs(2) AS r(i int), recs(2) AS s(word text) ORDER BY i, word;

-- OUT, INOUT and TABLE.
CREATE FUNCTION parts(INOUT v int, OUT half float8, OUT word text) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v + 1, v / 2, str(v)
$$;
SELECT * FROM parts(3);
SELECT parts(4), (parts(5)).half;
CREATE FUNCTION single(OUT v int[]) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [1, 2]
$$;
SELECT single();
CREATE FUNCTION squares(n int) RETURNS TABLE (number int, square int8) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [(i, i * i) for i in range(1, n + 1)]
$$;
SELECT * FROM squares(3);
SELECT squares(2);
CREATE FUNCTION out_set(INOUT a int, OUT b int) RETURNS SETOF record LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(a):
    yield {"a": i, "b": -i}
$$;
SELECT * FROM out_set(3);
CREATE FUNCTION anonymous(OUT int, OUT int) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1, 2
$$;
SELECT * FROM anonymous();
CREATE FUNCTION table_of_one(n int) RETURNS TABLE (v text) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return ["a"] * n
$$;
SELECT * FROM table_of_one(2);
SET client_min_messages = warning;
DROP SCHEMA plc_records CASCADE;
