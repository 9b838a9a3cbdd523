/*
 * _plc_loop.c
 *		The loop that serves calls, as loop.py has it: frames in, calls made,
 *		frames out, and requests of calls with all that comes before their answers.
 *		What happens once per function or once per error is left to runtime.py.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t) 64 << 10)
/*
 * Frames of Python's that a nested call may have beyond the limit of the one that waits for it: what
 * this package itself needs must not end in a RecursionError.
 */
#define FRAMES_PER_CALL 40

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

int
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

/* --- receiving ------------------------------------------------------------- */

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
receive_large(frame *received)
{
	size_t		length = (size_t) received->header.length;
	size_t		have = state.have - PLC_HEADER_SIZE;
	bool		reply = (received->header.flags & PLC_FLAG_REPLY) != 0;
	uint8_t    *data;

	received->owner = reply ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t) length)
		: PyByteArray_FromStringAndSize(NULL, (Py_ssize_t) length);
	if (received->owner == NULL)
		return -1;
	data = (uint8_t *) (reply ? PyBytes_AsString(received->owner) : PyByteArray_AsString(received->owner));
	memcpy(data, state.buffer + PLC_HEADER_SIZE, have);
	state.have = 0;
	while (have < length)
	{
		ssize_t		count = receive(data + have, length - have, MSG_WAITALL);

		if (count <= 0)
			return (int) count;
		have += (size_t) count;
	}
	received->payload = data;
	return 1;
}

/* Receives a frame: 1, 0 at the end of the connection, -1 with an exception set. */
static int
receive_frame(frame *received)
{
	const char *error;
	size_t		total;
	int			result = fill_buffer(PLC_HEADER_SIZE);

	received->owner = NULL;
	received->payload = NULL;
	if (result != 1)
		return result;
	error = plc_header_decode(state.buffer, state.limit, &received->header);
	state.last = received->header.call_id;
	if (error != NULL)
		return protocol_error(error);
	total = PLC_HEADER_SIZE + (size_t) received->header.length;
	if (total > BUFFER_SIZE)
		return receive_large(received);
	result = fill_buffer(total);
	if (result == 1)
		received->payload = state.buffer + PLC_HEADER_SIZE;
	return result;
}

/* Lets go of a frame's payload, before the next frame is received. */
void
release_frame(frame *received)
{
	if (received->owner != NULL)
		Py_DECREF(received->owner);
	else if (received->payload != NULL)
	{
		size_t		total = PLC_HEADER_SIZE + (size_t) received->header.length;

		state.have -= total;
		if (state.have > 0)
			memmove(state.buffer, state.buffer + total, state.have);
	}
	received->owner = NULL;
	received->payload = NULL;
}

/* --- serving --------------------------------------------------------------- */

static int
serve_control(frame *received)
{
	const plc_header *header = &received->header;
	PyObject   *answer = PyObject_CallFunction(state.control, "iiIy#", (int) header->type, (int) header->flags,
											   (unsigned int) header->call_id, (const char *) received->payload,
											   (Py_ssize_t) header->length);
	char	   *data;
	Py_ssize_t	size;
	int			result = 0;

	release_frame(received);
	if (answer == NULL)
		return -1;
	if (answer != Py_None)
		result = PyBytes_AsStringAndSize(answer, &data, &size) < 0 ? -1
			: send_all((const uint8_t *) data, (size_t) size);
	Py_DECREF(answer);
	return result;
}

/* Serves a frame that is no answer, and releases it. */
static int
serve_frame(frame *received)
{
	int			result;

	if (received->header.flags == 0 && received->header.type == PLC_CALLREQ)
		result = serve_call(received);
	else if (received->header.flags == 0 && received->header.type == PLC_CREDIT)
		result = serve_credit(received);
	else
		result = serve_control(received);
	release_frame(received);
	return result;
}

int
serve(void)
{
	frame		received;
	int			result;

	state.buffer = malloc(BUFFER_SIZE);
	if (state.buffer == NULL)
	{
		PyErr_NoMemory();
		return -1;
	}
	plc_writer_init(&state.out, realloc);
	do
		result = receive_frame(&received);
	while (result == 1 && serve_frame(&received) == 0);
	free(state.buffer);
	state.buffer = NULL;
	return PyErr_Occurred() ? -1 : 0;
}

/* --- requests -------------------------------------------------------------- */

static int
add_part(PyObject *parts, frame *received)
{
	PyObject   *part = received->owner;
	int			result;

	if (part != NULL)
		Py_INCREF(part);
	else
		part = PyBytes_FromStringAndSize((const char *) received->payload, (Py_ssize_t) received->header.length);
	release_frame(received);
	if (part == NULL)
		return -1;
	result = PyList_Append(parts, part);
	Py_DECREF(part);
	return result;
}

/*
 * Serves the backend until the answer to a request is here, whose payloads it appends to `parts`.
 * Returns the answer's type, 0 at the end of the connection, -1 with an exception set.
 */
static int
await_answer(uint32_t call_id, plc_message type, PyObject *parts)
{
	frame		received;
	int			result;

	while ((result = receive_frame(&received)) == 1)
	{
		const plc_header *header = &received.header;

		if ((header->flags & PLC_FLAG_REPLY) == 0)
			result = serve_frame(&received);
		else if (header->call_id != call_id ||
				 (header->type != type && (header->type != PLC_ERROR || PyList_Size(parts) > 0)))
			result = protocol_error("unexpected message");
		else
		{
			result = add_part(parts, &received);
			if (result == 0 && (header->flags & PLC_FLAG_MORE) == 0)
				return header->type;
		}
		if (result < 0)
			break;
	}
	return result;
}

/* Ends the process: the conversation can't go on, and no function shall see that. */
static void
end_process(void)
{
	PyObject   *type;
	PyObject   *value;
	PyObject   *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback != NULL)
		PyException_SetTraceback(value, traceback);
	PyObject_CallFunctionObjArgs(state.end, value != NULL ? value : Py_None, NULL);
	_exit(1);
}

/* Whether an answer is the Error of a cancelled statement. */
static bool
is_cancel(PyObject *parts)
{
	PyObject   *payload = PyList_GetItem(parts, 0);
	plc_reader	reader;
	plc_fields	fields;
	plc_span	sqlstate;

	plc_reader_init(&reader, PyBytes_AsString(payload), (size_t) PyBytes_Size(payload));
	plc_read_fields(&reader, &fields);
	sqlstate = plc_field_value(&fields, 'C');
	return sqlstate.data != NULL && memcmp(sqlstate.data, "57014", 5) == 0;
}

/*
 * Sends a request of the call that runs and waits for its answer. Returns its type and the payloads
 * of its frames.
 */
PyObject *
request(plc_message type, PyObject *payload)
{
	int64_t		call_id = state.current;
	PyObject   *parts = PyList_New(0);
	int			answered;

	if (parts == NULL || send_frame((uint32_t) call_id, type, payload) < 0)
	{
		Py_XDECREF(parts);
		return NULL;
	}
	/* While it waits the call is not interrupted. */
	state.current = -1;
	Py_SetRecursionLimit(Py_GetRecursionLimit() + FRAMES_PER_CALL);
	answered = await_answer((uint32_t) call_id, type, parts);
	if (answered <= 0)
		end_process();
	Py_SetRecursionLimit(Py_GetRecursionLimit() - FRAMES_PER_CALL);
	state.current = call_id;
	if (answered == PLC_ERROR && is_cancel(parts))
		state.cancel = call_id;
	if (is_canceled())
	{
		Py_DECREF(parts);
		PyErr_SetNone(state.query_canceled);
		return NULL;
	}
	return Py_BuildValue("iN", answered, parts);
}
