-- Triggers: everything that TD says, and what a function may answer.
CREATE SCHEMA plc_triggers;
SET search_path = plc_triggers;
CREATE TABLE item (id int PRIMARY KEY, name text, tags text[], twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
for key in ("name", "table_name", "table_schema", "when", "level", "event", "new", "old", "args"):
    plpy.notice(f"{key}: {TD[key]!r}")
query = "SELECT 'item'::regclass::oid AS o"
plpy.notice(f"relid: {TD['relid'] == str(plpy.execute(query)[0]['o'])}, {sorted(TD)}")
$$;
CREATE TRIGGER row_before BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION tell('one', '2');
INSERT INTO item VALUES (1, 'a', '{x,NULL}');
UPDATE item SET name = NULL;
DELETE FROM item;
DROP TRIGGER row_before ON item;
CREATE TRIGGER row_after AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION tell();
INSERT INTO item VALUES (2, 'b', '{}');
UPDATE item SET name = 'bb';
DELETE FROM item;
DROP TRIGGER row_after ON item;
CREATE TRIGGER statement_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION tell();
CREATE TRIGGER statement_after AFTER TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION tell('t');
INSERT INTO item VALUES (3, 'c', NULL);
UPDATE item SET name = 'cc' WHERE false;
TRUNCATE item;
DROP TRIGGER statement_before ON item;
DROP TRIGGER statement_after ON item;

-- OK, SKIP and MODIFY, with WHEN and columns.
CREATE FUNCTION decide() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
row = TD["new"] or TD["old"]
if row["name"] == "skip":
    return "SKIP"
if row["name"] == "modify":
    TD["new"]["name"] = TD["event"].lower()
    TD["new"]["tags"] = ["changed", None]
    return "modify"
if row["name"] == "unused":
    TD["new"]["name"] = "never seen"
    return "OK"
return None
$$;
CREATE TRIGGER decides BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION decide();
INSERT INTO item VALUES (1, 'skip', NULL), (2, 'modify', '{a}'), (3, 'unused', '{b}'), (4, NULL, NULL);
SELECT * FROM item ORDER BY id;
UPDATE item SET name = 'modify' WHERE id = 3;
UPDATE item SET name = 'skip' WHERE id = 2;
SELECT * FROM item ORDER BY id;
ALTER TABLE item DISABLE TRIGGER decides;
UPDATE item SET name = 'skip' WHERE id = 4;
ALTER TABLE item ENABLE TRIGGER decides;
DELETE FROM item;
SELECT * FROM item ORDER BY id;
DROP TRIGGER decides ON item;
TRUNCATE item;

-- A row that is changed must fit: types, lengths, domains, keys.
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TYPE note_type AS (a int, b text);
CREATE TABLE fits (id int, gone int, n small, word varchar(3), made date, note note_type);
ALTER TABLE fits DROP COLUMN gone;
CREATE FUNCTION set_new() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
code = TD["args"][0]
exec(code)
return "MODIFY"
$$;
CREATE FUNCTION try_new(code text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; result text;
BEGIN
    EXECUTE format('CREATE TRIGGER fit BEFORE INSERT ON fits FOR EACH ROW EXECUTE FUNCTION set_new(%L)', code);
    BEGIN
        INSERT INTO fits (id) VALUES (1) RETURNING fits::text INTO result;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
        result := state || ' ' || message;
    END;
    DROP TRIGGER fit ON fits;
    RETURN result;
END
$$;
SELECT code, try_new(code) FROM (VALUES
    (1, 'TD["new"]["n"] = 99'),
    (2, 'TD["new"]["n"] = 100'),
    (3, 'TD["new"]["word"] = "abc"'),
    (4, 'TD["new"]["word"] = "abcd"'),
    (5, 'TD["new"]["made"] = "2026-02-28"'),
    (6, 'TD["new"]["made"] = "2026-02-30"'),
    (7, 'TD["new"]["note"] = {"a": 1, "b": "x"}'),
    (8, 'TD["new"]["note"] = (1, "x")'),
    (9, 'TD["new"] = {"id": 5}'),
    (10, 'TD["new"]["id"] = None'),
    (11, 'TD["new"]["gone"] = 1'),
    (12, 'TD["new"]["unknown"] = 1'),
    (13, 'TD["new"][1] = 1'),
    (14, 'TD["new"] = [1]'),
    (15, 'del TD["new"]'),
    (16, 'TD["new"]["id"] = "x"'),
    (17, 'TD["new"]["id"] = 2147483648')
) v(i, code) ORDER BY i;
CREATE FUNCTION answers() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(TD["args"][0])
$$;
CREATE TRIGGER answer BEFORE INSERT ON fits FOR EACH ROW EXECUTE FUNCTION answers('"PERHAPS"');
INSERT INTO fits (id) VALUES (1);
DROP TRIGGER answer ON fits;
CREATE TRIGGER answer BEFORE INSERT ON fits FOR EACH ROW EXECUTE FUNCTION answers('37');
INSERT INTO fits (id) VALUES (1);
DROP TRIGGER answer ON fits;
CREATE TRIGGER answer BEFORE DELETE ON fits FOR EACH ROW EXECUTE FUNCTION answers('"MODIFY"');
INSERT INTO fits (id) VALUES (1);
DELETE FROM fits;
DROP TRIGGER answer ON fits;
CREATE TRIGGER answer BEFORE UPDATE ON fits FOR EACH STATEMENT EXECUTE FUNCTION answers('"SKIP"');
UPDATE fits SET id = 2;
SELECT * FROM fits;

-- Generated columns are left to the database.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.notice(sorted(TD["new"]))
TD["new"]["name"] = "kept"
return "MODIFY"
$$;
CREATE TRIGGER keeps BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION keep();
INSERT INTO item VALUES (5, 'x', NULL);
UPDATE item SET id = 6;
SELECT * FROM item;
DROP TRIGGER keeps ON item;

-- One function on several tables, on a view, with tables of a transition.
CREATE TABLE other (word text);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
SD["n"] = SD.get("n", 0) + 1
column = "word" if TD["table_name"] == "other" else "name"
TD["new"][column] = f"{TD['table_name']} {TD['new'][column]}"
return "MODIFY"
$$;
CREATE TRIGGER stamps BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamps BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION stamp();
INSERT INTO other VALUES ('a'), ('b');
INSERT INTO item VALUES (7, 'c', NULL);
SELECT word FROM other UNION ALL SELECT name FROM item ORDER BY 1;
ALTER TABLE other ADD COLUMN extra int DEFAULT 3;
INSERT INTO other VALUES ('d');
SELECT * FROM other ORDER BY word;
CREATE VIEW seen AS SELECT id, name FROM item;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("INSERT INTO other (word) VALUES ($1)", ["text"])
plan.execute([f"{TD['when']} {TD['level']} {TD['new']['name']}"])
TD["new"]["name"] = "returned"
return "MODIFY"
$$;
CREATE TRIGGER instead INSTEAD OF INSERT ON seen FOR EACH ROW EXECUTE FUNCTION instead();
INSERT INTO seen VALUES (8, 'through the view') RETURNING *;
SELECT word FROM other WHERE word LIKE '%view';
CREATE FUNCTION transitions() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
rows = plpy.execute("SELECT o.id AS old, n.id AS new FROM before o JOIN after n ON o.id + 10 = n.id ORDER BY 1")
plpy.notice([(row["old"], row["new"]) for row in rows])
$$;
CREATE TRIGGER transition AFTER UPDATE ON item REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION transitions();
UPDATE item SET id = id + 10;

-- Errors undo the statement; a trigger may call what has triggers.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.error("not this one", sqlstate="23514", constraint_name="rule")
$$;
CREATE TRIGGER refuses BEFORE DELETE ON item FOR EACH ROW EXECUTE FUNCTION refuse();
DELETE FROM item;
SELECT count(*) FROM item;
CREATE TABLE chain (n int);
CREATE FUNCTION next() RETURNS trigger LANGUAGE plcontainer AS $$
# container: plc_python_shared
if TD["new"]["n"] < 5:
    plpy.execute(f"INSERT INTO chain VALUES ({TD['new']['n'] + 1})")
TD["new"]["n"] *= 10
return "MODIFY"
$$;
CREATE TRIGGER next BEFORE INSERT ON chain FOR EACH ROW EXECUTE FUNCTION next();
INSERT INTO chain VALUES (1);
SELECT array_agg(n ORDER BY n) FROM chain;
-- It is no function to call.
SELECT tell();
SET client_min_messages = warning;
DROP SCHEMA plc_triggers CASCADE;
