/*
 * redzone.h
 *		Allocations of the code under test, fenced.
 *
 * AddressSanitizer sees a memory context's blocks, not the chunks in them. Compiled
 * with this header before its own, a source file gets chunks that end in bytes nobody
 * may touch, from fuzz_fence() to fuzz_release().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef REDZONE_H
#define REDZONE_H

#include "postgres.h"

extern void *fuzz_palloc(Size size, int flags);
extern void fuzz_pfree(void *chunk);
extern void fuzz_fence(void);
extern void fuzz_release(void);

#ifndef REDZONE_IMPLEMENTATION
#define palloc(size) fuzz_palloc(size, 0)
#define palloc0(size) fuzz_palloc(size, MCXT_ALLOC_ZERO)
#define palloc_extended(size, flags) fuzz_palloc(size, flags)
#define pfree(chunk) fuzz_pfree(chunk)
#endif

#endif							/* REDZONE_H */
