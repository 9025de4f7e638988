/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The processors that this build knows. */
#include "engine/arch.h"

#include <elf.h>

const struct pe_arch *pe_arch_find(uint16_t machine)
{
	return machine == EM_X86_64 ? &pe_arch_x86_64 : NULL;
}
