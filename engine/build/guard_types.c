/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Layouts of types, from the debug information of both objects. A process is full of objects of
 * the old layout, so a class whose size, members, bases or virtual functions moved is refused;
 * so is an enumerator whose value changed, since values are kept in memory too.
 *
 * All complete named types outside functions are listed with their parts for both objects, sorted
 * by name, and compared in one walk. Types that only one of them has are nobody's in use; who uses
 * a changed one is looked up then (guard_users.c).
 */
#include <dwarf.h>
#include <inttypes.h>
#include <string.h>

#include "build/select_dwarf.h"

enum part_kind { PART_MEMBER, PART_BASE, PART_VIRTUAL, PART_ENUMERATOR };

struct part {
	const char *name; /* owned by the DWARF */
	enum part_kind kind;
	uint64_t offset; /* bits; slot of a virtual function; value of an enumerator */
	uint64_t size;	 /* bytes, of a member */
};

struct type {
	char *name; /* with its scopes; owned */
	uint64_t size;
	struct part *parts;
	size_t part_count;
};

struct types {
	struct type *items;
	size_t count, room;
};

static void types_deinit(struct types *types)
{
	for (size_t i = 0; i < types->count; i++) {
		free(types->items[i].name);
		free(types->items[i].parts);
	}
	free(types->items);
}

static bool flag(Dwarf_Die *die, unsigned int name)
{
	Dwarf_Attribute attr;
	bool value = false;

	return dwarf_attr(die, name, &attr) && !dwarf_formflag(&attr, &value) && value;
}

static uint64_t number(Dwarf_Die *die, unsigned int name, uint64_t otherwise)
{
	Dwarf_Attribute attr;
	Dwarf_Sword sign;
	Dwarf_Word value;

	if (!dwarf_attr_integrate(die, name, &attr))
		return otherwise;
	if (name == DW_AT_const_value && !dwarf_formsdata(&attr, &sign))
		return (uint64_t)sign;
	return dwarf_formudata(&attr, &value) ? otherwise : value;
}

static bool type_of(Dwarf_Die *die, Dwarf_Die *ret)
{
	Dwarf_Attribute attr;

	return dwarf_attr_integrate(die, DW_AT_type, &attr) && dwarf_formref_die(&attr, ret);
}

static uint64_t size_of(Dwarf_Die *die)
{
	Dwarf_Die type;
	Dwarf_Word size;

	return type_of(die, &type) && !dwarf_aggregate_size(&type, &size) ? size : 0;
}

static uint64_t bit_offset(Dwarf_Die *member)
{
	uint64_t bits = number(member, DW_AT_data_bit_offset, UINT64_MAX);

	if (bits != UINT64_MAX)
		return bits;
	return number(member, DW_AT_data_member_location, 0) * 8 +
	       number(member, DW_AT_bit_offset, 0);
}

static struct pe_error *add_part(struct type *type, struct part part)
{
	if (!(type->part_count & (type->part_count - 1))) { /* grows at powers of two */
		size_t room = type->part_count ? type->part_count * 2 : 1;
		void *grown = reallocarray(type->parts, room, sizeof(part));

		if (!grown)
			return pe_error_nomem();
		type->parts = grown;
	}
	type->parts[type->part_count++] = part;
	return NULL;
}

static struct pe_error *add_parts(struct type *type, Dwarf_Die *die, uint64_t at);

static struct pe_error *add_member(struct type *type, Dwarf_Die *die, uint64_t at)
{
	const char *name = dwarf_diename(die);
	Dwarf_Die inner;

	if (flag(die, DW_AT_declaration) || flag(die, DW_AT_external))
		return NULL; /* a static member */
	uint64_t offset = at + bit_offset(die);
	struct pe_error *err = add_part(
		type, (struct part){ name ? name : "", PART_MEMBER, offset, size_of(die) });
	if (err || name || !type_of(die, &inner))
		return err;
	return add_parts(type, &inner, offset); /* an unnamed struct or union inside */
}

static struct pe_error *add_parts(struct type *type, Dwarf_Die *die, uint64_t at)
{
	Dwarf_Die child;
	Dwarf_Attribute attr;
	struct pe_error *err = NULL;

	if (dwarf_child(die, &child))
		return NULL;
	do {
		const char *name = dwarf_diename(&child);
		Dwarf_Die base;

		switch (dwarf_tag(&child)) {
		case DW_TAG_member:
			err = add_member(type, &child, at);
			break;
		case DW_TAG_inheritance:
			if (type_of(&child, &base))
				name = dwarf_diename(&base);
			err = add_part(type, (struct part){ name ? name : "", PART_BASE,
							    at + bit_offset(&child), 0 });
			break;
		case DW_TAG_subprogram:
			name = pe_sel_dwarf_linkage_name(&child);
			if (name && dwarf_attr(&child, DW_AT_vtable_elem_location, &attr)) {
				Dwarf_Op *ops;
				size_t count = 0;
				uint64_t slot = !dwarf_getlocation(&attr, &ops, &count) && count
							? ops[0].number
							: 0;
				err = add_part(type, (struct part){ name, PART_VIRTUAL, slot, 0 });
			}
			break;
		case DW_TAG_enumerator:
			err = add_part(type,
				       (struct part){ name ? name : "", PART_ENUMERATOR,
						      number(&child, DW_AT_const_value, 0), 0 });
			break;
		}
	} while (!err && !dwarf_siblingof(&child, &child));
	return err;
}

static struct pe_error *add_type(struct types *types, Dwarf_Die *die, const char *name)
{
	Dwarf_Word size = 0;

	if (types->count == types->room) {
		types->room = types->room ? types->room * 2 : 1024;
		void *grown = reallocarray(types->items, types->room, sizeof(*types->items));
		if (!grown)
			return pe_error_nomem();
		types->items = grown;
	}
	struct type *type = &types->items[types->count];
	*type = (struct type){ .name = strdup(name) };
	if (!type->name)
		return pe_error_nomem();
	types->count++;
	if (!dwarf_aggregate_size(die, &size))
		type->size = size;
	return add_parts(type, die, 0);
}

static bool is_aggregate(Dwarf_Die *die)
{
	switch (dwarf_tag(die)) {
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
	case DW_TAG_enumeration_type:
		return true;
	default:
		return false;
	}
}

static struct pe_error *collect(struct types *types, Dwarf_Die *parent, const char *scope);

static struct pe_error *collect_one(struct types *types, Dwarf_Die *die, const char *scope)
{
	const char *name = dwarf_diename(die);
	int tag = dwarf_tag(die);
	pe_auto_free char *full = NULL;
	struct pe_error *err = NULL;
	Dwarf_Die inner;

	if (!name && tag != DW_TAG_namespace)
		return NULL;
	if (asprintf(&full, "%s%s%s", scope, *scope ? "::" : "",
		     name ? name : "(anonymous namespace)") < 0)
		return pe_error_nomem();
	if (tag == DW_TAG_typedef && type_of(die, &inner) && is_aggregate(&inner) &&
	    !dwarf_diename(&inner))
		return add_type(types, &inner, full); /* typedef struct { ... } name */
	if (is_aggregate(die) && !flag(die, DW_AT_declaration))
		err = add_type(types, die, full);
	if (!err && (tag == DW_TAG_namespace || is_aggregate(die)))
		err = collect(types, die, full);
	return err;
}

static struct pe_error *collect(struct types *types, Dwarf_Die *parent, const char *scope)
{
	Dwarf_Die child;
	struct pe_error *err = NULL;

	if (dwarf_child(parent, &child))
		return NULL;
	do
		err = collect_one(types, &child, scope);
	while (!err && !dwarf_siblingof(&child, &child));
	return err;
}

static int compare_types(const void *a, const void *b)
{
	return strcmp(((const struct type *)a)->name, ((const struct type *)b)->name);
}

static struct pe_error *types_of(const struct pe_sel_dwarf *dwarf, struct types *ret)
{
	Dwarf_CU *cu = NULL;
	Dwarf_Die die;
	struct pe_error *err = NULL;

	while (!err && pe_sel_dwarf_unit(dwarf, &cu, &die))
		err = collect(ret, &die, "");
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), compare_types);
	return err;
}

/* ---- comparison ---- */

static const struct part *find_part(const struct type *type, const struct part *like, size_t hint)
{
	if (hint < type->part_count && type->parts[hint].kind == like->kind &&
	    !strcmp(type->parts[hint].name, like->name))
		return &type->parts[hint];
	for (size_t i = 0; i < type->part_count; i++) {
		if (type->parts[i].kind == like->kind && !strcmp(type->parts[i].name, like->name))
			return &type->parts[i];
	}
	return NULL;
}

static const char *const kind_names[] = {
	[PART_MEMBER] = "member",
	[PART_BASE] = "base class",
	[PART_VIRTUAL] = "virtual function",
	[PART_ENUMERATOR] = "enumerator",
};

/* Says in *what how @b differs in the patched type; @p is its counterpart there or NULL. */
static struct pe_error *compare_part(const struct part *b, const struct part *p, char **what)
{
	pe_auto_free char *name = pe_demangle(b->name[0] ? b->name : "(unnamed)");
	const char *kind = kind_names[b->kind];
	bool bytes = b->kind == PART_MEMBER || b->kind == PART_BASE;
	int ok = 0;

	if (!name)
		return pe_error_nomem();
	if (!p && bytes)
		ok = asprintf(what, "%s %s at offset %" PRIu64 " is gone", kind, name,
			      b->offset / 8);
	else if (!p)
		ok = asprintf(what, "%s %s is gone", kind, name);
	else if (b->offset != p->offset && bytes && (b->offset % 8 || p->offset % 8))
		ok = asprintf(what, "%s %s moves from bit %" PRIu64 " to bit %" PRIu64, kind, name,
			      b->offset, p->offset);
	else if (b->offset != p->offset && bytes)
		ok = asprintf(what, "%s %s moves from offset %" PRIu64 " to %" PRIu64, kind, name,
			      b->offset / 8, p->offset / 8);
	else if (b->offset != p->offset)
		ok = asprintf(what, "%s %s changes from %" PRId64 " to %" PRId64, kind, name,
			      (int64_t)b->offset, (int64_t)p->offset);
	else if (b->size != p->size)
		ok = asprintf(what,
			      "%s %s at offset %" PRIu64 " changes from %" PRIu64 " to %" PRIu64
			      " bytes",
			      kind, name, b->offset / 8, b->size, p->size);
	return ok < 0 ? pe_error_nomem() : NULL;
}

static struct pe_error *compare_new(const struct part *p, char **what)
{
	pe_auto_free char *name = pe_demangle(p->name[0] ? p->name : "(unnamed)");
	bool bytes = p->kind == PART_MEMBER || p->kind == PART_BASE;

	if (!name)
		return pe_error_nomem();
	if (bytes ? asprintf(what, "%s %s is new at offset %" PRIu64, kind_names[p->kind], name,
			     p->offset / 8) < 0
		  : asprintf(what, "%s %s is new", kind_names[p->kind], name) < 0)
		return pe_error_nomem();
	return NULL;
}

/* The first difference in *what, NULL when there is none. */
static struct pe_error *compare_type(const struct type *b, const struct type *p, char **what)
{
	struct pe_error *err = NULL;

	*what = NULL;
	for (size_t i = 0; i < b->part_count && !err && !*what; i++) {
		const struct part *to = find_part(p, &b->parts[i], i);

		if (to || b->parts[i].kind != PART_ENUMERATOR)
			err = compare_part(&b->parts[i], to, what);
	}
	for (size_t i = 0; i < p->part_count && !err && !*what; i++) {
		const struct part *q = &p->parts[i];

		if (q->kind != PART_ENUMERATOR && !find_part(b, q, i))
			err = compare_new(q, what);
	}
	if (!err && !*what && b->size != p->size &&
	    asprintf(what, "its size changes from %" PRIu64 " to %" PRIu64 " bytes", b->size,
		     p->size) < 0)
		return pe_error_nomem();
	return err;
}

/* Are all old parts where they were, with nothing but members behind them? */
static bool is_appended(const struct type *b, const struct type *p)
{
	uint64_t end = 0;

	for (size_t i = 0; i < b->part_count; i++) {
		const struct part *old = &b->parts[i], *to = find_part(p, old, i);

		if (!to || to->offset != old->offset || to->size != old->size)
			return false;
		if (old->kind == PART_MEMBER && old->offset + 8 * old->size > end)
			end = old->offset + 8 * old->size;
	}
	for (size_t i = 0; i < p->part_count; i++) {
		const struct part *q = &p->parts[i];

		if (!find_part(b, q, i) && (q->kind != PART_MEMBER || q->offset < end))
			return false;
	}
	return true;
}

/* Values of enumerators and virtual functions are relied on where no variable shows it. */
static bool is_plain(const struct type *type)
{
	for (size_t i = 0; i < type->part_count; i++) {
		if (type->parts[i].kind == PART_ENUMERATOR || type->parts[i].kind == PART_VIRTUAL)
			return false;
	}
	return true;
}

static struct pe_error *refuse(struct pe_sel *sel, const struct pe_sel_unit *unit,
			       const struct type *b, const struct type *p, const char *what)
{
	pe_auto_free char *users = NULL;
	struct pe_error *err = pe_sel_type_users(sel, b->name, &users);

	if (err || (!users && is_plain(b) && is_plain(p)))
		return err;
	return pe_error_new(
		PE_ERR_UNSUPPORTED,
		"%s: the patch changes the layout of type %s, which is in use: %s%s%s%s",
		unit->in->source, b->name, what, users ? "; used by " : "", users ? users : "",
		is_appended(b, p) && is_plain(b)
			? " (the old members stay where they are: keep the type and hold the new "
			  "data beside it, in a table of the patch's own by the object's address)"
			: "");
}

/* A name may stand for several types (one per unnamed namespace): equal to any is equal. */
static struct pe_error *compare_all(struct pe_sel *sel, const struct pe_sel_unit *unit,
				    const struct types *base, const struct types *patched)
{
	for (size_t b = 0, p = 0; b < base->count && p < patched->count;) {
		const struct type *old = &base->items[b];
		int order = compare_types(old, &patched->items[p]);
		pe_auto_free char *what = NULL;
		struct pe_error *err = order ? NULL : compare_type(old, &patched->items[p], &what);

		if (err)
			return err;
		b += order <= 0;
		p += order > 0;
		if (order || !what)
			continue;
		for (size_t i = p + 1; i < patched->count && what; i++) {
			pe_auto_free char *other = NULL;

			if (compare_types(old, &patched->items[i]))
				break;
			err = compare_type(old, &patched->items[i], &other);
			if (err)
				return err;
			if (!other) {
				free(what);
				what = NULL;
			}
		}
		err = what ? refuse(sel, unit, old, &patched->items[p], what) : NULL;
		if (err)
			return err;
	}
	return NULL;
}

struct pe_error *pe_sel_guard_types(struct pe_sel *sel, struct pe_sel_unit *unit)
{
	struct pe_sel_dwarf base_dwarf = { 0 }, patched_dwarf = { 0 };
	struct types base = { 0 }, patched = { 0 };

	struct pe_error *err = pe_sel_dwarf_open(unit->in->base, &base_dwarf);
	if (!err)
		err = pe_sel_dwarf_open(unit->in->patched, &patched_dwarf);
	if (!err)
		err = types_of(&base_dwarf, &base);
	if (!err)
		err = types_of(&patched_dwarf, &patched);
	if (!err)
		err = compare_all(sel, unit, &base, &patched);
	types_deinit(&base);
	types_deinit(&patched);
	pe_sel_dwarf_close(&base_dwarf);
	pe_sel_dwarf_close(&patched_dwarf);
	return err;
}
