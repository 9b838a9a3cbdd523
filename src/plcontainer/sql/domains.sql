-- Domains are checked wherever a value enters one: 23514, and 23502 for NOT NULL.
CREATE SCHEMA plc_domains;
SET search_path = plc_domains;
CREATE DOMAIN digit AS int CHECK (VALUE BETWEEN 0 AND 9);
CREATE DOMAIN odd_digit AS digit CHECK (VALUE % 2 = 1);
CREATE DOMAIN word AS text NOT NULL CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN digits AS digit[] CHECK (cardinality(VALUE) < 4);
CREATE TYPE pair AS (a digit, b word);
CREATE DOMAIN good_pair AS pair CHECK ((VALUE).a > 0);

CREATE FUNCTION to_odd(v int) RETURNS odd_digit LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION to_word(v text) RETURNS word LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION to_digits(v int[]) RETURNS digits LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION to_pair(a int, b text) RETURNS pair LANGUAGE plcontainer AS $$
# container: plc_python_shared
return a, b
$$;
CREATE FUNCTION to_good_pair(a int, b text) RETURNS good_pair LANGUAGE plcontainer AS $$
# container: plc_python_shared
return {"a": a, "b": b}
$$;
CREATE FUNCTION to_pairs(a int[], b text[]) RETURNS good_pair[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return list(zip(a, b))
$$;
CREATE FUNCTION to_set(v int[]) RETURNS SETOF odd_digit LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION from_domain(a odd_digit, b word, c digits, d good_pair) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{a!r} {b!r} {c!r} {d!r}"
$$;
SELECT to_odd(7), to_odd(NULL), to_word('abc'), to_digits('{1,2,3}'), to_digits(NULL);
SELECT to_pair(1, 'x'), to_good_pair(1, 'x'), to_pairs('{1,2}', '{x,y}');
SELECT from_domain(7, 'w', '{1,2}', ROW(1, 'x')::good_pair);
SELECT to_set('{1,3,5}');
\set SHOW_CONTEXT never
SELECT to_odd(8);
SELECT to_odd(11);
SELECT to_word('A');
SELECT to_word(NULL);
SELECT to_digits('{1,2,3,4}');
SELECT to_digits('{1,10}');
SELECT to_pair(10, 'x');
SELECT to_pair(1, NULL);
SELECT to_good_pair(0, 'x');
SELECT to_pairs('{1,0}', '{x,y}');
SELECT to_pairs('{1,1}', '{x,Y}');
SELECT to_set('{1,2}');
\set VERBOSITY sqlstate
SELECT to_odd(8);
SELECT to_word(NULL);
SELECT to_good_pair(0, 'x');
\set VERBOSITY default
\set SHOW_CONTEXT errors
-- A check that is added later is seen.
ALTER DOMAIN digit ADD CHECK (VALUE <> 7);
\set VERBOSITY terse
SELECT to_odd(7);
\set VERBOSITY default
-- Domains of parameters of plans.
CREATE FUNCTION plan_of_domain(v int) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
plan = plpy.prepare("SELECT $1 + 1 AS r", ["odd_digit"])
return plan.execute([v])[0]["r"]
$$;
SELECT plan_of_domain(5);
\set VERBOSITY sqlstate
SELECT plan_of_domain(6);
\set VERBOSITY default
SET client_min_messages = warning;
DROP SCHEMA plc_domains CASCADE;
