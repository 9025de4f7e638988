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

struct function {
	const char *name;
	Dwarf_Die die;
};

/* What the debug information of a base object says, looked up again and again. */
struct pe_sel_debug {
	struct pe_sel_dwarf dwarf;
	const char **touched; /* names of functions on touched lines, sorted */
	size_t touched_count;
	struct function *functions; /* sorted by name */
	size_t function_count;
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

/* Where the function at line @line of @file begins; 0 when there is none. */
static int begin_of(const struct places *places, const char *file, unsigned long line)
{
	int begin = 0;

	for (size_t k = 0; k < places->count; k++) {
		const struct place *p = &places->items[k];

		if (p->line <= (long)line && p->line > begin && path_ends_with(p->file, file))
			begin = p->line;
	}
	return begin;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_function(const void *a, const void *b)
{
	return strcmp(((const struct function *)a)->name, ((const struct function *)b)->name);
}

/* Names of the functions that lie on a touched line. */
static struct pe_error *collect_touched(const struct pe_sel *sel, const struct places *places,
					struct pe_sel_debug *debug)
{
	const struct pe_source_lines *lines = sel->options->lines;
	size_t count = sel->options->line_count;
	pe_auto_free int *first = calloc(count + 1, sizeof(*first));

	debug->touched = calloc(places->count + 1, sizeof(*debug->touched));
	if (!debug->touched || !first)
		return pe_error_nomem();
	for (size_t i = 0; i < count; i++)
		first[i] = begin_of(places, lines[i].file, lines[i].first);
	for (size_t k = 0; k < places->count; k++) {
		const struct place *p = &places->items[k];
		bool on = false;

		for (size_t i = 0; i < count && !on; i++)
			on = p->line >= first[i] && p->line <= (long)lines[i].last &&
			     path_ends_with(p->file, lines[i].file);
		if (on)
			debug->touched[debug->touched_count++] = p->name;
	}
	if (debug->touched_count)
		qsort(debug->touched, debug->touched_count, sizeof(*debug->touched), by_name);
	return NULL;
}

/* Functions of the unit that have code of their own, and what is inlined into them, by name. */
static struct pe_error *collect_functions(struct pe_sel_debug *debug)
{
	size_t room = 0;
	Dwarf_CU *cu = NULL;
	Dwarf_Die unit, die;

	while (pe_sel_dwarf_unit(&debug->dwarf, &cu, &unit)) {
		if (dwarf_child(&unit, &die))
			continue;
		do {
			const char *name = NULL;

			if (dwarf_tag(&die) == DW_TAG_subprogram && dwarf_haschildren(&die))
				name = pe_sel_dwarf_linkage_name(&die);
			if (!name)
				continue;
			if (debug->function_count == room) {
				room = room ? 2 * room : 256;
				void *grown = reallocarray(debug->functions, room,
							   sizeof(*debug->functions));
				if (!grown)
					return pe_error_nomem();
				debug->functions = grown;
			}
			debug->functions[debug->function_count++] = (struct function){ name, die };
		} while (!dwarf_siblingof(&die, &die));
	}
	if (debug->function_count)
		qsort(debug->functions, debug->function_count, sizeof(*debug->functions),
		      by_function);
	return NULL;
}

void pe_sel_debug_free(struct pe_sel_debug *debug)
{
	if (!debug)
		return;
	free(debug->touched);
	free(debug->functions);
	pe_sel_dwarf_close(&debug->dwarf);
	free(debug);
}

/* Read once a unit: a header may change a hundred functions of it. */
static struct pe_error *debug_of(const struct pe_sel *sel, struct pe_sel_unit *unit)
{
	struct places places = { 0 };
	Dwarf_CU *cu = NULL;
	Dwarf_Die die;

	if (unit->debug)
		return NULL;
	unit->debug = calloc(1, sizeof(*unit->debug));
	if (!unit->debug)
		return pe_error_nomem();
	struct pe_error *err = pe_sel_dwarf_open(unit->in->base, &unit->debug->dwarf);
	while (!err && pe_sel_dwarf_unit(&unit->debug->dwarf, &cu, &die))
		err = collect(&places, &die);
	if (!err)
		err = collect_touched(sel, &places, unit->debug);
	if (!err)
		err = collect_functions(unit->debug);
	free(places.items);
	return err;
}

static bool touched(const struct pe_sel_debug *debug, const char *name)
{
	return debug->touched_count && bsearch(&name, debug->touched, debug->touched_count,
					       sizeof(*debug->touched), by_name);
}

struct search {
	const struct pe_sel *sel;
	const struct pe_sel_unit *unit;
	const char *self;
	const char *found;
};

/* Without touched lines: has it code of its own, and did that change? */
static bool is_changed(const struct search *s, const char *name)
{
	if (s->sel->options->line_count)
		return touched(s->unit->debug, name);
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

/* Several DIEs may have the name: a declaration, and versions that the compiler made of it. */
static void find_by_name(struct search *s)
{
	const struct pe_sel_debug *debug = s->unit->debug;
	const struct function key = { .name = s->self };
	const struct function *end = debug->functions + debug->function_count;
	struct function *at = debug->function_count
				      ? bsearch(&key, debug->functions, debug->function_count,
						sizeof(key), by_function)
				      : NULL;

	while (at && at > debug->functions && !by_function(&at[-1], &key))
		at--;
	for (; at && at < end && !by_function(at, &key); at++) {
		if (find_inlined(s, &at->die))
			return;
	}
}

/*
 * What debug information calls the function: without a clone's suffix, and a static function of C++
 * by its plain name, since it has no linkage name there. Owned by the caller.
 */
static char *name_in_dwarf(const struct pe_object_symbol *p)
{
	char *stem = strndup(p->name, strcspn(p->name, "."));

	if (!stem || strncmp(stem, "_ZL", 3) != 0)
		return stem;
	char *plain = pe_demangle(stem);
	free(stem);
	if (plain)
		plain[strcspn(plain, "(<")] = '\0';
	return plain;
}

struct pe_error *pe_sel_why(const struct pe_sel *sel, struct pe_sel_unit *unit,
			    const struct pe_object_symbol *p, enum pe_sel_why *why, char **name)
{
	pe_auto_free char *self = name_in_dwarf(p);
	struct search s = { sel, unit, self, NULL };

	*name = NULL;
	*why = PE_SEL_WHY_SELF;
	struct pe_error *err = self ? debug_of(sel, unit) : pe_error_nomem();
	if (err || (sel->options->line_count && touched(unit->debug, self)))
		return err;
	find_by_name(&s);
	if (s.found) {
		*why = PE_SEL_WHY_INLINES;
		*name = strdup(s.found);
		return *name ? NULL : pe_error_nomem();
	}
	if (sel->options->line_count)
		*why = PE_SEL_WHY_OTHER;
	return NULL;
}
