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

/* Raises the ConversionError of a reason, caused by the error that is set, if one is. */
int
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
	PyObject   *control;
	PyObject   *failure;
	PyObject   *canceled;

	(void) self;
	if (!PyArg_ParseTuple(args, "iOOS:serve", &state.fd, &control, &failure, &canceled))
		return NULL;
	populate_arenas();
	if (serve(control, failure, canceled) < 0)
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
	{"last", py_last, METH_NOARGS, "The call id of the last frame."},
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
