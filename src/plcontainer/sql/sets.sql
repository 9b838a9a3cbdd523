-- Sets come in batches, as they are asked for.
CREATE SCHEMA plc_sets;
SET search_path = plc_sets;
CREATE FUNCTION numbers(n int8) RETURNS SETOF int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
i = 0
while i < n:
    i += 1
    yield i
$$;
CREATE FUNCTION of_code(code text) RETURNS SETOF text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
SELECT numbers(3);
SELECT * FROM numbers(3);
SELECT * FROM numbers(0);
SELECT count(*), sum(n) FROM numbers(100000) n;
SELECT code, array_agg(v) FROM unnest(ARRAY['["a", None]', '("a", "b")', '{"k": 1}', '"ab"', 'range(2)', 'iter([])',
    '(str(i) for i in range(3))', '[]']) code LEFT JOIN LATERAL of_code(code) v ON true GROUP BY code ORDER BY code COLLATE "C";
SELECT of_code('[["x"], 1.5, True]');
SELECT of_code('5');
SELECT of_code('None');

-- A billion rows are not made when three are asked for, nor when the query ends otherwise.
CREATE FUNCTION counted(n int8) RETURNS SETOF int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    for i in range(n):
        GD["made"] = i + 1
        yield i
finally:
    GD["closed"] = GD.get("closed", 0) + 1
$$;
CREATE FUNCTION made() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
text = f"{GD['made'] < 100000} closed {GD['closed']}"
return text
$$;
SELECT counted(1000000000) LIMIT 3;
SELECT made();
SELECT EXISTS (SELECT counted(1000000000)) AS found;
BEGIN;
DECLARE c CURSOR FOR SELECT counted(1000000000);
FETCH 2 FROM c;
FETCH 2 FROM c;
CLOSE c;
SELECT made();
DECLARE c CURSOR FOR SELECT counted(1000000000);
FETCH 1 FROM c;
ROLLBACK;
SELECT made();

-- Several sets at once: of one function, of two, in the select list and in FROM.
SELECT numbers(2) AS a, numbers(3) AS b;
SELECT a.n, b.n FROM numbers(2) a(n), numbers(a.n) b(n);
SELECT count(*), max(a), max(b) FROM (SELECT numbers(1000) AS a, numbers(2000) AS b) s;
SELECT n, array(SELECT numbers(n)) FROM numbers(3) n;
BEGIN;
DECLARE one CURSOR FOR SELECT numbers(1000000);
DECLARE two CURSOR FOR SELECT numbers(1000000) * 10;
FETCH 2 FROM one;
FETCH 2 FROM two;
FETCH 1 FROM one;
MOVE 1000 IN two;
FETCH 1 FROM two;
FETCH 1 FROM one;
COMMIT;

-- Rows.
CREATE TYPE item AS (number int, words text[]);
CREATE FUNCTION items(n int) RETURNS SETOF item LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield None if i == 1 else {"number": i, "words": ["w"] * (i % 7)} if i % 2 else (i, None)
$$;
SELECT * FROM items(4);
SELECT items(4);
SELECT count(*), sum(number) FROM items(10000);
CREATE FUNCTION arrays(n int) RETURNS SETOF float8[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield [float(i)] * 1000
$$;
SELECT count(*), sum(v[1000]) FROM arrays(1000) v;
CREATE FUNCTION texts(n int) RETURNS SETOF text LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield str(i) * 1000
$$;
SELECT count(*), sum(length(v)) FROM texts(5000) v;

-- An error in the middle.
CREATE FUNCTION stumbles(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield i
raise ValueError("no more")
$$;
SELECT stumbles(3);
SELECT sum(s) FROM stumbles(1000) s;
SELECT of_code('["a", "b\0"]');
\set VERBOSITY sqlstate
SELECT * FROM of_code('[1, object.missing]');
\set VERBOSITY default
-- A generator may go on asking the database, and be interrupted.
CREATE FUNCTION asks(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("SELECT $1 * 2 AS v", ["int4"])
for i in range(n):
    yield plan.execute([i])[0]["v"]
$$;
SELECT asks(3);
SELECT sum(a) FROM asks(1000) a;
SELECT a, b FROM asks(2) a, LATERAL asks(3) b ORDER BY a, b;
CREATE FUNCTION stuck() RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
yield 1
while True:
    pass
$$;
SET statement_timeout = '300ms';
SELECT count(*) FROM stuck();
RESET statement_timeout;
-- A generator that is slow still shows what it has.
CREATE FUNCTION slow() RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import time
yield 1
time.sleep(0.2)
yield 2
time.sleep(30)
yield 3
$$;
SELECT slow() LIMIT 2;
-- What was kept is still there.
SELECT made();
-- Arguments of a set last as long as it.
CREATE FUNCTION countdown(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield n - i
$$;
SELECT countdown(2) AS a, countdown(3) AS b;
-- The set of a function that is replaced meanwhile.
BEGIN;
DECLARE c CURSOR FOR SELECT countdown(1000);
FETCH 1 FROM c;
CREATE OR REPLACE FUNCTION countdown(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [-n]
$$;
SELECT countdown(5);
MOVE 500 IN c;
FETCH 1 FROM c;
COMMIT;
SELECT countdown(5);
-- void and empty.
CREATE FUNCTION nothing() RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return []
$$;
SELECT count(*) FROM nothing();
-- Ten million rows cost the sandbox little memory: it makes them as they are read.
CREATE FUNCTION ten_million() RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return range(10000000)
$$;
CREATE FUNCTION memory(field text) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
lines = open("/proc/self/status").read().splitlines()
return next(int(line.split()[1]) for line in lines if line.startswith(field))
$$;
\c -
SET search_path = plc_sets;
SELECT memory('VmRSS') AS idle \gset
SELECT count(*), sum(n) FROM (SELECT ten_million() AS n) s;
SELECT memory('VmHWM') - :idle < 64 * 1024 AS little;
SET client_min_messages = warning;
DROP SCHEMA plc_sets CASCADE;
