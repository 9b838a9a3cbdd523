/*
 * statistics.c
 *		What functions have cost: counted in this backend, summed up by the server.
 *
 * The server holds the sums of all sessions, so that no shared memory, and with it no
 * restart of the database, is needed for them. It is told what was added at the end
 * of a transaction, once a second at most, and when the session ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <sys/socket.h>

#include "access/xact.h"
#include "storage/ipc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* So short a message is taken whole by a socket, or not at all. */
#define FUNCTIONS_OF_MESSAGE 200
#define INTERVAL_MS 1000

static HTAB *counted;
static bool has_news;
static TimestampTz told;

static void
tell_at_end(XactEvent event, void *argument)
{
	if (has_news && (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT) &&
		TimestampDifferenceExceeds(told, GetCurrentTimestamp(), INTERVAL_MS))
		plc_statistics_tell();
}

static void
tell_at_exit(int code, Datum argument)
{
	if (has_news)
		plc_statistics_tell();
}

void
plc_statistics_init(void)
{
	HASHCTL		control = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(plc_statistics),
		.hcxt = TopMemoryContext,
	};

	counted = hash_create("PL/Container statistics", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	RegisterXactCallback(tell_at_end, NULL);
	before_shmem_exit(tell_at_exit, (Datum) 0);
}

/* Where the calls of a function are counted; that stays where it is. */
plc_statistics *
plc_statistics_of(Oid function)
{
	bool		found;
	plc_statistics *statistics = hash_search(counted, &function, HASH_ENTER, &found);

	if (!found)
		memset((char *) statistics + sizeof(Oid), 0, sizeof(*statistics) - sizeof(Oid));
	return statistics;
}

void
plc_statistics_count(plc_statistics *statistics, const plc_call *call, uint64 calls, uint64 rows,
					 uint64 errors, uint64 microseconds)
{
	statistics->calls += calls;
	statistics->rows += rows;
	statistics->errors += errors;
	statistics->sent += call->sent;
	statistics->received += call->received;
	statistics->microseconds += microseconds;
	has_news = true;
}

/* Writes what is new of some functions. Returns how many. */
static uint32
write_news(plc_writer *writer)
{
	HASH_SEQ_STATUS scan;
	plc_statistics *statistics;
	uint32		count = 0;
	size_t		count_at;

	plc_frame_begin(writer, 0, PLC_STATISTICS, 0);
	count_at = writer->length;
	plc_write_u32(writer, 0);
	hash_seq_init(&scan, counted);
	while ((statistics = hash_seq_search(&scan)) != NULL)
	{
		if (statistics->calls == 0 && statistics->received == 0)
			continue;
		if (count == FUNCTIONS_OF_MESSAGE)
		{
			hash_seq_term(&scan);
			break;
		}
		plc_write_u32(writer, statistics->function);
		plc_write_u64(writer, statistics->calls);
		plc_write_u64(writer, statistics->rows);
		plc_write_u64(writer, statistics->errors);
		plc_write_u64(writer, statistics->sent);
		plc_write_u64(writer, statistics->received);
		plc_write_u64(writer, statistics->microseconds);
		memset((char *) statistics + sizeof(Oid), 0, sizeof(*statistics) - sizeof(Oid));
		count++;
	}
	memcpy(writer->data + count_at, &count, sizeof(count));
	plc_frame_end(writer);
	return count;
}

/* Tells the server what was added since the last time; without a connection to it, later. */
void
plc_statistics_tell(void)
{
	int			connection = plc_lease_connection();
	plc_writer	writer;
	uint32		count;

	if (connection < 0 || !has_news)
		return;
	do
	{
		plc_writer_init(&writer, plc_resize_memory);
		count = write_news(&writer);
		/* A server that does not read has other troubles than these. */
		if (count > 0)
			(void) send(connection, writer.data, writer.length, MSG_NOSIGNAL | MSG_DONTWAIT);
		pfree(writer.data);
	} while (count == FUNCTIONS_OF_MESSAGE);
	has_news = false;
	told = GetCurrentTimestamp();
}
