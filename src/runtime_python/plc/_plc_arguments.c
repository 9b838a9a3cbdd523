/*
 * _plc_arguments.c
 *		Values of a CallReq to objects, as convert.py has it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

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
fill_list(PyObject *list, plc_reader *reader, const plc_array *array, plc_kind kind, size_t size,
		  uint32_t *next)
{
	int32_t		length = array->lengths[array->ndim - 1];

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
		else
			item = decode_variable(reader, kind);
		/* Takes the reference, also when it fails. */
		if (item == NULL || PyList_SetItem(list, i, item) < 0)
			return -1;
	}
	return 0;
}

static int
fill_innermost(PyObject *list, plc_reader *reader, const plc_array *array, plc_kind kind, uint32_t *next)
{
	switch (kind)
	{
		case PLC_FLOAT8:
			return fill_list(list, reader, array, PLC_FLOAT8, 8, next);
		case PLC_INT8:
			return fill_list(list, reader, array, PLC_INT8, 8, next);
		case PLC_INT4:
			return fill_list(list, reader, array, PLC_INT4, 4, next);
		default:
			return fill_list(list, reader, array, kind, plc_kind_size(kind), next);
	}
}

static PyObject *
decode_dimension(plc_reader *reader, const plc_array *array, plc_kind kind, int dimension, uint32_t *next)
{
	PyObject   *list;

	if (array->ndim == 0)
		return PyList_New(0);
	list = PyList_New(array->lengths[dimension]);
	if (list == NULL)
		return NULL;
	if (dimension == array->ndim - 1)
	{
		if (fill_innermost(list, reader, array, kind, next) == 0)
			return list;
		Py_DECREF(list);
		return NULL;
	}
	for (int32_t i = 0; i < array->lengths[dimension]; i++)
	{
		PyObject   *item = decode_dimension(reader, array, kind, dimension + 1, next);

		if (item == NULL || PyList_SetItem(list, i, item) < 0)
		{
			Py_DECREF(list);
			return NULL;
		}
	}
	return list;
}

static PyObject *
decode_array(plc_reader *reader, plc_kind kind)
{
	plc_array	array;
	uint32_t	next = 0;

	plc_read_array(reader, kind, &array);
	if (reader->error == NULL && (array.flags & PLC_ARRAY_TEXT_ELEMENTS) != 0)
		plc_reader_fail(reader, "form is not allowed here");
	if (reader->error != NULL)
	{
		protocol_error(reader->error);
		return NULL;
	}
	return decode_dimension(reader, &array, kind, 0, &next);
}

PyObject *
decode_value(plc_reader *reader, plc_kind kind, plc_kind element)
{
	uint8_t		form = plc_read_u8(reader);
	size_t		size = plc_kind_size(kind);
	const uint8_t *bytes;

	if (form == PLC_FORM_NULL && reader->error == NULL)
	{
		Py_INCREF(Py_None);
		return Py_None;
	}
	if (reader->error == NULL && (form != PLC_FORM_BINARY || kind == PLC_VOID))
		plc_reader_fail(reader, "form is not allowed here");
	if (size == 0 && reader->error == NULL)
		return kind == PLC_ARRAY ? decode_array(reader, element) : decode_variable(reader, kind);
	bytes = plc_take(reader, size);
	if (bytes == NULL)
	{
		protocol_error(reader->error);
		return NULL;
	}
	return decode_fixed(bytes, kind);
}
