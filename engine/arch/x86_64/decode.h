/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Decoding with capstone: one instruction after the other, with what patching wants to know. */
#ifndef ARCH_X86_64_DECODE_H
#define ARCH_X86_64_DECODE_H

#include <capstone/capstone.h>

#include "arch/x86_64/x86_64.h"

/*
 * A decoder has its own capstone handle, so that threads never share one. Use:
 *
 *	struct x86_decoder dec __attribute__((cleanup(x86_decoder_deinit))) = {};
 *	err = x86_decoder_init(&dec, vaddr, code, size);
 *	while (!err && dec.left) {
 *		err = x86_decode(&dec);
 *		... dec.insn ...
 *	}
 */
struct x86_decoder {
	csh handle;
	cs_insn *insn;	     /* the one decoded last */
	const uint8_t *next; /* bytes not decoded yet */
	size_t left;
	uint64_t vaddr; /* of next */
};

enum x86_flow {
	X86_FLOW_PLAIN,	  /* goes on behind itself */
	X86_FLOW_JUMP,	  /* jmp rel */
	X86_FLOW_BRANCH,  /* jcc rel */
	X86_FLOW_CALL,	  /* call rel */
	X86_FLOW_LOOP,	  /* loop, jrcxz, xbegin: relative, without a long form */
	X86_FLOW_CALL_IN, /* call through a register or memory */
	X86_FLOW_END,	  /* ret, indirect jmp, ud2, int3, hlt: never goes on behind itself */
};

struct pe_error *x86_decoder_init(struct x86_decoder *dec, uint64_t vaddr, const uint8_t *code,
				  size_t size) pe_must_check;
void x86_decoder_deinit(struct x86_decoder *dec);
/* Decodes the next instruction into dec->insn; UNSUPPORTED when the bytes are none. */
struct pe_error *x86_decode(struct x86_decoder *dec) pe_must_check;

enum x86_flow x86_flow(const cs_insn *insn);
/* Where a relative branch leads; only for JUMP, BRANCH, CALL and LOOP. */
uint64_t x86_branch_target(const cs_insn *insn);
/* True when a memory operand is RIP-relative; *target is the address it names. */
bool x86_rip_target(const cs_insn *insn, uint64_t *target);
bool x86_is_endbr64(const uint8_t *code, size_t size);

#endif
