/*
 * plcontainer.c
 *		LANGUAGE plcontainer: call handler, validator, settings, SQL functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <limits.h>

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/syscache.h"

PG_MODULE_MAGIC;

char	   *plc_server_socket;
int			plc_lease_timeout;
int			plc_cancel_grace;
int			plc_max_frame_mb;
int			plc_spin_us;

void		_PG_init(void);

PG_FUNCTION_INFO_V1(plcontainer_call_handler);
PG_FUNCTION_INFO_V1(plcontainer_validator);
PG_FUNCTION_INFO_V1(plcontainer_session_sandboxes);

void
_PG_init(void)
{
	/*
	 * Who may name another server may also be answered by it in place of the
	 * real one: superusers only.
	 */
	DefineCustomStringVariable("plcontainer.server_socket",
							   "Path of the protocol server's socket.",
							   NULL, &plc_server_socket,
							   "/run/plcontainer/protocol_server.sock",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("plcontainer.lease_timeout",
							"How long to wait for a sandbox.",
							NULL, &plc_lease_timeout, 30000, 100, 600000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("plcontainer.cancel_grace",
							"How long a cancelled function may take to end before its sandbox is dropped.",
							NULL, &plc_cancel_grace, 200, 0, 10000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("plcontainer.max_message",
							"Largest message to or from a sandbox.",
							NULL, &plc_max_frame_mb,
							(int) (PLC_MAX_FRAME_DEFAULT >> 20), 1, (int) (PLC_MAX_FRAME_DEFAULT >> 20),
							PGC_SUSET, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("plcontainer.spin",
							"Microseconds to look for an answer before waiting for it; 0 waits at once.",
							"Takes effect with the next sandbox of a session.", &plc_spin_us,
							PLC_SPIN_US_DEFAULT, 0, 1000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("plcontainer");

	plc_functions_init();
	plc_leases_init();
}

/* Names the function in the CONTEXT of every message below it. */
static void
call_context(void *argument)
{
	errcontext("PL/Container function \"%s\"", ((plc_function *) argument)->name);
}

Datum
plcontainer_call_handler(PG_FUNCTION_ARGS)
{
	plc_function *function = plc_function_get(fcinfo);
	ErrorContextCallback context;
	Datum		result;

	context.callback = call_context;
	context.arg = function;
	context.previous = error_context_stack;
	error_context_stack = &context;

	function->uses++;
	PG_TRY();
	{
		plc_lease  *lease = function->lease;

		if (lease == NULL || lease->data < 0 || lease->key.role != GetUserId())
			function->lease = plc_lease_get(function->runtime);
		else
			plc_lease_tend(lease);
		result = plc_channel_call(function, fcinfo);
	}
	PG_CATCH();
	{
		/* The answer to a call that is left in the middle would be taken for the next one's. */
		if (function->lease != NULL && function->lease->in_call)
			plc_lease_close(function->lease);
		plc_function_release(function);
		PG_RE_THROW();
	}
	PG_END_TRY();
	plc_function_release(function);

	error_context_stack = context.previous;
	return result;
}

Datum
plcontainer_validator(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	HeapTuple	procedure;

	if (!CheckFunctionValidatorAccess(fcinfo->flinfo->fn_oid, oid))
		PG_RETURN_VOID();

	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", oid);
	plc_function_check(procedure, check_function_bodies);
	ReleaseSysCache(procedure);
	PG_RETURN_VOID();
}

Datum
plcontainer_session_sandboxes(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	plc_leases_list((ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
