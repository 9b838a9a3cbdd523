-- A function that is STABLE or IMMUTABLE can't write: 0A000, which it may catch.
CREATE SCHEMA plc_stable_readonly;
SET search_path = plc_stable_readonly;
CREATE TABLE facts (n int);
INSERT INTO facts VALUES (1);
CREATE FUNCTION run_stable(query text) RETURNS text STABLE LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(list(plpy.execute(query)))
$$;
CREATE FUNCTION run_immutable(query text) RETURNS text IMMUTABLE LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(list(plpy.execute(query)))
$$;
CREATE FUNCTION run_volatile(query text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(list(plpy.execute(query)))
$$;
SELECT run_stable('SELECT n FROM facts'), run_immutable('SELECT 1 AS one');
\set SHOW_CONTEXT never
SELECT run_stable('INSERT INTO facts VALUES (2)');
SELECT run_immutable('UPDATE facts SET n = 3');
SELECT run_stable('DELETE FROM facts');
SELECT run_stable('CREATE TABLE more (n int)');
SELECT run_stable('SELECT n FROM facts FOR UPDATE');
\set VERBOSITY sqlstate
SELECT run_stable('INSERT INTO facts VALUES (2)');
\set VERBOSITY default
\set SHOW_CONTEXT errors
CREATE FUNCTION tries() RETURNS text STABLE LANGUAGE plcontainer AS $$
# container: plc_python_shared
said = []
for use in (
    lambda: plpy.execute("INSERT INTO facts VALUES (2)"),
    lambda: plpy.prepare("INSERT INTO facts VALUES ($1)", ["int"]).execute([2]),
    lambda: list(plpy.cursor("DELETE FROM facts RETURNING n")),
    lambda: list(plpy.cursor("WITH gone AS (DELETE FROM facts RETURNING n) SELECT n FROM gone")),
    lambda: plpy.commit(),
):
    try:
        use()
        said.append("done")
    except plpy.SPIError as error:
        said.append(f"{type(error).__name__} {error.sqlstate}")
return ", ".join(said)
$$;
SELECT tries();
-- What such a function calls may be VOLATILE, as everywhere in PostgreSQL.
SELECT run_volatile('INSERT INTO facts VALUES (4) RETURNING n');
-- It sees the snapshot of the query that calls it; a VOLATILE one sees what was done since.
CREATE FUNCTION count_stable() RETURNS int8 STABLE LANGUAGE plcontainer AS $$
# container: plc_python_shared
return plpy.execute("SELECT count(*) AS n FROM facts")[0]["n"]
$$;
CREATE FUNCTION count_volatile() RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return plpy.execute("SELECT count(*) AS n FROM facts")[0]["n"]
$$;
CREATE FUNCTION adds() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return plpy.execute("INSERT INTO facts VALUES (9) RETURNING n")[0]["n"]
$$;
SELECT count_stable() AS before, adds(), count_stable() AS stable, count_volatile() AS volatile;
-- A transaction that only reads.
BEGIN READ ONLY;
SELECT run_volatile('SELECT count(*) AS n FROM facts');
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT run_volatile('INSERT INTO facts VALUES (5)');
\set VERBOSITY default
ROLLBACK TO s;
SELECT count_volatile();
COMMIT;
SET client_min_messages = warning;
DROP SCHEMA plc_stable_readonly CASCADE;
