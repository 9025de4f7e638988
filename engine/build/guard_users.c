/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who uses a type, from the debug information of all base objects of the patch: a type of a header
 * is only changed together with every unit that includes it, so all users are there.
 *
 * A type whose layout changes does no harm when objects of it live in nothing but local variables
 * of functions that are replaced: the switch waits until none of them is on a stack. A pointer may
 * lead to an object that was made before, so whoever holds one is a user, whether patched or not;
 * "this" in the methods of the type is the exception, since somebody must have the object.
 */
#include <dwarf.h>
#include <elf.h>
#include <string.h>

#include "build/select_dwarf.h"

/* Names that a message lists before it only counts. */
static const size_t names_listed = 3;

struct set {
	const void **items;
	size_t count;
};

struct users {
	struct pe_sel_unit *unit; /* looked at now */
	const char *type;	  /* with its scopes */
	struct set dies;	  /* where the unit describes it */
	const char *source;	  /* of the last user that was counted */
	size_t sources;
	char *functions[3], *other; /* owned */
	size_t function_count;
};

static void users_deinit(struct users *users)
{
	for (size_t i = 0; i < names_listed; i++)
		free(users->functions[i]);
	free(users->other);
	free(users->dies.items);
}

/* ---- finding the type ---- */

static struct pe_error *set_add(struct set *set, const void *item)
{
	if (!(set->count & (set->count - 1))) { /* grows at powers of two */
		size_t room = set->count ? 2 * set->count : 1;
		void *grown = reallocarray(set->items, room, sizeof(*set->items));

		if (!grown)
			return pe_error_nomem();
		set->items = grown;
	}
	set->items[set->count++] = item;
	return NULL;
}

static bool set_has(const struct set *set, const void *item)
{
	for (size_t i = 0; i < set->count; i++) {
		if (set->items[i] == item)
			return true;
	}
	return false;
}

/* Adds the DIEs below @parent that are called @rest, which may begin with scopes. */
static struct pe_error *find_type(struct users *users, Dwarf_Die *parent, const char *rest)
{
	struct pe_error *err = NULL;
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return NULL;
	do {
		int tag = dwarf_tag(&child);
		const char *name = dwarf_diename(&child);
		size_t n;

		if (tag != DW_TAG_structure_type && tag != DW_TAG_class_type &&
		    tag != DW_TAG_union_type && tag != DW_TAG_enumeration_type &&
		    tag != DW_TAG_typedef && tag != DW_TAG_namespace)
			continue;
		if (!name && tag == DW_TAG_namespace)
			name = "(anonymous namespace)";
		n = name ? strlen(name) : 0;
		if (!n || strncmp(rest, name, n))
			continue;
		if (!rest[n])
			err = set_add(&users->dies, child.addr);
		else if (!strncmp(rest + n, "::", 2))
			err = find_type(users, &child, rest + n + 2);
	} while (!err && !dwarf_siblingof(&child, &child));
	return err;
}

enum leads { LEADS_NOT, LEADS_BY_VALUE, LEADS_BY_POINTER };

/* Does the type of @die lead to the type in question? */
static enum leads leads_to(const struct users *users, Dwarf_Die *die)
{
	bool pointer = false;
	Dwarf_Attribute attr;
	Dwarf_Die type = *die;

	/* Longer than any declaration that people write. */
	for (size_t depth = 0; depth < 64; depth++) {
		if (!dwarf_attr_integrate(&type, DW_AT_type, &attr) ||
		    !dwarf_formref_die(&attr, &type))
			return LEADS_NOT;
		if (set_has(&users->dies, type.addr))
			return pointer ? LEADS_BY_POINTER : LEADS_BY_VALUE;
		switch (dwarf_tag(&type)) {
		case DW_TAG_pointer_type:
		case DW_TAG_reference_type:
		case DW_TAG_rvalue_reference_type:
		case DW_TAG_ptr_to_member_type:
			pointer = true;
			break;
		case DW_TAG_const_type:
		case DW_TAG_volatile_type:
		case DW_TAG_restrict_type:
		case DW_TAG_atomic_type:
		case DW_TAG_typedef:
		case DW_TAG_array_type:
			break;
		default:
			return LEADS_NOT;
		}
	}
	return LEADS_NOT;
}

/* ---- users ---- */

static void count_source(struct users *users)
{
	if (users->source != users->unit->in->source)
		users->sources++;
	users->source = users->unit->in->source;
}

static struct pe_error *add_function(struct users *users, const char *name)
{
	pe_auto_free char *text = pe_demangle(name);

	if (!text)
		return pe_error_nomem();
	for (size_t i = 0; i < names_listed && i < users->function_count; i++) {
		if (!strcmp(users->functions[i], text))
			return NULL;
	}
	count_source(users);
	if (users->function_count < names_listed) {
		users->functions[users->function_count] = text;
		text = NULL;
	}
	users->function_count++;
	return NULL;
}

static struct pe_error *add_other(struct users *users, const char *kind, const char *name)
{
	count_source(users);
	if (users->other)
		return NULL;
	return asprintf(&users->other, "%s %s", kind, name ? name : "without a name") < 0
		       ? pe_error_nomem()
		       : NULL;
}

/* Is that function replaced, or gone with its callers? */
static bool is_patched(const struct users *users, const char *name)
{
	const struct pe_object_symbol *b = pe_sel_find(&users->unit->base, name);
	const struct pe_object_symbol *p = b ? users->unit->counterpart[b->index] : NULL;

	if (!b || !b->section)
		return false;
	return !p || users->unit->symbols[p->index].state == PE_SEL_CHANGED;
}

static bool artificial(Dwarf_Die *die)
{
	Dwarf_Attribute attr;
	bool value = false;

	return dwarf_attr_integrate(die, DW_AT_artificial, &attr) &&
	       !dwarf_formflag(&attr, &value) && value;
}

/* Parameters and variables of a function, and of what is inlined into it. */
static bool function_uses(const struct users *users, Dwarf_Die *function, bool patched)
{
	Dwarf_Die child;

	if (leads_to(users, function) != LEADS_NOT)
		return true; /* what it returns */
	if (dwarf_child(function, &child))
		return false;
	do {
		int tag = dwarf_tag(&child);
		enum leads leads = LEADS_NOT;

		if (tag == DW_TAG_formal_parameter || tag == DW_TAG_variable)
			leads = leads_to(users, &child);
		if (leads == LEADS_BY_POINTER && !(patched && artificial(&child)))
			return true;
		if (leads == LEADS_BY_VALUE && !patched)
			return true;
		if ((tag == DW_TAG_lexical_block || tag == DW_TAG_inlined_subroutine) &&
		    function_uses(users, &child, patched))
			return true;
	} while (!dwarf_siblingof(&child, &child));
	return false;
}

static struct pe_error *look_at(struct users *users, Dwarf_Die *die);

static struct pe_error *look_below(struct users *users, Dwarf_Die *parent)
{
	struct pe_error *err = NULL;
	Dwarf_Die child;

	if (dwarf_child(parent, &child))
		return NULL;
	do
		err = look_at(users, &child);
	while (!err && !dwarf_siblingof(&child, &child));
	return err;
}

static struct pe_error *look_at_member(struct users *users, Dwarf_Die *type, Dwarf_Die *member)
{
	int tag = dwarf_tag(member);

	if ((tag == DW_TAG_member || tag == DW_TAG_inheritance ||
	     tag == DW_TAG_template_type_parameter || tag == DW_TAG_variable) &&
	    leads_to(users, member) != LEADS_NOT)
		return add_other(users, "type", dwarf_diename(type));
	return look_at(users, member);
}

static struct pe_error *look_at(struct users *users, Dwarf_Die *die)
{
	const char *name = NULL;
	struct pe_error *err = NULL;
	Dwarf_Die child;

	switch (dwarf_tag(die)) {
	case DW_TAG_subprogram:
		name = pe_sel_dwarf_linkage_name(die);
		/* Only a version that has code runs. */
		if (name &&
		    (dwarf_hasattr(die, DW_AT_low_pc) || dwarf_hasattr(die, DW_AT_ranges)) &&
		    function_uses(users, die, is_patched(users, name)))
			return add_function(users, name);
		return NULL;
	case DW_TAG_variable:
		return leads_to(users, die) != LEADS_NOT
			       ? add_other(users, "variable", dwarf_diename(die))
			       : NULL;
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
		if (dwarf_child(die, &child))
			return NULL;
		do
			err = look_at_member(users, die, &child);
		while (!err && !dwarf_siblingof(&child, &child));
		return err;
	case DW_TAG_namespace:
		return look_below(users, die);
	default:
		return NULL;
	}
}

static struct pe_error *unit_users(struct users *users)
{
	struct pe_sel_dwarf dwarf;
	Dwarf_CU *cu = NULL;
	Dwarf_Die die;
	struct pe_error *err = pe_sel_dwarf_open(users->unit->in->base, &dwarf);

	if (err)
		return err;
	users->dies.count = 0;
	while (!err && pe_sel_dwarf_unit(&dwarf, &cu, &die))
		err = find_type(users, &die, users->type);
	cu = NULL;
	while (!err && users->dies.count && pe_sel_dwarf_unit(&dwarf, &cu, &die))
		err = look_below(users, &die);
	pe_sel_dwarf_close(&dwarf);
	return err;
}

/* "f(), g() and 3 more functions, type t, in 2 source files" */
static struct pe_error *describe(const struct users *users, char **ret)
{
	size_t size, listed = users->function_count < names_listed ? users->function_count
								   : names_listed;
	FILE *out = open_memstream(ret, &size);

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; i < listed; i++)
		fprintf(out, "%s%s%s", i ? ", " : "", users->functions[i],
			strchr(users->functions[i], '(') ? "" : "()");
	if (users->function_count > listed)
		fprintf(out, " and %zu more functions", users->function_count - listed);
	if (users->other)
		fprintf(out, "%s%s", listed ? ", " : "", users->other);
	if (users->sources > 1)
		fprintf(out, ", in %zu source files", users->sources);
	return fclose(out) ? pe_error_nomem() : NULL;
}

struct pe_error *pe_sel_type_users(struct pe_sel *sel, const char *type, char **ret)
{
	__attribute__((cleanup(users_deinit))) struct users users = { .type = type };
	struct pe_error *err = NULL;

	*ret = NULL;
	for (size_t u = 0; u < sel->unit_count && !err; u++) {
		users.unit = &sel->units[u];
		err = unit_users(&users);
	}
	if (err || (!users.function_count && !users.other))
		return err;
	return describe(&users, ret);
}
