/*
 * asan_first.c
 *		Starts AddressSanitizer before any library's constructor runs.
 *
 * It starts itself with the first allocation and asks gettext for a message then.
 * Where that allocation is gettext's own, as it is in libgpg-error, which a backend
 * loads, a lock is taken twice and the program hangs. Preloaded, and linked with
 * -z initfirst, this comes first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

__attribute__((constructor)) static void
start(void)
{
	void	   *volatile memory = malloc(1);

	free(memory);
}
