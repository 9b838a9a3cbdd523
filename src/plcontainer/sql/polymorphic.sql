-- Polymorphic functions have the types of each call.
CREATE SCHEMA plc_polymorphic;
SET search_path = plc_polymorphic;
CREATE FUNCTION kind(v anyelement) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{type(v).__name__} {v!r}"
$$;
CREATE FUNCTION same(v anyelement) RETURNS anyelement LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION first(v anyarray) RETURNS anyelement LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v[0] if v else None
$$;
CREATE FUNCTION many(v anyelement, n int) RETURNS anyarray LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [v] * n
$$;
CREATE FUNCTION many_rows(v anyelement, n int) RETURNS SETOF anyelement LANGUAGE plcontainer AS $$
# container: plc_python_shared
return [v] * n
$$;
CREATE TYPE pair AS (a int, b text);
CREATE TYPE mood AS ENUM ('sad', 'glad');
SELECT kind(1), kind(1::int8), kind(1.5), kind('x'::text), kind(true), kind('2026-01-02'::date), kind(NULL::int);
SELECT kind((1, 'x')::pair), kind('glad'::mood), kind('\x00'::bytea), kind('[1,3)'::int4range);
SELECT kind(ARRAY[1, 2]), kind('{{1.5},{NULL}}'::numeric[]), kind(ARRAY[(1, 'x')::pair]);
SELECT pg_typeof(same(1)), pg_typeof(same(1::int2)), pg_typeof(same('x'::text)), pg_typeof(same((1, 'x')::pair));
SELECT same('glad'::mood), (same((1, 'x')::pair)).b, same(ARRAY[1, 2]), same('[1,3)'::int4range);
SELECT first(ARRAY[1, 2]), first(ARRAY['a', 'b']), first(ARRAY[(1, 'x')::pair]), first('{}'::int[]);
SELECT many(1, 2), many('x'::text, 2), many((1, 'x')::pair, 2), many('glad'::mood, 1);
SELECT many_rows('a'::text, 2), many_rows(1, 2);
CREATE FUNCTION bounds(v anyrange) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
SELECT bounds('[1,3)'::int4range), bounds('[1.5,2.5]'::numrange);
CREATE FUNCTION any_enum(v anyenum) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v.upper()
$$;
SELECT any_enum('glad'::mood);
CREATE FUNCTION compatible(a anycompatible, b anycompatible) RETURNS anycompatible LANGUAGE plcontainer AS $$
# container: plc_python_shared
return max(a, b)
$$;
SELECT compatible(1, 2.5), pg_typeof(compatible(1, 2::int8));
CREATE FUNCTION variadic_any(VARIADIC v anyarray) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return len(v)
$$;
SELECT variadic_any(1, 2, 3), variadic_any('a'::text), variadic_any(VARIADIC ARRAY[1.5, 2.5]);
-- SD belongs to the function, whatever its types are.
CREATE FUNCTION counts(v anyelement) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
GD["calls"] = GD.get("calls", 0) + 1
return GD["calls"]
$$;
SELECT counts(1), counts('x'::text), counts(2);
-- Pseudo-types that no value has are refused when the function is created.
\set VERBOSITY sqlstate
CREATE FUNCTION pseudo(v internal) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1
$$;
CREATE FUNCTION pseudo(v cstring) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1
$$;
CREATE FUNCTION pseudo() RETURNS cstring LANGUAGE plcontainer AS $$
# container: plc_python_shared
return 1
$$;
\set VERBOSITY default
SET client_min_messages = warning;
DROP SCHEMA plc_polymorphic CASCADE;
