/*
 * typeio.c
 *		Values of PostgreSQL to values of the protocol, and back.
 *
 * Fixed-size types and arrays of them cross as they lie in memory. What has no
 * binary form here crosses as text through the type's own functions. Nothing
 * that a sandbox sends is believed: a value is checked against the declared
 * type before it becomes a Datum.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

static plc_kind
scalar_kind(Oid oid)
{
	switch (oid)
	{
		case VOIDOID:
			return PLC_VOID;
		case BOOLOID:
			return PLC_BOOL;
		case INT2OID:
			return PLC_INT2;
		case INT4OID:
			return PLC_INT4;
		case INT8OID:
			return PLC_INT8;
		case FLOAT4OID:
			return PLC_FLOAT4;
		case FLOAT8OID:
			return PLC_FLOAT8;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return PLC_TEXT;
		case BYTEAOID:
			return PLC_BYTEA;
		case NUMERICOID:
			return PLC_NUMERIC;
		default:
			return PLC_OTHER;
	}
}

static void
output_function(Oid type, FmgrInfo *function, MemoryContext context)
{
	Oid			oid;
	bool		is_varlena;

	getTypeOutputInfo(type, &oid, &is_varlena);
	fmgr_info_cxt(oid, function, context);
}

static void
input_function(Oid type, FmgrInfo *function, Oid *param, MemoryContext context)
{
	Oid			oid;

	getTypeInputInfo(type, &oid, param);
	fmgr_info_cxt(oid, function, context);
}

/* Fills `type` in for a declared type. Its memory comes from `context`. */
void
plc_type_init(plc_type *type, Oid oid, bool is_result, MemoryContext context)
{
	int32		typmod = -1;
	Oid			base = getBaseTypeAndTypmod(oid, &typmod);

	memset(type, 0, sizeof(*type));
	type->context = context;
	type->oid = oid;
	type->is_domain = base != oid;
	/* A domain's length or precision is applied by its input function alone. */
	type->kind = is_result && typmod != -1 ? PLC_OTHER : scalar_kind(base);
	type->element_oid = get_element_type(base);
	if (OidIsValid(type->element_oid))
	{
		type->kind = PLC_ARRAY;
		type->element_kind = scalar_kind(type->element_oid);
		get_typlenbyvalalign(type->element_oid, &type->element_length,
							 &type->element_by_value, &type->element_align);
		output_function(type->element_oid, &type->output, context);
		if (is_result)
			input_function(type->element_oid, &type->element_input,
						   &type->element_input_param, context);
	}
	else if (type->kind != PLC_VOID)
		output_function(base, &type->output, context);
	if (is_result && type->kind != PLC_VOID)
		input_function(oid, &type->input, &type->input_param, context);
	type->name = MemoryContextStrdup(context,
									 format_type_be(OidIsValid(type->element_oid) ? type->element_oid : base));
}

/* Text of the database's encoding as a `str`. */
void
plc_write_server_text(plc_writer *writer, const char *text, size_t length)
{
	char	   *utf8 = pg_server_to_any(text, (int) length, PG_UTF8);

	plc_write_str(writer, utf8, utf8 == text ? length : strlen(utf8));
	if (utf8 != text)
		pfree(utf8);
}

static void
describe_kind(plc_writer *writer, plc_kind kind, const char *name)
{
	plc_write_u8(writer, (uint8) kind);
	if (kind == PLC_OTHER)
		plc_write_server_text(writer, name, strlen(name));
}

/* Writes the type descriptor of a registration. */
void
plc_type_describe(plc_writer *writer, const plc_type *type)
{
	if (type->kind == PLC_ARRAY)
	{
		plc_write_u8(writer, PLC_ARRAY);
		describe_kind(writer, type->element_kind, type->name);
	}
	else
		describe_kind(writer, type->kind, type->name);
}

static void
write_text_form(plc_writer *writer, FmgrInfo *output, Datum value)
{
	char	   *text = OutputFunctionCall(output, value);

	plc_write_server_text(writer, text, strlen(text));
	pfree(text);
}

static void
write_varlena(plc_writer *writer, Datum value, bool is_text)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);
	bool		is_spliced = false;

	if (is_text && GetDatabaseEncoding() != PG_UTF8)
		plc_write_server_text(writer, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	else
	{
		plc_write_u32(writer, VARSIZE_ANY_EXHDR(bytes));
		is_spliced = plc_write_spliced(writer, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	}
	if (!is_spliced && (Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
}

/*
 * Elements of a fixed-size kind, the slots of NULLs zero. Returns whether they stay in
 * the array until the frame is sent.
 */
static bool
write_fixed_elements(plc_writer *writer, const plc_type *type, ArrayType *array, const bool *nulls,
					 int count)
{
	size_t		size = plc_kind_size(type->element_kind);
	const char *source = ARR_DATA_PTR(array);
	uint8	   *target;

	/* bool has one byte in both, the others are aligned to their own size: no gaps. */
	if (nulls == NULL)
		return plc_write_spliced(writer, source, size * count);
	target = plc_put(writer, size * count);
	for (int i = 0; i < count; i++, target += size)
	{
		if (nulls[i])
			memset(target, 0, size);
		else
		{
			memcpy(target, source, size);
			source += size;
		}
	}
	return false;
}

static void
write_string_elements(plc_writer *writer, plc_type *type, ArrayType *array, const bool *nulls,
					  int count)
{
	const char *p = ARR_DATA_PTR(array);

	for (int i = 0; i < count; i++)
	{
		Datum		element;

		if (nulls != NULL && nulls[i])
			continue;
		p = (const char *) att_align_pointer(p, type->element_align, type->element_length, p);
		element = fetch_att(p, type->element_by_value, type->element_length);
		if (type->element_kind == PLC_TEXT || type->element_kind == PLC_BYTEA)
			write_varlena(writer, element, type->element_kind == PLC_TEXT);
		else
			write_text_form(writer, &type->output, element);
		p = att_addlength_pointer(p, type->element_length, p);
	}
}

static void
write_array(plc_writer *writer, plc_type *type, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	int			ndim = ARR_NDIM(array);
	int			count = ArrayGetNItems(ndim, ARR_DIMS(array));
	bool	   *nulls = NULL;
	bool		is_spliced = false;

	if (ARR_HASNULL(array) && count > 0)
	{
		const bits8 *bitmap = ARR_NULLBITMAP(array);

		nulls = palloc(count * sizeof(bool));
		for (int i = 0; i < count; i++)
			nulls[i] = (bitmap[i / 8] & (1 << (i % 8))) == 0;
	}
	plc_write_array(writer, type->element_kind, 0, ndim, (const int32_t *) ARR_DIMS(array),
					(const int32_t *) ARR_LBOUND(array), nulls);
	if (count > 0)
	{
		if (plc_kind_size(type->element_kind) > 0)
			is_spliced = write_fixed_elements(writer, type, array, nulls, count);
		else
			write_string_elements(writer, type, array, nulls, count);
	}
	if (nulls != NULL)
		pfree(nulls);
	if (!is_spliced && (Pointer) array != DatumGetPointer(value))
		pfree(array);
}

/*
 * Writes one argument. What is large stays where it is, in the current memory context,
 * until the frame was sent.
 */
void
plc_type_write(plc_writer *writer, plc_type *type, Datum value, bool is_null)
{
	if (is_null || type->kind == PLC_VOID)
	{
		plc_write_u8(writer, PLC_FORM_NULL);
		return;
	}
	plc_write_u8(writer, PLC_FORM_BINARY);
	switch (type->kind)
	{
		case PLC_BOOL:
			plc_write_u8(writer, DatumGetBool(value) ? 1 : 0);
			break;
		case PLC_INT2:
			plc_write_i16(writer, DatumGetInt16(value));
			break;
		case PLC_INT4:
			plc_write_i32(writer, DatumGetInt32(value));
			break;
		case PLC_INT8:
			plc_write_i64(writer, DatumGetInt64(value));
			break;
		case PLC_FLOAT4:
			plc_write_f32(writer, DatumGetFloat4(value));
			break;
		case PLC_FLOAT8:
			plc_write_f64(writer, DatumGetFloat8(value));
			break;
		case PLC_TEXT:
			write_varlena(writer, value, true);
			break;
		case PLC_BYTEA:
			write_varlena(writer, value, false);
			break;
		case PLC_ARRAY:
			write_array(writer, type, value);
			break;
		default:
			write_text_form(writer, &type->output, value);
			break;
	}
}

/* A `str` of the sandbox in the database's encoding, NUL-terminated. */
static char *
span_to_cstring(plc_span span)
{
	char	   *text = plc_text_to_server(span);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("function returned text with a zero byte")));
	return text;
}

static Datum
bytes_to_varlena(const char *data, size_t length)
{
	struct varlena *bytes;

	if (length > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("function returned a value of %zu bytes, the limit is %zu",
						length, (size_t) (MaxAllocSize - VARHDRSZ))));
	bytes = palloc(length + VARHDRSZ);
	SET_VARSIZE(bytes, length + VARHDRSZ);
	memcpy(VARDATA(bytes), data, length);
	return PointerGetDatum(bytes);
}

static Datum
span_to_text(plc_span span)
{
	char	   *text;

	/* The usual case needs no second copy. */
	if (GetDatabaseEncoding() == PG_UTF8)
	{
		pg_verify_mbstr(PG_UTF8, span.data, span.length, false);
		return bytes_to_varlena(span.data, span.length);
	}
	text = span_to_cstring(span);
	return bytes_to_varlena(text, strlen(text));
}

static uint8
checked_bool(plc_reader *reader, uint8 byte)
{
	if (byte > 1)
		plc_reader_fail(reader, "a bool is neither 0 nor 1");
	return byte;
}

/*
 * The elements of an array as Datums would be three copies: those of a fixed-size
 * kind go from the payload into the array as they are.
 */
static Datum
read_fixed_array(plc_reader *reader, const plc_type *type, plc_array *head)
{
	size_t		size = plc_kind_size(type->element_kind);
	uint32		present = head->count;
	bool		has_nulls = false;
	Size		offset;
	Size		total;
	ArrayType  *array;
	char	   *target;

	for (uint32 i = 0; head->nulls != NULL && i < head->count; i++)
		if (plc_array_is_null(head, i))
		{
			present--;
			has_nulls = true;
		}
	if (type->element_kind == PLC_BOOL)
		for (uint32 i = 0; i < head->count; i++)
			(void) checked_bool(reader, head->elements[i]);
	if (reader->error != NULL)
		return (Datum) 0;

	offset = has_nulls ? ARR_OVERHEAD_WITHNULLS(head->ndim, head->count)
		: ARR_OVERHEAD_NONULLS(head->ndim);
	total = offset + (Size) present * size;
	if (!AllocSizeIsValid(total))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("function returned an array of %zu bytes, the limit is %zu",
						total, (size_t) MaxAllocSize)));
	/* All bytes but the padding behind the bitmap are written below. */
	array = palloc(total);
	memset(array, 0, offset);
	SET_VARSIZE(array, total);
	array->ndim = head->ndim;
	array->dataoffset = has_nulls ? offset : 0;
	array->elemtype = type->element_oid;
	memcpy(ARR_DIMS(array), head->lengths, head->ndim * sizeof(int));
	memcpy(ARR_LBOUND(array), head->bounds, head->ndim * sizeof(int));
	target = ARR_DATA_PTR(array);
	if (!has_nulls)
	{
		memcpy(target, head->elements, (Size) present * size);
		return PointerGetDatum(array);
	}
	for (uint32 i = 0; i < head->count; i++)
	{
		if (plc_array_is_null(head, i))
			continue;
		ARR_NULLBITMAP(array)[i / 8] |= 1 << (i % 8);
		memcpy(target, head->elements + (Size) i * size, size);
		target += size;
	}
	return PointerGetDatum(array);
}

static Datum
read_string_element(plc_reader *reader, plc_type *type, bool is_text_form)
{
	plc_span	span = plc_read_str(reader);

	if (reader->error != NULL)
		return (Datum) 0;
	if (!is_text_form && type->element_kind == PLC_BYTEA)
		return bytes_to_varlena(span.data, span.length);
	if (!is_text_form && type->element_kind == PLC_TEXT && type->element_oid != BPCHAROID)
		return span_to_text(span);
	return InputFunctionCall(&type->element_input, span_to_cstring(span),
							 type->element_input_param, -1);
}

static Datum
read_string_array(plc_reader *reader, plc_type *type, plc_array *head)
{
	bool		is_text_form = (head->flags & PLC_ARRAY_TEXT_ELEMENTS) != 0;
	Datum	   *values = palloc(sizeof(Datum) * (Size) head->count);
	bool	   *nulls = palloc(sizeof(bool) * (Size) head->count);

	for (uint32 i = 0; i < head->count; i++)
	{
		nulls[i] = plc_array_is_null(head, i);
		values[i] = nulls[i] ? (Datum) 0 : read_string_element(reader, type, is_text_form);
		if (reader->error != NULL)
			return (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(values, nulls, head->ndim, head->lengths,
											  head->bounds, type->element_oid,
											  type->element_length, type->element_by_value,
											  type->element_align));
}

static Datum
read_array(plc_reader *reader, plc_type *type)
{
	plc_array	head;

	plc_read_array(reader, type->element_kind, &head);
	if (reader->error != NULL)
		return (Datum) 0;
	if (head.ndim == 0)
		return PointerGetDatum(construct_empty_array(type->element_oid));
	if (head.elements != NULL)
		return read_fixed_array(reader, type, &head);
	return read_string_array(reader, type, &head);
}

static Datum
read_binary(plc_reader *reader, plc_type *type)
{
	plc_span	span;

	switch (type->kind)
	{
		case PLC_BOOL:
			return BoolGetDatum(checked_bool(reader, plc_read_u8(reader)) != 0);
		case PLC_INT2:
			return Int16GetDatum(plc_read_i16(reader));
		case PLC_INT4:
			return Int32GetDatum(plc_read_i32(reader));
		case PLC_INT8:
			return Int64GetDatum(plc_read_i64(reader));
		case PLC_FLOAT4:
			return Float4GetDatum(plc_read_f32(reader));
		case PLC_FLOAT8:
			return Float8GetDatum(plc_read_f64(reader));
		case PLC_ARRAY:
			return read_array(reader, type);
		case PLC_VOID:
			plc_reader_fail(reader, "a void result has a value");
			return (Datum) 0;
		default:
			break;
	}
	span = plc_read_str(reader);
	if (reader->error != NULL)
		return (Datum) 0;
	if (type->kind == PLC_BYTEA)
		return bytes_to_varlena(span.data, span.length);
	if (type->kind == PLC_TEXT)
		return span_to_text(span);
	return InputFunctionCall(&type->input, span_to_cstring(span), type->input_param, -1);
}

/* Reads a result. Errors of form are left in the reader, errors of value are raised. */
Datum
plc_type_read(plc_reader *reader, plc_type *type, bool *is_null)
{
	Datum		value = (Datum) 0;
	plc_form	form = plc_read_u8(reader);

	*is_null = form == PLC_FORM_NULL;
	if (form == PLC_FORM_BINARY)
		value = read_binary(reader, type);
	else if (form == PLC_FORM_TEXT && type->kind != PLC_VOID)
	{
		plc_span	span = plc_read_str(reader);

		if (reader->error == NULL)
			value = InputFunctionCall(&type->input, span_to_cstring(span), type->input_param, -1);
	}
	else if (form != PLC_FORM_NULL)
		plc_reader_fail(reader, "unknown form of a value");
	/* The input function of a domain has checked it, NULLs and binary forms were not seen by it. */
	if (reader->error == NULL && type->is_domain && form != PLC_FORM_TEXT)
		domain_check(value, *is_null, type->oid, &type->domain_cache, type->context);
	return value;
}
