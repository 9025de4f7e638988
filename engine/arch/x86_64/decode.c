/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Decoding with capstone; see decode.h. */
#include "arch/x86_64/decode.h"

#include <string.h>

static const uint8_t endbr64[X86_ENDBR64_SIZE] = { 0xf3, 0x0f, 0x1e, 0xfa };

bool x86_is_endbr64(const uint8_t *code, size_t size)
{
	return size >= sizeof(endbr64) && !memcmp(code, endbr64, sizeof(endbr64));
}

struct pe_error *x86_decoder_init(struct x86_decoder *dec, uint64_t vaddr, const uint8_t *code,
				  size_t size)
{
	cs_err status = cs_open(CS_ARCH_X86, CS_MODE_64, &dec->handle);

	if (status == CS_ERR_OK)
		status = cs_option(dec->handle, CS_OPT_DETAIL, CS_OPT_ON);
	if (status != CS_ERR_OK)
		return pe_error_new(PE_ERR_INTERNAL, "capstone: %s", cs_strerror(status));
	dec->insn = cs_malloc(dec->handle);
	if (!dec->insn)
		return pe_error_nomem();
	dec->next = code;
	dec->left = size;
	dec->vaddr = vaddr;
	return NULL;
}

void x86_decoder_deinit(struct x86_decoder *dec)
{
	if (dec->insn)
		cs_free(dec->insn, 1);
	if (dec->handle)
		cs_close(&dec->handle);
}

struct pe_error *x86_decode(struct x86_decoder *dec)
{
	if (cs_disasm_iter(dec->handle, &dec->next, &dec->left, &dec->vaddr, dec->insn))
		return NULL;

	char hex[3 * 8 + 1] = "";

	for (size_t i = 0; i < dec->left && i < 8; i++)
		snprintf(hex + 3 * i, 4, " %02x", dec->next[i]);
	return pe_error_new(PE_ERR_UNSUPPORTED, "cannot decode the instruction at 0x%lx:%s",
			    dec->vaddr, hex);
}

static bool is_relative(const cs_insn *insn)
{
	const cs_x86 *x86 = &insn->detail->x86;

	return x86->op_count == 1 && x86->operands[0].type == X86_OP_IMM;
}

enum x86_flow x86_flow(const cs_insn *insn)
{
	switch (insn->id) {
	case X86_INS_JMP:
		return is_relative(insn) ? X86_FLOW_JUMP : X86_FLOW_END;
	case X86_INS_CALL:
		return is_relative(insn) ? X86_FLOW_CALL : X86_FLOW_CALL_IN;
	case X86_INS_LCALL:
		return X86_FLOW_CALL_IN;
	case X86_INS_LOOP:
	case X86_INS_LOOPE:
	case X86_INS_LOOPNE:
	case X86_INS_JCXZ:
	case X86_INS_JECXZ:
	case X86_INS_JRCXZ:
	case X86_INS_XBEGIN:
		return X86_FLOW_LOOP;
	case X86_INS_RET:
	case X86_INS_RETF:
	case X86_INS_RETFQ:
	case X86_INS_IRET:
	case X86_INS_IRETD:
	case X86_INS_IRETQ:
	case X86_INS_LJMP:
	case X86_INS_UD2:
	case X86_INS_UD2B:
	case X86_INS_INT3:
	case X86_INS_HLT:
		return X86_FLOW_END;
	default:
		break;
	}
	for (int i = 0; i < insn->detail->groups_count; i++)
		if (insn->detail->groups[i] == X86_GRP_JUMP && is_relative(insn))
			return X86_FLOW_BRANCH;
	return X86_FLOW_PLAIN;
}

uint64_t x86_branch_target(const cs_insn *insn)
{
	return (uint64_t)insn->detail->x86.operands[0].imm;
}

bool x86_rip_target(const cs_insn *insn, uint64_t *target)
{
	const cs_x86 *x86 = &insn->detail->x86;

	for (uint8_t i = 0; i < x86->op_count; i++) {
		const cs_x86_op *op = &x86->operands[i];

		if (op->type != X86_OP_MEM ||
		    (op->mem.base != X86_REG_RIP && op->mem.base != X86_REG_EIP))
			continue;
		*target = insn->address + insn->size + (uint64_t)op->mem.disp;
		return true;
	}
	return false;
}
