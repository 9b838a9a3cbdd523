/*
 * plc_r.c
 *		What main.R finds in the shared object, and the start.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <R_ext/Rdynload.h>
#include <R_ext/Visibility.h>
#include <stdio.h>
#include <unistd.h>

plc_state	state = {.fd = -1, .signal_fd = -1, .owned = true, .limit = PLC_MAX_FRAME_HANDSHAKE,
	.field_limit = PLC_MAX_FRAME_HANDSHAKE / 32, .current = -1, .cancel = -1};

static SEXP
kept(SEXP object)
{
	R_PreserveObject(object);
	MARK_NOT_MUTABLE(object);
	return object;
}

/* Serves the backend at a socket until it is gone. `runtime` and `entry`: see plc_state. */
static SEXP
r_serve(SEXP path, SEXP runtime, SEXP entry)
{
	state.runtime = runtime;
	state.entry = entry;
	/* Not those of Rf_ScalarLogical(): every NA has that address. */
	state.null_logical = kept(Rf_allocVector(LGLSXP, 1));
	LOGICAL(state.null_logical)[0] = NA_LOGICAL;
	state.null_integer = kept(Rf_ScalarInteger(NA_INTEGER));
	state.null_real = kept(Rf_ScalarReal(NA_REAL));
	state.null_string = kept(Rf_ScalarString(NA_STRING));
	/* Output of functions goes to the container's log line by line. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	connect_sockets(CHAR(STRING_ELT(path, 0)));
	start_watching();
	serve();
	fflush(NULL);
	_exit(0);
}

/* Whether an object is R's NULL or what stands for a NULL argument. */
static SEXP
r_is_null(SEXP object)
{
	return Rf_ScalarLogical(object == R_NilValue || object == state.null_logical || object == state.null_integer ||
							object == state.null_real || object == state.null_string);
}

/* R has one type for functions of any number of arguments. */
#define ENTRY(name, count) {#name, (DL_FUNC) (void (*) (void)) r_##name, count}

static const R_CallMethodDef methods[] = {
	ENTRY(serve, 3),
	ENTRY(perform, 1),
	ENTRY(record_failure, 2),
	ENTRY(log, 3),
	ENTRY(is_null, 1),
	ENTRY(execute, 2),
	ENTRY(prepare, 2),
	ENTRY(execute_plan, 3),
	ENTRY(open, 1),
	ENTRY(open_plan, 2),
	ENTRY(fetch, 2),
	ENTRY(close, 1),
	ENTRY(end_transaction, 1),
	ENTRY(subtransaction, 1),
	{NULL, NULL, 0}
};

extern void attribute_visible
R_init_plc_r(DllInfo *library)
{
	R_registerRoutines(library, NULL, methods, NULL, NULL);
	R_useDynamicSymbols(library, FALSE);
}
