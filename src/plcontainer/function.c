/*
 * function.c
 *		The cache of functions, and the line of a body that names its runtime.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plcontainer.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/*
 * One slot per function, never removed: FmgrInfo.fn_extra may point to it for as
 * long as it likes while the function in it is replaced.
 */
typedef struct function_slot
{
	Oid			oid;			/* hash key */
	uint32		hash;			/* of its pg_proc row, as invalidations name it */
	bool		valid;			/* nothing was heard of a change */
	plc_function *function;
} function_slot;

static HTAB *functions;
static uint32 last_function_id;
static uint64 invalidations;	/* heard so far */

static void
procedure_changed(Datum argument, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS scan;
	function_slot *slot;

	invalidations++;
	hash_seq_init(&scan, functions);
	while ((slot = hash_seq_search(&scan)) != NULL)
		if (hash == 0 || slot->hash == hash)
			slot->valid = false;
}

/* A type's definition is cached with the functions that use it: look at all again. */
static void
type_changed(Datum argument, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS scan;
	function_slot *slot;

	invalidations++;
	hash_seq_init(&scan, functions);
	while ((slot = hash_seq_search(&scan)) != NULL)
	{
		slot->valid = false;
		if (slot->function != NULL)
			slot->function->xmin = InvalidTransactionId;
	}
}

void
plc_functions_init(void)
{
	HASHCTL		control = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(function_slot),
		.hcxt = TopMemoryContext,
	};

	functions = hash_create("PL/Container functions", 64, &control,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(PROCOID, procedure_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, type_changed, (Datum) 0);
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

static void
line_error(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("function body does not name its runtime"),
			 errdetail_internal("%s", detail),
			 errhint("Begin the body with a line such as \"# container: plc_python_shared\".")));
}

/*
 * Reads "# container: id" from the beginning of a body. `runtime` has room for
 * PLC_RUNTIME_ID_MAX + 1 bytes. A body without it is an error that says what was
 * found in its place.
 */
static void
parse_container_line(const char *source, char *runtime)
{
	static const char keyword[] = "container";
	const char *p = source;
	const char *id;
	size_t		length;

	while (is_blank(*p) || *p == '\n')
		p++;
	if (*p == '\0')
		line_error(_("The body is empty."));
	if (*p != '#')
		line_error(_("The first line of the body does not begin with \"#\"."));
	for (p++; is_blank(*p); p++)
		;
	if (strncmp(p, keyword, sizeof(keyword) - 1) != 0)
		line_error(_("\"#\" is not followed by the word \"container\"."));
	for (p += sizeof(keyword) - 1; is_blank(*p); p++)
		;
	if (*p != ':')
		line_error(_("\"# container\" is not followed by a colon."));
	for (p++; is_blank(*p); p++)
		;
	if (*p == '\n' || *p == '\0')
		line_error(_("No runtime follows \"# container:\"."));

	id = p;
	if (!isalnum((unsigned char) *p) || (unsigned char) *p > 127)
		line_error(_("A runtime begins with a letter or a digit."));
	while (*p != '\0' && (unsigned char) *p <= 127 && (isalnum((unsigned char) *p) || strchr("_.-", *p) != NULL))
		p++;
	length = p - id;
	if (*p != '\0' && *p != '\n' && !is_blank(*p))
		line_error(psprintf(_("The runtime contains \"%.*s\"; letters, digits, \"_\", \".\" and \"-\" are allowed."),
							pg_mblen(p), p));
	while (is_blank(*p))
		p++;
	if (*p != '\0' && *p != '\n')
		line_error(_("Something follows the runtime on its line; no options are known."));
	if (length > PLC_RUNTIME_ID_MAX)
		line_error(psprintf(_("The runtime is longer than %d characters."), PLC_RUNTIME_ID_MAX));
	if (*p == '\0')
		line_error(_("No code follows the line that names the runtime."));

	memcpy(runtime, id, length);
	runtime[length] = '\0';
}

static char *
procedure_source(HeapTuple procedure)
{
	bool		is_null;
	Datum		source = SysCacheGetAttr(PROCOID, procedure, Anum_pg_proc_prosrc, &is_null);

	if (is_null)
		elog(ERROR, "null prosrc");
	return TextDatumGetCString(source);
}

static void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("PL/Container does not support %s", what)));
}

/* Refuses what can't be called, so that CREATE FUNCTION tells and not the first call. */
static void
check_signature(HeapTuple procedure)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);

	if (form->proretset)
		refuse("functions that return sets");
	if (form->prorettype == TRIGGEROID)
		refuse("trigger functions");
	if (form->prorettype == EVENT_TRIGGEROID)
		refuse("event trigger functions");
	if (form->prorettype == RECORDOID)
		refuse("results of type record");
	if (get_typtype(form->prorettype) == TYPTYPE_PSEUDO && form->prorettype != VOIDOID)
		refuse(psprintf("results of type %s", format_type_be(form->prorettype)));
	for (int i = 0; i < form->pronargs; i++)
	{
		Oid			type = form->proargtypes.values[i];

		if (get_typtype(type) == TYPTYPE_PSEUDO)
			refuse(psprintf("arguments of type %s", format_type_be(type)));
	}
}

/* What CREATE FUNCTION checks; the body only where check_function_bodies says so. */
void
plc_function_check(HeapTuple procedure, bool check_body)
{
	char		runtime[PLC_RUNTIME_ID_MAX + 1];

	check_signature(procedure);
	if (check_body)
		parse_container_line(procedure_source(procedure), runtime);
}

static plc_function *
make_function(HeapTuple procedure, MemoryContext context)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);
	plc_function *function = MemoryContextAllocZero(context, sizeof(plc_function));
	MemoryContext caller = MemoryContextSwitchTo(context);
	Oid		   *types;
	char	  **names;
	char	   *modes;
	int			nall;

	check_signature(procedure);
	function->context = context;
	function->oid = form->oid;
	function->xmin = HeapTupleHeaderGetRawXmin(procedure->t_data);
	function->tid = procedure->t_self;
	function->name = pstrdup(NameStr(form->proname));
	function->source = procedure_source(procedure);
	parse_container_line(function->source, function->runtime);

	/* Only arguments that go in: an OUT argument alone is the result. */
	function->nargs = form->pronargs;
	function->args = palloc0(sizeof(plc_type) * Max(form->pronargs, 1));
	function->arg_names = palloc0(sizeof(char *) * Max(form->pronargs, 1));
	nall = get_func_arg_info(procedure, &types, &names, &modes);
	for (int i = 0, in = 0; i < nall; i++)
	{
		if (modes != NULL && (modes[i] == PROARGMODE_OUT || modes[i] == PROARGMODE_TABLE))
			continue;
		plc_type_init(&function->args[in], types[i], false, context);
		if (names != NULL)
			function->arg_names[in] = names[i];
		in++;
	}
	plc_type_init(&function->result, form->prorettype, true, context);

	MemoryContextSwitchTo(caller);
	return function;
}

static void
free_function(plc_function *function)
{
	plc_leases_forget(function->id);
	MemoryContextDelete(function->context);
}

static void
load_function(function_slot *slot, HeapTuple procedure)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container function",
												  ALLOCSET_SMALL_SIZES);
	plc_function *old = slot->function;
	plc_function *function = make_function(procedure, context);

	/* From here on nothing fails: an error above leaves the context to its parent. */
	MemoryContextSetParent(context, TopMemoryContext);
	function->id = ++last_function_id;
	slot->function = function;
	if (old == NULL)
		return;
	if (old->uses > 0)
		old->replaced = true;
	else
		free_function(old);
}

plc_function *
plc_function_get(FunctionCallInfo fcinfo)
{
	function_slot *slot = fcinfo->flinfo->fn_extra;
	HeapTuple	procedure;
	uint64		seen;

	if (slot != NULL && slot->valid)
		return slot->function;

	if (CALLED_AS_TRIGGER(fcinfo))
		refuse("trigger functions");
	if (CALLED_AS_EVENT_TRIGGER(fcinfo))
		refuse("event trigger functions");
	if (slot == NULL)
	{
		Oid			oid = fcinfo->flinfo->fn_oid;
		bool		found;

		slot = hash_search(functions, &oid, HASH_ENTER, &found);
		if (!found)
		{
			slot->hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(oid));
			slot->valid = false;
			slot->function = NULL;
		}
		fcinfo->flinfo->fn_extra = slot;
		if (slot->valid)
			return slot->function;
	}

	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(slot->oid));
	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", slot->oid);
	/* What changes while types are read is looked at again by the next call. */
	seen = invalidations;
	if (slot->function == NULL ||
		slot->function->xmin != HeapTupleHeaderGetRawXmin(procedure->t_data) ||
		!ItemPointerEquals(&slot->function->tid, &procedure->t_self))
		load_function(slot, procedure);
	slot->valid = seen == invalidations;
	ReleaseSysCache(procedure);
	return slot->function;
}

void
plc_function_release(plc_function *function)
{
	if (--function->uses == 0 && function->replaced)
		free_function(function);
}
