/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a thread-local is found (ELF Handling For Thread-Local Storage, 3.4).
 *
 * The program's own are at constant offsets from the thread pointer: access to them is relaxed
 * (select_tls.c). Those of a shared library, and a library's that a program uses, are found
 * through what the loader filled in for the image: a pair of module and offset for
 * __tls_get_addr, or an offset from the thread pointer. New code uses the image's own, so it finds
 * exactly what the old code finds; where the image has none, it is refused: nothing else in the
 * process tells a library's place.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

/* Bytes from the start of the image's block to the thread pointer (variant II: the block's end). */
static uint64_t block_size(const struct pe_image *image)
{
	uint64_t size, align;

	pe_image_tls(image, &size, &align);
	return align > 1 ? (size + align - 1) / align * align : size;
}

/* Offset of the image's own variable in its block; *count: how many it might be. */
static uint64_t own_offset(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			   const struct pe_object_symbol *symbol, size_t *count)
{
	const struct pe_object_symbol *base = unit->symbols[symbol->index].base;
	const struct pe_image_symbol *only = NULL;
	int64_t offset;
	size_t found;

	*count = 1;
	if (base && pe_match_tls_offset(unit->in->match, base, &offset))
		return (uint64_t)offset + block_size(sel->image);
	const struct pe_image_symbol *const *list = pe_image_find(sel->image, symbol->name, &found);
	*count = 0;
	for (size_t i = 0; i < found; i++) {
		if (list[i]->type != STT_TLS || (only && only->vaddr == list[i]->vaddr))
			continue;
		only = list[i];
		++*count;
	}
	return only ? only->vaddr : 0;
}

static struct pe_error *refuse_unknown(const struct pe_sel_unit *unit, const char *name,
				       size_t count)
{
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: changed code uses the thread-local %s, which %s", unit->in->source,
			    name,
			    count ? "several symbols of the shipped binary may be"
				  : "the shipped binary does not have");
}

static struct pe_error *refuse_new(const struct pe_sel_unit *unit,
				   const struct pe_object_symbol *symbol, const char *name)
{
	const struct pe_sel_symbol *s = &unit->symbols[symbol->index];

	if (!s->doubtful && (!symbol->section || s->base))
		return NULL;
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: the patch adds the thread-local variable %s: running threads have "
			    "no room for it",
			    unit->in->source, name);
}

bool pe_sel_tls_is_constant(const struct pe_sel *sel, const struct pe_object_symbol *symbol)
{
	return pe_image_is_program(sel->image) &&
	       (symbol->section || !pe_image_tls_slot(sel->image, R_X86_64_TPOFF64, symbol->name));
}

struct pe_error *pe_sel_tls_offset(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				   const struct pe_object_symbol *symbol, uint64_t *ret)
{
	pe_auto_free char *name = pe_demangle(symbol->name);
	size_t count;

	if (!name)
		return pe_error_nomem();
	struct pe_error *err = refuse_new(unit, symbol, name);
	if (err)
		return err;
	*ret = own_offset(sel, unit, symbol, &count);
	return count == 1 ? NULL : refuse_unknown(unit, name, count);
}

/* What the loader filled in so that the image's code finds @symbol by an access of that type. */
static const struct pe_image_slot *slot_of(const struct pe_sel *sel, const struct pe_sel_unit *unit,
					   const struct pe_object_symbol *symbol, uint32_t access)
{
	uint32_t type = access == R_X86_64_GOTTPOFF ? R_X86_64_TPOFF64 : R_X86_64_DTPMOD64;
	const struct pe_image_slot *named = NULL;
	size_t count;

	if (access == R_X86_64_TLSLD)
		return pe_image_tls_own_slot(sel->image, type, 0);
	/* A slot's name is never that of a static variable. */
	if (symbol->bind != STB_LOCAL)
		named = pe_image_tls_slot(sel->image, type, symbol->name);
	if (named)
		return named;
	uint64_t offset = own_offset(sel, unit, symbol, &count);
	return count == 1 ? pe_image_tls_own_slot(sel->image, type, offset) : NULL;
}

struct pe_error *pe_sel_thread_local(struct pe_sel *sel, struct pe_sel_unit *unit,
				     const struct pe_object_symbol *symbol, uint32_t access,
				     struct pe_sel_dest *ret)
{
	pe_auto_free char *name = pe_demangle(symbol->name);
	uint64_t offset = 0;

	if (!name)
		return pe_error_nomem();
	*ret = (struct pe_sel_dest){ .name = symbol->name,
				     .global = symbol->bind != STB_LOCAL,
				     .size = symbol->size };
	if (pe_sel_tls_is_constant(sel, symbol)) {
		struct pe_error *err = pe_sel_tls_offset(sel, unit, symbol, &offset);

		ret->kind = PE_SYM_TPOFF;
		ret->type = STT_TLS;
		ret->value = offset - block_size(sel->image);
		return err;
	}
	struct pe_error *err = refuse_new(unit, symbol, name);
	if (err)
		return err;
	const struct pe_image_slot *slot = slot_of(sel, unit, symbol, access);
	if (!slot)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: changed code uses the thread-local %s by %s, but nothing "
				    "in the shipped binary finds it in that way, so there is no "
				    "entry in its GOT to find it by",
				    unit->in->source, name,
				    access == R_X86_64_GOTTPOFF ? "its offset (initial-exec)"
				    : access == R_X86_64_TLSLD	? "its module (local-dynamic)"
							       : "__tls_get_addr (global-dynamic)");
	ret->kind = PE_SYM_TARGET;
	ret->type = STT_OBJECT;
	ret->value = slot->vaddr;
	ret->size = slot->type == R_X86_64_DTPMOD64 ? 16 : 8;
	return NULL;
}
