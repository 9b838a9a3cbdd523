/*
 * _plc_calls.c
 *		Calls of functions, triggers and sets, as loop.py has them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_KEPT ((size_t) 4 << 10)	/* the arguments of larger calls are let go of */
#define FIRST_ROWS 64			/* what a set's first batch may have, */
#define FIRST_BYTES 65536
#define BATCH_MS 50				/* and after how long one with a row goes out */

/* A call, or the next batch of a set, while it is worked on. */
typedef struct run
{
	function   *called;
	uint32_t	call_id;
	open_set   *set;			/* NULL for a call */
	uint32_t	rows;			/* what the batch may have */
	uint32_t	bytes;
	PyObject   *data;			/* TD of a trigger, or NULL */
	PyObject   *event;			/* what TD["event"] was, or NULL */
	PyObject   *result;			/* to be let go of after the answer, */
	open_set   *ended;			/* and so is this */
	plc_writer *writer;
} run;

/* --- functions ------------------------------------------------------------- */

static function *
find_function(uint32_t id)
{
	function   *found = state.functions[id % BUCKETS];

	while (found != NULL && found->id != id)
		found = found->next;
	return found;
}

void
release_function(function *dropped)
{
	if (--dropped->uses > 0)
		return;
	for (uint32_t i = 0; i < dropped->count; i++)
	{
		Py_XDECREF(dropped->arguments[i].name);
		clear_type(&dropped->arguments[i].type);
	}
	clear_type(&dropped->result);
	Py_XDECREF(dropped->call);
	Py_XDECREF(dropped->namespace);
	Py_XDECREF(dropped->failure);
	Py_XDECREF(dropped->fields);
	Py_XDECREF(dropped->globals);
	free(dropped);
}

/* --- arguments ------------------------------------------------------------- */

/* The globals that are a call's arguments, as they are now. */
static PyObject *
save_arguments(const function *called)
{
	PyObject   *saved = PyDict_New();
	Py_ssize_t	count = PyTuple_Size(called->globals);

	for (Py_ssize_t i = 0; saved != NULL && i < count; i++)
	{
		PyObject   *name = PyTuple_GetItem(called->globals, i);
		PyObject   *value = PyDict_GetItemWithError(called->namespace, name);

		if (value == NULL ? PyErr_Occurred() != NULL : PyDict_SetItem(saved, name, value) < 0)
		{
			Py_DECREF(saved);
			return NULL;
		}
	}
	return saved;
}

/*
 * Begins a call. *outer becomes the arguments of a call of the same function that waits, if there
 * is one: they are globals.
 */
static int
enter(function *called, PyObject **outer)
{
	*outer = NULL;
	if (called->running > 0)
	{
		*outer = save_arguments(called);
		if (*outer == NULL)
			return -1;
	}
	called->running++;
	called->uses++;
	return 0;
}

/* Lets go of large arguments. Others stay, which spares the next call some work. */
static int
release_arguments(const function *called)
{
	for (uint32_t i = 0; i < called->count; i++)
		if (called->arguments[i].name != NULL && plc_kind_size((plc_kind) called->arguments[i].type.kind) == 0 &&
			PyDict_SetItem(called->namespace, called->arguments[i].name, Py_None) < 0)
			return -1;
	return PyDict_SetItem(called->namespace, state.args_name, Py_None);
}

static int
leave(function *called, PyObject *outer, bool release)
{
	int			result = 0;

	called->running--;
	if (outer != NULL)
		result = PyDict_Update(called->namespace, outer);
	else if (called->flags & (PLC_FUNCTION_TRIGGER | PLC_FUNCTION_EVENT_TRIGGER))
		result = PyDict_SetItem(called->namespace, state.data_name, Py_None);
	else if (release && called->heavy)
		result = release_arguments(called);
	Py_XDECREF(outer);
	release_function(called);
	return result;
}

/* Takes the values of a call. `place` sets one of them. */
static int
read_arguments(const function *called, plc_reader *reader,
			   int (*place) (const function *called, uint32_t i, PyObject *value, PyObject *all), PyObject *all)
{
	uint32_t	count = plc_read_u32(reader);

	if (reader->error != NULL)
		return protocol_error(reader->error);
	if (count != called->count)
		return protocol_error("call has another number of arguments than its function");
	for (uint32_t i = 0; i < count; i++)
	{
		PyObject   *value = decode_value(reader, &called->arguments[i].type, 1);

		if (value == NULL || place(called, i, value, all) < 0)
			return -1;
	}
	return plc_read_end(reader) ? 0 : protocol_error(reader->error);
}

/* These take over the value. */
static int
place_argument(const function *called, uint32_t i, PyObject *value, PyObject *all)
{
	if (called->arguments[i].name != NULL &&
		PyDict_SetItem(called->namespace, called->arguments[i].name, value) < 0)
	{
		Py_DECREF(value);
		return -1;
	}
	return PyList_SetItem(all, i, value);
}

static int
place_in_data(const function *called, uint32_t i, PyObject *value, PyObject *all)
{
	int			result = called->arguments[i].name == NULL ? 0 : PyDict_SetItem(all, called->arguments[i].name, value);

	Py_DECREF(value);
	return result;
}

static int
set_arguments(run *call, plc_reader *reader)
{
	function   *called = call->called;
	bool		trigger = (called->flags & (PLC_FUNCTION_TRIGGER | PLC_FUNCTION_EVENT_TRIGGER)) != 0;
	PyObject   *all = trigger ? PyDict_New() : PyList_New(called->count);

	if (all == NULL || read_arguments(called, reader, trigger ? place_in_data : place_argument, all) < 0 ||
		PyDict_SetItem(called->namespace, trigger ? state.data_name : state.args_name, all) < 0)
	{
		Py_XDECREF(all);
		return -1;
	}
	if (!trigger)
	{
		Py_DECREF(all);
		return 0;
	}
	/* The function may change its TD. */
	call->data = all;
	call->event = PyDict_GetItemWithError(all, state.event_name);
	Py_XINCREF(call->event);
	return PyErr_Occurred() ? -1 : 0;
}

/* --- results --------------------------------------------------------------- */

/* Says what the object was needed for that could not be converted. */
static void
set_context(PyObject *context)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;

	if (!PyErr_ExceptionMatches(state.conversion_error))
		return;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (PyObject_SetAttrString(value, "context", context) < 0)
		PyErr_Clear();
	PyErr_Restore(type, value, traceback);
}

static int
write_converted(const function *called, plc_writer *writer, PyObject *object)
{
	bool		procedure = (called->flags & PLC_FUNCTION_PROCEDURE) != 0;
	int			result;

	if (procedure && called->result.kind == PLC_VOID && object != Py_None)
		return conversion_error(PROCEDURE_NOT_VOID);
	result = write_result(writer, &called->result, object, false);
	/* A procedure has no return value to speak of. */
	if (result < 0 && procedure)
		set_context(Py_None);
	return result;
}

static int
write_changes(const function *called, plc_writer *writer, PyObject *changes)
{
	Py_ssize_t	count = PyList_Size(changes);

	plc_write_u32(writer, (uint32_t) count);
	for (Py_ssize_t i = 0; i < count; i++)
	{
		PyObject   *change = PyList_GetItem(changes, i);
		PyObject   *number = change == NULL ? NULL : PyTuple_GetItem(change, 0);
		unsigned long field = number == NULL ? 0 : PyLong_AsUnsignedLong(number);

		if (PyErr_Occurred())
			return -1;
		plc_write_u32(writer, (uint32_t) field);
		if (write_result(writer, &called->result.inner[field], PyTuple_GetItem(change, 1), false) < 0)
		{
			set_context(state.trigger_context);
			return -1;
		}
	}
	return written(writer);
}

static int
write_trigger(const run *call, PyObject *result)
{
	PyObject   *answer;
	PyObject   *changes;
	int			action;
	int			outcome;

	if (result == Py_None)
	{
		plc_write_u8(call->writer, PLC_TRIGGER_UNCHANGED);
		return written(call->writer);
	}
	answer = PyObject_CallFunctionObjArgs(state.trigger_action, result, call->data,
										  call->event != NULL ? call->event : Py_None, call->called->fields, NULL);
	if (answer == NULL || !PyArg_ParseTuple(answer, "iO", &action, &changes))
	{
		Py_XDECREF(answer);
		return -1;
	}
	plc_write_u8(call->writer, (uint8_t) action);
	outcome = action == PLC_TRIGGER_MODIFY ? write_changes(call->called, call->writer, changes) : 1;
	Py_DECREF(answer);
	return outcome;
}

/* --- sets ------------------------------------------------------------------ */

static open_set **
find_set(uint32_t call_id)
{
	open_set  **link = &state.sets[call_id % BUCKETS];

	while (*link != NULL && (*link)->call_id != call_id)
		link = &(*link)->next;
	return link;
}

/* Forgets a set that is open. */
static open_set *
unlink_set(uint32_t call_id)
{
	open_set  **link = find_set(call_id);
	open_set   *found = *link;

	if (found != NULL)
		*link = found->next;
	return found;
}

static void
free_set(open_set *set)
{
	if (set == NULL)
		return;
	Py_XDECREF(set->iterator);
	Py_XDECREF(set->arguments);
	Py_XDECREF(set->pending);
	release_function(set->called);
	free(set);
}

/* Makes the set of a function's result. */
static open_set *
make_set(run *call, PyObject *result)
{
	open_set   *set = calloc(1, sizeof(open_set));

	if (set == NULL)
	{
		PyErr_NoMemory();
		return NULL;
	}
	set->call_id = call->call_id;
	set->called = call->called;
	set->called->uses++;
	set->iterator = PyObject_GetIter(result);
	if (set->iterator != NULL)
		return set;
	if (PyErr_ExceptionMatches(PyExc_Exception))
	{
		PyErr_Clear();
		conversion_error(NOT_ITERABLE);
	}
	free_set(set);
	return NULL;
}

/* The next row: a new reference; NULL at the end, or with an exception set. */
static PyObject *
next_row(open_set *set)
{
	PyObject   *row = set->pending;

	set->pending = NULL;
	if (row == NULL)
		row = PyIter_Next(set->iterator);
	if (row == NULL && PyErr_Occurred())
		conversion_error(ITERATION_FAILED);
	return row;
}

static int64_t
clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Writes a row: 1, 0 when the frame has no room for it, -1 with an exception set. */
static int
write_row(const run *call, open_set *set, PyObject *row, bool first)
{
	plc_writer *writer = call->writer;
	size_t		mark = writer->length;

	if (write_converted(call->called, writer, row) < 0)
		return -1;
	if (writer->length - PLC_HEADER_SIZE <= state.limit)
		return 1;
	if (first)
		return conversion_error(TOO_LARGE);
	writer->length = mark;
	Py_INCREF(row);
	set->pending = row;
	return 0;
}

/* Fills a batch. Returns whether there may be more rows, or -1 with an exception set. */
static int
fill_batch(const run *call, open_set *set, uint32_t *count)
{
	int64_t		deadline = clock_ms() + BATCH_MS;

	*count = 0;
	do
	{
		PyObject   *row = next_row(set);
		int			result;

		if (row == NULL)
			return PyErr_Occurred() ? -1 : 0;
		result = write_row(call, set, row, *count == 0);
		Py_DECREF(row);
		if (result < 0)
			return -1;
		if (result == 0)
			return 1;
		++*count;
	} while (*count < call->rows && call->writer->length - PLC_HEADER_SIZE < call->bytes && clock_ms() < deadline);
	return 1;
}

/* Answers with the next rows of a set, which is kept if there may be more. */
static int
write_batch(run *call, open_set *set)
{
	plc_writer *writer = call->writer;
	open_set  **link;
	uint32_t	count;
	int			more;

	plc_frame_begin(writer, call->call_id, PLC_ROWS, 0);
	plc_write_u32(writer, 0);
	more = fill_batch(call, set, &count);
	if (more == 1)
	{
		Py_XDECREF(set->arguments);
		set->arguments = save_arguments(call->called);
		if (set->arguments == NULL)
			more = -1;
	}
	if (more >= 0 && written(writer) < 0)
		more = -1;
	if (more >= 0)
	{
		writer->data[5] = more == 1 ? PLC_FLAG_MORE : 0;
		memcpy(writer->data + PLC_HEADER_SIZE, &count, sizeof(count));
	}
	if (more != 1)
	{
		call->ended = set;
		return more;
	}
	link = find_set(call->call_id);
	set->next = *link;
	*link = set;
	return 0;
}

/* Ends a set: a generator of it runs its clauses `finally`, in no call. */
static void
close_set(open_set *set)
{
	int64_t		before = state.current;
	PyObject   *result = NULL;

	state.current = -1;
	if (PyObject_HasAttrString(set->iterator, "close"))
		result = PyObject_CallMethod(set->iterator, "close", NULL);
	if (PyErr_Occurred())
		PyErr_Print();
	Py_XDECREF(result);
	free_set(set);
	state.current = before;
}

/* --- answers --------------------------------------------------------------- */

/* Writes the Error that the exception which is set makes of a call. */
static void
write_failure(plc_writer *writer, uint32_t call_id)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;
	PyObject   *payload;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback != NULL)
		PyException_SetTraceback(value, traceback);
	payload = PyObject_CallFunctionObjArgs(state.failure, value, NULL);
	if (payload == NULL || !PyBytes_Check(payload))
	{
		bool		deep = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_RecursionError);

		/* Otherwise a cancel came while an object of the user described itself. */
		PyErr_Clear();
		Py_XDECREF(payload);
		payload = deep ? state.too_deep : state.canceled;
		Py_INCREF(payload);
	}
	writer->error = NULL;
	writer->length = 0;
	plc_frame_begin(writer, call_id, PLC_ERROR, 0);
	plc_write_bytes(writer, PyBytes_AsString(payload), (size_t) PyBytes_Size(payload));
	Py_DECREF(payload);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(traceback);
}

/* Runs the function of a call and writes its Result. */
static int
run_function(run *call)
{
	plc_writer *writer = call->writer;
	uint32_t	flags = call->called->flags;
	open_set   *set;
	int			result = 1;

	call->result = PyObject_CallNoArgs(call->called->call);
	if (call->result == NULL)
		return -1;
	if (flags & PLC_FUNCTION_SET)
	{
		set = make_set(call, call->result);
		return set == NULL ? -1 : write_batch(call, set);
	}
	plc_frame_begin(writer, call->call_id, PLC_RESULT, 0);
	if (flags & PLC_FUNCTION_TRIGGER)
		result = write_trigger(call, call->result);
	else if (flags & PLC_FUNCTION_EVENT_TRIGGER)
		plc_write_u8(writer, PLC_FORM_NULL);
	else
		result = write_converted(call->called, writer, call->result);
	if (result == 1 && writer->length - PLC_HEADER_SIZE > state.limit)
		result = conversion_error(TOO_LARGE);
	return result == 1 ? 0 : -1;
}

/*
 * Answers a call. While state.current says so the handler of an interrupt may raise an exception
 * in code of the user, and nowhere else.
 */
static int
answer(run *call)
{
	/* Methods of the result run while it is written: what they send goes its own way. */
	plc_writer	writer = state.out;
	int64_t		before = state.current;
	int			result;

	plc_writer_init(&state.out, realloc);
	plc_writer_reset(&writer);
	call->writer = &writer;
	state.current = call->call_id;
	state.depth++;
	if (is_canceled())
	{
		/* The Cancel came first. */
		PyErr_SetNone(state.query_canceled);
		call->ended = call->set;
		result = -1;
	}
	else
		result = call->set != NULL ? write_batch(call, call->set) : run_function(call);
	if (result < 0)
		write_failure(&writer, call->call_id);
	state.current = before;
	state.depth--;
	if (!state.owned)
		_exit(0);
	plc_frame_end(&writer);
	free(state.out.data);
	state.out = writer;
	if (writer.error != NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	result = send_all(writer.data, writer.length);
	if (writer.capacity > BUFFER_KEPT)
	{
		free(writer.data);
		plc_writer_init(&state.out, realloc);
	}
	/* After the answer: the peer works on while large objects are taken down. */
	Py_XDECREF(call->result);
	Py_XDECREF(call->data);
	Py_XDECREF(call->event);
	free_set(call->ended);
	return result;
}

int
serve_call(frame *received)
{
	run			call = {.call_id = received->header.call_id, .rows = FIRST_ROWS, .bytes = FIRST_BYTES};
	bool		large = received->header.length >= ARGUMENTS_KEPT;
	plc_reader	reader;
	PyObject   *outer;
	uint32_t	id;
	int			result;

	plc_reader_init(&reader, received->payload, (size_t) received->header.length);
	id = plc_read_u32(&reader);
	call.called = reader.error == NULL ? find_function(id) : NULL;
	if (call.called == NULL)
		return protocol_error(reader.error != NULL ? reader.error : "call of a function that is not registered");
	if (*find_set(call.call_id) != NULL)
		return protocol_error("call has the id of an open set");
	if (call.called->failure != NULL || state.depth >= MAX_CALLS)
	{
		PyObject   *failure = call.called->failure != NULL ? call.called->failure : state.too_deep;

		Py_INCREF(failure);
		release_frame(received);
		result = send_frame(call.call_id, PLC_ERROR, failure);
		Py_DECREF(failure);
		return result;
	}
	if (enter(call.called, &outer) < 0)
		return -1;
	state.payload = received->owner;
	result = set_arguments(&call, &reader);
	state.payload = NULL;
	if (result < 0)
		return -1;
	release_frame(received);
	result = answer(&call);
	return leave(call.called, outer, large) < 0 ? -1 : result;
}

int
serve_credit(frame *received)
{
	run			call = {.call_id = received->header.call_id};
	plc_reader	reader;
	PyObject   *outer;
	int			result = 0;

	plc_reader_init(&reader, received->payload, (size_t) received->header.length);
	call.rows = plc_read_u32(&reader);
	call.bytes = plc_read_u32(&reader);
	if (!plc_read_end(&reader))
		return protocol_error(reader.error);
	release_frame(received);
	call.set = unlink_set(call.call_id);
	if (call.set == NULL)
		return call.rows == 0 ? 0 : protocol_error("credit for a set that is not open");
	call.called = call.set->called;
	if (enter(call.called, &outer) < 0)
		return -1;
	if (PyDict_Update(call.called->namespace, call.set->arguments) < 0)
		result = -1;
	else if (call.rows > 0)
		result = answer(&call);
	else
		close_set(call.set);
	return leave(call.called, outer, true) < 0 ? -1 : result;
}
