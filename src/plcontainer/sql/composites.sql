-- Composites: as arguments mappings by name; as results a mapping, a sequence, an object or text.
CREATE SCHEMA plc_composites;
SET search_path = plc_composites;
CREATE TYPE point3 AS (x int, y int, label text);
CREATE TYPE segment3 AS (a point3, b point3, tags text[]);
CREATE TYPE deep AS (name text, parts segment3[], attributes jsonb);

CREATE FUNCTION show(v point3) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return repr(v)
$$;
SELECT show((1, 2, 'p')), show((NULL, NULL, NULL)), show(NULL);

CREATE FUNCTION make(kind text) RETURNS point3 LANGUAGE plcontainer AS $$
# container: plc_python_shared
class Thing:
    x, y, label = 5, 6, "object"
return {
    "dict": {"x": 1, "y": 2, "label": "dict"},
    "tuple": (3, None, "tuple"),
    "list": [4, 5, "list"],
    "object": Thing(),
    "text": "(7,8,text)",
    "none": None,
    "short": (1, 2),
    "long": (1, 2, "x", 4),
    "missing": {"x": 1, "y": 2},
    "wrong": {"x": "many", "y": 2, "label": "l"},
    "range": (2147483648, 2, "l"),
    "number": 5,
    "extra": {"x": 1, "y": 2, "label": "l", "z": 3},
}[kind]
$$;
SELECT kind, (make(kind)).* FROM unnest(ARRAY['dict', 'tuple', 'list', 'object', 'text', 'none', 'extra']) kind;
SELECT make('tuple'), make('none') IS NULL AS is_null;
\set SHOW_CONTEXT never
SELECT make('short');
SELECT make('long');
SELECT make('missing');
SELECT make('wrong');
SELECT make('range');
SELECT make('number');
\set SHOW_CONTEXT errors

-- Nested, in arrays, with arrays.
CREATE FUNCTION turn(s segment3) RETURNS segment3 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return {"a": s["b"], "b": s["a"], "tags": s["tags"][::-1] if s["tags"] else None}
$$;
SELECT turn(((1, 2, 'from'), (3, 4, 'to'), ARRAY['t1', NULL, 't3']));
SELECT turn((NULL, (3, 4, NULL), NULL));
CREATE FUNCTION turn_all(v segment3[]) RETURNS segment3[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return None if v is None else [None if s is None else (s["b"], s["a"], s["tags"]) for s in v]
$$;
SELECT turn_all(ARRAY[((1, 2, 'a'), (3, 4, 'b'), '{x}')::segment3, NULL, (NULL, NULL, NULL)::segment3]);
SELECT turn_all('{}'), turn_all(NULL::segment3[]) IS NULL AS is_null;
CREATE FUNCTION same(v deep[]) RETURNS deep[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
import json
for d in v:
    assert d["parts"] is None or all(isinstance(part["a"]["x"], int) for part in d["parts"])
    assert d["attributes"] is None or json.loads(d["attributes"])["k"] == 1
return v
$$;
SELECT same(v) = v AS equal, same(v) FROM (SELECT ARRAY[
    ('one', ARRAY[((1, 2, 'a'), (3, 4, 'b'), '{x,y}')::segment3], '{"k": 1}')::deep, (NULL, NULL, NULL)::deep] AS v) s;
CREATE FUNCTION grid(v point3[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return "; ".join(",".join(p["label"] for p in row) for row in v)
$$;
SELECT grid(ARRAY[[(1, 1, 'a')::point3, (1, 2, 'b')::point3], [(2, 1, 'c')::point3, (2, 2, 'd')::point3]]);

-- Rows of a table, which may change under a function. Columns that were dropped are not seen.
CREATE TABLE person (id int, nickname text, name text, born date, scores numeric(6, 2)[]);
INSERT INTO person VALUES (1, 'x', 'Ada', '1815-12-10', '{1.5,NULL}'), (2, 'y', NULL, NULL, NULL);
ALTER TABLE person DROP COLUMN nickname;
CREATE FUNCTION columns(p person) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return ", ".join(f"{key}={value!r}" for key, value in p.items())
$$;
CREATE FUNCTION twin(p person) RETURNS person LANGUAGE plcontainer AS $$
# container: plc_python_shared
p["id"] = p["id"] + 100
return p
$$;
SELECT columns(person) FROM person;
SELECT (twin(person)).* FROM person;
ALTER TABLE person ADD COLUMN email text DEFAULT 'none';
SELECT columns(person) FROM person;
SELECT (twin(person)).* FROM person;
ALTER TABLE person RENAME COLUMN born TO birthday;
ALTER TABLE person ALTER COLUMN id TYPE int8;
SELECT columns(person) FROM person WHERE id = 1;
INSERT INTO person SELECT (twin(p)).* FROM person p WHERE id = 1;
SELECT * FROM person ORDER BY id;

-- What a column may hold is checked: length, precision, NOT NULL of a domain.
CREATE DOMAIN rating AS int CHECK (VALUE BETWEEN 1 AND 5);
CREATE TYPE review AS (title varchar(5), price numeric(4, 1), stars rating, code char(3), bits bit(3));
CREATE FUNCTION to_review(title text, price text, stars int) RETURNS review LANGUAGE plcontainer AS $$
# container: plc_python_shared
return title, price, stars, "ab", "101"
$$;
SELECT to_review('short', '12.34', 5);
SELECT to_review(NULL, NULL, NULL);
\set VERBOSITY sqlstate
SELECT to_review('too long', '1', 5);
SELECT to_review('short', '12345', 5);
SELECT to_review('short', '1', 6);
\set VERBOSITY default
-- A composite of no columns, and one of many.
CREATE TYPE nothing AS ();
CREATE FUNCTION nothing(v nothing) RETURNS nothing LANGUAGE plcontainer AS $$
# container: plc_python_shared
assert v == {}, v
return v
$$;
SELECT nothing(ROW()::nothing);
SELECT string_agg(format('c%s int', i), ', ') AS columns FROM generate_series(1, 300) i \gset
CREATE TYPE wide AS (:columns);
CREATE FUNCTION wide() RETURNS wide LANGUAGE plcontainer AS $$
# container: plc_python_shared
return {f"c{i}": i for i in range(1, 301)}
$$;
SELECT c1, c150, c300 FROM wide();
-- Toasted values within rows.
CREATE TABLE large (id int, document text, data bytea);
INSERT INTO large SELECT 1, string_agg(md5(i::text), ''), decode(repeat('00ff', 50000), 'hex') FROM generate_series(1, 10000) i;
CREATE FUNCTION lengths(v large) RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [len(v["document"]), len(v["data"])]
$$;
SELECT lengths(large) FROM large;
SELECT lengths(v[2]) FROM (SELECT array_agg(large) || array_agg(large) AS v FROM large) s;
SET client_min_messages = warning;
DROP SCHEMA plc_composites CASCADE;
