/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An ELF file mapped read-only, with the libelf handle on that mapping. Private to ELF readers. */
#ifndef ELF_FILE_H
#define ELF_FILE_H

#include <gelf.h>
#include <stddef.h>

#include "engine/error.h"

struct pe_elf_file {
	void *map;
	size_t size; /* bytes */
	Elf *elf;
};

/* Maps @path, a 64-bit little-endian ELF file; FORMAT with the reason when it is anything else. */
struct pe_error *pe_elf_file_init(struct pe_elf_file *file, const char *path) pe_must_check;
void pe_elf_file_deinit(struct pe_elf_file *file);

#endif
