/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Second pass: which functions changed.
 *
 * Two functions are equal when their bytes outside relocation fields are, and when their
 * relocations agree pairwise: same place and type, leading to the same thing. The same thing is a
 * correlated symbol with the same addend, whatever number the compiler gave it; a string or a
 * constant with the same content; a jump table or another unnamed piece with equal content, looked
 * into the same way. The .cold part and the exception table belong to the function: a handler that
 * catches another type may differ in the table alone.
 *
 * Existing variables keep their values in a running process, so a changed initial value would not
 * take effect: refused, with the name, by the guard (guard.c), which looks for the cause first: a
 * changed type. Constants inside functions are new data instead, and then
 * whoever refers to them counts as changed.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

/* Contents that refer to each other in a circle are equal when nothing else differs. */
static const unsigned int max_depth = 16;

static bool constant(const struct pe_object_symbol *symbol)
{
	return pe_sel_is_compiler_constant(symbol) || pe_sel_is_local_constant(symbol);
}

static bool ranges_equal(struct pe_sel_unit *unit, const struct pe_object_section *bs, uint64_t bo,
			 const struct pe_object_section *ps, uint64_t po, uint64_t size)
{
	size_t bn, pn;
	const struct pe_object_reloc *br = pe_object_relocs_in(bs, bo, bo + size, &bn);
	const struct pe_object_reloc *pr = pe_object_relocs_in(ps, po, po + size, &pn);

	if (!bs->data || !ps->data)
		return !bs->data && !ps->data;
	if (bn != pn || bo + size > bs->size || po + size > ps->size)
		return false;
	uint64_t at = 0; /* relative to both starts */
	for (size_t i = 0; i < bn; i++) {
		uint64_t field = br[i].offset - bo;

		if (field != pr[i].offset - po || br[i].type != pr[i].type)
			return false;
		if (field > at && memcmp(bs->data + bo + at, ps->data + po + at, field - at))
			return false;
		if (!pe_sel_refs_equal(unit, bs, &br[i], ps, &pr[i]))
			return false;
		at = field + pe_sel_field_size(unit->base.arch, br[i].type);
	}
	return at >= size || !memcmp(bs->data + bo + at, ps->data + po + at, size - at);
}

static bool contents_equal(struct pe_sel_unit *unit, const struct pe_object_symbol *b,
			   const struct pe_object_symbol *p)
{
	return b->size == p->size &&
	       ranges_equal(unit, b->section, b->value, p->section, p->value, b->size);
}

bool pe_sel_sections_equal(struct pe_sel_unit *unit, const struct pe_object_section *b,
			   const struct pe_object_section *p)
{
	return b->size == p->size && ranges_equal(unit, b, 0, p, 0, b->size);
}

/* Bytes from @offset to the next place of the unnamed @section that anything refers to. */
static uint64_t unnamed_size(const struct pe_sel_object *so,
			     const struct pe_object_section *section, uint64_t offset)
{
	uint64_t end = section->size;

	for (size_t i = 1; i < so->object->section_count; i++) {
		const struct pe_object_section *from = &so->object->sections[i];

		if (!pe_sel_is_text(from) && !pe_sel_is_data(from))
			continue;
		for (size_t r = 0; r < from->reloc_count; r++) {
			if (from->relocs[r].symbol->section != section)
				continue;
			struct pe_sel_ref ref = pe_sel_ref_of(so, from, &from->relocs[r]);
			if (ref.offset > offset && ref.offset < end)
				end = ref.offset;
		}
	}
	return end - offset;
}

static bool unnamed_equal(struct pe_sel_unit *unit, const struct pe_sel_ref *b,
			  const struct pe_sel_ref *p)
{
	uint64_t bstart, bsize, pstart, psize;

	if (pe_sel_is_mergeable(b->section) != pe_sel_is_mergeable(p->section))
		return false;
	if (pe_sel_is_mergeable(b->section)) {
		pe_sel_piece_at(b->section, b->offset, &bstart, &bsize);
		pe_sel_piece_at(p->section, p->offset, &pstart, &psize);
		return bsize == psize &&
		       b->addend - (int64_t)bstart == p->addend - (int64_t)pstart &&
		       !memcmp(b->section->data + bstart, p->section->data + pstart, bsize);
	}
	if (unit->depth >= max_depth)
		return true;
	unit->depth++;
	bool equal = b->addend == p->addend && pe_sel_sections_equal(unit, b->section, p->section);
	if (!equal && b->offset < b->section->size && p->offset < p->section->size) {
		bsize = unnamed_size(&unit->base, b->section, b->offset);
		psize = unnamed_size(&unit->patched, p->section, p->offset);
		/* The last one of a section has no padding behind it. */
		uint64_t size = bsize < psize ? bsize : psize;
		equal = b->addend - (int64_t)b->offset == p->addend - (int64_t)p->offset &&
			ranges_equal(unit, b->section, b->offset, p->section, p->offset, size);
	}
	unit->depth--;
	return equal;
}

/* Counterparts, or aliases of counterparts (the two names of a constructor). */
static bool correlated(const struct pe_sel_unit *unit, const struct pe_object_symbol *b,
		       const struct pe_object_symbol *p)
{
	const struct pe_object_symbol *to = unit->counterpart[b->index];

	return to &&
	       (to == p || (to->section && to->section == p->section && to->value == p->value));
}

bool pe_sel_refs_equal(struct pe_sel_unit *unit, const struct pe_object_section *bs,
		       const struct pe_object_reloc *br, const struct pe_object_section *ps,
		       const struct pe_object_reloc *pr)
{
	struct pe_sel_ref b = pe_sel_ref_of(&unit->base, bs, br);
	struct pe_sel_ref p = pe_sel_ref_of(&unit->patched, ps, pr);

	if (!b.symbol && !p.symbol)
		return unnamed_equal(unit, &b, &p);
	if (!b.symbol || !p.symbol || b.addend != p.addend)
		return false;
	if (!b.symbol->section || !p.symbol->section) /* one may define what the other imports */
		return !strcmp(b.symbol->name, p.symbol->name);
	if (!correlated(unit, b.symbol, p.symbol))
		return false;
	if (!constant(p.symbol) || unit->depth >= max_depth)
		return true;
	unit->depth++;
	bool equal = contents_equal(unit, b.symbol, p.symbol);
	unit->depth--;
	return equal;
}

/* ---- functions ---- */

static bool lsda_equal(struct pe_sel_unit *unit, const struct pe_object_section *b,
		       const struct pe_object_section *p)
{
	const struct pe_object_section *bl = pe_sel_lsda(&unit->base, b);
	const struct pe_object_section *pl = pe_sel_lsda(&unit->patched, p);

	if (!bl || !pl)
		return !bl && !pl;
	return pe_sel_sections_equal(unit, bl, pl);
}

static bool functions_equal(struct pe_sel_unit *unit, const struct pe_object_symbol *b,
			    const struct pe_object_symbol *p)
{
	const struct pe_object_symbol *bc = unit->base.cold[b->index];
	const struct pe_object_symbol *pc = unit->patched.cold[p->index];

	if (!contents_equal(unit, b, p) || !lsda_equal(unit, b->section, p->section))
		return false;
	if (!bc || !pc)
		return !bc && !pc;
	return contents_equal(unit, bc, pc) && lsda_equal(unit, bc->section, pc->section);
}

static bool text_refs_alike(const struct pe_sel_object *a, const struct pe_object_section *as,
			    const struct pe_object_reloc *ar, const struct pe_sel_object *b,
			    const struct pe_object_section *bs, const struct pe_object_reloc *br)
{
	struct pe_sel_ref x = pe_sel_ref_of(a, as, ar), y = pe_sel_ref_of(b, bs, br);
	uint64_t xs, xn, ys, yn;

	if (ar->type != br->type)
		return false;
	if (x.symbol && y.symbol)
		return x.addend == y.addend && !strcmp(x.symbol->name, y.symbol->name);
	if (x.symbol || y.symbol || !pe_sel_is_mergeable(x.section) ||
	    !pe_sel_is_mergeable(y.section))
		return false;
	pe_sel_piece_at(x.section, x.offset, &xs, &xn);
	pe_sel_piece_at(y.section, y.offset, &ys, &yn);
	return xn == yn && x.addend - (int64_t)xs == y.addend - (int64_t)ys &&
	       !memcmp(x.section->data + xs, y.section->data + ys, xn);
}

bool pe_sel_same_code(const struct pe_sel_unit *ua, const struct pe_object_symbol *a,
		      const struct pe_sel_unit *ub, const struct pe_object_symbol *b)
{
	size_t an, bn;

	if (a->section == b->section)
		return a->value == b->value;
	if (a->size != b->size || !a->section->data || !b->section->data)
		return false;
	const struct pe_object_reloc *ar =
		pe_object_relocs_in(a->section, a->value, a->value + a->size, &an);
	const struct pe_object_reloc *br =
		pe_object_relocs_in(b->section, b->value, b->value + b->size, &bn);
	if (an != bn || memcmp(a->section->data + a->value, b->section->data + b->value, a->size))
		return false; /* relocation fields are zero in a RELA object */
	for (size_t i = 0; i < an; i++) {
		if (ar[i].offset - a->value != br[i].offset - b->value ||
		    !text_refs_alike(&ua->patched, a->section, &ar[i], &ub->patched, b->section,
				     &br[i]))
			return false;
	}
	return true;
}

/* ---- data ---- */

static struct pe_error *refuse_data(const struct pe_sel_unit *unit,
				    const struct pe_object_symbol *b,
				    const struct pe_object_symbol *p)
{
	pe_auto_free char *name = pe_demangle(p->name);
	const char *source = unit->in->source;

	if (!name)
		return pe_error_nomem();
	if (!strncmp(p->name, "_ZTV", 4) || !strncmp(p->name, "_ZTC", 4) ||
	    !strncmp(p->name, "_ZTT", 4))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the patch changes the %s, which existing objects use",
				    source, name);
	if (!strncmp(p->name, "_ZTI", 4) || !strncmp(p->name, "_ZTS", 4))
		return pe_error_new(PE_ERR_UNSUPPORTED, "%s: the patch changes the %s", source,
				    name);
	if (b->size != p->size)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the patch changes the size of the existing variable %s "
				    "from %lu to %lu bytes",
				    source, name, b->size, p->size);
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: the patch changes the initial value of the existing %s %s: a "
			    "running process keeps the value that it has",
			    source, p->section->flags & SHF_WRITE ? "variable" : "constant", name);
}

struct pe_error *pe_sel_guard_data(const struct pe_sel_unit *unit)
{
	const struct pe_object_symbol *p = unit->changed_data;

	return p ? refuse_data(unit, unit->symbols[p->index].base, p) : NULL;
}

static void note_data(struct pe_sel_unit *unit, const struct pe_object_symbol *p)
{
	if (!unit->changed_data)
		unit->changed_data = p;
}

static void compare_data(struct pe_sel_unit *unit, const struct pe_object_symbol *p)
{
	struct pe_sel_symbol *s = &unit->symbols[p->index];
	const struct pe_object_symbol *b = s->base;

	if (!b || !b->section) {
		s->state = PE_SEL_NEW;
		return;
	}
	if (contents_equal(unit, b, p))
		return;
	s->state = PE_SEL_CHANGED;
	if (!constant(p))
		note_data(unit, p);
}

/*
 * A table of labels (computed goto) points into the code of one version: next to a changed
 * function it is new even when it looks the same.
 */
static void compare_labels(struct pe_sel_unit *unit, const struct pe_object_symbol *p)
{
	struct pe_sel_symbol *s = &unit->symbols[p->index];
	size_t count;
	const struct pe_object_reloc *relocs =
		pe_object_relocs_in(p->section, p->value, p->value + p->size, &count);

	for (size_t i = 0; i < count && s->state == PE_SEL_SAME; i++) {
		struct pe_sel_ref ref = pe_sel_ref_of(&unit->patched, p->section, &relocs[i]);

		if (!ref.symbol || !ref.section || !pe_sel_is_text(ref.section) || !ref.addend ||
		    unit->symbols[ref.symbol->index].state != PE_SEL_CHANGED)
			continue;
		if (!constant(p))
			note_data(unit, p);
		s->state = PE_SEL_CHANGED;
	}
}

static void compare_all_labels(struct pe_sel_unit *unit)
{
	for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
		struct pe_object_symbol *p = &unit->in->patched->symbols[i];

		if (p->type == STT_OBJECT && p->section && pe_sel_is_data(p->section))
			compare_labels(unit, p);
	}
}

void pe_sel_compare(struct pe_sel_unit *unit)
{
	const struct pe_object *object = unit->in->patched;

	for (size_t i = 1; i < object->symbol_count; i++) {
		struct pe_object_symbol *p = &object->symbols[i];
		struct pe_sel_symbol *s = &unit->symbols[i];

		if (!p->section || p->type == STT_SECTION || pe_sel_is_label(p))
			continue;
		if (pe_sel_is_text(p->section)) {
			if (!s->base || !s->base->section)
				s->state = PE_SEL_NEW;
			else if (!unit->patched.parent[i] && !functions_equal(unit, s->base, p))
				s->state = PE_SEL_CHANGED;
		} else if (p->type == STT_OBJECT && pe_sel_is_data(p->section)) {
			compare_data(unit, p);
		} else if (!s->base || !s->base->section) {
			s->state = PE_SEL_NEW;
		}
	}
	compare_all_labels(unit);
}
