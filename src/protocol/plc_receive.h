/*
 * plc_receive.h
 *		Receiving a message that is likely to be here in a moment.
 *
 * A call that takes a few microseconds is over before a processor that went idle
 * has woken up again: in a virtual machine that alone takes some 25 us, at each end.
 * So a receiver first looks for a short while, giving way to whoever else wants the
 * processor, and blocks only then. Where looking does not pay (long functions, a
 * peer that shares the processor) it soon does so rarely.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLC_RECEIVE_H
#define PLC_RECEIVE_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#define PLC_SPIN_US_DEFAULT 50
/*
 * Vain looks are counted up to MOST, good ones count down. From MANY on only one wait
 * in RARELY begins with a look.
 */
#define PLC_SPIN_MANY 4
#define PLC_SPIN_MOST 16
#define PLC_SPIN_RARELY 64

typedef struct plc_spin
{
	uint32_t	budget_us;		/* how long to look, 0: not at all */
	uint32_t	misses;			/* vain looks less good ones, 0 to PLC_SPIN_MOST */
	uint32_t	waits;
} plc_spin;

static inline int64_t
plc_spin_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* recv(), after a short look for what may come at once. */
static inline ssize_t
plc_receive(int fd, void *place, size_t room, int flags, plc_spin *spin)
{
	if (spin->budget_us > 0 &&
		(spin->misses < PLC_SPIN_MANY || ++spin->waits % PLC_SPIN_RARELY == 0))
	{
		int64_t		begin = plc_spin_clock();
		int64_t		spent = 0;
		ssize_t		count;

		do
		{
			count = recv(fd, place, room, flags | MSG_DONTWAIT);
			if (count >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
				break;
			sched_yield();
			spent = plc_spin_clock() - begin;
		} while (spent < spin->budget_us);
		/* What comes late has cost others the processor: it counts as vain. */
		if (spent < spin->budget_us / 2)
			spin->misses -= spin->misses > 0;
		else
			spin->misses += spin->misses < PLC_SPIN_MOST;
		if (spent < spin->budget_us)
			return count;
	}
	return recv(fd, place, room, flags);
}

#endif							/* PLC_RECEIVE_H */
