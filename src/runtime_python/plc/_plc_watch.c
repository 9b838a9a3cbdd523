/*
 * _plc_watch.c
 *		Cancels, as Python takes them: an interrupt of the main thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include "../../protocol/plc_watch.h"

#include <signal.h>

/*
 * Runs without the interpreter lock, so that neither a Cancel nor the end of the backend waits for
 * code that keeps it.
 */
static bool
interrupt(int64_t call_id, bool arrived)
{
	if (arrived)
		state.cancel = call_id;
	if (state.current == call_id)
		pthread_kill(state.main_thread, SIGINT);
	/* A call that comes after its Cancel sees it itself. */
	else if (state.depth == 0)
		return false;
	return true;
}

int
start_watching(void)
{
	state.main_thread = pthread_self();
	return plc_watch(state.signal_fd, interrupt);
}
