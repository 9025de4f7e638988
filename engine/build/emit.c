/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Last pass: fills the patch from what was included.
 *
 * Order is by unit, then by section of the patched object, so the same inputs give the same bytes.
 * First all sections get their place (mergeable ones are packed from their pieces, each keeping
 * its alignment), then relocations are resolved again and symbols made in the order of their first
 * use, then come unwind tables and the replaced functions.
 */
#include <elf.h>
#include <openssl/evp.h>
#include <string.h>

#include "build/select_private.h"

static const uint64_t max_align = 4096;

/* ---- sections ---- */

static enum pe_patch_section_kind kind_of(const struct pe_object_section *s)
{
	if (s->flags & SHF_EXECINSTR)
		return PE_SECTION_TEXT;
	if (s->type == SHT_NOBITS)
		return PE_SECTION_BSS;
	return s->flags & SHF_WRITE ? PE_SECTION_DATA : PE_SECTION_RODATA;
}

struct pe_error *pe_sel_emit_section(struct pe_patch *patch, const char *name,
				     struct pe_patch_section **ret)
{
	void *grown =
		reallocarray(patch->sections, patch->section_count + 1, sizeof(*patch->sections));

	if (!grown)
		return pe_error_nomem();
	patch->sections = grown;
	*ret = &patch->sections[patch->section_count];
	memset(*ret, 0, sizeof(**ret));
	(*ret)->name = strdup(name);
	if (!(*ret)->name)
		return pe_error_nomem();
	patch->section_count++;
	return NULL;
}

/* Packs the pieces of a mergeable section; each keeps its place relative to the alignment. */
static uint64_t pack(const struct pe_object_section *s, struct pe_sel_section *info, uint64_t align)
{
	uint64_t end = 0;

	for (size_t i = 0; i < info->piece_count; i++) {
		struct pe_sel_piece *piece = &info->pieces[i];

		piece->out = end + (piece->start - end) % align;
		end = piece->out + piece->size;
	}
	return end;
}

static struct pe_error *place_section(struct pe_sel *sel, struct pe_sel_unit *unit,
				      struct pe_patch *patch, const struct pe_object_section *s)
{
	struct pe_sel_section *info = &unit->sections[s->index];
	struct pe_patch_section *out;

	if (s->align > max_align)
		return pe_error_new(PE_ERR_UNSUPPORTED, "%s: %s wants an alignment of %lu bytes",
				    unit->in->source, s->name, s->align);
	struct pe_error *err = pe_sel_emit_section(patch, s->name, &out);
	if (err)
		return err;
	info->out = patch->section_count - 1;
	out->kind = kind_of(s);
	out->align = s->align ? s->align : 1;
	out->size = pe_sel_is_mergeable(s) ? pack(s, info, out->align) : s->size;
	if (out->kind == PE_SECTION_BSS)
		return NULL;
	out->data = calloc(1, out->size ? out->size : 1);
	if (!out->data)
		return pe_error_nomem();
	if (!pe_sel_is_mergeable(s)) {
		if (s->size)
			memcpy(out->data, s->data, s->size);
		return NULL;
	}
	for (size_t i = 0; i < info->piece_count; i++)
		memcpy(out->data + info->pieces[i].out, s->data + info->pieces[i].start,
		       info->pieces[i].size);
	return NULL;
}

/* ---- symbols ---- */

static uint64_t local_value(const struct pe_sel_dest *dest)
{
	const struct pe_sel_section *info = &dest->unit->sections[dest->section->index];

	for (size_t i = 0; i < info->piece_count; i++) {
		if (info->pieces[i].start == dest->offset)
			return info->pieces[i].out;
	}
	return dest->offset;
}

struct pe_error *pe_sel_emit_symbol(struct pe_sel *sel, struct pe_patch *patch,
				    const struct pe_sel_dest *dest, uint32_t *ret)
{
	struct pe_patch_symbol made = { .kind = dest->kind,
					.type = dest->type,
					.global = dest->global,
					.value = dest->value,
					.size = dest->size };

	/* An indirect function of the target keeps its type: care-patch calls its resolver. */
	bool indirect = made.type == STT_GNU_IFUNC && dest->kind == PE_SYM_TARGET;
	if (made.type != STT_FUNC && made.type != STT_OBJECT && made.type != STT_TLS && !indirect)
		made.type = STT_NOTYPE;
	if (dest->kind == PE_SYM_LOCAL) {
		made.section = (uint32_t)dest->unit->sections[dest->section->index].out;
		made.value = local_value(dest);
	}
	for (size_t i = 0; i < patch->symbol_count; i++) {
		const struct pe_patch_symbol *s = &patch->symbols[i];

		if (s->kind == made.kind && s->value == made.value && s->section == made.section &&
		    !strcmp(s->name, dest->name)) {
			*ret = (uint32_t)i;
			return NULL;
		}
	}
	void *grown =
		reallocarray(patch->symbols, patch->symbol_count + 1, sizeof(*patch->symbols));
	if (!grown)
		return pe_error_nomem();
	patch->symbols = grown;
	made.name = strdup(dest->name);
	if (!made.name)
		return pe_error_nomem();
	*ret = (uint32_t)patch->symbol_count;
	patch->symbols[patch->symbol_count++] = made;
	return NULL;
}

/* ---- relocations ---- */

struct pe_error *pe_sel_emit_reloc(struct pe_sel *sel, struct pe_sel_unit *unit,
				   struct pe_patch *patch, size_t section,
				   const struct pe_object_section *from,
				   const struct pe_object_reloc *reloc, uint64_t offset)
{
	struct pe_sel_dest dest;
	struct pe_patch_reloc made = { .offset = offset, .type = reloc->type };

	/* The entry in the GOT is the image's own, so near. */
	if (pe_sel_tls_access(reloc) && !pe_sel_tls_is_constant(sel, reloc->symbol))
		made.type = R_X86_64_PC32;
	if (!sel->arch->reloc_known(made.type))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: %s+0x%lx needs relocation type %u (to %s), which a patch "
				    "cannot have",
				    unit->in->source, from->name, reloc->offset, reloc->type,
				    reloc->symbol->name);
	struct pe_error *err = pe_sel_resolve(sel, unit, from, reloc, &dest);
	if (!err)
		err = pe_sel_emit_symbol(sel, patch, &dest, &made.symbol);
	if (err)
		return err;
	made.addend = dest.addend;
	struct pe_patch_section *out = &patch->sections[section];
	out->relocs[out->reloc_count++] = made;
	return NULL;
}

static struct pe_error *emit_relocs(struct pe_sel *sel, struct pe_sel_unit *unit,
				    struct pe_patch *patch, const struct pe_object_section *s)
{
	size_t index = unit->sections[s->index].out;
	struct pe_patch_section *out = &patch->sections[index];

	if (pe_sel_is_mergeable(s) || !s->reloc_count)
		return NULL;
	out->relocs = calloc(s->reloc_count, sizeof(*out->relocs));
	if (!out->relocs)
		return pe_error_nomem();
	for (size_t i = 0; i < s->reloc_count;) {
		struct pe_object_reloc reloc = s->relocs[i];
		struct pe_error *err = NULL;

		if (pe_sel_tls_access(&reloc))
			err = pe_sel_tls_relax(sel, unit, s, out->data, &i, &reloc);
		else
			i++;
		if (!err && reloc.symbol)
			err = pe_sel_emit_reloc(sel, unit, patch, index, s, &reloc, reloc.offset);
		if (err)
			return err;
	}
	return NULL;
}

/* ---- replaced functions ---- */

static struct pe_error *emit_range(const struct pe_sel *sel, struct pe_patch_function *f,
				   const char *name, uint64_t vaddr, uint64_t size)
{
	struct pe_patch_range *range = &f->ranges[f->range_count];
	const void *code = pe_image_bytes(sel->image, vaddr, size);

	if (!code || !EVP_Digest(code, size, range->sha256, NULL, EVP_sha256(), NULL))
		return pe_error_new(PE_ERR_FORMAT, "cannot read the shipped code of %s at 0x%lx",
				    name, vaddr);
	range->vaddr = vaddr;
	range->size = size;
	f->range_count++;
	return NULL;
}

/* Where the image has the .cold part @cold of the base object. */
static struct pe_error *find_cold(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				  const struct pe_object_symbol *cold, uint64_t *vaddr,
				  uint64_t *size)
{
	const struct pe_match_function *m = pe_match_function_of(unit->in->match, cold);

	if (!m || !m->vaddr || m->verdict == PE_MATCH_DIFFERENT)
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s: %s is not in the shipped binary as compiled: %s",
				    unit->in->source, cold->name,
				    m && m->cause ? m->cause : "nothing leads to it");
	*vaddr = m->vaddr;
	*size = m->size;
	return NULL;
}

static struct pe_error *fill_function(struct pe_sel *sel, struct pe_sel_unit *unit,
				      struct pe_patch *patch, const struct pe_object_symbol *p,
				      struct pe_patch_function *f)
{
	const struct pe_sel_symbol *s = &unit->symbols[p->index];
	const struct pe_object_symbol *cold = unit->base.cold[s->base->index];
	struct pe_sel_dest dest = { .kind = PE_SYM_LOCAL,
				    .name = p->name,
				    .type = STT_FUNC,
				    .global = p->bind != STB_LOCAL,
				    .size = p->size,
				    .unit = unit,
				    .section = p->section,
				    .offset = p->value };
	struct pe_entry entry;
	uint64_t vaddr = 0, cold_size = 0;

	f->name = strdup(s->base->name);
	f->reason = strdup(s->reason);
	f->ranges = calloc(2, sizeof(*f->ranges));
	if (!f->name || !f->reason || !f->ranges)
		return pe_error_nomem();
	struct pe_error *err = pe_sel_emit_symbol(sel, patch, &dest, &f->symbol);
	if (!err)
		err = pe_sel_entry(sel, unit, p, &entry);
	/* A short function is overwritten together with padding behind it. */
	uint64_t overwritten = err ? 0 : entry.skip + (uint64_t)entry.displaced;
	if (!err)
		err = emit_range(sel, f, f->name, s->vaddr,
				 overwritten > s->size ? overwritten : s->size);
	if (!err && cold)
		err = find_cold(sel, unit, cold, &vaddr, &cold_size);
	if (!err && cold)
		err = emit_range(sel, f, cold->name, vaddr, cold_size);
	if (err)
		return err;
	f->entry_skip = entry.skip;
	f->entry_size = entry.displaced;
	f->displaced_call = entry.has_call;
	return NULL;
}

static struct pe_error *emit_functions(struct pe_sel *sel, struct pe_patch *patch)
{
	patch->functions = calloc(sel->replaced_count, sizeof(*patch->functions));
	if (!patch->functions)
		return pe_error_nomem();
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
			const struct pe_object_symbol *p = &unit->in->patched->symbols[i];

			if (!unit->symbols[i].reason)
				continue;
			struct pe_error *err = fill_function(
				sel, unit, patch, p, &patch->functions[patch->function_count++]);
			if (err)
				return err;
		}
	}
	return NULL;
}

/* ---- the rest ---- */

static struct pe_error *emit_target(const struct pe_sel *sel, struct pe_patch *patch)
{
	const char *soname = pe_image_soname(sel->image);
	const char *path = pe_image_path(sel->image);
	const char *slash = strrchr(path, '/');

	patch->targets = calloc(1, sizeof(*patch->targets));
	if (!patch->targets)
		return pe_error_nomem();
	patch->target_count = 1;
	struct pe_patch_target *target = &patch->targets[0];
	target->name = strdup(soname ? soname : slash ? slash + 1 : path);
	target->is_program = pe_image_is_program(sel->image);
	target->is_pie = pe_image_is_pie(sel->image);
	target->build_id = *pe_image_build_id(sel->image);
	target->machine = pe_image_machine(sel->image);
	return target->name ? NULL : pe_error_nomem();
}

typedef struct pe_error *section_step(struct pe_sel *sel, struct pe_sel_unit *unit,
				      struct pe_patch *patch, const struct pe_object_section *s);

static struct pe_error *each_section(struct pe_sel *sel, struct pe_patch *patch, section_step *step)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->section_count; i++) {
			struct pe_error *err =
				unit->sections[i].included
					? step(sel, unit, patch, &unit->in->patched->sections[i])
					: NULL;
			if (err)
				return err;
		}
	}
	return NULL;
}

struct pe_error *pe_sel_emit(struct pe_sel *sel, struct pe_patch *patch)
{
	struct pe_error *err = emit_target(sel, patch);

	if (!err)
		err = each_section(sel, patch, place_section);
	if (!err)
		err = emit_functions(sel, patch);
	if (!err)
		err = each_section(sel, patch, emit_relocs);
	if (!err)
		err = pe_sel_emit_unwind(sel, patch);
	return err;
}
