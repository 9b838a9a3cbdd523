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

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* Elements between two looks at whether the query was cancelled. */
#define ELEMENTS_AT_A_TIME 65536

/* The kind of a base type, VOID aside: that is one of results only. */
static plc_kind
scalar_kind(Oid oid)
{
	switch (oid)
	{
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
		case OIDOID:
			return PLC_OID;
		case RECORDOID:
			return PLC_RECORD;
		default:
			return PLC_OTHER;
	}
}

/* --- types ------------------------------------------------------------------ */

static void init_type(plc_type *type, Oid oid, int32 typmod, bool is_from_sandbox, int depth,
					  MemoryContext context);
static void init_row(plc_type *type, TupleDesc desc, bool is_from_sandbox, int depth,
					 MemoryContext context);

static char *
type_name(Oid oid, MemoryContext context)
{
	char	   *name = format_type_be(oid);
	char	   *copy = MemoryContextStrdup(context, name);

	pfree(name);
	return copy;
}

static void
check_depth(Oid oid, int depth)
{
	check_stack_depth();
	if (depth > PLC_MAX_TYPE_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("type %s is nested too deeply for a sandbox", format_type_be(oid)),
				 errdetail("The limit is %d levels.", PLC_MAX_TYPE_DEPTH)));
}

static void
init_array(plc_type *type, Oid element)
{
	plc_type   *inner = MemoryContextAlloc(type->context, sizeof(plc_type));

	init_type(inner, element, type->typmod, type->is_from_sandbox, type->depth + 1, type->context);
	/* A domain over an array: elements have no dimensions of their own. */
	if (inner->kind == PLC_ARRAY)
	{
		inner->kind = PLC_OTHER;
		inner->name = type_name(inner->base, type->context);
	}
	type->kind = PLC_ARRAY;
	type->element = inner;
	type->has_composite = inner->has_composite;
	get_typlenbyvalalign(element, &type->element_length, &type->element_by_value,
						 &type->element_align);
}

/* Fills the fields of `type` in from its `desc`. */
static void
init_fields(plc_type *type)
{
	int			natts = type->desc->natts;

	type->kind = PLC_COMPOSITE;
	type->has_composite = true;
	type->name = type_name(type->base, type->context);
	type->fields = MemoryContextAlloc(type->context, sizeof(plc_type) * Max(natts, 1));
	type->columns = MemoryContextAlloc(type->context, sizeof(AttrNumber) * Max(natts, 1));
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(type->desc, i);

		if (column->attisdropped)
			continue;
		init_type(&type->fields[type->nfields], column->atttypid, column->atttypmod,
				  type->is_from_sandbox, type->depth + 1, type->context);
		type->columns[type->nfields++] = i + 1;
	}
}

static TupleDesc
copy_descriptor(TupleDesc desc, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	TupleDesc	copy = CreateTupleDescCopyConstr(desc);

	MemoryContextSwitchTo(caller);
	return copy;
}

static void
init_composite(plc_type *type)
{
	TypeCacheEntry *entry = lookup_type_cache(type->base, TYPECACHE_TUPDESC);

	if (entry->tupDesc == NULL)
		elog(ERROR, "type %u is not composite", type->base);
	type->version = entry->tupDesc_identifier;
	type->desc = copy_descriptor(entry->tupDesc, type->context);
	init_fields(type);
}

static void
init_type(plc_type *type, Oid oid, int32 typmod, bool is_from_sandbox, int depth,
		  MemoryContext context)
{
	Oid			element;

	memset(type, 0, sizeof(*type));
	type->context = context;
	type->oid = type->base = oid;
	type->typmod = typmod;
	type->is_from_sandbox = is_from_sandbox;
	type->depth = (uint8) depth;
	check_depth(oid, depth);
	type->kind = oid == VOIDOID && is_from_sandbox ? PLC_VOID : scalar_kind(oid);
	/* The usual types need no look at the catalogs. */
	if (type->kind != PLC_OTHER)
		return;
	type->base = getBaseTypeAndTypmod(oid, &type->typmod);
	type->is_domain = type->base != oid;
	type->kind = scalar_kind(type->base);
	if (type->kind != PLC_OTHER)
		return;
	element = get_element_type(type->base);
	if (OidIsValid(element))
		init_array(type, element);
	else if (get_typtype(type->base) == TYPTYPE_COMPOSITE)
		init_composite(type);
	else
		type->name = type_name(type->base, context);
}

static void
init_row(plc_type *type, TupleDesc desc, bool is_from_sandbox, int depth, MemoryContext context)
{
	memset(type, 0, sizeof(*type));
	type->context = context;
	type->oid = type->base = desc->tdtypeid;
	type->is_from_sandbox = is_from_sandbox;
	type->depth = (uint8) depth;
	check_depth(type->base, depth);
	type->desc = copy_descriptor(desc, context);
	/* The input function of a row without a type of its own finds its columns by this. */
	if (is_from_sandbox && type->base == RECORDOID)
		BlessTupleDesc(type->desc);
	type->typmod = type->desc->tdtypmod;
	if (type->base != RECORDOID)
		type->version = assign_record_type_identifier(type->base, type->typmod);
	init_fields(type);
}

/* Fills `type` in for a declared type. Its memory comes from `context`. */
void
plc_type_init(plc_type *type, Oid oid, int32 typmod, bool is_from_sandbox, MemoryContext context)
{
	init_type(type, oid, typmod, is_from_sandbox, 1, context);
}

/* Fills `type` in as the COMPOSITE of a tuple descriptor, which is copied. */
void
plc_type_init_row(plc_type *type, TupleDesc desc, bool is_from_sandbox, MemoryContext context)
{
	init_row(type, desc, is_from_sandbox, 1, context);
}

/*
 * Whether the type cache has a row type as it was when `type` was made. It gives a
 * definition a new identifier whenever it had to look at it again, also if that
 * found what it was.
 */
static bool
is_row_current(const plc_type *type)
{
	TypeCacheEntry *entry;

	if (type->version == 0)
		return true;
	entry = lookup_type_cache(type->base, TYPECACHE_TUPDESC);
	if (entry->tupDesc == NULL)
		return false;
	if (entry->tupDesc_identifier == type->version)
		return true;
	if (!equalTupleDescs(entry->tupDesc, type->desc))
		return false;
	unconstify(plc_type *, type)->version = entry->tupDesc_identifier;
	return true;
}

/* Whether no composite type in `type` has changed since it was filled in. */
bool
plc_type_is_current(const plc_type *type)
{
	if (!type->has_composite)
		return true;
	if (type->kind == PLC_ARRAY)
		return plc_type_is_current(type->element);
	if (!is_row_current(type))
		return false;
	for (uint32 i = 0; i < type->nfields; i++)
		if (!plc_type_is_current(&type->fields[i]))
			return false;
	return true;
}

/* The number from 1 of the column that a row's field is; 0 if there is no such field. */
int
plc_type_field(const plc_type *row, uint32 index)
{
	return index < row->nfields ? row->columns[index] : 0;
}

plc_type *
plc_type_field_type(plc_type *row, uint32 index)
{
	return &row->fields[index];
}

static FmgrInfo *
output_function(plc_type *type)
{
	if (unlikely(!OidIsValid(type->output.fn_oid)))
	{
		Oid			function;
		bool		is_varlena;

		getTypeOutputInfo(type->base, &function, &is_varlena);
		fmgr_info_cxt(function, &type->output, type->context);
	}
	return &type->output;
}

/* A value of the base type from its text form, which may be of any origin. */
static Datum
call_input(plc_type *type, char *text)
{
	if (unlikely(!OidIsValid(type->input.fn_oid)))
	{
		Oid			function;

		getTypeInputInfo(type->base, &function, &type->input_param);
		fmgr_info_cxt(function, &type->input, type->context);
	}
	return InputFunctionCall(&type->input, text, type->input_param, type->typmod);
}

/* --- writing ---------------------------------------------------------------- */

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
write_name(plc_writer *writer, const char *name)
{
	plc_write_server_text(writer, name, strlen(name));
}

/* Writes a type descriptor. */
void
plc_type_describe(plc_writer *writer, const plc_type *type)
{
	plc_write_u8(writer, (uint8) type->kind);
	switch (type->kind)
	{
		case PLC_OTHER:
			write_name(writer, type->name);
			break;
		case PLC_ARRAY:
			plc_type_describe(writer, type->element);
			break;
		case PLC_COMPOSITE:
			write_name(writer, type->name);
			plc_write_u32(writer, type->nfields);
			for (uint32 i = 0; i < type->nfields; i++)
			{
				write_name(writer, NameStr(TupleDescAttr(type->desc, type->columns[i] - 1)->attname));
				plc_type_describe(writer, &type->fields[i]);
			}
			break;
		default:
			break;
	}
}

static void
write_text_form(plc_writer *writer, plc_type *type, Datum value)
{
	char	   *text = OutputFunctionCall(output_function(type), value);

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

/* Elements of a fixed-size kind, the slots of NULLs zero. */
static void
write_fixed_elements(plc_writer *writer, const plc_type *type, ArrayType *array, const bool *nulls,
					 int count)
{
	size_t		size = plc_kind_size(type->element->kind);
	const char *source = ARR_DATA_PTR(array);
	uint8	   *target;

	/* bool has one byte in both, the others are aligned to their own size: no gaps. */
	if (nulls == NULL)
	{
		(void) plc_write_spliced(writer, source, size * count);
		return;
	}
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
}

static void
write_elements(plc_writer *writer, plc_type *type, ArrayType *array, const bool *nulls, int count)
{
	plc_type   *element = type->element;
	const char *p = ARR_DATA_PTR(array);

	for (int i = 0; i < count; i++)
	{
		Datum		value;

		if (nulls != NULL && nulls[i])
			continue;
		p = (const char *) att_align_pointer(p, type->element_align, type->element_length, p);
		value = fetch_att(p, type->element_by_value, type->element_length);
		if (element->kind == PLC_TEXT || element->kind == PLC_BYTEA)
			write_varlena(writer, value, element->kind == PLC_TEXT);
		else if (plc_kind_is_row(element->kind))
			plc_type_write(writer, element, value, false);
		else
			write_text_form(writer, element, value);
		p = att_addlength_pointer(p, type->element_length, p);
	}
}

static void
write_array(plc_writer *writer, plc_type *type, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	int			ndim = ARR_NDIM(array);
	int			count = ArrayGetNItems(ndim, ARR_DIMS(array));
	int			nsplices = writer->nsplices;
	bool	   *nulls = NULL;

	if (ARR_HASNULL(array) && count > 0)
	{
		const bits8 *bitmap = ARR_NULLBITMAP(array);

		nulls = palloc(count * sizeof(bool));
		for (int i = 0; i < count; i++)
			nulls[i] = (bitmap[i / 8] & (1 << (i % 8))) == 0;
	}
	plc_write_array(writer, type->element->kind, 0, ndim, (const int32_t *) ARR_DIMS(array),
					(const int32_t *) ARR_LBOUND(array), nulls);
	if (count > 0)
	{
		if (plc_kind_size(type->element->kind) > 0)
			write_fixed_elements(writer, type, array, nulls, count);
		else
			write_elements(writer, type, array, nulls, count);
	}
	if (nulls != NULL)
		pfree(nulls);
	if (writer->nsplices == nsplices && (Pointer) array != DatumGetPointer(value))
		pfree(array);
}

/* Whether a column of a trigger's row has no value that could be sent. */
static bool
is_absent(Form_pg_attribute column, bool absent_generated)
{
	if (column->attgenerated == '\0')
		return false;
#ifdef ATTRIBUTE_GENERATED_VIRTUAL
	/* Nothing is stored, a trigger sees none. */
	if (column->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
		return true;
#endif
	return absent_generated;
}

static void
write_fields(plc_writer *writer, plc_type *row, HeapTuple tuple, TupleDesc desc,
			 bool is_trigger, bool absent_generated)
{
	Datum	   *values;
	bool	   *nulls;

	if (desc->natts != row->desc->natts)
		elog(ERROR, "row of type %s has %d columns, not %d", row->name, desc->natts,
			 row->desc->natts);
	values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	heap_deform_tuple(tuple, desc, values, nulls);
	for (uint32 i = 0; i < row->nfields; i++)
	{
		int			column = row->columns[i] - 1;

		if (is_trigger && is_absent(TupleDescAttr(row->desc, column), absent_generated))
			plc_write_u8(writer, PLC_FORM_ABSENT);
		else
			plc_type_write(writer, &row->fields[i], values[column], nulls[column]);
	}
	pfree(values);
	pfree(nulls);
}

/*
 * Writes a row of a trigger as a value of `row`. Generated columns have no value yet in
 * a row that is about to be stored (`absent_generated`). As with plc_type_write, what is
 * large stays in the tuple until the frame was sent.
 */
void
plc_type_write_tuple(plc_writer *writer, plc_type *row, HeapTuple tuple, TupleDesc desc,
					 bool absent_generated)
{
	plc_write_u8(writer, PLC_FORM_BINARY);
	write_fields(writer, row, tuple, desc, true, absent_generated);
}

/* Writes the values of a row alone, one per column: a row of a query's result. */
void
plc_type_write_columns(plc_writer *writer, plc_type *row, HeapTuple tuple, TupleDesc desc)
{
	write_fields(writer, row, tuple, desc, false, false);
}

/* The row type of a value of kind RECORD: most likely that of the value before. */
static plc_type *
row_of_record(plc_type *type, HeapTupleHeader header)
{
	Oid			oid = HeapTupleHeaderGetTypeId(header);
	int32		typmod = HeapTupleHeaderGetTypMod(header);
	MemoryContext context;
	TupleDesc	desc;
	plc_type   *row = type->row;

	if (row != NULL && row->base == oid && row->typmod == typmod && plc_type_is_current(row))
		return row;
	if (row != NULL)
	{
		type->row = NULL;
		MemoryContextDelete(row->context);
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container record",
									ALLOCSET_SMALL_SIZES);
	row = MemoryContextAlloc(context, sizeof(plc_type));
	desc = lookup_rowtype_tupdesc(oid, typmod);
	init_row(row, desc, type->is_from_sandbox, type->depth + 1, context);
	ReleaseTupleDesc(desc);
	/* Nothing fails any more: until here an error would have freed it with the call. */
	MemoryContextSetParent(context, type->context);
	type->row = row;
	return row;
}

static void
write_row(plc_writer *writer, plc_type *type, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	int			nsplices = writer->nsplices;
	HeapTupleData tuple;
	plc_type   *row = type;

	check_stack_depth();
	if (type->kind == PLC_RECORD)
	{
		row = row_of_record(type, header);
		plc_type_describe(writer, row);
	}
	else if (HeapTupleHeaderGetTypeId(header) != type->base)
		elog(ERROR, "row of type %s is of type %u", type->name, HeapTupleHeaderGetTypeId(header));
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	write_fields(writer, row, &tuple, row->desc, false, false);
	if (writer->nsplices == nsplices && (Pointer) header != DatumGetPointer(value))
		pfree(header);
}

/*
 * Writes one value. What is large stays where it is, in the current memory context,
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
		case PLC_OID:
			plc_write_u32(writer, DatumGetObjectId(value));
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
		case PLC_COMPOSITE:
		case PLC_RECORD:
			write_row(writer, type, value);
			break;
		default:
			write_text_form(writer, type, value);
			break;
	}
}

/* --- reading ---------------------------------------------------------------- */

/* A `str` of the sandbox in the database's encoding, NUL-terminated. */
static char *
span_to_cstring(plc_span span)
{
	char	   *text = plc_text_to_server(span);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("text of the function contains a zero byte")));
	return text;
}

static Datum
bytes_to_varlena(const char *data, size_t length)
{
	struct varlena *bytes;

	if (length > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value of %zu bytes is too large, the limit is %zu",
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

static void
check_domain(plc_type *type, Datum value, bool is_null)
{
	domain_check(value, is_null, type->oid, &type->domain_cache, type->context);
}

PLC_NORETURN static void
array_too_large(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("array of the function is too large"),
			 errdetail("The limit is %zu elements and %zu bytes.", (size_t) MaxArraySize,
					   (size_t) MaxAllocSize)));
	pg_unreachable();
}

/* The element that lies at `bytes`, of a fixed-size kind. */
static Datum
fixed_element(plc_kind kind, const uint8 *bytes)
{
	plc_reader	reader;

	plc_reader_init(&reader, bytes, plc_kind_size(kind));
	switch (kind)
	{
		case PLC_BOOL:
			return BoolGetDatum(*bytes != 0);
		case PLC_INT2:
			return Int16GetDatum(plc_read_i16(&reader));
		case PLC_INT4:
			return Int32GetDatum(plc_read_i32(&reader));
		case PLC_INT8:
			return Int64GetDatum(plc_read_i64(&reader));
		case PLC_FLOAT4:
			return Float4GetDatum(plc_read_f32(&reader));
		case PLC_FLOAT8:
			return Float8GetDatum(plc_read_f64(&reader));
		default:
			return ObjectIdGetDatum(plc_read_u32(&reader));
	}
}

/* Checks elements of a domain that did not go through a function each. */
static void
check_fixed_elements(plc_type *element, const plc_array *head)
{
	size_t		size = plc_kind_size(element->kind);

	for (uint32 i = 0; i < head->count; i++)
	{
		bool		is_null = plc_array_is_null(head, i);

		if (i % ELEMENTS_AT_A_TIME == 0)
			CHECK_FOR_INTERRUPTS();
		check_domain(element, is_null ? (Datum) 0 : fixed_element(element->kind, head->elements + i * size),
					 is_null);
	}
}

/*
 * The elements of an array as Datums would be three copies: those of a fixed-size
 * kind go from the payload into the array as they are.
 */
static Datum
read_fixed_array(plc_reader *reader, plc_type *type, plc_array *head)
{
	size_t		size = plc_kind_size(type->element->kind);
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
	if (type->element->kind == PLC_BOOL)
		for (uint32 i = 0; i < head->count; i++)
			(void) checked_bool(reader, head->elements[i]);
	if (reader->error != NULL)
		return (Datum) 0;

	offset = has_nulls ? ARR_OVERHEAD_WITHNULLS(head->ndim, head->count)
		: ARR_OVERHEAD_NONULLS(head->ndim);
	total = offset + (Size) present * size;
	if (!AllocSizeIsValid(total))
		array_too_large();
	if (type->element->is_domain)
		check_fixed_elements(type->element, head);
	/* All bytes but the padding behind the bitmap are written below. */
	array = palloc(total);
	memset(array, 0, offset);
	SET_VARSIZE(array, total);
	array->ndim = head->ndim;
	array->dataoffset = has_nulls ? offset : 0;
	array->elemtype = type->element->oid;
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

static Datum read_form(plc_reader *reader, plc_type *type, uint8 form, bool *is_null);

/* Elements that are a `str` or a value each. */
static Datum
read_elements(plc_reader *reader, plc_type *type, plc_array *head)
{
	plc_type   *element = type->element;
	bool		is_row = plc_kind_is_row(element->kind);
	uint8		form = (head->flags & PLC_ARRAY_TEXT_ELEMENTS) != 0 ? PLC_FORM_TEXT : PLC_FORM_BINARY;
	Datum	   *values = palloc(sizeof(Datum) * (Size) head->count);
	bool	   *nulls = palloc(sizeof(bool) * (Size) head->count);
	Size		total = 0;

	for (uint32 i = 0; i < head->count; i++)
	{
		if (i % ELEMENTS_AT_A_TIME == 0)
			CHECK_FOR_INTERRUPTS();
		if (plc_array_is_null(head, i))
		{
			values[i] = read_form(reader, element, PLC_FORM_NULL, &nulls[i]);
			continue;
		}
		if (is_row)
			form = plc_read_u8(reader);
		values[i] = read_form(reader, element, form, &nulls[i]);
		if (reader->error == NULL && nulls[i])
			plc_reader_fail(reader, "an array has a NULL that its bitmap denies");
		if (reader->error != NULL)
			return (Datum) 0;
		/* Ends early what could not become an array: values take more memory than their bytes. */
		total = att_addlength_datum(total, type->element_length, values[i]);
		if (!AllocSizeIsValid(total))
			array_too_large();
	}
	return PointerGetDatum(construct_md_array(values, nulls, head->ndim, head->lengths,
											  head->bounds, element->oid,
											  type->element_length, type->element_by_value,
											  type->element_align));
}

static Datum
read_array(plc_reader *reader, plc_type *type)
{
	plc_array	head;

	plc_read_array(reader, type->element->kind, &head);
	if (reader->error != NULL)
		return (Datum) 0;
	if (head.ndim == 0)
		return PointerGetDatum(construct_empty_array(type->element->oid));
	if (head.count > MaxArraySize)
		array_too_large();
	if (head.elements != NULL)
		return read_fixed_array(reader, type, &head);
	return read_elements(reader, type, &head);
}

static Datum
read_row(plc_reader *reader, plc_type *type)
{
	int			natts = type->desc->natts;
	Datum	   *values = palloc0(sizeof(Datum) * Max(natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(natts, 1));
	HeapTuple	tuple;

	check_stack_depth();
	memset(nulls, true, natts);
	for (uint32 i = 0; i < type->nfields; i++)
	{
		int			column = type->columns[i] - 1;

		values[column] = plc_type_read(reader, &type->fields[i], &nulls[column]);
		if (reader->error != NULL)
			return (Datum) 0;
	}
	tuple = heap_form_tuple(type->desc, values, nulls);
	pfree(values);
	pfree(nulls);
	return HeapTupleGetDatum(tuple);
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
		case PLC_OID:
			return ObjectIdGetDatum(plc_read_u32(reader));
		case PLC_ARRAY:
			return read_array(reader, type);
		case PLC_COMPOSITE:
			return read_row(reader, type);
		case PLC_RECORD:
			plc_reader_fail(reader, "a record is not text");
			return (Datum) 0;
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
	/* A length that was declared is applied by the input function alone. */
	if (type->kind == PLC_TEXT && type->typmod == -1)
		return span_to_text(span);
	return call_input(type, span_to_cstring(span));
}

static Datum
read_text(plc_reader *reader, plc_type *type)
{
	plc_span	span = plc_read_str(reader);

	return reader->error != NULL ? (Datum) 0 : call_input(type, span_to_cstring(span));
}

/* Reads a value whose form is known, and checks what is of a domain. */
static Datum
read_form(plc_reader *reader, plc_type *type, uint8 form, bool *is_null)
{
	Datum		value = (Datum) 0;

	*is_null = form == PLC_FORM_NULL;
	if (form == PLC_FORM_BINARY)
		value = read_binary(reader, type);
	else if (form == PLC_FORM_TEXT && type->kind != PLC_VOID)
		value = read_text(reader, type);
	else if (form != PLC_FORM_NULL)
		plc_reader_fail(reader, "unknown form of a value");
	if (type->is_domain && reader->error == NULL)
		check_domain(type, value, *is_null);
	return value;
}

/*
 * Reads one value. Errors of form are left in the reader, errors of value are raised. A
 * domain's check may call a function of the very sandbox that the value comes from: what
 * the reader reads has to stay where it is.
 */
Datum
plc_type_read(plc_reader *reader, plc_type *type, bool *is_null)
{
	return read_form(reader, type, plc_read_u8(reader), is_null);
}
