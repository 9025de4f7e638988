/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The refusals of DESIGN 5.5 besides those that the other passes meet on their way (changed data
 * and virtual tables in compare.c, thread-locals in select_outside.c).
 *
 * pe_sel_guard_units: what must not change at all: the layout of types in use, data, constructors,
 * code that runs once. pe_sel_guard_entries: what every replaced function needs: an entry that can
 * be overwritten, and that belongs to this function alone. pe_sel_guard_exit: what new code would
 * leave behind.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

/* ---- what runs once ---- */

static bool is_static_initialiser(const char *name)
{
	return !strncmp(name, "_GLOBAL__sub_", 13) || !strncmp(name, "_GLOBAL__I_", 11) ||
	       !strncmp(name, "_GLOBAL__D_", 11) ||
	       strstr(name, "__static_initialization_and_destruction_0");
}

static struct pe_error *guard_run_once(const struct pe_sel_unit *unit,
				       const struct pe_object_symbol *p)
{
	const struct pe_sel_symbol *s = &unit->symbols[p->index];
	pe_auto_free char *name = pe_demangle(p->name);

	if (!name)
		return pe_error_nomem();
	if (s->state == PE_SEL_SAME)
		return NULL;
	if (is_static_initialiser(p->name))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the patch %s the static initialiser %s, which runs only "
				    "once, at the start of the program",
				    unit->in->source, s->base ? "changes" : "adds", name);
	if (!strcmp(p->name, "main"))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the patch changes main(), which is called only once",
				    unit->in->source);
	if (!strncmp(p->section->name, ".text.startup", 13) ||
	    !strncmp(p->section->name, ".text.exit", 10) || !strcmp(p->section->name, ".init") ||
	    !strcmp(p->section->name, ".fini"))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the patch %s %s(), which runs only once, at the start or "
				    "the end of the program",
				    unit->in->source, s->base ? "changes" : "adds", name);
	return NULL;
}

static size_t count_constructors(const struct pe_object *object)
{
	static const char *const names[] = { ".init_array", ".fini_array", ".preinit_array",
					     ".ctors", ".dtors" };
	size_t count = 0;

	for (size_t i = 1; i < object->section_count; i++) {
		const struct pe_object_section *s = &object->sections[i];

		for (size_t n = 0; n < sizeof(names) / sizeof(*names); n++) {
			if (!strncmp(s->name, names[n], strlen(names[n])))
				count += s->reloc_count;
		}
	}
	return count;
}

/* Code that no function symbol covers (assembler) is compared as a whole, since nobody else does.
 */
static struct pe_error *guard_bare_code(struct pe_sel_unit *unit)
{
	const struct pe_object *patched = unit->in->patched, *base = unit->in->base;

	for (size_t i = 1; i < patched->section_count; i++) {
		const struct pe_object_section *p = &patched->sections[i];
		const struct pe_object_symbol *first =
			p->size ? pe_object_symbol_at(patched, p, 0) : NULL;

		if (!pe_sel_is_text(p) || !p->size || (first && first->type != STT_NOTYPE))
			continue;
		for (size_t k = 1; k < base->section_count; k++) {
			const struct pe_object_section *b = &base->sections[k];

			if (!strcmp(b->name, p->name) && pe_sel_is_text(b) &&
			    !pe_sel_sections_equal(unit, b, p))
				return pe_error_new(PE_ERR_UNSUPPORTED,
						    "%s: code in section %s changes that is no "
						    "function with a name and a size",
						    unit->in->source, p->name);
		}
	}
	return NULL;
}

static bool anything_changed(const struct pe_sel_unit *unit)
{
	for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
		if (unit->symbols[i].state == PE_SEL_CHANGED)
			return true;
	}
	return false;
}

struct pe_error *pe_sel_guard_units(struct pe_sel *sel)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];
		const struct pe_object *patched = unit->in->patched;
		/* The cause first: with a type change the variables and vtables of that type. */
		struct pe_error *err =
			anything_changed(unit) ? pe_sel_guard_types(sel, unit) : NULL;

		if (!err)
			err = pe_sel_guard_data(unit);
		for (size_t i = 1; i < patched->symbol_count && !err; i++) {
			const struct pe_object_symbol *p = &patched->symbols[i];

			if (p->type == STT_FUNC && p->section && pe_sel_is_text(p->section))
				err = guard_run_once(unit, p);
		}
		if (!err && count_constructors(patched) > count_constructors(unit->in->base))
			err = pe_error_new(PE_ERR_UNSUPPORTED,
					   "%s: the patch adds a constructor or destructor, which "
					   "runs only once, at the start or the end of the program",
					   unit->in->source);
		if (!err)
			err = guard_bare_code(unit);
		if (err)
			return err;
	}
	return NULL;
}

/* ---- what would run at the end ---- */

static bool registers_for_exit(const char *name)
{
	return !strcmp(name, "__cxa_atexit") || !strcmp(name, "__cxa_thread_atexit") ||
	       !strcmp(name, "atexit") || !strcmp(name, "on_exit");
}

/* A new static object (it has a new guard variable) that the function at @section makes. */
static const struct pe_object_symbol *new_object(const struct pe_sel_unit *unit,
						 const struct pe_object_section *section)
{
	for (size_t i = 0; i < section->reloc_count; i++) {
		const struct pe_object_symbol *to =
			pe_sel_ref_of(&unit->patched, section, &section->relocs[i]).symbol;

		if (to && to->section && !strncmp(to->name, "_ZGV", 4) &&
		    unit->sections[to->section->index].included)
			return to;
	}
	return NULL;
}

/*
 * The object lies in the patch, which may be taken out before the process ends; then its destructor
 * would run on memory that is gone.
 */
struct pe_error *pe_sel_guard_exit(struct pe_sel *sel)
{
	for (size_t i = 0; i < sel->work_count; i++) {
		const struct pe_object_section *section = sel->work[i].section;
		const struct pe_sel_unit *unit = sel->work[i].unit;

		for (size_t r = 0; pe_sel_is_text(section) && r < section->reloc_count; r++) {
			const struct pe_object_symbol *to = section->relocs[r].symbol;
			const struct pe_object_symbol *object = to && registers_for_exit(to->name)
									? new_object(unit, section)
									: NULL;

			if (!object)
				continue;
			pe_auto_free char *name = pe_demangle(object->name);
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "%s: the patch adds a static object (%s) that would be "
					    "destroyed at the end of the process, when the patch "
					    "may be gone; make it with new, or without destructor",
					    unit->in->source, name ? name : object->name);
		}
	}
	return NULL;
}

/* ---- entries ---- */

/* Is @name, in some unit, changed to the same code as @p, or gone from the source? */
static bool changed_alike(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			  const struct pe_object_symbol *p, const char *name)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		const struct pe_sel_unit *other = &sel->units[u];
		const struct pe_object_symbol *b = pe_sel_find(&other->base, name);

		if (!b || !b->section)
			continue;
		const struct pe_object_symbol *to = other->counterpart[b->index];
		if (!to || pe_sel_same_code(unit, p, other, to))
			return true;
	}
	return false;
}

static struct pe_error *guard_shared(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				     const struct pe_object_symbol *p)
{
	const struct pe_sel_symbol *s = &unit->symbols[p->index];
	size_t count;
	const struct pe_image_symbol *const *list = pe_image_at(sel->image, s->vaddr, &count);

	for (size_t i = 0; i < count; i++) {
		if (list[i]->type != STT_FUNC || !strcmp(list[i]->name, s->base->name) ||
		    changed_alike(sel, unit, p, list[i]->name))
			continue;
		pe_auto_free char *name = pe_demangle(p->name);
		pe_auto_free char *other = pe_demangle(list[i]->name);
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: the code of %s is also that of %s (identical code "
				    "folding), which the patch does not change alike",
				    unit->in->source, name ? name : p->name,
				    other ? other : list[i]->name);
	}
	return NULL;
}

/* Below it, an entry jump may need bytes behind the function. */
static const uint64_t short_function = 16;

struct pe_error *pe_sel_entry(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			      const struct pe_object_symbol *p, struct pe_entry *ret)
{
	const struct pe_sel_symbol *s = &unit->symbols[p->index];
	const struct pe_object_symbol *b = s->base;
	pe_auto_free char *name = pe_demangle(p->name);
	size_t padding = 0;
	struct pe_error *err = NULL;

	if (!name)
		return pe_error_nomem();
	if (s->size < short_function)
		err = pe_sel_padding(sel, s->vaddr + s->size, &padding);
	if (err)
		return err;
	const void *code = pe_image_bytes(sel->image, s->vaddr, s->size + padding);
	if (!code)
		return pe_error_new(PE_ERR_FORMAT, "%s: the shipped binary has no code at 0x%lx",
				    name, s->vaddr);
	err = sel->arch->entry_examine(s->vaddr, code, s->size, padding, ret);
	if (err)
		return pe_error_wrap(err, "%s: cannot overwrite the entry of %s", unit->in->source,
				     name);
	/* The .cold part may jump back into the first bytes too. */
	const struct pe_object_symbol *cold = unit->base.cold[b->index];
	for (size_t i = 0; cold && i < cold->section->reloc_count; i++) {
		struct pe_sel_ref ref =
			pe_sel_ref_of(&unit->base, cold->section, &cold->section->relocs[i]);

		if (ref.section == b->section && ref.offset > b->value + ret->skip &&
		    ref.offset < b->value + ret->skip + ret->displaced)
			return pe_error_new(PE_ERR_UNSUPPORTED,
					    "%s: the .cold part of %s jumps into the bytes that "
					    "the patch would overwrite",
					    unit->in->source, name);
	}
	return NULL;
}

struct pe_error *pe_sel_guard_entries(struct pe_sel *sel)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		const struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
			const struct pe_object_symbol *p = &unit->in->patched->symbols[i];
			struct pe_entry entry;

			if (!unit->symbols[i].reason)
				continue;
			struct pe_error *err = guard_shared(sel, unit, p);
			if (!err)
				err = pe_sel_entry(sel, unit, p, &entry);
			if (err)
				return err;
		}
	}
	return NULL;
}
