/*
 * lease.c
 *		The lease conversation: how a sandbox is had from the protocol server.
 *
 * A session has one lease per role and runtime. It lives as long as the
 * connection on which it was granted: when this backend ends, however it ends,
 * the kernel closes the connection and the server removes the sandbox. When it is
 * the server that ends, the sandbox goes on; its lease is reclaimed from the next
 * server with the token of the grant.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

/* The descriptors of a lease: its connection, and the two of the sandbox. */
#define LEASE_DESCRIPTORS 3

/* How long the server has to say why a sandbox ended, and to take a lease back. */
#define AUTOPSY_MS 1500
#define RECLAIM_MS 500

/* A backend's Lease must fit a frame of 64 KiB: room for its other fields is left. */
#define ROLES_BYTES_MAX 60000

/* Of an Answer: what is known of thousands of sandboxes. */
#define ANSWER_MAX (UINT64_C(64) << 20)

/* A socket wakes from recv() this often to let interrupts and the server be looked after. */
#define RECEIVE_TICK_US 250000

typedef struct lease_message
{
	plc_header	header;
	uint8		payload[PLC_MAX_FRAME_HANDSHAKE];
	int			descriptors[2];	/* -1: none */
} lease_message;

typedef enum receipt
{
	RECEIVED,
	ENDED,						/* the other side has closed */
	TIMED_OUT
} receipt;

static HTAB *leases;

void
plc_leases_init(void)
{
	HASHCTL		control = {
		.keysize = sizeof(plc_lease_key),
		.entrysize = sizeof(plc_lease),
		.hcxt = TopMemoryContext,
	};

	leases = hash_create("PL/Container leases", 8, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* --- the connection to the server ---------------------------------------- */

/* Connects without waiting. Returns -1 with errno set. */
static int
connect_server(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd;

	if (strlcpy(address.sun_path, plc_server_socket, sizeof(address.sun_path)) >= sizeof(address.sun_path))
	{
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
	{
		int			error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static void
connect_failed(void)
{
	if (errno == EACCES || errno == EPERM)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the protocol server's socket \"%s\"", plc_server_socket),
				 errhint("The socket must belong to a group of the database's operating system user; see \"socket_group\" in the server's configuration. Under SELinux the host needs the policy that the role selinux_policy installs.")));
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to the protocol server on socket \"%s\": %m", plc_server_socket),
			 errhint("Is the service protocol_server running on this host?")));
}

/* Lease messages are small: one that a fresh socket does not take whole is a failure. */
static bool
send_message(int fd, const plc_writer *writer)
{
	return send(fd, writer->data, writer->length, MSG_NOSIGNAL) == (ssize_t) writer->length;
}

static void
take_descriptors(struct msghdr *message, lease_message *into)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
	{
		int			count;
		const int  *descriptors = (const int *) CMSG_DATA(c);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (int i = 0; i < count; i++)
		{
			if (i < 2 && into->descriptors[i] < 0)
				into->descriptors[i] = descriptors[i];
			else
				close(descriptors[i]);
		}
	}
}

/*
 * Receives exactly `length` bytes before `deadline`. Waits on the latch where
 * `interruptible`, so that a cancel is answered.
 */
static receipt
receive_bytes(int fd, void *buffer, size_t length, TimestampTz deadline, bool interruptible,
			  lease_message *message)
{
	size_t		have = 0;

	while (have < length)
	{
		union
		{
			struct cmsghdr align;
			char		space[CMSG_SPACE(4 * sizeof(int))];
		}			ancillary;
		struct iovec vector = {(char *) buffer + have, length - have};
		struct msghdr header = {
			.msg_iov = &vector,
			.msg_iovlen = 1,
			.msg_control = &ancillary,
			.msg_controllen = sizeof(ancillary),
		};
		ssize_t		n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		long		left;

		if (n >= 0)
			take_descriptors(&header, message);
		if (n > 0)
		{
			have += n;
			continue;
		}
		if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
			return ENDED;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0)
			return TIMED_OUT;
		if (interruptible)
		{
			(void) WaitLatchOrSocket(MyLatch,
									 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
									 fd, left, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		else
		{
			struct pollfd poller = {fd, POLLIN, 0};

			(void) poll(&poller, 1, (int) left);
		}
	}
	return RECEIVED;
}

static receipt
receive_message(int fd, int timeout_ms, bool interruptible, lease_message *message)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	uint8		head[PLC_HEADER_SIZE];
	receipt		result;

	result = receive_bytes(fd, head, sizeof(head), deadline, interruptible, message);
	if (result != RECEIVED)
		return result;
	if (plc_header_decode(head, PLC_MAX_FRAME_HANDSHAKE, &message->header) != NULL)
		return ENDED;
	return receive_bytes(fd, message->payload, message->header.length, deadline, interruptible, message);
}

static lease_message *
new_message(void)
{
	lease_message *message = palloc(sizeof(lease_message));

	message->descriptors[0] = message->descriptors[1] = -1;
	return message;
}

static void
close_descriptors(lease_message *message)
{
	for (int i = 0; i < 2; i++)
		if (message->descriptors[i] >= 0)
			close(message->descriptors[i]);
}

static void
server_broke_protocol(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the protocol server on socket \"%s\" sent an unexpected message", plc_server_socket)));
}

/* Receives the Answer to a Query, which may be larger than other messages of the server. */
static char *
receive_answer(int fd, TimestampTz deadline)
{
	lease_message message = {.descriptors = {-1, -1}};
	uint8		head[PLC_HEADER_SIZE];
	uint8	   *payload;
	plc_reader	reader;
	plc_span	text;

	if (receive_bytes(fd, head, sizeof(head), deadline, true, &message) != RECEIVED)
	{
		errno = ECONNRESET;
		connect_failed();
	}
	if (plc_header_decode(head, ANSWER_MAX, &message.header) != NULL)
		server_broke_protocol();
	payload = palloc(message.header.length);
	if (receive_bytes(fd, payload, message.header.length, deadline, true, &message) != RECEIVED)
	{
		errno = ECONNRESET;
		connect_failed();
	}
	close_descriptors(&message);
	plc_reader_init(&reader, payload, message.header.length);
	if (message.header.type == PLC_ERROR)
	{
		plc_fields	fields;

		plc_read_fields(&reader, &fields);
		if (!plc_read_end(&reader))
			server_broke_protocol();
		plc_report_error(&fields, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION);
	}
	text = plc_read_str(&reader);
	if (message.header.type != PLC_ANSWER || !plc_read_end(&reader))
		server_broke_protocol();
	return plc_text_to_server(text);
}

/* --- having a lease ------------------------------------------------------ */

/* The roles that the current user is a member of, itself first. */
static void
write_roles(plc_writer *writer)
{
	Oid			user = GetUserId();
	size_t		count_at = writer->length;
	uint32		count = 0;
	Relation	relation = table_open(AuthIdRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	plc_write_u32(writer, 0);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)) &&
		   writer->length - count_at < ROLES_BYTES_MAX)
	{
		Form_pg_authid role = (Form_pg_authid) GETSTRUCT(tuple);

		if (is_member_of_role(user, role->oid))
		{
			plc_write_server_text(writer, NameStr(role->rolname), strlen(NameStr(role->rolname)));
			count++;
		}
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	memcpy(writer->data + count_at, &count, sizeof(count));
}

static void
write_request_head(plc_writer *writer, plc_message type)
{
	plc_writer_init(writer, plc_resize_memory);
	plc_frame_begin(writer, 0, type, 0);
	plc_write_u32(writer, PLC_MAGIC);
	plc_write_u16(writer, PLC_VERSION);
	plc_write_u16(writer, 0);
}

static void
write_lease_request(plc_writer *writer, const char *runtime)
{
	char	   *role = GetUserNameFromId(GetUserId(), false);
	char	   *database = get_database_name(MyDatabaseId);

	write_request_head(writer, PLC_LEASE);
	plc_write_str(writer, runtime, strlen(runtime));
	plc_write_server_text(writer, role, strlen(role));
	write_roles(writer);
	plc_write_server_text(writer, database, strlen(database));
	plc_frame_end(writer);
}

/* Copies an identifier of the server, which must fit and be plain. */
static bool
copy_identifier(char *target, size_t size, plc_span span)
{
	if (span.length == 0 || span.length >= size)
		return false;
	for (uint32 i = 0; i < span.length; i++)
		if (span.data[i] <= ' ' || span.data[i] > '~')
			return false;
	memcpy(target, span.data, span.length);
	target[span.length] = '\0';
	return true;
}

static bool
is_socket(int fd)
{
	struct stat status;

	return fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

/*
 * Data is read by a blocking recv(), one system call a message. A time-out on the
 * socket bounds it, and also makes signals interrupt it in spite of SA_RESTART
 * (signal(7)).
 */
static bool
prepare_data_socket(int fd)
{
	struct timeval tick = {0, RECEIVE_TICK_US};

	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0 &&
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick)) == 0 &&
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick)) == 0;
}

static void
take_grant(plc_lease *lease, lease_message *message)
{
	plc_reader	reader;
	plc_span	sandbox;
	plc_span	token;

	plc_reader_init(&reader, message->payload, message->header.length);
	sandbox = plc_read_str(&reader);
	token = plc_read_str(&reader);
	if (!plc_read_end(&reader) ||
		!copy_identifier(lease->sandbox, sizeof(lease->sandbox), sandbox) ||
		!copy_identifier(lease->token, sizeof(lease->token), token) ||
		!is_socket(message->descriptors[0]) || !is_socket(message->descriptors[1]))
		server_broke_protocol();
	if (!prepare_data_socket(message->descriptors[0]))
		ereport(ERROR, (errcode_for_socket_access(), errmsg("could not prepare a sandbox's socket: %m")));
	lease->data = message->descriptors[0];
	lease->signal = message->descriptors[1];
	message->descriptors[0] = message->descriptors[1] = -1;
}

static void
request_lease(plc_lease *lease, lease_message *message)
{
	plc_writer	request;
	plc_reader	reader;

	write_lease_request(&request, lease->key.runtime);
	lease->control = connect_server();
	if (lease->control < 0 || !send_message(lease->control, &request))
		connect_failed();
	pfree(request.data);

	switch (receive_message(lease->control, plc_lease_timeout, true, message))
	{
		case RECEIVED:
			break;
		case ENDED:
			errno = ECONNRESET;
			connect_failed();
			break;
		case TIMED_OUT:
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("the protocol server granted no sandbox of runtime \"%s\" within %d ms",
							lease->key.runtime, plc_lease_timeout),
					 errhint("See the journal of the service protocol_server on this host.")));
	}
	if (message->header.type == PLC_ERROR)
	{
		plc_fields	fields;

		plc_reader_init(&reader, message->payload, message->header.length);
		plc_read_fields(&reader, &fields);
		if (!plc_read_end(&reader))
			server_broke_protocol();
		plc_report_error(&fields, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION);
	}
	if (message->header.type != PLC_GRANT)
		server_broke_protocol();
	take_grant(lease, message);
}

static void
acquire_lease(plc_lease *lease)
{
	lease_message *message = new_message();

	for (int i = 0; i < LEASE_DESCRIPTORS; i++)
		if (!AcquireExternalFD())
		{
			while (i-- > 0)
				ReleaseExternalFD();
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("too many open files for another sandbox: %m")));
		}
	lease->open = true;
	lease->epoch++;
	PG_TRY();
	{
		request_lease(lease, message);
		plc_channel_handshake(lease);
	}
	PG_CATCH();
	{
		close_descriptors(message);
		plc_lease_close(lease);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pfree(message);
}

static time_t
coarse_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

/* The session's lease of a runtime for the current user, a new one if it has none. */
plc_lease *
plc_lease_get(const char *runtime)
{
	plc_lease_key key;
	plc_lease  *lease;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.role = GetUserId();
	strlcpy(key.runtime, runtime, sizeof(key.runtime));
	lease = hash_search(leases, &key, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) lease + sizeof(key), 0, sizeof(*lease) - sizeof(key));
		lease->control = lease->data = lease->signal = -1;
	}
	if (lease->data < 0)
	{
		acquire_lease(lease);
		lease->tended = coarse_seconds();
	}
	else
		plc_lease_tend(lease);
	return lease;
}

static void
close_control(plc_lease *lease)
{
	if (lease->control >= 0)
		close(lease->control);
	lease->control = -1;
}

/* Gives a sandbox back: the server removes it when it sees the connection end. */
void
plc_lease_close(plc_lease *lease)
{
	if (!lease->open)
		return;
	lease->open = false;
	close_control(lease);
	if (lease->data >= 0)
		close(lease->data);
	if (lease->signal >= 0)
		close(lease->signal);
	lease->data = lease->signal = -1;
	for (int i = 0; i < LEASE_DESCRIPTORS; i++)
		ReleaseExternalFD();
	bms_free(lease->registered);
	bms_free(lease->forgotten);
	lease->registered = lease->forgotten = NULL;
	list_free(lease->ended_sets);
	lease->ended_sets = NIL;
	plc_spi_free_plans(lease);
	lease->sending = lease->is_greeting = false;
	lease->buffers.in_start = lease->buffers.in_end = 0;
	lease->token[0] = '\0';
}

/* --- after a restart of the server --------------------------------------- */

static void
reclaim(plc_lease *lease)
{
	plc_writer	request;
	lease_message *message;
	int			fd = connect_server();

	if (fd < 0)
		return;					/* not back yet */
	message = new_message();
	write_request_head(&request, PLC_RECLAIM);
	plc_write_str(&request, lease->token, strlen(lease->token));
	plc_frame_end(&request);
	if (send_message(fd, &request) &&
		receive_message(fd, RECLAIM_MS, false, message) == RECEIVED)
	{
		if (message->header.type == PLC_RECLAIMED)
		{
			lease->control = fd;
			fd = -1;
		}
		else
			lease->token[0] = '\0'; /* refused: no use in asking again */
	}
	close_descriptors(message);
	if (fd >= 0)
		close(fd);
	pfree(request.data);
	pfree(message);
}

/* Looks, once a second at most, whether the server is still there. */
void
plc_lease_tend(plc_lease *lease)
{
	time_t		now = coarse_seconds();
	char		byte;

	if (lease->tended == now)
		return;
	lease->tended = now;
	if (lease->control >= 0 && recv(lease->control, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		close_control(lease);
	if (lease->control < 0 && lease->token[0] != '\0')
		reclaim(lease);
}

/* --- after the end of a sandbox ------------------------------------------ */

/*
 * Why the sandbox ended, as the server saw it, in the current memory context; NULL
 * when the server does not know.
 */
static char *
autopsy(plc_lease *lease, int *sqlstate)
{
	lease_message *message = new_message();
	char	   *reason = NULL;
	plc_reader	reader;
	plc_span	text;
	plc_span	state;

	*sqlstate = ERRCODE_CONNECTION_FAILURE;
	if (lease->control < 0)
		return NULL;
	if (receive_message(lease->control, AUTOPSY_MS, false, message) == RECEIVED &&
		message->header.type == PLC_EXITED)
	{
		plc_reader_init(&reader, message->payload, message->header.length);
		(void) plc_read_str(&reader);
		text = plc_read_str(&reader);
		state = plc_read_str(&reader);
		if (plc_read_end(&reader))
		{
			reason = plc_text_to_server(text);
			if (plc_is_sqlstate(state))
				*sqlstate = MAKE_SQLSTATE(state.data[0], state.data[1], state.data[2],
										  state.data[3], state.data[4]);
		}
	}
	close_descriptors(message);
	pfree(message);
	return reason;
}

/* Gives back the lease of a sandbox that has ended and says so, at ERROR or WARNING. */
void
plc_lease_ended(plc_lease *lease, int level)
{
	int			sqlstate;
	char	   *reason = autopsy(lease, &sqlstate);
	char	   *sandbox = pstrdup(lease->sandbox);

	plc_lease_close(lease);
	ereport(level,
			(errcode(sqlstate),
			 errmsg("sandbox \"%s\" of runtime \"%s\" %s", sandbox, lease->key.runtime,
					reason != NULL ? reason : _("has ended")),
			 level >= ERROR
			 ? errhint("The next call gets a new sandbox; what was in GD and SD is lost.")
			 : errhint("A new sandbox takes its place; what was in GD and SD is lost.")));
}

/* Ends the statement whose call the sandbox has taken with it. */
void
plc_lease_lost(plc_lease *lease)
{
	plc_lease_ended(lease, ERROR);
	pg_unreachable();
}

/* A connection on which the server knows this session, -1: none. */
int
plc_lease_connection(void)
{
	HASH_SEQ_STATUS scan;
	plc_lease  *lease;

	hash_seq_init(&scan, leases);
	while ((lease = hash_seq_search(&scan)) != NULL)
		if (lease->control >= 0)
		{
			hash_seq_term(&scan);
			return lease->control;
		}
	return -1;
}

/* --- what the server knows ------------------------------------------------ */

/*
 * Asks the server what it knows of sandboxes, runtimes and functions: what concerns the
 * current user, or all. Returns JSON in the current memory context.
 */
char *
plc_lease_ask(const char *what, bool sees_all)
{
	int			fd = connect_server();
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), plc_lease_timeout);
	char	   *role = GetUserNameFromId(GetUserId(), false);
	char	   *database = get_database_name(MyDatabaseId);
	plc_writer	request;
	char	   *text = NULL;

	if (fd < 0)
		connect_failed();
	PG_TRY();
	{
		write_request_head(&request, PLC_QUERY);
		plc_write_str(&request, what, strlen(what));
		plc_write_server_text(&request, role, strlen(role));
		plc_write_server_text(&request, database, strlen(database));
		plc_write_u8(&request, sees_all ? 1 : 0);
		plc_frame_end(&request);
		if (!send_message(fd, &request))
			connect_failed();
		pfree(request.data);
		text = receive_answer(fd, deadline);
	}
	PG_FINALLY();
	{
		close(fd);
	}
	PG_END_TRY();
	return text;
}

/* --- what else is done with all of them ---------------------------------- */

/* A function was replaced or dropped: sandboxes may free it. */
void
plc_leases_forget(uint32 function_id)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	HASH_SEQ_STATUS scan;
	plc_lease  *lease;

	hash_seq_init(&scan, leases);
	while ((lease = hash_seq_search(&scan)) != NULL)
	{
		if (lease->data < 0 || !bms_is_member(function_id, lease->registered))
			continue;
		lease->registered = bms_del_member(lease->registered, function_id);
		lease->forgotten = bms_add_member(lease->forgotten, function_id);
	}
	MemoryContextSwitchTo(caller);
}

/* The rows of plcontainer_session_sandboxes(). */
void
plc_leases_list(ReturnSetInfo *rsinfo)
{
	HASH_SEQ_STATUS scan;
	plc_lease  *lease;

	hash_seq_init(&scan, leases);
	while ((lease = hash_seq_search(&scan)) != NULL)
	{
		char	   *role = GetUserNameFromId(lease->key.role, true);
		Datum		values[6];
		bool		nulls[6] = {false};

		if (lease->data < 0)
			continue;
		values[0] = CStringGetTextDatum(lease->key.runtime);
		nulls[1] = role == NULL;
		values[1] = role == NULL ? (Datum) 0 : CStringGetTextDatum(role);
		values[2] = CStringGetTextDatum(lease->sandbox);
		values[3] = CStringGetTextDatum(lease->codec);
		values[4] = Int32GetDatum(bms_num_members(lease->registered));
		values[5] = Int64GetDatum((int64) lease->calls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}
