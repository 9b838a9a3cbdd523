/*
 * plcontainer.h
 *		What the files of the extension share.
 *
 * plcontainer.c	handlers, settings, SQL functions
 * function.c		the cache of functions and their "# container:" line
 * lease.c			the lease conversation: how a sandbox is had and given back
 * channel.c		the data conversation: frames to and from a sandbox
 * typeio.c			values of PostgreSQL to values of the protocol, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLCONTAINER_H
#define PLCONTAINER_H

#include "postgres.h"

#include "access/htup.h"
#include "fmgr.h"
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
	plc_kind	kind;			/* PLC_ARRAY for arrays */
	Oid			oid;			/* as declared; its base type for everything below */
	bool		is_domain;
	Oid			element_oid;
	plc_kind	element_kind;	/* of an array's elements */
	int16		element_length;
	bool		element_by_value;
	char		element_align;
	char	   *name;			/* of the type whose text form is sent (OTHER) */
	FmgrInfo	output;			/* of the value, or of an array's elements */
	FmgrInfo	input;			/* of the value; results only */
	Oid			input_param;
	FmgrInfo	element_input;	/* results only */
	Oid			element_input_param;
	void	   *domain_cache;	/* domain_check()'s own */
	MemoryContext context;
} plc_type;

struct plc_lease;

/* A function as pg_proc has it, ready to be called. */
typedef struct plc_function
{
	uint32		id;				/* the number it is registered under */
	Oid			oid;
	TransactionId xmin;			/* of the pg_proc row it was made from, */
	ItemPointerData tid;		/* and where that row lies */
	char	   *name;
	char		runtime[PLC_RUNTIME_ID_MAX + 1];
	char	   *source;			/* in the database's encoding */
	int			nargs;
	char	  **arg_names;		/* NULL or empty where unnamed */
	plc_type   *args;
	plc_type	result;
	int			uses;			/* calls in progress */
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

typedef struct plc_lease
{
	plc_lease_key key;			/* first: dynahash's key */
	bool		open;			/* descriptors are reserved for it */
	int			control;		/* connection to the server, -1: none */
	int			data;			/* connections to the sandbox, -1: none */
	int			signal;
	char		sandbox[PLC_SANDBOX_ID_MAX + 1];
	char		token[PLC_TOKEN_MAX + 1];
	char		codec[8];		/* which codec the sandbox runs: "c" or "python" */
	uint64		max_frame;
	uint32		call_id;		/* of the latest call */
	bool		in_call;		/* a call was begun and has not been answered */
	bool		sending;		/* what was written is not yet sent whole */
	uint64		calls;
	Bitmapset  *registered;		/* function ids the sandbox knows, */
	Bitmapset  *forgotten;		/* and those it is to be told to forget */
	time_t		tended;			/* when the server was last looked after */
	plc_spin	spin;
	plc_writer	out;
	uint8	   *in;				/* received bytes: in_start .. in_end are unread */
	size_t		in_capacity;
	size_t		in_start;
	size_t		in_end;
} plc_lease;

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
extern plc_function *plc_function_get(FunctionCallInfo fcinfo);
extern void plc_function_release(plc_function *function);
extern void plc_function_check(HeapTuple procedure, bool check_body);
extern void plc_functions_init(void);

/* lease.c */
extern plc_lease *plc_lease_get(const char *runtime);
extern void plc_lease_tend(plc_lease *lease);
extern void plc_lease_close(plc_lease *lease);
PLC_NORETURN extern void plc_lease_lost(plc_lease *lease);
extern void plc_lease_ended(plc_lease *lease, int level);
extern void plc_leases_init(void);
extern void plc_leases_list(ReturnSetInfo *rsinfo);
extern void plc_leases_forget(uint32 function_id);

/* channel.c */
extern void plc_channel_handshake(plc_lease *lease);
extern Datum plc_channel_call(plc_function *function, FunctionCallInfo fcinfo);
extern void *plc_resize_memory(void *data, size_t capacity);
PLC_NORETURN extern void plc_report_error(const plc_fields *fields, int default_sqlstate);
extern char *plc_text_to_server(plc_span span);

/* typeio.c */
extern void plc_type_init(plc_type *type, Oid oid, bool is_result, MemoryContext context);
extern void plc_type_describe(plc_writer *writer, const plc_type *type);
extern void plc_type_write(plc_writer *writer, plc_type *type, Datum value, bool is_null);
extern Datum plc_type_read(plc_reader *reader, plc_type *type, bool *is_null);
extern void plc_write_server_text(plc_writer *writer, const char *text, size_t length);

#endif							/* PLCONTAINER_H */
