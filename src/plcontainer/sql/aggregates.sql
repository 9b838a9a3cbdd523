-- Aggregates and windows of such functions.
CREATE SCHEMA plc_aggregates;
SET search_path = plc_aggregates;
CREATE FUNCTION add(state float8, v float8) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return (state or 0) + (v or 0)
$$;
CREATE AGGREGATE total(float8) (SFUNC = add, STYPE = float8);
CREATE FUNCTION collect(state text[], v text) RETURNS text[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return (state or []) + [v]
$$;
CREATE FUNCTION finish(state text[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return "/".join("-" if v is None else v for v in state)
$$;
CREATE AGGREGATE join_all(text) (SFUNC = collect, STYPE = text[], FINALFUNC = finish, INITCOND = '{}');
CREATE TYPE moments AS (n int8, mean float8, m2 float8);
CREATE FUNCTION moments_add(state moments, v float8) RETURNS moments LANGUAGE plcontainer AS $$
# container: plc_python_shared
n = state["n"] + 1
delta = v - state["mean"]
mean = state["mean"] + delta / n
return n, mean, state["m2"] + delta * (v - mean)
$$;
CREATE FUNCTION moments_join(a moments, b moments) RETURNS moments LANGUAGE plcontainer AS $$
# container: plc_python_shared
n = a["n"] + b["n"]
if n == 0:
    return a
delta = b["mean"] - a["mean"]
return n, a["mean"] + delta * b["n"] / n, a["m2"] + b["m2"] + delta * delta * a["n"] * b["n"] / n
$$;
CREATE FUNCTION moments_variance(state moments) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return state["m2"] / state["n"] if state["n"] else None
$$;
CREATE AGGREGATE variance_of(float8) (SFUNC = moments_add, STYPE = moments, FINALFUNC = moments_variance,
    COMBINEFUNC = moments_join, INITCOND = '(0,0,0)');
CREATE TABLE sample AS SELECT i, i % 3 AS part, i::float8 AS v FROM generate_series(1, 999) i;
SELECT total(v), total(v) FILTER (WHERE part = 1), join_all(i::text ORDER BY i DESC) FILTER (WHERE i < 5) FROM sample;
SELECT part, total(v), round(variance_of(v)::numeric, 6) = round(var_pop(v)::numeric, 6) AS equal FROM sample GROUP BY part ORDER BY part;
SELECT total(v), join_all(i::text), variance_of(v) IS NULL AS no_variance FROM sample WHERE false;
SELECT join_all(w) FROM (VALUES ('a'), (NULL), ('c')) s(w);
-- Over windows, with frames that move.
SELECT i, total(v) OVER (ORDER BY i), total(v) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW),
    join_all(i::text) OVER (PARTITION BY part ORDER BY i) FROM sample WHERE i <= 6 ORDER BY i;
CREATE FUNCTION subtract(state float8, v float8) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return state - v
$$;
CREATE AGGREGATE moving_total(float8) (SFUNC = add, STYPE = float8, INITCOND = '0',
    MSFUNC = add, MINVFUNC = subtract, MSTYPE = float8, MINITCOND = '0');
SELECT i, moving_total(v) OVER (ORDER BY i ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM sample WHERE i <= 5 ORDER BY i;
-- Of arguments that such functions make, in HAVING, and of sets.
CREATE FUNCTION half(v float8) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v / 2
$$;
SELECT part, sum(half(v)) FROM sample GROUP BY part HAVING half(sum(v)) > 83000 ORDER BY part;
SELECT rank() OVER (ORDER BY half(v) DESC), half(v) FROM sample WHERE i < 4 ORDER BY 1;
-- An error in a transition ends the query, and no more.
CREATE FUNCTION fails_at(state int, v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return state + 1 // (3 - v)
$$;
CREATE AGGREGATE fails(int) (SFUNC = fails_at, STYPE = int, INITCOND = '0');
\set VERBOSITY terse
SELECT fails(i) FROM sample;
\set VERBOSITY default
SELECT fails(i) FROM sample WHERE i < 3;
-- A window function gets the arguments of each row.
CREATE FUNCTION tenfold(v int, OUT once int, OUT ten int) LANGUAGE plcontainer WINDOW AS $$
# container: plc_python_shared
return v, None if v is None else v * 10
$$;
SELECT i, row_to_json(tenfold(i) OVER (ORDER BY i DESC)) FROM sample WHERE i < 4 ORDER BY i;
SELECT tenfold(NULL) OVER () FROM sample LIMIT 1;
SELECT tenfold(1);
-- In an index, a check, a default, a generated column.
CREATE FUNCTION norm(v text) RETURNS text IMMUTABLE LANGUAGE plcontainer AS $$
# container: plc_python_shared
return " ".join(v.lower().split())
$$;
CREATE TABLE uses (w text DEFAULT norm('  A  B ') CHECK (norm(w) <> ''), n text GENERATED ALWAYS AS (norm(w)) STORED);
CREATE INDEX ON uses (norm(w));
INSERT INTO uses VALUES ('X   Y'), (DEFAULT);
\set VERBOSITY terse
INSERT INTO uses VALUES ('  ');
\set VERBOSITY default
SET enable_seqscan = off;
SELECT * FROM uses WHERE norm(w) = 'x y';
RESET enable_seqscan;
SET client_min_messages = warning;
DROP SCHEMA plc_aggregates CASCADE;
