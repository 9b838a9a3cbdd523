/*
 * channel.c
 *		The data conversation: a call goes out, what comes back is checked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/keywords.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Buffers above this are given back after the call that needed them. */
#define KEEP_BUFFER (16 * 1024 * 1024)
#define SMALL_BUFFER 8192

typedef enum receipt
{
	RECEIVED,
	ENDED,
	TIMED_OUT
} receipt;

/* --- memory and text ------------------------------------------------------ */

/* A plc_resize that raises an error where there is no memory. */
void *
plc_resize_memory(void *data, size_t capacity)
{
	if (data == NULL)
		return MemoryContextAllocHuge(TopMemoryContext, capacity);
	return repalloc_huge(data, capacity);
}

/* A `str` in the database's encoding, NUL-terminated; NULL if it has a zero byte. */
char *
plc_text_to_server(plc_span span)
{
	char	   *text;

	if (memchr(span.data, '\0', span.length) != NULL)
		return NULL;
	text = palloc_extended((Size) span.length + 1, MCXT_ALLOC_HUGE);
	memcpy(text, span.data, span.length);
	text[span.length] = '\0';
	return pg_any_to_server(text, span.length, PG_UTF8);
}

void
plc_channel_violation(plc_lease *lease, const char *what)
{
	char	   *sandbox = pstrdup(lease->sandbox);

	plc_lease_close(lease);
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("sandbox \"%s\" of runtime \"%s\" broke the protocol", sandbox, lease->key.runtime),
			 errdetail_internal("%s.", what),
			 errhint("The sandbox was dropped; the next call gets a new one.")));
}

/* --- messages from a sandbox ----------------------------------------------- */

static char *
field_text(const plc_fields *fields, char key)
{
	plc_span	span = plc_field_value(fields, key);

	return span.data == NULL ? NULL : plc_text_to_server(span);
}

static int
field_sqlstate(const plc_fields *fields, int fallback)
{
	plc_span	span = plc_field_value(fields, 'C');

	/* Class 00 is success, which an error can't be. */
	if (span.data == NULL || (span.data[0] == '0' && span.data[1] == '0'))
		return fallback;
	return MAKE_SQLSTATE(span.data[0], span.data[1], span.data[2], span.data[3], span.data[4]);
}

static int
set_generic_field(int code, const char *text)
{
	return text == NULL ? 0 : err_generic_string(code, text);
}

/* The query that an error is in, and the place in it where that is known. */
static int
set_internal_query(const char *query, const char *position)
{
	if (query == NULL)
		return 0;
	(void) internalerrquery(query);
	if (position != NULL)
	{
		long		number = strtol(position, NULL, 10);

		if (number > 0 && number <= INT_MAX)
			(void) internalerrposition((int) number);
	}
	return 0;
}

/* Reports fields at a level; does not return from ERROR. */
static void
report(int level, const plc_fields *fields, int sqlstate)
{
	char	   *message = field_text(fields, 'M');
	char	   *detail = field_text(fields, 'D');
	char	   *hint = field_text(fields, 'H');
	char	   *context = field_text(fields, 'W');

	ereport(level,
			(errcode(sqlstate),
			 errmsg_internal("%s", message != NULL ? message : _("message contains a zero byte")),
			 detail != NULL ? errdetail_internal("%s", detail) : 0,
			 hint != NULL ? errhint("%s", hint) : 0,
			 context != NULL ? errcontext("%s", context) : 0,
			 set_internal_query(field_text(fields, 'q'), field_text(fields, 'p')),
			 set_generic_field(PG_DIAG_SCHEMA_NAME, field_text(fields, 's')),
			 set_generic_field(PG_DIAG_TABLE_NAME, field_text(fields, 't')),
			 set_generic_field(PG_DIAG_COLUMN_NAME, field_text(fields, 'c')),
			 set_generic_field(PG_DIAG_DATATYPE_NAME, field_text(fields, 'd')),
			 set_generic_field(PG_DIAG_CONSTRAINT_NAME, field_text(fields, 'n'))));
}

void
plc_report_error(const plc_fields *fields, int default_sqlstate)
{
	report(ERROR, fields, field_sqlstate(fields, default_sqlstate));
	pg_unreachable();
}

/* --- bytes ------------------------------------------------------------------ */

static void
handle_interrupts(plc_lease *lease)
{
	if (!INTERRUPTS_PENDING_CONDITION())
		return;
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		if (lease->call != NULL && lease->call->is_open)
			plc_channel_cancel(lease->call);
		else
			plc_lease_close(lease);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Makes room for `length` unread bytes from in_start on. */
static void
reserve_input(plc_buffers *buffers, size_t length)
{
	size_t		unread = buffers->in_end - buffers->in_start;

	if (buffers->in_start > 0)
	{
		memmove(buffers->in, buffers->in + buffers->in_start, unread);
		buffers->in_start = 0;
		buffers->in_end = unread;
	}
	if (buffers->in_capacity < length)
	{
		buffers->in = plc_resize_memory(buffers->in, length);
		buffers->in_capacity = length;
	}
}

/*
 * Receives until `length` bytes are unread. With a deadline it gives up there and, but
 * for a greeting, looks after nothing else; without one (0) it serves interrupts and
 * the lease.
 */
static receipt
fill_input(plc_lease *lease, size_t length, TimestampTz deadline)
{
	plc_buffers *buffers = &lease->buffers;

	if (buffers->in_end - buffers->in_start >= length)
		return RECEIVED;
	if (buffers->in_capacity - buffers->in_start < length)
		reserve_input(buffers, Max(length, SMALL_BUFFER));
	while (buffers->in_end - buffers->in_start < length)
	{
		ssize_t		n;

		if (deadline != 0)
		{
			struct pollfd poller = {lease->data, POLLIN, 0};
			long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

			if (lease->is_greeting)
				CHECK_FOR_INTERRUPTS();
			if (left <= 0 || poll(&poller, 1, (int) left) <= 0)
			{
				if (left <= 0)
					return TIMED_OUT;
				continue;
			}
		}
		n = plc_receive(lease->data, buffers->in + buffers->in_end,
						buffers->in_capacity - buffers->in_end, 0, &lease->spin);
		if (n > 0)
			buffers->in_end += n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
			return ENDED;
		/* Looked at after every piece: who sends a byte at a time must not keep us here. */
		if (deadline == 0 && buffers->in_end - buffers->in_start < length)
		{
			handle_interrupts(lease);
			plc_lease_tend(lease);
		}
	}
	return RECEIVED;
}

/* Receives one frame. `error` is set where the peer has sent nonsense. */
static receipt
receive_frame(plc_lease *lease, plc_frame *frame, TimestampTz deadline, const char **error)
{
	plc_buffers *buffers = &lease->buffers;
	receipt		result;

	*error = NULL;
	if (buffers->in_start == buffers->in_end)
		buffers->in_start = buffers->in_end = 0;
	result = fill_input(lease, PLC_HEADER_SIZE, deadline);
	if (result != RECEIVED)
		return result;
	*error = plc_header_decode(buffers->in + buffers->in_start, lease->max_frame, &frame->header);
	if (*error != NULL)
		return RECEIVED;
	result = fill_input(lease, PLC_HEADER_SIZE + frame->header.length, deadline);
	if (result != RECEIVED)
		return result;
	frame->payload = buffers->in + buffers->in_start + PLC_HEADER_SIZE;
	buffers->in_start += PLC_HEADER_SIZE + frame->header.length;
	return RECEIVED;
}

/* The pieces of what was written, in order. Returns how many there are. */
static int
gather_output(const plc_writer *out, struct iovec *vectors)
{
	size_t		done = 0;
	int			n = 0;

	for (int i = 0; i < out->nsplices; i++)
	{
		const plc_splice *splice = &out->splices[i];

		if (splice->at > done)
			vectors[n++] = (struct iovec) {out->data + done, splice->at - done};
		vectors[n++] = (struct iovec) {unconstify(void *, splice->data), splice->length};
		done = splice->at;
	}
	if (out->length > done)
		vectors[n++] = (struct iovec) {out->data + done, out->length - done};
	return n;
}

/* Sends what was written. Returns false when the sandbox is gone. */
static bool
send_output(plc_lease *lease)
{
	struct iovec vectors[2 * PLC_MAX_SPLICES + 1];
	struct msghdr message = {.msg_iov = vectors};

	message.msg_iovlen = gather_output(&lease->buffers.out, vectors);
	if (lease->call != NULL)
		lease->call->sent += lease->buffers.out.length + lease->buffers.out.spliced;
	lease->sending = true;
	while (message.msg_iovlen > 0)
	{
		ssize_t		n = sendmsg(lease->data, &message, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
			return false;
		for (; n > 0 && (size_t) n >= message.msg_iov->iov_len; message.msg_iov++, message.msg_iovlen--)
			n -= message.msg_iov->iov_len;
		if (message.msg_iovlen == 0)
			break;
		if (n > 0)
		{
			message.msg_iov->iov_base = (char *) message.msg_iov->iov_base + n;
			message.msg_iov->iov_len -= n;
		}
		handle_interrupts(lease);
		plc_lease_tend(lease);
	}
	lease->sending = false;
	return true;
}

/* Answers a request of a sandbox that is to end its call. */
static bool
send_canceled(plc_call *call)
{
	static const char message[] = "canceling statement due to user request";
	plc_lease  *lease = call->lease;
	plc_writer	writer;
	bool		sent;

	plc_writer_init(&writer, plc_resize_memory);
	plc_frame_begin(&writer, call->id, PLC_ERROR, PLC_FLAG_REPLY);
	plc_write_field(&writer, 'C', "57014", 5);
	plc_write_field(&writer, 'M', message, sizeof(message) - 1);
	plc_write_u8(&writer, 0);
	plc_frame_end(&writer);
	sent = send(lease->data, writer.data, writer.length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) writer.length;
	pfree(writer.data);
	return sent;
}

/*
 * Waits for the end of a call that was told to end, cancel_grace at most. Whatever else
 * it asks for before, it is told so again.
 */
static bool
await_end(plc_call *call)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), plc_cancel_grace);
	plc_frame	frame;
	const char *error;

	while (receive_frame(call->lease, &frame, deadline, &error) == RECEIVED && error == NULL &&
		   frame.header.call_id == call->id)
		switch (frame.header.type)
		{
			case PLC_RESULT:
			case PLC_ROWS:
			case PLC_ERROR:
				return true;
			case PLC_SUBTRANSACTION:
			case PLC_SQL:
				if (!(frame.header.type == PLC_SQL && frame.header.length > 0 &&
					  frame.payload[0] == PLC_SQL_DISCARD) && !send_canceled(call))
					return false;
				break;
			case PLC_LOG:
				break;
			default:
				return false;
		}
	return false;
}

/*
 * Tells the sandbox to interrupt a call and waits for its end. What can't be interrupted
 * is dropped, sandbox and all. Raises nothing: it runs while an error is on its way.
 */
void
plc_channel_cancel(plc_call *call)
{
	plc_lease  *lease = call->lease;
	uint8		message[PLC_HEADER_SIZE] = {0};

	if (!call->is_open || plc_channel_is_lost(call))
		return;
	memcpy(message, &call->id, 4);
	message[4] = PLC_CANCEL;
	if (lease->sending ||
		send(lease->signal, message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(message) ||
		(call->waits && !send_canceled(call)) ||
		!await_end(call))
		plc_lease_close(lease);
	else
		call->is_open = call->waits = false;
}

/* --- the conversation -------------------------------------------------------- */

/* Greets a new sandbox and agrees on version and limits. */
void
plc_channel_handshake(plc_lease *lease)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), plc_lease_timeout);
	static const char software[] = "postgresql " PG_VERSION;
	plc_writer *out = &lease->buffers.out;
	plc_frame	frame;
	plc_reader	reader;
	const char *error;
	size_t		count_at;
	uint32		count = 0;
	uint64		max_frame = (uint64) plc_max_frame_mb << 20;
	uint64		peer_max_frame;
	plc_span	codec;

	if (out->resize == NULL)
		plc_writer_init(out, plc_resize_memory);
	plc_writer_reset(out);
	lease->max_frame = PLC_MAX_FRAME_HANDSHAKE;
	lease->spin = (plc_spin) {.budget_us = (uint32) plc_spin_us};
	lease->is_greeting = true;
	plc_frame_begin(out, ++lease->call_id, PLC_PING, 0);
	plc_write_u32(out, PLC_MAGIC);
	plc_write_u16(out, PLC_VERSION);
	plc_write_u16(out, PLC_VERSION);
	plc_write_u64(out, PLC_FEATURES);
	plc_write_u64(out, max_frame);
	plc_write_str(out, software, sizeof(software) - 1);
	count_at = out->length;
	plc_write_u32(out, 0);
	for (int i = 0; i < ScanKeywords.num_keywords; i++)
		if (ScanKeywordCategories[i] != UNRESERVED_KEYWORD)
		{
			const char *word = GetScanKeyword(i, &ScanKeywords);

			plc_write_str(out, word, strlen(word));
			count++;
		}
	memcpy(out->data + count_at, &count, sizeof(count));
	plc_frame_end(out);

	if (!send_output(lease))
		plc_lease_lost(lease);
	switch (receive_frame(lease, &frame, deadline, &error))
	{
		case RECEIVED:
			break;
		case ENDED:
			plc_lease_lost(lease);
			break;
		case TIMED_OUT:
			plc_channel_violation(lease, "It did not answer the first Ping");
			break;
	}
	if (error != NULL)
		plc_channel_violation(lease, error);
	plc_reader_init(&reader, frame.payload, frame.header.length);
	if (frame.header.type == PLC_ERROR)
	{
		plc_fields	fields;

		plc_read_fields(&reader, &fields);
		if (!plc_read_end(&reader))
			plc_channel_violation(lease, reader.error);
		plc_report_error(&fields, ERRCODE_PROTOCOL_VIOLATION);
	}
	if (frame.header.type != PLC_PING || frame.header.flags != PLC_FLAG_REPLY ||
		frame.header.call_id != lease->call_id)
		plc_channel_violation(lease, "It did not answer the first Ping with a Ping");
	if (plc_read_u32(&reader) != PLC_MAGIC || plc_read_u16(&reader) != PLC_VERSION ||
		plc_read_u16(&reader) != 0)
		plc_channel_violation(lease, "It chose a version that was not offered");
	lease->features = plc_read_u64(&reader);
	if ((lease->features & ~PLC_FEATURES) != 0)
		plc_channel_violation(lease, "It chose features that were not offered");
	peer_max_frame = plc_read_u64(&reader);
	(void) plc_read_str(&reader);
	codec = plc_read_str(&reader);
	if (!plc_read_end(&reader))
		plc_channel_violation(lease, reader.error);
	if (peer_max_frame < PLC_MAX_FRAME_HANDSHAKE)
		plc_channel_violation(lease, "It accepts no message of useful size");
	snprintf(lease->codec, sizeof(lease->codec), "%s",
			 codec.length == 1 && codec.data[0] == 'c' ? "c" : "python");
	lease->max_frame = Min(max_frame, peer_max_frame);
	lease->is_greeting = false;
}

static void
write_registration(plc_lease *lease, const plc_function *function)
{
	static const char *const trigger_names[] = {
		"name", "relid", "table_name", "table_schema", "when", "level", "event",
	};
	plc_writer *out = &lease->buffers.out;

	plc_frame_begin(out, lease->call_id, PLC_REGISTER, 0);
	plc_write_u32(out, function->id);
	plc_write_u32(out, function->flags);
	plc_write_server_text(out, function->name, strlen(function->name));
	plc_write_server_text(out, function->source, strlen(function->source));
	if ((function->flags & PLC_FUNCTION_TRIGGER) != 0)
	{
		plc_write_u32(out, lengthof(trigger_names) + 3);
		for (int i = 0; i < lengthof(trigger_names); i++)
		{
			plc_write_str(out, trigger_names[i], strlen(trigger_names[i]));
			plc_write_u8(out, PLC_TEXT);
		}
		plc_write_str(out, "args", 4);
		plc_write_u8(out, PLC_ARRAY);
		plc_write_u8(out, PLC_TEXT);
		plc_write_str(out, "new", 3);
		plc_type_describe(out, &function->row);
		plc_write_str(out, "old", 3);
		plc_type_describe(out, &function->row);
	}
	else if ((function->flags & PLC_FUNCTION_EVENT_TRIGGER) != 0)
	{
		plc_write_u32(out, 2);
		plc_write_str(out, "event", 5);
		plc_write_u8(out, PLC_TEXT);
		plc_write_str(out, "tag", 3);
		plc_write_u8(out, PLC_TEXT);
	}
	else
	{
		plc_write_u32(out, function->nargs);
		for (int i = 0; i < function->nargs; i++)
		{
			const char *name = function->arg_names[i] == NULL ? "" : function->arg_names[i];

			plc_write_server_text(out, name, strlen(name));
			plc_type_describe(out, &function->args[i]);
		}
	}
	plc_type_describe(out, &function->result);
	plc_frame_end(out);
}

/* Ends sets that nobody reads on. */
static void
write_ended_sets(plc_lease *lease)
{
	ListCell   *cell;

	foreach(cell, lease->ended_sets)
	{
		plc_frame_begin(&lease->buffers.out, lfirst_int(cell), PLC_CREDIT, 0);
		plc_write_u32(&lease->buffers.out, 0);
		plc_write_u32(&lease->buffers.out, 0);
		plc_frame_end(&lease->buffers.out);
	}
}

static void
forget_ended_sets(plc_lease *lease)
{
	list_free(lease->ended_sets);
	lease->ended_sets = NIL;
}

static void
write_call(plc_lease *lease, plc_function *function, plc_write_call write, void *argument)
{
	plc_writer *out = &lease->buffers.out;

	plc_writer_reset(out);
	lease->call_id++;
	for (int id = -1; (id = bms_next_member(lease->forgotten, id)) >= 0;)
	{
		plc_frame_begin(out, lease->call_id, PLC_FORGET, 0);
		plc_write_u32(out, id);
		plc_frame_end(out);
	}
	write_ended_sets(lease);
	if (!bms_is_member(function->id, lease->registered))
		write_registration(lease, function);
	plc_frame_begin(out, lease->call_id, PLC_CALLREQ, 0);
	plc_write_u32(out, function->id);
	write(out, function, argument);
	plc_frame_end(out);
	if (out->error != NULL || plc_frame_size(out) - PLC_HEADER_SIZE > lease->max_frame)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("arguments of %zu bytes are too large for a sandbox", plc_frame_size(out)),
				 errdetail("The limit is " UINT64_FORMAT " bytes.", lease->max_frame)));
}

/* After a call was sent: what the sandbox knows now. */
static void
note_registration(plc_lease *lease, const plc_function *function)
{
	MemoryContext caller;

	forget_ended_sets(lease);
	bms_free(lease->forgotten);
	lease->forgotten = NULL;
	if (bms_is_member(function->id, lease->registered))
		return;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	lease->registered = bms_add_member(lease->registered, function->id);
	MemoryContextSwitchTo(caller);
}

/* --- calls --------------------------------------------------------------------- */

/* Whether the sandbox in which a call was begun is not there any more. */
bool
plc_channel_is_lost(const plc_call *call)
{
	return call->lease == NULL || call->lease->data < 0 || call->lease->epoch != call->epoch;
}

/*
 * The features a function of this kind needs: told before its sandbox is asked for what
 * it does not know.
 */
static void
check_features(plc_lease *lease, const plc_function *function)
{
	if ((function->flags & PLC_FUNCTION_SET) != 0 && (lease->features & PLC_FEATURE_SETS) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("runtime \"%s\" does not support functions that return sets", lease->key.runtime)));
}

/* Makes a call the innermost one of its lease. An outer one's messages stay where they are. */
static void
enter(plc_call *call, plc_lease *lease)
{
	call->lease = lease;
	call->epoch = lease->epoch;
	call->outer = lease->call;
	call->reading = lease->reading;
	if (lease->call != NULL || lease->reading > 0)
	{
		call->has_buffers = true;
		call->outer_buffers = lease->buffers;
		memset(&lease->buffers, 0, sizeof(lease->buffers));
		plc_writer_init(&lease->buffers.out, plc_resize_memory);
	}
	lease->call = call;
}

static void
leave(plc_call *call)
{
	plc_lease  *lease = call->lease;

	if (lease == NULL || lease->call != call)
		return;
	lease->call = call->outer;
	lease->reading = call->reading;
	if (call->has_buffers)
	{
		if (lease->buffers.in != NULL)
			pfree(lease->buffers.in);
		if (lease->buffers.out.data != NULL)
			pfree(lease->buffers.out.data);
		lease->buffers = call->outer_buffers;
		call->has_buffers = false;
	}
}

/* Finds the sandbox of a call: the session's of the function's runtime, for the current user. */
void
plc_channel_begin(plc_call *call, plc_function *function)
{
	plc_lease  *lease = function->lease;

	call->function = function;
	if (lease == NULL || lease->data < 0 || lease->key.role != GetUserId())
		function->lease = lease = plc_lease_get(function->runtime);
	else
		plc_lease_tend(lease);
	check_features(lease, function);
	enter(call, lease);
}

/*
 * Sends a call. A sandbox that has ended since the last one has taken nothing of this
 * call with it: the call goes to a new sandbox, and a warning says so.
 */
void
plc_channel_call(plc_call *call, plc_write_call write, void *argument)
{
	plc_lease  *lease = call->lease;
	plc_function *function = call->function;

	for (bool again = false;; again = true)
	{
		write_call(lease, function, write, argument);
		call->id = lease->call_id;
		call->is_open = true;
		if (send_output(lease))
			break;
		/* What waits for this call has ended, too. */
		if (again || call->outer != NULL)
			plc_lease_lost(lease);
		call->is_open = false;
		leave(call);
		plc_lease_ended(lease, WARNING);
		function->lease = plc_lease_get(function->runtime);
		check_features(function->lease, function);
		enter(call, lease);
	}
	note_registration(lease, function);
	lease->calls++;
}

/* Has the sandbox compile a function, and nothing more. */
void
plc_channel_check(plc_call *call)
{
	plc_lease  *lease = call->lease;
	plc_writer *out = &lease->buffers.out;

	plc_writer_reset(out);
	plc_frame_begin(out, ++lease->call_id, PLC_CHECK, 0);
	plc_write_u32(out, call->function->flags);
	plc_write_server_text(out, call->function->name, strlen(call->function->name));
	plc_write_server_text(out, call->function->source, strlen(call->function->source));
	plc_frame_end(out);
	call->id = lease->call_id;
	call->is_open = true;
	if (!send_output(lease))
		plc_lease_lost(lease);
}

/* Asks for the next batch of a set: the call that began it is continued under its id. */
void
plc_channel_resume(plc_call *call, plc_function *function, plc_lease *lease, uint32 id,
				   uint32 rows, uint32 bytes)
{
	plc_writer *out = &lease->buffers.out;

	call->function = function;
	call->id = id;
	plc_lease_tend(lease);
	enter(call, lease);
	plc_writer_reset(out);
	write_ended_sets(lease);
	plc_frame_begin(out, call->id, PLC_CREDIT, 0);
	plc_write_u32(out, rows);
	plc_write_u32(out, bytes);
	plc_frame_end(out);
	call->is_open = true;
	if (!send_output(lease))
		plc_lease_lost(lease);
	forget_ended_sets(lease);
}

/* Tells the sandbox at once, if that does not wait, which sets nobody reads on. */
void
plc_channel_end_sets(plc_lease *lease)
{
	plc_writer	writer = lease->buffers.out;

	if (lease->data < 0 || lease->sending)
		return;
	/* An outer call's answer may be half written in the lease's own writer. */
	plc_writer_init(&lease->buffers.out, plc_resize_memory);
	write_ended_sets(lease);
	if (send(lease->data, lease->buffers.out.data, lease->buffers.out.length,
			 MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) lease->buffers.out.length)
		forget_ended_sets(lease);
	pfree(lease->buffers.out.data);
	lease->buffers.out = writer;
}

static void
report_log(plc_lease *lease, const plc_frame *frame)
{
	static const int levels[] = {
		[PLC_LOG_DEBUG] = DEBUG2,[PLC_LOG_LOG] = LOG,[PLC_LOG_INFO] = INFO,
		[PLC_LOG_NOTICE] = NOTICE,[PLC_LOG_WARNING] = WARNING,
	};
	plc_reader	reader;
	plc_fields	fields;
	uint8		level;

	plc_reader_init(&reader, frame->payload, frame->header.length);
	level = plc_read_u8(&reader);
	plc_read_fields(&reader, &fields);
	if (!plc_read_end(&reader))
		plc_channel_violation(lease, reader.error);
	if (level < PLC_LOG_DEBUG || level > PLC_LOG_WARNING)
		plc_channel_violation(lease, "It sent a log line of an unknown level");
	report(levels[level], &fields,
		   field_sqlstate(&fields, level == PLC_LOG_WARNING ? ERRCODE_WARNING
						  : ERRCODE_SUCCESSFUL_COMPLETION));
}

/* The call is answered: nothing may follow. */
static void
close_call(plc_call *call)
{
	if (call->lease->buffers.in_start != call->lease->buffers.in_end)
		plc_channel_violation(call->lease, "It sent more than the answer");
	call->is_open = false;
}

static void
receive_answer(plc_lease *lease, plc_frame *frame)
{
	const char *error;
	receipt		result;

	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	result = receive_frame(lease, frame, 0, &error);
	pgstat_report_wait_end();
	if (result != RECEIVED)
		plc_lease_lost(lease);
	if (error != NULL)
		plc_channel_violation(lease, error);
	lease->call->received += PLC_HEADER_SIZE + frame->header.length;
}

/*
 * Serves what a call asks for until it is answered, by a message of type `expected`. Its
 * payload stays until plc_channel_end(), even if reading it calls into the same sandbox.
 * The call's Error is raised.
 */
void
plc_channel_answer(plc_call *call, plc_message expected, plc_frame *frame)
{
	plc_lease  *lease = call->lease;

	for (;;)
	{
		plc_reader	reader;
		plc_fields	fields;

		receive_answer(lease, frame);
		if (frame->header.call_id != call->id ||
			(frame->header.flags != 0 && (expected != PLC_ROWS || frame->header.type != PLC_ROWS ||
										  frame->header.flags != PLC_FLAG_MORE)))
			plc_channel_violation(lease, "It answered a call that was not made");
		if (frame->header.type == expected)
		{
			close_call(call);
			lease->reading++;
			return;
		}
		switch (frame->header.type)
		{
			case PLC_ERROR:
				plc_reader_init(&reader, frame->payload, frame->header.length);
				plc_read_fields(&reader, &fields);
				if (!plc_read_end(&reader))
					plc_channel_violation(lease, reader.error);
				close_call(call);
				plc_report_error(&fields, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION);
				break;
			case PLC_LOG:
				report_log(lease, frame);
				handle_interrupts(lease);
				break;
			case PLC_SQL:
			case PLC_SUBTRANSACTION:
				plc_spi_request(call, frame);
				handle_interrupts(lease);
				break;
			default:
				plc_channel_violation(lease, psprintf("It sent a message of type %d during a call",
													  frame->header.type));
		}
	}
}

/* Sends what was written in answer to a request. */
void
plc_channel_reply(plc_call *call)
{
	if (plc_channel_is_lost(call))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the sandbox of the function that runs this statement has ended")));
	if (!send_output(call->lease))
		plc_lease_lost(call->lease);
}

static void
shrink_buffers(plc_buffers *buffers)
{
	if (buffers->in_capacity > KEEP_BUFFER)
	{
		pfree(buffers->in);
		buffers->in = NULL;
		buffers->in_capacity = buffers->in_start = buffers->in_end = 0;
	}
	if (buffers->out.capacity > KEEP_BUFFER)
	{
		pfree(buffers->out.data);
		plc_writer_init(&buffers->out, plc_resize_memory);
	}
}

/* Ends a call whose answer was read. */
void
plc_channel_end(plc_call *call)
{
	plc_buffers *buffers = &call->lease->buffers;

	leave(call);
	if (buffers->in_capacity > KEEP_BUFFER || buffers->out.capacity > KEEP_BUFFER)
		shrink_buffers(buffers);
}

/* Ends a call while an error is on its way. */
void
plc_channel_abandon(plc_call *call)
{
	/* The answer to a call that is left in the middle would be taken for the next one's. */
	if (call->is_open && !plc_channel_is_lost(call))
		plc_lease_close(call->lease);
	call->is_open = false;
	leave(call);
}
