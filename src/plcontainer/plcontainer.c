/*
 * plcontainer.c
 *		LANGUAGE plcontainer: call handler, validator, settings, SQL functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <limits.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_proc.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
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
PG_FUNCTION_INFO_V1(plcontainer_inline_handler);
PG_FUNCTION_INFO_V1(plcontainer_validator);
PG_FUNCTION_INFO_V1(plcontainer_session_sandboxes);
PG_FUNCTION_INFO_V1(plcontainer_containers_json);
PG_FUNCTION_INFO_V1(plcontainer_config_json);
PG_FUNCTION_INFO_V1(plcontainer_statistics_json);
PG_FUNCTION_INFO_V1(plcontainer_refresh_config);

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
	plc_statistics_init();
}

Datum
plcontainer_call_handler(PG_FUNCTION_ARGS)
{
	return plc_call_function(fcinfo);
}

Datum
plcontainer_inline_handler(PG_FUNCTION_ARGS)
{
	InlineCodeBlock *block = (InlineCodeBlock *) PG_GETARG_POINTER(0);

	plc_call_block(block->source_text, !block->atomic);
	PG_RETURN_VOID();
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

/*
 * What a session has done is told before the server is asked. Whether a role may see what
 * others do is the server's to apply; who may refresh is a matter of privileges on the function.
 */
static Datum
ask_server(const char *what, bool sees_all)
{
	plc_statistics_tell();
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(plc_lease_ask(what, sees_all)));
}

static bool
is_monitor(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

Datum
plcontainer_containers_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(ask_server("containers", is_monitor()));
}

Datum
plcontainer_config_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(ask_server("config", is_monitor()));
}

Datum
plcontainer_statistics_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(ask_server("statistics", is_monitor()));
}

Datum
plcontainer_refresh_config(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(ask_server("refresh", true));
}
