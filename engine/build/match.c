/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run-pre match: finds each function of the object in the image and compares it.
 *
 *  1. Functions that the symbol list has at one address only.
 *  2. Those whose place the references of matched functions told, until nothing new is told:
 *     static functions of the same name in several objects, and images without static symbols.
 *  3. Several candidates: the one that is equal; of several equal ones, the one among the code of
 *     this object (an object's code lies together).
 *  4. No name in a list without static symbols: the one function of that size that is equal.
 * 2 again after each of 3 and 4.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build/match_private.h"
#include "engine/cleanup.h"

/* ---- candidates ---- */

struct candidates {
	uint64_t *vaddrs; /* distinct */
	size_t count, room;
};

static bool candidate_add(struct match_state *state, struct candidates *list, uint64_t vaddr)
{
	for (size_t i = 0; i < list->count; i++) {
		if (list->vaddrs[i] == vaddr)
			return true;
	}
	if (list->count == list->room) {
		size_t room = list->room ? list->room * 2 : 8;
		uint64_t *more = reallocarray(list->vaddrs, room, sizeof(*more));

		if (!more) {
			state->no_memory = true;
			return false;
		}
		list->vaddrs = more;
		list->room = room;
	}
	list->vaddrs[list->count++] = vaddr;
	return true;
}

/* Where the list has the name; a global symbol's own entry beats statics that share its name. */
static void candidates_by_name(struct match_state *state, const struct pe_object_symbol *symbol,
			       struct candidates *list)
{
	size_t count;
	const struct pe_image_symbol *const *found =
		pe_image_find(state->image, symbol->name, &count);

	for (int pass = symbol->bind == STB_LOCAL ? 1 : 0; pass < 2 && list->count == 0; pass++) {
		for (size_t i = 0; i < count; i++) {
			if ((pass == 0 && found[i]->bind == STB_LOCAL) ||
			    found[i]->type == STT_TLS ||
			    !pe_image_is_code(state->image, found[i]->vaddr))
				continue;
			if (!candidate_add(state, list, found[i]->vaddr))
				return;
		}
	}
}

static bool place_known(const struct match_state *state, const struct pe_object_symbol *symbol,
			uint64_t *vaddr)
{
	const struct match_place *place = &state->sections[symbol->section->index];

	*vaddr = place->vaddr + symbol->value;
	return place->known;
}

/* ---- verdicts ---- */

bool pe_match_is_weak(const struct pe_object_symbol *symbol)
{
	return symbol->bind == STB_WEAK || symbol->bind == STB_GNU_UNIQUE || symbol->section->group;
}

static void settle(struct pe_match_function *function, uint64_t vaddr,
		   const struct match_equal *equal)
{
	free(function->cause);
	function->cause = NULL;
	function->vaddr = vaddr;
	function->size = equal->size;
	function->verdict = equal->relocated ? PE_MATCH_RELOCATED : PE_MATCH_IDENTICAL;
}

static void settle_different(struct match_state *state, struct pe_match_function *function,
			     uint64_t vaddr, char *cause)
{
	free(function->cause);
	function->cause = cause;
	function->vaddr = vaddr;
	function->verdict = PE_MATCH_DIFFERENT;
	if (!pe_match_is_weak(function->symbol))
		return;
	char *text = NULL;
	if (asprintf(&text, "weak: the image has the copy of another object (%s)",
		     cause ? cause : "it differs") < 0) {
		state->no_memory = true;
		return;
	}
	free(cause);
	function->cause = text;
}

static void settle_absent(struct match_state *state, struct pe_match_function *function)
{
	function->verdict = PE_MATCH_ABSENT;
	function->cause =
		strdup(state->has_locals ? "inlined everywhere or dropped by the linker"
					 : "not found: the image lists no static functions");
	if (!function->cause)
		state->no_memory = true;
}

/* ---- passes ---- */

enum { PENDING = -1 }; /* verdict of a function that no pass has settled */

static bool pending(const struct pe_match_function *function)
{
	return (int)function->verdict == PENDING;
}

/* True when it is settled, as equal. */
static bool try_at(struct match_state *state, struct pe_match_function *function, uint64_t vaddr,
		   char **cause)
{
	struct match_equal equal;

	*cause = NULL;
	if (!match_compare(state, function->symbol, vaddr, &equal, cause))
		return false;
	settle(function, vaddr, &equal);
	return true;
}

/*
 * @last: what differs now is settled. Before, it gets another try when more is known: a .cold part
 * that leads into its function, whose jumps have other sizes in the image.
 */
static void pass_named(struct pe_match *match, struct match_state *state, bool last)
{
	for (size_t i = 0; i < match->function_count && !state->no_memory; i++) {
		struct pe_match_function *function = &match->functions[i];
		struct candidates list = { 0 };
		char *cause = NULL;

		if (!pending(function))
			continue;
		candidates_by_name(state, function->symbol, &list);
		bool differs = list.count == 1 && !try_at(state, function, list.vaddrs[0], &cause);
		if (differs && last)
			settle_different(state, function, list.vaddrs[0], cause);
		else
			free(cause);
		free(list.vaddrs);
	}
}

static void pass_referred(struct pe_match *match, struct match_state *state)
{
	for (bool progress = true; progress && !state->no_memory;) {
		progress = false;
		for (size_t i = 0; i < match->function_count; i++) {
			struct pe_match_function *function = &match->functions[i];
			uint64_t vaddr;
			char *cause;

			if (!pending(function) || !place_known(state, function->symbol, &vaddr))
				continue;
			if (!try_at(state, function, vaddr, &cause))
				settle_different(state, function, vaddr, cause);
			progress = true;
		}
	}
}

/* GCC's kinds of code sections; the linker gathers each kind. */
static size_t code_kind(const struct pe_object_section *section)
{
	static const char *const kinds[] = { ".text.unlikely", ".text.startup", ".text.exit",
					     ".text.hot" };
	size_t i = 0;

	while (i < sizeof(kinds) / sizeof(kinds[0]) &&
	       strncmp(section->name, kinds[i], strlen(kinds[i])) != 0)
		i++;
	return i;
}

/* Before, in the order in which the compiler wrote them? */
static bool written_before(const struct pe_object_symbol *a, const struct pe_object_symbol *b)
{
	if (a->section != b->section)
		return a->section->index < b->section->index;
	return a->value < b->value;
}

/*
 * The functions before and behind @symbol, in the object and of the same kind of code, whose
 * addresses are sure; 0 when there is none.
 */
static void neighbours(const struct pe_match *match, const struct pe_object_symbol *symbol,
		       uint64_t *before, uint64_t *behind)
{
	const struct pe_object_symbol *low = NULL, *high = NULL;

	*before = *behind = 0;
	for (size_t i = 0; i < match->function_count; i++) {
		const struct pe_match_function *other = &match->functions[i];

		if (pending(other) || other->vaddr == 0 || pe_match_is_weak(other->symbol) ||
		    other->verdict > PE_MATCH_RELOCATED ||
		    code_kind(other->symbol->section) != code_kind(symbol->section))
			continue;
		if (written_before(other->symbol, symbol) &&
		    (!low || written_before(low, other->symbol))) {
			low = other->symbol;
			*before = other->vaddr;
		} else if (written_before(symbol, other->symbol) &&
			   (!high || written_before(other->symbol, high))) {
			high = other->symbol;
			*behind = other->vaddr;
		}
	}
}

/* Leaves in @list only those that are equal to the function. */
static void keep_equal(struct match_state *state, const struct pe_object_symbol *symbol,
		       struct candidates *list, struct match_equal *equal, char **cause)
{
	size_t kept = 0;

	for (size_t i = 0; i < list->count && !state->no_memory; i++) {
		char *why = NULL;

		if (match_compare(state, symbol, list->vaddrs[i], equal, &why)) {
			match_rollback(state);
			list->vaddrs[kept++] = list->vaddrs[i];
		}
		if (why) {
			free(*cause);
			*cause = why;
		}
	}
	list->count = kept;
}

/*
 * Of equal copies, the one of this object: its code lies together in the image, in the order in
 * which the compiler wrote it, so that no other copy can be nearer to its neighbours.
 */
static void keep_own(const struct pe_match *match, const struct pe_object_symbol *symbol,
		     struct candidates *list)
{
	uint64_t before, behind, best = 0;

	neighbours(match, symbol, &before, &behind);
	if ((!before && !behind) || (before && behind && before > behind))
		return;
	for (size_t i = 0; i < list->count; i++) {
		uint64_t vaddr = list->vaddrs[i];

		if (vaddr < before || (behind && vaddr > behind))
			continue;
		if (best == 0 || (before ? vaddr < best : vaddr > best))
			best = vaddr;
	}
	if (best == 0)
		return;
	list->vaddrs[0] = best;
	list->count = 1;
}

/* Settles one function that has candidates; false when it must wait for others. */
static bool settle_several(struct pe_match *match, struct match_state *state,
			   struct pe_match_function *function, struct candidates *list, bool last)
{
	const struct pe_object_symbol *symbol = function->symbol;
	pe_auto_free char *cause = NULL;
	char *unused;
	uint64_t first = list->vaddrs[0];
	size_t named = list->count;
	struct match_equal equal = { 0 };

	keep_equal(state, symbol, list, &equal, &cause);
	if (list->count > 1)
		keep_own(match, symbol, list);
	if (list->count == 1)
		return try_at(state, function, list->vaddrs[0], &unused);
	if (!last)
		return false;
	if (list->count == 0) {
		settle_different(state, function, named == 1 ? first : 0, pe_steal(cause));
		return true;
	}
	settle(function, 0, &equal);
	if (asprintf(&function->cause, "%zu equal copies; which one is this object's is not known",
		     list->count) < 0)
		state->no_memory = true;
	return true;
}

static void pass_several(struct pe_match *match, struct match_state *state, bool last)
{
	for (size_t i = 0; i < match->function_count && !state->no_memory; i++) {
		struct pe_match_function *function = &match->functions[i];
		struct candidates list = { 0 };

		if (!pending(function))
			continue;
		candidates_by_name(state, function->symbol, &list);
		if (list.count > 0 && settle_several(match, state, function, &list, last))
			pass_referred(match, state);
		free(list.vaddrs);
	}
}

/* Every function of the image (by its unwind tables) that has the right size. */
static void candidates_by_size(struct match_state *state, const struct pe_object_symbol *symbol,
			       struct candidates *list)
{
	uint64_t vaddr, image_end, start, end, size = match_code_size(symbol);

	pe_image_extent(state->image, &vaddr, &image_end);
	while (pe_image_extent_from(state->image, vaddr, &start, &end)) {
		if (end - start == size && !candidate_add(state, list, start))
			return;
		vaddr = start + 1;
	}
}

static void pass_unnamed(struct pe_match *match, struct match_state *state)
{
	for (size_t i = 0; i < match->function_count && !state->no_memory; i++) {
		struct pe_match_function *function = &match->functions[i];
		struct candidates list = { 0 };

		if (!pending(function) || match_code_size(function->symbol) < 16)
			continue; /* short ones are alike everywhere */
		candidates_by_size(state, function->symbol, &list);
		if (list.count > 0 && settle_several(match, state, function, &list, false))
			pass_referred(match, state);
		free(list.vaddrs);
	}
}

/* ---- the match ---- */

static bool is_function(const struct pe_object_symbol *symbol)
{
	return (symbol->type == STT_FUNC || symbol->type == STT_GNU_IFUNC) && symbol->section &&
	       symbol->section->data && match_code_size(symbol) > 0;
}

static bool lists_locals(const struct pe_image *image)
{
	size_t count;
	const struct pe_image_symbol *const *symbols = pe_image_symbols(image, &count);

	for (size_t i = 0; i < count; i++) {
		if (symbols[i]->bind == STB_LOCAL && symbols[i]->type == STT_FUNC &&
		    symbols[i]->source != PE_SOURCE_DYNSYM)
			return true;
	}
	return false;
}

static struct pe_error *state_init(struct pe_match *match, struct match_state *state)
{
	const struct pe_object *object = match->object;
	uint64_t size, align;

	state->object = object;
	state->image = match->image;
	state->has_locals = lists_locals(match->image);
	pe_image_tls(match->image, &size, &align);
	state->tls_end = size ? (size + align - 1) & ~(align - 1) : 0;
	state->sections = calloc(object->section_count, sizeof(*state->sections));
	state->symbols = calloc(object->symbol_count, sizeof(*state->symbols));
	state->functions = calloc(object->symbol_count, sizeof(*state->functions));
	match->functions = calloc(object->symbol_count, sizeof(*match->functions));
	if (!state->sections || !state->symbols || !state->functions || !match->functions ||
	    !match_pieces_init(state))
		return pe_error_nomem();
	for (size_t i = 0; i < object->symbol_count; i++) {
		if (!is_function(&object->symbols[i]))
			continue;
		match->functions[match->function_count].symbol = &object->symbols[i];
		match->functions[match->function_count].verdict = (enum pe_match_verdict)PENDING;
		state->functions[i] = ++match->function_count;
	}
	return NULL;
}

static struct pe_error *match_passes(struct pe_match *match, struct match_state *state)
{
	struct pe_error *err = state_init(match, state);

	if (err)
		return err;
	pass_named(match, state, false);
	pass_named(match, state, true);
	pass_referred(match, state);
	pass_several(match, state, false);
	if (!state->has_locals)
		pass_unnamed(match, state);
	pass_several(match, state, true);
	for (size_t i = 0; i < match->function_count; i++) {
		if (pending(&match->functions[i]))
			settle_absent(state, &match->functions[i]);
	}
	return state->no_memory ? pe_error_nomem() : NULL;
}

struct pe_error *pe_match_run(const struct pe_object *object, const struct pe_image *image,
			      struct pe_match **ret)
{
	if (object->machine != pe_image_machine(image))
		return pe_error_new(PE_ERR_MISMATCH, "%s is for another processor than %s",
				    object->path, pe_image_path(image));
	if (object->machine != EM_X86_64)
		return pe_error_new(PE_ERR_UNSUPPORTED, "%s: only x86-64 code can be matched",
				    object->path);
	struct pe_match *match = calloc(1, sizeof(*match));
	if (match)
		match->private_data = calloc(1, sizeof(struct match_state));
	if (!match || !match->private_data) {
		pe_match_free(match);
		return pe_error_nomem();
	}
	match->object = object;
	match->image = image;
	struct pe_error *err = match_passes(match, match->private_data);
	if (err) {
		pe_match_free(match);
		return err;
	}
	*ret = match;
	return NULL;
}

void pe_match_free(struct pe_match *match)
{
	if (!match)
		return;
	struct match_state *state = match->private_data;
	if (state) {
		free(state->sections);
		free(state->symbols);
		free(state->functions);
		free(state->learned);
		free(state->pieces);
		match_flows_drop(state, NULL);
		free(state->unverified);
		free(state);
	}
	for (size_t i = 0; i < match->function_count; i++)
		free(match->functions[i].cause);
	free(match->functions);
	free(match);
}

/* ---- what it tells ---- */

const struct pe_match_function *pe_match_function_of(const struct pe_match *match,
						     const struct pe_object_symbol *symbol)
{
	const struct match_state *state = match->private_data;
	size_t number = state->functions[symbol->index];

	return number ? &match->functions[number - 1] : NULL;
}

/* The one address that the list has for the name; @global: statics of that name do not count. */
static bool listed_once(const struct pe_image *image, const char *name, bool global, bool tls,
			uint64_t *vaddr)
{
	size_t count, found = 0;
	const struct pe_image_symbol *const *symbols = pe_image_find(image, name, &count);

	for (size_t i = 0; i < count; i++) {
		if ((global && symbols[i]->bind == STB_LOCAL) ||
		    (symbols[i]->type == STT_TLS) != tls)
			continue;
		if (found > 0 && symbols[i]->vaddr == *vaddr)
			continue;
		*vaddr = symbols[i]->vaddr;
		found++;
	}
	return found == 1;
}

/* Address, or TLS block offset. */
static bool symbol_place(const struct pe_match *match, const struct pe_object_symbol *symbol,
			 bool tls, uint64_t *vaddr)
{
	const struct match_state *state = match->private_data;
	const struct match_place *place = symbol->section ? &state->sections[symbol->section->index]
							  : &state->symbols[symbol->index];
	bool named = symbol->type != STT_SECTION && symbol->name[0];

	/* A hidden symbol is global in the object and local in the image: hence the second try. */
	if (named && symbol->bind != STB_LOCAL &&
	    (listed_once(match->image, symbol->name, true, tls, vaddr) ||
	     (!place->known && listed_once(match->image, symbol->name, false, tls, vaddr))))
		return true;
	if (place->known) {
		*vaddr = place->vaddr + (symbol->section ? symbol->value : 0);
		return true;
	}
	return named && symbol->bind == STB_LOCAL && symbol->type != STT_NOTYPE &&
	       listed_once(match->image, symbol->name, false, tls, vaddr);
}

/* A section without references of its own is where its only named symbol is. */
static const struct pe_object_symbol *section_owner(const struct pe_match *match,
						    const struct pe_object_section *section)
{
	const struct pe_object_symbol *owner = pe_object_symbol_at(match->object, section, 0);

	return owner && owner->type != STT_NOTYPE ? owner : NULL;
}

bool pe_match_address(const struct pe_match *match, const struct pe_object_symbol *symbol,
		      uint64_t *vaddr)
{
	const struct pe_match_function *function = pe_match_function_of(match, symbol);

	if (function) {
		*vaddr = function->vaddr;
		return function->vaddr != 0;
	}
	if (symbol->type == STT_TLS || symbol->absolute || symbol->index == 0 ||
	    (symbol->section && symbol->section->flags & (SHF_MERGE | SHF_TLS)))
		return false;
	if (symbol_place(match, symbol, false, vaddr))
		return true;
	const struct pe_object_symbol *owner = symbol->type == STT_SECTION && symbol->section
						       ? section_owner(match, symbol->section)
						       : NULL;
	if (!owner || !pe_match_address(match, owner, vaddr))
		return false;
	*vaddr -= owner->value;
	return true;
}

bool pe_match_tls_offset(const struct pe_match *match, const struct pe_object_symbol *symbol,
			 int64_t *tpoff)
{
	const struct match_state *state = match->private_data;
	uint64_t offset;

	if (symbol->index == 0 ||
	    (symbol->type != STT_TLS && !(symbol->section && symbol->section->flags & SHF_TLS) &&
	     symbol->defined))
		return false;
	if (!symbol_place(match, symbol, true, &offset)) {
		const struct pe_object_symbol *owner =
			symbol->type == STT_SECTION && symbol->section
				? section_owner(match, symbol->section)
				: NULL;

		if (!owner || !symbol_place(match, owner, true, &offset))
			return false;
		offset -= owner->value;
	}
	*tpoff = (int64_t)(offset - state->tls_end);
	return true;
}
