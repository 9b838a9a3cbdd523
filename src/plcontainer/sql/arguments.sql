-- Arguments: by name, without one, defaults, VARIADIC, none at all.
CREATE SCHEMA plc_arguments;
SET search_path = plc_arguments;
CREATE FUNCTION named(a int, b text DEFAULT 'b', c int[] DEFAULT '{1,2}') RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{a!r} {b!r} {c!r} {args!r}"
$$;
SELECT named(1), named(1, 'x'), named(1, c => '{}'), named(c => NULL, a => 5);
CREATE FUNCTION unnamed(int, text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{args!r} {len(args)}"
$$;
SELECT unnamed(1, NULL);
CREATE FUNCTION mixed(int, b text, int) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{args[0]} {b} {args[2]}"
$$;
SELECT mixed(1, 'x', 3);
CREATE FUNCTION no_arguments() RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{args!r}"
$$;
SELECT no_arguments();
CREATE FUNCTION rest(first text, VARIADIC others numeric[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{first} {others!r}"
$$;
SELECT rest('a', 1, 2.50), rest('b', VARIADIC '{}'), rest('c', VARIADIC ARRAY[3, NULL]);
CREATE FUNCTION strictly(a int) RETURNS text STRICT LANGUAGE plcontainer AS $$
# container: plc_python_shared
return str(a)
$$;
SELECT strictly(NULL) IS NULL AS is_null, strictly(1);
CREATE FUNCTION hundred() RETURNS text LANGUAGE plpgsql AS $make$
BEGIN
    EXECUTE format($f$CREATE FUNCTION sum_of_hundred(%s) RETURNS int LANGUAGE plcontainer AS
        E'# container: plc_python_shared\nreturn sum(args) + a1 + a100'$f$, (SELECT string_agg(format('a%s int', i), ', ') FROM generate_series(1, 100) i));
    RETURN (SELECT format('SELECT sum_of_hundred(%s)', string_agg(i::text, ', ')) FROM generate_series(1, 100) i);
END
$make$;
SELECT hundred() AS call \gset
:call;
-- Names that are Python's, that need quotes, that the runtime itself uses.
CREATE FUNCTION names("Größe" int, "list" int, "SD" text) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{Größe} {list} {SD}"
$$;
SELECT names(1, 2, 'x');
CREATE FUNCTION odd_names("class" int, "two words" int) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{args} {globals()['class']} {globals()['two words']}"
$$;
SELECT odd_names(1, 2);
-- A large number of large arguments.
CREATE FUNCTION large(a text, b bytea, c float8[]) RETURNS int8 LANGUAGE plcontainer AS $$
# container: plc_python_shared
return len(a) + len(b) + len(c)
$$;
SELECT large(repeat('x', 5000000), decode(repeat('00', 5000000), 'hex'), array_fill(1.5::float8, ARRAY[1000000]));
-- Options of the first line.
CREATE FUNCTION unknown_option() RETURNS int LANGUAGE plcontainer AS $$
# container: plc_python_shared colour=blue
return 1
$$;
SET client_min_messages = warning;
DROP SCHEMA plc_arguments CASCADE;
