/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A symbol file: an ELF object for debuggers and profilers that describes code of a process.
 * Its addresses are offsets from the begin of the mapping that the code lies in. It holds the code
 * itself, so that it also serves where a core file left that out.
 */
#ifndef ENGINE_SYMFILE_H
#define ENGINE_SYMFILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

struct pe_symfile_symbol {
	const char *name;
	uint64_t address, size; /* in the text */
};

struct pe_symfile {
	uint16_t machine; /* EM_* */
	uint64_t text_address;
	const void *text;
	size_t text_size; /* bytes */
	uint64_t eh_frame_address;
	const void *eh_frame;
	size_t eh_frame_size; /* 0: no unwind tables */
	const struct pe_symfile_symbol *symbols;
	size_t symbol_count;
};

/* Writes to @fd, an empty file that can be mapped. SYSTEM when that fails. */
struct pe_error *pe_symfile_write(const struct pe_symfile *file, int fd) pe_must_check;

#endif
