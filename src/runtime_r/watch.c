/*
 * watch.c
 *		The signal connection: Cancels, and the end of the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_r.h"

#include <R_ext/eventloop.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCH_STACK ((size_t) 256 << 10)
#define INSIST_MS 100			/* between two signals to a call that goes on after a Cancel */

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

/* A Cancel's call id, or -1 while it is not complete; the connection's end is the process's. */
static int64_t
receive_cancel(uint8_t *bytes, size_t *have)
{
	plc_header	header;
	const char *error;
	ssize_t		count = recv(state.signal_fd, bytes + *have, PLC_HEADER_SIZE - *have, 0);

	if (count == 0 || (count < 0 && errno == ECONNRESET))
		_exit(0);
	if (count < 0)
	{
		perror("signal connection");
		_exit(1);
	}
	*have += (size_t) count;
	if (*have < PLC_HEADER_SIZE)
		return -1;
	*have = 0;
	error = plc_header_decode(bytes, 0, &header);
	if (error == NULL && (header.type != PLC_CANCEL || header.flags != 0))
		error = "unexpected message";
	if (error != NULL)
	{
		fprintf(stderr, "signal connection: %s\n", error);
		_exit(1);
	}
	return (int64_t) header.call_id;
}

static void *
watch(void *unused)
{
	uint8_t		bytes[PLC_HEADER_SIZE];
	size_t		have = 0;
	int64_t		target = -1;

	(void) unused;
	for (;;)
	{
		struct pollfd ready = {.fd = state.signal_fd, .events = POLLIN};

		if (poll(&ready, 1, target == -1 ? -1 : INSIST_MS) > 0)
		{
			int64_t		id = receive_cancel(bytes, &have);

			if (id != -1)
				state.cancel = target = id;
		}
		/* A call that comes after its Cancel sees it itself. */
		if (target != -1 && state.current == target)
			pthread_kill(state.main_thread, WAKE_SIGNAL);
		else
			target = -1;
	}
	return NULL;
}

static void
terminate(int signum)
{
	(void) signum;
	_exit(0);
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
	pthread_t	thread;
	pthread_attr_t attributes;
	sigset_t	all;
	sigset_t	before;
	struct sigaction on_terminate = {.sa_handler = terminate};
	struct sigaction on_wake = {.sa_handler = wake};
	int			error;

	state.main_thread = pthread_self();
	sigaction(SIGTERM, &on_terminate, NULL);
	/* Without SA_RESTART. */
	sigaction(WAKE_SIGNAL, &on_wake, NULL);
	pthread_atfork(NULL, NULL, disown);
	other_events = R_PolledEvents;
	R_PolledEvents = look_for_cancel;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WATCH_STACK);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error != 0)
	{
		fprintf(stderr, "signal connection: %s\n", strerror(error));
		_exit(1);
	}
}
