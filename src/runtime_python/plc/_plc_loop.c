/*
 * _plc_loop.c
 *		The loop that serves calls, as loop.py has it: frames in, functions called,
 *		frames out. What happens once per function or once per error is left to
 *		runtime.py.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t) 64 << 10)
#define BUFFER_KEPT ((size_t) 4 << 20)	/* larger ones are released after their call */
#define ARGUMENTS_KEPT ((size_t) 4 << 10)	/* so are the arguments of larger calls */

/* Runs the handlers of signals that came while the GIL was released. */
static void
run_signal_handlers(void)
{
	if (PyErr_CheckSignals() < 0)
		PyErr_WriteUnraisable(NULL);
}

static plc_spin spin = {.budget_us = PLC_SPIN_US_DEFAULT};

/* Bytes received, 0 at the end, -1 with an exception set. */
static ssize_t
receive(uint8_t *place, size_t room, int flags)
{
	for (;;)
	{
		ssize_t		count;
		int			error;

		Py_BEGIN_ALLOW_THREADS
		count = plc_receive(state.fd, place, room, flags, &spin);
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

int
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
	state.last = header.call_id;
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

int
serve(PyObject *control, PyObject *failure, PyObject *canceled)
{
	int			result;

	state.buffer = malloc(BUFFER_SIZE);
	if (state.buffer == NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	plc_writer_init(&state.out, realloc);
	do
		result = serve_frame(control, failure, canceled);
	while (result == 1);
	free(state.buffer);
	state.buffer = NULL;
	return result;
}
