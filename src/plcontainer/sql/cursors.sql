-- Cursors: on the server's side, of queries and of plans.
CREATE SCHEMA plc_cursors;
SET search_path = plc_cursors;
CREATE TABLE numbers AS SELECT i, i * i AS square FROM generate_series(1, 1000) i;
CREATE FUNCTION walks() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
parts = []
cursor = plpy.cursor("SELECT i, square FROM numbers ORDER BY i")
parts.append(next(cursor))
parts.append([row["i"] for row in cursor.fetch(3)])
parts.append(next(cursor)["i"])
result = cursor.fetch(2)
parts += [result.nrows(), result.status(), result.colnames(), result.coltypes()]
parts.append(sum(row["i"] for row in cursor))
parts.append(len(cursor.fetch(10)))
try:
    next(cursor)
except StopIteration:
    parts.append("stopped")
cursor.close()
cursor.close()
for use in (lambda: cursor.fetch(1), lambda: next(cursor)):
    try:
        use()
    except ValueError as error:
        parts.append(str(error))
return "\n".join(map(str, parts))
$$;
SELECT walks();
CREATE FUNCTION of_plan(n int) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("SELECT i FROM numbers WHERE i <= $1 ORDER BY i", ["int"])
one, two = plan.cursor([n]), plpy.cursor(plan, [n + 1])
pairs = [(a["i"], b["i"]) for a, b in zip(one, two)]
try:
    plpy.cursor(plan, [1, 2])
except TypeError as error:
    pairs.append(str(error))
return str(pairs)
$$;
SELECT of_plan(3);
-- Large ones, of which little is in memory at a time.
CREATE FUNCTION adds(n int) RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return sum(row["i"] for row in plpy.cursor(f"SELECT i FROM generate_series(1, {n}) i"))
$$;
SELECT adds(200000);
-- What can be no cursor.
\set SHOW_CONTEXT never
CREATE FUNCTION opens(query text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(list(plpy.cursor(query)))
$$;
SELECT opens('SELECT 1 AS one');
SELECT opens('VALUES (1), (2)');
SELECT opens('DELETE FROM numbers');
SELECT opens('SELECT 1; SELECT 2');
SELECT opens('SELECT no_such_column');
SELECT opens('SELECT 1 / (i - 3) FROM numbers ORDER BY i');
\set SHOW_CONTEXT errors
-- A cursor that a query names, one that outlives its call but not its transaction.
CREATE FUNCTION keeps() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
SD["cursor"] = plpy.cursor("SELECT i FROM numbers ORDER BY i")
GD["cursor"] = SD["cursor"]
return str(next(SD["cursor"]))
$$;
CREATE FUNCTION goes_on() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    return str(next(GD["cursor"])["i"] > 1)
except Exception as error:
    return type(error).__name__
$$;
BEGIN;
SELECT keeps();
SELECT goes_on();
COMMIT;
SELECT goes_on();
SELECT count(*) FROM pg_cursors;
-- Closed when nothing refers to it; closed with its subtransaction.
CREATE FUNCTION leaves(n int) RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    plpy.cursor("SELECT i FROM numbers").fetch(1)
plpy.execute("SELECT 1")
return plpy.execute("SELECT count(*) AS n FROM pg_cursors")[0]["n"]
$$;
SELECT leaves(100) < 10 AS few;
CREATE FUNCTION aborted() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    with plpy.subtransaction():
        cursor = plpy.cursor("SELECT i FROM numbers")
        cursor.fetch(1)
        plpy.execute("SELECT 1/0")
except plpy.spiexceptions.DivisionByZero:
    pass
try:
    return str(cursor.fetch(1))
except ValueError as error:
    return str(error)
$$;
SELECT aborted();
-- While it is open, rows may be changed.
CREATE FUNCTION changes() RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("UPDATE numbers SET square = -1 WHERE i = $1", ["int"])
for row in plpy.cursor("SELECT i FROM numbers WHERE i % 100 = 0"):
    plan.execute([row["i"]])
return plpy.execute("SELECT count(*) AS n FROM numbers WHERE square = -1")[0]["n"]
$$;
SELECT changes();
SET client_min_messages = warning;
DROP SCHEMA plc_cursors CASCADE;
