-- Functions in R: what PL/R's users expect, and what is exact here.
CREATE SCHEMA plc_r;
SET search_path = plc_r;

-- names, NULL, numbers
CREATE FUNCTION r_names(int, b int, int) RETURNS int AS $$
# container: plc_r_shared
100L * arg1 + 10L * b + arg3
$$ LANGUAGE plcontainer;
SELECT r_names(1, 2, 3), r_names(1, NULL, 3);

CREATE FUNCTION r_max(integer, integer) RETURNS integer AS $$
# container: plc_r_shared
if (is.null(arg1) && is.null(arg2)) return(NA)
if (is.null(arg1)) return(arg2)
if (is.na(arg2)) return(arg1)
max(arg1, arg2)
$$ LANGUAGE plcontainer;
SELECT r_max(1, 2), r_max(NULL, 2), r_max(1, NULL), r_max(NULL, NULL) IS NULL AS "null";

CREATE FUNCTION r_int8(int8) RETURNS int8 AS $$
# container: plc_r_shared
arg1
$$ LANGUAGE plcontainer;
SELECT r_int8(x) = x AS exact, x FROM unnest(array[0, 9007199254740993, 9223372036854775807, -9223372036854775808]) x;

CREATE FUNCTION r_int8_next(int8) RETURNS int8 AS $$
# container: plc_r_shared
arg1 + 1L
$$ LANGUAGE plcontainer;
SELECT r_int8_next(41), r_int8_next(9007199254740993);

CREATE FUNCTION r_int4(text) RETURNS int4 AS $$
# container: plc_r_shared
eval(parse(text = arg1))
$$ LANGUAGE plcontainer;
SELECT r_int4('42'), r_int4('NA') IS NULL AS "null", r_int4('-2147483648');
SELECT r_int4('3e9');
SELECT r_int4('1.5');

CREATE FUNCTION r_numeric(text) RETURNS numeric AS $$
# container: plc_r_shared
eval(parse(text = arg1))
$$ LANGUAGE plcontainer;
SELECT r_numeric('0.1'), r_numeric('1e5'), r_numeric('"1.00000000000000000000000000001"'), r_numeric('NaN');

CREATE FUNCTION r_text(text) RETURNS text AS $$
# container: plc_r_shared
eval(parse(text = arg1))
$$ LANGUAGE plcontainer;
SELECT r_text('"grün"'), r_text('factor("a")'), r_text('1/4'), r_text('TRUE'), r_text('character()') IS NULL AS "null";

CREATE FUNCTION r_bytea(bytea) RETURNS bytea AS $$
# container: plc_r_shared
rev(arg1)
$$ LANGUAGE plcontainer;
SELECT r_bytea('\x00ff01');
CREATE FUNCTION r_keep() RETURNS bytea AS $$
# container: plc_r_shared
list(a = 1:3, b = "x")
$$ LANGUAGE plcontainer;
CREATE FUNCTION r_kept(bytea) RETURNS int AS $$
# container: plc_r_shared
sum(unserialize(arg1)$a)
$$ LANGUAGE plcontainer;
SELECT r_kept(r_keep());

-- A date crosses in the session's DateStyle, as in PL/R; R reads ISO.
SET datestyle = ISO;
CREATE FUNCTION r_date(date) RETURNS date AS $$
# container: plc_r_shared
as.Date(arg1) + 1
$$ LANGUAGE plcontainer;
SELECT r_date('2024-02-28');

CREATE DOMAIN r_small AS int CHECK (VALUE < 10);
CREATE FUNCTION r_small(int) RETURNS r_small AS $$
# container: plc_r_shared
arg1
$$ LANGUAGE plcontainer;
SELECT r_small(9);
SELECT r_small(10);

-- an empty body is R's function of that name
CREATE FUNCTION sd(float8[]) RETURNS float8 AS $$
# container: plc_r_shared
$$ LANGUAGE plcontainer;
SELECT round(sd('{1.23,1.31,1.42,1.27}')::numeric, 8);

-- arrays
CREATE FUNCTION r_array(text) RETURNS text[] AS $$
# container: plc_r_shared
eval(parse(text = arg1))
$$ LANGUAGE plcontainer;
SELECT r_array('array(1:10, c(2, 5))'), r_array('data.frame(letters[1:2], 1:2)'), r_array('NULL') IS NULL AS "null",
       r_array('c("a", NA)'), r_array('character()'), r_array('list(list(1, 2), list(3, 4))');
SELECT r_array('list(1:2, 3L)');
CREATE FUNCTION r_cube(int[], int, int, int) RETURNS int AS $$
# container: plc_r_shared
arg1[arg2, arg3, arg4]
$$ LANGUAGE plcontainer;
SELECT r_cube('{{{111,112},{121,122},{131,132}},{{211,212},{221,222},{231,232}}}', 2, 3, 1);
CREATE FUNCTION r_same(int8[]) RETURNS int8[] AS $$
# container: plc_r_shared
arg1
$$ LANGUAGE plcontainer;
SELECT r_same('{{1,NULL},{9223372036854775807,4}}'), r_same('{}');

-- composites, sets
CREATE TYPE r_pair AS (n int, t text);
CREATE TYPE r_nested AS (id int, pair r_pair, ns int[], pairs r_pair[]);
CREATE FUNCTION r_pair(r_pair) RETURNS r_pair AS $$
# container: plc_r_shared
if (is.null(arg1)) return(NULL)
arg1$n <- arg1$n + 1L
arg1
$$ LANGUAGE plcontainer;
SELECT r_pair(row(1, 'x')), r_pair(row(NULL, NULL)), r_pair(NULL) IS NULL AS "null";
CREATE FUNCTION r_nested(r_nested) RETURNS r_nested AS $$
# container: plc_r_shared
arg1
$$ LANGUAGE plcontainer;
SELECT r_nested(row(1, row(2, 'y'), '{1,NULL}', array[row(3, 'z'), row(4, NULL)]::r_pair[]));
CREATE FUNCTION r_out(OUT x int, a float8, OUT y float8[]) AS $$
# container: plc_r_shared
list(a, rep(a, 3))
$$ LANGUAGE plcontainer;
SELECT * FROM r_out(42);
CREATE FUNCTION r_table() RETURNS TABLE (n int, t text) AS $$
# container: plc_r_shared
data.frame(n = 1:3, t = factor(c("a", NA, "b")))
$$ LANGUAGE plcontainer;
SELECT * FROM r_table();
CREATE FUNCTION r_record() RETURNS SETOF record AS $$
# container: plc_r_shared
matrix(1:6, 3)
$$ LANGUAGE plcontainer;
SELECT * FROM r_record() AS t(a int, b int);
CREATE FUNCTION r_many(int) RETURNS SETOF int AS $$
# container: plc_r_shared
seq_len(arg1)
$$ LANGUAGE plcontainer;
SELECT count(*), sum(x) FROM r_many(100000) x;
-- a function that is returned is asked for rows until it has no more
CREATE FUNCTION r_endless() RETURNS SETOF int AS $$
# container: plc_r_shared
n <- 0L
function() {
  n <<- n + 1L
  rep(n, 10)
}
$$ LANGUAGE plcontainer;
SELECT x FROM (SELECT r_endless() x) s LIMIT 3;

-- SQL
CREATE TABLE r_rows (id int, name text);
INSERT INTO r_rows VALUES (1, 'one'), (2, NULL), (3, 'three');
CREATE FUNCTION r_exec(text) RETURNS SETOF r_rows AS $$
# container: plc_r_shared
pg.spi.exec(arg1)
$$ LANGUAGE plcontainer;
SELECT * FROM r_exec('SELECT * FROM r_rows ORDER BY id');
CREATE FUNCTION r_command(text) RETURNS text AS $$
# container: plc_r_shared
pg.spi.exec(arg1)
$$ LANGUAGE plcontainer;
SELECT r_command('UPDATE r_rows SET name = name WHERE id > 1'), r_command('SELECT 1 WHERE false') IS NULL AS "null";
CREATE FUNCTION r_prepare() RETURNS text AS $$
# container: plc_r_shared
plan <<- pg.spi.prepare("SELECT * FROM r_rows WHERE id = ANY ($1) AND name IS NOT DISTINCT FROM $2 ORDER BY id",
                        c(`_INT4OID`, TEXTOID))
"OK"
$$ LANGUAGE plcontainer;
CREATE FUNCTION r_execp(int[], text) RETURNS SETOF r_rows AS $$
# container: plc_r_shared
pg.spi.execp(plan, list(arg1, arg2))
$$ LANGUAGE plcontainer;
SELECT r_prepare();
SELECT * FROM r_execp('{1,2,3}', 'three');
SELECT * FROM r_execp('{1,2,3}', NULL);
CREATE FUNCTION r_cursor(int) RETURNS SETOF int AS $$
# container: plc_r_shared
plan <- pg.spi.prepare("SELECT * FROM generate_series(1, $1) x", c(INT4OID))
cursor <- pg.spi.cursor_open("c", plan, list(arg1))
there <- pg.spi.cursor_fetch(cursor, TRUE, as.integer(3))
back <- pg.spi.cursor_fetch(cursor, FALSE, as.integer(3))
pg.spi.cursor_close(cursor)
rbind(there, back)
$$ LANGUAGE plcontainer;
SELECT * FROM r_cursor(10);
CREATE FUNCTION r_dbi() RETURNS text AS $$
# container: plc_r_shared
conn <- dbConnect(dbDriver("PostgreSQL"))
rs <- dbSendQuery(conn, "SELECT id FROM r_rows ORDER BY id")
first <- fetch(rs, 2)
dbClearResult(rs)
paste(c(first$id, nrow(dbGetQuery(conn, "SELECT * FROM r_rows")), nrow(dbReadTable(conn, "r_rows"))), collapse = " ")
$$ LANGUAGE plcontainer;
SELECT r_dbi();
CREATE FUNCTION r_catch(text) RETURNS text AS $$
# container: plc_r_shared
tryCatch(pg.spi.exec(arg1)[[1]], spi_error = function(e) paste(e$sqlstate, conditionMessage(e)))
$$ LANGUAGE plcontainer;
SELECT r_catch('SELECT 1/0'), r_catch('SELECT 5'), r_catch('SELEC');
CREATE FUNCTION r_subtransaction() RETURNS text AS $$
# container: plc_r_shared
try(pg.spi.subtransaction({
  pg.spi.exec("INSERT INTO r_rows VALUES (4, 'gone')")
  stop("no")
}), silent = TRUE)
pg.spi.subtransaction(pg.spi.exec("INSERT INTO r_rows VALUES (5, 'stays')"))
$$ LANGUAGE plcontainer;
SELECT r_subtransaction();
SELECT id FROM r_rows WHERE id > 3;
CREATE FUNCTION r_depth(int) RETURNS int AS $$
# container: plc_r_shared
if (arg1 == 0) 0L else 1L + pg.spi.exec(paste("SELECT r_depth(", arg1 - 1L, ") AS d"))$d
$$ LANGUAGE plcontainer;
SELECT r_depth(10);
CREATE FUNCTION r_stable() RETURNS text STABLE AS $$
# container: plc_r_shared
pg.spi.exec("DELETE FROM r_rows")
$$ LANGUAGE plcontainer;
SELECT r_stable();
CREATE FUNCTION r_quote(text) RETURNS text[] AS $$
# container: plc_r_shared
c(pg.quoteident(arg1), pg.quoteliteral(arg1))
$$ LANGUAGE plcontainer;
SELECT q = array[quote_ident(x), quote_literal(x)] AS same, x
  FROM unnest(array['a', 'select', 'A b', 'it''s', 'a\b', 'a"b', '1a', 'grün']) x, r_quote(x) q;

-- transactions
CREATE PROCEDURE r_transactions() AS $$
# container: plc_r_shared
for (i in 0:5) {
  pg.spi.exec(paste("INSERT INTO r_rows VALUES (", 10 + i, ")"))
  if (i %% 2 == 0) pg.spi.commit() else pg.spi.rollback()
}
$$ LANGUAGE plcontainer;
CALL r_transactions();
SELECT id FROM r_rows WHERE id >= 10 ORDER BY id;
CREATE PROCEDURE r_inout(INOUT a int, INOUT b text) AS $$
# container: plc_r_shared
list(a + 1L, paste0(b, "!"))
$$ LANGUAGE plcontainer;
CALL r_inout(1, 'x');

DO LANGUAGE plcontainer $$
# container: plc_r_shared
pg.thrownotice("from a block", hint = "none")
$$;

-- triggers
CREATE FUNCTION r_trigger() RETURNS trigger AS $$
# container: plc_r_shared
pg.thrownotice(paste(pg.tg.name, pg.tg.relname, pg.tg.when, pg.tg.level, pg.tg.op, pg.tg.args[1], pg.tg.args[2]))
if (pg.tg.level == "STATEMENT") return(NULL)
if (pg.tg.op == "DELETE") return(if (pg.tg.old$id == 1) NULL else pg.tg.old)
if (pg.tg.new$id < 0) return(NULL)
if (is.na(pg.tg.new$name)) pg.tg.new$name <- "nameless"
pg.tg.new
$$ LANGUAGE plcontainer;
CREATE TRIGGER r_row BEFORE INSERT OR UPDATE OR DELETE ON r_rows FOR EACH ROW EXECUTE FUNCTION r_trigger('hello', 'world');
CREATE TRIGGER r_statement AFTER INSERT ON r_rows FOR EACH STATEMENT EXECUTE FUNCTION r_trigger();
INSERT INTO r_rows VALUES (20, NULL), (-1, NULL), (21, 'named');
UPDATE r_rows SET name = NULL WHERE id = 21;
DELETE FROM r_rows WHERE id IN (1, 3);
SELECT * FROM r_rows WHERE id < 5 OR id >= 20 ORDER BY id;

-- messages and errors
CREATE FUNCTION r_warn() RETURNS int AS $$
# container: plc_r_shared
warning("careful")
as.integer("x")
$$ LANGUAGE plcontainer;
SELECT r_warn();
CREATE FUNCTION r_stop(x int) RETURNS int AS $$
# container: plc_r_shared
inner <- function(y) {
  if (y > 0) stop("not with ", y)
  y
}
inner(x)
$$ LANGUAGE plcontainer;
SELECT r_stop(0);
SELECT r_stop(1);
CREATE FUNCTION r_throw() RETURNS int AS $$
# container: plc_r_shared
pg.throwerror("thrown", detail = "a detail", hint = "a hint", sqlstate = "22012")
$$ LANGUAGE plcontainer;
SELECT r_throw();
SELECT r_stop(0);
CREATE FUNCTION r_broken() RETURNS int AS $$
# container: plc_r_shared
x <- )
$$ LANGUAGE plcontainer;
CREATE FUNCTION r_quit() RETURNS int AS $$
# container: plc_r_shared
q()
$$ LANGUAGE plcontainer;
SELECT r_quit();

-- a cancelled call keeps the session's state
CREATE FUNCTION r_sleep() RETURNS int AS $$
# container: plc_r_shared
kept <<- 5L
repeat tryCatch(Sys.sleep(100), error = function(e) NULL, interrupt = function(e) NULL)
$$ LANGUAGE plcontainer;
SET statement_timeout = '500ms';
SELECT r_sleep();
RESET statement_timeout;
SELECT r_int4('kept');

-- aggregates and windows
CREATE FUNCTION r_median(float8[]) RETURNS float8 AS $$
# container: plc_r_shared
median(arg1)
$$ LANGUAGE plcontainer;
CREATE AGGREGATE r_median (float8) (sfunc = array_append, stype = float8[], finalfunc = r_median);
SELECT x % 2 AS odd, r_median(x) FROM generate_series(1, 11) x GROUP BY 1 ORDER BY 1;
SELECT x, r_median(x) OVER (ORDER BY x ROWS 1 PRECEDING) FROM generate_series(1, 3) x;

SET client_min_messages = warning;
DROP SCHEMA plc_r CASCADE;
