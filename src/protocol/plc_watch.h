/*
 * plc_watch.h
 *		A sandbox's signal connection: Cancels, and the end of the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLC_WATCH_H
#define PLC_WATCH_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Runs in the watching thread when a Cancel has come for a call, and again every 100 ms for as long as it
 * returns true. arrived: for the first time.
 */
typedef bool (*plc_on_cancel) (int64_t call_id, bool arrived);

/*
 * Watches a connected socket in a thread of its own, which takes no signal. When the backend closes the
 * connection the process ends, and so it does on SIGTERM. Returns 0 or an error number.
 */
int			plc_watch(int signal_fd, plc_on_cancel on_cancel);

#endif							/* PLC_WATCH_H */
