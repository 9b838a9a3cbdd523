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

/* A function of the catalog, with a variant for each way in which it was called. Never removed. */
typedef struct function_slot
{
	Oid			oid;			/* hash key */
	uint32		hash;			/* of its pg_proc row, as invalidations name it */
	bool		valid;			/* nothing was heard of a change */
	bool		types_changed;	/* something was heard of its types */
	uint64		generation;		/* counts the times that variants were dropped */
	TransactionId xmin;			/* of the pg_proc row that the variants were made from, */
	ItemPointerData tid;		/* and where that row lies */
	plc_function *functions;	/* the variants */
} function_slot;

/* What a place that calls a function keeps: FmgrInfo.fn_extra. */
typedef struct call_site
{
	function_slot *slot;
	uint64		generation;		/* the slot's when `function` was found */
	plc_function *function;
	struct plc_set *set;		/* that is being returned, or NULL */
} call_site;

/* How a function is called: what chooses one of its variants. */
typedef struct variant_key
{
	Oid			arg_oids[FUNC_MAX_ARGS];
	Oid			result_oid;
	TupleDesc	result_desc;
	Relation	relation;		/* of a trigger, or NULL */
} variant_key;

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

static bool
uses_type(const function_slot *slot, uint32 hash)
{
	for (const plc_function *function = slot->functions; function != NULL; function = function->next)
		for (int i = 0; i <= function->nargs; i++)
			if (function->type_hashes[i] == hash)
				return true;
	return false;
}

/* What is known of a type is kept with the functions that use it. Rows' columns are not heard of here. */
static void
type_changed(Datum argument, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS scan;
	function_slot *slot;

	invalidations++;
	hash_seq_init(&scan, functions);
	while ((slot = hash_seq_search(&scan)) != NULL)
		if (hash == 0 || uses_type(slot, hash))
		{
			slot->valid = false;
			slot->types_changed = true;
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

/* --- the line of a body that names its runtime ------------------------------- */

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

/* Reads the options behind a runtime, "name=value" each, up to the end of the line. */
static const char *
parse_options(const char *p, uint32 *flags)
{
	for (;;)
	{
		const char *begin;
		int			length;

		while (is_blank(*p))
			p++;
		if (*p == '\0' || *p == '\n')
			return p;
		for (begin = p; *p != '\0' && *p != '\n' && !is_blank(*p); p++)
			;
		length = (int) (p - begin);
		if (length == 12 && strncmp(begin, "arrays=numpy", 12) == 0)
			*flags |= PLC_FUNCTION_NUMPY;
		else if (length == 11 && strncmp(begin, "arrays=list", 11) == 0)
			*flags &= ~PLC_FUNCTION_NUMPY;
		else
			line_error(psprintf(_("\"%.*s\" is not an option; known are \"arrays=list\" and \"arrays=numpy\"."),
								pg_mbcliplen(begin, length, 100), begin));
	}
}

/*
 * Reads "# container: id options" from the beginning of a body. `runtime` has room for
 * PLC_RUNTIME_ID_MAX + 1 bytes; bits of `flags` are set as options say. A body without it is
 * an error that says what was found in its place.
 */
static void
parse_container_line(const char *source, char *runtime, uint32 *flags)
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
	if (length > PLC_RUNTIME_ID_MAX)
		line_error(psprintf(_("The runtime is longer than %d characters."), PLC_RUNTIME_ID_MAX));
	p = parse_options(p, flags);
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
refuse_type(const char *does, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("PL/Container functions cannot %s type %s", does, format_type_be(type))));
}

static bool
is_concrete(Oid type)
{
	return get_typtype(type) != TYPTYPE_PSEUDO || IsPolymorphicType(type) || type == RECORDOID ||
		type == RECORDARRAYOID;
}

/* Refuses what can't be called, so that CREATE FUNCTION tells and not the first call. */
static void
check_signature(HeapTuple procedure)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);

	if (!is_concrete(form->prorettype) && form->prorettype != VOIDOID &&
		form->prorettype != TRIGGEROID && form->prorettype != EVENT_TRIGGEROID)
		refuse_type("return", form->prorettype);
	for (int i = 0; i < form->pronargs; i++)
		if (!is_concrete(form->proargtypes.values[i]))
			refuse_type("accept", form->proargtypes.values[i]);
}

/* What CREATE FUNCTION checks; the body only where check_function_bodies says so. */
void
plc_function_check(HeapTuple procedure, bool check_body)
{
	char		runtime[PLC_RUNTIME_ID_MAX + 1];
	uint32		flags = 0;

	check_signature(procedure);
	if (!check_body)
		return;
	parse_container_line(procedure_source(procedure), runtime, &flags);
	plc_call_check(NameStr(((Form_pg_proc) GETSTRUCT(procedure))->proname), procedure_source(procedure));
}

/* --- variants ------------------------------------------------------------------ */

/* Says how a function is called, and refuses what it can't be called for. */
static void
describe_call(FunctionCallInfo fcinfo, HeapTuple procedure, variant_key *key)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);

	key->result_oid = form->prorettype;
	key->result_desc = NULL;
	key->relation = NULL;
	if (CALLED_AS_TRIGGER(fcinfo))
	{
		key->relation = ((TriggerData *) fcinfo->context)->tg_relation;
		return;
	}
	if (CALLED_AS_EVENT_TRIGGER(fcinfo))
		return;
	if (form->prorettype == TRIGGEROID || form->prorettype == EVENT_TRIGGEROID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("trigger functions can only be called as triggers")));
	for (int i = 0; i < form->pronargs; i++)
	{
		Oid			type = form->proargtypes.values[i];

		if (IsPolymorphicType(type))
		{
			type = get_fn_expr_argtype(fcinfo->flinfo, i);
			if (!OidIsValid(type))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("could not determine actual type for polymorphic function \"%s\"",
								NameStr(form->proname))));
		}
		key->arg_oids[i] = type;
	}
	if (form->prorettype == RECORDOID || IsPolymorphicType(form->prorettype))
		switch (get_call_result_type(fcinfo, &key->result_oid, &key->result_desc))
		{
			case TYPEFUNC_COMPOSITE:
				/* A row type with a name is read anew from there when it changes. */
				if (key->result_oid != RECORDOID)
					key->result_desc = NULL;
				break;
			case TYPEFUNC_RECORD:
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("function returning record called in context that cannot accept type record")));
				break;
			default:
				break;
		}
}

static bool
is_variant(const plc_function *function, const variant_key *key)
{
	if (key->relation != NULL)
		return function->relation == RelationGetRelid(key->relation);
	if (function->result_oid != key->result_oid ||
		memcmp(function->arg_oids, key->arg_oids, sizeof(Oid) * function->nargs) != 0)
		return false;
	if (function->result_desc == NULL || key->result_desc == NULL)
		return function->result_desc == key->result_desc;
	return equalTupleDescs(function->result_desc, key->result_desc);
}

static bool
is_current(const plc_function *function)
{
	if (OidIsValid(function->relation))
		return plc_type_is_current(&function->row) && plc_type_is_current(&function->result);
	for (int i = 0; i < function->nargs; i++)
		if (!plc_type_is_current(&function->args[i]))
			return false;
	return plc_type_is_current(&function->result);
}

static uint32
type_hash(Oid type)
{
	return GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(type));
}

static void
set_arguments(plc_function *function, HeapTuple procedure, const variant_key *key)
{
	Oid		   *types;
	char	  **names;
	char	   *modes;
	int			nall = get_func_arg_info(procedure, &types, &names, &modes);

	/* Only arguments that go in: an OUT argument alone is the result. */
	for (int i = 0, in = 0; i < nall; i++)
	{
		if (modes != NULL && (modes[i] == PROARGMODE_OUT || modes[i] == PROARGMODE_TABLE))
			continue;
		plc_type_init(&function->args[in], key->arg_oids[in], -1, false, function->context);
		function->type_hashes[in] = type_hash(key->arg_oids[in]);
		if (names != NULL)
			function->arg_names[in] = names[i];
		in++;
	}
}

static void
set_result(plc_function *function, const variant_key *key)
{
	MemoryContext context = function->context;

	function->result_oid = key->result_oid;
	function->type_hashes[function->nargs] = type_hash(key->result_oid);
	if (key->relation != NULL)
	{
		Oid			type = RelationGetForm(key->relation)->reltype;

		function->relation = RelationGetRelid(key->relation);
		plc_type_init(&function->row, type, -1, false, context);
		plc_type_init(&function->result, type, -1, true, context);
	}
	else if (key->result_oid == EVENT_TRIGGEROID)
		plc_type_init(&function->result, VOIDOID, -1, true, context);
	else if (key->result_desc != NULL)
	{
		function->result_desc = BlessTupleDesc(CreateTupleDescCopy(key->result_desc));
		plc_type_init_row(&function->result, function->result_desc, true, context);
	}
	else
		plc_type_init(&function->result, key->result_oid, -1, true, context);
}

static plc_function *
make_function(HeapTuple procedure, const variant_key *key, MemoryContext context)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);
	plc_function *function = MemoryContextAllocZero(context, sizeof(plc_function));
	MemoryContext caller = MemoryContextSwitchTo(context);
	bool		is_trigger = key->relation != NULL || form->prorettype == EVENT_TRIGGEROID;

	check_signature(procedure);
	function->context = context;
	function->oid = form->oid;
	function->name = pstrdup(NameStr(form->proname));
	function->source = procedure_source(procedure);
	function->read_only = form->provolatile != PROVOLATILE_VOLATILE;
	parse_container_line(function->source, function->runtime, &function->flags);
	function->statistics = plc_statistics_of(form->oid);
	function->flags |= (form->proretset ? PLC_FUNCTION_SET : 0) |
		(key->relation != NULL ? PLC_FUNCTION_TRIGGER : 0) |
		(form->prorettype == EVENT_TRIGGEROID ? PLC_FUNCTION_EVENT_TRIGGER : 0) |
		(form->prokind == PROKIND_PROCEDURE ? PLC_FUNCTION_PROCEDURE : 0);

	function->nargs = is_trigger ? 0 : form->pronargs;
	function->args = palloc0(sizeof(plc_type) * Max(function->nargs, 1));
	function->arg_names = palloc0(sizeof(char *) * Max(function->nargs, 1));
	function->arg_oids = palloc0(sizeof(Oid) * Max(function->nargs, 1));
	function->type_hashes = palloc0(sizeof(uint32) * (function->nargs + 1));
	memcpy(function->arg_oids, key->arg_oids, sizeof(Oid) * function->nargs);
	if (!is_trigger)
		set_arguments(function, procedure, key);
	set_result(function, key);

	MemoryContextSwitchTo(caller);
	return function;
}

static void
free_function(plc_function *function)
{
	plc_leases_forget(function->id);
	MemoryContextDelete(function->context);
}

/* Drops a function that nobody will call again, as soon as its last call ends. */
void
plc_function_drop(plc_function *function)
{
	if (function->uses > 0)
		function->replaced = true;
	else
		free_function(function);
}

void
plc_function_release(plc_function *function)
{
	if (--function->uses == 0 && function->replaced)
		free_function(function);
}

static void
drop_variants(function_slot *slot)
{
	while (slot->functions != NULL)
	{
		plc_function *function = slot->functions;

		slot->functions = function->next;
		plc_function_drop(function);
	}
	slot->generation++;
}

static plc_function *
find_variant(function_slot *slot, FunctionCallInfo fcinfo, HeapTuple procedure)
{
	variant_key key;
	plc_function *function;
	MemoryContext context;

	describe_call(fcinfo, procedure, &key);
	for (plc_function **link = &slot->functions; *link != NULL; link = &(*link)->next)
	{
		function = *link;
		if (!is_variant(function, &key))
			continue;
		if (is_current(function))
			return function;
		*link = function->next;
		plc_function_drop(function);
		slot->generation++;
		break;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container function",
									ALLOCSET_SMALL_SIZES);
	function = make_function(procedure, &key, context);
	/* From here on nothing fails: an error above leaves the context to its parent. */
	MemoryContextSetParent(context, TopMemoryContext);
	function->id = ++last_function_id;
	function->next = slot->functions;
	slot->functions = function;
	return function;
}

static function_slot *
find_slot(Oid oid)
{
	bool		found;
	function_slot *slot = hash_search(functions, &oid, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) slot + sizeof(Oid), 0, sizeof(*slot) - sizeof(Oid));
		slot->hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(oid));
	}
	return slot;
}

/*
 * The function to call, as it is now. `set` points to where this place keeps the set that
 * it is returning; that lives as long as fcinfo->flinfo does.
 */
plc_function *
plc_function_get(FunctionCallInfo fcinfo, struct plc_set ***set)
{
	call_site  *site = fcinfo->flinfo->fn_extra;
	function_slot *slot;
	HeapTuple	procedure;
	uint64		seen;

	if (site != NULL && site->slot->valid && site->generation == site->slot->generation &&
		is_current(site->function))
	{
		*set = &site->set;
		return site->function;
	}

	if (site == NULL)
	{
		site = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(call_site));
		site->slot = find_slot(fcinfo->flinfo->fn_oid);
		fcinfo->flinfo->fn_extra = site;
	}
	slot = site->slot;
	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(slot->oid));
	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", slot->oid);
	/* What changes while types are read is looked at again by the next call. */
	seen = invalidations;
	if (slot->types_changed || slot->xmin != HeapTupleHeaderGetRawXmin(procedure->t_data) ||
		!ItemPointerEquals(&slot->tid, &procedure->t_self))
	{
		drop_variants(slot);
		slot->types_changed = false;
		slot->xmin = HeapTupleHeaderGetRawXmin(procedure->t_data);
		slot->tid = procedure->t_self;
	}
	site->function = find_variant(slot, fcinfo, procedure);
	site->generation = slot->generation;
	slot->valid = seen == invalidations;
	ReleaseSysCache(procedure);
	*set = &site->set;
	return site->function;
}

/* A function without arguments or a place in the catalog. It goes with its only call. */
plc_function *
plc_function_of_source(const char *name, const char *source, uint32 flags)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "PL/Container block",
												  ALLOCSET_SMALL_SIZES);
	plc_function *function = MemoryContextAllocZero(context, sizeof(plc_function));

	function->context = context;
	function->name = MemoryContextStrdup(context, name);
	function->source = MemoryContextStrdup(context, source);
	function->flags = flags;
	function->replaced = true;
	parse_container_line(function->source, function->runtime, &function->flags);
	function->result_oid = VOIDOID;
	plc_type_init(&function->result, VOIDOID, -1, true, context);
	MemoryContextSetParent(context, TopMemoryContext);
	function->id = ++last_function_id;
	return function;
}
