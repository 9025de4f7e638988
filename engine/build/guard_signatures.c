/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signatures of replaced functions, from the debug information of both objects. Where the result
 * or a parameter changes its type, every caller must be replaced with the function: one that is
 * not would go on passing the old ones.
 *
 * C++ puts parameters into names, so there such a function is a new one, and the old one stays for
 * whoever still calls it; results are in no name.
 *
 * Callers are looked for in the shipped program itself (image_refs.c), since not all units are
 * compiled again.
 */
#include <dwarf.h>
#include <elf.h>
#include <string.h>

#include "build/select_dwarf.h"

enum { MAX_PARAMETERS = 64 };

struct signature {
	char *result;
	char *parameters[MAX_PARAMETERS];
	size_t count;
};

static void signature_deinit(struct signature *s)
{
	free(s->result);
	for (size_t i = 0; i < s->count; i++)
		free(s->parameters[i]);
}

/* ---- types as text ---- */

/* The type of @die as C has it, without typedefs and qualifiers. Owned by the caller. */
static char *type_text(Dwarf_Die *die, unsigned int depth)
{
	Dwarf_Attribute attr;
	Dwarf_Die type;
	pe_auto_free char *inner = NULL;
	const char *name;
	char *text;

	if (!dwarf_attr_integrate(die, DW_AT_type, &attr) || !dwarf_formref_die(&attr, &type))
		return strdup("void");
	if (depth > 16)
		return strdup("...");
	name = dwarf_diename(&type);
	switch (dwarf_tag(&type)) {
	case DW_TAG_const_type:
	case DW_TAG_volatile_type:
	case DW_TAG_restrict_type:
	case DW_TAG_typedef:
		return type_text(&type, depth + 1);
	case DW_TAG_pointer_type:
	case DW_TAG_reference_type:
	case DW_TAG_rvalue_reference_type:
		inner = type_text(&type, depth + 1);
		if (!inner || asprintf(&text, "%s%s", inner,
				       dwarf_tag(&type) == DW_TAG_pointer_type ? "*" : "&") < 0)
			return NULL;
		return text;
	case DW_TAG_subroutine_type:
		return strdup("function");
	default:
		return strdup(name ? name : "(unnamed)");
	}
}

static struct pe_error *signature_read(Dwarf_Die *function, struct signature *ret)
{
	Dwarf_Die child;

	ret->result = type_text(function, 0);
	if (!ret->result)
		return pe_error_nomem();
	if (dwarf_child(function, &child))
		return NULL;
	do {
		int tag = dwarf_tag(&child);
		char *text = NULL;

		if (tag == DW_TAG_formal_parameter)
			text = type_text(&child, 0);
		else if (tag == DW_TAG_unspecified_parameters)
			text = strdup("...");
		else
			continue;
		if (!text)
			return pe_error_nomem();
		if (ret->count == MAX_PARAMETERS) {
			free(text);
			break;
		}
		ret->parameters[ret->count++] = text;
	} while (!dwarf_siblingof(&child, &child));
	return NULL;
}

/* The definition of @name itself, not a version that the compiler made of it. */
static bool find_below(Dwarf_Die *parent, const char *name, Dwarf_Die *ret)
{
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return false;
	do {
		const char *own = NULL;

		if (dwarf_tag(&child) == DW_TAG_namespace && find_below(&child, name, ret))
			return true;
		if (dwarf_tag(&child) == DW_TAG_subprogram &&
		    !dwarf_hasattr(&child, DW_AT_declaration) &&
		    !dwarf_hasattr(&child, DW_AT_abstract_origin))
			own = pe_sel_dwarf_linkage_name(&child);
		if (own && !strcmp(own, name)) {
			*ret = child;
			return true;
		}
	} while (!dwarf_siblingof(&child, &child));
	return false;
}

static bool find_function(const struct pe_sel_dwarf *dwarf, const char *name, Dwarf_Die *ret)
{
	Dwarf_CU *cu = NULL;
	Dwarf_Die unit;

	while (pe_sel_dwarf_unit(dwarf, &cu, &unit)) {
		if (find_below(&unit, name, ret))
			return true;
	}
	return false;
}

/* What differs, in words ("parameter 1 of f() changes from int to long"); NULL when nothing. */
static struct pe_error *difference(const struct signature *b, const struct signature *p,
				   const char *name, char **ret)
{
	int ok = 0;

	*ret = NULL;
	if (strcmp(b->result, p->result))
		ok = asprintf(ret, "the result of %s changes from %s to %s", name, b->result,
			      p->result);
	for (size_t i = 0; !*ret && i < b->count && i < p->count; i++) {
		if (strcmp(b->parameters[i], p->parameters[i]))
			ok = asprintf(ret, "parameter %zu of %s changes from %s to %s", i + 1, name,
				      b->parameters[i], p->parameters[i]);
	}
	if (!*ret && b->count != p->count)
		ok = asprintf(ret, "%s takes %zu parameters instead of %zu", name, p->count,
			      b->count);
	return ok < 0 ? pe_error_nomem() : NULL;
}

/* ---- the guard ---- */

static bool is_exported(const struct pe_sel *sel, uint64_t vaddr)
{
	size_t count;
	const struct pe_image_symbol *const *list = pe_image_at(sel->image, vaddr, &count);

	for (size_t i = 0; i < count; i++) {
		if (list[i]->source == PE_SOURCE_DYNSYM && list[i]->bind != STB_LOCAL)
			return true;
	}
	return false;
}

static struct pe_error *guard_function(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				       size_t index, const struct pe_sel_dwarf *base,
				       const struct pe_sel_dwarf *patched)
{
	const struct pe_object_symbol *p = &unit->in->patched->symbols[index];
	pe_auto_free char *plain = strndup(p->name, strcspn(p->name, "."));
	pe_auto_free char *demangled = pe_demangle(p->name);
	pe_auto_free char *name = NULL, *what = NULL, *who = NULL;
	__attribute__((cleanup(signature_deinit))) struct signature old = { 0 }, new = { 0 };
	uint64_t entry = unit->symbols[index].vaddr;
	Dwarf_Die b, n;

	if (!plain || !demangled ||
	    asprintf(&name, "%s%s", demangled, strchr(demangled, '(') ? "" : "()") < 0)
		return pe_error_nomem();
	if (!find_function(base, plain, &b) || !find_function(patched, plain, &n))
		return NULL; /* the compiler made it */
	struct pe_error *err = signature_read(&b, &old);
	if (!err)
		err = signature_read(&n, &new);
	if (!err)
		err = difference(&old, &new, name, &what);
	if (err || !what)
		return err;
	err = pe_sel_reference(sel, entry, entry + 1, &who);
	if (err)
		return err;
	if (who)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: %s, and %s, which the patch does not replace, relies on "
				    "it (give the changed function another name)",
				    unit->in->source, what, who);
	if (is_exported(sel, entry))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "%s: %s, and it is exported: a library or a plugin may call it "
				    "(give the changed function another name)",
				    unit->in->source, what);
	return NULL;
}

static bool replaces_any(const struct pe_sel_unit *unit)
{
	for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
		if (unit->symbols[i].reason)
			return true;
	}
	return false;
}

static struct pe_error *guard_unit(const struct pe_sel *sel, const struct pe_sel_unit *unit)
{
	struct pe_sel_dwarf base = { 0 }, patched = { 0 };
	struct pe_error *err = pe_sel_dwarf_open(unit->in->base, &base);

	if (!err)
		err = pe_sel_dwarf_open(unit->in->patched, &patched);
	for (size_t i = 1; !err && i < unit->in->patched->symbol_count; i++) {
		if (unit->symbols[i].reason)
			err = guard_function(sel, unit, i, &base, &patched);
	}
	pe_sel_dwarf_close(&base);
	pe_sel_dwarf_close(&patched);
	return err;
}

struct pe_error *pe_sel_guard_signatures(struct pe_sel *sel)
{
	struct pe_error *err = NULL;

	for (size_t u = 0; u < sel->unit_count && !err; u++) {
		if (replaces_any(&sel->units[u]))
			err = guard_unit(sel, &sel->units[u]);
	}
	return err;
}
