/*
 * _plc.c
 *		The extension module `plc._plc`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

plc_state	state = {.fd = -1, .signal_fd = -1, .owned = true, .limit = PLC_MAX_FRAME_HANDSHAKE, .current = -1, .cancel = -1};

int
protocol_error(const char *message)
{
	PyErr_SetString(state.protocol_error, message);
	return -1;
}

/*
 * Raises the ConversionError of a reason, whose argument may be NULL, caused by the error that is
 * set, if one is.
 */
int
conversion_error_of(int reason, PyObject *argument)
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
		result = PyObject_CallFunctionObjArgs(state.fail, number, value != NULL ? value : Py_None, argument, NULL);
	if (result != NULL)
		PyErr_SetString(PyExc_SystemError, "conversion error was not raised");
	Py_XDECREF(result);
	Py_XDECREF(number);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
	return -1;
}

int
conversion_error(int reason)
{
	return conversion_error_of(reason, NULL);
}

/* --- memory ---------------------------------------------------------------- */

/* Also of every CPython, and of no limited API: looked up, and done without where it is not there. */
typedef struct plc_arena_allocator
{
	void	   *context;
	void	   *(*alloc) (void *context, size_t size);
	void		(*free) (void *context, void *address, size_t size);
} plc_arena_allocator;

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

/* --- the module ------------------------------------------------------------ */

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
			release_function(found);
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

	if (name == NULL || type == NULL ||
		parse_type(type, &declared->type, (installed->flags & PLC_FUNCTION_NUMPY) != 0) < 0)
		return -1;
	if (plc_kind_size((plc_kind) declared->type.kind) == 0)
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
set_flags(function *installed, PyObject *object)
{
	PyObject   *flags = PyObject_GetAttrString(object, "flags");

	installed->flags = flags == NULL ? 0 : (uint32_t) PyLong_AsUnsignedLong(flags);
	Py_XDECREF(flags);
	return PyErr_Occurred() ? -1 : 0;
}

static int
fill_function(function *installed, PyObject *object, PyObject *arguments)
{
	PyObject   *result = PyObject_GetAttrString(object, "result");
	int			failed = result == NULL || set_flags(installed, object) < 0 ||
		parse_type(result, &installed->result, false) < 0;

	Py_XDECREF(result);
	for (uint32_t i = 0; !failed && i < installed->count; i++)
		failed = set_argument(installed, &installed->arguments[i], PyTuple_GetItem(arguments, i)) < 0;
	if (failed)
		return -1;
	installed->call = get_optional(object, "call");
	installed->namespace = get_optional(object, "namespace");
	installed->failure = get_optional(object, "failure");
	installed->fields = get_optional(object, "fields");
	installed->globals = get_optional(object, "globals");
	if (!PyErr_Occurred() && installed->failure == NULL &&
		(installed->call == NULL || installed->namespace == NULL || installed->globals == NULL))
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
		installed->uses = 1;
		installed->count = (uint32_t) count;
		if (fill_function(installed, object, arguments) < 0)
		{
			release_function(installed);
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

/* What of this package's Python code is needed here. */
static PyObject *
py_configure(PyObject *self, PyObject *unused)
{
	const struct
	{
		PyObject  **place;
		const char *module;
		const char *name;
	}			needed[] = {
		{&state.protocol_error, "plc.codec", "ProtocolError"},
		{&state.encode_type, "plc.codec", "encode_type"},
		{&state.conversion_error, "plc.convert", "ConversionError"},
		{&state.fail, "plc.convert", "fail"},
		{&state.decimal, "plc.convert", "decimal"},
		{&state.numpy_array, "plc.convert", "numpy_array"},
		{&state.filled, "plc.convert", "filled"},
		{&state.shape, "plc.convert", "Shape"},
		{&state.mapping, "collections.abc", "Mapping"},
		{&state.query_canceled, "plc.errors", "QueryCanceled"},
		{&state.trigger_action, "plc.triggers", "action"},
		{&state.trigger_context, "plc.triggers", "CONTEXT"},
	};

	(void) self;
	(void) unused;
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
	{
		PyObject   *module = PyImport_ImportModule(needed[i].module);

		*needed[i].place = module == NULL ? NULL : PyObject_GetAttrString(module, needed[i].name);
		Py_XDECREF(module);
		if (*needed[i].place == NULL)
			return NULL;
	}
	state.shapes = PyDict_New();
	if (state.shapes == NULL)
		return NULL;
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
py_last(PyObject *self, PyObject *unused)
{
	(void) self;
	(void) unused;
	return PyLong_FromUnsignedLong(state.last);
}

static PyObject *
py_canceled(PyObject *self, PyObject *unused)
{
	(void) self;
	(void) unused;
	return PyBool_FromLong(is_canceled());
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

/* Sets an exception where the caller can make no request. */
static int
check_running(void)
{
	if (!pthread_equal(pthread_self(), state.main_thread))
		PyErr_SetString(PyExc_RuntimeError, "plpy can be used in the function's own thread only");
	else if (state.current == -1)
		PyErr_SetString(PyExc_RuntimeError, "plpy can be used within a call of a function only");
	else
		return 0;
	return -1;
}

static PyObject *
py_request(PyObject *self, PyObject *args)
{
	int			type;
	PyObject   *payload;

	(void) self;
	if (!PyArg_ParseTuple(args, "iS:request", &type, &payload) || check_running() < 0)
		return NULL;
	if (is_canceled())
	{
		PyErr_SetNone(state.query_canceled);
		return NULL;
	}
	return request((plc_message) type, payload);
}

static PyObject *
py_discard(PyObject *self, PyObject *payload)
{
	(void) self;
	if (check_running() < 0 || send_frame((uint32_t) state.current, PLC_SQL, payload) < 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *
py_watch(PyObject *self, PyObject *args)
{
	int			error;

	(void) self;
	if (!PyArg_ParseTuple(args, "i:watch", &state.signal_fd))
		return NULL;
	error = start_watching();
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
	(void) self;
	if (!PyArg_ParseTuple(args, "iOOO(SS):serve", &state.fd, &state.control, &state.failure, &state.end,
						  &state.canceled, &state.too_deep))
		return NULL;
	Py_INCREF(state.control);
	Py_INCREF(state.failure);
	Py_INCREF(state.end);
	Py_INCREF(state.canceled);
	Py_INCREF(state.too_deep);
	populate_arenas();
	if (serve() < 0)
		return NULL;
	Py_RETURN_NONE;
}

/* --- values ---------------------------------------------------------------- */

static PyObject *
py_describe(PyObject *self, PyObject *description)
{
	(void) self;
	if (!PyBytes_Check(description))
	{
		PyErr_SetString(PyExc_TypeError, "description must be bytes");
		return NULL;
	}
	return describe(description);
}

/* The dicts of a result's rows, which are all that is left at the reader. */
static PyObject *
decode_rows(plc_reader *reader, const value_type *type)
{
	uint32_t	count = plc_read_u32(reader);
	PyObject   *rows;

	if (reader->error == NULL && (type->count > 0 ? (uint64_t) count * type->count > (uint64_t) (reader->end - reader->cursor)
								  : count > PLC_MAX_ELEMENTS))
		plc_reader_fail(reader, "message ends within a list");
	rows = reader->error != NULL ? NULL : PyList_New((Py_ssize_t) count);
	for (uint32_t i = 0; rows != NULL && i < count; i++)
	{
		PyObject   *row = decode_row(reader, type, 1);

		if (row == NULL || PyList_SetItem(rows, (Py_ssize_t) i, row) < 0)
		{
			Py_DECREF(rows);
			return NULL;
		}
	}
	if (plc_read_end(reader) || PyErr_Occurred())
		return rows;
	Py_XDECREF(rows);
	protocol_error(reader->error);
	return NULL;
}

static PyObject *
py_rows(PyObject *self, PyObject *args)
{
	PyObject   *shape;
	PyObject   *handle;
	PyObject   *rows = NULL;
	value_type *type;
	const char *data;
	Py_ssize_t	size;
	Py_ssize_t	offset;
	plc_reader	reader;

	(void) self;
	if (!PyArg_ParseTuple(args, "Oy#n:rows", &shape, &data, &size, &offset))
		return NULL;
	handle = PyObject_GetAttrString(shape, "handle");
	type = handle == NULL ? NULL : row_type(handle);
	if (type != NULL)
	{
		plc_reader_init(&reader, data, (size_t) size);
		plc_take(&reader, (size_t) offset);
		rows = decode_rows(&reader, type);
	}
	Py_XDECREF(handle);
	return rows;
}

static PyObject *
py_parameter_types(PyObject *self, PyObject *args)
{
	const char *data;
	Py_ssize_t	size;
	unsigned int count;

	(void) self;
	if (!PyArg_ParseTuple(args, "y#I:parameter_types", &data, &size, &count))
		return NULL;
	return parameter_types(data, size, count);
}

static int
write_parameters(plc_writer *writer, const value_type *types, PyObject *values)
{
	int			result = 1;

	plc_write_u32(writer, types->count);
	for (uint32_t i = 0; result == 1 && i < types->count; i++)
	{
		/* Its methods may take it out of the list. */
		PyObject   *value = get_item(values, (Py_ssize_t) i);

		Py_XINCREF(value);
		result = value == NULL ? -1 : write_result(writer, &types->inner[i], value, false);
		Py_XDECREF(value);
	}
	return result == 1 ? written(writer) : result;
}

static PyObject *
py_parameters(PyObject *self, PyObject *args)
{
	PyObject   *handle;
	PyObject   *values;
	PyObject   *bytes = NULL;
	const char *head = NULL;
	Py_ssize_t	head_size = 0;
	value_type *types;
	plc_writer	writer;

	(void) self;
	if (!PyArg_ParseTuple(args, "OO|y#:parameters", &handle, &values, &head, &head_size))
		return NULL;
	types = row_type(handle);
	if (types == NULL)
		return NULL;
	if ((!PyList_Check(values) && !PyTuple_Check(values)) || PySequence_Size(values) != (Py_ssize_t) types->count)
		return PyErr_Format(PyExc_ValueError, "plan has %u parameters", types->count);
	plc_writer_init(&writer, realloc);
	plc_write_bytes(&writer, head, (size_t) head_size);
	if (write_parameters(&writer, types, values) == 1)
		bytes = PyBytes_FromStringAndSize((char *) writer.data, (Py_ssize_t) writer.length);
	free(writer.data);
	return bytes;
}

static PyObject *
py_decode(PyObject *self, PyObject *args)
{
	PyObject   *descriptor;
	const char *data;
	Py_ssize_t	size;
	int			numpy = 0;
	value_type	type;
	plc_reader	reader;
	PyObject   *value = NULL;

	(void) self;
	if (!PyArg_ParseTuple(args, "Oy#|p:decode", &descriptor, &data, &size, &numpy))
		return NULL;
	if (parse_type(descriptor, &type, numpy) == 0)
	{
		plc_reader_init(&reader, data, (size_t) size);
		value = decode_value(&reader, &type, 1);
		if (value != NULL && !plc_read_end(&reader))
		{
			Py_DECREF(value);
			value = NULL;
			protocol_error(reader.error);
		}
	}
	clear_type(&type);
	return value;
}

static PyObject *
py_encode(PyObject *self, PyObject *args)
{
	PyObject   *descriptor;
	PyObject   *object;
	PyObject   *bytes = NULL;
	value_type	type;
	plc_writer	writer;

	(void) self;
	if (!PyArg_ParseTuple(args, "OO:encode", &descriptor, &object))
		return NULL;
	plc_writer_init(&writer, realloc);
	if (parse_type(descriptor, &type, false) == 0 && write_result(&writer, &type, object, false) == 1)
		bytes = PyBytes_FromStringAndSize((char *) writer.data, (Py_ssize_t) writer.length);
	free(writer.data);
	clear_type(&type);
	return bytes;
}

static PyMethodDef methods[] = {
	{"configure", py_configure, METH_NOARGS, "Look up what is needed of this package's Python code."},
	{"allow", py_allow, METH_VARARGS, "Set the limit of a payload's bytes, both ways."},
	{"install", py_install, METH_VARARGS, "Make a function callable by its id."},
	{"remove", py_remove, METH_VARARGS, "Forget a function."},
	{"current", py_current, METH_NOARGS, "The id of the call whose user code runs, -1 when none does."},
	{"watch", py_watch, METH_VARARGS, "Serve the signal connection in a thread, and SIGTERM."},
	{"last", py_last, METH_NOARGS, "The call id of the last frame."},
	{"canceled", py_canceled, METH_NOARGS, "Whether the call that runs shall end."},
	{"disown", py_disown, METH_NOARGS, "In a child process: the connection is not ours."},
	{"send", py_send, METH_VARARGS, "Send a frame of the call that runs. Return False when there is none."},
	{"request", py_request, METH_VARARGS, "Send a request of the call that runs; return its answer's type and payloads."},
	{"discard", py_discard, METH_O, "Send an SQL of the call that runs which has no answer."},
	{"describe", py_describe, METH_O, "The Shape of a query's result."},
	{"rows", py_rows, METH_VARARGS, "The rows that a payload has from an offset on."},
	{"parameter_types", py_parameter_types, METH_VARARGS, "What parameters() knows the types of a plan by."},
	{"parameters", py_parameters, METH_VARARGS, "A payload's head with the values of a plan's parameters behind it."},
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
	state.data_name = PyUnicode_InternFromString("TD");
	state.event_name = PyUnicode_InternFromString("event");
	if (module == NULL || state.args_name == NULL || state.data_name == NULL || state.event_name == NULL ||
	    PyModule_AddStringConstant(module, "name", "c") < 0)
	{
		Py_XDECREF(module);
		return NULL;
	}
	return module;
}
