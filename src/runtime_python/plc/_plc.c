/*
 * _plc.c
 *		The loop that serves calls: frames in, arguments to objects, the function's
 *		result to a frame. What happens once per function or once per error is left
 *		to runtime.py.
 *
 * Built for the limited API, so that one file serves every CPython from 3.9 on.
 * convert.py and loop.py say the same in Python, for where this can't be loaded.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x03090000
#endif
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "../../protocol/plc_protocol.h"

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
#define PLC_BUFFER_ND 0x0008

extern int	PyObject_GetBuffer(PyObject *object, plc_buffer *view, int flags);
extern void PyBuffer_Release(plc_buffer *view);
extern const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *size);

/* Also of every CPython, and of no limited API: looked up, and done without where it is not there. */
typedef struct plc_arena_allocator
{
	void	   *context;
	void	   *(*alloc) (void *context, size_t size);
	void		(*free) (void *context, void *address, size_t size);
} plc_arena_allocator;

/* Why a result can't be converted: numbers of convert.py. */
enum
{
	BYTES_FAILED = 0,
	TEXT_FAILED = 1,
	ENCODING_FAILED = 2,
	NULL_BYTES = 3,
	NOT_A_SEQUENCE = 4,
	NO_LENGTH = 5,
	RAGGED = 6,
	TOO_DEEP = 7,
	TOO_MANY = 8,
	NOT_VOID = 9,
	TOO_LARGE = 10
};

#define BUFFER_SIZE ((size_t) 64 << 10)
#define BUFFER_KEPT ((size_t) 4 << 20) /* larger ones are released after their call */
#define ARGUMENTS_KEPT ((size_t) 4 << 10)	/* so are the arguments of larger calls */
#define BUCKETS 64
#define WATCH_STACK ((size_t) 256 << 10)
#define INSIST_MS 100		/* between two interrupts of a call that goes on after a Cancel */

typedef struct argument
{
	PyObject   *name;			/* interned; NULL when it has none */
	uint8_t		kind;
	uint8_t		element;		/* of an ARRAY */
} argument;

typedef struct function
{
	struct function *next;
	uint32_t	id;
	uint8_t		kind;			/* of the result */
	uint8_t		element;
	bool		heavy;			/* an argument may be large */
	PyObject   *call;
	PyObject   *namespace;
	PyObject   *failure;		/* bytes: what answers every call, or NULL */
	uint32_t	count;
	argument	arguments[];
} function;

static struct
{
	int			fd;
	int			signal_fd;
	pthread_t	main_thread;
	bool		owned;			/* false in a child process */
	uint64_t	limit;			/* of a payload */
	_Atomic int64_t current;	/* the call whose user code runs, or -1 */
	_Atomic int64_t cancel;		/* the call that shall end, or -1; the watching thread's */
	uint8_t    *buffer;			/* BUFFER_SIZE bytes */
	size_t		have;			/* bytes in it */
	plc_writer	out;
	function   *functions[BUCKETS];
	PyObject   *protocol_error;
	PyObject   *fail;			/* convert.fail */
	PyObject   *decimal;		/* convert.decimal */
	PyObject   *args_name;
} state = {.fd = -1, .signal_fd = -1, .owned = true, .limit = PLC_MAX_FRAME_HANDSHAKE, .current = -1, .cancel = -1};

static int
protocol_error(const char *message)
{
	PyErr_SetString(state.protocol_error, message);
	return -1;
}

/* Raises the ConversionError of a reason, caused by the error that is set, if one is. */
static int
conversion_error(int reason)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;
	PyObject   *number = NULL;
	PyObject   *result = NULL;

	PyErr_Fetch(&type, &value, &traceback);
	if (type != NULL)
	{
		PyErr_NormalizeException(&type, &value, &traceback);
		if (traceback != NULL)
			PyException_SetTraceback(value, traceback);
	}
	number = PyLong_FromLong(reason);
	if (number != NULL)
		result = PyObject_CallFunctionObjArgs(state.fail, number, value != NULL ? value : Py_None, NULL);
	if (result != NULL)
		PyErr_SetString(PyExc_SystemError, "conversion error was not raised");
	Py_XDECREF(result);
	Py_XDECREF(number);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
	return -1;
}

/* --- arguments ------------------------------------------------------------ */

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

static PyObject *
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

/* --- results ---------------------------------------------------------------
 *
 * The functions that write one object return 1 when they did, 0 when the object has no exact
 * binary form and travels as text, -1 with an exception set.
 */

static int
written(const plc_writer *writer)
{
	if (writer->error == NULL)
		return 1;
	PyErr_NoMemory();
	return -1;
}

static int
write_string(plc_writer *writer, PyObject *object)
{
	PyObject   *text;
	const char *data;
	Py_ssize_t	size;
	int			result = -1;

	if (PyUnicode_Check(object))
	{
		text = object;
		Py_INCREF(text);
	}
	else
		text = PyFloat_Check(object) ? PyObject_Repr(object) : PyObject_Str(object);
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
			return exact_int(kind, object, place);
		default:
			return exact_float(kind, object, place);
	}
}

/* The list or tuple of an array result's items: a new reference. */
static PyObject *
as_sequence(PyObject *object)
{
	PyObject   *source = object;
	PyObject   *list = NULL;
	Py_ssize_t	length;

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
	length = PySequence_Size(source);
	if (length >= 0)
		list = PyList_New(length);
	for (Py_ssize_t i = 0; list != NULL && i < length; i++)
	{
		PyObject   *item = PySequence_GetItem(source, i);

		if (item == NULL || PyList_SetItem(list, i, item) < 0)
		{
			Py_DECREF(list);
			list = NULL;
		}
	}
	Py_DECREF(source);
	if (list == NULL)
		conversion_error(NO_LENGTH);
	return list;
}

/* A borrowed reference. */
static inline PyObject *
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
write_elements(plc_writer *writer, plc_kind kind, PyObject *items, size_t count, const bool *nulls,
			   bool text)
{
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
write_flat(plc_writer *writer, plc_kind kind, PyObject *items, int ndim, const int32_t *lengths)
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
		plc_write_array(writer, kind, text ? PLC_ARRAY_TEXT_ELEMENTS : 0, ndim, lengths, ones,
						has_nulls ? nulls : NULL);
		result = write_elements(writer, kind, items, count, has_nulls ? nulls : NULL, text == 1);
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
		default:
			formats = "hilq";
			break;
	}
	return format[0] != '\0' && format[1] == '\0' && strchr(formats, format[0]) != NULL &&
		(size_t) view->itemsize == plc_kind_size(kind);
}

/* Copies the elements of a numpy array and the like; 0 when they are not of the kind. */
static int
write_buffer(plc_writer *writer, plc_kind kind, PyObject *object)
{
	static const int32_t ones[PLC_MAX_DIMENSIONS] = {1, 1, 1, 1, 1, 1};
	int32_t		lengths[PLC_MAX_DIMENSIONS];
	plc_buffer	view;
	size_t		count = 1;
	uint8_t    *place;
	int			result = 0;

	if (PyObject_GetBuffer(object, &view, PLC_BUFFER_FORMAT | PLC_BUFFER_ND) < 0)
	{
		if (!PyErr_ExceptionMatches(PyExc_Exception))
			return -1;
		PyErr_Clear();
		return 0;
	}
	if (view.ndim >= 1 && view.ndim <= PLC_MAX_DIMENSIONS && is_format(kind, &view))
	{
		for (int i = 0; i < view.ndim; i++)
		{
			/* Too large ones fail where lists of that length do. */
			if (view.shape[i] > PLC_MAX_ELEMENTS || (count *= (size_t) view.shape[i]) > PLC_MAX_ELEMENTS)
				goto done;
			lengths[i] = (int32_t) view.shape[i];
		}
		plc_write_array(writer, kind, 0, count > 0 ? view.ndim : 0, lengths, ones, NULL);
		place = plc_put(writer, count * (size_t) view.itemsize);
		if (place != NULL && count > 0)
			memcpy(place, view.buf, count * (size_t) view.itemsize);
		for (size_t i = 0; place != NULL && kind == PLC_BOOL && i < count; i++)
			place[i] = place[i] != 0;
		result = written(writer);
	}
done:
	PyBuffer_Release(&view);
	return result;
}

static int
write_sequence(plc_writer *writer, plc_kind kind, PyObject *sequence)
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
	if (length > 0 && !nested)
		return write_flat(writer, kind, sequence, ndim, lengths);
	items = PyList_New(0);
	if (items == NULL)
		return -1;
	result = nested ? flatten(sequence, 1, &ndim, lengths, items) : 0;
	if (result == 0 && PyList_Size(items) > PLC_MAX_ELEMENTS)
		result = conversion_error(TOO_MANY);
	if (result == 0)
		result = write_flat(writer, kind, items, PyList_Size(items) > 0 ? ndim : 0, lengths);
	Py_DECREF(items);
	return result;
}

static int
write_array(plc_writer *writer, plc_kind kind, PyObject *object)
{
	PyObject   *sequence;
	int			result = 0;

	if (plc_kind_size(kind) > 0 && !PyList_Check(object) && !PyTuple_Check(object))
	{
		result = write_buffer(writer, kind, object);
		if (result != 0)
			return result;
	}
	sequence = as_sequence(object);
	if (sequence == NULL)
		return -1;
	if (PyList_Check(sequence) && PyList_Size(sequence) > 0 && PyList_Size(sequence) <= PLC_MAX_ELEMENTS)
		result = write_list(writer, kind, sequence);
	if (result == 0)
		result = write_sequence(writer, kind, sequence);
	Py_DECREF(sequence);
	return result;
}

static int
write_result(plc_writer *writer, plc_kind kind, plc_kind element, PyObject *object)
{
	size_t		mark = writer->length;
	size_t		size = plc_kind_size(kind);
	uint8_t    *place;
	int			result;

	if (object == Py_None)
	{
		plc_write_u8(writer, PLC_FORM_NULL);
		return written(writer);
	}
	if (kind == PLC_VOID)
		return conversion_error(NOT_VOID);
	plc_write_u8(writer, PLC_FORM_BINARY);
	if (size > 0)
	{
		place = plc_put(writer, size);
		result = place == NULL ? written(writer) : exact_fixed(kind, object, place);
	}
	else if (kind == PLC_ARRAY)
		result = write_array(writer, element, object);
	else
		result = write_variable(writer, kind, object);
	if (result != 0)
		return result;
	writer->length = mark;
	plc_write_u8(writer, PLC_FORM_TEXT);
	return write_string(writer, object);
}

/* --- memory ---------------------------------------------------------------- */

static void *
alloc_arena(void *context, size_t size)
{
	void	   *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	(void) context;
	return address == MAP_FAILED ? NULL : address;
}

static void
free_arena(void *context, void *address, size_t size)
{
	(void) context;
	munmap(address, size);
}

/*
 * Lets Python's allocator have its arenas with their pages in them. It fills them anyway, and a
 * fault for each page is a third of what the list of a large array costs.
 */
static void
populate_arenas(void)
{
	void		(*set) (plc_arena_allocator *);
	plc_arena_allocator allocator = {NULL, alloc_arena, free_arena};

	*(void **) &set = dlsym(RTLD_DEFAULT, "PyObject_SetArenaAllocator");
	if (set != NULL)
		set(&allocator);
}

/* --- frames ---------------------------------------------------------------- */

/* Runs the handlers of signals that came while the GIL was released. */
static void
run_signal_handlers(void)
{
	if (PyErr_CheckSignals() < 0)
		PyErr_WriteUnraisable(NULL);
}

/* Bytes received, 0 at the end, -1 with an exception set. */
static ssize_t
receive(uint8_t *place, size_t room, int flags)
{
	for (;;)
	{
		ssize_t		count;
		int			error;

		Py_BEGIN_ALLOW_THREADS
		count = recv(state.fd, place, room, flags);
		error = errno;
		Py_END_ALLOW_THREADS
		if (count >= 0)
			return count;
		if (error == ECONNRESET)
			return 0;
		if (error != EINTR)
		{
			errno = error;
			PyErr_SetFromErrno(PyExc_OSError);
			return -1;
		}
		run_signal_handlers();
	}
}

static int
send_all(const uint8_t *data, size_t length)
{
	/* A small frame never waits: the peer has read what came before. */
	ssize_t		count = send(state.fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);

	while (count < 0 || (size_t) count < length)
	{
		int			error = errno;

		if (count >= 0)
		{
			data += count;
			length -= (size_t) count;
		}
		else if (error == EINTR)
			run_signal_handlers();
		else if (error != EAGAIN)
		{
			errno = error;
			PyErr_SetFromErrno(PyExc_OSError);
			return -1;
		}
		Py_BEGIN_ALLOW_THREADS
		count = send(state.fd, data, length, MSG_NOSIGNAL);
		error = errno;
		Py_END_ALLOW_THREADS
		errno = error;
	}
	return 0;
}

/* Sends what the writer holds, and lets go of its memory when that is much. */
static int
send_written(plc_writer *writer)
{
	int			result = send_all(writer->data, writer->length);

	writer->length = 0;
	if (writer->capacity > BUFFER_KEPT)
	{
		free(writer->data);
		plc_writer_init(writer, writer->resize);
	}
	return result;
}

static int
send_frame(uint32_t call_id, plc_message type, PyObject *payload)
{
	char	   *data;
	Py_ssize_t	size;
	plc_writer	writer;
	int			result;

	if (PyBytes_AsStringAndSize(payload, &data, &size) < 0)
		return -1;
	/* Not state.out: a result may be half written there. */
	plc_writer_init(&writer, realloc);
	plc_frame_begin(&writer, call_id, type, 0);
	plc_write_bytes(&writer, data, (size_t) size);
	plc_frame_end(&writer);
	result = written(&writer) < 0 ? -1 : send_all(writer.data, writer.length);
	free(writer.data);
	return result;
}

/* --- calls ----------------------------------------------------------------- */

static function *
find_function(uint32_t id)
{
	function   *found = state.functions[id % BUCKETS];

	while (found != NULL && found->id != id)
		found = found->next;
	return found;
}

static int
set_arguments(const function *called, plc_reader *reader)
{
	PyObject   *args;
	uint32_t	count = plc_read_u32(reader);

	if (reader->error != NULL)
		return protocol_error(reader->error);
	if (count != called->count)
		return protocol_error("call has another number of arguments than its function");
	args = PyList_New(called->count);
	if (args == NULL)
		return -1;
	for (uint32_t i = 0; i < called->count; i++)
	{
		const argument *declared = &called->arguments[i];
		PyObject   *value = decode_value(reader, declared->kind, declared->element);

		if (value == NULL ||
			(declared->name != NULL && PyDict_SetItem(called->namespace, declared->name, value) < 0))
		{
			Py_XDECREF(value);
			goto failed;
		}
		if (PyList_SetItem(args, i, value) < 0)
			goto failed;
	}
	if (!plc_read_end(reader))
	{
		protocol_error(reader->error);
		goto failed;
	}
	if (PyDict_SetItem(called->namespace, state.args_name, args) < 0)
		goto failed;
	Py_DECREF(args);
	return 0;
failed:
	Py_DECREF(args);
	return -1;
}

/* Lets go of large arguments. Others stay, which spares the next call some work. */
static int
release_arguments(const function *called, size_t length)
{
	if (!called->heavy || length < ARGUMENTS_KEPT)
		return 0;
	for (uint32_t i = 0; i < called->count; i++)
		if (called->arguments[i].name != NULL && plc_kind_size(called->arguments[i].kind) == 0 &&
			PyDict_SetItem(called->namespace, called->arguments[i].name, Py_None) < 0)
			return -1;
	return PyDict_SetItem(called->namespace, state.args_name, Py_None);
}

/* Writes the Error that the exception which is set makes of a call. */
static void
write_failure(plc_writer *writer, uint32_t call_id, PyObject *failure, PyObject *canceled)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;
	PyObject   *payload;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback != NULL)
		PyException_SetTraceback(value, traceback);
	payload = PyObject_CallFunctionObjArgs(failure, value, NULL);
	if (payload == NULL || !PyBytes_Check(payload))
	{
		/* A cancel came while an object of the user described itself. */
		PyErr_Clear();
		Py_XDECREF(payload);
		payload = canceled;
		Py_INCREF(payload);
	}
	writer->error = NULL;
	writer->length = 0;
	plc_frame_begin(writer, call_id, PLC_ERROR, 0);
	plc_write_bytes(writer, PyBytes_AsString(payload), (size_t) PyBytes_Size(payload));
	plc_frame_end(writer);
	Py_DECREF(payload);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
}

/*
 * Runs a function and writes its Result or Error. While state.current says so the handler of
 * an interrupt may raise an exception in code of the user, and nowhere else.
 */
static PyObject *
run_function(const function *called, uint32_t call_id, plc_writer *writer)
{
	PyObject   *result = NULL;

	if (state.cancel == (int64_t) call_id)
	{
		/* The Cancel came first. The failure handler sees that for itself: any exception does. */
		PyErr_SetNone(PyExc_KeyboardInterrupt);
		return NULL;
	}
	result = PyObject_CallNoArgs(called->call);
	if (result == NULL)
		return NULL;
	plc_frame_begin(writer, call_id, PLC_RESULT, 0);
	if (write_result(writer, called->kind, called->element, result) == 1)
	{
		plc_frame_end(writer);
		if (writer->length - PLC_HEADER_SIZE <= state.limit)
			return result;
		conversion_error(TOO_LARGE);
	}
	Py_DECREF(result);
	return NULL;
}

static int
serve_call(uint32_t call_id, const uint8_t *payload, size_t length, uint8_t *owned, PyObject *failure,
		   PyObject *canceled)
{
	plc_reader	reader;
	plc_writer	writer;
	const function *called;
	PyObject   *result;
	uint32_t	id;
	int			sent;

	plc_reader_init(&reader, payload, length);
	id = plc_read_u32(&reader);
	called = reader.error == NULL ? find_function(id) : NULL;
	if (called == NULL)
	{
		free(owned);
		return protocol_error(reader.error != NULL ? reader.error
							  : "call of a function that is not registered");
	}
	if (called->failure != NULL)
	{
		free(owned);
		return send_frame(call_id, PLC_ERROR, called->failure);
	}
	sent = set_arguments(called, &reader);
	free(owned);
	if (sent < 0)
		return -1;

	/* Methods of the result run while it is written: what they send goes its own way. */
	writer = state.out;
	plc_writer_init(&state.out, realloc);
	writer.error = NULL;
	writer.length = 0;
	state.current = call_id;
	result = run_function(called, call_id, &writer);
	if (result == NULL)
		write_failure(&writer, call_id, failure, canceled);
	state.current = -1;
	if (!state.owned)
		_exit(0);
	free(state.out.data);
	state.out = writer;
	if (writer.error != NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	sent = send_written(&state.out);
	/* After the answer: the peer works on while large objects are taken down. */
	Py_XDECREF(result);
	if (release_arguments(called, length) < 0)
		sent = -1;
	return sent;
}

static int
serve_control(const plc_header *header, const uint8_t *payload, PyObject *control)
{
	PyObject   *answer = PyObject_CallFunction(control, "iiIy#", (int) header->type, (int) header->flags,
											   (unsigned int) header->call_id, (const char *) payload,
											   (Py_ssize_t) header->length);
	char	   *data;
	Py_ssize_t	size;
	int			result = 0;

	if (answer == NULL)
		return -1;
	if (answer != Py_None)
		result = PyBytes_AsStringAndSize(answer, &data, &size) < 0 ? -1
			: send_all((const uint8_t *) data, (size_t) size);
	Py_DECREF(answer);
	return result;
}

/* Receives until `needed` bytes are in the buffer: 1, 0 at the end, -1 with an exception set. */
static int
fill_buffer(size_t needed)
{
	while (state.have < needed)
	{
		ssize_t		count = receive(state.buffer + state.have, BUFFER_SIZE - state.have, 0);

		if (count <= 0)
			return (int) count;
		state.have += (size_t) count;
	}
	return 1;
}

/* A payload that the buffer can't hold is received where it stays. */
static int
receive_large(size_t length, uint8_t **payload)
{
	size_t		have = state.have - PLC_HEADER_SIZE;
	uint8_t    *data = malloc(length);

	if (data == NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	memcpy(data, state.buffer + PLC_HEADER_SIZE, have);
	state.have = 0;
	while (have < length)
	{
		ssize_t		count = receive(data + have, length - have, MSG_WAITALL);

		if (count <= 0)
		{
			free(data);
			return (int) count;
		}
		have += (size_t) count;
	}
	*payload = data;
	return 1;
}

/* Serves one frame: 1, 0 at the end of the connection, -1 with an exception set. */
static int
serve_frame(PyObject *control, PyObject *failure, PyObject *canceled)
{
	plc_header	header;
	const char *error;
	const uint8_t *payload = state.buffer + PLC_HEADER_SIZE;
	uint8_t    *large = NULL;
	size_t		total;
	int			result = fill_buffer(PLC_HEADER_SIZE);

	if (result != 1)
		return result;
	error = plc_header_decode(state.buffer, state.limit, &header);
	if (error != NULL)
		return protocol_error(error);
	total = PLC_HEADER_SIZE + (size_t) header.length;
	result = total <= BUFFER_SIZE ? fill_buffer(total) : receive_large((size_t) header.length, &large);
	if (result != 1)
		return result;
	if (large != NULL)
		payload = large;
	if (header.type == PLC_CALLREQ && header.flags == 0)
		result = serve_call(header.call_id, payload, (size_t) header.length, large, failure, canceled);
	else
	{
		result = serve_control(&header, payload, control);
		free(large);
	}
	if (large == NULL)
	{
		state.have -= total;
		memmove(state.buffer, state.buffer + total, state.have);
	}
	return result < 0 ? -1 : 1;
}

/* --- the signal connection ------------------------------------------------- */

/* A Cancel's call id, or -1 while it is not complete; the connection's end is the process's. */
static int64_t
receive_cancel(uint8_t *bytes, size_t *have)
{
	plc_header	header;
	const char *error;
	ssize_t		count = recv(state.signal_fd, bytes + *have, PLC_HEADER_SIZE - *have, 0);

	if (count == 0 || (count < 0 && errno == ECONNRESET))
		_exit(0);
	if (count < 0)
	{
		perror("signal connection");
		_exit(1);
	}
	*have += (size_t) count;
	if (*have < PLC_HEADER_SIZE)
		return -1;
	*have = 0;
	error = plc_header_decode(bytes, 0, &header);
	if (error == NULL && (header.type != PLC_CANCEL || header.flags != 0))
		error = "unexpected message";
	if (error != NULL)
	{
		fprintf(stderr, "signal connection: %s\n", error);
		_exit(1);
	}
	return (int64_t) header.call_id;
}

/*
 * Runs without the interpreter lock, so that neither a Cancel nor the end of the backend waits for
 * code that keeps it.
 */
static void *
watch(void *unused)
{
	uint8_t		bytes[PLC_HEADER_SIZE];
	size_t		have = 0;
	int64_t		target = -1;

	(void) unused;
	for (;;)
	{
		struct pollfd ready = {.fd = state.signal_fd, .events = POLLIN};

		if (poll(&ready, 1, target == -1 ? -1 : INSIST_MS) > 0)
		{
			int64_t		id = receive_cancel(bytes, &have);

			if (id != -1)
				state.cancel = target = id;
		}
		/* A call that comes after its Cancel sees it itself. */
		if (target != -1 && state.current == target)
			pthread_kill(state.main_thread, SIGINT);
		else
			target = -1;
	}
	return NULL;
}

/* --- the module ------------------------------------------------------------ */

/* Takes kinds out of a codec.Type. */
static int
type_kinds(PyObject *type, uint8_t *kind, uint8_t *element)
{
	PyObject   *inner = NULL;
	long		number = -1;

	*element = PLC_VOID;
	if (PyTuple_Check(type))
	{
		number = PyLong_AsLong(PyTuple_GetItem(type, 0));
		inner = PyTuple_GetItem(type, 1);
	}
	if (inner == NULL || number < 0 || number > UINT8_MAX)
	{
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "not a type descriptor");
		return -1;
	}
	*kind = (uint8_t) number;
	return inner == Py_None ? 0 : type_kinds(inner, element, &(uint8_t) {0});
}

static void
free_function(function *dropped)
{
	for (uint32_t i = 0; i < dropped->count; i++)
		Py_XDECREF(dropped->arguments[i].name);
	Py_XDECREF(dropped->call);
	Py_XDECREF(dropped->namespace);
	Py_XDECREF(dropped->failure);
	free(dropped);
}

static void
remove_function(uint32_t id)
{
	function  **link = &state.functions[id % BUCKETS];

	while (*link != NULL)
	{
		function   *found = *link;

		if (found->id == id)
		{
			*link = found->next;
			free_function(found);
			return;
		}
		link = &found->next;
	}
}

/* The attribute of an object, NULL for None. */
static PyObject *
get_optional(PyObject *object, const char *name)
{
	PyObject   *value = PyObject_GetAttrString(object, name);

	if (value == Py_None)
	{
		Py_DECREF(value);
		return NULL;
	}
	return value;
}

static int
set_argument(function *installed, argument *declared, PyObject *pair)
{
	PyObject   *name = PyTuple_GetItem(pair, 0);
	PyObject   *type = PyTuple_GetItem(pair, 1);

	if (name == NULL || type == NULL || type_kinds(type, &declared->kind, &declared->element) < 0)
		return -1;
	if (plc_kind_size(declared->kind) == 0)
		installed->heavy = true;
	if (PyUnicode_GetLength(name) > 0)
	{
		Py_INCREF(name);
		PyUnicode_InternInPlace(&name);
		declared->name = name;
	}
	return 0;
}

static int
fill_function(function *installed, PyObject *object, PyObject *arguments)
{
	PyObject   *result = PyObject_GetAttrString(object, "result");
	int			failed = result == NULL || type_kinds(result, &installed->kind, &installed->element) < 0;

	Py_XDECREF(result);
	for (uint32_t i = 0; !failed && i < installed->count; i++)
		failed = set_argument(installed, &installed->arguments[i], PyTuple_GetItem(arguments, i)) < 0;
	if (failed)
		return -1;
	installed->call = get_optional(object, "call");
	installed->namespace = get_optional(object, "namespace");
	installed->failure = get_optional(object, "failure");
	if (!PyErr_Occurred() && installed->failure == NULL &&
		(installed->call == NULL || installed->namespace == NULL))
		PyErr_SetString(PyExc_TypeError, "not a function");
	return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
py_install(PyObject *self, PyObject *args)
{
	unsigned int id;
	PyObject   *object;
	PyObject   *arguments;
	function   *installed = NULL;
	Py_ssize_t	count;

	(void) self;
	if (!PyArg_ParseTuple(args, "IO:install", &id, &object))
		return NULL;
	arguments = PyObject_GetAttrString(object, "arguments");
	count = arguments == NULL ? -1 : PyTuple_Size(arguments);
	if (count >= 0)
	{
		installed = calloc(1, sizeof(function) + (size_t) count * sizeof(argument));
		if (installed == NULL)
			PyErr_NoMemory();
	}
	if (installed != NULL)
	{
		installed->id = id;
		installed->count = (uint32_t) count;
		if (fill_function(installed, object, arguments) < 0)
		{
			free_function(installed);
			installed = NULL;
		}
	}
	Py_XDECREF(arguments);
	if (installed == NULL)
		return NULL;
	remove_function(id);
	installed->next = state.functions[id % BUCKETS];
	state.functions[id % BUCKETS] = installed;
	Py_RETURN_NONE;
}

static PyObject *
py_remove(PyObject *self, PyObject *args)
{
	unsigned int id;

	(void) self;
	if (!PyArg_ParseTuple(args, "I:remove", &id))
		return NULL;
	remove_function(id);
	Py_RETURN_NONE;
}

static PyObject *
py_configure(PyObject *self, PyObject *args)
{
	(void) self;
	if (!PyArg_ParseTuple(args, "OOO:configure", &state.protocol_error, &state.fail, &state.decimal))
		return NULL;
	Py_INCREF(state.protocol_error);
	Py_INCREF(state.fail);
	Py_INCREF(state.decimal);
	Py_RETURN_NONE;
}

static PyObject *
py_allow(PyObject *self, PyObject *args)
{
	unsigned long long limit;

	(void) self;
	if (!PyArg_ParseTuple(args, "K:allow", &limit))
		return NULL;
	state.limit = limit;
	Py_RETURN_NONE;
}

static PyObject *
py_current(PyObject *self, PyObject *unused)
{
	(void) self;
	(void) unused;
	return PyLong_FromLongLong(state.current);
}

static PyObject *
py_canceled(PyObject *self, PyObject *unused)
{
	(void) self;
	(void) unused;
	return PyBool_FromLong(state.current != -1 && state.current == state.cancel);
}

static PyObject *
py_disown(PyObject *self, PyObject *unused)
{
	(void) self;
	(void) unused;
	state.owned = false;
	state.current = -1;
	Py_RETURN_NONE;
}

static PyObject *
py_send(PyObject *self, PyObject *args)
{
	int			type;
	PyObject   *payload;

	(void) self;
	if (!PyArg_ParseTuple(args, "iS:send", &type, &payload))
		return NULL;
	if (state.current == -1)
		Py_RETURN_FALSE;
	if (send_frame((uint32_t) state.current, (plc_message) type, payload) < 0)
		return NULL;
	Py_RETURN_TRUE;
}

static void
terminate(int signum)
{
	(void) signum;
	_exit(0);
}

static PyObject *
py_watch(PyObject *self, PyObject *args)
{
	pthread_t	thread;
	pthread_attr_t attributes;
	sigset_t	all;
	sigset_t	before;
	struct sigaction action = {.sa_handler = terminate};
	int			error;

	(void) self;
	if (!PyArg_ParseTuple(args, "i:watch", &state.signal_fd))
		return NULL;
	state.main_thread = pthread_self();
	/* Python's own handler would wait for the next call: this process may be one that has no default. */
	sigaction(SIGTERM, &action, NULL);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WATCH_STACK);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error != 0)
	{
		errno = error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	Py_RETURN_NONE;
}

static PyObject *
py_serve(PyObject *self, PyObject *args)
{
	PyObject   *control;
	PyObject   *failure;
	PyObject   *canceled;
	int			result;

	(void) self;
	if (!PyArg_ParseTuple(args, "iOOS:serve", &state.fd, &control, &failure, &canceled))
		return NULL;
	state.buffer = malloc(BUFFER_SIZE);
	if (state.buffer == NULL)
		return PyErr_NoMemory();
	plc_writer_init(&state.out, realloc);
	populate_arenas();
	do
		result = serve_frame(control, failure, canceled);
	while (result == 1);
	free(state.buffer);
	state.buffer = NULL;
	if (result < 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *
py_decode(PyObject *self, PyObject *args)
{
	PyObject   *type;
	const char *data;
	Py_ssize_t	size;
	uint8_t		kind;
	uint8_t		element;
	plc_reader	reader;
	PyObject   *value;

	(void) self;
	if (!PyArg_ParseTuple(args, "Oy#:decode", &type, &data, &size) || type_kinds(type, &kind, &element) < 0)
		return NULL;
	plc_reader_init(&reader, data, (size_t) size);
	value = decode_value(&reader, kind, element);
	if (value != NULL && !plc_read_end(&reader))
	{
		Py_DECREF(value);
		protocol_error(reader.error);
		return NULL;
	}
	return value;
}

static PyObject *
py_encode(PyObject *self, PyObject *args)
{
	PyObject   *type;
	PyObject   *object;
	PyObject   *bytes = NULL;
	uint8_t		kind;
	uint8_t		element;
	plc_writer	writer;

	(void) self;
	if (!PyArg_ParseTuple(args, "OO:encode", &type, &object) || type_kinds(type, &kind, &element) < 0)
		return NULL;
	plc_writer_init(&writer, realloc);
	if (write_result(&writer, kind, element, object) == 1)
		bytes = PyBytes_FromStringAndSize((char *) writer.data, (Py_ssize_t) writer.length);
	free(writer.data);
	return bytes;
}

static PyMethodDef methods[] = {
	{"configure", py_configure, METH_VARARGS, "Set ProtocolError, convert.fail and convert.decimal."},
	{"allow", py_allow, METH_VARARGS, "Set the limit of a payload's bytes, both ways."},
	{"install", py_install, METH_VARARGS, "Make a function callable by its id."},
	{"remove", py_remove, METH_VARARGS, "Forget a function."},
	{"current", py_current, METH_NOARGS, "The id of the call whose user code runs, -1 when none does."},
	{"watch", py_watch, METH_VARARGS, "Serve the signal connection in a thread, and SIGTERM."},
	{"canceled", py_canceled, METH_NOARGS, "Whether the call that runs shall end."},
	{"disown", py_disown, METH_NOARGS, "In a child process: the connection is not ours."},
	{"send", py_send, METH_VARARGS, "Send a frame of the call that runs. Return False when there is none."},
	{"serve", py_serve, METH_VARARGS, "Serve calls until the connection's end."},
	{"decode", py_decode, METH_VARARGS, "The object of an argument's bytes."},
	{"encode", py_encode, METH_VARARGS, "The bytes of a result."},
	{NULL, NULL, 0, NULL}
};

static struct PyModuleDef definition = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "_plc",
	.m_doc = "The loop that serves calls, in C.",
	.m_size = -1,
	.m_methods = methods,
};

PyMODINIT_FUNC
PyInit__plc(void)
{
	PyObject   *module = PyModule_Create(&definition);

	state.args_name = PyUnicode_InternFromString("args");
	if (module == NULL || state.args_name == NULL || PyModule_AddStringConstant(module, "name", "c") < 0)
	{
		Py_XDECREF(module);
		return NULL;
	}
	return module;
}
