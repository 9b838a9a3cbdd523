/*
 * _plc.h
 *		What the files of the extension module share. Built for the limited API, so
 *		that one module serves every CPython from 3.9 on.
 *
 * _plc.c			the module: what Python code calls
 * _plc_types.c		types of values, shapes of results of queries
 * _plc_arguments.c	values to objects
 * _plc_results.c	objects to values
 * _plc_loop.c		frames: receiving, sending, waiting for an answer
 * _plc_calls.c		calls, triggers and sets
 * _plc_watch.c		the signal connection
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

/* Why an object can't be converted: numbers of convert.py. */
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
	TOO_LARGE = 10,
	KEY_MISSING = 11,
	LENGTH_DIFFERS = 12,
	ATTRIBUTE_MISSING = 13,
	ATTRIBUTE_OF_ELEMENT_MISSING = 14,
	MALFORMED_RECORD = 15,
	NOT_ITERABLE = 16,
	ITERATION_FAILED = 17,
	PROCEDURE_NOT_VOID = 18,
	ELEMENT_FAILED = 19
};

#define BUCKETS 64
#define BUFFER_KEPT ((size_t) 4 << 20)	/* larger ones are released after their call */
/* Calls within calls: beyond it one is answered by an Error, before the stack ends. */
#define MAX_CALLS 250

/* A type descriptor, taken apart. */
typedef struct value_type
{
	uint8_t		kind;
	bool		numpy;			/* an ARRAY that is given to functions as numpy's */
	uint32_t	uses;			/* of the type that this one is a part of, or is */
	uint32_t	count;			/* fields of a COMPOSITE, 1 for an ARRAY */
	struct value_type *inner;	/* so many types */
	PyObject  **names;			/* of fields; interned */
} value_type;

typedef struct argument
{
	PyObject   *name;			/* interned; NULL when it has none */
	value_type	type;
} argument;

typedef struct function
{
	struct function *next;
	uint32_t	id;
	uint32_t	flags;
	uint32_t	uses;			/* the table's, those of calls and of open sets */
	uint32_t	running;		/* calls of it on the stack */
	bool		heavy;			/* an argument may be large */
	value_type	result;
	PyObject   *call;
	PyObject   *namespace;
	PyObject   *failure;		/* bytes: what answers every call, or NULL */
	PyObject   *fields;			/* of a trigger's row: names to numbers */
	PyObject   *globals;		/* names that a call sets in the namespace */
	uint32_t	count;
	argument	arguments[];
} function;

/* A set that the backend may want more of. */
typedef struct open_set
{
	struct open_set *next;
	uint32_t	call_id;
	function   *called;
	PyObject   *iterator;
	PyObject   *arguments;		/* the function's globals as the last batch left them, or NULL */
	PyObject   *pending;		/* a row that did not fit into the batch before, or NULL */
} open_set;

/* A frame that was received. */
typedef struct frame
{
	plc_header	header;
	const uint8_t *payload;
	PyObject   *owner;			/* the bytearray (bytes for a REPLY) that has it, NULL for the buffer */
} frame;

typedef struct plc_state
{
	int			fd;
	int			signal_fd;
	pthread_t	main_thread;
	bool		owned;			/* false in a child process */
	uint64_t	limit;			/* of a payload */
	_Atomic int64_t current;	/* the call whose user code runs, or -1 */
	_Atomic int depth;			/* calls on the stack */
	uint32_t	last;			/* call id of the last frame */
	_Atomic int64_t cancel;		/* the call that shall end, or -1 */
	uint8_t    *buffer;			/* BUFFER_SIZE bytes */
	size_t		have;			/* bytes in it */
	plc_writer	out;
	function   *functions[BUCKETS];
	open_set   *sets[BUCKETS];
	PyObject   *shapes;			/* descriptions to Shapes */
	PyObject   *payload;		/* the bytearray that arguments are taken from, or NULL */
	/* what serve() was given */
	PyObject   *control;
	PyObject   *failure;
	PyObject   *end;
	PyObject   *canceled;
	PyObject   *too_deep;
	/* what configure() has looked up */
	PyObject   *protocol_error;
	PyObject   *conversion_error;
	PyObject   *query_canceled;
	PyObject   *encode_type;
	PyObject   *fail;
	PyObject   *decimal;
	PyObject   *numpy_array;
	PyObject   *filled;
	PyObject   *mapping;
	PyObject   *shape;
	PyObject   *trigger_action;
	PyObject   *trigger_context;
	PyObject   *args_name;
	PyObject   *data_name;
	PyObject   *event_name;
} plc_state;

extern plc_state state;

/* _plc.c: these set an exception and return -1. */
extern int	protocol_error(const char *message);
extern int	conversion_error(int reason);
extern int	conversion_error_of(int reason, PyObject *argument);

/* Whether the call that runs shall end. */
static inline bool
is_canceled(void)
{
	return state.current != -1 && state.current == state.cancel;
}

/* _plc_types.c: 0, or -1 with an exception set */
extern int	read_type(plc_reader *reader, value_type *type, int depth, bool numpy);
extern int	parse_type(PyObject *descriptor, value_type *type, bool numpy);
extern void clear_type(value_type *type);
/* The type of a RECORD's value, to be released. */
extern value_type *read_record_type(plc_reader *reader, int depth);
extern void release_type(value_type *type);
extern PyObject *describe(PyObject *description);
/* The row type of a Shape's handle, or the types of a plan's parameters; NULL with an exception set. */
extern value_type *row_type(PyObject *handle);
extern PyObject *parameter_types(const char *data, Py_ssize_t size, unsigned int count);

/* _plc_arguments.c */
extern PyObject *decode_value(plc_reader *reader, const value_type *type, int depth);
/* A dict of a row whose values are at the reader. */
extern PyObject *decode_row(plc_reader *reader, const value_type *type, int depth);

/* _plc_results.c: 1, or -1 with an exception set */
extern int	write_result(plc_writer *writer, const value_type *type, PyObject *object, bool in_array);
extern int	written(const plc_writer *writer);
/* A borrowed reference to an item of a list or tuple. */
extern PyObject *get_item(PyObject *sequence, Py_ssize_t i);

/* _plc_loop.c: 0, or -1 with an exception set */
extern int	send_all(const uint8_t *data, size_t length);
extern int	send_frame(uint32_t call_id, plc_message type, PyObject *payload);
extern void release_frame(frame *received);
extern int	serve(void);
extern PyObject *request(plc_message type, PyObject *payload);

/* _plc_calls.c */
extern int	serve_call(frame *received);
extern int	serve_credit(frame *received);
extern void release_function(function *dropped);

/* _plc_watch.c: starts the thread that serves the signal connection. Returns 0 or an errno. */
extern int	start_watching(void);

#endif							/* PLC_PYTHON_H */
