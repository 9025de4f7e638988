/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Debug information of an object. An object's DWARF is full of relocations; libdwfl applies them,
 * and gives each section an address of its own.
 */
#include <dwarf.h>
#include <string.h>

#include "build/select_dwarf.h"

static const Dwfl_Callbacks callbacks = {
	.find_elf = dwfl_build_id_find_elf,
	.find_debuginfo = dwfl_standard_find_debuginfo,
	.section_address = dwfl_offline_section_address,
};

static struct pe_error *no_dwarf(const struct pe_object *object)
{
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s: no debug information (%s); compile with -g, or layout changes "
			    "cannot be seen",
			    object->path, dwfl_errmsg(-1));
}

struct pe_error *pe_sel_dwarf_open(const struct pe_object *object, struct pe_sel_dwarf *ret)
{
	*ret = (struct pe_sel_dwarf){ .dwfl = dwfl_begin(&callbacks) };
	if (!ret->dwfl)
		return pe_error_nomem();
	ret->module = dwfl_report_offline(ret->dwfl, "", object->path, -1);
	if (ret->module && !dwfl_report_end(ret->dwfl, NULL, NULL))
		ret->dwarf = dwfl_module_getdwarf(ret->module, &ret->bias);
	if (ret->dwarf)
		return NULL;
	struct pe_error *err = no_dwarf(object);
	pe_sel_dwarf_close(ret);
	return err;
}

void pe_sel_dwarf_close(struct pe_sel_dwarf *dwarf)
{
	if (dwarf->dwfl)
		dwfl_end(dwarf->dwfl);
	*dwarf = (struct pe_sel_dwarf){ 0 };
}

bool pe_sel_dwarf_unit(const struct pe_sel_dwarf *dwarf, Dwarf_CU **cu, Dwarf_Die *die)
{
	return !dwarf_get_units(dwarf->dwarf, *cu, cu, NULL, NULL, die, NULL);
}

const char *pe_sel_dwarf_linkage_name(Dwarf_Die *die)
{
	Dwarf_Attribute attr;

	if (dwarf_attr_integrate(die, DW_AT_linkage_name, &attr) ||
	    dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attr) ||
	    dwarf_attr_integrate(die, DW_AT_name, &attr))
		return dwarf_formstring(&attr);
	return NULL;
}
