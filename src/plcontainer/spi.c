/*
 * spi.c
 *		SQL and subtransactions that a running function asks for.
 *
 * Every statement runs in a subtransaction of its own, so that a function can catch its
 * error. The sandbox's word is taken for nothing but what its user may do: statements
 * run with the rights of the function's user, and read-only where the function is not
 * volatile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"

/* Each costs some 8 kB here, and the sandbox nothing. */
#define SUBTRANSACTIONS_MAX 1000

/* Rows are sent in messages of about this size. */
#define BATCH_SIZE (256 * 1024)

typedef struct plc_plan
{
	struct plc_plan *next;
	uint32		id;
	SPIPlanPtr	plan;
	int			nargs;
	Oid		   *arg_oids;
	plc_type   *args;
	TupleDesc	result_desc;	/* that `row` was made for, or NULL */
	plc_type	row;
	MemoryContext context;
	MemoryContext row_context;
} plc_plan;

/* A subtransaction that a function has begun, and what was current before. */
typedef struct plc_subtransaction
{
	MemoryContext context;
	ResourceOwner owner;
} plc_subtransaction;

/* A request while it is served. */
typedef struct plc_request
{
	plc_call   *call;
	plc_reader *reader;
	uint8		type;			/* PLC_SQL or PLC_SUBTRANSACTION */
	uint8		verb;
} plc_request;

/* --- plans -------------------------------------------------------------------- */

/* Requests that are being served, of all sandboxes. Each may have a plan in its hands. */
static int	requests;
static plc_plan *doomed;

static void
free_doomed(void)
{
	while (requests == 0 && doomed != NULL)
	{
		plc_plan   *plan = doomed;

		doomed = plan->next;
		SPI_freeplan(plan->plan);
		MemoryContextDelete(plan->context);
	}
}

/* Frees plans as soon as no request can be using them. */
static void
doom_plan(plc_plan *plan)
{
	plan->next = doomed;
	doomed = plan;
	free_doomed();
}

void
plc_spi_free_plans(plc_lease *lease)
{
	while (lease->plans != NULL)
	{
		plc_plan   *plan = lease->plans;

		lease->plans = plan->next;
		doom_plan(plan);
	}
	lease->nplans = 0;
}

static void
discard_plan(plc_lease *lease, uint32 id)
{
	for (plc_plan **link = &lease->plans; *link != NULL; link = &(*link)->next)
		if ((*link)->id == id)
		{
			plc_plan   *plan = *link;

			*link = plan->next;
			lease->nplans--;
			doom_plan(plan);
			return;
		}
}

/* A plan that is used is looked for next time, too: it moves to the front. */
static plc_plan *
find_plan(plc_lease *lease, uint32 id)
{
	for (plc_plan **link = &lease->plans; *link != NULL; link = &(*link)->next)
		if ((*link)->id == id)
		{
			plc_plan   *plan = *link;

			*link = plan->next;
			plan->next = lease->plans;
			lease->plans = plan;
			return plan;
		}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_PSTATEMENT),
			 errmsg("plan %u does not exist", id)));
}

/* --- what a request is made of --------------------------------------------------- */

static void
check_read(plc_request *request)
{
	if (request->reader->error != NULL)
		plc_channel_violation(request->call->lease, request->reader->error);
}

static void
check_end(plc_request *request)
{
	if (!plc_read_end(request->reader))
		plc_channel_violation(request->call->lease, request->reader->error);
}

/* A `str` in the database's encoding. */
static char *
read_text(plc_request *request)
{
	plc_span	span = plc_read_str(request->reader);
	char	   *text;

	check_read(request);
	text = plc_text_to_server(span);
	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("text of a query contains a zero byte")));
	return text;
}

static long
read_limit(plc_request *request)
{
	uint64		limit = plc_read_u64(request->reader);

	return limit > LONG_MAX ? LONG_MAX : (long) limit;
}

/* The values of a plan's parameters. Returns SPI's nulls. */
static char *
read_parameters(plc_request *request, plc_plan *plan, Datum **values)
{
	uint32		count = plc_read_u32(request->reader);
	char	   *nulls = palloc(plan->nargs + 1);

	check_read(request);
	if (count != (uint32) plan->nargs)
		plc_channel_violation(request->call->lease, "It gave a plan another number of values than it has parameters");
	*values = palloc(sizeof(Datum) * Max(plan->nargs, 1));
	for (int i = 0; i < plan->nargs; i++)
	{
		bool		is_null;

		(*values)[i] = plc_type_read(request->reader, &plan->args[i], &is_null);
		check_read(request);
		nulls[i] = is_null ? 'n' : ' ';
	}
	nulls[plan->nargs] = '\0';
	return nulls;
}

/* --- what an answer is made of ----------------------------------------------------- */

static plc_writer *
begin_answer(plc_call *call, plc_message type)
{
	plc_writer *out = &call->lease->buffers.out;

	plc_writer_reset(out);
	plc_frame_begin(out, call->id, type, PLC_FLAG_REPLY);
	return out;
}

static void
end_answer(plc_call *call)
{
	plc_writer *out = &call->lease->buffers.out;

	plc_frame_end(out);
	if (out->error != NULL || plc_frame_size(out) - PLC_HEADER_SIZE > call->lease->max_frame)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a row is too large for a sandbox"),
				 errdetail("The limit is " UINT64_FORMAT " bytes.", call->lease->max_frame)));
}

static void
write_description(plc_writer *out, plc_type *row, TupleDesc desc)
{
	size_t		length_at = out->length;
	uint32		length;

	plc_write_u32(out, 0);
	plc_write_u32(out, desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		plc_write_server_text(out, NameStr(attribute->attname), strlen(NameStr(attribute->attname)));
		plc_type_describe(out, plc_type_field_type(row, i));
		plc_write_u32(out, attribute->atttypid);
		plc_write_i32(out, attribute->atttypmod);
	}
	length = (uint32) (out->length - length_at - sizeof(uint32));
	memcpy(out->data + length_at, &length, sizeof(length));
}

/*
 * Writes rows, and sends all but the last message that holds some. `plan` keeps what is
 * known of the row's types for the next time.
 */
static void
write_rows(plc_call *call, int status, uint64 processed, SPITupleTable *rows, plc_plan *plan)
{
	plc_writer *out = begin_answer(call, PLC_SQL);
	plc_type	own_row;
	plc_type   *row = &own_row;
	size_t		count_at;
	uint32		count = 0;

	plc_write_i32(out, status);
	plc_write_u64(out, processed);
	if (rows == NULL)
	{
		plc_write_u32(out, 0);
		plc_write_u32(out, 0);
		end_answer(call);
		return;
	}

	if (plan == NULL)
		plc_type_init_row(&own_row, rows->tupdesc, false, CurrentMemoryContext);
	else
	{
		row = &plan->row;
		if (plan->result_desc == NULL || !equalTupleDescs(plan->result_desc, rows->tupdesc) ||
			!plc_type_is_current(row))
		{
			plan->result_desc = NULL;
			MemoryContextReset(plan->row_context);
			plc_type_init_row(row, rows->tupdesc, false, plan->row_context);
			MemoryContextSwitchTo(plan->row_context);
			plan->result_desc = CreateTupleDescCopy(rows->tupdesc);
			MemoryContextSwitchTo(call->request_context);
		}
	}

	write_description(out, row, rows->tupdesc);
	count_at = out->length;
	plc_write_u32(out, 0);
	for (uint64 i = 0; i < rows->numvals; i++)
	{
		if (plc_frame_size(out) > BATCH_SIZE)
		{
			out->data[out->frame + 5] |= PLC_FLAG_MORE;
			memcpy(out->data + count_at, &count, sizeof(count));
			end_answer(call);
			plc_channel_reply(call);
			out = begin_answer(call, PLC_SQL);
			count_at = out->length;
			plc_write_u32(out, 0);
			count = 0;
		}
		plc_type_write_columns(out, row, rows->vals[i], rows->tupdesc);
		count++;
	}
	memcpy(out->data + count_at, &count, sizeof(count));
	end_answer(call);
}

static void
write_field(plc_writer *out, char key, const char *text)
{
	if (text == NULL)
		return;
	plc_write_u8(out, (uint8) key);
	plc_write_server_text(out, text, strlen(text));
}

static void
write_error(plc_call *call, const ErrorData *error)
{
	plc_writer *out = begin_answer(call, PLC_ERROR);

	write_field(out, 'C', unpack_sql_state(error->sqlerrcode));
	write_field(out, 'M', error->message != NULL ? error->message : "missing error text");
	write_field(out, 'D', error->detail);
	write_field(out, 'H', error->hint);
	write_field(out, 's', error->schema_name);
	write_field(out, 't', error->table_name);
	write_field(out, 'c', error->column_name);
	write_field(out, 'd', error->datatype_name);
	write_field(out, 'n', error->constraint_name);
	write_field(out, 'q', error->internalquery);
	if (error->internalpos > 0)
		write_field(out, 'p', psprintf("%d", error->internalpos));
	plc_write_u8(out, 0);
	end_answer(call);
}

/* --- statements ---------------------------------------------------------------------- */

static void
check_status(const char *function, int status)
{
	if (status >= 0)
		return;
	ereport(ERROR,
			(errcode(status == SPI_ERROR_TRANSACTION ? ERRCODE_INVALID_TRANSACTION_TERMINATION
					 : ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s failed: %s", function, SPI_result_code_string(status))));
}

static void
execute_query(plc_request *request)
{
	char	   *query = read_text(request);
	long		limit = read_limit(request);
	int			status;

	check_end(request);
	status = SPI_execute(query, request->call->function->read_only, limit);
	/* A status below 0 is the function's to read: it has undone nothing. */
	write_rows(request->call, status, status < 0 ? 0 : SPI_processed, status < 0 ? NULL : SPI_tuptable, NULL);
}

static void
execute_plan(plc_request *request)
{
	plc_plan   *plan = find_plan(request->call->lease, plc_read_u32(request->reader));
	long		limit = read_limit(request);
	Datum	   *values;
	char	   *nulls = read_parameters(request, plan, &values);
	int			status;

	check_end(request);
	status = SPI_execute_plan(plan->plan, values, nulls, request->call->function->read_only, limit);
	write_rows(request->call, status, status < 0 ? 0 : SPI_processed, status < 0 ? NULL : SPI_tuptable, plan);
}

static void
prepare_plan(plc_request *request)
{
	plc_call   *call = request->call;
	char	   *query = read_text(request);
	uint32		count = plc_read_u32(request->reader);
	MemoryContext context;
	plc_plan   *plan;
	plc_writer *out;

	check_read(request);
	if (count > PLC_MAX_ARGUMENTS * 10)
		plc_channel_violation(call->lease, "It gave a plan too many parameters");
	if (call->lease->nplans >= PLC_MAX_PLANS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many prepared plans in sandbox \"%s\"", call->lease->sandbox),
				 errdetail("The limit is %d.", PLC_MAX_PLANS),
				 errhint("Keep plans in SD and use them again.")));

	context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container plan", ALLOCSET_SMALL_SIZES);
	plan = MemoryContextAllocZero(context, sizeof(plc_plan));
	plan->context = context;
	plan->row_context = AllocSetContextCreate(context, "PL/Container plan's row", ALLOCSET_SMALL_SIZES);
	plan->nargs = (int) count;
	plan->arg_oids = MemoryContextAllocZero(context, sizeof(Oid) * Max(count, 1));
	plan->args = MemoryContextAllocZero(context, sizeof(plc_type) * Max(count, 1));
	for (uint32 i = 0; i < count; i++)
	{
		char	   *name = read_text(request);
		int32		typmod;

		parseTypeString(name, &plan->arg_oids[i], &typmod, 0);
		plc_type_init(&plan->args[i], plan->arg_oids[i], typmod, true, context);
	}
	check_end(request);

	plan->plan = SPI_prepare(query, plan->nargs, plan->arg_oids);
	if (plan->plan == NULL)
		check_status("SPI_prepare", SPI_result);
	out = begin_answer(call, PLC_SQL);
	plc_write_u32(out, call->lease->plan_id + 1);
	plc_write_u32(out, count);
	for (uint32 i = 0; i < count; i++)
		plc_type_describe(out, &plan->args[i]);
	end_answer(call);

	/* From here on nothing fails. */
	SPI_keepplan(plan->plan);
	MemoryContextSetParent(context, TopMemoryContext);
	plan->id = ++call->lease->plan_id;
	plan->next = call->lease->plans;
	call->lease->plans = plan;
	call->lease->nplans++;
}

/* --- cursors ---------------------------------------------------------------------------- */

/*
 * Pins a portal, so that a commit keeps it, until the call ends. It then lives as long as
 * its transaction.
 */
static void
pin_portal(plc_call *call, Portal portal)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	call->cursors = lappend(call->cursors, pstrdup(portal->name));
	MemoryContextSwitchTo(caller);
	PinPortal(portal);
}

/* Takes a name off the list of those that are pinned. */
static void
unpin_portal(plc_call *call, const char *name)
{
	ListCell   *cell;
	Portal		portal = GetPortalByName(name);

	foreach(cell, call->cursors)
		if (strcmp(lfirst(cell), name) == 0)
		{
			if (PortalIsValid(portal) && portal->portalPinned)
				UnpinPortal(portal);
			pfree(lfirst(cell));
			call->cursors = foreach_delete_current(call->cursors, cell);
			return;
		}
}

static void
answer_cursor(plc_request *request, Portal portal)
{
	plc_writer *out;

	if (portal == NULL)
		check_status("SPI_cursor_open", SPI_result);
	out = begin_answer(request->call, PLC_SQL);
	plc_write_server_text(out, portal->name, strlen(portal->name));
	end_answer(request->call);
	pin_portal(request->call, portal);
}

static void
open_query(plc_request *request)
{
	char	   *query = read_text(request);
	SPIPlanPtr	plan;
	Portal		portal;

	check_end(request);
	plan = SPI_prepare(query, 0, NULL);
	if (plan == NULL)
		check_status("SPI_prepare", SPI_result);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, request->call->function->read_only);
	SPI_freeplan(plan);
	answer_cursor(request, portal);
}

static void
open_plan(plc_request *request)
{
	plc_plan   *plan = find_plan(request->call->lease, plc_read_u32(request->reader));
	Datum	   *values;
	char	   *nulls = read_parameters(request, plan, &values);

	check_end(request);
	answer_cursor(request, SPI_cursor_open(NULL, plan->plan, values, nulls, request->call->function->read_only));
}

static Portal
find_portal(const char *name)
{
	Portal		portal = SPI_cursor_find(name);

	if (!PortalIsValid(portal))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_NAME),
				 errmsg("cursor \"%s\" does not exist", name)));
	return portal;
}

static void
fetch_rows(plc_request *request)
{
	char	   *name = read_text(request);
	long		count = read_limit(request);

	check_end(request);
	SPI_cursor_fetch(find_portal(name), true, count);
	write_rows(request->call, SPI_OK_FETCH, SPI_processed, SPI_tuptable, NULL);
}

static void
close_portal(plc_request *request)
{
	char	   *name = read_text(request);
	Portal		portal;

	check_end(request);
	portal = find_portal(name);
	unpin_portal(request->call, name);
	SPI_cursor_close(portal);
	(void) begin_answer(request->call, PLC_SQL);
	end_answer(request->call);
}

/* What the sandbox has no more use for. It may be gone already. */
static void
discard(plc_request *request)
{
	plc_lease  *lease = request->call->lease;
	uint32		count = plc_read_u32(request->reader);

	for (uint32 i = 0; i < count; i++)
	{
		uint32		id = plc_read_u32(request->reader);

		check_read(request);
		discard_plan(lease, id);
	}
	count = plc_read_u32(request->reader);
	for (uint32 i = 0; i < count; i++)
	{
		char	   *name = read_text(request);
		Portal		portal = SPI_cursor_find(name);

		unpin_portal(request->call, name);
		if (PortalIsValid(portal) && !portal->portalPinned)
			SPI_cursor_close(portal);
	}
	check_end(request);
}

/* --- transactions -------------------------------------------------------------------------- */

static void
end_transaction(plc_request *request)
{
	check_end(request);
	if (request->verb == PLC_SQL_COMMIT)
		SPI_commit();
	else
		SPI_rollback();
	/* What is read and written from now on may be toasted. */
	EnsurePortalSnapshotExists();
	(void) begin_answer(request->call, PLC_SQL);
	end_answer(request->call);
}

static void
begin_subtransaction(plc_call *call)
{
	plc_subtransaction before = {.context = CurrentMemoryContext, .owner = CurrentResourceOwner};
	plc_subtransaction *begun;

	if (list_length(call->subtransactions) >= SUBTRANSACTIONS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many subtransactions in one another"),
				 errdetail("The limit is %d.", SUBTRANSACTIONS_MAX)));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(TopMemoryContext);
	begun = palloc(sizeof(plc_subtransaction));
	*begun = before;
	call->subtransactions = lcons(begun, call->subtransactions);
	MemoryContextSwitchTo(before.context);
}

/* Takes the innermost subtransaction off the list, to make current what was before it. */
static void
end_subtransaction(plc_call *call, bool commits)
{
	plc_subtransaction *begun = linitial(call->subtransactions);
	MemoryContext context = begun->context;
	ResourceOwner owner = begun->owner;

	call->subtransactions = list_delete_first(call->subtransactions);
	pfree(begun);
	if (commits)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

static void
serve_subtransaction(plc_request *request)
{
	plc_call   *call = request->call;

	check_end(request);
	if (request->verb < PLC_SUBTRANSACTION_BEGIN || request->verb > PLC_SUBTRANSACTION_ROLLBACK)
		plc_channel_violation(call->lease, "It sent an unknown request");
	if (request->verb == PLC_SUBTRANSACTION_BEGIN)
		begin_subtransaction(call);
	else if (call->subtransactions == NIL)
		/* One that was open at the end of a set's batch was aborted there. */
		ereport(ERROR,
				(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
				 errmsg("there is no subtransaction to exit from")));
	else
		end_subtransaction(call, request->verb == PLC_SUBTRANSACTION_COMMIT);
	(void) begin_answer(call, PLC_SUBTRANSACTION);
	end_answer(call);
}

/* --- requests -------------------------------------------------------------------------------- */

static void
connect_spi(plc_call *call)
{
	MemoryContext caller = CurrentMemoryContext;

	if (call->is_connected)
		return;
	SPI_connect_ext(call->nonatomic ? SPI_OPT_NONATOMIC : 0);
	call->is_connected = true;
	/* A child of SPI's: it goes with the connection, however that ends. */
	call->request_context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container request",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(caller);
	if (call->trigger != NULL)
		SPI_register_trigger_data((TriggerData *) call->trigger);
}

static void
serve_statement(plc_request *request)
{
	if (request->type == PLC_SUBTRANSACTION)
	{
		serve_subtransaction(request);
		return;
	}
	switch (request->verb)
	{
		case PLC_SQL_EXECUTE:
			execute_query(request);
			break;
		case PLC_SQL_PREPARE:
			prepare_plan(request);
			break;
		case PLC_SQL_EXECUTE_PLAN:
			execute_plan(request);
			break;
		case PLC_SQL_OPEN:
			open_query(request);
			break;
		case PLC_SQL_OPEN_PLAN:
			open_plan(request);
			break;
		case PLC_SQL_FETCH:
			fetch_rows(request);
			break;
		case PLC_SQL_CLOSE:
			close_portal(request);
			break;
		case PLC_SQL_COMMIT:
		case PLC_SQL_ROLLBACK:
			end_transaction(request);
			break;
		default:
			plc_channel_violation(request->call->lease, "It sent an unknown request");
	}
}

/*
 * Whether an error is the function's to catch. A cancel is the user's: the statement ends.
 * So it does when the sandbox that would be told is gone.
 */
static bool
is_catchable(const plc_call *call, const ErrorData *error)
{
	return error->sqlerrcode != ERRCODE_QUERY_CANCELED && !plc_channel_is_lost(call) &&
		!call->lease->sending;
}

/* Takes the error that was raised over, to answer with it, or raises it again. */
static void
answer_with_error(plc_call *call, ErrorData *error)
{
	if (!is_catchable(call, error))
	{
		plc_channel_cancel(call);
		ReThrowError(error);
	}
	write_error(call, error);
}

/* Whether a request needs a subtransaction of its own: those that end one can't have it. */
static bool
needs_subtransaction(const plc_request *request)
{
	return request->type == PLC_SQL && request->verb != PLC_SQL_CLOSE &&
		request->verb != PLC_SQL_COMMIT && request->verb != PLC_SQL_ROLLBACK;
}

/* Serves a request. Its error is undone and becomes the answer. */
static void
serve(plc_request *request)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool in_subtransaction = false;

	PG_TRY();
	{
		if (needs_subtransaction(request))
		{
			BeginInternalSubTransaction(NULL);
			in_subtransaction = true;
			MemoryContextSwitchTo(context);
		}
		serve_statement(request);
		if (in_subtransaction)
		{
			ReleaseCurrentSubTransaction();
			in_subtransaction = false;
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (in_subtransaction)
		{
			RollbackAndReleaseCurrentSubTransaction();
			MemoryContextSwitchTo(context);
			CurrentResourceOwner = owner;
		}
		answer_with_error(request->call, error);
	}
	PG_END_TRY();
}

/* Serves one request of a call and answers it. */
void
plc_spi_request(plc_call *call, const plc_frame *frame)
{
	MemoryContext caller = CurrentMemoryContext;
	plc_reader	reader;
	plc_request request = {.call = call, .reader = &reader, .type = frame->header.type};

	plc_reader_init(&reader, frame->payload, frame->header.length);
	request.verb = plc_read_u8(&reader);
	check_read(&request);
	connect_spi(call);
	MemoryContextSwitchTo(call->request_context);
	call->is_served = true;
	requests++;
	if (frame->header.type == PLC_SQL && request.verb == PLC_SQL_DISCARD)
		discard(&request);
	else
	{
		call->waits = true;
		serve(&request);
		plc_channel_reply(call);
		call->waits = false;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(call->request_context);
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	call->is_served = false;
	requests--;
	free_doomed();
}

/* --- the end of a call ------------------------------------------------------------------------- */

static void
unpin_portals(plc_call *call)
{
	while (call->cursors != NIL)
	{
		char	   *name = linitial(call->cursors);

		unpin_portal(call, name);
	}
}

static void
abort_subtransactions(plc_call *call)
{
	while (call->subtransactions != NIL)
	{
		ereport(WARNING, (errmsg("forcibly aborting a subtransaction that has not been exited")));
		end_subtransaction(call, false);
	}
}

/* Ends what a call has begun, before its result is read. */
void
plc_spi_end(plc_call *call)
{
	MemoryContext caller = CurrentMemoryContext;

	if (!call->is_connected)
		return;
	abort_subtransactions(call);
	unpin_portals(call);
	SPI_finish();
	call->is_connected = false;
	MemoryContextSwitchTo(caller);
}

/* The same while an error is on its way: SPI's connection is ended by who catches it. */
void
plc_spi_abandon(plc_call *call)
{
	if (!call->is_connected)
		return;
	if (call->is_served)
		requests--;
	call->is_served = false;
	abort_subtransactions(call);
	list_free_deep(call->cursors);
	call->cursors = NIL;
}
