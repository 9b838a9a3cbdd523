-- What lasts: GD for all functions of a role and runtime, SD for one function.
CREATE FUNCTION counts() RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
GD["n"] = GD.get("n", 0) + 1
SD["n"] = SD.get("n", 0) + 1
return [GD["n"], SD["n"]]
$$;
CREATE FUNCTION counts2() RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
GD["n"] = GD.get("n", 0) + 1
SD["n"] = SD.get("n", 0) + 1
return [GD["n"], SD["n"]]
$$;
SELECT counts(), counts(), counts2();
SELECT functions, calls FROM plcontainer_session_sandboxes();

-- A replaced function is seen at once; what it kept in SD goes with it.
CREATE OR REPLACE FUNCTION counts() RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
SD["n"] = SD.get("n", 100) + 1
return [GD["n"], SD["n"]]
$$;
SELECT counts();
SELECT functions FROM plcontainer_session_sandboxes();
ALTER FUNCTION counts() RENAME TO counts3;
SELECT counts3();

-- Arguments are globals of the function, as in PL/Python.
CREATE FUNCTION reassign(v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
global v
v = v + 1
return v
$$;
SELECT reassign(1), reassign(10);
CREATE FUNCTION untouched(v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
v = v + 1
return v
$$;
SELECT untouched(1);

-- Text is quoted as the database would quote it.
CREATE FUNCTION quoted(v text) RETURNS text[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [plpy.quote_literal(v), plpy.quote_nullable(v), plpy.quote_ident(v), plpy.quote_nullable(None)]
$$;
SELECT v, quoted(v) = ARRAY[quote_literal(v), quote_nullable(v), quote_ident(v), 'NULL'] AS equal
    FROM unnest(ARRAY['a', 'A b', E'it''s', E'back\\slash', 'select', 'table', 'name', 'über', '', '"', '1a', 'a1$']) v;

-- Multi-line text keeps its lines.
CREATE FUNCTION lines() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return """one
two
	three"""
$$;
SELECT lines();

-- A row at a time over a set, in aggregates' arguments, in a WHERE clause.
CREATE FUNCTION twice(v int8) RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v * 2
$$;
SELECT sum(twice(i)) FROM generate_series(1, 10000) i;
SELECT count(*) FROM generate_series(1, 100) i WHERE twice(i) > 100;
-- Transactions that fail leave the sandbox as it is.
BEGIN;
SELECT twice(1);
SELECT 1 / 0;
ROLLBACK;
SELECT twice(2);
SELECT count(*) FROM plcontainer_session_sandboxes();
DROP FUNCTION counts2, counts3, reassign, untouched, quoted, lines, twice;
