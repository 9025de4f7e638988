/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fourth pass: what the replaced functions need, and what each reference becomes.
 *
 * From the new bodies on, every relocation is followed. What the image has is referred to in the
 * image (a variable keeps its value, a function its identity: the old entry also of a replaced
 * one, whose jump leads on to whatever version is current); what it does not have is included and
 * followed in turn. Strings and constants without identity are copied piece by piece. An unwind
 * record is followed with the code that it describes.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

static const char *source_of(const struct pe_sel_unit *unit)
{
	return unit->in->source;
}

static struct pe_error *add_piece(struct pe_sel_section *s, uint64_t start, uint64_t size)
{
	size_t at = 0;

	while (at < s->piece_count && s->pieces[at].start < start)
		at++;
	if (at < s->piece_count && s->pieces[at].start == start)
		return NULL;
	void *grown = reallocarray(s->pieces, s->piece_count + 1, sizeof(*s->pieces));
	if (!grown)
		return pe_error_nomem();
	s->pieces = grown;
	memmove(&s->pieces[at + 1], &s->pieces[at], (s->piece_count - at) * sizeof(*s->pieces));
	s->pieces[at] = (struct pe_sel_piece){ .start = start, .size = size };
	s->piece_count++;
	return NULL;
}

struct pe_error *pe_sel_include(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_section *section)
{
	struct pe_sel_section *s = &unit->sections[section->index];

	if (s->included)
		return NULL;
	void *grown = reallocarray(sel->work, sel->work_count + 1, sizeof(*sel->work));
	if (!grown)
		return pe_error_nomem();
	sel->work = grown;
	sel->work[sel->work_count++] = (struct pe_sel_work){ unit, section };
	s->included = true;
	return NULL;
}

static void fill_local(struct pe_sel_dest *ret, struct pe_sel_unit *unit,
		       const struct pe_object_symbol *symbol, int64_t addend)
{
	*ret = (struct pe_sel_dest){ .kind = PE_SYM_LOCAL,
				     .name = symbol->name,
				     .type = symbol->type,
				     .global = symbol->bind != STB_LOCAL,
				     .size = symbol->size,
				     .addend = addend,
				     .unit = unit,
				     .section = symbol->section,
				     .offset = symbol->value };
}

static struct pe_error *include_symbol(struct pe_sel *sel, struct pe_sel_unit *unit,
				       const struct pe_object_symbol *symbol, int64_t addend,
				       struct pe_sel_dest *ret)
{
	fill_local(ret, unit, symbol, addend);
	return pe_sel_include(sel, unit, symbol->section);
}

static void fill_target(struct pe_sel_dest *ret, const struct pe_object_symbol *symbol,
			uint64_t vaddr, int64_t addend)
{
	*ret = (struct pe_sel_dest){ .kind = PE_SYM_TARGET,
				     .name = symbol->name,
				     .type = symbol->type,
				     .global = symbol->bind != STB_LOCAL,
				     .value = vaddr,
				     .size = symbol->size,
				     .addend = addend };
}

static struct pe_error *resolve_unnamed(struct pe_sel *sel, struct pe_sel_unit *unit,
					const struct pe_sel_ref *ref, struct pe_sel_dest *ret)
{
	uint64_t start = 0, size = ref->section->size;

	*ret = (struct pe_sel_dest){ .kind = PE_SYM_LOCAL,
				     .name = ref->section->name,
				     .type = STT_NOTYPE,
				     .unit = unit,
				     .section = ref->section };
	if (pe_sel_is_mergeable(ref->section)) {
		pe_sel_piece_at(ref->section, ref->offset, &start, &size);
		ret->type = STT_OBJECT;
		struct pe_error *err = add_piece(&unit->sections[ref->section->index], start, size);
		if (err)
			return err;
	} else if (!pe_sel_is_text(ref->section) && ref->section->flags & SHF_WRITE &&
		   strncmp(ref->section->name, ".data.rel", 9)) {
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: changed code refers to unnamed writable data in %s",
				    source_of(unit), ref->section->name);
	}
	ret->offset = start;
	ret->size = size;
	ret->addend = ref->addend - (int64_t)start;
	return pe_sel_include(sel, unit, ref->section);
}

/* ---- functions ---- */

/*
 * References that stay inside the new version: between a function and its .cold part, from its
 * jump tables, exception and unwind tables, into its middle. A reference to its entry goes to the
 * old entry like anybody's.
 */
static bool stays_inside(const struct pe_sel_unit *unit, const struct pe_object_section *from,
			 const struct pe_object_reloc *reloc, const struct pe_sel_ref *ref)
{
	const struct pe_object_symbol *to = ref->symbol;
	const struct pe_object_symbol *user = unit->patched.owner[from->index];

	if (unit->patched.parent[to->index])
		return true;
	if (!ref->through_section)
		return false;
	if (!user)
		user = pe_object_symbol_at(unit->in->patched, from, reloc->offset);
	if (pe_sel_is_text(from)) {
		const struct pe_object_symbol *parent =
			user ? unit->patched.parent[user->index] : NULL;

		return (from == to->section || (parent && parent->section == to->section)) &&
		       ref->offset != to->value;
	}
	return !user || (reloc->type == R_X86_64_64 && ref->addend != 0);
}

/* The first unit that defines a shared (weak, global) symbol provides it. */
static struct pe_sel_unit *provider(struct pe_sel *sel, struct pe_sel_unit *unit,
				    const struct pe_object_symbol **symbol)
{
	if ((*symbol)->bind == STB_LOCAL)
		return unit;
	for (size_t i = 0; i < sel->unit_count; i++) {
		struct pe_object_symbol *other =
			pe_sel_find(&sel->units[i].patched, (*symbol)->name);

		if (other && other->section && other->bind != STB_LOCAL) {
			*symbol = other;
			return &sel->units[i];
		}
	}
	return unit;
}

static struct pe_error *resolve_new(struct pe_sel *sel, struct pe_sel_unit *unit,
				    const struct pe_object_symbol *symbol, int64_t addend,
				    struct pe_sel_dest *ret)
{
	bool found = false;

	if (symbol->bind != STB_LOCAL) {
		struct pe_error *err = pe_sel_in_image(sel, symbol, ret, &found);
		if (err)
			return err;
	}
	if (found) {
		ret->addend = addend;
		return NULL;
	}
	struct pe_sel_unit *from = provider(sel, unit, &symbol);
	struct pe_sel_symbol *s = &from->symbols[symbol->index];
	if (s->state == PE_SEL_SAME)
		s->state = PE_SEL_NEW; /* the image lost it: inlined everywhere, or collected */
	return include_symbol(sel, from, symbol, addend, ret);
}

/* What its resolver chose when the program started stays chosen. */
static struct pe_error *resolve_indirect(struct pe_sel *sel, struct pe_sel_unit *unit,
					 const struct pe_object_symbol *symbol, int64_t addend,
					 struct pe_sel_dest *ret)
{
	bool found = false;
	struct pe_error *err = pe_sel_in_image(sel, symbol, ret, &found);

	if (err)
		return pe_error_wrap(err, "%s", source_of(unit));
	if (!found)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: changed code calls %s, an indirect function that the "
				    "shipped binary does not have",
				    source_of(unit), symbol->name);
	ret->addend = addend;
	return NULL;
}

static struct pe_error *resolve_function(struct pe_sel *sel, struct pe_sel_unit *unit,
					 const struct pe_object_section *from,
					 const struct pe_object_reloc *reloc,
					 const struct pe_sel_ref *ref, struct pe_sel_dest *ret)
{
	const struct pe_object_symbol *symbol = ref->symbol;
	const struct pe_sel_symbol *s = &unit->symbols[symbol->index];

	if (stays_inside(unit, from, reloc, ref))
		return include_symbol(sel, unit, symbol, ref->addend, ret);
	if (symbol->type == STT_GNU_IFUNC)
		return resolve_indirect(sel, unit, symbol, ref->addend, ret);
	if (s->replaced) {
		fill_target(ret, symbol, s->vaddr, ref->addend);
		return NULL;
	}
	if (s->state != PE_SEL_SAME)
		return resolve_new(sel, unit, symbol, ref->addend, ret);

	const struct pe_match_function *m = pe_match_function_of(unit->in->match, s->base);
	if (!m || m->verdict == PE_MATCH_ABSENT)
		return resolve_new(sel, unit, symbol, ref->addend, ret);
	/* A section per function costs a clone the short jump to its neighbour; a copy serves. */
	if (m->verdict == PE_MATCH_DIFFERENT && pe_sel_is_clone(symbol))
		return resolve_new(sel, unit, symbol, ref->addend, ret);
	if (m->verdict == PE_MATCH_DIFFERENT && symbol->bind == STB_LOCAL) {
		pe_auto_free char *name = pe_demangle(symbol->name);
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s: changed code calls %s, whose shipped code is not what "
				    "this source gives: %s",
				    source_of(unit), name ? name : symbol->name,
				    m->cause ? m->cause : "it differs");
	}
	if (!m->vaddr)
		return resolve_new(sel, unit, symbol, ref->addend, ret);
	fill_target(ret, symbol, m->vaddr, ref->addend);
	return NULL;
}

/* ---- data ---- */

static struct pe_error *refuse_doubtful(const struct pe_sel_unit *unit,
					const struct pe_object_symbol *symbol)
{
	pe_auto_free char *name = pe_demangle(symbol->name);

	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: cannot tell which of several variables of the old code %s is; "
			    "give the new one another name",
			    source_of(unit), name ? name : symbol->name);
}

static struct pe_error *resolve_data(struct pe_sel *sel, struct pe_sel_unit *unit,
				     const struct pe_sel_ref *ref, struct pe_sel_dest *ret)
{
	const struct pe_object_symbol *symbol = ref->symbol;
	const struct pe_sel_symbol *s = &unit->symbols[symbol->index];
	uint64_t vaddr;
	bool found = false;

	if (s->doubtful)
		return refuse_doubtful(unit, symbol);
	if (pe_sel_is_compiler_constant(symbol) || s->state == PE_SEL_CHANGED)
		return include_symbol(sel, unit, symbol, ref->addend, ret);
	if (s->state == PE_SEL_NEW)
		return resolve_new(sel, unit, symbol, ref->addend, ret);
	if (s->base && pe_match_address(unit->in->match, s->base, &vaddr)) {
		fill_target(ret, symbol, vaddr, ref->addend);
		return NULL;
	}
	/* By name alone only what has one name for all: a static may have a namesake. */
	if (symbol->bind != STB_LOCAL) {
		struct pe_error *err = pe_sel_in_image(sel, symbol, ret, &found);
		if (err || found) {
			ret->addend = ref->addend;
			return err;
		}
	}
	/* Without identity or state a copy is as good. */
	if ((symbol->bind != STB_LOCAL && symbol->bind != STB_GLOBAL) ||
	    !(symbol->section->flags & SHF_WRITE))
		return resolve_new(sel, unit, symbol, ref->addend, ret);
	pe_auto_free char *name = pe_demangle(symbol->name);
	return pe_error_new(PE_ERR_MISMATCH,
			    "%s: changed code uses %s, whose address in the shipped binary is "
			    "unknown",
			    source_of(unit), name ? name : symbol->name);
}

/* ---- anything ---- */

static struct pe_error *resolve_undefined(struct pe_sel *sel, struct pe_sel_unit *unit,
					  const struct pe_object_symbol *symbol, int64_t addend,
					  struct pe_sel_dest *ret)
{
	const struct pe_sel_symbol *s = &unit->symbols[symbol->index];
	uint64_t vaddr = 0;
	bool found = false;

	struct pe_error *err = pe_sel_in_image(sel, symbol, ret, &found);
	if (err)
		return err;
	if (!found && s->base && s->base->bind != STB_WEAK &&
	    pe_match_address(unit->in->match, s->base, &vaddr)) {
		fill_target(ret, symbol, vaddr, addend);
		return NULL;
	}
	if (!found) {
		const struct pe_object_symbol *other = symbol;
		struct pe_sel_unit *from = provider(sel, unit, &other);

		if (other->section)
			return resolve_new(sel, from, other, addend, ret);
		err = pe_sel_outside(sel, symbol, ret, &found);
		if (!err && !found && sel->options->address) {
			err = sel->options->address(sel->options->address_ctx, symbol->name, &vaddr,
						    &found);
			fill_target(ret, symbol, vaddr, addend);
		}
		if (err)
			return err;
	}
	ret->addend = addend;
	if (found)
		return NULL;
	pe_auto_free char *name = pe_demangle(symbol->name);
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: changed code refers to %s, which neither the shipped binary nor "
			    "a library that it needs defines",
			    source_of(unit), name ? name : symbol->name);
}

/* A field that must lie near what it refers to cannot reach another library. */
static struct pe_error *check_reach(const struct pe_sel_unit *unit,
				    const struct pe_object_section *from,
				    const struct pe_object_reloc *reloc,
				    const struct pe_sel_dest *dest)
{
	if (dest->kind != PE_SYM_IMPORT && dest->kind != PE_SYM_SLOT)
		return NULL;
	if (reloc->type != R_X86_64_PC32 && reloc->type != R_X86_64_32 &&
	    reloc->type != R_X86_64_32S)
		return NULL;
	uint8_t before = reloc->offset && from->data ? from->data[reloc->offset - 1] : 0;
	if (pe_sel_is_text(from) && reloc->type == R_X86_64_PC32 &&
	    (before == 0xe8 || before == 0xe9))
		return NULL;
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: code in %s refers directly to %s of another library, which may "
			    "be too far away; compile it as position-independent code",
			    source_of(unit), from->name, dest->name);
}

struct pe_error *pe_sel_resolve(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_section *section,
				const struct pe_object_reloc *reloc, struct pe_sel_dest *ret)
{
	struct pe_sel_ref ref = pe_sel_ref_of(&unit->patched, section, reloc);
	struct pe_error *err;

	if (!ref.symbol)
		return resolve_unnamed(sel, unit, &ref, ret);
	if (ref.symbol->type == STT_TLS || reloc->type == R_X86_64_GOTTPOFF ||
	    reloc->type == R_X86_64_TPOFF32) {
		err = pe_sel_thread_local(sel, unit, ref.symbol, reloc->type, ret);
		ret->addend = ref.addend;
		return err;
	}
	if (!ref.symbol->section)
		err = resolve_undefined(sel, unit, ref.symbol, ref.addend, ret);
	else if (pe_sel_is_text(ref.section))
		err = resolve_function(sel, unit, section, reloc, &ref, ret);
	else
		err = resolve_data(sel, unit, &ref, ret);
	return err ? err : check_reach(unit, section, reloc, ret);
}

/* ---- following ---- */

static struct pe_error *follow_relocs(struct pe_sel *sel, struct pe_sel_unit *unit,
				      const struct pe_object_section *section, uint64_t start,
				      uint64_t end)
{
	size_t count;
	const struct pe_object_reloc *relocs = pe_object_relocs_in(section, start, end, &count);
	pe_auto_free uint8_t *code = NULL;

	if (section->data && section->size) {
		code = malloc(section->size);
		if (!code)
			return pe_error_nomem();
		memcpy(code, section->data, section->size);
	}
	size_t base = (size_t)(relocs - section->relocs);
	for (size_t i = base; i < base + count;) {
		struct pe_object_reloc reloc = section->relocs[i];
		struct pe_sel_dest dest;
		struct pe_error *err = NULL;

		if (pe_sel_tls_access(&reloc))
			err = pe_sel_tls_relax(sel, unit, section, code, &i, &reloc);
		else
			i++;
		if (!err && reloc.symbol)
			err = pe_sel_resolve(sel, unit, section, &reloc, &dest);
		if (err)
			return err;
	}
	return NULL;
}

/* The unwind records of a piece of code, and what they refer to besides it. */
static struct pe_error *follow_frames(struct pe_sel *sel, struct pe_sel_unit *unit,
				      const struct pe_object_section *text)
{
	struct pe_sel_object *so = &unit->patched;

	for (size_t i = 0; i < so->frame_count; i++) {
		struct pe_sel_frame *fde = &so->frames[i];
		if (fde->is_cie || fde->text != text)
			continue;
		struct pe_sel_frame *cie = &so->frames[fde->cie];
		fde->used = true;
		struct pe_error *err = follow_relocs(sel, unit, so->eh_frame, fde->start + 9,
						     fde->start + fde->size);
		if (!err && !cie->used)
			err = follow_relocs(sel, unit, so->eh_frame, cie->start,
					    cie->start + cie->size);
		if (err)
			return err;
		cie->used = true;
	}
	return NULL;
}

struct pe_error *pe_sel_closure(struct pe_sel *sel)
{
	struct pe_error *err = NULL;

	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count && !err; i++) {
			if (unit->symbols[i].replaced && unit->symbols[i].reason)
				err = pe_sel_include(sel, unit,
						     unit->in->patched->symbols[i].section);
		}
	}
	/* The list grows while it is worked off. */
	for (size_t i = 0; i < sel->work_count && !err; i++) {
		struct pe_sel_work work = sel->work[i];

		if (!pe_sel_is_mergeable(work.section))
			err = follow_relocs(sel, work.unit, work.section, 0, work.section->size);
		if (!err && pe_sel_is_text(work.section))
			err = follow_frames(sel, work.unit, work.section);
	}
	return err;
}
