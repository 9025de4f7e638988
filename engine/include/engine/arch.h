/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs from processor to processor, one table each (arch/<cpu>/). Pure computation on
 * bytes: nothing here touches a process.
 *
 * Addresses are run-time addresses unless said otherwise; @code is a local copy of the bytes that
 * stand (or will stand) at such an address.
 */
#ifndef ENGINE_ARCH_H
#define ENGINE_ARCH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

#define PE_JUMP_MAX 16
#define PE_STUB_MAX 64

/* What an entry looks like to somebody who wants to overwrite it. */
struct pe_entry {
	uint8_t skip;	   /* bytes to keep in front (endbr64: 4) */
	uint8_t displaced; /* bytes of whole instructions from skip on that cover a jump */
	bool has_call;	   /* a call among them */
};

/* The value and places that a relocation needs; see reloc_apply. */
struct pe_reloc_value {
	uint64_t place;	   /* run-time address of the field */
	uint64_t symbol;   /* S */
	int64_t addend;	   /* A */
	uint64_t got_slot; /* run-time address of the symbol's slot in the patch's own GOT, or 0 */
	uint64_t plt_stub; /* run-time address of a far-jump stub to the symbol, or 0 */
};

/* One instruction as text; the strings live as long as the call that shows it. */
struct pe_insn {
	uint64_t at;
	size_t size; /* bytes */
	const char *name, *operands;
	bool branch;	    /* a relative jump or call */
	bool has_reference; /* it names an address: of a branch, or relative to itself */
	uint64_t refers;    /* that address */
};

enum pe_reloc_need {
	PE_RELOC_DIRECT = 0,
	PE_RELOC_NEEDS_GOT = 1,	   /* got_slot must hold S (or the TLS offset) */
	PE_RELOC_MAY_NEED_PLT = 2, /* a branch: when S is too far, plt_stub serves */
};

struct pe_arch {
	const char *name; /* "x86_64" */
	uint16_t machine; /* EM_* */
	size_t jump_size; /* bytes of the jump that replaces an entry */
	int64_t reach;	  /* greatest distance of that jump, bytes */

	/* Writes a jump from @from to @to into @out (jump_size bytes). */
	struct pe_error *(*jump_encode)(uint64_t from, uint64_t to, uint8_t *out);
	/* True when @code begins with such a jump standing at @at; *to is where it leads. */
	bool (*jump_decode)(uint64_t at, const uint8_t *code, size_t size, uint64_t *to);

	/*
	 * Examines a function of @size bytes at @vaddr (all of it, to find branches into the bytes
	 * that a jump would overwrite), with @padding bytes behind it that nothing knows and that
	 * may be overwritten too. Error UNSUPPORTED, with the reason, when it is too short or
	 * when something branches there.
	 */
	struct pe_error *(*entry_examine)(uint64_t vaddr, const uint8_t *code, size_t size,
					  size_t padding, struct pe_entry *ret);
	/*
	 * Moves @size bytes of whole instructions from @from to @to: re-targets relative branches
	 * and RIP-relative operands. *out_size is at most PE_STUB_MAX. Error when one cannot move.
	 * A call must be the last; its copy pushes the original return address and jumps, so it
	 * never returns to the copy. The way back behind the moved bytes is the caller's to add.
	 */
	struct pe_error *(*insns_move)(uint64_t from, const uint8_t *code, size_t size, uint64_t to,
				       uint8_t *out, size_t *out_size);
	/*
	 * The stub at @at that chooses by the aligned 32-bit word at @word: 0 leads to @when_zero,
	 * anything else to @otherwise. Keeps all registers (flags excepted, which GCC never keeps
	 * across a call). *out_size is at most PE_STUB_MAX.
	 */
	struct pe_error *(*select_stub)(uint64_t at, uint64_t word, uint64_t when_zero,
					uint64_t otherwise, uint8_t *out, size_t *out_size);
	/* The far jump at @at through the 8-byte slot at @slot; keeps all registers. */
	struct pe_error *(*plt_stub)(uint64_t at, uint64_t slot, uint8_t *out, size_t *out_size);

	/*
	 * A function at @at for an injected call: writes @before to the aligned 32-bit word at
	 * @flag, calls the function at @function with the two arguments, writes @after there, and
	 * returns. The target itself thus records how far the call has come. *out_size is at most
	 * PE_STUB_MAX.
	 */
	struct pe_error *(*call_stub)(uint64_t at, uint64_t function, uint64_t arg0, uint64_t arg1,
				      uint64_t flag, uint32_t before, uint32_t after, uint8_t *out,
				      size_t *out_size);

	/* Is this relocation type in the closed list; which bytes it covers; what it needs. */
	bool (*reloc_known)(uint32_t type);
	const char *(*reloc_name)(uint32_t type);
	size_t (*reloc_size)(uint32_t type);
	unsigned int (*reloc_need)(uint32_t type);
	bool (*reloc_is_tls)(uint32_t type); /* S is an offset from the thread pointer */
	/*
	 * Writes the relocation into @field (reloc_size bytes). @section and @offset let it see
	 * the instruction around the field. Error when the value does not fit.
	 */
	struct pe_error *(*reloc_apply)(uint32_t type, const struct pe_reloc_value *value,
					uint8_t *section, uint64_t offset, uint64_t section_size);
	/*
	 * Shows each instruction of @code, which stands at @at, to @line; ends at its first error.
	 * UNSUPPORTED where the bytes are no instruction.
	 */
	struct pe_error *(*disassemble)(uint64_t at, const uint8_t *code, size_t size,
					struct pe_error *(*line)(void *ctx,
								 const struct pe_insn *insn),
					void *ctx);
};

/* NULL for a processor that this build does not know. */
const struct pe_arch *pe_arch_find(uint16_t machine);

extern const struct pe_arch pe_arch_x86_64;

#endif
