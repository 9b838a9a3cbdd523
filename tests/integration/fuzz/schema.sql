-- What the fuzzer reads values of, and calls.
CREATE EXTENSION plcontainer;
CREATE FUNCTION fuzz_values(regtype, bigint, bigint,
        OUT accepted bigint, OUT refused bigint, OUT raised bigint, OUT slowest_us bigint, OUT growth bigint)
    AS '$libdir/plcontainer' LANGUAGE c STRICT;
CREATE FUNCTION fuzz_fields(bigint, bigint,
        OUT accepted bigint, OUT refused bigint, OUT raised bigint, OUT slowest_us bigint, OUT growth bigint)
    AS '$libdir/plcontainer' LANGUAGE c STRICT;
CREATE FUNCTION fuzz_write("any") RETURNS bytea AS '$libdir/plcontainer' LANGUAGE c;
CREATE FUNCTION fuzz_describe(regtype) RETURNS bytea AS '$libdir/plcontainer' LANGUAGE c;
CREATE FUNCTION fuzz_read(bytea, anyelement) RETURNS anyelement AS '$libdir/plcontainer' LANGUAGE c;

CREATE TYPE color AS ENUM ('red', 'green');
CREATE DOMAIN positive AS int4 CHECK (value > 0);
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN price AS numeric(6, 2) NOT NULL;
CREATE DOMAIN pair AS int4[] CHECK (array_length(value, 1) = 2);
CREATE TYPE point3 AS (x float8, y float8, z positive);
CREATE DOMAIN ahead AS point3 CHECK ((value).x > 0);
CREATE TYPE leaf AS (a int4, b text, c numeric(5, 2), d varchar(3), e char(4), f bit(3));
CREATE TYPE branch AS (
    id int8, one leaf, many leaf[], tags text[], o oid, at ahead, pairs pair[], s short, ss short[], flags bool[]);
CREATE TYPE tree AS (b branch, bs branch[], j jsonb, t timestamptz, r int4range, bytes bytea);
CREATE TYPE nothing AS ();
CREATE TYPE thing AS (n int4, t text);
CREATE TABLE many AS SELECT i AS n, 'row ' || i AS t FROM generate_series(1, 200) i;
CREATE TABLE sink (n int4, gone text, t text, double int8 GENERATED ALWAYS AS (n * 2) STORED, v varchar(3)[]);
ALTER TABLE sink DROP COLUMN gone;

SET check_function_bodies = off;
CREATE FUNCTION fuzz_int(int4) RETURNS int4 LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_text(text) RETURNS text LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_array(int4[]) RETURNS int4[] LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_row(thing) RETURNS thing LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_tree(tree) RETURNS tree LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_positive(positive) RETURNS positive LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_set(int4) RETURNS SETOF int4 LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_rows() RETURNS TABLE (n int4, t text[]) LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_stable() RETURNS int4 STABLE LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE FUNCTION fuzz_trigger() RETURNS trigger LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE PROCEDURE fuzz_procedure() LANGUAGE plcontainer AS E'# container: fuzz\n';
CREATE TRIGGER fuzz BEFORE INSERT OR UPDATE OR DELETE ON sink FOR EACH ROW EXECUTE FUNCTION fuzz_trigger('a', 'b');

-- Runs a statement again and again; returns how often each SQLSTATE came of it. An internal error comes with its message.
CREATE FUNCTION drive(statement text, times int4) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    counts jsonb = '{}';
    outcome text;
BEGIN
    FOR i IN 1 .. times LOOP
        outcome = '00000';
        BEGIN
            EXECUTE statement;
        EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
            outcome = CASE sqlstate WHEN 'XX000' THEN 'XX000 ' || sqlerrm ELSE sqlstate END;
        END;
        counts = counts || jsonb_build_object(outcome, coalesce((counts ->> outcome)::int4, 0) + 1);
    END LOOP;
    RETURN counts;
END $$;
