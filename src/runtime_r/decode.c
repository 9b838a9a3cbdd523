/*
 * decode.c
 *		Values of the wire to R.
 *
 * Whatever holds several values of one type (an array, a column of rows) is a `column`: a vector
 * in a slot of a list, where the garbage collector finds it. It begins in the mode that suits
 * most values and changes to a wider one at the first value that the mode can't tell exactly.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <stdlib.h>
#include <string.h>

/* From here on not every integer is a double. */
#define EXACT_DOUBLE (INT64_C(1) << 53)
#define NA_INTEGER64 INT64_MIN

typedef struct column
{
	SEXP		list;
	R_xlen_t	slot;
	SEXP		vector;			/* list[[slot]] */
	plc_kind	kind;
	const type *declared;
} column;

static void put_value(column *into, R_xlen_t at, plc_reader *reader, bool argument);

/* --- text --------------------------------------------------------------------------- */

/* The length of the UTF-8 character that begins here, 0 where none does. */
static size_t
character_length(const unsigned char *text, size_t left)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t		length = text[0] < 0xC0 ? 0 : text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : text[0] < 0xF8 ? 4 : 0;
	uint32_t	code = text[0] & (0x7F >> length);

	if (length == 0 || length > left)
		return 0;
	for (size_t i = 1; i < length; i++)
	{
		if ((text[i] & 0xC0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3F);
	}
	return code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : length;
}

bool
is_text(plc_span span)
{
	const unsigned char *text = (const unsigned char *) span.data;
	size_t		at = 0;

	while (at < span.length)
	{
		size_t		length = text[at] < 0x80 ? text[at] != 0 : character_length(text + at, span.length - at);

		if (length == 0)
			return false;
		at += length;
	}
	return true;
}

plc_span
read_text(plc_reader *reader)
{
	plc_span	span = plc_read_str(reader);

	if (reader->error == NULL && !is_text(span))
		plc_reader_fail(reader, "text is not valid UTF-8, or has a NUL");
	return span;
}

SEXP
text_string(plc_span span)
{
	return Rf_mkCharLenCE(span.data, (int) span.length, CE_UTF8);
}

/* --- type descriptors -------------------------------------------------------------- */

static char *
copy_name(plc_reader *reader, void *(*allocate) (size_t size))
{
	plc_span	span = read_text(reader);
	char	   *name;

	if (reader->error != NULL)
		return NULL;
	name = allocate((size_t) span.length + 1);
	memcpy(name, span.data, span.length);
	name[span.length] = '\0';
	return name;
}

static type *
read_type_below(plc_reader *reader, void *(*allocate) (size_t size), int depth)
{
	type	   *read = allocate(sizeof(type));

	memset(read, 0, sizeof(*read));
	read->kind = (plc_kind) plc_read_u8(reader);
	if (depth > PLC_MAX_TYPE_DEPTH)
		plc_reader_fail(reader, "type descriptor is too deep");
	if (reader->error != NULL)
		return read;
	switch (read->kind)
	{
		case PLC_VOID:
		case PLC_BOOL:
		case PLC_INT2:
		case PLC_INT4:
		case PLC_INT8:
		case PLC_FLOAT4:
		case PLC_FLOAT8:
		case PLC_TEXT:
		case PLC_BYTEA:
		case PLC_NUMERIC:
		case PLC_OID:
		case PLC_RECORD:
			break;
		case PLC_OTHER:
			read->name = copy_name(reader, allocate);
			break;
		case PLC_ARRAY:
			read->element = read_type_below(reader, allocate, depth + 1);
			if (read->element->kind == PLC_ARRAY || read->element->kind == PLC_VOID)
				plc_reader_fail(reader, "array of a type that has no arrays");
			break;
		case PLC_COMPOSITE:
			read->name = copy_name(reader, allocate);
			read->nfields = plc_read_u32(reader);
			if (read->nfields > PLC_MAX_COLUMNS)
				plc_reader_fail(reader, "composite has too many fields");
			if (reader->error != NULL)
			{
				read->nfields = 0;
				break;
			}
			read->names = allocate((read->nfields + 1) * sizeof(char *));
			read->fields = allocate((read->nfields + 1) * sizeof(type *));
			memset(read->names, 0, (read->nfields + 1) * sizeof(char *));
			memset(read->fields, 0, (read->nfields + 1) * sizeof(type *));
			for (uint32_t i = 0; i < read->nfields && reader->error == NULL; i++)
			{
				read->names[i] = copy_name(reader, allocate);
				read->fields[i] = read_type_below(reader, allocate, depth + 1);
				if (read->fields[i]->kind == PLC_VOID)
					plc_reader_fail(reader, "field of a type that has no values");
			}
			break;
		default:
			plc_reader_fail(reader, "unknown kind of type");
	}
	return read;
}

/* What was read is of use only if the reader has no error after it. */
type *
read_type(plc_reader *reader, void *(*allocate) (size_t size))
{
	return read_type_below(reader, allocate, 1);
}

void
free_type(type *dropped)
{
	if (dropped == NULL)
		return;
	free_type(dropped->element);
	for (uint32_t i = 0; i < dropped->nfields; i++)
	{
		free(dropped->names[i]);
		free_type(dropped->fields[i]);
	}
	free(dropped->names);
	free(dropped->fields);
	free(dropped->name);
	free(dropped);
}

static void *
allocate_transient(size_t size)
{
	return R_alloc(size, 1);
}

/* --- columns ----------------------------------------------------------------------- */

static SEXPTYPE
first_mode(plc_kind kind)
{
	switch (kind)
	{
		case PLC_BOOL:
			return LGLSXP;
		case PLC_INT2:
		case PLC_INT4:
		case PLC_OID:
			return INTSXP;
		case PLC_INT8:
		case PLC_FLOAT4:
		case PLC_FLOAT8:
		case PLC_NUMERIC:
			return REALSXP;
		case PLC_TEXT:
		case PLC_OTHER:
			return STRSXP;
		default:
			return VECSXP;
	}
}

static column
open_column(SEXP list, R_xlen_t slot, const type *declared)
{
	return (column) {list, slot, VECTOR_ELT(list, slot), declared->kind, declared};
}

static void
replace_vector(column *changed, SEXP vector)
{
	SET_VECTOR_ELT(changed->list, changed->slot, vector);
	changed->vector = vector;
}

static int64_t
integer64_at(SEXP vector, R_xlen_t at)
{
	int64_t		value;

	memcpy(&value, REAL(vector) + at, sizeof(value));
	return value;
}

static void
set_integer64(SEXP vector, R_xlen_t at, int64_t value)
{
	memcpy(REAL(vector) + at, &value, sizeof(value));
}

static bool
is_integer64(SEXP vector)
{
	return TYPEOF(vector) == REALSXP && OBJECT(vector);
}

/* bit64's methods make its numbers usable; without it they can still be handed on. */
static void
load_integer64(void)
{
	if (state.has_integer64)
		return;
	state.has_integer64 = true;
	call_runtime("load_integer64", 0);
}

static void
integers_to_reals(column *changed)
{
	R_xlen_t	n = XLENGTH(changed->vector);
	SEXP		vector = PROTECT(Rf_allocVector(REALSXP, n));

	for (R_xlen_t i = 0; i < n; i++)
		REAL(vector)[i] = INTEGER(changed->vector)[i] == NA_INTEGER ? NA_REAL : INTEGER(changed->vector)[i];
	replace_vector(changed, vector);
	UNPROTECT(1);
}

static void
reals_to_integer64(column *changed)
{
	R_xlen_t	n = XLENGTH(changed->vector);
	SEXP		vector = PROTECT(Rf_allocVector(REALSXP, n));

	load_integer64();
	for (R_xlen_t i = 0; i < n; i++)
	{
		double		value = REAL(changed->vector)[i];

		set_integer64(vector, i, ISNAN(value) ? NA_INTEGER64 : (int64_t) value);
	}
	Rf_setAttrib(vector, R_ClassSymbol, Rf_mkString("integer64"));
	replace_vector(changed, vector);
	UNPROTECT(1);
}

/* The smallest int8 is what integer64 has for NA. */
static void
numbers_to_text(column *changed)
{
	R_xlen_t	n = XLENGTH(changed->vector);
	bool		wide = is_integer64(changed->vector);
	SEXP		vector = PROTECT(Rf_allocVector(STRSXP, n));
	char		text[32];

	for (R_xlen_t i = 0; i < n; i++)
	{
		bool		na = wide ? integer64_at(changed->vector, i) == NA_INTEGER64 : ISNAN(REAL(changed->vector)[i]);
		int64_t		value = na ? 0 : wide ? integer64_at(changed->vector, i) : (int64_t) REAL(changed->vector)[i];

		snprintf(text, sizeof(text), "%lld", (long long) value);
		SET_STRING_ELT(vector, i, na ? NA_STRING : Rf_mkChar(text));
	}
	replace_vector(changed, vector);
	UNPROTECT(1);
}

static void
put_null(column *into, R_xlen_t at)
{
	switch (TYPEOF(into->vector))
	{
		case LGLSXP:
			LOGICAL(into->vector)[at] = NA_LOGICAL;
			break;
		case INTSXP:
			INTEGER(into->vector)[at] = NA_INTEGER;
			break;
		case REALSXP:
			if (is_integer64(into->vector))
				set_integer64(into->vector, at, NA_INTEGER64);
			else
				REAL(into->vector)[at] = NA_REAL;
			break;
		case STRSXP:
			SET_STRING_ELT(into->vector, at, NA_STRING);
			break;
		default:
			SET_VECTOR_ELT(into->vector, at, R_NilValue);
	}
}

/* An int4, or an oid; R's integer has no INT_MIN. */
static void
put_integer(column *into, R_xlen_t at, int64_t value)
{
	if (TYPEOF(into->vector) == INTSXP)
	{
		if (value > INT32_MIN && value <= INT32_MAX)
		{
			INTEGER(into->vector)[at] = (int) value;
			return;
		}
		/* Slots that were not written yet get their values later. */
		integers_to_reals(into);
	}
	REAL(into->vector)[at] = (double) value;
}

static void
put_int8(column *into, R_xlen_t at, int64_t value)
{
	char		text[32];

	if (TYPEOF(into->vector) == REALSXP && !is_integer64(into->vector))
	{
		if (value >= -EXACT_DOUBLE && value <= EXACT_DOUBLE)
		{
			REAL(into->vector)[at] = (double) value;
			return;
		}
		reals_to_integer64(into);
	}
	if (TYPEOF(into->vector) == REALSXP)
	{
		if (value != NA_INTEGER64)
		{
			set_integer64(into->vector, at, value);
			return;
		}
		numbers_to_text(into);
	}
	snprintf(text, sizeof(text), "%lld", (long long) value);
	SET_STRING_ELT(into->vector, at, Rf_mkChar(text));
}

static void
put_fixed(column *into, R_xlen_t at, const uint8_t *bytes)
{
	int16_t		i2;
	int32_t		i4;
	int64_t		i8;
	uint32_t	oid;
	float		f4;

	switch (into->kind)
	{
		case PLC_BOOL:
			if (*bytes > 1)
				protocol_violation("boolean is neither 0 nor 1");
			LOGICAL(into->vector)[at] = *bytes;
			break;
		case PLC_INT2:
			memcpy(&i2, bytes, sizeof(i2));
			INTEGER(into->vector)[at] = i2;
			break;
		case PLC_INT4:
			memcpy(&i4, bytes, sizeof(i4));
			put_integer(into, at, i4);
			break;
		case PLC_OID:
			memcpy(&oid, bytes, sizeof(oid));
			put_integer(into, at, oid);
			break;
		case PLC_INT8:
			memcpy(&i8, bytes, sizeof(i8));
			put_int8(into, at, i8);
			break;
		case PLC_FLOAT4:
			memcpy(&f4, bytes, sizeof(f4));
			REAL(into->vector)[at] = (double) f4;
			break;
		default:
			memcpy(REAL(into->vector) + at, bytes, sizeof(double));
	}
}

static double
make_number(plc_span span)
{
	char		small[64];
	char	   *text = span.length < sizeof(small) ? small : R_alloc((size_t) span.length + 1, 1);
	char	   *end;
	double		number;

	memcpy(text, span.data, span.length);
	text[span.length] = '\0';
	number = strtod(text, &end);
	if (end == text || *end != '\0')
		protocol_violation("malformed numeric");
	return number;
}

static SEXP
make_raw(plc_span span)
{
	SEXP		raw = Rf_allocVector(RAWSXP, span.length);

	if (span.length > 0)
		memcpy(RAW(raw), span.data, span.length);
	return raw;
}

/* A kind whose values are a `str`. */
static void
put_str(column *into, R_xlen_t at, plc_reader *reader)
{
	plc_span	span = into->kind == PLC_BYTEA ? plc_read_str(reader) : read_text(reader);

	if (reader->error != NULL)
		protocol_violation(reader->error);
	if (into->kind == PLC_BYTEA)
		SET_VECTOR_ELT(into->vector, at, make_raw(span));
	else if (into->kind == PLC_NUMERIC)
		REAL(into->vector)[at] = make_number(span);
	else
		SET_STRING_ELT(into->vector, at, text_string(span));
}

/* --- rows ------------------------------------------------------------------------------ */

SEXP
new_columns(const type *row_type, R_xlen_t rows)
{
	SEXP		columns = PROTECT(Rf_allocVector(VECSXP, row_type->nfields));

	for (uint32_t i = 0; i < row_type->nfields; i++)
		SET_VECTOR_ELT(columns, i, Rf_allocVector(first_mode(row_type->fields[i]->kind), rows));
	UNPROTECT(1);
	return columns;
}

/* Changes the length of columns; what is there and fits stays. */
void
grow_columns(SEXP columns, R_xlen_t rows)
{
	for (R_xlen_t i = 0; i < XLENGTH(columns); i++)
	{
		SEXP		vector = VECTOR_ELT(columns, i);
		bool		wide = is_integer64(vector);

		if (XLENGTH(vector) == rows)
			continue;
		vector = PROTECT(Rf_xlengthgets(vector, rows));
		if (wide)
			Rf_setAttrib(vector, R_ClassSymbol, Rf_mkString("integer64"));
		SET_VECTOR_ELT(columns, i, vector);
		UNPROTECT(1);
	}
}

static void
put_row(plc_reader *reader, const type *row_type, SEXP columns, R_xlen_t row, bool argument)
{
	for (uint32_t i = 0; i < row_type->nfields; i++)
	{
		column		field = open_column(columns, i, row_type->fields[i]);

		put_value(&field, row, reader, argument);
	}
}

void
decode_row(plc_reader *reader, const type *row_type, SEXP columns, R_xlen_t row)
{
	put_row(reader, row_type, columns, row, false);
}

SEXP
make_frame(const type *row_type, SEXP columns, R_xlen_t rows)
{
	SEXP		names = PROTECT(Rf_allocVector(STRSXP, row_type->nfields));
	SEXP		row_names = PROTECT(Rf_allocVector(INTSXP, 2));

	for (uint32_t i = 0; i < row_type->nfields; i++)
		SET_STRING_ELT(names, i, Rf_mkCharCE(row_type->names[i], CE_UTF8));
	/* the short form of 1 to n */
	INTEGER(row_names)[0] = NA_INTEGER;
	INTEGER(row_names)[1] = -(int) rows;
	Rf_setAttrib(columns, R_NamesSymbol, names);
	Rf_setAttrib(columns, R_RowNamesSymbol, row_names);
	Rf_setAttrib(columns, R_ClassSymbol, Rf_mkString("data.frame"));
	UNPROTECT(2);
	return columns;
}

static SEXP
decode_composite(plc_reader *reader, const type *row_type, bool argument)
{
	SEXP		columns = PROTECT(new_columns(row_type, 1));

	put_row(reader, row_type, columns, 0, argument);
	make_frame(row_type, columns, 1);
	UNPROTECT(1);
	return columns;
}

static SEXP
decode_record(plc_reader *reader, bool argument)
{
	const type *row_type = read_type(reader, allocate_transient);

	if (reader->error == NULL && row_type->kind != PLC_COMPOSITE)
		plc_reader_fail(reader, "record is not described as a composite");
	if (reader->error != NULL)
		protocol_violation(reader->error);
	return decode_composite(reader, row_type, argument);
}

/* --- arrays -------------------------------------------------------------------------------- */

/* R counts the first dimension fastest, PostgreSQL the last. */
typedef struct walk
{
	int			ndim;
	const int32_t *lengths;
	int32_t		at[PLC_MAX_DIMENSIONS];
	R_xlen_t	strides[PLC_MAX_DIMENSIONS];
	R_xlen_t	place;			/* of the current element in R's order */
} walk;

static walk
start_walk(const plc_array *array)
{
	walk		started = {.ndim = array->ndim, .lengths = array->lengths};
	R_xlen_t	stride = 1;

	for (int i = 0; i < array->ndim; i++)
	{
		started.strides[i] = stride;
		stride *= array->lengths[i];
	}
	return started;
}

static void
step(walk *walked)
{
	for (int i = walked->ndim - 1; i >= 0; i--)
	{
		walked->place += walked->strides[i];
		if (++walked->at[i] < walked->lengths[i])
			return;
		walked->place -= walked->strides[i] * walked->lengths[i];
		walked->at[i] = 0;
	}
}

/* Doubles lie in memory as they are sent. */
static void
copy_doubles(SEXP vector, const plc_array *array)
{
	if (array->count > 0)
		memcpy(REAL(vector), array->elements, (size_t) array->count * sizeof(double));
	for (uint32_t i = 0; array->nulls != NULL && i < array->count; i++)
		if (plc_array_is_null(array, i))
			REAL(vector)[i] = NA_REAL;
}

static void
put_elements(column *into, const plc_array *array, plc_reader *reader, bool argument)
{
	walk		walked = start_walk(array);
	size_t		size = plc_kind_size(into->kind);

	for (uint32_t i = 0; i < array->count; i++, step(&walked))
	{
		if (plc_array_is_null(array, i))
			put_null(into, walked.place);
		else if (size > 0)
			put_fixed(into, walked.place, array->elements + i * size);
		else if (plc_kind_is_row(into->kind))
			put_value(into, walked.place, reader, argument);
		else
			put_str(into, walked.place, reader);
	}
}

static void
set_dimensions(SEXP vector, const plc_array *array)
{
	SEXP		dimensions;

	if (array->ndim < 2)
		return;
	dimensions = PROTECT(Rf_allocVector(INTSXP, array->ndim));
	for (int i = 0; i < array->ndim; i++)
		INTEGER(dimensions)[i] = array->lengths[i];
	Rf_setAttrib(vector, R_DimSymbol, dimensions);
	UNPROTECT(1);
}

/* An array of composites is a data frame with a row for each; one that is NULL has NA everywhere. */
static SEXP
decode_rows(plc_reader *reader, const type *row_type, const plc_array *array, bool argument)
{
	SEXP		columns = PROTECT(new_columns(row_type, array->count));

	for (uint32_t i = 0; i < array->count; i++)
	{
		uint8_t		form = plc_array_is_null(array, i) ? PLC_FORM_NULL : plc_read_u8(reader);

		if (form == PLC_FORM_BINARY)
		{
			put_row(reader, row_type, columns, i, argument);
			continue;
		}
		if (form != PLC_FORM_NULL)
			protocol_violation("form is not allowed here");
		for (uint32_t j = 0; j < row_type->nfields; j++)
		{
			column		field = open_column(columns, j, row_type->fields[j]);

			put_null(&field, i);
		}
	}
	make_frame(row_type, columns, array->count);
	UNPROTECT(1);
	return columns;
}

static SEXP
decode_array(plc_reader *reader, const type *element, bool argument)
{
	plc_array	array;
	SEXP		list;
	column		elements;

	plc_read_array(reader, element->kind, &array);
	if (reader->error == NULL && (array.flags & PLC_ARRAY_TEXT_ELEMENTS) != 0)
		plc_reader_fail(reader, "form is not allowed here");
	if (reader->error != NULL)
		protocol_violation(reader->error);
	if (element->kind == PLC_COMPOSITE)
		return decode_rows(reader, element, &array, argument);
	list = PROTECT(Rf_allocVector(VECSXP, 1));
	SET_VECTOR_ELT(list, 0, Rf_allocVector(first_mode(element->kind), array.count));
	elements = open_column(list, 0, element);
	if (element->kind == PLC_FLOAT8 && array.ndim < 2)
		copy_doubles(elements.vector, &array);
	else
		put_elements(&elements, &array, reader, argument);
	set_dimensions(elements.vector, &array);
	UNPROTECT(1);
	return elements.vector;
}

/* --- values ---------------------------------------------------------------------------------- */

static SEXP
decode_nested(plc_reader *reader, const type *declared, bool argument)
{
	switch (declared->kind)
	{
		case PLC_ARRAY:
			return decode_array(reader, declared->element, argument);
		case PLC_COMPOSITE:
			return decode_composite(reader, declared, argument);
		case PLC_RECORD:
			return decode_record(reader, argument);
		default:
			protocol_violation("form is not allowed here");
	}
}

static void
put_value(column *into, R_xlen_t at, plc_reader *reader, bool argument)
{
	uint8_t		form = plc_read_u8(reader);
	size_t		size = plc_kind_size(into->kind);

	if (reader->error != NULL)
		protocol_violation(reader->error);
	if (form == PLC_FORM_NULL || (form == PLC_FORM_ABSENT && argument))
		put_null(into, at);
	else if (form != PLC_FORM_BINARY)
		protocol_violation("form is not allowed here");
	else if (size > 0)
	{
		const uint8_t *bytes = plc_take(reader, size);

		if (bytes == NULL)
			protocol_violation(reader->error);
		put_fixed(into, at, bytes);
	}
	else if (into->declared->kind == PLC_ARRAY || plc_kind_is_row(into->kind))
		SET_VECTOR_ELT(into->vector, at, decode_nested(reader, into->declared, argument));
	else
		put_str(into, at, reader);
}

/* What is.na() says of a NULL is true, and is.null() knows these very objects. */
static SEXP
null_argument(plc_kind kind)
{
	switch (first_mode(kind))
	{
		case LGLSXP:
			return state.null_logical;
		case INTSXP:
			return state.null_integer;
		case REALSXP:
			return state.null_real;
		case STRSXP:
			return state.null_string;
		default:
			return R_NilValue;
	}
}

/*
 * Values of the commonest kinds without a list to hold them; a vector of them never changes its
 * mode. Returns NULL for others.
 */
static SEXP
decode_scalar(plc_kind kind, const uint8_t *bytes)
{
	int16_t		i2;
	int32_t		i4;
	double		f8;

	switch (kind)
	{
		case PLC_INT2:
			memcpy(&i2, bytes, sizeof(i2));
			return Rf_ScalarInteger(i2);
		case PLC_INT4:
			memcpy(&i4, bytes, sizeof(i4));
			return i4 == INT32_MIN ? Rf_ScalarReal(i4) : Rf_ScalarInteger(i4);
		case PLC_FLOAT8:
			memcpy(&f8, bytes, sizeof(f8));
			return Rf_ScalarReal(f8);
		default:
			return NULL;
	}
}

/* `argument`: NULL is one of the objects above, and fields of a row may be ABSENT. */
SEXP
decode_value(plc_reader *reader, const type *declared, bool argument)
{
	size_t		size = plc_kind_size(declared->kind);
	SEXP		list;
	SEXP		value;
	column		single;

	if (reader->cursor < reader->end && *reader->cursor == PLC_FORM_NULL)
	{
		plc_take(reader, 1);
		return null_argument(declared->kind);
	}
	if (size > 0 && (size_t) (reader->end - reader->cursor) > size && *reader->cursor == PLC_FORM_BINARY)
	{
		value = decode_scalar(declared->kind, reader->cursor + 1);
		if (value != NULL)
		{
			plc_take(reader, size + 1);
			return value;
		}
	}
	if (declared->kind == PLC_VOID)
		protocol_violation("form is not allowed here");
	list = PROTECT(Rf_allocVector(VECSXP, 1));
	SET_VECTOR_ELT(list, 0, Rf_allocVector(first_mode(declared->kind), 1));
	single = open_column(list, 0, declared);
	put_null(&single, 0);
	put_value(&single, 0, reader, argument);
	value = TYPEOF(single.vector) == VECSXP ? VECTOR_ELT(single.vector, 0) : single.vector;
	UNPROTECT(1);
	return value;
}
