/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of arch/x86_64 share; the outside sees only pe_arch_x86_64. */
#ifndef ARCH_X86_64_H
#define ARCH_X86_64_H

#include "engine/arch.h"

enum {
	X86_JUMP_SIZE = 5, /* e9 rel32 */
	X86_ENDBR64_SIZE = 4,
};

/* insn.c */
struct pe_error *x86_jump_encode(uint64_t from, uint64_t to, uint8_t *out) pe_must_check;
bool x86_jump_decode(uint64_t at, const uint8_t *code, size_t size, uint64_t *to);
struct pe_error *x86_select_stub(uint64_t at, uint64_t word, uint64_t when_zero, uint64_t otherwise,
				 uint8_t *out, size_t *out_size) pe_must_check;
struct pe_error *x86_plt_stub(uint64_t at, uint64_t slot, uint8_t *out,
			      size_t *out_size) pe_must_check;
struct pe_error *x86_call_stub(uint64_t at, uint64_t function, uint64_t arg0, uint64_t arg1,
			       uint64_t flag, uint32_t before, uint32_t after, uint8_t *out,
			       size_t *out_size) pe_must_check;
/* The 32-bit distance from @next to @to into @field; UNSUPPORTED, naming @what, when too far. */
struct pe_error *x86_put_rel32(const char *what, uint64_t next, uint64_t to,
			       uint8_t *field) pe_must_check;
void x86_put_u32(uint8_t *field, uint32_t value);

/* move.c */
struct pe_error *x86_insns_move(uint64_t from, const uint8_t *code, size_t size, uint64_t to,
				uint8_t *out, size_t *out_size) pe_must_check;

/* entry.c */
struct pe_error *x86_entry_examine(uint64_t vaddr, const uint8_t *code, size_t size, size_t padding,
				   struct pe_entry *ret) pe_must_check;

/* text.c */
struct pe_error *x86_disassemble(uint64_t at, const uint8_t *code, size_t size,
				 struct pe_error *(*line)(void *ctx, const struct pe_insn *insn),
				 void *ctx) pe_must_check;

/* reloc.c */
bool x86_reloc_known(uint32_t type);
const char *x86_reloc_name(uint32_t type);
size_t x86_reloc_size(uint32_t type);
unsigned int x86_reloc_need(uint32_t type);
bool x86_reloc_is_tls(uint32_t type);
struct pe_error *x86_reloc_apply(uint32_t type, const struct pe_reloc_value *value,
				 uint8_t *section, uint64_t offset,
				 uint64_t section_size) pe_must_check;

#endif
