/*
 * redzone.c
 *		Allocations of the code under test, fenced. See redzone.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define REDZONE_IMPLEMENTATION
#include "redzone.h"

#include <sanitizer/asan_interface.h>

#include "utils/memutils.h"

#define REDZONE 32

typedef struct fence
{
	char	   *chunk;
	Size		size;
} fence;

static bool fencing;
static fence *fences;
static size_t nfences;
static size_t capacity;

static void
note_fence(char *chunk, Size size)
{
	if (nfences == capacity)
	{
		capacity = capacity == 0 ? 1024 : capacity * 2;
		fences = realloc(fences, capacity * sizeof(fence));
		if (fences == NULL)
			abort();
	}
	fences[nfences++] = (fence) {chunk, size};
	ASAN_POISON_MEMORY_REGION(chunk + size, REDZONE);
}

void *
fuzz_palloc(Size size, int flags)
{
	char	   *chunk = palloc_extended(size + REDZONE, flags);

	/* The same limit as without a fence. */
	if ((flags & MCXT_ALLOC_HUGE) == 0 && !AllocSizeIsValid(size))
		elog(ERROR, "invalid memory alloc request size %zu", size);
	if (chunk != NULL && fencing)
		note_fence(chunk, size);
	return chunk;
}

void
fuzz_pfree(void *chunk)
{
	for (size_t i = nfences; i-- > 0;)
		if (fences[i].chunk == chunk)
		{
			ASAN_UNPOISON_MEMORY_REGION(fences[i].chunk + fences[i].size, REDZONE);
			fences[i] = fences[--nfences];
			break;
		}
	pfree(chunk);
}

void
fuzz_fence(void)
{
	fencing = true;
}

void
fuzz_release(void)
{
	fencing = false;
	while (nfences > 0)
	{
		nfences--;
		ASAN_UNPOISON_MEMORY_REGION(fences[nfences].chunk + fences[nfences].size, REDZONE);
	}
}
