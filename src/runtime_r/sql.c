/*
 * sql.c
 *		SQL and subtransactions: what the functions of pg.R ask the backend for.
 *
 * Each of these runs in a .Call of its own, whose memory R takes back whichever way it ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct plan
{
	uint32_t	id;
	uint32_t	count;			/* parameters */
	type	  **types;
} plan;

/* Plans that R no longer knows; the backend hears of them with the next request. */
static struct
{
	uint32_t   *plans;
	uint32_t	count;
	uint32_t	capacity;
} discarded;

/* --- requests ----------------------------------------------------------------------------- */

static void
send_discards(void)
{
	plc_writer	writer;

	if (discarded.count == 0)
		return;
	plc_writer_init(&writer, resize_transient);
	plc_frame_begin(&writer, state.call->id, PLC_SQL, 0);
	plc_write_u8(&writer, PLC_SQL_DISCARD);
	plc_write_u32(&writer, discarded.count);
	plc_write_bytes(&writer, discarded.plans, discarded.count * sizeof(uint32_t));
	plc_write_u32(&writer, 0);
	plc_frame_end(&writer);
	discarded.count = 0;
	send_written(&writer);
}

static void
begin_request(plc_writer *writer, plc_message kind, uint8_t verb)
{
	if (!state.owned || state.call == NULL)
		fail("55000", "the database can be asked during a call, and by the process that was called only");
	plc_writer_init(writer, resize_transient);
	plc_frame_begin(writer, state.call->id, kind, 0);
	plc_write_u8(writer, verb);
}

/* Raises what the backend says as a condition that tryCatch() can catch. */
static void
raise_answer(plc_reader *answer)
{
	plc_fields	fields;
	SEXP		keys;
	SEXP		texts;

	plc_read_fields(answer, &fields);
	if (!plc_read_end(answer))
		protocol_violation(answer->error);
	keys = PROTECT(Rf_allocVector(STRSXP, fields.count));
	texts = PROTECT(Rf_allocVector(STRSXP, fields.count));
	for (int i = 0; i < fields.count; i++)
	{
		SET_STRING_ELT(keys, i, Rf_mkCharLen(&fields.items[i].key, 1));
		SET_STRING_ELT(texts, i, text_string(fields.items[i].value));
	}
	call_runtime("raise_spi_error", 2, keys, texts);
	UNPROTECT(2);
}

/* The next frame of the answer. Calls of this very sandbox may come before it. */
static void
read_answer(plc_message kind, plc_header *header, plc_reader *answer)
{
	uint32_t	id = state.call->id;

	for (;;)
	{
		if (!read_frame(header, answer))
			_exit(0);
		if ((header->flags & PLC_FLAG_REPLY) == 0)
		{
			dispatch(header, answer);
			continue;
		}
		if (header->call_id != id || (header->type != kind && header->type != PLC_ERROR) ||
			((header->flags & PLC_FLAG_MORE) != 0 && kind != PLC_SQL))
			protocol_violation("answer to another request");
		if (header->type == PLC_ERROR)
			raise_answer(answer);
		return;
	}
}

static void
request(plc_writer *writer, plc_message kind, plc_header *header, plc_reader *answer)
{
	plc_frame_end(writer);
	if (plc_frame_size(writer) - PLC_HEADER_SIZE > state.limit)
		fail("54000", "request is larger than %llu bytes", (unsigned long long) state.limit);
	send_discards();
	send_written(writer);
	read_answer(kind, header, answer);
}

static void
end_answer(plc_reader *answer)
{
	if (!plc_read_end(answer))
		protocol_violation(answer->error);
}

static void
write_string(plc_writer *writer, SEXP string)
{
	const char *text = utf8_of(STRING_ELT(string, 0));

	plc_write_str(writer, text, strlen(text));
}

/* --- rows ------------------------------------------------------------------------------------ */

static void *
allocate_transient(size_t size)
{
	return R_alloc(size, 1);
}

/* The description of rows as the type of one; NULL for a statement that returns none. */
static type *
read_description(plc_reader *answer)
{
	plc_span	span = plc_read_str(answer);
	plc_reader	reader;
	type	   *row_type;

	if (answer->error != NULL)
		protocol_violation(answer->error);
	if (span.length == 0)
		return NULL;
	plc_reader_init(&reader, span.data, span.length);
	row_type = allocate_transient(sizeof(type));
	memset(row_type, 0, sizeof(*row_type));
	row_type->kind = PLC_COMPOSITE;
	row_type->nfields = plc_read_u32(&reader);
	if (reader.error == NULL && row_type->nfields > PLC_MAX_COLUMNS)
		plc_reader_fail(&reader, "result has too many columns");
	if (reader.error != NULL)
		protocol_violation(reader.error);
	row_type->names = allocate_transient((row_type->nfields + 1) * sizeof(char *));
	row_type->fields = allocate_transient((row_type->nfields + 1) * sizeof(type *));
	for (uint32_t i = 0; i < row_type->nfields; i++)
	{
		plc_span	name = read_text(&reader);

		if (reader.error != NULL)
			protocol_violation(reader.error);
		row_type->names[i] = allocate_transient((size_t) name.length + 1);
		memcpy(row_type->names[i], name.data, name.length);
		row_type->names[i][name.length] = '\0';
		row_type->fields[i] = read_type(&reader, allocate_transient);
		plc_read_u32(&reader);
		plc_read_i32(&reader);
		if (reader.error == NULL && row_type->fields[i]->kind == PLC_VOID)
			row_type->fields[i]->kind = PLC_TEXT;	/* has NULLs only */
	}
	if (!plc_read_end(&reader))
		protocol_violation(reader.error);
	return row_type;
}

/* Reads the rows of one frame behind those that are there; returns how many there are then. */
static R_xlen_t
read_rows(plc_reader *answer, const type *row_type, SEXP columns, R_xlen_t rows)
{
	uint32_t	count = plc_read_u32(answer);

	if (answer->error != NULL)
		protocol_violation(answer->error);
	if (row_type == NULL)
	{
		if (count > 0)
			protocol_violation("rows without a description");
		return rows;
	}
	if (row_type->nfields > 0 && (size_t) (answer->end - answer->cursor) / row_type->nfields < count)
		protocol_violation("message ends within a row");
	if (rows + count > INT32_MAX)
		fail("54000", "result has more than %d rows", INT32_MAX);
	if (row_type->nfields > 0 && XLENGTH(VECTOR_ELT(columns, 0)) < rows + count)
		grow_columns(columns, rows == 0 ? count : 2 * (rows + count));
	for (uint32_t i = 0; i < count; i++)
		decode_row(answer, row_type, columns, rows + i);
	return rows + count;
}

/* Says why SPI ran nothing. The names of its codes, from -1 downwards, are those of PostgreSQL's spi.h. */
static void
fail_with_status(int32_t status)
{
	static const char *const names[] = {
		"CONNECT", "COPY", "OPUNKNOWN", "UNCONNECTED", "CURSOR", "ARGUMENT", "PARAM", "TRANSACTION", "NOATTRIBUTE",
		"NOOUTFUNC", "TYPUNKNOWN", "REL_DUPLICATE", "REL_NOT_FOUND"
	};
	int32_t		known = (int32_t) (sizeof(names) / sizeof(names[0]));

	if (status >= -known)
		fail("38000", "SPI_execute failed: SPI_ERROR_%s", names[-(status + 1)]);
	fail("38000", "SPI_execute failed: code %d", status);
}

/* list(status, rows processed, data frame or NULL). */
static SEXP
read_result(plc_header *header, plc_reader *answer)
{
	int32_t		status = plc_read_i32(answer);
	SEXP		result = PROTECT(Rf_allocVector(VECSXP, 3));
	SEXP		columns = R_NilValue;
	type	   *row_type;
	R_xlen_t	rows;

	SET_VECTOR_ELT(result, 0, Rf_ScalarInteger(status));
	SET_VECTOR_ELT(result, 1, Rf_ScalarReal((double) plc_read_u64(answer)));
	row_type = read_description(answer);
	if (row_type != NULL)
		columns = new_columns(row_type, 0);
	SET_VECTOR_ELT(result, 2, columns);
	rows = read_rows(answer, row_type, columns, 0);
	end_answer(answer);
	while ((header->flags & PLC_FLAG_MORE) != 0)
	{
		read_answer(PLC_SQL, header, answer);
		rows = read_rows(answer, row_type, columns, rows);
		end_answer(answer);
	}
	if (row_type != NULL)
	{
		grow_columns(columns, rows);
		make_frame(row_type, columns, rows);
	}
	if (status < 0)
		fail_with_status(status);
	UNPROTECT(1);
	return result;
}

/* --- plans ------------------------------------------------------------------------------------- */

static void
free_plan(plan *dropped)
{
	for (uint32_t i = 0; i < dropped->count; i++)
		free_type(dropped->types[i]);
	free(dropped->types);
	free(dropped);
}

static void
discard_plan(SEXP pointer)
{
	plan	   *dropped = R_ExternalPtrAddr(pointer);

	if (dropped == NULL)
		return;
	R_ClearExternalPtr(pointer);
	if (discarded.count == discarded.capacity)
	{
		uint32_t	capacity = discarded.capacity == 0 ? 16 : 2 * discarded.capacity;
		uint32_t   *plans = realloc(discarded.plans, capacity * sizeof(uint32_t));

		if (plans != NULL)
		{
			discarded.plans = plans;
			discarded.capacity = capacity;
		}
	}
	if (discarded.count < discarded.capacity)
		discarded.plans[discarded.count++] = dropped->id;
	free_plan(dropped);
}

static plan *
get_plan(SEXP pointer)
{
	plan	   *found = TYPEOF(pointer) == EXTPTRSXP ? R_ExternalPtrAddr(pointer) : NULL;

	if (found == NULL)
		fail("26000", "this is no prepared plan");
	return found;
}

/* For what lives as long as a plan; it is not left half made, as no error of R's comes between. */
static void *
allocate_kept(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
		_exit(1);
	return memory;
}

SEXP
r_prepare(SEXP query, SEXP types)
{
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;
	SEXP		pointer;
	plan	   *made;

	begin_request(&writer, PLC_SQL, PLC_SQL_PREPARE);
	write_string(&writer, query);
	plc_write_u32(&writer, (uint32_t) XLENGTH(types));
	for (R_xlen_t i = 0; i < XLENGTH(types); i++)
	{
		const char *name = utf8_of(STRING_ELT(types, i));

		plc_write_str(&writer, name, strlen(name));
	}
	pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
	R_RegisterCFinalizer(pointer, discard_plan);
	request(&writer, PLC_SQL, &header, &answer);
	made = allocate_kept(sizeof(plan));
	made->id = plc_read_u32(&answer);
	made->count = plc_read_u32(&answer);
	if (answer.error == NULL && (size_t) (answer.end - answer.cursor) < made->count)
		plc_reader_fail(&answer, "message ends within a list");
	if (answer.error != NULL)
		protocol_violation(answer.error);
	made->types = allocate_kept((made->count + 1) * sizeof(type *));
	for (uint32_t i = 0; i < made->count && answer.error == NULL; i++)
		made->types[i] = read_type(&answer, allocate_kept);
	end_answer(&answer);
	R_SetExternalPtrAddr(pointer, made);
	UNPROTECT(1);
	return pointer;
}

static void
write_parameters(plc_writer *writer, const plan *of, SEXP values)
{
	if (TYPEOF(values) != VECSXP || XLENGTH(values) != of->count)
		fail("22023", "list of arguments (%lld) is not the same length as that of the prepared plan (%u)",
			 (long long) XLENGTH(values), of->count);
	plc_write_u32(writer, of->count);
	for (uint32_t i = 0; i < of->count; i++)
		encode_value(writer, of->types[i], VECTOR_ELT(values, i));
}

static void
write_limit(plc_writer *writer, SEXP limit)
{
	double		number = Rf_asReal(limit);

	plc_write_u64(writer, number > 0 ? (uint64_t) number : 0);
}

SEXP
r_execute(SEXP query, SEXP limit)
{
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;

	begin_request(&writer, PLC_SQL, PLC_SQL_EXECUTE);
	write_string(&writer, query);
	write_limit(&writer, limit);
	request(&writer, PLC_SQL, &header, &answer);
	return read_result(&header, &answer);
}

SEXP
r_execute_plan(SEXP pointer, SEXP values, SEXP limit)
{
	plan	   *executed = get_plan(pointer);
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;

	begin_request(&writer, PLC_SQL, PLC_SQL_EXECUTE_PLAN);
	plc_write_u32(&writer, executed->id);
	write_limit(&writer, limit);
	write_parameters(&writer, executed, values);
	request(&writer, PLC_SQL, &header, &answer);
	return read_result(&header, &answer);
}

/* --- cursors -------------------------------------------------------------------------------------- */

static SEXP
read_cursor(plc_reader *answer)
{
	plc_span	name = read_text(answer);

	end_answer(answer);
	return Rf_ScalarString(text_string(name));
}

SEXP
r_open(SEXP query)
{
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;

	begin_request(&writer, PLC_SQL, PLC_SQL_OPEN);
	write_string(&writer, query);
	request(&writer, PLC_SQL, &header, &answer);
	return read_cursor(&answer);
}

SEXP
r_open_plan(SEXP pointer, SEXP values)
{
	plan	   *opened = get_plan(pointer);
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;

	begin_request(&writer, PLC_SQL, PLC_SQL_OPEN_PLAN);
	plc_write_u32(&writer, opened->id);
	write_parameters(&writer, opened, values);
	request(&writer, PLC_SQL, &header, &answer);
	return read_cursor(&answer);
}

SEXP
r_fetch(SEXP cursor, SEXP rows)
{
	plc_writer	writer;
	plc_header	header;
	plc_reader	answer;

	begin_request(&writer, PLC_SQL, PLC_SQL_FETCH);
	write_string(&writer, cursor);
	write_limit(&writer, rows);
	request(&writer, PLC_SQL, &header, &answer);
	return read_result(&header, &answer);
}

static void
request_nothing(plc_writer *writer, plc_message kind)
{
	plc_header	header;
	plc_reader	answer;

	request(writer, kind, &header, &answer);
	end_answer(&answer);
}

SEXP
r_close(SEXP cursor)
{
	plc_writer	writer;

	begin_request(&writer, PLC_SQL, PLC_SQL_CLOSE);
	write_string(&writer, cursor);
	request_nothing(&writer, PLC_SQL);
	return R_NilValue;
}

/* --- transactions ------------------------------------------------------------------------------------ */

SEXP
r_end_transaction(SEXP verb)
{
	plc_writer	writer;

	begin_request(&writer, PLC_SQL, (uint8_t) Rf_asInteger(verb));
	request_nothing(&writer, PLC_SQL);
	return R_NilValue;
}

/* A call that ends has its subtransactions rolled back by the backend; what still runs then is to be quick. */
SEXP
r_subtransaction(SEXP verb)
{
	plc_writer	writer;

	if (is_canceled())
		return R_NilValue;
	begin_request(&writer, PLC_SUBTRANSACTION, (uint8_t) Rf_asInteger(verb));
	request_nothing(&writer, PLC_SUBTRANSACTION);
	return R_NilValue;
}
