/*
 * plc_watch.c
 *		A sandbox's signal connection: Cancels, and the end of the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_watch.h"

#include "plc_protocol.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCH_STACK ((size_t) 256 << 10)
#define INSIST_MS 100			/* between two attempts at a call that goes on after a Cancel */

static struct
{
	int			fd;
	plc_on_cancel on_cancel;
}			watched;

/* A Cancel's call id, or -1 while it is not complete; the connection's end is the process's. */
static int64_t
receive_cancel(uint8_t *bytes, size_t *have)
{
	plc_header	header;
	const char *error;
	ssize_t		count = recv(watched.fd, bytes + *have, PLC_HEADER_SIZE - *have, 0);

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
		struct pollfd ready = {.fd = watched.fd, .events = POLLIN};
		int64_t		arrived = -1;

		if (poll(&ready, 1, target == -1 ? -1 : INSIST_MS) > 0)
			arrived = receive_cancel(bytes, &have);
		if (arrived != -1)
			target = arrived;
		if (target != -1 && !watched.on_cancel(target, arrived != -1))
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
plc_watch(int signal_fd, plc_on_cancel on_cancel)
{
	pthread_t	thread;
	pthread_attr_t attributes;
	sigset_t	all;
	sigset_t	before;
	/* The process may be its container's first one, to which nothing happens by default. */
	struct sigaction action = {.sa_handler = terminate};
	int			error;

	watched.fd = signal_fd;
	watched.on_cancel = on_cancel;
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
