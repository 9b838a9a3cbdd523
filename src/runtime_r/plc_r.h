/*
 * plc_r.h
 *		What the parts of the R runtime's shared object share.
 *
 * R's errors are long jumps. So everything that may raise one runs below run_guarded(), and
 * whatever lives longer than one function call is either known to R's garbage collector or
 * hangs on `state`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLC_R_H
#define PLC_R_H

#define R_NO_REMAP
#define STRICT_R_HEADERS
#include <R.h>
#include <Rinternals.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../protocol/plc_protocol.h"

#define BUCKETS 64
#define FIELD_LIMIT ((size_t) 1 << 18)	/* bytes of one field of an Error or Log */

/* A type descriptor. */
typedef struct type
{
	plc_kind	kind;
	char	   *name;			/* of OTHER and COMPOSITE */
	struct type *element;		/* of ARRAY */
	uint32_t	nfields;		/* of COMPOSITE */
	char	  **names;
	struct type **fields;
} type;

typedef struct function
{
	uint32_t	id;
	uint32_t	flags;
	uint32_t	references;
	uint32_t	count;			/* arguments */
	type	  **types;
	type	   *result;
	SEXP		symbol;			/* what calls of it are shown as */
	SEXP		closure;
	SEXP		shape;			/* of the rows it returns, see row_shape() */
	plc_writer	failure;		/* the Error of each call, where it does not compile */
	struct function *next;
} function;

/* The rows of a set that are still to be sent. */
typedef struct set
{
	uint32_t	call_id;
	function   *function;
	SEXP		columns;		/* list, or NULL (the R object) */
	SEXP		more;			/* a function that returns further rows, or NULL (the R object) */
	R_xlen_t	row;
	R_xlen_t	rows;
	struct set *next;
} set;

/* A call or a batch of a set that runs; those below wait for its end. */
typedef struct call
{
	uint32_t	id;
	function   *function;
	plc_reader *reader;
	set		   *set;
	uint32_t	batch_rows;
	uint32_t	batch_bytes;
	plc_writer	writer;			/* of the answer */
	plc_writer	failure;		/* fields of the Error that ends it */
	SEXP		value;			/* what the function returned */
	struct call *below;
} call;

typedef struct plc_state
{
	int			fd;
	int			signal_fd;
	bool		owned;			/* false in a child process */
	bool		greeted;
	uint64_t	limit;			/* bytes of a payload, both ways */
	size_t		field_limit;
	pthread_t	main_thread;
	_Atomic int64_t current;	/* id of the call that runs, or -1 */
	_Atomic int64_t cancel;		/* id of the call that is to end, or -1 */
	call	   *call;			/* what `current` is the id of */
	function   *functions[BUCKETS];
	set		   *sets;
	plc_writer	spare;			/* memory for the next answer */
	SEXP		runtime;		/* environment with the runtime's functions */
	SEXP		entry;			/* environment that functions are called from */
	SEXP		keywords;
	SEXP		null_logical;	/* what stands for a NULL argument, told from other NAs by its address */
	SEXP		null_integer;
	SEXP		null_real;
	SEXP		null_string;
	bool		has_integer64;
} plc_state;

extern plc_state state;

/* --- connection.c: frames and the two connections ---------------------------- */

extern void connect_sockets(const char *path);
extern bool read_frame(plc_header *header, plc_reader *payload);
extern void send_written(const plc_writer *writer);
/* Tells the backend that it broke the protocol, and ends the process. */
extern void protocol_violation(const char *message) __attribute__((noreturn));
extern void *resize_malloc(void *data, size_t capacity);
/* Memory that R takes back when the running .Call ends. */
extern void *resize_transient(void *data, size_t capacity);
/* Lets go of everything but a moderate amount of memory, for the next use. */
extern void recycle(plc_writer *writer);
extern void write_clean_field(plc_writer *writer, char key, const char *text);

/* --- watch.c: the signal connection ------------------------------------------- */

extern void start_watching(void);
extern bool is_canceled(void);

/* --- decode.c: values to R ------------------------------------------------------ */

/* Whether bytes are UTF-8 without NUL. */
extern bool is_text(plc_span span);
/* A `str` that is valid UTF-8 without NUL, and R's string of one. */
extern plc_span read_text(plc_reader *reader);
extern SEXP text_string(plc_span span);
extern type *read_type(plc_reader *reader, void *(*allocate) (size_t size));
extern void free_type(type *dropped);
extern SEXP decode_value(plc_reader *reader, const type *declared, bool argument);
/* Columns of a result: `rows` rows are read into a list that has room for them from `row` on. */
extern SEXP new_columns(const type *row_type, R_xlen_t rows);
extern void grow_columns(SEXP columns, R_xlen_t rows);
extern void decode_row(plc_reader *reader, const type *row_type, SEXP columns, R_xlen_t row);
extern SEXP make_frame(const type *row_type, SEXP columns, R_xlen_t rows);

/* --- encode.c: values from R ------------------------------------------------------ */

/* The text of one of R's strings; an error if it has none. Valid as long as the string, or until the .Call's end. */
extern const char *utf8_of(SEXP string);
extern void encode_value(plc_writer *writer, const type *declared, SEXP value);
extern void encode_cell(plc_writer *writer, const type *declared, SEXP column, R_xlen_t row);
extern void encode_row(plc_writer *writer, const type *declared, SEXP columns, R_xlen_t row);
/* list(kinds, names) of the columns of a type, as as_columns() of convert.R wants it. */
extern SEXP row_shape(const type *declared);
/* Columns of a value of R's, and how many rows they have. */
extern SEXP to_columns(SEXP shape, SEXP value, bool one, R_xlen_t *rows);

/* --- calls.c: functions and calls ------------------------------------------------- */

extern void dispatch(const plc_header *header, plc_reader *payload);
/* Returns at the connection's end. */
extern void serve(void);
extern SEXP r_perform(SEXP unused);
extern SEXP r_record_failure(SEXP keys, SEXP texts);
extern SEXP r_log(SEXP level, SEXP keys, SEXP texts);
/* Evaluates a call of one of the runtime's own functions with up to 8 arguments. */
extern SEXP call_runtime(const char *name, int count, ...);
/* Raises an error of R's with a SQLSTATE. */
extern void fail(const char *sqlstate, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* --- sql.c -------------------------------------------------------------------------- */

extern SEXP r_execute(SEXP query, SEXP limit);
extern SEXP r_prepare(SEXP query, SEXP types);
extern SEXP r_execute_plan(SEXP plan, SEXP values, SEXP limit);
extern SEXP r_open(SEXP query);
extern SEXP r_open_plan(SEXP plan, SEXP values);
extern SEXP r_fetch(SEXP cursor, SEXP rows);
extern SEXP r_close(SEXP cursor);
extern SEXP r_end_transaction(SEXP verb);
extern SEXP r_subtransaction(SEXP verb);

#endif							/* PLC_R_H */
