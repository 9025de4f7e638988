/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The closed list of relocations (psABI x86-64, table 4.9), each applied with a check of its range.
 *
 * Thread-locals of the program: the symbol's value is its offset from the thread pointer. General
 * and local dynamic accesses were relaxed to local-exec by the builder; a DTPOFF that they leave
 * takes that same offset then, as it does when a linker relaxes.
 */
#include <elf.h>
#include <string.h>

#include "arch/x86_64/x86_64.h"

enum reloc_base {
	BASE_SYMBOL = 1, /* S + A */
	BASE_GOT,	 /* G + A */
};

enum reloc_fit {
	FIT_ANY, /* 8 bytes */
	FIT_SIGNED,
	FIT_UNSIGNED,
};

struct reloc_type {
	const char *name;
	uint8_t size;
	enum reloc_base base; /* 0: not in the list */
	bool relative;	      /* - P */
	enum reloc_fit fit;
	unsigned int need;
};

static const struct reloc_type reloc_types[] = {
	[R_X86_64_64] = { "R_X86_64_64", 8, BASE_SYMBOL, false, FIT_ANY, PE_RELOC_DIRECT },
	[R_X86_64_PC32] = { "R_X86_64_PC32", 4, BASE_SYMBOL, true, FIT_SIGNED, PE_RELOC_DIRECT },
	[R_X86_64_PC64] = { "R_X86_64_PC64", 8, BASE_SYMBOL, true, FIT_ANY, PE_RELOC_DIRECT },
	[R_X86_64_PLT32] = { "R_X86_64_PLT32", 4, BASE_SYMBOL, true, FIT_SIGNED,
			     PE_RELOC_MAY_NEED_PLT },
	[R_X86_64_32] = { "R_X86_64_32", 4, BASE_SYMBOL, false, FIT_UNSIGNED, PE_RELOC_DIRECT },
	[R_X86_64_32S] = { "R_X86_64_32S", 4, BASE_SYMBOL, false, FIT_SIGNED, PE_RELOC_DIRECT },
	[R_X86_64_GOTPCREL] = { "R_X86_64_GOTPCREL", 4, BASE_GOT, true, FIT_SIGNED,
				PE_RELOC_NEEDS_GOT },
	[R_X86_64_GOTPCRELX] = { "R_X86_64_GOTPCRELX", 4, BASE_GOT, true, FIT_SIGNED,
				 PE_RELOC_NEEDS_GOT },
	[R_X86_64_REX_GOTPCRELX] = { "R_X86_64_REX_GOTPCRELX", 4, BASE_GOT, true, FIT_SIGNED,
				     PE_RELOC_NEEDS_GOT },
	[R_X86_64_GOTTPOFF] = { "R_X86_64_GOTTPOFF", 4, BASE_GOT, true, FIT_SIGNED,
				PE_RELOC_NEEDS_GOT },
	[R_X86_64_TPOFF32] = { "R_X86_64_TPOFF32", 4, BASE_SYMBOL, false, FIT_SIGNED,
			       PE_RELOC_DIRECT },
	[R_X86_64_TPOFF64] = { "R_X86_64_TPOFF64", 8, BASE_SYMBOL, false, FIT_ANY,
			       PE_RELOC_DIRECT },
	[R_X86_64_DTPOFF32] = { "R_X86_64_DTPOFF32", 4, BASE_SYMBOL, false, FIT_SIGNED,
				PE_RELOC_DIRECT },
	[R_X86_64_DTPOFF64] = { "R_X86_64_DTPOFF64", 8, BASE_SYMBOL, false, FIT_ANY,
				PE_RELOC_DIRECT },
};

static const struct reloc_type *find(uint32_t type)
{
	if (type >= sizeof(reloc_types) / sizeof(*reloc_types) || !reloc_types[type].base)
		return NULL;
	return &reloc_types[type];
}

bool x86_reloc_known(uint32_t type)
{
	return find(type);
}

const char *x86_reloc_name(uint32_t type)
{
	const struct reloc_type *r = find(type);

	return r ? r->name : "unknown relocation";
}

size_t x86_reloc_size(uint32_t type)
{
	const struct reloc_type *r = find(type);

	return r ? r->size : 0;
}

unsigned int x86_reloc_need(uint32_t type)
{
	const struct reloc_type *r = find(type);

	return r ? r->need : PE_RELOC_DIRECT;
}

bool x86_reloc_is_tls(uint32_t type)
{
	switch (type) {
	case R_X86_64_GOTTPOFF:
	case R_X86_64_TPOFF32:
	case R_X86_64_TPOFF64:
	case R_X86_64_DTPOFF32:
	case R_X86_64_DTPOFF64:
		return true;
	default:
		return false;
	}
}

static bool fits(const struct reloc_type *r, uint64_t value)
{
	switch (r->fit) {
	case FIT_SIGNED:
		return (int64_t)value == (int32_t)value;
	case FIT_UNSIGNED:
		return value == (uint32_t)value;
	case FIT_ANY:
		break;
	}
	return true;
}

struct pe_error *x86_reloc_apply(uint32_t type, const struct pe_reloc_value *value,
				 uint8_t *section, uint64_t offset, uint64_t section_size)
{
	const struct reloc_type *r = find(type);

	if (!r)
		return pe_error_new(PE_ERR_UNSUPPORTED, "relocation type %u is not supported",
				    type);
	if (offset > section_size || section_size - offset < r->size)
		return pe_error_new(PE_ERR_INTERNAL,
				    "%s at offset 0x%lx is past the end of its section", r->name,
				    offset);
	if (r->base == BASE_GOT && !value->got_slot)
		return pe_error_new(PE_ERR_INTERNAL, "%s at offset 0x%lx has no GOT slot", r->name,
				    offset);

	uint64_t minus = r->relative ? value->place : 0;
	uint64_t base = r->base == BASE_GOT ? value->got_slot : value->symbol;
	uint64_t result = base + (uint64_t)value->addend - minus;

	if (!fits(r, result) && r->need == PE_RELOC_MAY_NEED_PLT && value->plt_stub)
		result = value->plt_stub + (uint64_t)value->addend - minus;
	if (!fits(r, result))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s at 0x%lx does not fit: 0x%lx needs more than 32 bits",
				    r->name, value->place, result);
	memcpy(section + offset, &result, r->size);
	return NULL;
}
