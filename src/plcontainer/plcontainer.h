/*
 * plcontainer.h
 *		What the files of the extension share.
 *
 * plcontainer.c	entry points, settings, SQL functions
 * function.c		the cache of functions and their "# container:" line
 * call.c			calls of every kind: functions, sets, triggers, DO blocks
 * lease.c			the lease conversation: how a sandbox is had and given back
 * channel.c		the data conversation: frames to and from a sandbox
 * spi.c			SQL and subtransactions that a running function asks for
 * statistics.c		what functions have cost
 * typeio.c			values of PostgreSQL to values of the protocol, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLCONTAINER_H
#define PLCONTAINER_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"

#include "plc_protocol.h"
#include "plc_receive.h"

/* PostgreSQL 18 has another word for this than its elders. */
#define PLC_NORETURN __attribute__((noreturn))

#define PLC_RUNTIME_ID_MAX 63
#define PLC_SANDBOX_ID_MAX 64
#define PLC_TOKEN_MAX 128

/* How a value of one type crosses. */
typedef struct plc_type
{
	plc_kind	kind;			/* of a domain: that of its base type */
	Oid			oid;			/* as declared */
	Oid			base;			/* below all domains */
	int32		typmod;			/* of the base type, -1: none */
	bool		is_domain;
	bool		is_from_sandbox;
	bool		has_composite;	/* it is one or holds one: it may cease to be current */
	uint8		depth;			/* of this one in the whole */
	char	   *name;			/* of OTHER and COMPOSITE */
	FmgrInfo	output;			/* looked up by the first value that needs it, */
	FmgrInfo	input;			/* as this is */
	Oid			input_param;
	void	   *domain_cache;	/* domain_check()'s own */
	MemoryContext context;

	/* ARRAY */
	struct plc_type *element;
	int16		element_length;
	bool		element_by_value;
	char		element_align;

	/* COMPOSITE */
	TupleDesc	desc;			/* a copy */
	uint64		version;		/* by which the type cache knows this definition, 0: nothing else does */
	uint32		nfields;		/* described ones: columns less the dropped */
	struct plc_type *fields;
	AttrNumber *columns;		/* of each field, from 1 */

	/* RECORD */
	struct plc_type *row;		/* of the latest value that was written, with a context of its own */
} plc_type;

struct plc_lease;
struct plc_set;

/* What was added to a function's costs since the server was told. */
typedef struct plc_statistics
{
	Oid			function;		/* dynahash's key */
	uint64		calls;
	uint64		rows;			/* that it returned */
	uint64		errors;
	uint64		sent;			/* bytes to and from sandboxes */
	uint64		received;
	uint64		microseconds;	/* until calls were answered, with what they called */
} plc_statistics;

/*
 * A function as pg_proc has it, ready to be called, for one way to call it: a
 * polymorphic function has one of these per set of types, one that returns record per
 * row type, a trigger function per table.
 */
typedef struct plc_function
{
	struct plc_function *next;	/* another variant of the same function */
	uint32		id;				/* the number it is registered under */
	uint32		flags;			/* PLC_FUNCTION_* */
	Oid			oid;			/* InvalidOid: a DO block */
	char	   *name;
	char		runtime[PLC_RUNTIME_ID_MAX + 1];
	char	   *source;			/* in the database's encoding */
	bool		read_only;		/* not volatile: its SQL may not write */
	int			nargs;
	char	  **arg_names;		/* NULL or empty where unnamed */
	Oid		   *arg_oids;		/* with polymorphic types resolved */
	uint32	   *type_hashes;	/* of arguments and result, as invalidations name them */
	plc_type   *args;
	Oid			result_oid;
	TupleDesc	result_desc;	/* of a result that is a row without a type of its own, else NULL */
	plc_type	result;
	Oid			relation;		/* of a trigger function, else InvalidOid */
	plc_type	row;			/* of a trigger function: its table's, as it is sent; result is as it is read */
	int			uses;			/* calls in progress */
	plc_statistics *statistics; /* NULL for what the catalog does not have */
	bool		replaced;		/* to be freed when the last use ends */
	struct plc_lease *lease;	/* the one of the latest call: a shortcut */
	MemoryContext context;
} plc_function;

/* What of a backend's memory a lease is known by. */
typedef struct plc_lease_key
{
	Oid			role;
	char		runtime[PLC_RUNTIME_ID_MAX + 1];
} plc_lease_key;

/* What was received and what is to be sent. */
typedef struct plc_buffers
{
	plc_writer	out;
	uint8	   *in;				/* received bytes: in_start .. in_end are unread */
	size_t		in_capacity;
	size_t		in_start;
	size_t		in_end;
} plc_buffers;

typedef struct plc_lease
{
	plc_lease_key key;			/* first: dynahash's key */
	bool		open;			/* descriptors are reserved for it */
	uint64		epoch;			/* counts the sandboxes that this lease has had */
	int			control;		/* connection to the server, -1: none */
	int			data;			/* connections to the sandbox, -1: none */
	int			signal;
	char		sandbox[PLC_SANDBOX_ID_MAX + 1];
	char		token[PLC_TOKEN_MAX + 1];
	char		codec[8];		/* which codec the sandbox runs: "c" or "python" */
	uint64		features;		/* agreed on */
	uint64		max_frame;
	uint32		call_id;		/* of the latest call */
	struct plc_call *call;		/* the innermost one that runs, NULL: the sandbox is idle */
	int			reading;		/* how many readers look at the received bytes */
	bool		is_greeting;	/* its sandbox has not answered the first Ping yet */
	bool		sending;		/* what was written is not yet sent whole */
	uint64		calls;
	Bitmapset  *registered;		/* function ids the sandbox knows, */
	Bitmapset  *forgotten;		/* and those it is to be told to forget */
	List	   *ended_sets;		/* call ids of sets that nobody reads on */
	struct plc_plan *plans;		/* prepared by functions of this sandbox */
	uint32		nplans;
	uint32		plan_id;		/* of the latest */
	time_t		tended;			/* when the server was last looked after */
	plc_spin	spin;
	plc_buffers buffers;
} plc_lease;

/* A call in progress. It lives on the stack of whoever makes it. */
typedef struct plc_call
{
	struct plc_call *outer;		/* the call in the same sandbox that waits for this one */
	plc_function *function;
	plc_lease  *lease;
	uint64		epoch;			/* of the lease when the call was sent */
	uint32		id;
	bool		is_open;		/* sent and not answered */
	bool		waits;			/* the sandbox waits for the answer to a request */
	bool		is_served;		/* a request of it is */
	bool		nonatomic;		/* may commit */
	bool		is_connected;	/* to SPI */
	bool		has_buffers;	/* that replace the lease's, which an outer reader needs */
	int			reading;		/* the lease's when the call began */
	plc_buffers outer_buffers;
	MemoryContext request_context;	/* of one request for SQL; reset after each */
	List	   *subtransactions;	/* begun by the function, innermost first */
	uint64		sent;			/* bytes */
	uint64		received;
	List	   *cursors;		/* names of portals that are pinned while the call runs */
	void	   *trigger;		/* TriggerData, for transition tables */
} plc_call;

/* A frame that was received; its payload lives until the next one is. */
typedef struct plc_frame
{
	plc_header	header;
	const uint8 *payload;
} plc_frame;

/* plcontainer.c */
extern char *plc_server_socket;
extern int	plc_lease_timeout;
extern int	plc_cancel_grace;
extern int	plc_max_frame_mb;
extern int	plc_spin_us;

/* function.c */
extern plc_function *plc_function_get(FunctionCallInfo fcinfo, struct plc_set ***set);
extern plc_function *plc_function_of_source(const char *name, const char *source, uint32 flags);
extern void plc_function_release(plc_function *function);
extern void plc_function_drop(plc_function *function);
extern void plc_function_check(HeapTuple procedure, bool check_body);
extern void plc_functions_init(void);

/* call.c */
extern Datum plc_call_function(FunctionCallInfo fcinfo);
extern void plc_call_block(const char *source, bool nonatomic);
extern void plc_call_check(const char *name, const char *source);

/* lease.c */
extern plc_lease *plc_lease_get(const char *runtime);
extern void plc_lease_tend(plc_lease *lease);
extern void plc_lease_close(plc_lease *lease);
PLC_NORETURN extern void plc_lease_lost(plc_lease *lease);
extern void plc_lease_ended(plc_lease *lease, int level);
extern int	plc_lease_connection(void);
extern char *plc_lease_ask(const char *what, bool sees_all);
extern void plc_leases_init(void);
extern void plc_leases_list(ReturnSetInfo *rsinfo);
extern void plc_leases_forget(uint32 function_id);

/* channel.c */
/* Writes the arguments of a CallReq, or all of another message that opens a call. */
typedef void (*plc_write_call) (plc_writer *writer, plc_function *function, void *argument);

extern void plc_channel_handshake(plc_lease *lease);
extern void plc_channel_begin(plc_call *call, plc_function *function);
extern void plc_channel_call(plc_call *call, plc_write_call write, void *argument);
extern void plc_channel_resume(plc_call *call, plc_function *function, plc_lease *lease, uint32 id,
							   uint32 rows, uint32 bytes);
extern void plc_channel_check(plc_call *call);
extern void plc_channel_answer(plc_call *call, plc_message expected, plc_frame *frame);
extern void plc_channel_end(plc_call *call);
extern void plc_channel_abandon(plc_call *call);
extern void plc_channel_cancel(plc_call *call);
extern void plc_channel_reply(plc_call *call);
extern void plc_channel_end_sets(plc_lease *lease);
extern bool plc_channel_is_lost(const plc_call *call);
PLC_NORETURN extern void plc_channel_violation(plc_lease *lease, const char *what);
extern void *plc_resize_memory(void *data, size_t capacity);
PLC_NORETURN extern void plc_report_error(const plc_fields *fields, int default_sqlstate);
extern char *plc_text_to_server(plc_span span);

/* statistics.c */
extern void plc_statistics_init(void);
extern plc_statistics *plc_statistics_of(Oid function);
extern void plc_statistics_count(plc_statistics *statistics, const plc_call *call, uint64 calls,
								 uint64 rows, uint64 errors, uint64 microseconds);
extern void plc_statistics_tell(void);

/* spi.c */
extern void plc_spi_request(plc_call *call, const plc_frame *frame);
extern void plc_spi_end(plc_call *call);
extern void plc_spi_abandon(plc_call *call);
extern void plc_spi_free_plans(plc_lease *lease);

/* typeio.c */
/* `is_from_sandbox`: values are read, as results and parameters of plans are; else written. */
extern void plc_type_init(plc_type *type, Oid oid, int32 typmod, bool is_from_sandbox,
						  MemoryContext context);
extern void plc_type_init_row(plc_type *type, TupleDesc desc, bool is_from_sandbox,
							  MemoryContext context);
extern bool plc_type_is_current(const plc_type *type);
extern void plc_type_describe(plc_writer *writer, const plc_type *type);
extern void plc_type_write(plc_writer *writer, plc_type *type, Datum value, bool is_null);
extern void plc_type_write_tuple(plc_writer *writer, plc_type *row, HeapTuple tuple, TupleDesc desc,
								 bool absent_generated);
extern void plc_type_write_columns(plc_writer *writer, plc_type *row, HeapTuple tuple, TupleDesc desc);
extern Datum plc_type_read(plc_reader *reader, plc_type *type, bool *is_null);
extern int	plc_type_field(const plc_type *row, uint32 index);
extern plc_type *plc_type_field_type(plc_type *row, uint32 index);
extern void plc_write_server_text(plc_writer *writer, const char *text, size_t length);

#endif							/* PLCONTAINER_H */
