/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Why a function changed, for the reviewer and for --independent: by its own source, or because of
 * what the compiler put into it.
 *
 * The diff says which old lines it touches; debug information of the base object says where each
 * function begins, so the touched functions are known by name: the last one that begins at or
 * before a touched line of the file. It also says which functions are inlined into which.
 */
#include <dwarf.h>
#include <elf.h>
#include <string.h>

#include "build/select_dwarf.h"

struct place {
	const char *name; /* linkage name; owned by the DWARF */
	const char *file;
	int line;
};

struct places {
	struct place *items;
	size_t count, room;
};

/* Does the path @full, as the compiler wrote it, end with the path @tail of the source tree? */
static bool path_ends_with(const char *full, const char *tail)
{
	size_t a = strlen(full), b = strlen(tail);

	return a >= b && !strcmp(full + a - b, tail) && (a == b || full[a - b - 1] == '/');
}

static struct pe_error *add_place(struct places *places, Dwarf_Die *die)
{
	struct place place = { pe_sel_dwarf_linkage_name(die), dwarf_decl_file(die), 0 };

	if (!place.name || !place.file || dwarf_decl_line(die, &place.line))
		return NULL;
	if (places->count == places->room) {
		places->room = places->room ? places->room * 2 : 256;
		void *grown = reallocarray(places->items, places->room, sizeof(place));
		if (!grown)
			return pe_error_nomem();
		places->items = grown;
	}
	places->items[places->count++] = place;
	return NULL;
}

/* Every function definition outside of functions. */
static struct pe_error *collect(struct places *places, Dwarf_Die *parent)
{
	struct pe_error *err = NULL;
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return NULL;
	do {
		switch (dwarf_tag(&child)) {
		case DW_TAG_subprogram:
			err = add_place(places, &child);
			break;
		case DW_TAG_namespace:
		case DW_TAG_structure_type:
		case DW_TAG_class_type:
			err = collect(places, &child);
			break;
		}
	} while (!err && !dwarf_siblingof(&child, &child));
	return err;
}

/* Is the last function that begins at or before one of the touched lines called @name? */
static bool touched(const struct pe_sel *sel, const struct places *places, const char *name)
{
	for (size_t i = 0; i < sel->options->line_count; i++) {
		const struct pe_source_lines *lines = &sel->options->lines[i];
		int first = 0;

		/* Where the function at the first touched line begins. */
		for (size_t k = 0; k < places->count; k++) {
			const struct place *p = &places->items[k];

			if (p->line <= (long)lines->first && p->line > first &&
			    path_ends_with(p->file, lines->file))
				first = p->line;
		}
		for (size_t k = 0; k < places->count; k++) {
			const struct place *p = &places->items[k];

			if (!strcmp(p->name, name) && p->line >= first &&
			    p->line <= (long)lines->last && path_ends_with(p->file, lines->file))
				return true;
		}
	}
	return false;
}

struct search {
	const struct pe_sel *sel;
	const struct pe_sel_unit *unit;
	const struct places *places;
	const char *self;
	const char *found;
};

/* Without touched lines: has it code of its own, and did that change? */
static bool is_changed(const struct search *s, const char *name)
{
	if (s->sel->options->line_count)
		return touched(s->sel, s->places, name);
	const struct pe_object_symbol *p = pe_sel_find(&s->unit->patched, name);
	return p && p->section && s->unit->symbols[p->index].state == PE_SEL_CHANGED;
}

static bool find_inlined(struct search *s, Dwarf_Die *parent)
{
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return false;
	do {
		const char *name = NULL;

		if (dwarf_tag(&child) == DW_TAG_inlined_subroutine)
			name = pe_sel_dwarf_linkage_name(&child);
		if (name && strcmp(name, s->self) && is_changed(s, name)) {
			s->found = name;
			return true;
		}
		if (find_inlined(s, &child))
			return true;
	} while (!dwarf_siblingof(&child, &child));
	return false;
}

static void find_in_unit(struct search *s, Dwarf_Die *unit_die)
{
	Dwarf_Die die;

	if (dwarf_child(unit_die, &die))
		return;
	do {
		const char *name = NULL;

		if (dwarf_tag(&die) == DW_TAG_subprogram && dwarf_haschildren(&die))
			name = pe_sel_dwarf_linkage_name(&die);
		if (name && !strcmp(name, s->self) && find_inlined(s, &die))
			return;
	} while (!dwarf_siblingof(&die, &die));
}

struct pe_error *pe_sel_why(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			    const struct pe_object_symbol *p, enum pe_sel_why *why, char **name)
{
	pe_auto_free char *self = strndup(p->name, strcspn(p->name, "."));
	struct places places = { 0 };
	struct pe_sel_dwarf dwarf;
	Dwarf_CU *cu = NULL;
	Dwarf_Die die;

	*name = NULL;
	*why = PE_SEL_WHY_SELF;
	struct pe_error *err = pe_sel_dwarf_open(unit->in->base, &dwarf);
	if (err || !self)
		return err ? err : pe_error_nomem();
	while (!err && pe_sel_dwarf_unit(&dwarf, &cu, &die))
		err = collect(&places, &die);
	if (!err && !(sel->options->line_count && touched(sel, &places, self))) {
		struct search s = { sel, unit, &places, self, NULL };

		cu = NULL;
		while (!s.found && pe_sel_dwarf_unit(&dwarf, &cu, &die))
			find_in_unit(&s, &die);
		if (s.found) {
			*why = PE_SEL_WHY_INLINES;
			*name = strdup(s.found);
			err = *name ? NULL : pe_error_nomem();
		} else if (sel->options->line_count) {
			*why = PE_SEL_WHY_OTHER;
		}
	}
	free(places.items);
	pe_sel_dwarf_close(&dwarf);
	return err;
}
