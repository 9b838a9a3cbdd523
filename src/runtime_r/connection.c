/*
 * connection.c
 *		Frames over the data connection. None of this raises an error of R's: what
 *		goes wrong here ends the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "../protocol/plc_receive.h"

#define BUFFER_SIZE ((size_t) 64 << 10)
#define BUFFER_KEPT ((size_t) 4 << 20)	/* larger ones are given back when they are empty */

static struct
{
	uint8_t    *data;
	size_t		capacity;
	size_t		begin;			/* of the frame that is in use, */
	size_t		used;			/* which has so many bytes, */
	size_t		end;			/* and of everything received */
	uint32_t	call_id;
} input;

static plc_spin spin = {.budget_us = PLC_SPIN_US_DEFAULT};

static void
leave(int status)
{
	fflush(NULL);
	_exit(status);
}

void
protocol_violation(const char *message)
{
	plc_writer	writer;
	char		text[256];

	fprintf(stderr, "data connection: %s\n", message);
	snprintf(text, sizeof(text), "protocol violation: %s", message);
	plc_writer_init(&writer, resize_malloc);
	plc_frame_begin(&writer, input.call_id, PLC_ERROR, 0);
	plc_write_field(&writer, 'C', "08P01", 5);
	plc_write_field(&writer, 'M', text, strlen(text));
	plc_write_u8(&writer, 0);
	plc_frame_end(&writer);
	if (writer.error == NULL && send(state.fd, writer.data, writer.length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		perror("data connection");
	leave(1);
	abort();
}

/* --- memory -------------------------------------------------------------------- */

void *
resize_malloc(void *data, size_t capacity)
{
	return realloc(data, capacity);
}

/* A block begins with its capacity: whoever asks for a larger one does not say how much there was. */
void *
resize_transient(void *data, size_t capacity)
{
	size_t	   *block = (size_t *) R_alloc(capacity + 2 * sizeof(size_t), 1);

	block[0] = capacity;
	if (data != NULL)
		memcpy(block + 2, data, ((size_t *) data)[-2]);
	return block + 2;
}

void
recycle(plc_writer *writer)
{
	if (writer->capacity > BUFFER_KEPT || state.spare.data != NULL)
	{
		free(writer->data);
		return;
	}
	plc_writer_reset(writer);
	state.spare = *writer;
}

/* --- receiving ------------------------------------------------------------------- */

static void
make_room(size_t needed)
{
	if (input.begin > 0)
	{
		memmove(input.data, input.data + input.begin, input.end - input.begin);
		input.end -= input.begin;
		input.begin = 0;
	}
	if (needed > input.capacity)
	{
		uint8_t    *data = realloc(input.data, needed);

		if (data == NULL)
		{
			fprintf(stderr, "data connection: no memory for a message of %zu bytes\n", needed);
			leave(1);
		}
		input.data = data;
		input.capacity = needed;
	}
}

/* Receives until so many bytes lie behind input.begin. Returns false at the connection's end. */
static bool
receive(size_t needed)
{
	if (input.capacity - input.begin < needed)
		make_room(needed > BUFFER_SIZE ? needed : BUFFER_SIZE);
	while (input.end - input.begin < needed)
	{
		ssize_t		count = plc_receive(state.fd, input.data + input.end, input.capacity - input.end, 0, &spin);

		if (count == 0 || (count < 0 && errno == ECONNRESET))
			return false;
		if (count < 0 && errno != EINTR)
		{
			perror("data connection");
			leave(1);
		}
		if (count > 0)
			input.end += (size_t) count;
	}
	return true;
}

/* The next frame. It takes the place of the one before, which nobody may look at any more. */
bool
read_frame(plc_header *header, plc_reader *payload)
{
	const char *error;

	input.begin += input.used;
	input.used = 0;
	if (input.begin == input.end)
	{
		input.begin = input.end = 0;
		if (input.capacity > BUFFER_KEPT)
		{
			free(input.data);
			input.data = NULL;
			input.capacity = 0;
		}
	}
	if (!receive(PLC_HEADER_SIZE))
		return false;
	error = plc_header_decode(input.data + input.begin, state.limit, header);
	input.call_id = header->call_id;
	if (error != NULL)
		protocol_violation(error);
	if (!receive(PLC_HEADER_SIZE + (size_t) header->length))
		return false;
	input.used = PLC_HEADER_SIZE + (size_t) header->length;
	plc_reader_init(payload, input.data + input.begin + PLC_HEADER_SIZE, (size_t) header->length);
	return true;
}

/* --- sending ---------------------------------------------------------------------- */

static void
send_pieces(struct iovec *pieces, size_t count)
{
	while (count > 0)
	{
		struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
		ssize_t		sent = sendmsg(state.fd, &message, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
		{
			/* The backend is gone: nobody is left to tell. */
			if (errno != EPIPE && errno != ECONNRESET)
				perror("data connection");
			leave(errno == EPIPE || errno == ECONNRESET ? 0 : 1);
		}
		while (count > 0 && (size_t) sent >= pieces->iov_len)
		{
			sent -= (ssize_t) pieces->iov_len;
			pieces++;
			count--;
		}
		if (count > 0)
		{
			pieces->iov_base = (char *) pieces->iov_base + sent;
			pieces->iov_len -= (size_t) sent;
		}
	}
}

void
send_written(const plc_writer *writer)
{
	struct iovec pieces[2 * PLC_MAX_SPLICES + 1];
	size_t		count = 0;
	size_t		at = 0;

	if (writer->error != NULL)
	{
		fprintf(stderr, "data connection: %s\n", writer->error);
		leave(1);
	}
	for (int i = 0; i < writer->nsplices; i++)
	{
		const plc_splice *splice = &writer->splices[i];

		pieces[count++] = (struct iovec) {writer->data + at, splice->at - at};
		pieces[count++] = (struct iovec) {(void *) splice->data, splice->length};
		at = splice->at;
	}
	pieces[count++] = (struct iovec) {writer->data + at, writer->length - at};
	send_pieces(pieces, count);
}

/* A field without what a server would refuse, cut to what a frame can hold. */
void
write_clean_field(plc_writer *writer, char key, const char *text)
{
	size_t		length = strlen(text);
	static const char mark[] = " [truncated]";

	if (length <= state.field_limit)
	{
		plc_write_field(writer, key, text, length);
		return;
	}
	length = state.field_limit;
	while (length > 0 && ((unsigned char) text[length] & 0xC0) == 0x80)
		length--;				/* not within a character */
	plc_write_u8(writer, (uint8_t) key);
	plc_write_u32(writer, (uint32_t) (length + sizeof(mark) - 1));
	plc_write_bytes(writer, text, length);
	plc_write_bytes(writer, mark, sizeof(mark) - 1);
}

/* --- start --------------------------------------------------------------------------- */

static int
connect_one(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
	{
		fprintf(stderr, "cannot use the socket %s\n", path);
		leave(1);
	}
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
	{
		fprintf(stderr, "cannot connect to %s: %s\n", path, strerror(errno));
		leave(1);
	}
	return fd;
}

/* The data connection first: the second says that this sandbox is ready. */
void
connect_sockets(const char *path)
{
	state.fd = connect_one(path);
	state.signal_fd = connect_one(path);
}
