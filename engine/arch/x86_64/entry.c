/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * May the entry of a function be overwritten with a jump?
 *
 * All of the function is decoded: whole instructions behind an endbr64 that cover the jump must
 * exist, must be able to move, and nothing in the function may lead to the middle of them.
 */
#include "arch/x86_64/decode.h"

static struct pe_error *too_short(size_t have)
{
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "the function has only %zu bytes of code, an entry jump needs %d", have,
			    X86_JUMP_SIZE);
}

/* Whole instructions from the start of @dec that cover a jump; from @end on they are padding. */
static struct pe_error *measure(struct x86_decoder *dec, uint64_t end, struct pe_entry *entry)
{
	bool ended = false;

	while (entry->displaced < X86_JUMP_SIZE) {
		if (!dec->left)
			return too_short(entry->displaced);

		struct pe_error *err = x86_decode(dec);

		if (err)
			return err;

		enum x86_flow flow = x86_flow(dec->insn);

		/* Padding behind the last instruction may belong to a table or to a caller's
		 * idea of alignment; it is not the function's unless that was looked into. */
		bool nop = dec->insn->id == X86_INS_NOP || dec->insn->id == X86_INS_INT3;

		if (dec->insn->address >= end ? !ended || !nop : ended && nop)
			return too_short(entry->displaced);
		if (flow == X86_FLOW_CALL || flow == X86_FLOW_CALL_IN)
			entry->has_call = true;
		if (flow == X86_FLOW_END || flow == X86_FLOW_JUMP)
			ended = true;
		entry->displaced += dec->insn->size;
	}
	return NULL;
}

/* Nothing in the function may name an address strictly inside (start, end). */
static struct pe_error *check_branches(uint64_t vaddr, const uint8_t *code, size_t size,
				       uint64_t start, uint64_t end)
{
	struct x86_decoder dec __attribute__((cleanup(x86_decoder_deinit))) = {};
	struct pe_error *err = x86_decoder_init(&dec, vaddr, code, size);

	while (!err && dec.left) {
		if (x86_is_endbr64(dec.next, dec.left)) { /* unknown to older capstones */
			dec.next += X86_ENDBR64_SIZE;
			dec.left -= X86_ENDBR64_SIZE;
			dec.vaddr += X86_ENDBR64_SIZE;
			continue;
		}
		err = x86_decode(&dec);
		if (err)
			break;

		enum x86_flow flow = x86_flow(dec.insn);
		uint64_t target = 0;

		if (flow == X86_FLOW_JUMP || flow == X86_FLOW_BRANCH || flow == X86_FLOW_CALL ||
		    flow == X86_FLOW_LOOP)
			target = x86_branch_target(dec.insn);
		else if (!x86_rip_target(dec.insn, &target))
			continue;
		if (target > start && target < end)
			err = pe_error_new(PE_ERR_UNSUPPORTED,
					   "the instruction at 0x%lx (%s) leads to 0x%lx, inside "
					   "the bytes that an entry jump overwrites",
					   dec.insn->address, dec.insn->mnemonic, target);
	}
	return err;
}

/* Two pages are written one after the other: a patcher that dies in between would tear the jump. */
static struct pe_error *check_page(uint64_t start)
{
	const uint64_t page = 4096;

	if (start % page + X86_JUMP_SIZE <= page)
		return NULL;
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "its entry (0x%lx) lies across two pages of memory: a jump cannot be "
			    "written there in one piece",
			    (unsigned long)start);
}

struct pe_error *x86_entry_examine(uint64_t vaddr, const uint8_t *code, size_t size, size_t padding,
				   struct pe_entry *ret)
{
	struct x86_decoder dec __attribute__((cleanup(x86_decoder_deinit))) = {};
	struct pe_entry entry = { .skip = x86_is_endbr64(code, size) ? X86_ENDBR64_SIZE : 0 };
	uint64_t start = vaddr + entry.skip;
	uint8_t moved[PE_STUB_MAX];
	size_t moved_size;
	struct pe_error *err =
		x86_decoder_init(&dec, start, code + entry.skip, size + padding - entry.skip);

	if (!err)
		err = measure(&dec, vaddr + size, &entry);
	if (!err)
		err = check_page(start);
	/* Near its own place, all that can move at all is in reach. */
	if (!err)
		err = x86_insns_move(start, code + entry.skip, entry.displaced, start, moved,
				     &moved_size);
	if (!err)
		err = check_branches(vaddr, code, size, start, start + entry.displaced);
	if (!err)
		*ret = entry;
	return err;
}
