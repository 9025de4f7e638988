/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Why a function changed, for the reviewer: by itself, or because of what it inlines.
 *
 * Debug information tells which functions are inlined into it. One that also has code of its own,
 * and that code changed, is the reason.
 */
#include <dwarf.h>
#include <elf.h>
#include <string.h>

#include "build/select_dwarf.h"

/* Is the function called @linkage changed in this unit? */
static bool changed(const struct pe_sel_unit *unit, const char *linkage)
{
	const struct pe_object_symbol *p = pe_sel_find(&unit->patched, linkage);

	return p && p->section && unit->symbols[p->index].state == PE_SEL_CHANGED;
}

static bool find_inlined(const struct pe_sel_unit *unit, Dwarf_Die *parent, const char *self,
			 const char **ret)
{
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return false;
	do {
		const char *name = NULL;

		if (dwarf_tag(&child) == DW_TAG_inlined_subroutine)
			name = pe_sel_dwarf_linkage_name(&child);
		if (name && strcmp(name, self) && changed(unit, name)) {
			*ret = name;
			return true;
		}
		if (find_inlined(unit, &child, self, ret))
			return true;
	} while (!dwarf_siblingof(&child, &child));
	return false;
}

struct pe_error *pe_sel_inlined_change(const struct pe_sel_unit *unit,
				       const struct pe_object_symbol *p, char **name)
{
	pe_auto_free char *stem = strndup(p->name, strcspn(p->name, "."));
	struct pe_sel_dwarf dwarf;
	Dwarf_CU *cu = NULL;
	const char *found = NULL;
	Dwarf_Die unit_die, die;

	*name = NULL;
	struct pe_error *err = pe_sel_dwarf_open(unit->in->patched, &dwarf);
	if (err || !stem)
		return err ? err : pe_error_nomem();
	while (!found && pe_sel_dwarf_unit(&dwarf, &cu, &unit_die)) {
		if (dwarf_child(&unit_die, &die))
			continue;
		do {
			const char *linkage = NULL;

			if (dwarf_tag(&die) == DW_TAG_subprogram && dwarf_haschildren(&die))
				linkage = pe_sel_dwarf_linkage_name(&die);
			if (linkage && !strcmp(linkage, stem) &&
			    find_inlined(unit, &die, stem, &found))
				break;
		} while (!dwarf_siblingof(&die, &die));
	}
	if (found)
		*name = strdup(found);
	pe_sel_dwarf_close(&dwarf);
	return found && !*name ? pe_error_nomem() : NULL;
}
