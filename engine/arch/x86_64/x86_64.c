/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The x86-64 table. */
#include "arch/x86_64/x86_64.h"

#include <elf.h>

const struct pe_arch pe_arch_x86_64 = {
	.name = "x86_64",
	.machine = EM_X86_64,
	.jump_size = X86_JUMP_SIZE,
	.reach = INT32_MAX,
	.jump_encode = x86_jump_encode,
	.jump_decode = x86_jump_decode,
	.entry_examine = x86_entry_examine,
	.insns_move = x86_insns_move,
	.select_stub = x86_select_stub,
	.plt_stub = x86_plt_stub,
	.call_stub = x86_call_stub,
	.reloc_known = x86_reloc_known,
	.reloc_name = x86_reloc_name,
	.reloc_size = x86_reloc_size,
	.reloc_need = x86_reloc_need,
	.reloc_is_tls = x86_reloc_is_tls,
	.reloc_apply = x86_reloc_apply,
	.disassemble = x86_disassemble,
};
