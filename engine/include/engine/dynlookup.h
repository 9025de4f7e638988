/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks a symbol up in the dynamic tables of a loaded ELF object, as the dynamic linker would,
 * reading them through a callback: from another process's memory, a core or a file.
 */
#ifndef ENGINE_DYNLOOKUP_H
#define ENGINE_DYNLOOKUP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

/* Reads @size bytes at run-time address @addr, all or error. */
typedef struct pe_error *(*pe_read_fn)(void *ctx, uint64_t addr, void *buf, size_t size);

struct pe_dyn_symbol {
	bool found;
	uint64_t addr; /* run-time address; offset in the TLS block for STT_TLS */
	uint64_t size; /* bytes */
	uint8_t type;  /* STT_*: for STT_GNU_IFUNC @addr is the resolver's */
};

/*
 * @dynamic is the run-time address of the dynamic section, @bias the load bias. With @version NULL
 * the default version (or an unversioned symbol) is taken; with a version exactly that one, or
 * any in an object that defines no versions (as ld.so does). An absent symbol is no error:
 * ret->found is false. Tables are hostile: every walk is bounded.
 */
struct pe_error *pe_dyn_find(pe_read_fn read, void *ctx, uint64_t dynamic, uint64_t bias,
			     const char *name, const char *version,
			     struct pe_dyn_symbol *ret) pe_must_check;

#endif
