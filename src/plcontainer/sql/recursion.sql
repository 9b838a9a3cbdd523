-- The SQL of a function calls functions: itself, others, of other roles, in the same sandbox or another.
CREATE SCHEMA plc_recursion;
SET search_path = plc_recursion;
CREATE FUNCTION fact(n numeric) RETURNS numeric LANGUAGE plcontainer AS $$
# container: plc_python_shared
if n <= 1:
    return 1
below = plpy.prepare("SELECT fact($1) AS v", ["numeric"]).execute([n - 1])[0]["v"]
return n * below
$$;
SELECT fact(20);
CREATE FUNCTION depth(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
if n == 0:
    return 0
mine = n
inner = plpy.execute(f"SELECT depth({n - 1}) AS v")[0]["v"]
assert n == mine, "arguments are those of this call"
return inner + 1
$$;
SELECT depth(50);
-- Too deep is an error that can be caught, and costs nothing.
CREATE FUNCTION endless(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
GD["depth"] = n
return plpy.execute(f"SELECT endless({n + 1}) AS v")[0]["v"]
$$;
DO $$
BEGIN
    PERFORM endless(0);
EXCEPTION WHEN OTHERS THEN
    RAISE INFO '%', SQLSTATE;
END
$$;
CREATE FUNCTION reached() RETURNS bool LANGUAGE plcontainer AS $$
# container: plc_python_shared
return GD["depth"] >= 50
$$;
SELECT reached();
SELECT depth(10);
-- Through other languages, views, triggers and sets.
CREATE FUNCTION through(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT ping(n - 1));
END
$$;
CREATE FUNCTION ping(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 100 if n <= 0 else plpy.execute(f"SELECT through({n}) + 1 AS v")[0]["v"]
$$;
SELECT ping(10);
CREATE FUNCTION squares(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
for i in range(n):
    yield plpy.execute(f"SELECT square({i}) AS v")[0]["v"]
$$;
CREATE FUNCTION square(i int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return i * i
$$;
CREATE FUNCTION sum_squares(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return sum(row["squares"] for row in plpy.cursor(f"SELECT squares({n})"))
$$;
SELECT sum_squares(100);
SELECT squares(3), square(5), sum_squares(4);
-- A set that is read while another call of its function runs.
CREATE FUNCTION tree(n int) RETURNS SETOF int LANGUAGE plcontainer AS $$
# container: plc_python_shared
yield n
if n > 0:
    for row in plpy.cursor(f"SELECT tree({n - 1})"):
        yield row["tree"]
    yield -n
$$;
SELECT array_agg(t) FROM tree(5) t;
-- An error from below is one that can be caught above; state is kept.
CREATE FUNCTION lower_part(n int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
GD["lower"] = GD.get("lower", 0) + 1
return 10 // n
$$;
CREATE FUNCTION upper_part() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
said = []
for n in (5, 0, 2):
    try:
        said.append(plpy.execute(f"SELECT lower_part({n}) AS v")[0]["v"])
    except plpy.SPIError as error:
        said.append(f"{type(error).__name__} {error.sqlstate} {error}")
return f"{said} {GD['lower']}"
$$;
SELECT upper_part();
SELECT lower_part(0);
-- What was defined, replaced or dropped meanwhile.
CREATE FUNCTION replaced() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.execute("""CREATE OR REPLACE FUNCTION replaced() RETURNS text LANGUAGE plcontainer AS $x$
# container: plc_python_shared
return 'new'
$x$""")
return "old, then " + plpy.execute("SELECT replaced() AS v")[0]["v"]
$$;
SELECT replaced();
SELECT replaced();
CREATE FUNCTION dropped() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.execute("DROP FUNCTION dropped()")
return "done"
$$;
SELECT dropped();
-- Another role is another sandbox, whose state is its own.
CREATE ROLE regress_plc_nested;
GRANT USAGE ON LANGUAGE plcontainer TO regress_plc_nested;
GRANT ALL ON SCHEMA plc_recursion TO regress_plc_nested;
SET ROLE regress_plc_nested;
CREATE FUNCTION as_other() RETURNS text SECURITY DEFINER LANGUAGE plcontainer AS $$
# container: plc_python_shared
user = plpy.execute("SELECT current_user AS u")[0]["u"]
GD["other"] = GD.get("other", 0) + 1
return f"{user} {GD['other']} {'lower' in GD} {plpy.execute('SELECT square(7) AS v')[0]['v']}"
$$;
RESET ROLE;
CREATE FUNCTION asks_other() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return plpy.execute("SELECT as_other() AS v")[0]["v"] + f" {'other' in GD}"
$$;
SELECT asks_other();
SELECT asks_other();
SELECT count(*) FROM public.plcontainer_session_sandboxes();
-- A sandbox that ends in a nested call takes all its calls with it, and the session goes on.
CREATE FUNCTION leaves() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
import os
os._exit(1)
$$;
CREATE FUNCTION calls_what_leaves() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    plpy.execute("SELECT leaves()")
except Exception as error:
    return "caught"
$$;
DO $$
BEGIN
    PERFORM calls_what_leaves();
EXCEPTION WHEN OTHERS THEN
    RAISE INFO '%', SQLSTATE;
END
$$;
SELECT square(3);
SELECT as_other() LIKE 'regress_plc_nested 3 %' AS kept;
DROP FUNCTION as_other();
REVOKE ALL ON SCHEMA plc_recursion FROM regress_plc_nested;
REVOKE USAGE ON LANGUAGE plcontainer FROM regress_plc_nested;
DROP ROLE regress_plc_nested;
SET client_min_messages = warning;
DROP SCHEMA plc_recursion CASCADE;
