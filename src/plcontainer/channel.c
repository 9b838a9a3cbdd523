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

PLC_NORETURN static void violation(plc_lease *lease, const char *what);

static void
violation(plc_lease *lease, const char *what)
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

/*
 * Tells the sandbox to interrupt the call and waits for its end, cancel_grace at
 * most. What can't be interrupted is dropped, sandbox and all. Raises nothing: it
 * runs while an error is on its way.
 */
static void cancel_call(plc_lease *lease);

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
		cancel_call(lease);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Makes room for `length` unread bytes from in_start on. */
static void
reserve_input(plc_lease *lease, size_t length)
{
	size_t		unread = lease->in_end - lease->in_start;

	if (lease->in_start > 0)
	{
		memmove(lease->in, lease->in + lease->in_start, unread);
		lease->in_start = 0;
		lease->in_end = unread;
	}
	if (lease->in_capacity < length)
	{
		lease->in = plc_resize_memory(lease->in, length);
		lease->in_capacity = length;
	}
}

/*
 * Receives until `length` bytes are unread. With a deadline it gives up there and
 * looks after nothing else; without one (0) it serves interrupts and the lease.
 */
static receipt
fill_input(plc_lease *lease, size_t length, TimestampTz deadline)
{
	if (lease->in_end - lease->in_start >= length)
		return RECEIVED;
	if (lease->in_capacity - lease->in_start < length)
		reserve_input(lease, Max(length, SMALL_BUFFER));
	while (lease->in_end - lease->in_start < length)
	{
		ssize_t		n;

		if (deadline != 0)
		{
			struct pollfd poller = {lease->data, POLLIN, 0};
			long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

			if (left <= 0 || poll(&poller, 1, (int) left) <= 0)
			{
				if (left <= 0)
					return TIMED_OUT;
				continue;
			}
		}
		n = plc_receive(lease->data, lease->in + lease->in_end, lease->in_capacity - lease->in_end, 0,
						&lease->spin);
		if (n > 0)
			lease->in_end += n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
			return ENDED;
		/* Looked at after every piece: who sends a byte at a time must not keep us here. */
		if (deadline == 0 && lease->in_end - lease->in_start < length)
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
	receipt		result;

	*error = NULL;
	if (lease->in_start == lease->in_end)
		lease->in_start = lease->in_end = 0;
	result = fill_input(lease, PLC_HEADER_SIZE, deadline);
	if (result != RECEIVED)
		return result;
	*error = plc_header_decode(lease->in + lease->in_start, lease->max_frame, &frame->header);
	if (*error != NULL)
		return RECEIVED;
	result = fill_input(lease, PLC_HEADER_SIZE + frame->header.length, deadline);
	if (result != RECEIVED)
		return result;
	frame->payload = lease->in + lease->in_start + PLC_HEADER_SIZE;
	lease->in_start += PLC_HEADER_SIZE + frame->header.length;
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

	message.msg_iovlen = gather_output(&lease->out, vectors);
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

static void
cancel_call(plc_lease *lease)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), plc_cancel_grace);
	uint8		message[PLC_HEADER_SIZE] = {0};

	if (!lease->in_call || lease->sending)
	{
		plc_lease_close(lease);
		return;
	}
	memcpy(message, &lease->call_id, 4);
	message[4] = PLC_CANCEL;
	if (send(lease->signal, message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(message))
	{
		plc_frame	frame;
		const char *error;

		while (receive_frame(lease, &frame, deadline, &error) == RECEIVED && error == NULL)
		{
			if (frame.header.call_id != lease->call_id)
				break;
			if (frame.header.type == PLC_RESULT || frame.header.type == PLC_ERROR)
			{
				lease->in_call = false;
				return;
			}
		}
	}
	plc_lease_close(lease);
}

/* --- the conversation -------------------------------------------------------- */

/* Greets a new sandbox and agrees on version and limits. */
void
plc_channel_handshake(plc_lease *lease)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), plc_lease_timeout);
	static const char software[] = "postgresql " PG_VERSION;
	plc_writer *out = &lease->out;
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
			violation(lease, "It did not answer the first Ping");
			break;
	}
	if (error != NULL)
		violation(lease, error);
	plc_reader_init(&reader, frame.payload, frame.header.length);
	if (frame.header.type == PLC_ERROR)
	{
		plc_fields	fields;

		plc_read_fields(&reader, &fields);
		if (!plc_read_end(&reader))
			violation(lease, reader.error);
		plc_report_error(&fields, ERRCODE_PROTOCOL_VIOLATION);
	}
	if (frame.header.type != PLC_PING || frame.header.flags != PLC_FLAG_REPLY ||
		frame.header.call_id != lease->call_id)
		violation(lease, "It did not answer the first Ping with a Ping");
	if (plc_read_u32(&reader) != PLC_MAGIC || plc_read_u16(&reader) != PLC_VERSION ||
		plc_read_u16(&reader) != 0 || (plc_read_u64(&reader) & ~PLC_FEATURES) != 0)
		violation(lease, "It chose a version or features that were not offered");
	peer_max_frame = plc_read_u64(&reader);
	(void) plc_read_str(&reader);
	codec = plc_read_str(&reader);
	if (!plc_read_end(&reader))
		violation(lease, reader.error);
	if (peer_max_frame < PLC_MAX_FRAME_HANDSHAKE)
		violation(lease, "It accepts no message of useful size");
	snprintf(lease->codec, sizeof(lease->codec), "%s",
			 codec.length == 1 && codec.data[0] == 'c' ? "c" : "python");
	lease->max_frame = Min(max_frame, peer_max_frame);
}

static void
write_registration(plc_lease *lease, const plc_function *function)
{
	plc_writer *out = &lease->out;

	plc_frame_begin(out, lease->call_id, PLC_REGISTER, 0);
	plc_write_u32(out, function->id);
	plc_write_u32(out, 0);
	plc_write_server_text(out, function->name, strlen(function->name));
	plc_write_server_text(out, function->source, strlen(function->source));
	plc_write_u32(out, function->nargs);
	for (int i = 0; i < function->nargs; i++)
	{
		const char *name = function->arg_names[i] == NULL ? "" : function->arg_names[i];

		plc_write_server_text(out, name, strlen(name));
		plc_type_describe(out, &function->args[i]);
	}
	plc_type_describe(out, &function->result);
	plc_frame_end(out);
}

static void
write_call(plc_lease *lease, plc_function *function, FunctionCallInfo fcinfo)
{
	plc_writer *out = &lease->out;

	plc_writer_reset(out);
	lease->call_id++;
	for (int id = -1; (id = bms_next_member(lease->forgotten, id)) >= 0;)
	{
		plc_frame_begin(out, lease->call_id, PLC_FORGET, 0);
		plc_write_u32(out, id);
		plc_frame_end(out);
	}
	if (!bms_is_member(function->id, lease->registered))
		write_registration(lease, function);
	plc_frame_begin(out, lease->call_id, PLC_CALLREQ, 0);
	plc_write_u32(out, function->id);
	plc_write_u32(out, function->nargs);
	for (int i = 0; i < function->nargs; i++)
		plc_type_write(out, &function->args[i], fcinfo->args[i].value, fcinfo->args[i].isnull);
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

	bms_free(lease->forgotten);
	lease->forgotten = NULL;
	if (bms_is_member(function->id, lease->registered))
		return;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	lease->registered = bms_add_member(lease->registered, function->id);
	MemoryContextSwitchTo(caller);
}

/*
 * Sends a call. A sandbox that has ended since the last one has taken nothing of this
 * call with it: the call goes to a new sandbox, and a warning says so.
 */
static plc_lease *
send_call(plc_function *function, FunctionCallInfo fcinfo)
{
	plc_lease  *lease = function->lease;

	for (bool again = false;; again = true)
	{
		write_call(lease, function, fcinfo);
		lease->in_call = true;
		if (send_output(lease))
			break;
		if (again)
			plc_lease_lost(lease);
		lease->in_call = false;
		plc_lease_ended(lease, WARNING);
		lease = function->lease = plc_lease_get(function->runtime);
	}
	note_registration(lease, function);
	return lease;
}

static void
report_log(plc_lease *lease, plc_reader *reader)
{
	static const int levels[] = {
		[PLC_LOG_DEBUG] = DEBUG2,[PLC_LOG_LOG] = LOG,[PLC_LOG_INFO] = INFO,
		[PLC_LOG_NOTICE] = NOTICE,[PLC_LOG_WARNING] = WARNING,
	};
	uint8		level = plc_read_u8(reader);
	plc_fields	fields;

	plc_read_fields(reader, &fields);
	if (!plc_read_end(reader))
		violation(lease, reader->error);
	if (level < PLC_LOG_DEBUG || level > PLC_LOG_WARNING)
		violation(lease, "It sent a log line of an unknown level");
	report(levels[level], &fields,
		   field_sqlstate(&fields, level == PLC_LOG_WARNING ? ERRCODE_WARNING
						  : ERRCODE_SUCCESSFUL_COMPLETION));
}

static Datum
read_result(plc_lease *lease, plc_function *function, plc_frame *frame, bool *is_null)
{
	plc_type   *type = &function->result;
	const uint8 *payload = frame->payload;
	plc_reader	reader;
	Datum		result;

	/*
	 * Elements of such arrays go through input functions one by one. One of a domain may
	 * have a check that calls a function of this very sandbox, which would overwrite
	 * what is still to be read.
	 */
	if (type->kind == PLC_ARRAY && type->element_kind == PLC_OTHER)
		payload = memcpy(palloc_extended(Max(frame->header.length, 1), MCXT_ALLOC_HUGE), payload,
						 frame->header.length);
	plc_reader_init(&reader, payload, frame->header.length);
	result = plc_type_read(&reader, type, is_null);
	if (!plc_read_end(&reader))
		violation(lease, reader.error);
	return result;
}

static void
shrink_buffers(plc_lease *lease)
{
	if (lease->in_capacity > KEEP_BUFFER)
	{
		pfree(lease->in);
		lease->in = NULL;
		lease->in_capacity = lease->in_start = lease->in_end = 0;
	}
	if (lease->out.capacity > KEEP_BUFFER)
	{
		pfree(lease->out.data);
		plc_writer_init(&lease->out, plc_resize_memory);
	}
}

static void
end_call(plc_lease *lease)
{
	if (lease->in_start != lease->in_end)
		violation(lease, "It sent more than the answer");
	lease->in_call = false;
	lease->calls++;
}

/* Makes one call of a function in its lease's sandbox. */
Datum
plc_channel_call(plc_function *function, FunctionCallInfo fcinfo)
{
	plc_lease  *lease = send_call(function, fcinfo);

	for (;;)
	{
		plc_frame	frame;
		plc_reader	reader;
		plc_fields	fields;
		const char *error;
		Datum		result;

		pgstat_report_wait_start(PG_WAIT_EXTENSION);
		if (receive_frame(lease, &frame, 0, &error) != RECEIVED)
		{
			pgstat_report_wait_end();
			plc_lease_lost(lease);
		}
		pgstat_report_wait_end();
		if (error != NULL)
			violation(lease, error);
		if (frame.header.call_id != lease->call_id || frame.header.flags != 0)
			violation(lease, "It answered a call that was not made");
		switch (frame.header.type)
		{
			case PLC_RESULT:
				end_call(lease);
				result = read_result(lease, function, &frame, &fcinfo->isnull);
				if (lease->in_capacity > KEEP_BUFFER || lease->out.capacity > KEEP_BUFFER)
					shrink_buffers(lease);
				return result;
			case PLC_ERROR:
				plc_reader_init(&reader, frame.payload, frame.header.length);
				plc_read_fields(&reader, &fields);
				if (!plc_read_end(&reader))
					violation(lease, reader.error);
				end_call(lease);
				plc_report_error(&fields, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION);
				break;
			case PLC_LOG:
				plc_reader_init(&reader, frame.payload, frame.header.length);
				report_log(lease, &reader);
				handle_interrupts(lease);
				break;
			default:
				violation(lease, psprintf("It sent a message of type %d during a call", frame.header.type));
		}
	}
}
