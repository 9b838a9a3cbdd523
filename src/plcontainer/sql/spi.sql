-- SQL from a function: execute, prepare, results.
CREATE SCHEMA plc_spi;
SET search_path = plc_spi;
CREATE TABLE users (id int PRIMARY KEY, name text, tags text[], paid numeric);
INSERT INTO users VALUES (1, 'Ada', '{x,y}', 1.50), (2, 'Bob', NULL, NULL), (3, 'Eve', '{}', 0);
CREATE FUNCTION run(code text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(eval(code))
$$;
SELECT run('list(plpy.execute("SELECT * FROM users ORDER BY id"))');
SELECT run('list(plpy.execute("SELECT * FROM users ORDER BY id", 2))');
SELECT run('plpy.execute("SELECT 1 AS a, 2 AS b")');
SELECT run('[(r.nrows(), r.status(), len(r)) for r in [plpy.execute("UPDATE users SET paid = paid + 1 WHERE id > 1")]]');
SELECT run('[(r.nrows(), r.status(), list(r)) for r in [plpy.execute("UPDATE users SET paid = 5 WHERE id = 3 RETURNING id, paid")]]');
SELECT run('[(r.nrows(), r.status()) for r in [plpy.execute("DELETE FROM users WHERE id > 100")]]');
SELECT run('[(r.colnames(), r.coltypes(), r.coltypmods()) for r in [plpy.execute("SELECT 1 AS a, ''x''::varchar(5) AS b, 1.5::numeric(4,1) AS c WHERE false")]]');
SELECT run('plpy.execute("CREATE TEMP TABLE made (a int)").status()');
\set SHOW_CONTEXT never
SELECT run('plpy.execute("CREATE TEMP TABLE made2 (a int)").colnames()');
\set SHOW_CONTEXT errors
SELECT run('plpy.execute("SELECT 1; SELECT 2 AS second")[0]');
SELECT run('plpy.execute("")');
CREATE FUNCTION slices() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
r = plpy.execute("SELECT i FROM generate_series(1, 5) i")
parts = [r[0], r[-1], r[1:3], r[::2], [row["i"] for row in r], len(r), bool(r)]
r[0] = {"i": 100}
r[1]["i"] = 200
parts.append([row["i"] for row in r])
try:
    r[5]
except IndexError as error:
    parts.append(str(error))
try:
    r["i"]
except TypeError:
    parts.append("TypeError")
return "\n".join(map(str, parts))
$$;
SELECT slices();

-- Each type comes and goes as arguments and results do.
CREATE TYPE pair AS (a int, b text[]);
CREATE FUNCTION types() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
import decimal
out = []
for type_name, value in [
    ("bool", True), ("int2", -1), ("int8", 2 ** 62), ("float4", 1.5), ("float8", 0.1), ("text", "grüße"), ("bytea", b"\0\xff"),
    ("numeric", decimal.Decimal("1.10")), ("date", "2026-02-28"), ("jsonb", '{"a": 1}'), ("int4[]", [[1, None], [3, 4]]), ("text[]", ["a", None]),
    ("pair", (1, ["x", None])), ("pair[]", [{"a": 1, "b": None}, None]), ("oid", 4294967295), ("int4range", "[1,5)"), ("varchar(3)", "abc"),
    ("interval", "1 day"), ("point", "(1,2)"), ("bool", None), ("pair", None), ("int4[]", []),
]:
    plan = plpy.prepare("SELECT $1 AS v, pg_typeof($1)::text AS t", [type_name])
    row = plpy.execute(plan, [value])[0]
    out.append(f"{row['t']}: {row['v']!r}")
return "\n".join(out)
$$;
SET timezone = 'UTC';
SELECT types();

-- Plans: of any number of parameters, used again, kept.
CREATE FUNCTION plans() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
p = plpy.prepare("SELECT $1 + $2 AS sum, $3 AS word", ["int4", "int8", "text"])
parts = [p.status(), p.execute([1, 2, "a"])[0], plpy.execute(p, (3, 4, None))[0], p.execute([5, 6, "b"], 1).nrows()]
q = plpy.prepare("SELECT 7 AS seven")
parts += [q.execute()[0], plpy.execute(q)[0], plpy.execute(q, [])[0]]
for arguments in ([1], [1, 2, 3, 4], 5, "abc"):
    try:
        parts.append(p.execute(arguments)[0])
    except Exception as error:
        parts.append(f"{type(error).__name__}: {error}")
limited = plpy.prepare("SELECT i FROM generate_series(1, $1) i", ["int"])
parts.append([row["i"] for row in limited.execute([10], 3)])
return "\n".join(map(str, parts))
$$;
SELECT plans();
CREATE FUNCTION kept(v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
if "plan" not in SD:
    SD["plan"] = plpy.prepare("SELECT count(*) AS n FROM users WHERE id <= $1", ["int"])
    plpy.notice("prepared")
return SD["plan"].execute([v])[0]["n"]
$$;
SELECT kept(1), kept(3);
SELECT kept(2);
ALTER TABLE users ADD COLUMN more int;
SELECT kept(2);
BEGIN;
SELECT kept(2);
ROLLBACK;
SELECT kept(2);
CREATE FUNCTION many_plans(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return sum(plpy.prepare("SELECT $1 AS v", ["int"]).execute([1])[0]["v"] for i in range(n))
$$;
SELECT many_plans(12000);
CREATE FUNCTION too_many_plans() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
plans = []
try:
    while True:
        plans.append(plpy.prepare("SELECT 1"))
except plpy.SPIError as error:
    return f"{len(plans) > 5000} {error.sqlstate}"
$$;
SELECT too_many_plans();
SELECT many_plans(10);

-- Much in one answer; a value that is too much for its type.
SELECT run('sum(row["i"] for row in plpy.execute("SELECT i FROM generate_series(1, 100000) i"))');
SELECT run('len(plpy.execute("SELECT repeat(''x'', 10000000) AS v")[0]["v"])');
\set VERBOSITY sqlstate
SELECT run('plpy.prepare("SELECT $1", ["int2"]).execute([32768])');
SELECT run('plpy.prepare("SELECT $1", ["int4"]).execute(["x"])');
SELECT run('plpy.prepare("SELECT $1", ["text"]).execute(["a\0"])');
SELECT run('plpy.prepare("SELECT $1", ["varchar(2)"]).execute(["abc"])');
SELECT run('plpy.prepare("SELECT $1", ["no_such_type"])');
SELECT run('plpy.prepare("SELECT $1, $2", ["int4"])');
SELECT run('plpy.execute("COMMIT")');
SELECT run('plpy.execute("SAVEPOINT s")');
SELECT run('plpy.execute("SELECT 1", -1)');
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT run('plpy.execute()');
SELECT run('plpy.execute(5)');
SELECT run('plpy.prepare(5)');
SELECT run('plpy.prepare("SELECT 1", 5)');
\set SHOW_CONTEXT errors

-- Notices and errors of the statement, where the function stands.
SELECT run('plpy.execute("SELECT 1/0")');
SELECT run('plpy.execute("SELECT no_such_column")');
CREATE FUNCTION raises() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'from plpgsql';
    RAISE EXCEPTION 'the message' USING DETAIL = 'the detail', HINT = 'the hint', ERRCODE = 'XX123', TABLE = 't';
END
$$;
SELECT run('plpy.execute("SELECT raises()")');
\set VERBOSITY sqlstate
SELECT run('plpy.execute("SELECT raises()")');
\set VERBOSITY default
-- In a thread it has no database.
CREATE FUNCTION threads() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
import threading
result = []
def other():
    try:
        plpy.execute("SELECT 1")
        result.append("executed")
    except BaseException as error:
        result.append("refused")
thread = threading.Thread(target=other)
thread.start()
thread.join()
return f"{result} {plpy.execute('SELECT 2 AS v')[0]['v']}"
$$;
SELECT threads();
-- Cancelled within a statement, and the session goes on.
SET statement_timeout = '300ms';
SELECT run('plpy.execute("SELECT pg_sleep(60)")');
RESET statement_timeout;
CREATE FUNCTION catches_all() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    plpy.execute("SELECT pg_sleep(60)")
except Exception as error:
    return "caught " + type(error).__name__
$$;
SET statement_timeout = '300ms';
\set VERBOSITY sqlstate
SELECT catches_all();
\set VERBOSITY default
RESET statement_timeout;
SELECT kept(2);
SET client_min_messages = warning;
DROP SCHEMA plc_spi CASCADE;
