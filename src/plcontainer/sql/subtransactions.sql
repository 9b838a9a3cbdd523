-- Subtransactions: a block that is undone as a whole.
CREATE SCHEMA plc_subtransactions;
SET search_path = plc_subtransactions;
CREATE TABLE steps (n int PRIMARY KEY);
CREATE FUNCTION steps(how text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    with plpy.subtransaction() as block:
        plpy.execute("INSERT INTO steps VALUES (1)")
        plpy.execute("INSERT INTO steps VALUES (2)")
        if how == "sql":
            plpy.execute("INSERT INTO steps VALUES ('x')")
        if how == "python":
            raise KeyError("missing")
        if how == "duplicate":
            plpy.execute("INSERT INTO steps VALUES (1)")
except Exception as error:
    return f"{type(error).__name__}: {error}"
return str(block)[:12]
$$;
SELECT steps('sql');
SELECT count(*) FROM steps;
SELECT steps('python');
SELECT count(*) FROM steps;
SELECT steps('duplicate');
SELECT count(*) FROM steps;
SELECT steps('fine') IS NOT NULL AS done;
SELECT count(*) FROM steps;
TRUNCATE steps;
-- One in another.
CREATE FUNCTION nested(fail_inner bool, fail_outer bool) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
said = []
try:
    with plpy.subtransaction():
        plpy.execute("INSERT INTO steps VALUES (1)")
        try:
            with plpy.subtransaction():
                plpy.execute("INSERT INTO steps VALUES (2)")
                if fail_inner:
                    plpy.execute("SELECT 1/0")
        except plpy.spiexceptions.DivisionByZero as error:
            said.append(str(error))
        plpy.execute("INSERT INTO steps VALUES (3)")
        if fail_outer:
            raise ValueError("outer")
except ValueError as error:
    said.append(str(error))
return f"{said} {[row['n'] for row in plpy.execute('SELECT n FROM steps ORDER BY n')]}"
$$;
SELECT nested(false, false);
TRUNCATE steps;
SELECT nested(true, false);
TRUNCATE steps;
SELECT nested(true, true);
SELECT nested(false, true);
CREATE FUNCTION levels(n int) RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
def level(i):
    if i == 0:
        return plpy.execute("SELECT count(*) AS n FROM steps")[0]["n"]
    with plpy.subtransaction():
        plpy.execute(f"INSERT INTO steps VALUES ({i})")
        return level(i - 1)
return level(n)
$$;
SELECT levels(50);
TRUNCATE steps;
-- A statement that fails leaves what was done before it.
CREATE FUNCTION each_alone() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
for value in (1, 1, "'x'", 2):
    try:
        plpy.execute(f"INSERT INTO steps VALUES ({value})")
    except plpy.SPIError as error:
        plpy.notice(f"{type(error).__name__} {error.sqlstate}")
return str([row["n"] for row in plpy.execute("SELECT n FROM steps ORDER BY n")])
$$;
SELECT each_alone();
-- What is used wrongly says so; what is left open is closed.
CREATE FUNCTION wrong(code text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
s = plpy.subtransaction()
exec(code)
return "ended"
$$;
\set SHOW_CONTEXT never
SELECT wrong('s.exit(None, None, None)');
SELECT wrong('s.enter(); s.enter()');
SELECT wrong('s.enter(); s.exit(None, None, None); s.exit(None, None, None)');
SELECT wrong('s.enter(); s.exit(None, None, None); s.enter()');
SELECT wrong('s.enter(); t = plpy.subtransaction(); t.enter(); s.exit(None, None, None)');
SELECT wrong('with s: raise ValueError("within")');
SELECT wrong('s.enter()');
SELECT wrong('s.enter(); t = plpy.subtransaction(); t.enter()');
SELECT wrong('s.__enter__(); s.__exit__(None, None, None)');
SELECT wrong('s.enter(); raise ValueError("left open")');
\set SHOW_CONTEXT errors
-- The session goes on.
BEGIN;
SELECT each_alone();
SELECT 1 / 0;
ROLLBACK;
SELECT count(*) FROM steps;
SET client_min_messages = warning;
DROP SCHEMA plc_subtransactions CASCADE;
