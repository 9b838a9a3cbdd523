/*
 * encode.c
 *		Values of R's to the wire.
 *
 * What can't be told exactly in the binary form of its type goes as text to the type's input
 * function, so that the database says what is wrong with it. Questions of shape (factors,
 * data frames, lists) are answered in R, by convert.R; the loops are here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NA_INTEGER64 INT64_MIN
#define NUMBER_LENGTH 64

static bool
is_integer64(SEXP vector)
{
	return TYPEOF(vector) == REALSXP && OBJECT(vector) && Rf_inherits(vector, "integer64");
}

static int64_t
integer64_at(SEXP vector, R_xlen_t at)
{
	int64_t		value;

	memcpy(&value, REAL(vector) + at, sizeof(value));
	return value;
}

static bool
is_na(SEXP vector, R_xlen_t at)
{
	switch (TYPEOF(vector))
	{
		case LGLSXP:
			return LOGICAL(vector)[at] == NA_LOGICAL;
		case INTSXP:
			return INTEGER(vector)[at] == NA_INTEGER;
		case REALSXP:
			return is_integer64(vector) ? integer64_at(vector, at) == NA_INTEGER64 : R_IsNA(REAL(vector)[at]);
		case STRSXP:
			return STRING_ELT(vector, at) == NA_STRING;
		case CPLXSXP:
			return R_IsNA(COMPLEX(vector)[at].r);
		case VECSXP:
			return VECTOR_ELT(vector, at) == R_NilValue;
		default:
			return false;
	}
}

/* --- numbers ------------------------------------------------------------------------- */

/* The shortest decimal that is this very double. */
static void
format_double(char *out, double value)
{
	if (ISNAN(value))
		strcpy(out, "NaN");
	else if (isinf(value))
		strcpy(out, value > 0 ? "Infinity" : "-Infinity");
	/* integers in full: 1e+05 is no text of an integer type */
	else if (value == trunc(value) && fabs(value) < 1e18)
		snprintf(out, NUMBER_LENGTH, "%.0f", value);
	else
		for (int precision = 15; precision <= 17; precision++)
		{
			snprintf(out, NUMBER_LENGTH, "%.*g", precision, value);
			if (strtod(out, NULL) == value)
				break;
		}
}

/* Whether an element of a vector is an integer from `low` to `high`. */
static bool
get_integer(SEXP vector, R_xlen_t at, int64_t low, int64_t high, int64_t *value)
{
	double		real;

	switch (TYPEOF(vector))
	{
		case LGLSXP:
			*value = LOGICAL(vector)[at];
			break;
		case INTSXP:
			*value = INTEGER(vector)[at];
			break;
		case RAWSXP:
			*value = RAW(vector)[at];
			break;
		case REALSXP:
			if (is_integer64(vector))
			{
				*value = integer64_at(vector, at);
				break;
			}
			real = REAL(vector)[at];
			if (!(real >= -9223372036854775808.0 && real < 9223372036854775808.0) || real != trunc(real))
				return false;
			*value = (int64_t) real;
			break;
		default:
			return false;
	}
	return *value >= low && *value <= high;
}

static bool
get_double(SEXP vector, R_xlen_t at, double *value)
{
	int64_t		integer;

	if (TYPEOF(vector) == REALSXP && !is_integer64(vector))
	{
		*value = REAL(vector)[at];
		return true;
	}
	if (!get_integer(vector, at, -(INT64_C(1) << 53), INT64_C(1) << 53, &integer))
		return false;
	*value = (double) integer;
	return true;
}

/* Stores an element in the fixed-size form of a kind, unless it has none there. */
static bool
store_fixed(uint8_t *place, plc_kind kind, SEXP vector, R_xlen_t at)
{
	int64_t		integer;
	double		real;
	float		single;

	switch (kind)
	{
		case PLC_BOOL:
			if (!get_integer(vector, at, 0, 1, &integer))
				return false;
			*place = (uint8_t) integer;
			return true;
		case PLC_INT2:
			if (!get_integer(vector, at, INT16_MIN, INT16_MAX, &integer))
				return false;
			memcpy(place, &(int16_t) {(int16_t) integer}, sizeof(int16_t));
			return true;
		case PLC_INT4:
			if (!get_integer(vector, at, INT32_MIN, INT32_MAX, &integer))
				return false;
			memcpy(place, &(int32_t) {(int32_t) integer}, sizeof(int32_t));
			return true;
		case PLC_OID:
			if (!get_integer(vector, at, 0, UINT32_MAX, &integer))
				return false;
			memcpy(place, &(uint32_t) {(uint32_t) integer}, sizeof(uint32_t));
			return true;
		case PLC_INT8:
			if (!get_integer(vector, at, INT64_MIN, INT64_MAX, &integer))
				return false;
			memcpy(place, &integer, sizeof(integer));
			return true;
		case PLC_FLOAT4:
			if (!get_double(vector, at, &real))
				return false;
			/* What a float4 can't hold is for the database to refuse. */
			if (!ISNAN(real) && !isinf(real) && real != 0 && (fabs(real) > FLT_MAX || (float) real == 0))
				return false;
			single = (float) real;
			memcpy(place, &single, sizeof(single));
			return true;
		default:
			if (!get_double(vector, at, &real))
				return false;
			memcpy(place, &real, sizeof(real));
			return true;
	}
}

/* --- text ------------------------------------------------------------------------------ */

/* R's own translation would put <ff> for a byte that is no text. */
const char *
utf8_of(SEXP string)
{
	const char *text = Rf_getCharCE(string) == CE_LATIN1 ? Rf_translateCharUTF8(string) : R_CHAR(string);

	if (!is_text((plc_span) {text, (uint32_t) strlen(text)}))
		fail("22021", "string of R's is not valid UTF-8");
	return text;
}

/* The text of an element, valid until the caller's next use of `number`. */
static const char *
text_of(SEXP vector, R_xlen_t at, char *number)
{
	switch (TYPEOF(vector))
	{
		case STRSXP:
			return utf8_of(STRING_ELT(vector, at));
		case LGLSXP:
			return LOGICAL(vector)[at] ? "TRUE" : "FALSE";
		case INTSXP:
			snprintf(number, NUMBER_LENGTH, "%d", INTEGER(vector)[at]);
			return number;
		case REALSXP:
			if (is_integer64(vector))
				snprintf(number, NUMBER_LENGTH, "%lld", (long long) integer64_at(vector, at));
			else
				format_double(number, REAL(vector)[at]);
			return number;
		case RAWSXP:
			snprintf(number, NUMBER_LENGTH, "%02x", RAW(vector)[at]);
			return number;
		default:
			fail("42804", "cannot turn an R object of type \"%s\" into a value of a column", Rf_type2char(TYPEOF(vector)));
	}
}

static void
write_text(plc_writer *writer, SEXP vector, R_xlen_t at)
{
	char		number[NUMBER_LENGTH];
	const void *kept = vmaxget();
	const char *text = text_of(vector, at, number);

	plc_write_str(writer, text, strlen(text));
	vmaxset(kept);
}

/* Whether a text is a plain decimal, as PostgreSQL itself prints a numeric. */
static bool
is_decimal(const char *text)
{
	size_t		digits;

	if (*text == '-')
		text++;
	digits = strspn(text, "0123456789");
	if (digits == 0 || (digits > 1 && *text == '0'))
		return false;
	text += digits;
	if (*text == '.')
	{
		digits = strspn(text + 1, "0123456789");
		if (digits == 0)
			return false;
		text += digits + 1;
	}
	return *text == '\0';
}

static void
write_numeric(plc_writer *writer, SEXP vector, R_xlen_t at)
{
	char		number[NUMBER_LENGTH];
	const void *kept = vmaxget();
	const char *text = TYPEOF(vector) == LGLSXP ? (LOGICAL(vector)[at] ? "1" : "0") : text_of(vector, at, number);

	plc_write_u8(writer, is_decimal(text) ? PLC_FORM_BINARY : PLC_FORM_TEXT);
	plc_write_str(writer, text, strlen(text));
	vmaxset(kept);
}

/* --- single elements ----------------------------------------------------------------------- */

static bool
is_textual(plc_kind kind)
{
	return kind == PLC_TEXT || kind == PLC_OTHER;
}

/*
 * A vector as the loops of this file want it: factors and other objects resolved. Dates and
 * such are numbers only where numbers are asked for.
 */
static SEXP
resolve(const type *declared, SEXP vector)
{
	if (OBJECT(vector) && !is_integer64(vector))
		vector = call_runtime("resolve", 2, vector, Rf_ScalarLogical(is_textual(declared->kind)));
	/* As R itself prints numbers: 15 digits. */
	if (is_textual(declared->kind) && (TYPEOF(vector) == CPLXSXP || (TYPEOF(vector) == REALSXP && !is_integer64(vector))))
	{
		PROTECT(vector);
		vector = Rf_coerceVector(vector, STRSXP);
		UNPROTECT(1);
	}
	return vector;
}

/* An element of a resolved vector. */
static void
write_element(plc_writer *writer, const type *declared, SEXP vector, R_xlen_t at)
{
	size_t		size = plc_kind_size(declared->kind);
	uint8_t		bytes[8];

	if (is_na(vector, at))
		plc_write_u8(writer, PLC_FORM_NULL);
	else if (size > 0 && store_fixed(bytes, declared->kind, vector, at))
	{
		plc_write_u8(writer, PLC_FORM_BINARY);
		plc_write_bytes(writer, bytes, size);
	}
	else if (declared->kind == PLC_NUMERIC)
		write_numeric(writer, vector, at);
	else
	{
		plc_write_u8(writer, is_textual(declared->kind) ? PLC_FORM_BINARY : PLC_FORM_TEXT);
		write_text(writer, vector, at);
	}
}

/* The first element, as PL/R has it. */
static void
write_scalar(plc_writer *writer, const type *declared, SEXP value)
{
	if (TYPEOF(value) == VECSXP && !(OBJECT(value) && Rf_inherits(value, "POSIXlt")))
	{
		if (XLENGTH(value) == 0)
			plc_write_u8(writer, PLC_FORM_NULL);
		else
			encode_value(writer, declared, VECTOR_ELT(value, 0));
		return;
	}
	if (!Rf_isVector(value))
		fail("42804", "cannot turn an R object of type \"%s\" into a value of a column", Rf_type2char(TYPEOF(value)));
	value = PROTECT(resolve(declared, value));
	if (XLENGTH(value) == 0)
		plc_write_u8(writer, PLC_FORM_NULL);
	else
		write_element(writer, declared, value, 0);
	UNPROTECT(1);
}

/* Raw bytes as they are; any other object serialized, as PL/R has it. */
static void
write_bytea(plc_writer *writer, SEXP value)
{
	if (TYPEOF(value) == LGLSXP && XLENGTH(value) == 1 && is_na(value, 0))
	{
		plc_write_u8(writer, PLC_FORM_NULL);
		return;
	}
	if (TYPEOF(value) != RAWSXP)
		value = call_runtime("to_bytes", 1, value);
	PROTECT(value);
	plc_write_u8(writer, PLC_FORM_BINARY);
	plc_write_str(writer, (const char *) RAW(value), (size_t) XLENGTH(value));
	UNPROTECT(1);
}

/* --- rows -------------------------------------------------------------------------------------- */

SEXP
row_shape(const type *declared)
{
	bool		composite = declared->kind == PLC_COMPOSITE;
	uint32_t	count = composite ? declared->nfields : 1;
	SEXP		shape = PROTECT(Rf_allocVector(VECSXP, 3));
	SEXP		kinds = Rf_allocVector(INTSXP, count);
	SEXP		names;

	SET_VECTOR_ELT(shape, 0, kinds);
	names = Rf_allocVector(STRSXP, count);
	SET_VECTOR_ELT(shape, 1, names);
	SET_VECTOR_ELT(shape, 2, Rf_ScalarLogical(composite));
	for (uint32_t i = 0; i < count; i++)
	{
		INTEGER(kinds)[i] = (int) (composite ? declared->fields[i]->kind : declared->kind);
		SET_STRING_ELT(names, i, composite ? Rf_mkCharCE(declared->names[i], CE_UTF8) : R_BlankString);
	}
	UNPROTECT(1);
	return shape;
}

SEXP
to_columns(SEXP shape, SEXP value, bool one, R_xlen_t *rows)
{
	SEXP		answer = PROTECT(call_runtime("as_columns", 3, value, shape, Rf_ScalarLogical(one)));
	SEXP		columns = VECTOR_ELT(answer, 0);

	*rows = Rf_asInteger(VECTOR_ELT(answer, 1));
	UNPROTECT(1);
	return columns;
}

/* A cell of a column that as_columns() made: a list has whole values in it. */
void
encode_cell(plc_writer *writer, const type *declared, SEXP column, R_xlen_t row)
{
	if (TYPEOF(column) == VECSXP)
		encode_value(writer, declared, VECTOR_ELT(column, row));
	else
		write_element(writer, declared, column, row);
}

static void
write_fields(plc_writer *writer, const type *declared, SEXP columns, R_xlen_t row)
{
	plc_write_u8(writer, PLC_FORM_BINARY);
	for (uint32_t i = 0; i < declared->nfields; i++)
		encode_cell(writer, declared->fields[i], VECTOR_ELT(columns, i), row);
}

void
encode_row(plc_writer *writer, const type *declared, SEXP columns, R_xlen_t row)
{
	if (declared->kind == PLC_COMPOSITE)
		write_fields(writer, declared, columns, row);
	else
		encode_cell(writer, declared, VECTOR_ELT(columns, 0), row);
}

static void
write_composite(plc_writer *writer, const type *declared, SEXP value)
{
	R_xlen_t	rows;
	SEXP		shape = PROTECT(row_shape(declared));
	SEXP		columns = PROTECT(to_columns(shape, value, true, &rows));

	if (rows == 0)
		plc_write_u8(writer, PLC_FORM_NULL);
	else
		write_fields(writer, declared, columns, 0);
	UNPROTECT(2);
}

/* --- arrays --------------------------------------------------------------------------------------- */

typedef struct shape
{
	int			ndim;
	int32_t		lengths[PLC_MAX_DIMENSIONS];
	int32_t		bounds[PLC_MAX_DIMENSIONS];
	R_xlen_t	strides[PLC_MAX_DIMENSIONS];
	R_xlen_t	count;
} shape;

static shape
array_shape(SEXP vector)
{
	SEXP		dimensions = Rf_getAttrib(vector, R_DimSymbol);
	shape		found = {.ndim = 1, .count = XLENGTH(vector)};
	R_xlen_t	stride = 1;

	if (found.count > PLC_MAX_ELEMENTS)
		fail("54000", "array size exceeds the maximum allowed (%u)", (unsigned) PLC_MAX_ELEMENTS);
	if (dimensions != R_NilValue && LENGTH(dimensions) > PLC_MAX_DIMENSIONS)
		fail("54000", "number of array dimensions (%d) exceeds the maximum allowed (%d)", LENGTH(dimensions),
			 PLC_MAX_DIMENSIONS);
	if (found.count == 0)
		found.ndim = 0;
	else if (dimensions != R_NilValue)
		found.ndim = LENGTH(dimensions);
	for (int i = 0; i < found.ndim; i++)
	{
		found.lengths[i] = dimensions == R_NilValue ? (int32_t) found.count : INTEGER(dimensions)[i];
		found.bounds[i] = 1;
		found.strides[i] = stride;
		stride *= found.lengths[i];
	}
	return found;
}

/* Where R has the elements, in PostgreSQL's order: the last dimension runs fastest. NULL: in the same order. */
static R_xlen_t *
array_order(const shape *of)
{
	R_xlen_t   *order;
	int32_t		at[PLC_MAX_DIMENSIONS] = {0};
	R_xlen_t	place = 0;

	if (of->ndim < 2)
		return NULL;
	order = (R_xlen_t *) R_alloc((size_t) of->count, sizeof(R_xlen_t));
	for (R_xlen_t i = 0; i < of->count; i++)
	{
		order[i] = place;
		for (int j = of->ndim - 1; j >= 0; j--)
		{
			place += of->strides[j];
			if (++at[j] < of->lengths[j])
				break;
			place -= of->strides[j] * of->lengths[j];
			at[j] = 0;
		}
	}
	return order;
}

/* Bytes per element, not 0 where it is NULL; NULL where none is. */
static bool *
array_nulls(SEXP vector, const shape *of, const R_xlen_t *order)
{
	bool	   *nulls = NULL;

	for (R_xlen_t i = 0; i < of->count; i++)
	{
		if (!is_na(vector, order == NULL ? i : order[i]))
			continue;
		if (nulls == NULL)
		{
			nulls = (bool *) R_alloc((size_t) of->count, sizeof(bool));
			memset(nulls, 0, (size_t) of->count * sizeof(bool));
		}
		nulls[i] = true;
	}
	return nulls;
}

/* Elements of a fixed-size kind. Returns false, with nothing of use written, if one of them does not fit it. */
static bool
write_fixed_elements(plc_writer *writer, plc_kind kind, SEXP vector, const shape *of, const R_xlen_t *order,
					 const bool *nulls)
{
	size_t		size = plc_kind_size(kind);
	uint8_t    *place = plc_put(writer, size * (size_t) of->count);

	if (place == NULL)
		return true;
	for (R_xlen_t i = 0; i < of->count; i++, place += size)
	{
		if (nulls != NULL && nulls[i])
			memset(place, 0, size);
		else if (!store_fixed(place, kind, vector, order == NULL ? i : order[i]))
			return false;
	}
	return true;
}

static void
write_text_elements(plc_writer *writer, SEXP vector, const shape *of, const R_xlen_t *order, const bool *nulls)
{
	for (R_xlen_t i = 0; i < of->count; i++)
		if (nulls == NULL || !nulls[i])
			write_text(writer, vector, order == NULL ? i : order[i]);
}

static void
write_bytea_elements(plc_writer *writer, SEXP list, const shape *of, const R_xlen_t *order, const bool *nulls)
{
	for (R_xlen_t i = 0; i < of->count; i++)
	{
		SEXP		bytes = VECTOR_ELT(list, order == NULL ? i : order[i]);

		if (nulls != NULL && nulls[i])
			continue;
		if (TYPEOF(bytes) != RAWSXP)
			bytes = call_runtime("to_bytes", 1, bytes);
		PROTECT(bytes);
		plc_write_str(writer, (const char *) RAW(bytes), (size_t) XLENGTH(bytes));
		UNPROTECT(1);
	}
}

/* Whether the memory of a vector is what the wire has for its elements. */
static bool
is_wire_form(plc_kind kind, SEXP vector, const R_xlen_t *order, const bool *nulls)
{
	if (order != NULL || nulls != NULL)
		return false;
	return (kind == PLC_FLOAT8 && TYPEOF(vector) == REALSXP && !is_integer64(vector)) ||
		(kind == PLC_INT4 && TYPEOF(vector) == INTSXP);
}

/* An array of anything but rows, from a vector or list that has one element per element. */
static void
write_elements(plc_writer *writer, plc_kind kind, SEXP vector)
{
	shape		of = array_shape(vector);
	R_xlen_t   *order = array_order(&of);
	bool	   *nulls = array_nulls(vector, &of, order);
	plc_writer	before = *writer;

	if (plc_kind_size(kind) > 0)
	{
		plc_write_array(writer, kind, 0, of.ndim, of.lengths, of.bounds, nulls);
		if (is_wire_form(kind, vector, order, nulls))
		{
			size_t		length = plc_kind_size(kind) * (size_t) of.count;

			/* The result itself is protected until the answer was sent. */
			if (state.call != NULL && state.call->value == vector)
				plc_write_spliced(writer, DATAPTR_RO(vector), length);
			else
				plc_write_bytes(writer, DATAPTR_RO(vector), length);
			return;
		}
		if (write_fixed_elements(writer, kind, vector, &of, order, nulls))
			return;
		writer->length = before.length;
	}
	plc_write_array(writer, kind, is_textual(kind) || kind == PLC_BYTEA ? 0 : PLC_ARRAY_TEXT_ELEMENTS, of.ndim,
					of.lengths, of.bounds, nulls);
	if (kind == PLC_BYTEA)
		write_bytea_elements(writer, vector, &of, order, nulls);
	else
		write_text_elements(writer, vector, &of, order, nulls);
}

/* An array of composites from a data frame, or from a list of rows. */
static void
write_rows(plc_writer *writer, const type *element, SEXP value)
{
	R_xlen_t	rows;
	SEXP		rows_shape = PROTECT(row_shape(element));
	SEXP		columns;
	int32_t		length;
	int32_t		bound = 1;

	columns = PROTECT(to_columns(rows_shape, value, false, &rows));
	length = (int32_t) rows;
	plc_write_array(writer, element->kind, 0, rows > 0 ? 1 : 0, &length, &bound, NULL);
	for (R_xlen_t i = 0; i < rows; i++)
		write_fields(writer, element, columns, i);
	UNPROTECT(2);
}

static void
write_array(plc_writer *writer, const type *element, SEXP value)
{
	if (element->kind == PLC_RECORD)
		fail("0A000", "R functions cannot return arrays of records");
	plc_write_u8(writer, PLC_FORM_BINARY);
	if (element->kind == PLC_COMPOSITE)
	{
		write_rows(writer, element, value);
		return;
	}
	if (TYPEOF(value) == VECSXP || !Rf_isVector(value) || (element->kind == PLC_BYTEA))
		value = call_runtime("as_elements", 2, value, Rf_ScalarInteger((int) element->kind));
	PROTECT(value);
	value = PROTECT(resolve(element, value));
	write_elements(writer, element->kind, value);
	UNPROTECT(2);
}

/* --- values -------------------------------------------------------------------------------------------- */

void
encode_value(plc_writer *writer, const type *declared, SEXP value)
{
	if (value == R_NilValue || declared->kind == PLC_VOID)
	{
		plc_write_u8(writer, PLC_FORM_NULL);
		return;
	}
	switch (declared->kind)
	{
		case PLC_ARRAY:
			write_array(writer, declared->element, value);
			break;
		case PLC_COMPOSITE:
			write_composite(writer, declared, value);
			break;
		case PLC_RECORD:
			/* Its shape is nobody's: text, which the database can't read into a record of no known columns. */
			fail("0A000", "a function that returns record needs a column definition list or OUT parameters");
		case PLC_BYTEA:
			write_bytea(writer, value);
			break;
		default:
			write_scalar(writer, declared, value);
	}
}
