/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Debug information of an object, for the passes of pe_select that look into it. */
#ifndef BUILD_SELECT_DWARF_H
#define BUILD_SELECT_DWARF_H

#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>

#include "build/select_private.h"

struct pe_sel_dwarf {
	Dwfl *dwfl;
	Dwfl_Module *module;
	Dwarf *dwarf;
	Dwarf_Addr bias;
};

/* UNSUPPORTED when the object was compiled without debug information. */
struct pe_error *pe_sel_dwarf_open(const struct pe_object *object,
				   struct pe_sel_dwarf *ret) pe_must_check;
void pe_sel_dwarf_close(struct pe_sel_dwarf *dwarf);
/* The next unit (*cu begins as NULL) and its DIE; false at the end. */
bool pe_sel_dwarf_unit(const struct pe_sel_dwarf *dwarf, Dwarf_CU **cu, Dwarf_Die *die);
/* The name of a function as the symbol table has it; NULL when there is none. */
const char *pe_sel_dwarf_linkage_name(Dwarf_Die *die);

#endif
