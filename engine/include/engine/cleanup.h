/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Scope guards: a variable marked so is released when it goes out of scope. */
#ifndef ENGINE_CLEANUP_H
#define ENGINE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/error.h"

static inline void pe_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void pe_cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void pe_cleanup_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void pe_cleanup_error(struct pe_error **err)
{
	pe_error_free(*err);
}

#define pe_auto_free __attribute__((cleanup(pe_cleanup_free)))
#define pe_auto_fd __attribute__((cleanup(pe_cleanup_fd)))
#define pe_auto_file __attribute__((cleanup(pe_cleanup_file)))
#define pe_auto_error __attribute__((cleanup(pe_cleanup_error)))

/* Hands a guarded pointer to the caller: returns it and disarms the guard. */
#define pe_steal(p)                           \
	({                                    \
		__auto_type pe__stolen = (p); \
		(p) = NULL;                   \
		pe__stolen;                   \
	})

#endif
