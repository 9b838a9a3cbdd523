/*
 * call.c
 *		Calls of every kind: functions, sets, triggers, DO blocks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"
#include "windowapi.h"

/* A sandbox begins with 64 rows; batches then grow up to these. */
#define FIRST_ROWS 64
#define MOST_ROWS 8192
#define BATCH_BYTES (256 * 1024)

/* A set that is being returned: the batch that is here, and whether the sandbox has more. */
typedef struct plc_set
{
	plc_function *function;
	plc_lease  *lease;
	uint64		epoch;			/* of the lease: its sandbox holds the rest */
	uint32		id;				/* of the call that began it */
	bool		has_more;
	uint32		rows;			/* that the next batch may have */
	uint8	   *batch;
	size_t		capacity;
	plc_reader	reader;
	uint32		left;			/* rows of the batch */
	MemoryContext context;
	MemoryContextCallback dropped;
	struct plc_set **place;		/* where the caller finds it */
} plc_set;

/* One exchange with a sandbox: what is sent, and how its answer is read. */
typedef struct plc_job
{
	plc_call	call;
	plc_function *function;
	plc_write_call write;		/* NULL: the next batch of `set` is asked for, or a check if there is none */
	void	   *argument;
	plc_message answer;
	void		(*read) (struct plc_job *job, plc_reader *reader, const plc_frame *frame);
	plc_set    *set;
	Datum		result;
	bool		is_null;
} plc_job;

/* --- context of messages ----------------------------------------------------------- */

/* Names the function in the CONTEXT of every message below it. */
static void
function_context(void *argument)
{
	const plc_function *function = argument;

	if ((function->flags & PLC_FUNCTION_INLINE) != 0)
		errcontext("PL/Container anonymous code block");
	else if ((function->flags & PLC_FUNCTION_PROCEDURE) != 0)
		errcontext("PL/Container procedure \"%s\"", function->name);
	else
		errcontext("PL/Container function \"%s\"", function->name);
}

static void
result_context(void *argument)
{
	errcontext("%s", (const char *) argument);
}

static void
push_context(ErrorContextCallback *context, void (*callback) (void *), void *argument)
{
	context->callback = callback;
	context->arg = argument;
	context->previous = error_context_stack;
	error_context_stack = context;
}

static void
pop_context(const ErrorContextCallback *context)
{
	error_context_stack = context->previous;
}

/* --- one exchange ------------------------------------------------------------------- */

static void
exchange(plc_job *job)
{
	plc_call   *call = &job->call;
	plc_frame	frame;
	plc_reader	reader;

	if (job->write != NULL)
	{
		plc_channel_begin(call, job->function);
		plc_channel_call(call, job->write, job->argument);
	}
	else if (job->set == NULL)
	{
		plc_channel_begin(call, job->function);
		plc_channel_check(call);
	}
	else
		plc_channel_resume(call, job->function, job->set->lease, job->set->id, job->set->rows, BATCH_BYTES);
	plc_channel_answer(call, job->answer, &frame);
	if (call->is_connected)
		plc_spi_end(call);
	plc_reader_init(&reader, frame.payload, frame.header.length);
	job->read(job, &reader, &frame);
	if (!plc_read_end(&reader))
		plc_channel_violation(call->lease, reader.error);
	plc_channel_end(call);
}

static void
count(const plc_job *job, instr_time begin, bool has_failed)
{
	instr_time	spent;

	if (job->function->statistics == NULL)
		return;
	INSTR_TIME_SET_CURRENT(spent);
	INSTR_TIME_SUBTRACT(spent, begin);
	plc_statistics_count(job->function->statistics, &job->call, job->write != NULL ? 1 : 0,
						 has_failed ? 0 : job->set != NULL ? job->set->left : 1, has_failed ? 1 : 0,
						 INSTR_TIME_GET_MICROSEC(spent));
}

/* Makes an exchange. An error leaves the sandbox fit for the next, or drops it. */
static void
perform(plc_job *job)
{
	plc_function *function = job->function;
	ErrorContextCallback context;
	instr_time	begin;

	INSTR_TIME_SET_CURRENT(begin);
	push_context(&context, function_context, function);
	function->uses++;
	PG_TRY();
	{
		exchange(job);
	}
	PG_CATCH();
	{
		count(job, begin, true);
		plc_spi_abandon(&job->call);
		plc_channel_abandon(&job->call);
		plc_function_release(function);
		PG_RE_THROW();
	}
	PG_END_TRY();
	count(job, begin, false);
	plc_function_release(function);
	pop_context(&context);
}

/* --- functions ---------------------------------------------------------------------- */

static void
write_arguments(plc_writer *writer, plc_function *function, void *argument)
{
	FunctionCallInfo fcinfo = argument;

	plc_write_u32(writer, function->nargs);
	for (int i = 0; i < function->nargs; i++)
		plc_type_write(writer, &function->args[i], fcinfo->args[i].value, fcinfo->args[i].isnull);
}

static void
write_no_arguments(plc_writer *writer, plc_function *function, void *argument)
{
	plc_write_u32(writer, 0);
}

static void
read_value(plc_job *job, plc_reader *reader, const plc_frame *frame)
{
	ErrorContextCallback context;

	push_context(&context, result_context, "while creating return value");
	job->result = plc_type_read(reader, &job->function->result, &job->is_null);
	pop_context(&context);
}

static bool
may_commit(FunctionCallInfo fcinfo)
{
	return fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic;
}

static Datum
call_plainly(plc_function *function, FunctionCallInfo fcinfo)
{
	plc_job		job = {
		.call.nonatomic = may_commit(fcinfo),
		.function = function,
		.write = write_arguments,
		.argument = fcinfo,
		.answer = PLC_RESULT,
		.read = read_value,
	};

	perform(&job);
	/* The value of a function without one is not NULL in PL/Python either. */
	fcinfo->isnull = job.is_null && function->result.kind != PLC_VOID;
	return job.result;
}

void
plc_call_block(const char *source, bool nonatomic)
{
	plc_job		job = {
		.call.nonatomic = nonatomic,
		.function = plc_function_of_source("inline_code_block", source, PLC_FUNCTION_INLINE),
		.write = write_no_arguments,
		.answer = PLC_RESULT,
		.read = read_value,
	};

	perform(&job);
}

/* --- the check of a body ------------------------------------------------------------- */

/*
 * The sandbox in which a body can be checked, or NULL. To have none must keep nobody from
 * creating functions: a warning says why.
 */
static plc_lease *
find_checker(const char *runtime)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	plc_lease  *volatile lease = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		lease = plc_lease_get(runtime);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("function body was not checked: %s", error->message),
				 error->detail != NULL ? errdetail_internal("%s", error->detail) : 0));
	}
	PG_END_TRY();
	return lease;
}

/* Lets the runtime say what is wrong with a body, if it can. */
void
plc_call_check(const char *name, const char *source)
{
	plc_job		job = {
		.function = plc_function_of_source(name, source, 0),
		.answer = PLC_RESULT,
		.read = read_value,
	};
	plc_lease  *lease = find_checker(job.function->runtime);

	job.function->lease = lease;
	if (lease != NULL && (lease->features & PLC_FEATURE_CHECKS) != 0)
		perform(&job);
	else
		plc_function_drop(job.function);
}

/* --- sets ------------------------------------------------------------------------------ */

/* The query that reads a set has ended, or fails: no message can be sent from here. */
static void
set_dropped(void *argument)
{
	plc_set    *set = argument;
	MemoryContext caller;

	if (set->has_more && set->lease->data >= 0 && set->lease->epoch == set->epoch)
	{
		caller = MemoryContextSwitchTo(TopMemoryContext);
		set->lease->ended_sets = lappend_int(set->lease->ended_sets, (int) set->id);
		MemoryContextSwitchTo(caller);
	}
	plc_function_release(set->function);
}

static void
end_set(plc_set *set)
{
	plc_lease  *lease = set->lease;

	*set->place = NULL;
	MemoryContextDelete(set->context);
	if (lease != NULL && lease->ended_sets != NIL)
		plc_channel_end_sets(lease);
}

/* The executor reads a set no further than this. */
static void
set_shut_down(Datum argument)
{
	plc_set   **place = (plc_set **) DatumGetPointer(argument);

	if (*place != NULL)
		end_set(*place);
}

static void
read_batch(plc_job *job, plc_reader *reader, const plc_frame *frame)
{
	plc_set    *set = job->set;
	size_t		length = frame->header.length;

	set->lease = job->call.lease;
	set->epoch = job->call.epoch;
	set->id = job->call.id;
	set->has_more = (frame->header.flags & PLC_FLAG_MORE) != 0;
	set->left = plc_read_u32(reader);
	/* A value has a byte at least. */
	if (set->left > length || (set->left == 0 && set->has_more))
		plc_reader_fail(reader, "a batch of rows has no or too many rows");
	if (reader->error != NULL)
		return;
	if (set->capacity < length)
	{
		if (set->batch != NULL)
			pfree(set->batch);
		set->batch = MemoryContextAllocHuge(set->context, length);
		set->capacity = length;
	}
	memcpy(set->batch, frame->payload, length);
	plc_reader_init(&set->reader, set->batch, length);
	(void) plc_read_u32(&set->reader);
	reader->cursor = reader->end;
}

static plc_set *
begin_set(plc_function *function, FunctionCallInfo fcinfo, plc_set **place)
{
	MemoryContext context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "PL/Container set",
												  ALLOCSET_SMALL_SIZES);
	plc_set    *set = MemoryContextAllocZero(context, sizeof(plc_set));
	plc_job		job = {
		.function = function,
		.write = write_arguments,
		.argument = fcinfo,
		.answer = PLC_ROWS,
		.read = read_batch,
		.set = set,
	};

	set->function = function;
	set->rows = FIRST_ROWS;
	set->context = context;
	set->place = place;
	function->uses++;
	set->dropped.func = set_dropped;
	set->dropped.arg = set;
	MemoryContextRegisterResetCallback(context, &set->dropped);
	perform(&job);
	return set;
}

static void
next_batch(plc_set *set)
{
	plc_job		job = {
		.function = set->function,
		.answer = PLC_ROWS,
		.read = read_batch,
		.set = set,
	};

	if (set->lease->data < 0 || set->lease->epoch != set->epoch)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the sandbox in which function \"%s\" returns a set has ended", set->function->name)));
	set->rows = Min(set->rows * 4, MOST_ROWS);
	/* An error ends the set in the sandbox, too. */
	set->has_more = false;
	perform(&job);
}

static void
set_broken(plc_set *set)
{
	if (set->lease->data >= 0 && set->lease->epoch == set->epoch)
		plc_channel_violation(set->lease, set->reader.error);
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("function \"%s\" returned a set that is malformed", set->function->name),
			 errdetail_internal("%s.", set->reader.error)));
}

/* Reads a set's next row. Returns false at its end. */
static bool
next_row(plc_set *set, Datum *value, bool *is_null)
{
	ErrorContextCallback function;
	ErrorContextCallback result;

	while (set->left == 0)
	{
		if (!plc_read_end(&set->reader))
			set_broken(set);
		if (!set->has_more)
			return false;
		next_batch(set);
	}
	push_context(&function, function_context, set->function);
	push_context(&result, result_context, "while creating return value");
	*value = plc_type_read(&set->reader, &set->function->result, is_null);
	pop_context(&result);
	pop_context(&function);
	if (set->reader.error != NULL)
		set_broken(set);
	set->left--;
	return true;
}

/* Puts a set as a whole where the executor would put it row by row. */
static void
store_set(plc_set *set, ReturnSetInfo *rsinfo)
{
	bool		is_row = set->function->result.kind == PLC_COMPOSITE;
	MemoryContext caller = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	MemoryContext row_context;
	bool	   *all_null;
	Datum		value;
	bool		is_null;

	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setDesc = CreateTupleDescCopy(rsinfo->expectedDesc);
	rsinfo->setResult = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
											  false, work_mem);
	all_null = palloc(sizeof(bool) * rsinfo->setDesc->natts);
	memset(all_null, true, sizeof(bool) * rsinfo->setDesc->natts);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container row", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(row_context);
	while (next_row(set, &value, &is_null))
	{
		if (!is_row)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &is_null);
		else if (is_null)
		{
			Datum	   *nothing = palloc0(sizeof(Datum) * rsinfo->setDesc->natts);

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, nothing, all_null);
		}
		else
		{
			HeapTupleHeader header = DatumGetHeapTupleHeader(value);
			HeapTupleData tuple = {
				.t_len = HeapTupleHeaderGetDatumLength(header),
				.t_data = header,
			};

			tuplestore_puttuple(rsinfo->setResult, &tuple);
		}
		MemoryContextReset(row_context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row_context);
}

/* Whether the rows of a function can be stored as they are where they are wanted. */
static bool
can_store(const plc_function *function, const ReturnSetInfo *rsinfo)
{
	if ((rsinfo->allowedModes & SFRM_Materialize_Preferred) == 0 || rsinfo->expectedDesc == NULL)
		return false;
	if (function->result.kind != PLC_COMPOSITE)
		return rsinfo->expectedDesc->natts == 1;
	return !function->result.is_domain && rsinfo->expectedDesc->natts == function->result.desc->natts;
}

static Datum
call_for_set(plc_function *function, FunctionCallInfo fcinfo, plc_set **place)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		value;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) || (rsinfo->allowedModes & SFRM_ValuePerCall) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (*place == NULL)
	{
		plc_set    *set = begin_set(function, fcinfo, place);

		*place = set;
		if (can_store(function, rsinfo))
		{
			store_set(set, rsinfo);
			end_set(set);
			fcinfo->isnull = true;
			return (Datum) 0;
		}
		RegisterExprContextCallback(rsinfo->econtext, set_shut_down, PointerGetDatum(place));
	}
	rsinfo->returnMode = SFRM_ValuePerCall;
	if (next_row(*place, &value, &fcinfo->isnull))
	{
		rsinfo->isDone = ExprMultipleResult;
		return value;
	}
	UnregisterExprContextCallback(rsinfo->econtext, set_shut_down, PointerGetDatum(place));
	end_set(*place);
	rsinfo->isDone = ExprEndResult;
	fcinfo->isnull = true;
	return (Datum) 0;
}

/* --- triggers ---------------------------------------------------------------------------- */

static void
write_text(plc_writer *writer, const char *text)
{
	plc_write_u8(writer, PLC_FORM_BINARY);
	plc_write_server_text(writer, text, strlen(text));
}

static void
write_row(plc_writer *writer, plc_function *function, const TriggerData *data, HeapTuple tuple,
		  bool absent_generated)
{
	if (tuple == NULL)
		plc_write_u8(writer, PLC_FORM_NULL);
	else
		plc_type_write_tuple(writer, &function->row, tuple, RelationGetDescr(data->tg_relation),
							 absent_generated);
}

static void
write_rows(plc_writer *writer, plc_function *function, const TriggerData *data)
{
	TriggerEvent event = data->tg_event;
	HeapTuple	new_tuple = NULL;
	HeapTuple	old_tuple = NULL;

	if (TRIGGER_FIRED_FOR_ROW(event))
	{
		if (TRIGGER_FIRED_BY_INSERT(event))
			new_tuple = data->tg_trigtuple;
		else
			old_tuple = data->tg_trigtuple;
		if (TRIGGER_FIRED_BY_UPDATE(event))
			new_tuple = data->tg_newtuple;
	}
	/* Generated columns are computed behind BEFORE triggers. */
	write_row(writer, function, data, new_tuple, TRIGGER_FIRED_BEFORE(event));
	write_row(writer, function, data, old_tuple, false);
}

static const char *
event_name(TriggerEvent event)
{
	if (TRIGGER_FIRED_BY_INSERT(event))
		return "INSERT";
	if (TRIGGER_FIRED_BY_DELETE(event))
		return "DELETE";
	return TRIGGER_FIRED_BY_UPDATE(event) ? "UPDATE" : "TRUNCATE";
}

static void
write_trigger(plc_writer *writer, plc_function *function, void *argument)
{
	static const int32 one = 1;
	const TriggerData *data = argument;
	const Trigger *trigger = data->tg_trigger;
	TriggerEvent event = data->tg_event;
	int32		count = trigger->tgnargs;

	plc_write_u32(writer, 10);
	write_text(writer, trigger->tgname);
	write_text(writer, psprintf("%u", RelationGetRelid(data->tg_relation)));
	write_text(writer, RelationGetRelationName(data->tg_relation));
	write_text(writer, get_namespace_name(RelationGetNamespace(data->tg_relation)));
	write_text(writer, TRIGGER_FIRED_BEFORE(event) ? "BEFORE" : TRIGGER_FIRED_AFTER(event) ? "AFTER" : "INSTEAD OF");
	write_text(writer, TRIGGER_FIRED_FOR_ROW(event) ? "ROW" : "STATEMENT");
	write_text(writer, event_name(event));
	if (count == 0)
		plc_write_u8(writer, PLC_FORM_NULL);
	else
	{
		plc_write_u8(writer, PLC_FORM_BINARY);
		plc_write_array(writer, PLC_TEXT, 0, 1, &count, &one, NULL);
		for (int i = 0; i < count; i++)
			plc_write_server_text(writer, trigger->tgargs[i], strlen(trigger->tgargs[i]));
	}
	write_rows(writer, function, data);
}

/* The column that a function sets, which must be one that can be set. */
static int
settable_column(plc_job *job, plc_reader *reader, TupleDesc desc, uint32 index)
{
	int			column = plc_type_field(&job->function->result, index);

	if (reader->error != NULL)
		plc_channel_violation(job->call.lease, reader->error);
	if (column < 1 || column > desc->natts)
		plc_channel_violation(job->call.lease, "It set a column that is not there");
	if (TupleDescAttr(desc, column - 1)->attgenerated)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cannot set generated column \"%s\"",
						NameStr(TupleDescAttr(desc, column - 1)->attname))));
	return column;
}

static HeapTuple
read_modified(plc_job *job, plc_reader *reader, HeapTuple tuple, TupleDesc desc)
{
	uint32		count = plc_read_u32(reader);
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * desc->natts);
	bool	   *replaces = palloc0(sizeof(bool) * desc->natts);

	if (count > (uint32) desc->natts)
		plc_channel_violation(job->call.lease, "It set more columns than there are");
	for (uint32 i = 0; i < count; i++)
	{
		uint32		index = plc_read_u32(reader);
		int			column = settable_column(job, reader, desc, index);

		values[column - 1] = plc_type_read(reader, plc_type_field_type(&job->function->result, index),
										   &nulls[column - 1]);
		if (reader->error != NULL)
			plc_channel_violation(job->call.lease, reader->error);
		replaces[column - 1] = true;
	}
	return tuple == NULL ? NULL : heap_modify_tuple(tuple, desc, values, nulls, replaces);
}

static void
read_trigger(plc_job *job, plc_reader *reader, const plc_frame *frame)
{
	const TriggerData *data = job->argument;
	TriggerEvent event = data->tg_event;
	bool		is_row = TRIGGER_FIRED_FOR_ROW(event);
	HeapTuple	tuple = is_row ? data->tg_trigtuple : NULL;
	ErrorContextCallback context;

	if (is_row && TRIGGER_FIRED_BY_UPDATE(event))
		tuple = data->tg_newtuple;
	switch (plc_read_u8(reader))
	{
		case PLC_TRIGGER_UNCHANGED:
			break;
		case PLC_TRIGGER_SKIP:
			tuple = NULL;
			break;
		case PLC_TRIGGER_MODIFY:
			if (is_row && (TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event)))
			{
				push_context(&context, result_context, "while modifying trigger row");
				tuple = read_modified(job, reader, tuple, RelationGetDescr(data->tg_relation));
				pop_context(&context);
				break;
			}
			ereport(WARNING,
					(errmsg("PL/Container trigger function returned \"MODIFY\" in a %s trigger -- ignored",
							event_name(event))));
			reader->cursor = reader->end;
			break;
		default:
			plc_reader_fail(reader, "an unknown action of a trigger");
			break;
	}
	job->result = PointerGetDatum(tuple);
}

static Datum
call_trigger(plc_function *function, FunctionCallInfo fcinfo)
{
	plc_job		job = {
		.call.trigger = fcinfo->context,
		.function = function,
		.write = write_trigger,
		.argument = fcinfo->context,
		.answer = PLC_RESULT,
		.read = read_trigger,
	};

	perform(&job);
	return job.result;
}

static void
write_event_trigger(plc_writer *writer, plc_function *function, void *argument)
{
	const EventTriggerData *data = argument;

	plc_write_u32(writer, 2);
	write_text(writer, data->event);
	write_text(writer, GetCommandTagName(data->tag));
}

static Datum
call_event_trigger(plc_function *function, FunctionCallInfo fcinfo)
{
	plc_job		job = {
		.function = function,
		.write = write_event_trigger,
		.argument = fcinfo->context,
		.answer = PLC_RESULT,
		.read = read_value,
	};

	perform(&job);
	return (Datum) 0;
}

/* --- the way in ------------------------------------------------------------------------------ */

/* A window function has the arguments of the current row in its window, not with the call. */
static void
fetch_window_arguments(FunctionCallInfo fcinfo)
{
	WindowObject window = PG_WINDOW_OBJECT();

	if (!WindowObjectIsValid(window))
		return;
	for (int i = 0; i < PG_NARGS(); i++)
		fcinfo->args[i].value = WinGetFuncArgCurrent(window, i, &fcinfo->args[i].isnull);
}

Datum
plc_call_function(FunctionCallInfo fcinfo)
{
	plc_set   **set;
	plc_function *function;

	check_stack_depth();
	fetch_window_arguments(fcinfo);
	function = plc_function_get(fcinfo, &set);
	if ((function->flags & (PLC_FUNCTION_SET | PLC_FUNCTION_TRIGGER | PLC_FUNCTION_EVENT_TRIGGER)) == 0)
		return call_plainly(function, fcinfo);
	if ((function->flags & PLC_FUNCTION_TRIGGER) != 0)
		return call_trigger(function, fcinfo);
	if ((function->flags & PLC_FUNCTION_EVENT_TRIGGER) != 0)
		return call_event_trigger(function, fcinfo);
	return call_for_set(function, fcinfo, set);
}
