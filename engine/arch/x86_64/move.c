/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Moving whole instructions to another address, so that an overwritten entry still exists.
 *
 * Short branches become near ones, near ones and RIP-relative operands are re-targeted, anything
 * else is copied. A call is special: a return address in the moved copy would be unknown to the
 * unwinder and to whoever looks whether a thread is inside the old function. So a moved call
 * pushes the original return address, which is behind the overwritten bytes, and jumps.
 */
#include <string.h>

#include "arch/x86_64/decode.h"

struct mover {
	uint64_t from, from_end; /* the bytes that move */
	uint64_t to;
	uint8_t *out;
	size_t used;
};

static struct pe_error *cannot_move(const cs_insn *insn, const char *why)
{
	return pe_error_new(PE_ERR_UNSUPPORTED, "the instruction at 0x%lx (%s %s) cannot move: %s",
			    insn->address, insn->mnemonic, insn->op_str, why);
}

/* Appends @size bytes; the bound is checked by the caller for the longest form. */
static uint8_t *append(struct mover *m, const void *bytes, size_t size)
{
	uint8_t *at = m->out + m->used;

	memcpy(at, bytes, size);
	m->used += size;
	return at;
}

static uint64_t here(const struct mover *m)
{
	return m->to + m->used;
}

static struct pe_error *move_jump(struct mover *m, const cs_insn *insn, uint64_t target)
{
	static const uint8_t jmp[] = { 0xe9, 0, 0, 0, 0 };
	uint8_t *at = append(m, jmp, sizeof(jmp));

	return x86_put_rel32(insn->mnemonic, here(m), target, at + 1);
}

static struct pe_error *move_branch(struct mover *m, const cs_insn *insn, uint64_t target)
{
	const uint8_t *opcode = insn->detail->x86.opcode;
	uint8_t condition;

	if ((opcode[0] & 0xf0) == 0x70)
		condition = opcode[0] & 0x0f;
	else if (opcode[0] == 0x0f && (opcode[1] & 0xf0) == 0x80)
		condition = opcode[1] & 0x0f;
	else
		return cannot_move(insn, "an unknown kind of branch");

	const uint8_t jcc[] = { 0x0f, 0x80 | condition, 0, 0, 0, 0 };
	uint8_t *at = append(m, jcc, sizeof(jcc));

	return x86_put_rel32(insn->mnemonic, here(m), target, at + 2);
}

static struct pe_error *move_return_address(struct mover *m, const cs_insn *insn)
{
	uint64_t behind = insn->address + insn->size;

	if (behind != m->from_end)
		return cannot_move(insn, "a call would return into overwritten bytes");

	/* push $low; movl $high, 4(%rsp) */
	uint8_t push[] = { 0x68, 0, 0, 0, 0, 0xc7, 0x44, 0x24, 0x04, 0, 0, 0, 0 };

	x86_put_u32(push + 1, (uint32_t)behind);
	x86_put_u32(push + 9, (uint32_t)(behind >> 32));
	append(m, push, sizeof(push));
	return NULL;
}

/* Copies, re-targeting a RIP-relative operand. */
static struct pe_error *move_plain(struct mover *m, const cs_insn *insn, uint8_t **ret)
{
	const cs_x86_encoding *enc = &insn->detail->x86.encoding;
	uint64_t target;

	*ret = append(m, insn->bytes, insn->size);
	if (!x86_rip_target(insn, &target))
		return NULL;

	int32_t disp;

	if (insn->detail->x86.addr_size != 8 || !enc->disp_offset ||
	    enc->disp_offset + sizeof(disp) > insn->size)
		return cannot_move(insn, "its address cannot be changed");
	memcpy(&disp, insn->bytes + enc->disp_offset, sizeof(disp));
	if (insn->address + insn->size + (uint64_t)(int64_t)disp != target)
		return cannot_move(insn, "its address cannot be changed");
	return x86_put_rel32(insn->mnemonic, here(m), target, *ret + enc->disp_offset);
}

/* call *r/m: the original return address, then jmp *r/m. */
static struct pe_error *move_call_indirect(struct mover *m, const cs_insn *insn)
{
	const cs_x86 *x86 = &insn->detail->x86;
	const cs_x86_op *op = &x86->operands[0];
	size_t modrm = x86->encoding.modrm_offset;

	if (insn->id != X86_INS_CALL || !modrm || insn->bytes[modrm - 1] != 0xff)
		return cannot_move(insn, "an unknown kind of call");
	/* The pushed return address would move what %rsp names. */
	if ((op->type == X86_OP_REG && op->reg == X86_REG_RSP) ||
	    (op->type == X86_OP_MEM && op->mem.base == X86_REG_RSP))
		return cannot_move(insn, "it depends on the stack pointer");

	uint8_t *copy;
	struct pe_error *err = move_return_address(m, insn);

	if (!err)
		err = move_plain(m, insn, &copy);
	if (!err)
		copy[modrm] = (uint8_t)((copy[modrm] & ~0x38) | 4 << 3); /* /2 call, /4 jmp */
	return err;
}

static struct pe_error *move_one(struct mover *m, const cs_insn *insn)
{
	enum x86_flow flow = x86_flow(insn);
	uint64_t target = 0;
	struct pe_error *err;
	uint8_t *copy;

	switch (flow) {
	case X86_FLOW_PLAIN:
	case X86_FLOW_END:
		return move_plain(m, insn, &copy);
	case X86_FLOW_LOOP:
		return cannot_move(insn, "it has no long form");
	case X86_FLOW_CALL_IN:
		return move_call_indirect(m, insn);
	case X86_FLOW_JUMP:
	case X86_FLOW_BRANCH:
	case X86_FLOW_CALL:
		break;
	}
	if (insn->detail->x86.prefix[2])
		return cannot_move(insn, "it has an operand-size prefix");
	target = x86_branch_target(insn);
	if (target > m->from && target < m->from_end)
		return cannot_move(insn, "it leads into the bytes that move");
	if (flow == X86_FLOW_BRANCH)
		return move_branch(m, insn, target);
	if (flow == X86_FLOW_CALL) {
		err = move_return_address(m, insn);
		if (err)
			return err;
	}
	return move_jump(m, insn, target);
}

struct pe_error *x86_insns_move(uint64_t from, const uint8_t *code, size_t size, uint64_t to,
				uint8_t *out, size_t *out_size)
{
	/* The longest: a return address and an indirect jump of at most 15 bytes. */
	static const size_t longest = 13 + 15;
	struct x86_decoder dec __attribute__((cleanup(x86_decoder_deinit))) = {};
	struct mover m = { .from = from, .from_end = from + size, .to = to, .out = out };
	struct pe_error *err = x86_decoder_init(&dec, from, code, size);

	while (!err && dec.left) {
		if (m.used + longest > PE_STUB_MAX)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "the %zu bytes at 0x%lx are too many to move", size,
					    from);
		err = x86_decode(&dec);
		if (!err)
			err = move_one(&m, dec.insn);
	}
	*out_size = m.used;
	return err;
}
