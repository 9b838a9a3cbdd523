/*
 * _plc_types.c
 *		Type descriptors, taken apart once: those of functions, of the results of
 *		queries, and of records, which come with their values.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <stdlib.h>

#define MAX_SHAPES 256
#define CAPSULE "plc.row"

/* The descriptor of the latest record: an array of them mostly has but one. */
static struct
{
	value_type *type;
	uint8_t    *bytes;
	size_t		length;
	int			depth;			/* it is not nested too deeply there, nor above */
}			latest;

void
clear_type(value_type *type)
{
	for (uint32_t i = 0; type->inner != NULL && i < type->count; i++)
	{
		clear_type(&type->inner[i]);
		if (type->names != NULL)
			Py_XDECREF(type->names[i]);
	}
	free(type->inner);
	free(type->names);
	memset(type, 0, sizeof(*type));
}

void
release_type(value_type *type)
{
	if (type != NULL && --type->uses == 0)
	{
		clear_type(type);
		free(type);
	}
}

static int
reader_error(const plc_reader *reader)
{
	return reader->error != NULL ? protocol_error(reader->error) : 0;
}

static PyObject *
read_name(plc_reader *reader)
{
	plc_span	span = plc_read_str(reader);
	PyObject   *name;

	if (reader_error(reader) < 0)
		return NULL;
	name = PyUnicode_DecodeUTF8(span.data, (Py_ssize_t) span.length, NULL);
	if (name != NULL)
		PyUnicode_InternInPlace(&name);
	else if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
	{
		PyErr_Clear();
		protocol_error("text is not valid UTF-8");
	}
	return name;
}

static bool
is_number(uint8_t kind)
{
	return plc_kind_size((plc_kind) kind) > 0;
}

/* Makes room for the types, and the names, within a type. */
static int
allocate_inner(value_type *type, uint32_t count, bool named)
{
	type->inner = calloc((size_t) count + 1, sizeof(value_type));
	if (named)
		type->names = calloc((size_t) count + 1, sizeof(PyObject *));
	if (type->inner == NULL || (named && type->names == NULL))
	{
		PyErr_NoMemory();
		return -1;
	}
	type->count = count;
	return 0;
}

/* Reads a count of (name, descriptor), each followed by bytes of no interest here. */
static int
read_fields(plc_reader *reader, value_type *type, int depth, bool numpy, size_t behind)
{
	uint32_t	count = plc_read_u32(reader);

	if (reader->error == NULL && count > PLC_MAX_COLUMNS)
		plc_reader_fail(reader, "count is beyond its limit");
	if (reader->error == NULL && (uint64_t) count * (5 + behind) > (uint64_t) (reader->end - reader->cursor))
		plc_reader_fail(reader, "message ends within a list");
	if (reader_error(reader) < 0 || allocate_inner(type, count, true) < 0)
		return -1;
	for (uint32_t i = 0; i < count; i++)
	{
		type->names[i] = read_name(reader);
		if (type->names[i] == NULL || read_type(reader, &type->inner[i], depth, numpy) < 0)
			return -1;
		if (type->inner[i].kind == PLC_VOID)
			return protocol_error("field of type void");
		plc_take(reader, behind);
	}
	return reader_error(reader);
}

static int
read_element(plc_reader *reader, value_type *type, int depth, bool numpy)
{
	if (allocate_inner(type, 1, false) < 0 || read_type(reader, type->inner, depth, numpy) < 0)
		return -1;
	if (type->inner->kind == PLC_ARRAY || type->inner->kind == PLC_VOID)
		return protocol_error("type cannot be an element of an array");
	type->numpy = numpy && is_number(type->inner->kind);
	return 0;
}

/* Reads a descriptor into `type`, which is to be cleared also when this fails. */
int
read_type(plc_reader *reader, value_type *type, int depth, bool numpy)
{
	PyObject   *name;

	memset(type, 0, sizeof(*type));
	if (depth > PLC_MAX_TYPE_DEPTH)
		return protocol_error("type descriptor is nested too deeply");
	type->kind = plc_read_u8(reader);
	if (reader_error(reader) < 0)
		return -1;
	switch (type->kind)
	{
		case PLC_OTHER:
		case PLC_COMPOSITE:
			name = read_name(reader);
			if (name == NULL)
				return -1;
			Py_DECREF(name);
			return type->kind == PLC_OTHER ? 0 : read_fields(reader, type, depth + 1, numpy, 0);
		case PLC_ARRAY:
			return read_element(reader, type, depth + 1, numpy);
		case PLC_RECORD:
			return 0;
		default:
			return type->kind <= PLC_OID ? 0 : protocol_error("unknown kind of type");
	}
}

/* Takes a codec.Type apart. */
int
parse_type(PyObject *descriptor, value_type *type, bool numpy)
{
	PyObject   *bytes = PyObject_CallFunctionObjArgs(state.encode_type, descriptor, NULL);
	char	   *data;
	Py_ssize_t	size;
	plc_reader	reader;
	int			result = -1;

	memset(type, 0, sizeof(*type));
	if (bytes != NULL && PyBytes_AsStringAndSize(bytes, &data, &size) == 0)
	{
		plc_reader_init(&reader, data, (size_t) size);
		result = read_type(&reader, type, 1, numpy);
	}
	Py_XDECREF(bytes);
	return result;
}

/* --- records --------------------------------------------------------------- */

static value_type *
new_type(void)
{
	value_type *type = calloc(1, sizeof(value_type));

	if (type == NULL)
		PyErr_NoMemory();
	else
		type->uses = 1;
	return type;
}

/* Keeps a record's type for the next one that has the same descriptor. */
static void
keep_latest(value_type *type, const uint8_t *bytes, size_t length, int depth)
{
	uint8_t    *copy = malloc(length);

	if (copy == NULL)
		return;
	memcpy(copy, bytes, length);
	release_type(latest.type);
	free(latest.bytes);
	type->uses++;
	latest.type = type;
	latest.bytes = copy;
	latest.length = length;
	latest.depth = depth;
}

value_type *
read_record_type(plc_reader *reader, int depth)
{
	const uint8_t *begin = reader->cursor;
	value_type *type;

	/* What begins like a whole descriptor is that descriptor. */
	if (latest.type != NULL && depth <= latest.depth &&
		(size_t) (reader->end - begin) >= latest.length && memcmp(begin, latest.bytes, latest.length) == 0)
	{
		reader->cursor += latest.length;
		latest.type->uses++;
		return latest.type;
	}
	type = new_type();
	if (type == NULL)
		return NULL;
	if (read_type(reader, type, depth, false) == 0)
	{
		type->uses = 1;
		if (type->kind == PLC_COMPOSITE)
		{
			keep_latest(type, begin, (size_t) (reader->cursor - begin), depth);
			return type;
		}
		protocol_error("record is not described as a composite");
	}
	clear_type(type);
	free(type);
	return NULL;
}

/* --- what queries have ----------------------------------------------------- */

static void
free_capsule(PyObject *capsule)
{
	release_type((value_type *) PyCapsule_GetPointer(capsule, CAPSULE));
}

/* Takes over a type, also when that fails. */
static PyObject *
make_handle(value_type *type)
{
	PyObject   *handle;

	type->uses = 1;
	handle = PyCapsule_New(type, CAPSULE, free_capsule);
	if (handle == NULL)
		release_type(type);
	return handle;
}

value_type *
row_type(PyObject *handle)
{
	return (value_type *) PyCapsule_GetPointer(handle, CAPSULE);
}

static PyObject *
make_shape(PyObject *description)
{
	PyObject   *shape = PyObject_CallFunctionObjArgs(state.shape, description, NULL);
	PyObject   *handle = NULL;
	value_type *type = shape == NULL ? NULL : new_type();
	plc_reader	reader;

	if (type != NULL)
	{
		plc_reader_init(&reader, PyBytes_AsString(description), (size_t) PyBytes_Size(description));
		/* An OID and a modifier are behind each column's type. */
		if (read_fields(&reader, type, 1, false, 8) == 0)
			handle = make_handle(type);
		else
		{
			clear_type(type);
			free(type);
		}
	}
	if (handle == NULL || PyObject_SetAttrString(shape, "handle", handle) < 0)
	{
		Py_XDECREF(shape);
		shape = NULL;
	}
	Py_XDECREF(handle);
	return shape;
}

PyObject *
describe(PyObject *description)
{
	PyObject   *shape = PyDict_GetItemWithError(state.shapes, description);

	if (shape != NULL)
	{
		Py_INCREF(shape);
		return shape;
	}
	if (PyErr_Occurred())
		return NULL;
	shape = make_shape(description);
	if (shape == NULL)
		return NULL;
	if (PyDict_Size(state.shapes) >= MAX_SHAPES)
		PyDict_Clear(state.shapes);
	if (PyDict_SetItem(state.shapes, description, shape) < 0)
	{
		Py_DECREF(shape);
		return NULL;
	}
	return shape;
}

PyObject *
parameter_types(const char *data, Py_ssize_t size, unsigned int count)
{
	value_type *type;
	plc_reader	reader;
	int			result;

	if ((size_t) size < count)
	{
		protocol_error("message ends within a list");
		return NULL;
	}
	type = new_type();
	if (type == NULL)
		return NULL;
	plc_reader_init(&reader, data, (size_t) size);
	result = allocate_inner(type, count, false);
	for (uint32_t i = 0; result == 0 && i < count; i++)
		result = read_type(&reader, &type->inner[i], 1, false);
	if (result == 0 && !plc_read_end(&reader))
		result = protocol_error(reader.error);
	if (result == 0)
		return make_handle(type);
	clear_type(type);
	free(type);
	return NULL;
}
