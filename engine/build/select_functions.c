/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Third pass: which functions of the image are replaced.
 *
 * A changed function that the image has must be there exactly as this source and these flags give
 * it, or nothing that we know about it holds. One that the image lacks was inlined everywhere; its
 * callers changed with it and are found by themselves. A weak function that several units define
 * is replaced once, by the first unit's version: the image has one copy that all use.
 *
 * GCC looks across functions: a caller inlines its callee, or (-fipa-ra) keeps values in registers
 * that it knows the callee leaves alone. Where a replaced function knows another replaced one in
 * such a way, the two cannot change one by one.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

static bool replaced_already(const struct pe_sel *sel, uint64_t vaddr)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		const struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
			if (unit->symbols[i].reason && unit->symbols[i].vaddr == vaddr)
				return true;
		}
	}
	return false;
}

static struct pe_error *replace(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_symbol *p)
{
	struct pe_sel_symbol *s = &unit->symbols[p->index];
	const struct pe_match_function *m = pe_match_function_of(unit->in->match, s->base);

	if (!m || m->verdict == PE_MATCH_ABSENT)
		return NULL;
	if (m->verdict == PE_MATCH_DIFFERENT || !m->vaddr) {
		pe_auto_free char *name = pe_demangle(p->name);
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s: the patch changes %s, whose shipped code is not what this "
				    "source gives: %s",
				    unit->in->source, name ? name : p->name,
				    m->cause ? m->cause : "it differs");
	}
	if (!m->vaddr) {
		pe_auto_free char *name = pe_demangle(p->name);
		return pe_error_new(PE_ERR_MISMATCH,
				    "%s: the patch changes %s, but its place in the shipped binary "
				    "is not certain: %s",
				    unit->in->source, name ? name : p->name,
				    m->cause ? m->cause : "several copies are equal");
	}
	s->replaced = true;
	s->vaddr = m->vaddr;
	s->size = m->size;
	if (replaced_already(sel, m->vaddr))
		return NULL;
	s->reason = strdup("changed");
	sel->replaced_count++;
	return s->reason ? NULL : pe_error_nomem();
}

/* May the compiler rely on the body of @symbol that it sees? */
static bool body_known(const struct pe_object_symbol *symbol)
{
	return symbol->bind == STB_LOCAL || symbol->visibility == STV_HIDDEN ||
	       symbol->visibility == STV_INTERNAL;
}

static struct pe_error *entangle(struct pe_sel *sel, const char *caller, const char *callee,
				 const char *how)
{
	pe_auto_free char *a = pe_demangle(caller), *b = pe_demangle(callee);

	if (sel->entangled)
		return NULL;
	sel->entangled = true;
	if (!a || !b || asprintf(&sel->entangled_why, "%s %s %s", a, how, b) < 0)
		return pe_error_nomem();
	return NULL;
}

/* A replaced function that @p calls and whose body the compiler knew; NULL when there is none. */
static const struct pe_object_symbol *known_callee(const struct pe_sel_unit *unit,
						   const struct pe_object_symbol *p)
{
	const struct pe_object_section *s = p->section;
	size_t count;
	const struct pe_object_reloc *relocs =
		pe_object_relocs_in(s, p->value, p->value + p->size, &count);

	for (size_t i = 0; i < count; i++) {
		struct pe_sel_ref ref = pe_sel_ref_of(&unit->patched, s, &relocs[i]);

		if (ref.symbol && ref.symbol != p && ref.section &&
		    unit->symbols[ref.symbol->index].replaced && body_known(ref.symbol) &&
		    (relocs[i].type == R_X86_64_PLT32 || relocs[i].type == R_X86_64_PC32))
			return ref.symbol;
	}
	return NULL;
}

static struct pe_error *replace_text(char **text, const char *with)
{
	free(*text);
	*text = strdup(with);
	return *text ? NULL : pe_error_nomem();
}

static struct pe_error *set_reason(struct pe_sel_symbol *s, const char *how, const char *what)
{
	pe_auto_free char *name = pe_demangle(what);
	char *reason;

	if (!name || asprintf(&reason, "%s %s%s", how, name, strchr(name, '(') ? "" : "()") < 0)
		return pe_error_nomem();
	free(s->reason);
	s->reason = reason;
	return NULL;
}

/* "inlines foo()" or "compiled with foo()" where another function accounts for the change. */
static struct pe_error *explain(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_symbol *p)
{
	const struct pe_object_symbol *callee = known_callee(unit, p);
	struct pe_sel_symbol *s = &unit->symbols[p->index];
	pe_auto_free char *inlined = NULL;
	enum pe_sel_why why;

	struct pe_error *err = pe_sel_why(sel, unit, p, &why, &inlined);
	if (!err && inlined)
		err = set_reason(s, "inlines", inlined);
	else if (!err && why == PE_SEL_WHY_OTHER && callee)
		err = set_reason(s, "compiled with", callee->name);
	else if (!err && why == PE_SEL_WHY_OTHER)
		err = replace_text(&s->reason, "compiled otherwise");
	if (!err && inlined)
		err = entangle(sel, p->name, inlined, "inlines");
	if (!err && callee)
		err = entangle(sel, p->name, callee->name,
			       "knows which registers are left alone by");
	return err;
}

struct pe_error *pe_sel_functions(struct pe_sel *sel)
{
	struct pe_error *err = NULL;

	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count && !err; i++) {
			const struct pe_object_symbol *p = &unit->in->patched->symbols[i];

			if (p->type == STT_FUNC && p->section && pe_sel_is_text(p->section) &&
			    !unit->patched.parent[i] && unit->symbols[i].state == PE_SEL_CHANGED)
				err = replace(sel, unit, p);
		}
	}
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count && !err; i++) {
			const struct pe_object_symbol *p = &unit->in->patched->symbols[i];

			if (!unit->symbols[i].reason)
				continue;
			err = explain(sel, unit, p);
		}
	}
	if (!err && !sel->replaced_count)
		return pe_error_new(PE_ERR_NOTHING,
				    "no function of the shipped binary changes by this diff");
	return err;
}
