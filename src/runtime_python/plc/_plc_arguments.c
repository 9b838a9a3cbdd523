/*
 * _plc_arguments.c
 *		Values of calls and of rows to objects, as convert.py has it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

static PyObject *decode_element(plc_reader *reader, const value_type *type, int depth);

static PyObject *
decode_text(plc_span span)
{
	PyObject   *text = PyUnicode_DecodeUTF8(span.data, (Py_ssize_t) span.length, NULL);

	if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
	{
		PyErr_Clear();
		protocol_error("text is not valid UTF-8");
	}
	return text;
}

/* An object of a kind whose values are a `str`. */
static PyObject *
decode_variable(plc_reader *reader, plc_kind kind)
{
	plc_span	span = plc_read_str(reader);
	PyObject   *text;
	PyObject   *number;

	if (reader->error != NULL)
	{
		protocol_error(reader->error);
		return NULL;
	}
	if (kind == PLC_BYTEA)
		return PyBytes_FromStringAndSize(span.data, (Py_ssize_t) span.length);
	text = decode_text(span);
	if (text == NULL || kind != PLC_NUMERIC)
		return text;
	number = PyObject_CallFunctionObjArgs(state.decimal, text, NULL);
	Py_DECREF(text);
	return number;
}

/* An object of a kind whose values have one size; `bytes` need not be aligned. */
static inline PyObject *
decode_fixed(const uint8_t *bytes, plc_kind kind)
{
	int16_t		i2;
	int32_t		i4;
	int64_t		i8;
	uint32_t	u4;
	float		f4;
	double		f8;

	switch (kind)
	{
		case PLC_BOOL:
			if (*bytes > 1)
			{
				protocol_error("boolean is neither 0 nor 1");
				return NULL;
			}
			return PyBool_FromLong(*bytes);
		case PLC_INT2:
			memcpy(&i2, bytes, sizeof(i2));
			return PyLong_FromLong(i2);
		case PLC_INT4:
			memcpy(&i4, bytes, sizeof(i4));
			return PyLong_FromLong(i4);
		case PLC_INT8:
			memcpy(&i8, bytes, sizeof(i8));
			return PyLong_FromLongLong(i8);
		case PLC_OID:
			memcpy(&u4, bytes, sizeof(u4));
			return PyLong_FromUnsignedLong(u4);
		case PLC_FLOAT4:
			memcpy(&f4, bytes, sizeof(f4));
			return PyFloat_FromDouble((double) f4);
		default:
			memcpy(&f8, bytes, sizeof(f8));
			return PyFloat_FromDouble(f8);
	}
}

/*
 * The list of the array's elements from *next on, nested below `dimension`. Inlined once for
 * each kind of fixed size, which leaves no test of the kind in the loop.
 */
static inline __attribute__((always_inline)) int
fill_list(PyObject *list, plc_reader *reader, const plc_array *array, const value_type *type, plc_kind kind,
		  int depth, uint32_t *next)
{
	int32_t		length = array->lengths[array->ndim - 1];
	size_t		size = plc_kind_size(kind);

	for (int32_t i = 0; i < length; i++)
	{
		uint32_t	at = (*next)++;
		PyObject   *item;

		if (plc_array_is_null(array, at))
		{
			item = Py_None;
			Py_INCREF(item);
		}
		else if (size > 0)
			item = decode_fixed(array->elements + at * size, kind);
		else if (plc_kind_is_row(kind))
			item = decode_element(reader, type, depth);
		else
			item = decode_variable(reader, kind);
		/* Takes the reference, also when it fails. */
		if (item == NULL || PyList_SetItem(list, i, item) < 0)
			return -1;
	}
	return 0;
}

static int
fill_innermost(PyObject *list, plc_reader *reader, const plc_array *array, const value_type *type, int depth,
			   uint32_t *next)
{
	switch (type->kind)
	{
		case PLC_FLOAT8:
			return fill_list(list, reader, array, type, PLC_FLOAT8, depth, next);
		case PLC_INT8:
			return fill_list(list, reader, array, type, PLC_INT8, depth, next);
		case PLC_INT4:
			return fill_list(list, reader, array, type, PLC_INT4, depth, next);
		default:
			return fill_list(list, reader, array, type, (plc_kind) type->kind, depth, next);
	}
}

static PyObject *
decode_dimension(plc_reader *reader, const plc_array *array, const value_type *type, int depth, int dimension,
				 uint32_t *next)
{
	PyObject   *list;

	if (array->ndim == 0)
		return PyList_New(0);
	list = PyList_New(array->lengths[dimension]);
	if (list == NULL)
		return NULL;
	if (dimension == array->ndim - 1)
	{
		if (fill_innermost(list, reader, array, type, depth, next) == 0)
			return list;
		Py_DECREF(list);
		return NULL;
	}
	for (int32_t i = 0; i < array->lengths[dimension]; i++)
	{
		PyObject   *item = decode_dimension(reader, array, type, depth, dimension + 1, next);

		if (item == NULL || PyList_SetItem(list, i, item) < 0)
		{
			Py_DECREF(list);
			return NULL;
		}
	}
	return list;
}

/* --- numpy ----------------------------------------------------------------- */

static PyObject *
make_lengths(const plc_array *array)
{
	/* numpy has no array without a dimension that is empty. */
	int			ndim = array->ndim > 0 ? array->ndim : 1;
	PyObject   *lengths = PyTuple_New(ndim);

	for (int i = 0; lengths != NULL && i < ndim; i++)
	{
		PyObject   *length = PyLong_FromLong(array->ndim > 0 ? array->lengths[i] : 0);

		if (length == NULL || PyTuple_SetItem(lengths, i, length) < 0)
		{
			Py_DECREF(lengths);
			return NULL;
		}
	}
	return lengths;
}

/*
 * A numpy array of the elements, where they were received if that is memory of their own. It
 * may be written to.
 */
static PyObject *
decode_numpy(const plc_reader *reader, const plc_array *array, plc_kind kind)
{
	size_t		size = array->count * plc_kind_size(kind);
	PyObject   *data = state.payload;
	Py_ssize_t	offset = array->elements - reader->start;
	PyObject   *lengths;
	PyObject   *result = NULL;

	for (uint32_t i = 0; kind == PLC_BOOL && i < array->count; i++)
		if (array->elements[i] > 1)
		{
			protocol_error("boolean is neither 0 nor 1");
			return NULL;
		}
	if (data == NULL)
	{
		data = PyByteArray_FromStringAndSize((const char *) array->elements, (Py_ssize_t) size);
		offset = 0;
	}
	else
		Py_INCREF(data);
	lengths = data == NULL ? NULL : make_lengths(array);
	if (lengths != NULL)
		result = PyObject_CallFunction(state.numpy_array, "OniOy#", data, offset, (int) kind, lengths,
									   (const char *) array->nulls,
									   array->nulls == NULL ? (Py_ssize_t) 0 : ((Py_ssize_t) array->count + 7) / 8);
	Py_XDECREF(lengths);
	Py_XDECREF(data);
	return result;
}

static PyObject *
decode_array(plc_reader *reader, const value_type *type, int depth)
{
	const value_type *element = type->inner;
	plc_array	array;
	uint32_t	next = 0;

	plc_read_array(reader, (plc_kind) element->kind, &array);
	if (reader->error == NULL && (array.flags & PLC_ARRAY_TEXT_ELEMENTS) != 0)
		plc_reader_fail(reader, "form is not allowed here");
	if (reader->error != NULL)
	{
		protocol_error(reader->error);
		return NULL;
	}
	if (type->numpy)
		return decode_numpy(reader, &array, (plc_kind) element->kind);
	return decode_dimension(reader, &array, element, depth + 1, 0, &next);
}

/* --- rows ------------------------------------------------------------------ */

static bool
is_form(const plc_reader *reader, plc_form form)
{
	return reader->cursor < reader->end && *reader->cursor == form;
}

PyObject *
decode_row(plc_reader *reader, const value_type *type, int depth)
{
	PyObject   *row = PyDict_New();

	for (uint32_t i = 0; row != NULL && i < type->count; i++)
	{
		PyObject   *value;
		int			result;

		if (is_form(reader, PLC_FORM_ABSENT))
		{
			plc_take(reader, 1);
			continue;
		}
		value = decode_value(reader, &type->inner[i], depth);
		result = value == NULL ? -1 : PyDict_SetItem(row, type->names[i], value);
		Py_XDECREF(value);
		if (result < 0)
		{
			Py_DECREF(row);
			return NULL;
		}
	}
	return row;
}

static PyObject *
decode_record(plc_reader *reader, int depth)
{
	value_type *type = read_record_type(reader, depth + 1);
	PyObject   *row = type == NULL ? NULL : decode_row(reader, type, depth + 2);

	release_type(type);
	return row;
}

/* An element that is a row: what the bitmap does not call NULL is none. */
static PyObject *
decode_element(plc_reader *reader, const value_type *type, int depth)
{
	if (is_form(reader, PLC_FORM_NULL))
	{
		protocol_error("form is not allowed here");
		return NULL;
	}
	return decode_value(reader, type, depth);
}

PyObject *
decode_value(plc_reader *reader, const value_type *type, int depth)
{
	uint8_t		form = plc_read_u8(reader);
	size_t		size = plc_kind_size((plc_kind) type->kind);
	const uint8_t *bytes;

	if (form == PLC_FORM_NULL && reader->error == NULL)
	{
		Py_INCREF(Py_None);
		return Py_None;
	}
	if (reader->error == NULL && (form != PLC_FORM_BINARY || type->kind == PLC_VOID))
		plc_reader_fail(reader, "form is not allowed here");
	bytes = plc_take(reader, size);
	if (bytes == NULL)
	{
		protocol_error(reader->error);
		return NULL;
	}
	if (size > 0)
		return decode_fixed(bytes, (plc_kind) type->kind);
	switch (type->kind)
	{
		case PLC_ARRAY:
			return decode_array(reader, type, depth);
		case PLC_COMPOSITE:
			return decode_row(reader, type, depth + 1);
		case PLC_RECORD:
			return decode_record(reader, depth);
		default:
			return decode_variable(reader, (plc_kind) type->kind);
	}
}
