/*
 * calls.c
 *		Functions, their calls, and the sets they return.
 *
 * A call runs below R_ToplevelExec() and, in R, below invoke() of runtime.R, which hands the error
 * that nobody caught to r_record_failure(). That leaves by a jump to here, as a Cancel does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <Rversion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../protocol/plc_receive.h"

#define SET_MS 50				/* a batch that has a row is sent after this time */
#define FIRST_ROWS 64
#define FIRST_BYTES 65536
#define FLAGS_KNOWN ((uint32_t) (PLC_FUNCTION_SET | PLC_FUNCTION_TRIGGER | PLC_FUNCTION_EVENT_TRIGGER | \
								PLC_FUNCTION_PROCEDURE | PLC_FUNCTION_NUMPY | PLC_FUNCTION_INLINE))
#define CANCELED "canceling statement due to user request"

extern void Rf_jump_to_toplevel(void) __attribute__((noreturn));

/* --- R --------------------------------------------------------------------------------- */

SEXP
call_runtime(const char *name, int count, ...)
{
	SEXP		values[8];
	SEXP		expression;
	SEXP		cell;
	SEXP		value;
	va_list		arguments;

	va_start(arguments, count);
	for (int i = 0; i < count; i++)
		values[i] = PROTECT(va_arg(arguments, SEXP));
	va_end(arguments);
	cell = expression = PROTECT(Rf_allocVector(LANGSXP, count + 1));
	SETCAR(cell, Rf_install(name));
	for (int i = 0; i < count; i++)
	{
		cell = CDR(cell);
		/* Code that a function returns is not to be run. */
		if (TYPEOF(values[i]) == LANGSXP || TYPEOF(values[i]) == SYMSXP || TYPEOF(values[i]) == PROMSXP)
			SETCAR(cell, Rf_lang2(Rf_install("quote"), values[i]));
		else
			SETCAR(cell, values[i]);
	}
	value = Rf_eval(expression, state.runtime);
	UNPROTECT(count + 1);
	return value;
}

void
fail(const char *sqlstate, const char *format, ...)
{
	char		text[512];
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	call_runtime("fail", 2, PROTECT(Rf_mkString(sqlstate)), PROTECT(Rf_mkString(text)));
	Rf_error("%s", text);
}

static void
write_fields(plc_writer *writer, SEXP keys, SEXP texts)
{
	for (R_xlen_t i = 0; i < XLENGTH(keys); i++)
		write_clean_field(writer, CHAR(STRING_ELT(keys, i))[0], Rf_translateCharUTF8(STRING_ELT(texts, i)));
	plc_write_u8(writer, 0);
}

/* What the call ends with. Keeps the first failure: a second is one of code that cleans up. */
SEXP
r_record_failure(SEXP keys, SEXP texts)
{
	plc_writer *writer = &state.call->failure;

	if (writer->length == 0)
		write_fields(writer, keys, texts);
	Rf_jump_to_toplevel();
}

SEXP
r_log(SEXP level, SEXP keys, SEXP texts)
{
	plc_writer	writer;

	if (!state.owned || state.call == NULL)
	{
		fprintf(stderr, "%s\n", Rf_translateCharUTF8(STRING_ELT(texts, 0)));
		return R_NilValue;
	}
	plc_writer_init(&writer, resize_transient);
	plc_frame_begin(&writer, state.call->id, PLC_LOG, 0);
	plc_write_u8(&writer, (uint8_t) Rf_asInteger(level));
	write_fields(&writer, keys, texts);
	plc_frame_end(&writer);
	send_written(&writer);
	return R_NilValue;
}

/* --- functions ----------------------------------------------------------------------------- */

static void *
allocate(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
	{
		fprintf(stderr, "no memory for a function\n");
		_exit(1);
	}
	return memory;
}

static function *
find_function(uint32_t id)
{
	function   *found = state.functions[id % BUCKETS];

	while (found != NULL && found->id != id)
		found = found->next;
	return found;
}

static void
release_function(function *released)
{
	if (--released->references > 0)
		return;
	for (uint32_t i = 0; i < released->count; i++)
		free_type(released->types[i]);
	free(released->types);
	free_type(released->result);
	R_ReleaseObject(released->closure);
	R_ReleaseObject(released->shape);
	free(released->failure.data);
	free(released);
}

static void
forget_function(uint32_t id)
{
	function  **link = &state.functions[id % BUCKETS];

	while (*link != NULL)
	{
		function   *found = *link;

		if (found->id == id)
		{
			*link = found->next;
			release_function(found);
			return;
		}
		link = &found->next;
	}
}

typedef struct compilation
{
	function   *compiled;		/* NULL: the source is only looked at */
	plc_span	name;
	plc_span	source;
	plc_span   *names;			/* of arguments */
	uint32_t	count;
	uint32_t	flags;
} compilation;

/* Runs in a call of its own, so that an error finds its place. */
static void
compile(void *data)
{
	compilation *wanted = data;
	SEXP		name = PROTECT(Rf_ScalarString(text_string(wanted->name)));
	SEXP		source = PROTECT(Rf_ScalarString(text_string(wanted->source)));
	SEXP		names = PROTECT(Rf_allocVector(STRSXP, wanted->count));
	SEXP		flags = PROTECT(Rf_ScalarInteger((int) wanted->flags));
	SEXP		closure;

	for (uint32_t i = 0; i < wanted->count; i++)
		SET_STRING_ELT(names, i, text_string(wanted->names[i]));
	closure = PROTECT(call_runtime("compile", 4, name, source, names, flags));
	if (wanted->compiled != NULL)
	{
		R_ReleaseObject(wanted->compiled->closure);
		wanted->compiled->closure = closure;
		R_PreserveObject(closure);
		wanted->compiled->symbol = wanted->name.length > 0 ? Rf_installTrChar(STRING_ELT(name, 0))
			: Rf_install("inline_code_block");
		wanted->compiled->shape = row_shape(wanted->compiled->result);
		R_PreserveObject(wanted->compiled->shape);
	}
	UNPROTECT(5);
}

/* Compiles; the fields of an Error are left in `failure`, which stays empty where there is none. */
static void
compile_guarded(compilation *wanted, uint32_t call_id, plc_writer *failure)
{
	call		running = {.id = call_id, .below = state.call};

	plc_writer_init(&running.failure, resize_malloc);
	state.call = &running;
	if (!R_ToplevelExec(compile, wanted) && running.failure.length == 0)
	{
		plc_write_field(&running.failure, 'C', "38000", 5);
		write_clean_field(&running.failure, 'M', "could not compile an R function");
		plc_write_u8(&running.failure, 0);
	}
	state.call = running.below;
	*failure = running.failure;
}

static void
read_source(plc_reader *payload, compilation *wanted)
{
	wanted->flags = plc_read_u32(payload);
	if (payload->error == NULL && (wanted->flags & ~FLAGS_KNOWN) != 0)
		plc_reader_fail(payload, "unknown flags of a function");
	wanted->name = read_text(payload);
	wanted->source = read_text(payload);
	if (payload->error == NULL && wanted->source.length > PLC_MAX_SOURCE)
		plc_reader_fail(payload, "source of a function is too long");
}

static void
serve_register(plc_reader *payload)
{
	function   *registered = allocate(sizeof(function));
	plc_span	names[PLC_MAX_ARGUMENTS];
	compilation wanted = {.compiled = registered, .names = names};

	registered->id = plc_read_u32(payload);
	registered->references = 1;
	registered->closure = registered->shape = R_NilValue;
	read_source(payload, &wanted);
	registered->flags = wanted.flags;
	registered->count = wanted.count = plc_read_u32(payload);
	if (payload->error == NULL && wanted.count > PLC_MAX_ARGUMENTS)
		plc_reader_fail(payload, "function has too many arguments");
	if (payload->error != NULL)
		protocol_violation(payload->error);
	registered->types = allocate((wanted.count + 1) * sizeof(type *));
	for (uint32_t i = 0; i < wanted.count && payload->error == NULL; i++)
	{
		names[i] = read_text(payload);
		registered->types[i] = read_type(payload, allocate);
		if (registered->types[i]->kind == PLC_VOID)
			plc_reader_fail(payload, "argument of a type that has no values");
	}
	registered->result = read_type(payload, allocate);
	if (!plc_read_end(payload))
		protocol_violation(payload->error);
	if ((registered->flags & PLC_FUNCTION_TRIGGER) != 0 && (registered->result->kind != PLC_COMPOSITE || wanted.count != 10))
		protocol_violation("trigger function has other arguments than a trigger's");
	compile_guarded(&wanted, 0, &registered->failure);
	forget_function(registered->id);
	registered->next = state.functions[registered->id % BUCKETS];
	state.functions[registered->id % BUCKETS] = registered;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void
write_message(plc_writer *writer, const char *sqlstate, const char *message)
{
	plc_write_field(writer, 'C', sqlstate, 5);
	plc_write_field(writer, 'M', message, strlen(message));
	plc_write_u8(writer, 0);
}

static void
send_error(uint32_t call_id, const plc_writer *fields)
{
	plc_writer	writer;

	plc_writer_init(&writer, resize_malloc);
	plc_frame_begin(&writer, call_id, PLC_ERROR, 0);
	plc_write_bytes(&writer, fields->data, fields->length);
	plc_frame_end(&writer);
	send_written(&writer);
	free(writer.data);
}

static void
serve_check(uint32_t call_id, plc_reader *payload)
{
	compilation wanted = {0};
	plc_writer	failure;
	plc_writer	writer;

	read_source(payload, &wanted);
	if (!plc_read_end(payload))
		protocol_violation(payload->error);
	compile_guarded(&wanted, call_id, &failure);
	if (failure.length > 0)
		send_error(call_id, &failure);
	else
	{
		plc_writer_init(&writer, resize_malloc);
		plc_frame_begin(&writer, call_id, PLC_RESULT, 0);
		plc_write_u8(&writer, PLC_FORM_NULL);
		plc_frame_end(&writer);
		send_written(&writer);
		free(writer.data);
	}
	free(failure.data);
}

/* Sends an answer that is complete. It is still below invoke(): one that is too large is an error. */
static void
send_answer(call *running)
{
	plc_frame_end(&running->writer);
	if (running->writer.error != NULL || plc_frame_size(&running->writer) - PLC_HEADER_SIZE > state.limit)
		fail("54000", "result is larger than %llu bytes", (unsigned long long) state.limit);
	send_written(&running->writer);
}

/* --- sets ------------------------------------------------------------------------------------------ */

static set *
find_set(uint32_t call_id)
{
	set		   *found = state.sets;

	while (found != NULL && found->call_id != call_id)
		found = found->next;
	return found;
}

static void
drop_set(set *dropped)
{
	set		  **link = &state.sets;

	while (*link != dropped)
		link = &(*link)->next;
	*link = dropped->next;
	R_ReleaseObject(dropped->columns);
	R_ReleaseObject(dropped->more);
	release_function(dropped->function);
	free(dropped);
}

static void
set_columns(set *of, SEXP value)
{
	SEXP		columns = to_columns(of->function->shape, value, false, &of->rows);

	R_ReleaseObject(of->columns);
	of->columns = columns;
	R_PreserveObject(columns);
	of->row = 0;
}

/* A function that is returned gives more rows each time it is called, and NULL at the end. */
static void
begin_set(call *running, SEXP value)
{
	set		   *begun = allocate(sizeof(set));

	begun->call_id = running->id;
	begun->function = running->function;
	begun->function->references++;
	begun->columns = begun->more = R_NilValue;
	begun->next = state.sets;
	state.sets = running->set = begun;
	if (Rf_isFunction(value))
	{
		begun->more = value;
		R_PreserveObject(value);
	}
	else
		set_columns(begun, value);
}

/* Whether there is a row, after a look at what else the function has. */
static bool
has_row(set *of)
{
	while (of->row == of->rows && of->more != R_NilValue)
	{
		SEXP		expression = PROTECT(Rf_lang1(of->more));
		SEXP		value = PROTECT(Rf_eval(expression, R_GlobalEnv));

		if (value == R_NilValue)
		{
			R_ReleaseObject(of->more);
			of->more = R_NilValue;
		}
		else
			set_columns(of, value);
		UNPROTECT(2);
	}
	return of->row < of->rows;
}

static void
send_batch(call *running)
{
	set		   *of = running->set;
	plc_writer *writer = &running->writer;
	int64_t		begin = plc_spin_clock();
	uint32_t	rows = 0;
	bool		more;

	plc_frame_begin(writer, running->id, PLC_ROWS, 0);
	plc_write_u32(writer, 0);
	while ((more = has_row(of)) && rows < running->batch_rows &&
		   plc_frame_size(writer) - PLC_HEADER_SIZE < running->batch_bytes &&
		   (rows == 0 || plc_spin_clock() - begin < SET_MS * 1000))
	{
		encode_row(writer, of->function->result, of->columns, of->row);
		of->row++;
		rows++;
	}
	if (writer->error == NULL)
	{
		memcpy(writer->data + writer->frame + PLC_HEADER_SIZE, &rows, sizeof(rows));
		writer->data[writer->frame + 5] = more ? PLC_FLAG_MORE : 0;
	}
	send_answer(running);
	if (!more)
	{
		running->set = NULL;
		drop_set(of);
	}
}

/* --- triggers ---------------------------------------------------------------------------------------- */

static SEXP
trigger_argument(SEXP arguments, int at)
{
	return CAR(Rf_nthcdr(arguments, at));
}

/* list(columns that changed, counted from 1; their values), or NULL: the row is to be skipped. */
static void
write_trigger(plc_writer *writer, const function *called, SEXP arguments, SEXP value)
{
	SEXP		outcome = PROTECT(call_runtime("trigger_outcome", 7, value,
											   trigger_argument(arguments, 8), trigger_argument(arguments, 9),
											   trigger_argument(arguments, 6), trigger_argument(arguments, 4),
											   trigger_argument(arguments, 5), called->shape));
	SEXP		changed;

	if (outcome == R_NilValue)
	{
		plc_write_u8(writer, PLC_TRIGGER_SKIP);
		UNPROTECT(1);
		return;
	}
	changed = VECTOR_ELT(outcome, 0);
	plc_write_u8(writer, XLENGTH(changed) == 0 ? PLC_TRIGGER_UNCHANGED : PLC_TRIGGER_MODIFY);
	if (XLENGTH(changed) > 0)
		plc_write_u32(writer, (uint32_t) XLENGTH(changed));
	for (R_xlen_t i = 0; i < XLENGTH(changed); i++)
	{
		uint32_t	field = (uint32_t) INTEGER(changed)[i] - 1;

		plc_write_u32(writer, field);
		encode_cell(writer, called->result->fields[field], VECTOR_ELT(VECTOR_ELT(outcome, 1), i), 0);
	}
	UNPROTECT(1);
}

/* --- calls ---------------------------------------------------------------------------------------------- */

static SEXP
decode_arguments(const function *called, plc_reader *reader)
{
	uint32_t	count = plc_read_u32(reader);
	SEXP		arguments;
	SEXP		cell;

	if (reader->error == NULL && count != called->count)
		plc_reader_fail(reader, "call has another number of arguments than its function");
	if (reader->error != NULL)
		protocol_violation(reader->error);
	cell = arguments = PROTECT(Rf_allocList((int) count));
	for (uint32_t i = 0; i < count; i++, cell = CDR(cell))
		SETCAR(cell, decode_value(reader, called->types[i], true));
	if (!plc_read_end(reader))
		protocol_violation(reader->error);
	UNPROTECT(1);
	return arguments;
}

/* A trigger's arguments as PL/R has them: an oid, and no arguments are an empty vector. */
static void
adjust_trigger(SEXP arguments)
{
	SEXP		relid = Rf_nthcdr(arguments, 1);
	SEXP		given = Rf_nthcdr(arguments, 7);

	SETCAR(relid, Rf_coerceVector(CAR(relid), REALSXP));
	if (CAR(given) == R_NilValue)
		SETCAR(given, Rf_allocVector(STRSXP, 0));
}

static void
perform_call(call *running)
{
	const function *called = running->function;
	SEXP		arguments = PROTECT(decode_arguments(called, running->reader));
	SEXP		expression;
	SEXP		value;

	if ((called->flags & PLC_FUNCTION_TRIGGER) != 0)
		adjust_trigger(arguments);
	expression = PROTECT(Rf_lcons(called->symbol, arguments));
	/* Found by its name, so that this is what sys.call() and a traceback show. */
	Rf_defineVar(called->symbol, called->closure, state.entry);
	value = PROTECT(Rf_eval(expression, state.entry));
	if (!state.owned)
		_exit(0);
	running->value = value;
	if ((called->flags & PLC_FUNCTION_SET) != 0)
	{
		begin_set(running, value);
		send_batch(running);
	}
	else
	{
		plc_frame_begin(&running->writer, running->id, PLC_RESULT, 0);
		if ((called->flags & PLC_FUNCTION_TRIGGER) != 0)
			write_trigger(&running->writer, called, arguments, value);
		else
			encode_value(&running->writer, called->result, value);
		send_answer(running);
	}
	UNPROTECT(3);
}

/* What invoke() calls, below the handlers of conditions. */
SEXP
r_perform(SEXP unused)
{
	(void) unused;
	if (state.call->set != NULL)
		send_batch(state.call);
	else
		perform_call(state.call);
	return R_NilValue;
}

static void
invoke(void *data)
{
	(void) data;
	call_runtime("invoke", 0);
}

/* Errors that R lets no handler see: its stack is used up. */
static void
record_last_error(void *data)
{
	(void) data;
	call_runtime("record_last_error", 0);
}

/* The Error of a call that was left by a jump; it is still what `state` calls the running one. */
static void
answer_failure(call *running, bool canceled)
{
	if (canceled)
	{
		plc_writer_reset(&running->failure);
		write_message(&running->failure, "57014", CANCELED);
	}
	else if (running->failure.length == 0)
		R_ToplevelExec(record_last_error, NULL);
	if (running->failure.length == 0)
		write_message(&running->failure, "38000", "R function was left by a jump to top level");
	send_error(running->id, &running->failure);
}

/* Serves a call, or the next batch of a set. */
static void
run_call(call *running)
{
	int64_t		before = state.current;
	bool		canceled;
	bool		answered = false;

	running->below = state.call;
	running->writer = state.spare;
	state.spare.data = NULL;
	if (running->writer.data == NULL)
		plc_writer_init(&running->writer, resize_malloc);
	plc_writer_init(&running->failure, resize_malloc);
	running->function->references++;
	state.call = running;
	state.current = running->id;
	canceled = is_canceled();
	if (!canceled)
	{
		answered = R_ToplevelExec(invoke, NULL);
		canceled = is_canceled();
	}
	state.current = before;
	if (!state.owned)
		_exit(0);
	if (!answered)
	{
		if (running->set != NULL)
			drop_set(running->set);
		answer_failure(running, canceled);
	}
	state.call = running->below;
	recycle(&running->writer);
	free(running->failure.data);
	release_function(running->function);
}

static void
serve_call(uint32_t call_id, plc_reader *payload)
{
	function   *called = find_function(plc_read_u32(payload));
	call		running = {.id = call_id, .function = called, .reader = payload, .batch_rows = FIRST_ROWS,
		.batch_bytes = FIRST_BYTES};

	if (payload->error != NULL)
		protocol_violation(payload->error);
	if (called == NULL)
		protocol_violation("call of a function that is not registered");
	if (called->failure.length > 0)
		send_error(call_id, &called->failure);
	else
		run_call(&running);
}

static void
serve_credit(uint32_t call_id, plc_reader *payload)
{
	set		   *of = find_set(call_id);
	call		running = {.id = call_id, .set = of};

	running.batch_rows = plc_read_u32(payload);
	running.batch_bytes = plc_read_u32(payload);
	if (!plc_read_end(payload))
		protocol_violation(payload->error);
	if (running.batch_rows == 0)
	{
		if (of != NULL)
			drop_set(of);
		return;
	}
	if (of == NULL)
		protocol_violation("credit for a set that has ended");
	running.function = of->function;
	run_call(&running);
}

/* --- greeting ----------------------------------------------------------------------------------------------- */

static void
keep_keywords(void *data)
{
	plc_reader *payload = data;
	uint32_t	count = plc_read_u32(payload);
	SEXP		words;

	if ((size_t) (payload->end - payload->cursor) / sizeof(uint32_t) < count)
		protocol_violation("message ends within a list");
	words = PROTECT(Rf_allocVector(STRSXP, count));
	for (uint32_t i = 0; i < count; i++)
	{
		plc_span	word = read_text(payload);

		if (payload->error != NULL)
			protocol_violation(payload->error);
		SET_STRING_ELT(words, i, text_string(word));
	}
	Rf_defineVar(Rf_install("keywords"), words, state.runtime);
	UNPROTECT(1);
}

static void
write_greeting(plc_writer *writer, uint64_t features)
{
	char		software[32];

	snprintf(software, sizeof(software), "R %d.%d.%d", R_VERSION >> 16, (R_VERSION >> 8) & 255, R_VERSION & 255);
	plc_write_u32(writer, PLC_MAGIC);
	plc_write_u16(writer, PLC_VERSION);
	plc_write_u16(writer, 0);
	plc_write_u64(writer, features & PLC_FEATURES);
	plc_write_u64(writer, PLC_MAX_FRAME_DEFAULT);
	plc_write_str(writer, software, strlen(software));
	plc_write_str(writer, "c", 1);
}

static void
serve_ping(uint32_t call_id, plc_reader *payload)
{
	uint32_t	magic = plc_read_u32(payload);
	uint16_t	lowest = plc_read_u16(payload);
	uint16_t	highest = plc_read_u16(payload);
	uint64_t	features = plc_read_u64(payload);
	uint64_t	limit = plc_read_u64(payload);
	bool		common = lowest <= PLC_VERSION && highest >= PLC_VERSION;
	plc_writer	writer;

	read_text(payload);
	if (payload->error == NULL && (magic != PLC_MAGIC || lowest > highest))
		plc_reader_fail(payload, "malformed greeting");
	if (payload->error == NULL && common && limit < PLC_MAX_FRAME_HANDSHAKE)
		plc_reader_fail(payload, "max_frame is too small");
	if (payload->error != NULL)
		protocol_violation(payload->error);
	if (!R_ToplevelExec(keep_keywords, payload) || !plc_read_end(payload))
		protocol_violation(payload->error != NULL ? payload->error : "malformed greeting");
	plc_writer_init(&writer, resize_malloc);
	plc_frame_begin(&writer, call_id, common ? PLC_PING : PLC_ERROR, common ? PLC_FLAG_REPLY : 0);
	if (common)
	{
		state.greeted = true;
		state.limit = limit < PLC_MAX_FRAME_DEFAULT ? limit : PLC_MAX_FRAME_DEFAULT;
		/* Sixteen fields fit then. */
		state.field_limit = state.limit / 32 < FIELD_LIMIT ? (size_t) state.limit / 32 : FIELD_LIMIT;
		write_greeting(&writer, features);
	}
	else
		write_message(&writer, "08P01", "sandbox speaks versions 1 to 1 of the protocol");
	plc_frame_end(&writer);
	send_written(&writer);
	free(writer.data);
}

/* --- the loop -------------------------------------------------------------------------------------------------- */

/* Serves a frame that is not the answer to a request. */
void
dispatch(const plc_header *header, plc_reader *payload)
{
	if (header->flags != 0 || (header->type != PLC_PING && !state.greeted))
		protocol_violation("unexpected message");
	switch (header->type)
	{
		case PLC_CALLREQ:
			serve_call(header->call_id, payload);
			break;
		case PLC_CREDIT:
			serve_credit(header->call_id, payload);
			break;
		case PLC_REGISTER:
			serve_register(payload);
			break;
		case PLC_FORGET:
			forget_function(plc_read_u32(payload));
			if (!plc_read_end(payload))
				protocol_violation(payload->error);
			break;
		case PLC_CHECK:
			serve_check(header->call_id, payload);
			break;
		case PLC_PING:
			serve_ping(header->call_id, payload);
			break;
		default:
			protocol_violation("unexpected message");
	}
}

void
serve(void)
{
	plc_header	header;
	plc_reader	payload;

	while (read_frame(&header, &payload))
		dispatch(&header, &payload);
}
