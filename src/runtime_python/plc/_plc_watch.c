/*
 * _plc_watch.c
 *		The signal connection: Cancels, and the end of the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "_plc.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCH_STACK ((size_t) 256 << 10)
#define INSIST_MS 100			/* between two interrupts of a call that goes on after a Cancel */

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

/*
 * Runs without the interpreter lock, so that neither a Cancel nor the end of the backend waits for
 * code that keeps it.
 */
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
		if (target != -1 && state.current == target)
			pthread_kill(state.main_thread, SIGINT);
		/* A call that comes after its Cancel sees it itself. */
		else if (state.depth == 0)
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

int
start_watching(void)
{
	pthread_t	thread;
	pthread_attr_t attributes;
	sigset_t	all;
	sigset_t	before;
	struct sigaction action = {.sa_handler = terminate};
	int			error;

	state.main_thread = pthread_self();
	/* Python's own handler would wait for the next call: this process may be one that has no default. */
	sigaction(SIGTERM, &action, NULL);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, WATCH_STACK);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}
