/*
 * _plc.h
 *		What the files of the extension module share. Built for the limited API, so
 *		that one module serves every CPython from 3.9 on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLC_PYTHON_H
#define PLC_PYTHON_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x03090000
#endif
#include <Python.h>

#include <pthread.h>

#include "../../protocol/plc_protocol.h"
#include "../../protocol/plc_receive.h"

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

#define BUCKETS 64

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

typedef struct plc_state
{
	int			fd;
	int			signal_fd;
	pthread_t	main_thread;
	bool		owned;			/* false in a child process */
	uint64_t	limit;			/* of a payload */
	_Atomic int64_t current;	/* the call whose user code runs, or -1 */
	uint32_t	last;			/* call id of the last frame */
	_Atomic int64_t cancel;		/* the call that shall end, or -1; the watching thread's */
	uint8_t    *buffer;			/* BUFFER_SIZE bytes */
	size_t		have;			/* bytes in it */
	plc_writer	out;
	function   *functions[BUCKETS];
	PyObject   *protocol_error;
	PyObject   *fail;			/* convert.fail */
	PyObject   *decimal;		/* convert.decimal */
	PyObject   *args_name;
} plc_state;

extern plc_state state;

/* Both set an exception and return -1. */
extern int	protocol_error(const char *message);
extern int	conversion_error(int reason);

/* The object of a value in a CallReq. */
extern PyObject *decode_value(plc_reader *reader, plc_kind kind, plc_kind element);

/* Writes a function's result. Returns 1, or -1 with an exception set. */
extern int	write_result(plc_writer *writer, plc_kind kind, plc_kind element, PyObject *object);

/* Sets PyErr_NoMemory and returns -1 where a writer failed, else 1. */
extern int	written(const plc_writer *writer);

/* Sends a frame. Returns 0, or -1 with an exception set. */
extern int	send_frame(uint32_t call_id, plc_message type, PyObject *payload);

/* Serves frames until the connection's end. Returns 0 then, -1 with an exception set. */
extern int	serve(PyObject *control, PyObject *failure, PyObject *canceled);

/* Starts the thread that serves the signal connection. Returns 0 or an errno. */
extern int	start_watching(void);

#endif							/* PLC_PYTHON_H */
