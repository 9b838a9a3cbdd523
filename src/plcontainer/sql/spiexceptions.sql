-- Errors of the database are exceptions that can be caught by their condition.
CREATE SCHEMA plc_spiexceptions;
SET search_path = plc_spiexceptions;
CREATE TABLE rules (id int PRIMARY KEY, n int NOT NULL CONSTRAINT positive CHECK (n > 0));
INSERT INTO rules VALUES (1, 1);
CREATE FUNCTION catch(query text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    plpy.execute(query)
    return "no error"
except plpy.spiexceptions.UniqueViolation as error:
    return f"unique: {error}"
except plpy.spiexceptions.CheckViolation as error:
    return f"check: {error}"
except plpy.spiexceptions.NotNullViolation as error:
    return f"not null: {error}"
except plpy.spiexceptions.SyntaxError as error:
    return f"syntax: {error}"
except plpy.SPIError as error:
    return f"{type(error).__module__}.{type(error).__name__} {error.sqlstate}: {error}"
$$;
SELECT catch('INSERT INTO rules VALUES (1, 1)');
SELECT catch('INSERT INTO rules VALUES (2, -1)');
SELECT catch('INSERT INTO rules VALUES (2, NULL)');
SELECT catch('INSRT');
SELECT catch('SELECT 1/0');
SELECT catch('SELECT ''x''::int');
SELECT catch('SELECT * FROM no_such_table');
SELECT catch('SELECT no_such_function()');
SELECT catch('SELECT 2147483647 + 1');
SELECT catch('DO $x$ BEGIN RAISE EXCEPTION ''own'' USING ERRCODE = ''XY123''; END $x$');
SELECT catch('DO $x$ BEGIN RAISE EXCEPTION ''own''; END $x$');
SELECT catch('DO $x$ BEGIN ASSERT false; END $x$');
CREATE FUNCTION fields(query text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
try:
    plpy.execute(query)
except plpy.SPIError as error:
    return "\n".join(f"{name}: {getattr(error, name, None)!r}" for name in ("sqlstate", "detail", "hint", "query", "position",
        "schema_name", "table_name", "column_name", "datatype_name", "constraint_name", "args"))
$$;
SELECT fields('INSERT INTO rules VALUES (1, 1)');
SELECT fields('SELECT 1 + no_such_column');
SELECT fields('INSERT INTO rules VALUES (2, NULL)');
-- Classes: one for each condition, with its SQLSTATE, below SPIError and Error.
CREATE FUNCTION classes() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
found = [c for c in vars(plpy.spiexceptions).values() if isinstance(c, type) and issubclass(c, plpy.SPIError)]
assert len(found) > 200, len(found)
assert all(len(c.sqlstate) == 5 for c in found)
return (f"{issubclass(plpy.SPIError, plpy.Error)} {issubclass(plpy.SPIError, Exception)} {plpy.spiexceptions.DivisionByZero.sqlstate} "
        f"{plpy.spiexceptions.QueryCanceled.sqlstate} {plpy.spiexceptions.SerializationFailure.sqlstate}")
$$;
SELECT classes();
-- Not caught, raised again, raised by hand: the SQLSTATE stays.
CREATE FUNCTION uncaught(how text) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
if how == "plain":
    plpy.execute("SELECT 1/0")
if how == "again":
    try:
        plpy.execute("SELECT 1/0")
    except plpy.SPIError:
        raise
if how == "other":
    try:
        plpy.execute("SELECT 1/0")
    except plpy.SPIError as error:
        raise ValueError("another") from error
if how == "made":
    raise plpy.spiexceptions.UniqueViolation("made by hand")
if how == "made with sqlstate":
    error = plpy.SPIError("with a state")
    error.sqlstate = "22012"
    raise error
if how == "error":
    raise plpy.Error("an error")
if how == "nested":
    plpy.execute("SELECT uncaught('plain')")
$$;
SELECT uncaught('plain');
SELECT uncaught('again');
SELECT uncaught('made');
SELECT uncaught('error');
SELECT uncaught('nested');
\set VERBOSITY sqlstate
SELECT uncaught('plain');
SELECT uncaught('again');
SELECT uncaught('other');
SELECT uncaught('made');
SELECT uncaught('made with sqlstate');
SELECT uncaught('error');
SELECT uncaught('nested');
\set VERBOSITY default
-- plpgsql catches what a function did not.
DO $$
BEGIN
    PERFORM uncaught('made');
EXCEPTION WHEN unique_violation THEN
    RAISE INFO 'caught %', SQLERRM;
END
$$;
-- A query that is cancelled can't be kept by catching it.
CREATE FUNCTION stays() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
while True:
    try:
        plpy.execute("SELECT pg_sleep(60)")
    except Exception:
        pass
$$;
SET statement_timeout = '300ms';
\set VERBOSITY sqlstate
SELECT stays();
\set VERBOSITY default
RESET statement_timeout;
SELECT catch('SELECT 1');
SET client_min_messages = warning;
DROP SCHEMA plc_spiexceptions CASCADE;
