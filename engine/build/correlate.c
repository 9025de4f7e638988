/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * First pass: which symbol of the patched object is which of the base object.
 *
 * Symbols of both objects are grouped by type and name without compiler-made numbers. A group of
 * one and one is a pair. In larger groups functions and constants are paired by content first,
 * then by name; variables by the functions that refer to them, since the contents of counters are
 * all alike. What is left is paired in order when the counts agree. A variable that could be
 * either of two is marked doubtful: code that uses it is refused later, because sharing the wrong
 * counter is worse than no patch.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

struct candidate {
	char *key; /* class letter and name key; owned */
	struct pe_object_symbol *symbol;
	bool patched;
	bool paired;
	uint64_t content; /* hash of bytes and of what they refer to, by name */
	uint64_t users;	  /* hash of the functions that refer to it */
};

struct table {
	struct candidate *items;
	size_t count;
};

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ p[i]) * 0x100000001b3;
	return hash;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
	pe_auto_free char *key = pe_sel_name_key(text);

	return key ? hash_bytes(hash, key, strlen(key) + 1) : hash;
}

static uint64_t hash_ref(const struct pe_sel_object *so, const struct pe_object_section *section,
			 const struct pe_object_reloc *reloc, uint64_t hash)
{
	struct pe_sel_ref ref = pe_sel_ref_of(so, section, reloc);
	uint64_t start, size;

	if (ref.symbol)
		return hash_bytes(hash_text(hash, ref.symbol->name), &ref.addend,
				  sizeof(ref.addend));
	if (!pe_sel_is_mergeable(ref.section))
		return hash_text(hash, ref.section->name);
	pe_sel_piece_at(ref.section, ref.offset, &start, &size);
	return hash_bytes(hash, ref.section->data + start, size);
}

static uint64_t hash_content(const struct pe_sel_object *so, const struct pe_object_symbol *symbol)
{
	const struct pe_object_section *s = symbol->section;
	uint64_t hash = hash_bytes(0xcbf29ce484222325, &symbol->size, sizeof(symbol->size));
	uint64_t end = symbol->value + symbol->size;
	size_t count;

	if (!s->data || end > s->size)
		return hash;
	const struct pe_object_reloc *relocs = pe_object_relocs_in(s, symbol->value, end, &count);
	uint64_t at = symbol->value;
	for (size_t i = 0; i < count; i++) {
		if (relocs[i].offset > at)
			hash = hash_bytes(hash, s->data + at, relocs[i].offset - at);
		hash = hash_ref(so, s, &relocs[i], hash);
		at = relocs[i].offset + pe_sel_field_size(so->arch, relocs[i].type);
	}
	return at < end ? hash_bytes(hash, s->data + at, end - at) : hash;
}

/* ---- who refers to what ---- */

/* The name of the function without clone suffixes, so that splitting it changes nothing. */
static uint64_t user_hash(const struct pe_sel_object *so, const struct pe_object_section *section,
			  uint64_t offset)
{
	const struct pe_object_symbol *user = so->owner[section->index];

	if (!user)
		user = pe_object_symbol_at(so->object, section, offset);
	if (!user)
		return 0;
	pe_auto_free char *stem = strndup(user->name, 1 + strcspn(user->name + 1, "."));
	return stem ? hash_text(0xcbf29ce484222325, stem) : 0;
}

/*
 * users[i] becomes the combined hash of the distinct functions that refer to symbol i. The same
 * function often refers to the same thing in a row; a xor over all would cancel such doubles, so
 * each (symbol, user) counts once.
 */
struct use {
	size_t symbol;
	uint64_t user;
};

static int compare_uses(const void *a, const void *b)
{
	const struct use *x = a, *y = b;

	if (x->symbol != y->symbol)
		return x->symbol < y->symbol ? -1 : 1;
	return x->user < y->user ? -1 : x->user > y->user;
}

struct uses {
	struct use *items; /* sorted, distinct */
	size_t count;
};

static struct pe_error *collect_uses(const struct pe_sel_object *so, const bool *wanted,
				     struct uses *ret)
{
	const struct pe_object *object = so->object;
	size_t total = 0;

	for (size_t i = 1; i < object->section_count; i++) {
		if (pe_sel_is_text(&object->sections[i]) || pe_sel_is_data(&object->sections[i]))
			total += object->sections[i].reloc_count;
	}
	ret->items = calloc(total + 1, sizeof(*ret->items));
	if (!ret->items)
		return pe_error_nomem();
	for (size_t i = 1; i < object->section_count; i++) {
		const struct pe_object_section *s = &object->sections[i];

		if (!pe_sel_is_text(s) && !pe_sel_is_data(s))
			continue;
		for (size_t r = 0; r < s->reloc_count; r++) {
			struct pe_sel_ref ref = pe_sel_ref_of(so, s, &s->relocs[r]);

			if (!ref.symbol || !wanted[ref.symbol->index])
				continue;
			ret->items[ret->count].symbol = ref.symbol->index;
			ret->items[ret->count++].user = user_hash(so, s, s->relocs[r].offset);
		}
	}
	qsort(ret->items, ret->count, sizeof(*ret->items), compare_uses);
	size_t kept = 0;
	for (size_t i = 0; i < ret->count; i++) {
		if (!kept || compare_uses(&ret->items[kept - 1], &ret->items[i]))
			ret->items[kept++] = ret->items[i];
	}
	ret->count = kept;
	return NULL;
}

static const struct use *uses_of(const struct uses *uses, size_t symbol, size_t *count)
{
	size_t low = 0, high = uses->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (uses->items[middle].symbol < symbol)
			low = middle + 1;
		else
			high = middle;
	}
	*count = 0;
	while (low + *count < uses->count && uses->items[low + *count].symbol == symbol)
		(*count)++;
	return &uses->items[low];
}

static size_t common_users(const struct uses *a, size_t as, const struct uses *b, size_t bs)
{
	size_t na, nb, common = 0;
	const struct use *ua = uses_of(a, as, &na), *ub = uses_of(b, bs, &nb);

	for (size_t i = 0, j = 0; i < na && j < nb;) {
		if (ua[i].user == ub[j].user)
			common++, i++, j++;
		else if (ua[i].user < ub[j].user)
			i++;
		else
			j++;
	}
	return common;
}

/* ---- the table of candidates ---- */

static char type_class(const struct pe_object_symbol *symbol)
{
	switch (symbol->type) {
	case STT_FUNC:
	case STT_GNU_IFUNC:
		return 'F';
	case STT_OBJECT:
		return 'O';
	case STT_TLS:
		return 'T';
	default:
		return 'N';
	}
}

static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	int order = strcmp(x->key, y->key);

	if (order)
		return order;
	if (x->patched != y->patched)
		return x->patched ? 1 : -1;
	return x->symbol->index < y->symbol->index ? -1 : x->symbol->index > y->symbol->index;
}

static void table_deinit(struct table *table)
{
	for (size_t i = 0; i < table->count; i++)
		free(table->items[i].key);
	free(table->items);
}

static struct pe_error *table_add(struct table *table, const struct pe_sel_object *so, bool patched)
{
	for (size_t i = 0; i < so->by_name_count; i++) {
		struct pe_object_symbol *symbol = so->by_name[i];

		if (!symbol->defined || !symbol->section || so->parent[symbol->index])
			continue;
		pe_auto_free char *name = pe_sel_name_key(symbol->name);
		struct candidate *item = &table->items[table->count];
		if (!name || asprintf(&item->key, "%c%s", type_class(symbol), name) < 0)
			return pe_error_nomem();
		item->symbol = symbol;
		item->patched = patched;
		table->count++;
	}
	return NULL;
}

/* ---- pairing ---- */

struct group {
	struct pe_sel_unit *unit;
	struct candidate *base, *patched;
	size_t base_count, patched_count;
	const struct uses *base_uses, *patched_uses;
};

static void pair(struct group *g, struct candidate *b, struct candidate *p)
{
	b->paired = p->paired = true;
	g->unit->symbols[p->symbol->index].base = b->symbol;
	g->unit->counterpart[b->symbol->index] = p->symbol;
}

static bool is_variable(const struct pe_object_symbol *symbol)
{
	return !pe_sel_is_text(symbol->section) && !pe_sel_is_read_only(symbol->section);
}

enum rule { RULE_CONTENT_AND_USERS, RULE_CONTENT, RULE_USERS, RULE_NAME, RULE_COUNT };

static bool alike(enum rule rule, const struct candidate *b, const struct candidate *p)
{
	switch (rule) {
	case RULE_CONTENT_AND_USERS:
		return b->content == p->content && b->users == p->users;
	case RULE_CONTENT:
		return b->content == p->content;
	case RULE_USERS:
		return b->users == p->users;
	default:
		return !strcmp(b->symbol->name, p->symbol->name);
	}
}

/* How many of @items that are not paired yet are like @to; for doubt. */
static size_t count_alike(enum rule rule, const struct candidate *items, size_t count,
			  const struct candidate *to)
{
	size_t alike_count = 0;

	for (size_t i = 0; i < count; i++)
		alike_count += !items[i].paired && alike(rule, &items[i], to);
	return alike_count;
}

static void apply_rule(struct group *g, enum rule rule, bool variable)
{
	for (size_t i = 0; i < g->patched_count; i++) {
		struct candidate *p = &g->patched[i];

		if (p->paired)
			continue;
		if (variable && count_alike(rule, g->base, g->base_count, p) &&
		    count_alike(rule, g->base, g->base_count, p) !=
			    count_alike(rule, g->patched, g->patched_count, p)) {
			g->unit->symbols[p->symbol->index].doubtful = true;
			continue;
		}
		for (size_t j = 0; j < g->base_count; j++) {
			if (!g->base[j].paired && alike(rule, &g->base[j], p)) {
				pair(g, &g->base[j], p);
				break;
			}
		}
	}
}

/* Pairs what shares the most users, best first. */
static void pair_by_common_users(struct group *g)
{
	for (;;) {
		struct candidate *best_base = NULL, *best_patched = NULL;
		size_t best = 0;

		for (size_t i = 0; i < g->patched_count; i++) {
			for (size_t j = 0; j < g->base_count; j++) {
				if (g->patched[i].paired || g->base[j].paired ||
				    g->unit->symbols[g->patched[i].symbol->index].doubtful)
					continue;
				size_t common =
					common_users(g->base_uses, g->base[j].symbol->index,
						     g->patched_uses, g->patched[i].symbol->index);
				if (common > best) {
					best = common;
					best_base = &g->base[j];
					best_patched = &g->patched[i];
				}
			}
		}
		if (!best)
			return;
		pair(g, best_base, best_patched);
	}
}

static size_t unpaired(const struct candidate *items, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += !items[i].paired;
	return n;
}

static void pair_in_order(struct group *g)
{
	for (size_t i = 0, j = 0; i < g->patched_count; i++) {
		while (j < g->base_count && g->base[j].paired)
			j++;
		if (!g->patched[i].paired && j < g->base_count)
			pair(g, &g->base[j], &g->patched[i]);
	}
}

static void mark_doubtful(struct group *g)
{
	for (size_t i = 0; i < g->patched_count; i++) {
		if (!g->patched[i].paired)
			g->unit->symbols[g->patched[i].symbol->index].doubtful = true;
	}
}

/* As many as before, and no name that the compiler may have numbered anew. */
static bool names_stay(const struct group *g)
{
	size_t stem;

	for (size_t i = 0; i < g->patched_count; i++) {
		if (pe_sel_numbered(g->patched[i].symbol->name, &stem) ||
		    count_alike(RULE_NAME, g->base, g->base_count, &g->patched[i]) != 1)
			return false;
	}
	return g->base_count == g->patched_count;
}

static void pair_variables(struct group *g)
{
	if (names_stay(g))
		apply_rule(g, RULE_NAME, true);
	apply_rule(g, RULE_USERS, true);
	pair_by_common_users(g);
	size_t left = unpaired(g->base, g->base_count);
	if (left && unpaired(g->patched, g->patched_count))
		mark_doubtful(g);
}

static void pair_group(struct group *g)
{
	size_t stem;

	if (!g->base_count || !g->patched_count)
		return;
	bool variable = is_variable(g->patched[0].symbol);
	bool numbered = pe_sel_numbered(g->patched[0].symbol->name, &stem) &&
			g->patched[0].symbol->bind == STB_LOCAL;
	if (g->base_count == 1 && g->patched_count == 1 && !(variable && numbered)) {
		pair(g, &g->base[0], &g->patched[0]);
		return;
	}
	if (variable) {
		pair_variables(g);
		return;
	}
	for (int rule = 0; rule < RULE_COUNT; rule++) {
		if (rule != RULE_USERS)
			apply_rule(g, (enum rule)rule, false);
	}
	if (unpaired(g->base, g->base_count) == unpaired(g->patched, g->patched_count))
		pair_in_order(g);
}

/* Marks the members of groups that need more than their name. */
static void fill_hashes(struct group *g, struct candidate *items, size_t count,
			const struct pe_sel_object *so, const struct uses *uses)
{
	for (size_t i = 0; i < count; i++) {
		size_t users;
		const struct use *u = uses_of(uses, items[i].symbol->index, &users);

		items[i].content = hash_content(so, items[i].symbol);
		items[i].users = 0xcbf29ce484222325;
		for (size_t k = 0; k < users; k++)
			items[i].users = hash_bytes(items[i].users, &u[k].user, sizeof(u[k].user));
	}
}

static size_t group_end(const struct table *table, size_t start)
{
	size_t end = start;

	while (end < table->count && !strcmp(table->items[end].key, table->items[start].key))
		end++;
	return end;
}

static struct pe_error *pair_all(struct pe_sel_unit *unit, struct table *table)
{
	pe_auto_free bool *base_wanted = calloc(unit->in->base->symbol_count + 1, 1);
	pe_auto_free bool *patched_wanted = calloc(unit->in->patched->symbol_count + 1, 1);
	struct uses base_uses = { 0 }, patched_uses = { 0 };
	struct pe_error *err = NULL;
	size_t stem;

	if (!base_wanted || !patched_wanted)
		return pe_error_nomem();
	for (size_t i = 0, end; i < table->count; i = end) {
		end = group_end(table, i);
		for (size_t k = i; k < end; k++) {
			struct candidate *c = &table->items[k];

			if (end - i > 2 || pe_sel_numbered(c->symbol->name, &stem))
				(c->patched ? patched_wanted : base_wanted)[c->symbol->index] =
					true;
		}
	}
	err = collect_uses(&unit->base, base_wanted, &base_uses);
	if (!err)
		err = collect_uses(&unit->patched, patched_wanted, &patched_uses);
	for (size_t i = 0, end; !err && i < table->count; i = end) {
		struct group g = { .unit = unit,
				   .base = &table->items[i],
				   .base_uses = &base_uses,
				   .patched_uses = &patched_uses };

		end = group_end(table, i);
		while (i + g.base_count < end && !g.base[g.base_count].patched)
			g.base_count++;
		g.patched = g.base + g.base_count;
		g.patched_count = end - i - g.base_count;
		fill_hashes(&g, g.base, g.base_count, &unit->base, &base_uses);
		fill_hashes(&g, g.patched, g.patched_count, &unit->patched, &patched_uses);
		pair_group(&g);
	}
	free(base_uses.items);
	free(patched_uses.items);
	return err;
}

/* .cold parts follow their functions; undefined symbols follow their names. */
static void pair_followers(struct pe_sel_unit *unit)
{
	for (size_t i = 1; i < unit->in->patched->symbol_count; i++) {
		struct pe_object_symbol *p = &unit->in->patched->symbols[i];
		struct pe_sel_symbol *s = &unit->symbols[i];

		if (!p->defined && p->name[0]) {
			s->base = pe_sel_find(&unit->base, p->name);
			continue;
		}
		struct pe_object_symbol *part = unit->patched.cold[i];
		struct pe_object_symbol *base_part =
			s->base ? unit->base.cold[s->base->index] : NULL;
		if (part && base_part) {
			unit->symbols[part->index].base = base_part;
			unit->counterpart[base_part->index] = part;
		}
	}
}

struct pe_error *pe_sel_correlate(struct pe_sel_unit *unit)
{
	struct table table = { 0 };

	table.items = calloc(unit->base.by_name_count + unit->patched.by_name_count + 1,
			     sizeof(*table.items));
	if (!table.items)
		return pe_error_nomem();
	struct pe_error *err = table_add(&table, &unit->base, false);
	if (!err)
		err = table_add(&table, &unit->patched, true);
	if (!err) {
		qsort(table.items, table.count, sizeof(*table.items), compare_candidates);
		err = pair_all(unit, &table);
	}
	if (!err)
		pair_followers(unit);
	table_deinit(&table);
	return err;
}
