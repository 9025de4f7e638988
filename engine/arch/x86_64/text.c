/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Instructions as text, for people. */
#include <string.h>

#include "arch/x86_64/decode.h"

struct pe_error *x86_disassemble(uint64_t at, const uint8_t *code, size_t size,
				 struct pe_error *(*line)(void *ctx, const struct pe_insn *insn),
				 void *ctx)
{
	struct x86_decoder dec __attribute__((cleanup(x86_decoder_deinit))) = {};
	struct pe_error *err = x86_decoder_init(&dec, at, code, size);

	if (!err && cs_option(dec.handle, CS_OPT_SYNTAX, CS_OPT_SYNTAX_ATT) != CS_ERR_OK)
		err = pe_error_new(PE_ERR_INTERNAL, "capstone has no AT&T syntax");
	while (!err && dec.left) {
		err = x86_decode(&dec);
		if (err)
			break;

		enum x86_flow flow = x86_flow(dec.insn);
		struct pe_insn insn = {
			.at = dec.insn->address,
			.size = dec.insn->size,
			.name = dec.insn->mnemonic,
			.operands = dec.insn->op_str,
			.branch = flow == X86_FLOW_JUMP || flow == X86_FLOW_BRANCH ||
				  flow == X86_FLOW_CALL || flow == X86_FLOW_LOOP,
		};

		if (insn.branch)
			insn.refers = x86_branch_target(dec.insn);
		insn.has_reference = insn.branch || x86_rip_target(dec.insn, &insn.refers);
		err = line(ctx, &insn);
	}
	return err;
}
