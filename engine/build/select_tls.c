/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Thread-local access, rewritten as the linker rewrote the shipped code (ELF Handling For
 * Thread-Local Storage, 5). Code compiled as -fPIC asks __tls_get_addr for an address that in a
 * program is a constant offset from the thread pointer (local-exec); a library's variable that a
 * program uses has an offset that the loader fills in (initial-exec). Code of a library stays as
 * it is.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

bool pe_sel_tls_access(const struct pe_object_reloc *reloc)
{
	switch (reloc->type) {
	case R_X86_64_TLSGD:
	case R_X86_64_TLSLD:
	case R_X86_64_DTPOFF32:
	case R_X86_64_DTPOFF64:
	case R_X86_64_GOTTPOFF:
	case R_X86_64_GOTPC32_TLSDESC:
	case R_X86_64_TLSDESC_CALL:
		return true;
	default:
		return false;
	}
}

static struct pe_error *refuse(const struct pe_object_section *section,
			       const struct pe_object_reloc *reloc)
{
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s+0x%lx: access to thread-local %s in a form that is not known",
			    section->name, reloc->offset, reloc->symbol->name);
}

/* Is relocs[index] the call of __tls_get_addr, with its field at @offset? */
static bool is_call(const struct pe_object_section *section, size_t index, uint64_t offset)
{
	if (index >= section->reloc_count)
		return false;
	const struct pe_object_reloc *call = &section->relocs[index];

	return call->offset == offset && !strcmp(call->symbol->name, "__tls_get_addr");
}

static const uint8_t load_thread_pointer[9] = { 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0 };

/* lea x@tlsgd(%rip),%rdi; call __tls_get_addr -> mov %fs:0,%rax; lea x@tpoff(%rax),%rax */
static struct pe_error *relax_general(const struct pe_object_section *section, uint8_t *code,
				      size_t *index, struct pe_object_reloc *out)
{
	static const uint8_t lea[4] = { 0x66, 0x48, 0x8d, 0x3d };
	static const uint8_t add[3] = { 0x48, 0x8d, 0x80 };
	const struct pe_object_reloc *reloc = &section->relocs[*index];
	uint64_t at = reloc->offset - 4;

	if (reloc->offset < 4 || section->size - at < 16 || memcmp(code + at, lea, 4) ||
	    !is_call(section, *index + 1, reloc->offset + 8))
		return refuse(section, reloc);
	memcpy(code + at, load_thread_pointer, 9);
	memcpy(code + at + 9, add, 3);
	memset(code + at + 12, 0, 4);
	*out = *reloc;
	out->offset = at + 12;
	out->type = R_X86_64_TPOFF32;
	out->addend = reloc->addend + 4;
	*index += 2;
	return NULL;
}

/* lea x@tlsld(%rip),%rdi; call __tls_get_addr -> mov %fs:0,%rax, padded in front */
static struct pe_error *relax_local(const struct pe_object_section *section, uint8_t *code,
				    size_t *index, struct pe_object_reloc *out)
{
	static const uint8_t lea[3] = { 0x48, 0x8d, 0x3d };
	const struct pe_object_reloc *reloc = &section->relocs[*index];
	uint64_t at = reloc->offset - 3;
	size_t size;

	if (reloc->offset < 3 || section->size - at < 13 || memcmp(code + at, lea, 3))
		return refuse(section, reloc);
	if (is_call(section, *index + 1, reloc->offset + 5) && code[at + 7] == 0xe8)
		size = 12;
	else if (is_call(section, *index + 1, reloc->offset + 6) && code[at + 7] == 0xff)
		size = 13;
	else
		return refuse(section, reloc);
	memset(code + at, 0x66, size - 9);
	memcpy(code + at + size - 9, load_thread_pointer, 9);
	out->symbol = NULL;
	*index += 2;
	return NULL;
}

/* mov/add x@gottpoff(%rip),%reg -> mov/add $x@tpoff,%reg */
static struct pe_error *relax_initial(const struct pe_object_section *section, uint8_t *code,
				      size_t *index, struct pe_object_reloc *out)
{
	const struct pe_object_reloc *reloc = &section->relocs[*index];

	*out = *reloc;
	(*index)++;
	if (reloc->offset < 3)
		return refuse(section, reloc);
	uint8_t *insn = code + reloc->offset - 3;
	uint8_t reg = (insn[2] >> 3) & 7;
	if ((insn[0] & 0xfb) != 0x48 || (insn[2] & 0xc7) != 0x05 ||
	    (insn[1] != 0x8b && insn[1] != 0x03))
		return NULL; /* stays: the patch has a GOT of its own */
	insn[0] = insn[0] & 4 ? 0x49 : 0x48;
	insn[1] = insn[1] == 0x8b ? 0xc7 : 0x81;
	insn[2] = 0xc0 | reg;
	out->type = R_X86_64_TPOFF32;
	out->addend = reloc->addend + 4;
	return NULL;
}

/* lea x@tlsgd(%rip),%rdi; call __tls_get_addr -> mov %fs:0,%rax; add x@gottpoff(%rip),%rax */
static struct pe_error *general_to_initial(const struct pe_object_section *section, uint8_t *code,
					   size_t *index, struct pe_object_reloc *out)
{
	static const uint8_t add[3] = { 0x48, 0x03, 0x05 };
	struct pe_error *err = relax_general(section, code, index, out);

	if (err)
		return err;
	memcpy(code + out->offset - sizeof(add), add, sizeof(add));
	out->type = R_X86_64_GOTTPOFF;
	out->addend -= 4;
	return NULL;
}

/* The offset in the image's own block: a constant for the linker, and for us. */
static struct pe_error *fill_offset(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				    uint8_t *code, struct pe_object_reloc *reloc)
{
	size_t size = reloc->type == R_X86_64_DTPOFF64 ? 8 : 4;
	uint64_t value;
	struct pe_error *err = pe_sel_tls_offset(sel, unit, reloc->symbol, &value);

	if (err)
		return err;
	value += (uint64_t)reloc->addend;
	memcpy(code + reloc->offset, &value, size);
	reloc->symbol = NULL;
	return NULL;
}

/* Of a shared library, or through what the loader filled in. */
static struct pe_error *keep(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			     const struct pe_object_section *section, uint8_t *code, size_t *index,
			     struct pe_object_reloc *out)
{
	const struct pe_object_reloc *reloc = &section->relocs[*index];

	switch (reloc->type) {
	case R_X86_64_TLSGD:
		if (pe_image_is_program(sel->image))
			return general_to_initial(section, code, index, out);
		break;
	case R_X86_64_TLSLD:
	case R_X86_64_GOTTPOFF:
		break;
	case R_X86_64_DTPOFF32:
	case R_X86_64_DTPOFF64:
		*out = *reloc;
		++*index;
		return fill_offset(sel, unit, code, out);
	default:
		return refuse(section, reloc);
	}
	*out = *reloc;
	++*index;
	return NULL;
}

struct pe_error *pe_sel_tls_relax(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				  const struct pe_object_section *section, uint8_t *code,
				  size_t *index, struct pe_object_reloc *out)
{
	const struct pe_object_reloc *reloc = &section->relocs[*index];

	if (!code)
		return refuse(section, reloc);
	if (!pe_sel_tls_is_constant(sel, reloc->symbol))
		return keep(sel, unit, section, code, index, out);
	switch (reloc->type) {
	case R_X86_64_TLSGD:
		return relax_general(section, code, index, out);
	case R_X86_64_TLSLD:
		return relax_local(section, code, index, out);
	case R_X86_64_GOTTPOFF:
		return relax_initial(section, code, index, out);
	case R_X86_64_DTPOFF32:
	case R_X86_64_DTPOFF64:
		*out = *reloc;
		out->type = reloc->type == R_X86_64_DTPOFF32 ? R_X86_64_TPOFF32 : R_X86_64_TPOFF64;
		(*index)++;
		return NULL;
	default:
		return refuse(section, reloc);
	}
}
