/*
 * _plc_results.c
 *		Results of functions to values, as convert.py has it.
 *
 * The functions that write one object return 1 when they did, 0 when the object has no exact
 * binary form and travels as text, -1 with an exception set.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <math.h>
#include <stdlib.h>

/*
 * Part of every CPython from 3.3 on with this very layout, but of the limited API only since
 * 3.10 and 3.11.
 */
typedef struct plc_buffer
{
	void	   *buf;
	PyObject   *obj;
	Py_ssize_t	len;
	Py_ssize_t	itemsize;
	int			readonly;
	int			ndim;
	char	   *format;
	Py_ssize_t *shape;
	Py_ssize_t *strides;
	Py_ssize_t *suboffsets;
	void	   *internal;
} plc_buffer;

#define PLC_BUFFER_FORMAT 0x0004
#define PLC_BUFFER_STRIDES 0x0018

extern int	PyObject_GetBuffer(PyObject *object, plc_buffer *view, int flags);
extern void PyBuffer_Release(plc_buffer *view);
extern int	PyBuffer_ToContiguous(void *place, const plc_buffer *view, Py_ssize_t length, char order);
extern const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *size);

int
written(const plc_writer *writer)
{
	if (writer->error == NULL)
		return 1;
	PyErr_NoMemory();
	return -1;
}

/* The text of an object as PL/Python makes it: a subclass of str is its own text, one of float has that of its value. */
static PyObject *
make_text(PyObject *object)
{
	PyObject   *number;
	PyObject   *text;

	if (PyUnicode_Check(object))
	{
		Py_INCREF(object);
		return object;
	}
	if (!PyFloat_Check(object))
		return PyObject_Str(object);
	number = PyFloat_FromDouble(PyFloat_AsDouble(object));
	text = number == NULL ? NULL : PyObject_Repr(number);
	Py_XDECREF(number);
	return text;
}

static int
write_string(plc_writer *writer, PyObject *object)
{
	PyObject   *text = make_text(object);
	const char *data;
	Py_ssize_t	size;
	int			result = -1;

	if (text == NULL)
		return conversion_error(TEXT_FAILED);
	data = PyUnicode_AsUTF8AndSize(text, &size);
	if (data == NULL)
		conversion_error(ENCODING_FAILED);
	else if (memchr(data, '\0', (size_t) size) != NULL)
		conversion_error(NULL_BYTES);
	else
	{
		plc_write_str(writer, data, (size_t) size);
		result = written(writer);
	}
	Py_DECREF(text);
	return result;
}

static int
write_bytes(plc_writer *writer, PyObject *object)
{
	PyObject   *bytes = PyObject_Bytes(object);
	int			result;

	if (bytes == NULL)
		return conversion_error(BYTES_FAILED);
	plc_write_str(writer, PyBytes_AsString(bytes), (size_t) PyBytes_Size(bytes));
	result = written(writer);
	Py_DECREF(bytes);
	return result;
}

/* Whether a Decimal's text is what the database itself would print. */
static bool
is_plain_numeric(const char *text, Py_ssize_t size)
{
	for (Py_ssize_t i = 0; i < size; i++)
		if (!((text[i] >= '0' && text[i] <= '9') || text[i] == '-' || text[i] == '.'))
			return strcmp(text, "NaN") == 0 || strcmp(text, "Infinity") == 0 ||
				strcmp(text, "-Infinity") == 0;
	return true;
}

static bool
is_decimal(PyObject *object)
{
	static PyObject *decimal_type = NULL;

	if (decimal_type == NULL)
	{
		PyObject   *module = PyImport_ImportModule("decimal");

		if (module != NULL)
			decimal_type = PyObject_GetAttrString(module, "Decimal");
		Py_XDECREF(module);
		PyErr_Clear();
	}
	return (PyObject *) Py_TYPE(object) == decimal_type;
}

static int
write_numeric(plc_writer *writer, PyObject *object)
{
	PyObject   *text;
	const char *data;
	Py_ssize_t	size;
	int			result = 0;

	if (PyLong_CheckExact(object))
		return write_string(writer, object);
	if (!is_decimal(object))
		return 0;
	text = PyObject_Str(object);
	if (text == NULL)
		return conversion_error(TEXT_FAILED);
	data = PyUnicode_AsUTF8AndSize(text, &size);
	if (data == NULL)
		result = -1;
	else if (is_plain_numeric(data, size))
	{
		plc_write_str(writer, data, (size_t) size);
		result = written(writer);
	}
	Py_DECREF(text);
	return result;
}

static int
write_variable(plc_writer *writer, plc_kind kind, PyObject *object)
{
	if (kind == PLC_BYTEA)
		return write_bytes(writer, object);
	if (kind == PLC_NUMERIC)
		return write_numeric(writer, object);
	return write_string(writer, object);
}

static inline int
exact_int(plc_kind kind, PyObject *object, uint8_t *place)
{
	int			overflow;
	int64_t		i8;
	uint32_t	u4;
	int32_t		i4;
	int16_t		i2;

	if (!PyLong_CheckExact(object))
		return 0;
	i8 = PyLong_AsLongLongAndOverflow(object, &overflow);
	if (overflow != 0)
		return 0;
	switch (kind)
	{
		case PLC_INT8:
			memcpy(place, &i8, sizeof(i8));
			return 1;
		case PLC_OID:
			u4 = (uint32_t) i8;
			memcpy(place, &u4, sizeof(u4));
			return u4 == i8;
		case PLC_INT4:
			i4 = (int32_t) i8;
			memcpy(place, &i4, sizeof(i4));
			return i4 == i8;
		default:
			i2 = (int16_t) i8;
			memcpy(place, &i2, sizeof(i2));
			return i2 == i8;
	}
}

static inline int
exact_float(plc_kind kind, PyObject *object, uint8_t *place)
{
	double		f8;
	float		f4;

	if (PyFloat_CheckExact(object) || PyFloat_Check(object))
		f8 = PyFloat_AsDouble(object);
	else if (PyLong_CheckExact(object))
	{
		/* Up to this size integers are exact in the type. */
		int64_t		bound = INT64_C(1) << (kind == PLC_FLOAT8 ? 53 : 24);
		int			overflow;
		int64_t		i8 = PyLong_AsLongLongAndOverflow(object, &overflow);

		if (overflow != 0 || i8 > bound || i8 < -bound)
			return 0;
		f8 = (double) i8;
	}
	else
		return 0;
	if (kind == PLC_FLOAT8)
	{
		memcpy(place, &f8, sizeof(f8));
		return 1;
	}
	f4 = (float) f8;
	memcpy(place, &f4, sizeof(f4));
	/* The database calls a number too large or too small for its type an error. */
	return !(isinf(f4) && !isinf(f8)) && !(f4 == 0 && f8 != 0);
}

/* Puts an object's value of a kind of fixed size at `place`. */
static inline int
exact_fixed(plc_kind kind, PyObject *object, uint8_t *place)
{
	int			truth;

	switch (kind)
	{
		case PLC_BOOL:
			truth = PyObject_IsTrue(object);
			*place = truth == 1;
			return truth < 0 ? -1 : 1;
		case PLC_INT2:
		case PLC_INT4:
		case PLC_INT8:
		case PLC_OID:
			return exact_int(kind, object, place);
		default:
			return exact_float(kind, object, place);
	}
}

/* Raises the error of an item that a sequence did not give, caused by the error that is set. */
static void
element_error(Py_ssize_t i)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;
	PyObject   *index;

	PyErr_Fetch(&type, &value, &traceback);
	index = PyUnicode_FromFormat("%zd", i);
	if (index == NULL)
		PyErr_Clear();
	PyErr_Restore(type, value, traceback);
	conversion_error_of(ELEMENT_FAILED, index);
	Py_XDECREF(index);
}

/* A list of the items of any sequence. */
static PyObject *
list_of(PyObject *sequence)
{
	Py_ssize_t	length = PySequence_Size(sequence);
	PyObject   *list = length >= 0 ? PyList_New(length) : NULL;

	if (list == NULL)
		conversion_error(NO_LENGTH);
	for (Py_ssize_t i = 0; list != NULL && i < length; i++)
	{
		PyObject   *item = PySequence_GetItem(sequence, i);

		if (item == NULL)
		{
			element_error(i);
			Py_DECREF(list);
			return NULL;
		}
		PyList_SetItem(list, i, item);
	}
	return list;
}

/* The list or tuple of an array result's items: a new reference. */
static PyObject *
as_sequence(PyObject *object)
{
	PyObject   *source = object;
	PyObject   *list;

	Py_INCREF(source);
	if (PyList_CheckExact(source) || PyTuple_CheckExact(source))
		return source;
	if (PyObject_HasAttrString(source, "tolist"))
	{
		Py_DECREF(source);
		source = PyObject_CallMethod(object, "tolist", NULL);
		if (source == NULL)
		{
			conversion_error(NO_LENGTH);
			return NULL;
		}
	}
	if (!PySequence_Check(source))
	{
		Py_DECREF(source);
		conversion_error(NOT_A_SEQUENCE);
		return NULL;
	}
	list = list_of(source);
	Py_DECREF(source);
	return list;
}

PyObject *
get_item(PyObject *sequence, Py_ssize_t i)
{
	return PyList_Check(sequence) ? PyList_GetItem(sequence, i) : PyTuple_GetItem(sequence, i);
}

/*
 * Collects the elements of nested lists. Only true lists are dimensions, as in PL/Python.
 */
static int
flatten(PyObject *sequence, int depth, int *ndim, int32_t *lengths, PyObject *items)
{
	Py_ssize_t	length = PySequence_Size(sequence);

	for (Py_ssize_t i = 0; i < length; i++)
	{
		PyObject   *item = get_item(sequence, i);

		if (item == NULL)
			return -1;
		if (!PyList_Check(item))
		{
			if (*ndim != depth)
				return conversion_error(RAGGED);
			if (PyList_Append(items, item) < 0)
				return -1;
			continue;
		}
		if (i == 0 && *ndim == depth)
		{
			if (PyList_Size(items) > 0)
				return conversion_error(RAGGED);
			if (depth >= PLC_MAX_DIMENSIONS)
				return conversion_error(TOO_DEEP);
			lengths[(*ndim)++] = (int32_t) PyList_Size(item);
		}
		else if (depth >= *ndim || PyList_Size(item) != lengths[depth])
			return conversion_error(RAGGED);
		if (flatten(item, depth + 1, ndim, lengths, items) < 0)
			return -1;
	}
	return 0;
}

static int
write_elements(plc_writer *writer, const value_type *type, PyObject *items, size_t count, const bool *nulls,
			   bool text)
{
	plc_kind	kind = (plc_kind) type->kind;
	size_t		size = text ? 0 : plc_kind_size(kind);

	for (size_t i = 0; i < count; i++)
	{
		PyObject   *item = get_item(items, (Py_ssize_t) i);
		uint8_t    *place = NULL;
		int			result;

		if (item == NULL)
			return -1;
		if (size > 0)
		{
			place = plc_put(writer, size);
			if (place == NULL)
				return written(writer);
			memset(place, 0, size);
		}
		if (nulls != NULL && nulls[i])
			continue;
		/* Its methods may take it out of the list. */
		Py_INCREF(item);
		if (text)
			result = write_string(writer, item);
		else if (plc_kind_is_row(kind))
			result = write_result(writer, type, item, true);
		else
			result = size > 0 ? exact_fixed(kind, item, place) : write_variable(writer, kind, item);
		Py_DECREF(item);
		if (result != 1)
			return result;
	}
	return 1;
}

/* Writes flat elements: in binary, or all of them as text when one of them has no exact form. */
static int
write_flat(plc_writer *writer, const value_type *type, PyObject *items, int ndim, const int32_t *lengths)
{
	static const int32_t ones[PLC_MAX_DIMENSIONS] = {1, 1, 1, 1, 1, 1};
	size_t		count = (size_t) PySequence_Size(items);
	size_t		mark = writer->length;
	bool	   *nulls = calloc(count + 1, sizeof(bool));
	bool		has_nulls = false;
	int			result = 0;

	if (nulls == NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	for (size_t i = 0; i < count; i++)
		has_nulls |= nulls[i] = get_item(items, (Py_ssize_t) i) == Py_None;
	for (int text = 0; text <= 1 && result == 0; text++)
	{
		writer->length = mark;
		plc_write_array(writer, (plc_kind) type->kind, text ? PLC_ARRAY_TEXT_ELEMENTS : 0, ndim, lengths, ones,
						has_nulls ? nulls : NULL);
		result = write_elements(writer, type, items, count, has_nulls ? nulls : NULL, text == 1);
	}
	free(nulls);
	return result;
}

/*
 * The common case: a list of exact numbers without NULL goes straight to its place. Returns 0
 * when it is not that.
 */
static inline __attribute__((always_inline)) int
write_numbers(plc_writer *writer, plc_kind kind, size_t size, PyObject *list)
{
	static const int32_t one = 1;
	Py_ssize_t	count = PyList_Size(list);
	int32_t		length = (int32_t) count;
	size_t		mark = writer->length;
	uint8_t    *place;

	plc_write_array(writer, kind, 0, 1, &length, &one, NULL);
	place = plc_put(writer, (size_t) count * size);
	if (place == NULL)
		return written(writer);
	for (Py_ssize_t i = 0; i < count; i++, place += size)
	{
		/* No code of users runs here: the list stays as it is. */
		PyObject   *item = PyList_GetItem(list, i);
		int			exact = size == 0 ? 0 : exact_fixed(kind, item, place);

		if (exact != 1)
		{
			writer->length = mark;
			return exact;
		}
	}
	return 1;
}

static int
write_list(plc_writer *writer, plc_kind kind, PyObject *list)
{
	switch (kind)
	{
		case PLC_FLOAT8:
			return write_numbers(writer, PLC_FLOAT8, 8, list);
		case PLC_FLOAT4:
			return write_numbers(writer, PLC_FLOAT4, 4, list);
		case PLC_INT8:
			return write_numbers(writer, PLC_INT8, 8, list);
		case PLC_INT4:
			return write_numbers(writer, PLC_INT4, 4, list);
		case PLC_INT2:
			return write_numbers(writer, PLC_INT2, 2, list);
		default:
			return 0;
	}
}

/* Whether elements of a buffer lie in memory as those of an array of a kind do. */
static bool
is_format(plc_kind kind, const plc_buffer *view)
{
	const char *format = view->format == NULL ? "B" : view->format;
	const char *formats;

	if (*format == '@' || *format == '=' || *format == '<')
		format++;
	switch (kind)
	{
		case PLC_FLOAT8:
			formats = "d";
			break;
		case PLC_FLOAT4:
			formats = "f";
			break;
		case PLC_BOOL:
			formats = "?";
			break;
		case PLC_OID:
			formats = "IL";
			break;
		default:
			formats = "hilq";
			break;
	}
	return format[0] != '\0' && format[1] == '\0' && strchr(formats, format[0]) != NULL &&
		(size_t) view->itemsize == plc_kind_size(kind);
}

/* The lengths of a buffer's dimensions; false when no array has as many elements. */
static bool
take_lengths(const plc_buffer *view, int32_t *lengths, size_t *count)
{
	*count = 1;
	for (int i = 0; i < view->ndim; i++)
	{
		if (view->shape[i] > PLC_MAX_ELEMENTS || (*count *= (size_t) view->shape[i]) > PLC_MAX_ELEMENTS)
			return false;
		lengths[i] = (int32_t) view->shape[i];
	}
	return true;
}

static int
copy_elements(plc_writer *writer, plc_kind kind, plc_buffer *view, size_t count, const bool *nulls)
{
	static const int32_t ones[PLC_MAX_DIMENSIONS] = {1, 1, 1, 1, 1, 1};
	int32_t		lengths[PLC_MAX_DIMENSIONS];
	size_t		size = count * (size_t) view->itemsize;
	uint8_t    *place;

	take_lengths(view, lengths, &count);
	plc_write_array(writer, kind, 0, count > 0 ? view->ndim : 0, lengths, ones, nulls);
	place = plc_put(writer, size);
	if (place == NULL)
		return written(writer);
	if (size > 0 && PyBuffer_ToContiguous(place, view, (Py_ssize_t) size, 'C') < 0)
		return -1;
	for (size_t i = 0; kind == PLC_BOOL && i < count; i++)
		place[i] = place[i] != 0;
	return 1;
}

/* Copies the elements of a numpy array and the like; 0 when they are not of the kind. */
static int
write_buffer(plc_writer *writer, plc_kind kind, PyObject *object, const bool *nulls, size_t nulls_count)
{
	int32_t		lengths[PLC_MAX_DIMENSIONS];
	plc_buffer	view;
	size_t		count;
	int			result = 0;

	if (PyObject_GetBuffer(object, &view, PLC_BUFFER_FORMAT | PLC_BUFFER_STRIDES) < 0)
	{
		if (!PyErr_ExceptionMatches(PyExc_Exception))
			return -1;
		PyErr_Clear();
		return 0;
	}
	/* Too large ones fail where lists of that length do. */
	if (view.ndim >= 1 && view.ndim <= PLC_MAX_DIMENSIONS && is_format(kind, &view) &&
		take_lengths(&view, lengths, &count) && (nulls == NULL || count == nulls_count))
		result = copy_elements(writer, kind, &view, count, count > 0 ? nulls : NULL);
	PyBuffer_Release(&view);
	return result;
}

/* --- numpy's masked arrays ------------------------------------------------- */

/* Whether an object is one; a sandbox that has not loaded them has none. */
static int
is_masked(PyObject *object)
{
	static PyObject *name = NULL;
	PyObject   *module;
	PyObject   *type;
	int			result = 0;

	if (name == NULL)
		name = PyUnicode_InternFromString("numpy.ma");
	module = name == NULL ? NULL : PyImport_GetModule(name);
	if (module != NULL)
	{
		type = PyObject_GetAttrString(module, "MaskedArray");
		result = type == NULL ? -1 : PyObject_IsInstance(object, type);
		Py_XDECREF(type);
		Py_DECREF(module);
	}
	return PyErr_Occurred() ? -1 : result;
}

/* Writes the elements of a masked array; 0 when they are not of the kind. */
static int
write_masked(plc_writer *writer, plc_kind kind, PyObject *object)
{
	PyObject   *pair = PyObject_CallFunctionObjArgs(state.filled, object, NULL);
	PyObject   *mask = pair == NULL ? NULL : PyTuple_GetItem(pair, 1);
	plc_buffer	view;
	int			result;

	if (mask == NULL || PyObject_GetBuffer(mask, &view, 0) < 0)
	{
		Py_XDECREF(pair);
		return -1;
	}
	result = write_buffer(writer, kind, PyTuple_GetItem(pair, 0),
						  memchr(view.buf, 1, (size_t) view.len) != NULL ? view.buf : NULL, (size_t) view.len);
	PyBuffer_Release(&view);
	Py_DECREF(pair);
	return result;
}

static int
write_exported(plc_writer *writer, plc_kind kind, PyObject *object)
{
	int			masked = is_masked(object);

	if (masked != 0)
		return masked < 0 ? -1 : write_masked(writer, kind, object);
	return write_buffer(writer, kind, object, NULL, 0);
}

/* --- arrays ---------------------------------------------------------------- */

static int
write_sequence(plc_writer *writer, const value_type *type, PyObject *sequence)
{
	Py_ssize_t	length = PySequence_Size(sequence);
	int32_t		lengths[PLC_MAX_DIMENSIONS] = {(int32_t) length};
	int			ndim = 1;
	bool		nested = false;
	PyObject   *items;
	int			result;

	if (length > PLC_MAX_ELEMENTS)
		return conversion_error(TOO_MANY);
	for (Py_ssize_t i = 0; i < length && !nested; i++)
		nested = PyList_Check(get_item(sequence, i));
	/* Methods of rows may change the list. */
	if (length > 0 && !nested && !plc_kind_is_row((plc_kind) type->kind))
		return write_flat(writer, type, sequence, ndim, lengths);
	items = nested ? PyList_New(0) : PySequence_List(sequence);
	if (items == NULL)
		return -1;
	result = nested ? flatten(sequence, 1, &ndim, lengths, items) : 0;
	if (result == 0 && PyList_Size(items) > PLC_MAX_ELEMENTS)
		result = conversion_error(TOO_MANY);
	if (result == 0)
		result = write_flat(writer, type, items, PyList_Size(items) > 0 ? ndim : 0, lengths);
	Py_DECREF(items);
	return result;
}

static int
write_array(plc_writer *writer, const value_type *type, PyObject *object)
{
	plc_kind	kind = (plc_kind) type->kind;
	PyObject   *sequence;
	int			result = 0;

	if (plc_kind_size(kind) > 0 && !PyList_Check(object) && !PyTuple_Check(object))
	{
		result = write_exported(writer, kind, object);
		if (result != 0)
			return result;
	}
	sequence = as_sequence(object);
	if (sequence == NULL)
		return -1;
	if (PyList_Check(sequence) && PyList_Size(sequence) > 0 && PyList_Size(sequence) <= PLC_MAX_ELEMENTS)
		result = write_list(writer, kind, sequence);
	if (result == 0)
		result = write_sequence(writer, type, sequence);
	Py_DECREF(sequence);
	return result;
}

/* --- rows ------------------------------------------------------------------ */

/* How the value of a field is had from an object: a new reference, or NULL with an exception set. */
typedef PyObject *(*get_field) (PyObject *object, const value_type *type, uint32_t i);

static PyObject *
get_key(PyObject *object, const value_type *type, uint32_t i)
{
	PyObject   *value = PyObject_GetItem(object, type->names[i]);

	if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyError))
		PyErr_Clear();
	if (value == NULL)
		conversion_error_of(KEY_MISSING, type->names[i]);
	return value;
}

static PyObject *
get_element(PyObject *object, const value_type *type, uint32_t i)
{
	PyObject   *index = PyLong_FromUnsignedLong(i);
	PyObject   *value = index == NULL ? NULL : PyObject_GetItem(object, index);

	(void) type;
	Py_XDECREF(index);
	return value;
}

static PyObject *
get_attribute_for(PyObject *object, const value_type *type, uint32_t i, int reason)
{
	PyObject   *value = PyObject_GetAttr(object, type->names[i]);

	if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
		PyErr_Clear();
	if (value == NULL)
		conversion_error_of(reason, type->names[i]);
	return value;
}

static PyObject *
get_attribute(PyObject *object, const value_type *type, uint32_t i)
{
	return get_attribute_for(object, type, i, ATTRIBUTE_MISSING);
}

static PyObject *
get_attribute_of_element(PyObject *object, const value_type *type, uint32_t i)
{
	return get_attribute_for(object, type, i, ATTRIBUTE_OF_ELEMENT_MISSING);
}

static int
write_fields(plc_writer *writer, const value_type *type, PyObject *object, get_field get)
{
	plc_write_u8(writer, PLC_FORM_BINARY);
	for (uint32_t i = 0; i < type->count; i++)
	{
		PyObject   *value = get(object, type, i);
		int			result = value == NULL ? -1 : write_result(writer, &type->inner[i], value, false);

		Py_XDECREF(value);
		if (result < 0)
			return -1;
	}
	return written(writer);
}

static int
check_length(const value_type *type, PyObject *sequence)
{
	Py_ssize_t	length = PyObject_Size(sequence);

	return length == (Py_ssize_t) type->count ? 0 : conversion_error(LENGTH_DIFFERS);
}

/* The literal of a row, for the database to read. */
static int
write_literal(plc_writer *writer, PyObject *object, bool in_array)
{
	size_t		begin = writer->length + 5;

	plc_write_u8(writer, PLC_FORM_TEXT);
	if (write_string(writer, object) < 0)
		return -1;
	/* The database would say so as well, but not what most likely is the reason. */
	while (in_array && begin < writer->length && strchr(" \t\n\v\f\r", writer->data[begin]) != NULL)
		begin++;
	if (in_array && (begin == writer->length || writer->data[begin] != '('))
		return conversion_error_of(MALFORMED_RECORD, object);
	return 1;
}

static int
write_composite(plc_writer *writer, const value_type *type, PyObject *object, bool in_array)
{
	int			mapping;

	if (PyUnicode_Check(object))
		return write_literal(writer, object, in_array);
	mapping = PyDict_Check(object) ? 1 : PyTuple_Check(object) || PyList_Check(object) ? 0
		: PyObject_IsInstance(object, state.mapping);
	if (mapping < 0)
		return -1;
	if (mapping == 1)
		return write_fields(writer, type, object, get_key);
	if (PySequence_Check(object) || PyMapping_Check(object))
		return check_length(type, object) < 0 ? -1 : write_fields(writer, type, object, get_element);
	return write_fields(writer, type, object, in_array ? get_attribute_of_element : get_attribute);
}

int
write_result(plc_writer *writer, const value_type *type, PyObject *object, bool in_array)
{
	plc_kind	kind = (plc_kind) type->kind;
	size_t		mark = writer->length;
	size_t		size = plc_kind_size(kind);
	uint8_t    *place;
	int			result = 0;

	if (object == Py_None)
	{
		plc_write_u8(writer, PLC_FORM_NULL);
		return written(writer);
	}
	if (kind == PLC_VOID)
		return conversion_error(NOT_VOID);
	if (kind == PLC_COMPOSITE)
		return write_composite(writer, type, object, in_array);
	plc_write_u8(writer, PLC_FORM_BINARY);
	if (size > 0)
	{
		place = plc_put(writer, size);
		result = place == NULL ? written(writer) : exact_fixed(kind, object, place);
	}
	else if (kind == PLC_ARRAY)
		result = write_array(writer, type->inner, object);
	else if (kind != PLC_RECORD)
		result = write_variable(writer, kind, object);
	if (result != 0)
		return result;
	writer->length = mark;
	plc_write_u8(writer, PLC_FORM_TEXT);
	return write_string(writer, object);
}
