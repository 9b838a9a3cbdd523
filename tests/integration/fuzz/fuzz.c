/*
 * fuzz.c
 *		SQL functions that feed the extension's decoders what no sandbox should send.
 *
 * Messages are generated from the declared type, so that most of them are nearly
 * right, and then damaged. What is accepted has to be a sound value: it is printed,
 * written again and read again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define REDZONE_IMPLEMENTATION
#include "redzone.h"

/* What became of the messages. */
typedef struct tally
{
	int64		accepted;
	int64		refused;		/* broke the protocol */
	int64		raised;			/* were well-formed, and no value of the type */
	int64		slowest_us;
	Size		growth;			/* of the backend's memory, over the second half */
} tally;

/* --- random bytes ------------------------------------------------------------- */

static uint64 random_state;

static void
seed_random(uint64 seed)
{
	random_state = seed * UINT64CONST(0x9E3779B97F4A7C15) + 1;
}

static uint64
random_bits(void)
{
	uint64		z = (random_state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* 0 <= result < limit */
static uint32
random_below(uint32 limit)
{
	return (uint32) (random_bits() >> 33) % limit;
}

static bool
one_in(uint32 n)
{
	return random_below(n) == 0;
}

static uint64
random_integer(void)
{
	static const int64 edges[] = {
		0, 1, -1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 32767, -32768, 65535, 65536, INT32_MAX,
		INT32_MIN, UINT32_MAX, (INT64CONST(1) << 28) - 1, INT64CONST(1) << 28, INT64_MAX, INT64_MIN
	};

	return one_in(2) ? random_bits() : (uint64) edges[random_below(lengthof(edges))];
}

static void *
resize_buffer(void *data, size_t size)
{
	return realloc(data, size);
}

/* --- messages that are nearly right --------------------------------------------- */

/* One in this many values of a message is not what was declared; 0: none is. */
static uint32 slips;

static bool
slip(void)
{
	return slips > 0 && one_in(slips);
}

static void
write_text(plc_writer *writer, const char *text)
{
	plc_write_str(writer, text, strlen(text));
}

static void
generate_junk(plc_writer *writer)
{
	static const char *const texts[] = {
		"", "0", "1", "-1", "42", "1.5", "-0.001", "12345.678", "99999999999999999999", "NaN", "Infinity", "1e20",
		"true", "f", "2024-02-29", "infinity", "12:34:56.789", "2024-02-29 12:34:56+02", "1 day 02:03", "{}", "{1,2}",
		"{NULL}", "{{1,2},{3,4}}", "[2:3]={1,2}", "{{1},{2,3}}", "{a,\"b c\"}", "(1,a)", "(,)", "(1,\"(2,b)\")", "()",
		"[1,5)", "empty", "red", "green", "null", "{\"a\": [1, null]}", "\\x00ff", "\\xz", "(1,2)", "127.0.0.1/8",
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "0101", "abc", "a longer text than any column here is wide",
		"\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x98", "\xc3", "\xff\xfe", "\xed\xa0\x80", " x ", "%s%n", "'\"\\"
	};

	if (one_in(16))
	{
		char		bytes[300];
		uint32		length = random_below(sizeof(bytes));

		for (uint32 i = 0; i < length; i++)
			bytes[i] = one_in(8) ? (char) random_bits() : (char) (' ' + random_below(95));
		plc_write_str(writer, bytes, length);
	}
	else
		write_text(writer, texts[random_below(lengthof(texts))]);
}

static void
generate_number(plc_writer *writer)
{
	static const char *const numbers[] = {"0", "1", "-1", "42", "1.5", "-0.001", "99.999", "NaN"};

	write_text(writer, numbers[random_below(lengthof(numbers))]);
}

/* A text that the type's input function takes, most likely. */
static void
generate_text(plc_writer *writer, const plc_type *type)
{
	if (slip())
	{
		generate_junk(writer);
		return;
	}
	switch (type->base)
	{
		case BOOLOID:
			write_text(writer, one_in(2) ? "true" : "f");
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
			write_text(writer, one_in(2) ? "12" : "3");
			break;
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			generate_number(writer);
			break;
		case BITOID:
			write_text(writer, "101");
			break;
		case DATEOID:
		case TIMESTAMPTZOID:
			write_text(writer, one_in(4) ? "infinity" : "2024-02-29 12:34:56+02");
			break;
		case INTERVALOID:
			write_text(writer, "1 day 02:03");
			break;
		case JSONOID:
		case JSONBOID:
			write_text(writer, "{\"a\": [1, null]}");
			break;
		case UUIDOID:
			write_text(writer, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
			break;
		case INETOID:
			write_text(writer, "127.0.0.1/8");
			break;
		case INT4RANGEOID:
			write_text(writer, one_in(2) ? "[1,5)" : "empty");
			break;
		case POINTOID:
			write_text(writer, "(1,2)");
			break;
		default:
			if (type->kind == PLC_ARRAY || type_is_array(type->base))
				write_text(writer, one_in(2) ? "{}" : "{1,2}");
			else if (type_is_enum(type->base))
				write_text(writer, one_in(2) ? "red" : "green");
			else
				write_text(writer, one_in(2) ? "abc" : "\xc3\xa9\xe2\x82\xac");
	}
}

static void
generate_fixed(plc_writer *writer, plc_kind kind)
{
	uint64		value = random_integer();

	if (kind == PLC_BOOL)
		value = slip() ? value : value & 1;
	plc_write_bytes(writer, &value, plc_kind_size(kind));
}

static void generate_value(plc_writer *writer, const plc_type *type);

static void
generate_array(plc_writer *writer, const plc_type *type)
{
	plc_kind	kind = type->element->kind;
	bool		is_text = !plc_kind_is_row(kind) && one_in(4);
	int			ndim = (int) random_below(one_in(8) ? PLC_MAX_DIMENSIONS + 1 : 3);
	int32		lengths[PLC_MAX_DIMENSIONS];
	int32		bounds[PLC_MAX_DIMENSIONS];
	bool		nulls[1024] = {false};	/* 3 to the power of 6 fits */
	bool		has_nulls = one_in(3);
	uint32		count = ndim > 0 ? 1 : 0;

	for (int i = 0; i < ndim; i++)
	{
		lengths[i] = 1 + (int32) random_below(3);
		bounds[i] = slip() ? (int32) random_integer() : (int32) random_below(5) - 1;
		count *= (uint32) lengths[i];
	}
	for (uint32 i = 0; i < count; i++)
		nulls[i] = has_nulls && one_in(3);
	plc_write_array(writer, kind, is_text ? PLC_ARRAY_TEXT_ELEMENTS : 0, ndim, lengths, bounds,
					has_nulls ? nulls : NULL);
	for (uint32 i = 0; i < count; i++)
	{
		if (plc_kind_size(kind) > 0 && !is_text)
			generate_fixed(writer, kind);
		else if (nulls[i])
			continue;
		else if (plc_kind_is_row(kind))
			generate_value(writer, type->element);
		else
			generate_text(writer, type->element);
	}
}

/* A form, and what it asks for. */
static void
generate_value(plc_writer *writer, const plc_type *type)
{
	if (slip())
		plc_write_u8(writer, (uint8) random_below(6));
	else if (one_in(12))
		plc_write_u8(writer, PLC_FORM_NULL);
	else if (one_in(type->kind == PLC_COMPOSITE ? 64 : 8) || type->kind == PLC_RECORD)
	{
		plc_write_u8(writer, PLC_FORM_TEXT);
		generate_text(writer, type);
	}
	else
	{
		plc_write_u8(writer, PLC_FORM_BINARY);
		if (type->kind == PLC_ARRAY)
			generate_array(writer, type);
		else if (type->kind == PLC_COMPOSITE)
			for (uint32 i = 0; i < type->nfields; i++)
				generate_value(writer, &type->fields[i]);
		else if (plc_kind_size(type->kind) > 0)
			generate_fixed(writer, type->kind);
		else
			generate_text(writer, type);
	}
}

static void
generate_fields(plc_writer *writer)
{
	static const char keys[] = "CMDHWstcdnqpx\xff";
	uint32		count = random_below(one_in(8) ? 24 : 6);

	for (uint32 i = 0; i < count; i++)
	{
		plc_write_u8(writer, (uint8) (i == 0 ? 'M' : keys[random_below(sizeof(keys) - 1)]));
		if (one_in(4))
			write_text(writer, "22P02");
		else
			generate_junk(writer);
	}
	plc_write_u8(writer, 0);
}

/* Damages two of three messages behind their header, at most three times each. */
static void
damage(plc_writer *writer)
{
	static const uint32 lengths[] = {0, 1, 2, 4, 8, 0x7fffffff, 0x80000000, 0xffffffff, 0x10000000};
	uint32		times = one_in(3) ? 0 : 1 + random_below(3);

	if (one_in(10))
	{
		writer->length = PLC_HEADER_SIZE;
		for (uint32 i = random_below(200); i > 0; i--)
			plc_write_u8(writer, one_in(2) ? (uint8) random_below(4) : (uint8) random_bits());
		return;
	}
	for (; times > 0; times--)
	{
		uint32		size = (uint32) (writer->length - PLC_HEADER_SIZE);
		uint8	   *payload = writer->data + PLC_HEADER_SIZE;
		uint32		at;

		if (size == 0)
			return;
		at = random_below(size);
		switch (random_below(6))
		{
			case 0:
				payload[at] ^= (uint8) (1 << random_below(8));
				break;
			case 1:
				payload[at] = (uint8) random_integer();
				break;
			case 2:
				writer->length = PLC_HEADER_SIZE + at;
				break;
			case 3:
				if (size - at >= sizeof(uint32))
					memcpy(payload + at, &lengths[random_below(lengthof(lengths))], sizeof(uint32));
				break;
			case 4:
				/* A piece is left out. */
				memmove(payload + at, payload + at + (size - at) / 2, size - at - (size - at) / 2);
				writer->length -= (size - at) / 2;
				break;
			default:
				{
					/* A piece comes twice. */
					uint32		piece = random_below(Min(size - at, 64)) + 1;
					uint8		copy[64];

					memcpy(copy, payload + at, piece);
					plc_write_bytes(writer, copy, piece);
				}
		}
	}
}

/* --- rounds ------------------------------------------------------------------------ */

static void
begin_message(plc_writer *writer)
{
	plc_writer_reset(writer);
	plc_frame_begin(writer, 1, PLC_RESULT, 0);
}

/* What is accepted prints, and is the same after it was written and read again. */
static void
check_value(plc_type *from, plc_type *to, Datum value)
{
	static plc_writer writer;
	Oid			output;
	bool		is_varlena;
	char	   *text;
	char	   *again;
	plc_reader	reader;
	bool		is_null;

	getTypeOutputInfo(from->oid, &output, &is_varlena);
	text = OidOutputFunctionCall(output, value);
	if (writer.resize == NULL)
		plc_writer_init(&writer, resize_buffer);
	begin_message(&writer);
	plc_type_write(&writer, to, value, false);
	if (writer.nsplices > 0)
		return;
	plc_reader_init(&reader, writer.data + PLC_HEADER_SIZE, writer.length - PLC_HEADER_SIZE);
	value = plc_type_read(&reader, from, &is_null);
	if (!plc_read_end(&reader))
		elog(PANIC, "what was written can't be read: %s", reader.error);
	again = OidOutputFunctionCall(output, value);
	if (strcmp(text, again) != 0)
		elog(PANIC, "\"%s\" became \"%s\"", text, again);
}

/* Returns whether the message kept the protocol. */
static bool
decode_value(const uint8 *payload, size_t length, plc_type *from, plc_type *to)
{
	plc_reader	reader;
	bool		is_null;
	Datum		value;

	plc_reader_init(&reader, payload, length);
	value = plc_type_read(&reader, from, &is_null);
	if (!plc_read_end(&reader))
		return false;
	if (!is_null && from->kind != PLC_RECORD)
		check_value(from, to, value);
	return true;
}

static bool
decode_fields(const uint8 *payload, size_t length)
{
	plc_reader	reader;
	plc_fields	fields;

	plc_reader_init(&reader, payload, length);
	plc_read_fields(&reader, &fields);
	if (!plc_read_end(&reader))
		return false;
	for (int i = 0; i < fields.count; i++)
		(void) plc_text_to_server(fields.items[i].value);
	return true;
}

/*
 * Decodes one message, which lies in memory of exactly its size. An error ends the
 * subtransaction that is open and opens another.
 */
static void
run_round(const plc_writer *message, plc_type *from, plc_type *to, MemoryContext context,
		  ResourceOwner owner, tally *counts)
{
	size_t		length = message->length - PLC_HEADER_SIZE;
	uint8	   *payload = malloc(Max(length, 1));
	MemoryContext caller = MemoryContextSwitchTo(context);

	memcpy(payload, message->data + PLC_HEADER_SIZE, length);
	fuzz_fence();
	PG_TRY();
	{
		if (from == NULL ? decode_fields(payload, length) : decode_value(payload, length, from, to))
			counts->accepted++;
		else
			counts->refused++;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		fuzz_release();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* A bug, or someone wants us to stop. */
		if (error->sqlerrcode == ERRCODE_INTERNAL_ERROR || error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		BeginInternalSubTransaction(NULL);
		counts->raised++;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	fuzz_release();
	MemoryContextReset(context);
	free(payload);
}

static void
run(plc_type *from, plc_type *to, uint64 seed, int64 rounds, tally *counts)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext context = AllocSetContextCreate(caller, "fuzz", ALLOCSET_DEFAULT_SIZES);
	plc_writer	message;
	Size		before = 0;

	plc_writer_init(&message, resize_buffer);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	for (int64 i = 0; i < rounds; i++)
	{
		instr_time	start;
		instr_time	end;

		CHECK_FOR_INTERRUPTS();
		if (i == rounds / 2)
			before = MemoryContextMemAllocated(TopMemoryContext, true);
		seed_random(seed + (uint64) i);
		slips = one_in(2) ? 0 : 4 + random_below(60);
		begin_message(&message);
		if (from != NULL)
			generate_value(&message, from);
		else
			generate_fields(&message);
		damage(&message);
		INSTR_TIME_SET_CURRENT(start);
		run_round(&message, from, to, context, owner, counts);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		counts->slowest_us = Max(counts->slowest_us, (int64) INSTR_TIME_GET_MICROSEC(end));
	}
	counts->growth = MemoryContextMemAllocated(TopMemoryContext, true) - before;
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	MemoryContextDelete(context);
	free(message.data);
}

static Datum
tally_row(FunctionCallInfo fcinfo, const tally *counts)
{
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "result is no row");
	values[0] = Int64GetDatum(counts->accepted);
	values[1] = Int64GetDatum(counts->refused);
	values[2] = Int64GetDatum(counts->raised);
	values[3] = Int64GetDatum(counts->slowest_us);
	values[4] = Int64GetDatum((int64) counts->growth);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(fuzz_values);
PG_FUNCTION_INFO_V1(fuzz_fields);
PG_FUNCTION_INFO_V1(fuzz_write);
PG_FUNCTION_INFO_V1(fuzz_describe);
PG_FUNCTION_INFO_V1(fuzz_read);

/* fuzz_values(type regtype, seed bigint, rounds bigint): messages to the decoder of values. */
Datum
fuzz_values(PG_FUNCTION_ARGS)
{
	plc_type	from;
	plc_type	to;
	tally		counts = {0};

	plc_type_init(&from, PG_GETARG_OID(0), -1, true, CurrentMemoryContext);
	plc_type_init(&to, PG_GETARG_OID(0), -1, false, CurrentMemoryContext);
	run(&from, &to, (uint64) PG_GETARG_INT64(1), PG_GETARG_INT64(2), &counts);
	return tally_row(fcinfo, &counts);
}

/* fuzz_fields(seed bigint, rounds bigint): messages to the decoder of errors. */
Datum
fuzz_fields(PG_FUNCTION_ARGS)
{
	tally		counts = {0};

	run(NULL, NULL, (uint64) PG_GETARG_INT64(0), PG_GETARG_INT64(1), &counts);
	return tally_row(fcinfo, &counts);
}

/* The payload, with what was not copied into it yet. */
static bytea *
written(const plc_writer *writer)
{
	size_t		length = plc_frame_size(writer) - PLC_HEADER_SIZE;
	bytea	   *result = palloc(VARHDRSZ + length);
	char	   *target = VARDATA(result);
	size_t		done = PLC_HEADER_SIZE;

	SET_VARSIZE(result, VARHDRSZ + length);
	for (int i = 0; i < writer->nsplices; i++)
	{
		const plc_splice *splice = &writer->splices[i];

		target = mempcpy(target, writer->data + done, splice->at - done);
		target = mempcpy(target, splice->data, splice->length);
		done = splice->at;
	}
	memcpy(target, writer->data + done, writer->length - done);
	return result;
}

/* fuzz_write(value "any") returns bytea: the value as a sandbox gets it. */
Datum
fuzz_write(PG_FUNCTION_ARGS)
{
	plc_writer	writer;
	plc_type	type;

	plc_type_init(&type, get_fn_expr_argtype(fcinfo->flinfo, 0), -1, false, CurrentMemoryContext);
	plc_writer_init(&writer, plc_resize_memory);
	begin_message(&writer);
	plc_type_write(&writer, &type, PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0));
	PG_RETURN_BYTEA_P(written(&writer));
}

/* fuzz_describe(type regtype) returns bytea: the type descriptor. */
Datum
fuzz_describe(PG_FUNCTION_ARGS)
{
	plc_writer	writer;
	plc_type	type;

	plc_type_init(&type, PG_GETARG_OID(0), -1, false, CurrentMemoryContext);
	plc_writer_init(&writer, plc_resize_memory);
	begin_message(&writer);
	plc_type_describe(&writer, &type);
	PG_RETURN_BYTEA_P(written(&writer));
}

/* fuzz_read(message bytea, sample anyelement) returns anyelement: what a sandbox's message says. */
Datum
fuzz_read(PG_FUNCTION_ARGS)
{
	bytea	   *message = PG_GETARG_BYTEA_PP(0);
	plc_type	type;
	plc_reader	reader;
	Datum		value;

	plc_type_init(&type, get_fn_expr_rettype(fcinfo->flinfo), -1, true, CurrentMemoryContext);
	plc_reader_init(&reader, VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message));
	value = plc_type_read(&reader, &type, &fcinfo->isnull);
	if (!plc_read_end(&reader))
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("%s", reader.error)));
	return value;
}
