-- Every type both ways.
SET extra_float_digits = 1;
-- Makes a function that gives its argument back with its Python type.
CREATE FUNCTION make_identity(type text) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    EXECUTE format($f$
        CREATE FUNCTION same(v %1$s) RETURNS %1$s LANGUAGE plcontainer AS
        E'# container: plc_python_shared\nreturn v';
        CREATE FUNCTION pytype(v %1$s) RETURNS text LANGUAGE plcontainer AS
        E'# container: plc_python_shared\nreturn type(v).__name__ + " " + repr(v)';
        $f$, type);
END
$make$;
SELECT make_identity(t) FROM unnest(ARRAY['bool', 'int2', 'int4', 'int8', 'float4', 'float8',
    'text', 'varchar', 'bpchar', 'bytea', 'numeric', 'date', 'jsonb', 'uuid', 'name']) t;

SELECT same(v), pytype(v) FROM (VALUES (true), (false), (NULL::bool)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (32767::int2), ((-32768)::int2), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (2147483647), (-2147483648), (0), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (9223372036854775807), ((-9223372036854775808)::int8), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (1.5::float4), ('-Infinity'), ('NaN'), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (0.1::float8), (1e308), ('Infinity'), ('NaN'), (-0.0::float8), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('grüße'::text), (''), (E'a\nb\\'), (repeat('x', 3)), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('ab'::varchar)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('ab '::bpchar)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('\x00ff00'::bytea), (''), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES (123456789012345678901234567890.123456789012345678901234567890), (1.10), (-0.000), ('NaN'::numeric), ('Infinity'), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('2026-02-28'::date), ('infinity'), (NULL)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('{"a": [1, null]}'::jsonb)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('00000000-0000-0000-0000-000000000001'::uuid)) t(v);
SELECT same(v), pytype(v) FROM (VALUES ('pg_class'::name)) t(v);
-- Large values go out of line and come back whole.
SELECT length(same(repeat('grün', 1000000))), same(repeat('grün', 1000000)) = repeat('grün', 1000000) AS equal;
SELECT length(same(decode(repeat('00ff', 1000000), 'hex')));

-- Arrays.
SELECT make_identity(t) FROM unnest(ARRAY['bool[]', 'int2[]', 'int4[]', 'int8[]', 'float4[]', 'float8[]',
    'text[]', 'bytea[]', 'numeric[]', 'date[]']) t;
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[true, NULL, false])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[1, -1, NULL]::int2[])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[1, 2, 3]), ('{}'), (NULL), (ARRAY[NULL]::int4[]), ('[5:6]={7,8}')) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[9223372036854775807, NULL])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[1.5, 'NaN', NULL]::float4[])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[0.1, '-Infinity', NULL]::float8[])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY['a', NULL, '', 'grüße', '"{}\'])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY['\x00', NULL, '']::bytea[])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY[1.10, NULL, 'NaN']::numeric[])) t(v);
SELECT same(v), pytype(v) FROM (VALUES (ARRAY['2026-02-28', NULL]::date[])) t(v);
SELECT same(ARRAY[[1, 2], [3, NULL]]), pytype(ARRAY[[1, 2], [3, NULL]]);
SELECT sum(e) = 500000500000 AS equal FROM unnest(same((SELECT array_agg(i::int8) FROM generate_series(1, 1000000) i))) e;
SELECT same(array_agg(i::float8)) = array_agg(i::float8) AS equal FROM generate_series(1, 100000) i;

-- Results that are not exactly of the declared type are the database's to judge.
CREATE FUNCTION result_int4(code text) RETURNS int4 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_int4s(code text) RETURNS int4[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_bool(code text) RETURNS bool LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_float8(code text) RETURNS float8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_text(code text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_numeric(code text) RETURNS numeric LANGUAGE plcontainer AS $$
# container: plc_python_shared
import decimal
return eval(code)
$$;
CREATE FUNCTION result_bytea(code text) RETURNS bytea LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
CREATE FUNCTION result_void(code text) RETURNS void LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
SELECT result_int4('"42"'), result_int4('None');
SELECT result_int4('2147483648');
SELECT result_int4('10 ** 30');
SELECT result_int4('3.0');
SELECT result_int4('"x"');
SELECT result_int4s('[1, "2", None]'), result_int4s('(1, 2)'), result_int4s('range(3)'), result_int4s('[]');
SELECT result_int4s('[[1, 2], [3, 4]]');
SELECT result_int4s('[1, 2147483648]');
SELECT result_int4s('[[1, 2], [3]]');
SELECT result_bool('[]'), result_bool('[0]'), result_bool('"false"'), result_bool('0.0');
SELECT result_float8('1'), result_float8('"1e3"'), result_float8('True');
SELECT result_float8('"one"');
SELECT result_text('1'), result_text('{"a": None}'), result_text('b"x"');
SELECT result_text('"a\0b"');
SELECT result_numeric('decimal.Decimal("1.10")'), result_numeric('2 ** 100'), result_numeric('0.1'), result_numeric('"1e-3"');
SELECT result_bytea('bytearray(b"a\0")'), result_bytea('memoryview(b"xyz")[1:]');
SELECT result_void('None') IS NULL AS is_null;

-- Domains, arguments by name, position and OUT.
CREATE DOMAIN small AS int4 CHECK (VALUE < 10);
CREATE DOMAIN code AS varchar(3) NOT NULL;
CREATE FUNCTION to_small(v int4) RETURNS small LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION to_smalls(v int4[]) RETURNS small[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION to_code(v text) RETURNS code LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
SELECT to_small(9), to_smalls('{1,2}');
SELECT to_small(10);
SELECT to_smalls('{1,20}');
SELECT to_code('abc');
SELECT to_code('abcd');
SELECT to_code(NULL);
CREATE FUNCTION named(a int, int, OUT sum int) LANGUAGE plcontainer AS $$
# container: plc_python_shared
return a + args[1] + len(args)
$$;
SELECT named(1, 2);
CREATE FUNCTION many(VARIADIC v int[]) RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared
return sum(v)
$$;
SELECT many(1, 2, 3);
CREATE PROCEDURE proc(v text) LANGUAGE plcontainer AS $$
# container: plc_python_shared
plpy.notice("called with " + v)
$$;
CALL proc('x');
-- A domain's check may call into the sandbox whose result is being read.
CREATE FUNCTION is_small(v int4) RETURNS bool LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v < 100
$$;
CREATE DOMAIN checked AS int4 CHECK (is_small(VALUE));
CREATE FUNCTION to_checked(v int4[]) RETURNS checked[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
SELECT to_checked('{1,99}');
SELECT to_checked('{1,100}');
