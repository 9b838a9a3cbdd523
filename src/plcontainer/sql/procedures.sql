-- Procedures, and the transactions that they end.
CREATE SCHEMA plc_procedures;
SET search_path = plc_procedures;
CREATE TABLE log (n int, word text);
CREATE PROCEDURE write(n int) LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("INSERT INTO log VALUES ($1, $2)", ["int", "text"])
for i in range(n):
    plan.execute([i, "w" * i])
    if i % 2:
        plpy.rollback()
    else:
        plpy.commit()
$$;
CALL write(6);
SELECT * FROM log ORDER BY n;
-- Not within a transaction that is the caller's, nor in a function.
BEGIN;
CALL write(1);
ROLLBACK;
CREATE FUNCTION commits() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.commit()
return 1
$$;
SELECT commits();
CREATE FUNCTION calls() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.execute("CALL write(1)")
return 1
$$;
SELECT calls();
DO LANGUAGE plcontainer $$
# container: plc_python_shared
with plpy.subtransaction():
    plpy.commit()
$$;
SELECT count(*) FROM log;
-- What a commit refuses can be caught.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
DO LANGUAGE plcontainer $$
# container: plc_python_shared
plpy.execute("INSERT INTO child VALUES (1)")
try:
    plpy.commit()
except plpy.spiexceptions.ForeignKeyViolation as error:
    plpy.notice(f"{error.sqlstate} {error}")
plpy.execute("INSERT INTO parent VALUES (2)")
plpy.execute("INSERT INTO child VALUES (2)")
plpy.commit()
plpy.execute("INSERT INTO child VALUES (3)")
$$;
SELECT parent.id, child.id FROM parent FULL JOIN child USING (id);
-- A transaction is not ended by an error of its block.
DO LANGUAGE plcontainer $$
# container: plc_python_shared
plpy.execute("INSERT INTO parent VALUES (10)")
plpy.commit()
plpy.execute("INSERT INTO parent VALUES (11)")
raise ValueError("late")
$$;
SELECT id FROM parent ORDER BY id;
-- A cursor stays open over a commit.
DO LANGUAGE plcontainer $$
# container: plc_python_shared
for row in plpy.cursor("SELECT i FROM generate_series(1, 200) i"):
    if row["i"] % 100 == 0:
        plpy.execute(f"INSERT INTO log VALUES ({row['i']}, 'cursor')")
        plpy.commit()
$$;
SELECT n FROM log WHERE word = 'cursor' ORDER BY n;
SELECT count(*) FROM pg_cursors;

-- Arguments, results, and what a procedure may not return.
CREATE PROCEDURE swap(INOUT a int, INOUT b text, c int DEFAULT 5) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return a + c, b + "!"
$$;
CALL swap(1, 'x');
CALL swap(1, 'x', 10);
DO $$
DECLARE
    a int := 1; b text := 'p';
BEGIN
    CALL swap(a, b);
    RAISE INFO '% %', a, b;
END
$$;
CREATE PROCEDURE gives(OUT a int) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return (7,)
$$;
CALL gives(NULL);
CREATE PROCEDURE returns() LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 5
$$;
CALL returns();
-- One that commits within one that commits.
CREATE PROCEDURE outer_one() LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.execute("INSERT INTO log VALUES (1000, 'outer')")
plpy.execute("CALL write(1)")
$$;
CALL outer_one();
CREATE PROCEDURE outer_two() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log VALUES (1001, 'outer');
    CALL write(3);
    ROLLBACK;
END
$$;
CALL outer_two();
SELECT n, count(*) FROM log GROUP BY n ORDER BY n;
SET client_min_messages = warning;
DROP SCHEMA plc_procedures CASCADE;
