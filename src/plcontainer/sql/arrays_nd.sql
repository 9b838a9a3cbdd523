-- Arrays of up to six dimensions, with NULLs and lower bounds.
CREATE SCHEMA plc_arrays_nd;
SET search_path = plc_arrays_nd;
CREATE FUNCTION same(v int[]) RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return v
$$;
CREATE FUNCTION show(v int[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return repr(v)
$$;
CREATE FUNCTION show(v text[]) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return repr(v)
$$;
SELECT show('{{1,2,3},{4,NULL,6}}'::int[]), same('{{1,2,3},{4,NULL,6}}');
SELECT show('{{{1},{2}},{{3},{4}},{{5},{NULL}}}'::int[]), same('{{{1},{2}},{{3},{4}},{{5},{NULL}}}');
SELECT show('{{{{{{1,2}}}}}}'::int[]), same('{{{{{{1,2}}}}}}');
SELECT show('{{a,NULL},{"",ü}}'::text[]);
SELECT show('{}'::int[]), same('{}'), array_ndims(same('{}')) IS NULL AS no_dimension;
-- A list begins at 0 whatever the array's lower bounds were; what comes back begins at 1.
SELECT show('[0:1][5:6]={{1,2},{3,4}}'::int[]), same('[0:1][5:6]={{1,2},{3,4}}'), same('[-1:0]={7,8}');
SELECT array_dims(same(array_fill(7, ARRAY[2, 3, 4, 5, 6, 7]))), cardinality(same(array_fill(7, ARRAY[2, 3, 4, 5, 6, 7])));

-- What can't be an array is refused.
CREATE FUNCTION make(code text) RETURNS int[] LANGUAGE plcontainer AS $$
# container: plc_python_shared
return eval(code)
$$;
SELECT make('[[1, 2], [3, 4]]'), make('[[[1], [None]]]'), make('([1, 2], [3, 4])');
SELECT make('[None, None]'), make('[[None], [None]]'), make('[]');
\set VERBOSITY sqlstate
SELECT make('[[1, 2], [3]]');
SELECT make('[[1, 2], 3]');
SELECT make('[1, [2, 3]]');
SELECT make('[[1], None]');
SELECT make('[[], [1]]');
SELECT make('[[1, 2], (3, 4)]');
SELECT make('[[[1, 2], [3, 4]], [[5, 6]]]');
SELECT make('[[[[[[[1]]]]]]]');
SELECT make('5');
SELECT make('[[1, 2147483648]]');
SELECT make('[["x"]]');
\set VERBOSITY default

-- Each kind of element.
CREATE FUNCTION make_same(type text) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    EXECUTE format('CREATE FUNCTION same_of(v %1$s) RETURNS %1$s LANGUAGE plcontainer AS E''# container: plc_python_shared\nreturn v''', type);
END
$make$;
SELECT make_same(t) FROM unnest(ARRAY['bool[]', 'int2[]', 'int8[]', 'float4[]', 'float8[]', 'text[]', 'bytea[]', 'numeric[]',
    'timestamptz[]', 'jsonb[]', 'int4range[]', 'oid[]', 'name[]', 'varchar(3)[]', 'uuid[]', 'interval[]', 'inet[]']) t;
SET timezone = 'UTC';
SELECT same_of('{{t,f},{NULL,t}}'::bool[]), same_of('{{1,2},{-32768,NULL}}'::int2[]), same_of('{{9223372036854775807,NULL}}'::int8[]);
SELECT same_of('{{1.5,NULL},{NaN,-Infinity}}'::float4[]), same_of('{{0.1,NULL},{NaN,Infinity}}'::float8[]);
SELECT same_of('{{"a,b","\"q\""},{NULL,"NULL"}}'::text[]), same_of('{{"\\x00ff",NULL}}'::bytea[]);
SELECT same_of('{{1.10,NULL},{NaN,-0.000}}'::numeric[]), same_of('{{2026-01-02 03:04:05+00,NULL}}'::timestamptz[]);
SELECT same_of(ARRAY[['{"a": [1, null]}', NULL]]::jsonb[]), same_of('{{"[1,5)",empty}}'::int4range[]);
SELECT same_of('{{1,4294967295}}'::oid[]), same_of('{{pg_class}}'::name[]), same_of('{{abc}}'::varchar(3)[]);
SELECT same_of('{{00000000-0000-0000-0000-000000000001}}'::uuid[]), same_of('{{1 day,NULL}}'::interval[]), same_of('{{10.0.0.1/8}}'::inet[]);

-- Arrays of arrays' rows in tables, in aggregates, of large size.
SELECT same(v) = v AS equal FROM (SELECT array_agg(ARRAY[i, -i, NULL]) AS v FROM generate_series(1, 100000) i) s;
-- What is fixed in size, but no array to SQL.
CREATE FUNCTION vectors(a int2vector, b oidvector, c point) RETURNS text LANGUAGE plcontainer AS $$
# container: plc_python_shared
return f"{a} {b} {c}"
$$;
SELECT vectors('1 2', '3 4', '(5,6)');
SET client_min_messages = warning;
DROP SCHEMA plc_arrays_nd CASCADE;
