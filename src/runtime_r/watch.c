/*
 * watch.c
 *		Cancels, as R takes them: it looks for them as often as for an interrupt.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include "../protocol/plc_watch.h"

#include <R_ext/eventloop.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* R's, in a header for those who embed it. */
extern void Rf_jump_to_toplevel(void) __attribute__((noreturn));

/* Ends a sleep and nothing else. SIGINT would be an interrupt, which a function may catch before we look. */
#define WAKE_SIGNAL SIGURG

static void (*other_events) (void);

bool
is_canceled(void)
{
	return state.current != -1 && state.current == state.cancel;
}

/* R comes here as often as it looks for an interrupt. A Cancel leaves the call at once and can't be caught. */
static void
look_for_cancel(void)
{
	if (state.owned && is_canceled())
		Rf_jump_to_toplevel();
	if (other_events != NULL)
		other_events();
}

static bool
wake_call(int64_t call_id, bool arrived)
{
	if (arrived)
		state.cancel = call_id;
	/* A call that comes after its Cancel sees it itself. */
	if (state.current != call_id)
		return false;
	pthread_kill(state.main_thread, WAKE_SIGNAL);
	return true;
}

static void
wake(int signum)
{
	(void) signum;
}

/* A child process (of the package parallel, say) has no part in the conversation. */
static void
disown(void)
{
	state.owned = false;
	state.current = -1;
}

void
start_watching(void)
{
	/* Without SA_RESTART. */
	struct sigaction on_wake = {.sa_handler = wake};
	int			error;

	state.main_thread = pthread_self();
	sigaction(WAKE_SIGNAL, &on_wake, NULL);
	pthread_atfork(NULL, NULL, disown);
	other_events = R_PolledEvents;
	R_PolledEvents = look_for_cancel;
	error = plc_watch(state.signal_fd, wake_call);
	if (error != 0)
	{
		fprintf(stderr, "signal connection: %s\n", strerror(error));
		_exit(1);
	}
}
