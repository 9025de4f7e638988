/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does the image refer to what the object names? A reference agrees when the symbol list has the
 * name at that address, when the PLT entry or slot there is bound to it, when the string or
 * constant there has the same contents - and, for what no list names, when every reference of the
 * object leads to the same place.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build/match_private.h"
#include "engine/cleanup.h"

#define DEPTH_MAX 16 /* of data that refer to data; a cycle of constants would have no end */

static bool disagree(char **cause, const char *fmt, ...) pe_printf(2, 3);

/* Sets the cause; returns false. */
static bool disagree(char **cause, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	free(*cause);
	if (vasprintf(cause, fmt, ap) < 0)
		*cause = NULL;
	va_end(ap);
	return false;
}

/* ---- transactions ---- */

void match_begin(struct match_state *state)
{
	state->learned_count = 0;
	state->unverified_count = 0;
	state->flows_before = state->flows;
}

void match_rollback(struct match_state *state)
{
	for (size_t i = 0; i < state->learned_count; i++)
		state->learned[i]->known = false;
	match_flows_drop(state, state->flows_before);
	match_begin(state);
}

static bool grow(struct match_state *state, void *array, size_t *room, size_t count, size_t size)
{
	void **items = array;

	if (count < *room)
		return true;
	size_t more = *room ? *room * 2 : 64;
	void *grown = reallocarray(*items, more, size);
	if (!grown) {
		state->no_memory = true;
		return false;
	}
	*items = grown;
	*room = more;
	return true;
}

bool match_place_set(struct match_state *state, struct match_place *place, uint64_t vaddr)
{
	if (place->known)
		return place->vaddr == vaddr;
	if (!grow(state, &state->learned, &state->learned_room, state->learned_count,
		  sizeof(struct match_place *)))
		return false;
	state->learned[state->learned_count++] = place;
	*place = (struct match_place){ true, vaddr };
	return true;
}

static void verify_later(struct match_state *state, const struct pe_object_section *section)
{
	if (grow(state, &state->unverified, &state->unverified_room, state->unverified_count,
		 sizeof(size_t)))
		state->unverified[state->unverified_count++] = section->index;
}

/* ---- names ---- */

/* Without the @version that `.symver` puts behind it. */
static bool same_name(const char *of_object, const char *of_image)
{
	size_t length = strcspn(of_object, "@");

	return strncmp(of_object, of_image, length) == 0 && of_image[length] == '\0';
}

/* What the image calls the address, for people. */
static const char *name_at(const struct match_state *state, uint64_t vaddr)
{
	size_t count;
	const struct pe_image_symbol *const *symbols = pe_image_at(state->image, vaddr, &count);
	const struct pe_image_slot *slot = pe_image_plt_slot(state->image, vaddr);

	if (slot && slot->symbol[0])
		return slot->symbol;
	return count > 0 ? symbols[0]->name : "something without a name";
}

enum listed { LISTED_NOT, LISTED_HERE, LISTED_ELSEWHERE };

static enum listed listed_at(const struct match_state *state, const char *name, uint64_t vaddr,
			     bool tls)
{
	size_t count, alike = 0;
	const struct pe_image_symbol *const *symbols = pe_image_find(state->image, name, &count);

	for (size_t i = 0; i < count; i++) {
		if ((symbols[i]->type == STT_TLS) != tls)
			continue;
		if (symbols[i]->vaddr == vaddr)
			return LISTED_HERE;
		alike++;
	}
	return alike > 0 ? LISTED_ELSEWHERE : LISTED_NOT;
}

/* The loader leads from here to the symbol: a PLT entry, or the copy of imported data. */
static bool bound_at(const struct match_state *state, const char *name, uint64_t vaddr)
{
	const struct pe_image_slot *slot = pe_image_plt_slot(state->image, vaddr);

	if (slot && slot->symbol[0])
		return same_name(name, slot->symbol);
	if (slot && slot->type == R_X86_64_IRELATIVE)
		return listed_at(state, name, (uint64_t)slot->addend, false) == LISTED_HERE;
	slot = pe_image_slot_at(state->image, vaddr);
	return slot && slot->type == R_X86_64_COPY && same_name(name, slot->symbol);
}

static bool inside(const struct match_state *state, uint64_t vaddr)
{
	uint64_t start, end;

	pe_image_extent(state->image, &start, &end);
	return vaddr >= start && vaddr <= end;
}

/* ---- contents ---- */

/* A string or constant of a mergeable section: the linker keeps the contents, not the place. */
static bool merged_equal(const struct match_state *state, const struct pe_object_section *section,
			 uint64_t offset, uint64_t vaddr, char **cause)
{
	uint64_t unit = section->entsize ? section->entsize : 1, size = 0;

	if (offset >= section->size || !section->data)
		return disagree(cause, "a reference outside %s", section->name);
	if (section->flags & SHF_STRINGS) {
		static const uint8_t zero[8];
		bool ended = false;

		for (; !ended && unit <= sizeof(zero) && section->size - offset - size >= unit;
		     size += unit)
			ended = memcmp(section->data + offset + size, zero, unit) == 0;
	} else {
		size = unit - offset % unit;
		if (size > section->size - offset)
			size = section->size - offset;
	}
	const void *bytes = pe_image_bytes(state->image, vaddr, size);
	if (bytes && memcmp(bytes, section->data + offset, size) == 0)
		return true;
	if (section->flags & SHF_STRINGS && unit == 1)
		return disagree(cause, "the image has another string for \"%.*s\"", (int)size,
				(const char *)section->data + offset);
	return disagree(cause, "the image has another constant at %#lx", vaddr);
}

static bool is_pc_relative(uint32_t type)
{
	return type != R_X86_64_64 && type != R_X86_64_32 && type != R_X86_64_32S;
}

/*
 * Offset in its section of what a reference is to. A PC-relative addend is reduced by the distance
 * from the field to the end of its instruction, 4 unless an immediate follows.
 */
static uint64_t target_offset(const struct pe_object_reloc *reloc)
{
	if (reloc->symbol->type != STT_SECTION)
		return reloc->symbol->value;
	return (uint64_t)reloc->addend + (is_pc_relative(reloc->type) ? 4 : 0);
}

static int piece_compare(const void *a, const void *b)
{
	const struct match_piece *x = a, *y = b;

	if (x->section != y->section)
		return x->section < y->section ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/*
 * Constants and jump tables without a name share a section here, in another order and with other
 * padding than in an object that was not compiled with -ffunction-sections. So each is compared
 * by itself: up to where the next one begins, without the padding.
 */
static uint64_t piece_end(const struct match_state *state, const struct pe_object_section *section,
			  uint64_t offset)
{
	const struct match_piece key = { section->index, offset };
	uint64_t end = section->size, last = offset;
	size_t low = 0, high = state->piece_count, count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (piece_compare(&state->pieces[middle], &key) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < state->piece_count && state->pieces[low].section == section->index &&
	    state->pieces[low].offset < end)
		end = state->pieces[low].offset;
	const struct pe_object_reloc *relocs = pe_object_relocs_in(section, offset, end, &count);
	if (count > 0)
		last = relocs[count - 1].offset + (relocs[count - 1].type == R_X86_64_64 ? 8 : 4);
	while (end > last && end > offset + 1 && section->data[end - 1] == 0)
		end--;
	if (end > last && end < section->size && section->data[end] == 0)
		end++; /* a string's own end */
	return end;
}

static bool piece_section(const struct pe_object_section *section)
{
	return section && section->data && section->flags & SHF_ALLOC &&
	       !(section->flags & (SHF_WRITE | SHF_EXECINSTR | SHF_MERGE));
}

/* Two rounds: count, then fill. */
static size_t pieces_collect(const struct pe_object *object, struct match_piece *pieces)
{
	size_t count = 0;

	for (size_t i = 1; i < object->symbol_count; i++) {
		const struct pe_object_symbol *symbol = &object->symbols[i];

		if (!piece_section(symbol->section) || symbol->type == STT_SECTION)
			continue;
		if (pieces)
			pieces[count] =
				(struct match_piece){ symbol->section->index, symbol->value };
		count++;
	}
	for (size_t i = 0; i < object->section_count; i++) {
		const struct pe_object_section *section = &object->sections[i];

		for (size_t j = 0; j < section->reloc_count; j++) {
			const struct pe_object_reloc *reloc = &section->relocs[j];

			if (!piece_section(reloc->symbol->section))
				continue;
			if (pieces)
				pieces[count] = (struct match_piece){ reloc->symbol->section->index,
								      target_offset(reloc) };
			count++;
		}
	}
	return count;
}

bool match_pieces_init(struct match_state *state)
{
	size_t count = pieces_collect(state->object, NULL);

	state->pieces = calloc(count + 1, sizeof(*state->pieces));
	if (!state->pieces)
		return false;
	state->piece_count = pieces_collect(state->object, state->pieces);
	qsort(state->pieces, count, sizeof(*state->pieces), piece_compare);
	return true;
}

/* ---- references ---- */

static bool range_equal(struct match_state *state, const struct pe_object_section *section,
			uint64_t offset, uint64_t end, uint64_t vaddr, char **cause);

/* A symbol that is known by name beyond its object, and where it would be. */
static bool global_agrees(struct match_state *state, const struct pe_object_symbol *symbol,
			  uint64_t vaddr, char **cause)
{
	enum listed listed = listed_at(state, symbol->name, vaddr, false);

	if (listed == LISTED_HERE || bound_at(state, symbol->name, vaddr))
		return true;
	if (symbol->bind == STB_WEAK && !symbol->defined && vaddr == 0)
		return true; /* resolved to nothing */
	if (listed == LISTED_ELSEWHERE || !inside(state, vaddr))
		return disagree(cause, "refers to %s at %#lx, not to %s", name_at(state, vaddr),
				vaddr, symbol->name);
	struct match_place *place = symbol->section ? &state->sections[symbol->section->index]
						    : &state->symbols[symbol->index];
	if (match_place_set(state, place, symbol->section ? vaddr - symbol->value : vaddr))
		return true;
	return disagree(cause, "refers to %s at %#lx, elsewhere it is at %#lx", symbol->name, vaddr,
			place->vaddr + (symbol->section ? symbol->value : 0));
}

static bool teaches(const struct match_state *state, const struct pe_object_section *section)
{
	if (!state->teacher || !pe_match_is_weak(state->teacher))
		return true;
	const char *group = state->teacher->section->group;

	return group && section->group && strcmp(group, section->group) == 0;
}

/* Another object's copy of a weak function refers to that object's copy of a static. */
static bool foreign_agrees(struct match_state *state, const struct pe_object_section *section,
			   const struct pe_object_symbol *named, uint64_t start, char **cause)
{
	const struct match_place *place = &state->sections[section->index];

	if (place->known && place->vaddr == start)
		return true;
	if (section->data && !(section->flags & (SHF_WRITE | SHF_EXECINSTR)))
		return range_equal(state, section, 0, section->size, start, cause);
	if (!place->known ||
	    (named && listed_at(state, named->name, start + named->value, false) == LISTED_HERE))
		return true;
	return disagree(cause, "refers to %#lx, while %s is at %#lx", start,
			named ? named->name : section->name, place->vaddr);
}

/*
 * Into a function, behind its entry: jump tables, and jumps between a function and its .cold part.
 * That teaches nothing, since the function's jumps may have other sizes in the image.
 */
static bool inner_agrees(struct match_state *state, const struct pe_object_section *section,
			 uint64_t offset, uint64_t vaddr, char **cause)
{
	const struct match_place *place = &state->sections[section->index];
	uint64_t expected = place->vaddr + offset;

	if (match_flow_at(state, section, offset, &expected)) {
		/* A label may stand before padding. */
		if (match_is_padding(state, vaddr, expected))
			return true;
	} else if (!place->known) {
		return true;
	}
	return vaddr == expected || disagree(cause, "refers to %#lx, not to %s+%#lx at %#lx", vaddr,
					     section->name, offset, expected);
}

/* Something of this object alone: one place for the whole section. */
static bool local_agrees(struct match_state *state, const struct pe_object_reloc *reloc,
			 uint64_t start, char **cause)
{
	const struct pe_object_section *section = reloc->symbol->section;
	uint64_t offset = target_offset(reloc);
	const struct pe_object_symbol *named = pe_object_symbol_at(state->object, section, offset);
	struct match_place *place = &state->sections[section->index];
	bool fresh = !place->known;
	uint64_t mapped;

	if (named && named->type == STT_NOTYPE)
		named = NULL;
	if (!inside(state, start + offset))
		return disagree(cause, "refers to %#lx, outside the image", start + offset);
	/* The map of a function whose jumps have other sizes knows; @start is none of it. */
	if (section->flags & SHF_EXECINSTR && !(named && offset == named->value) &&
	    match_flow_at(state, section, offset, &mapped))
		return inner_agrees(state, section, offset, start + offset, cause);
	if (named && listed_at(state, named->name, start + named->value, false) == LISTED_ELSEWHERE)
		return disagree(cause, "refers to %s at %#lx, not to %s",
				name_at(state, start + named->value), start + named->value,
				named->name);
	if (!named && section->data && !(section->flags & (SHF_WRITE | SHF_EXECINSTR)))
		return range_equal(state, section, offset, piece_end(state, section, offset),
				   start + offset, cause);
	if (section->flags & SHF_EXECINSTR && !(named && offset == named->value))
		return inner_agrees(state, section, offset, start + offset, cause);
	if (!teaches(state, section))
		return foreign_agrees(state, section, named, start, cause);
	if (!match_place_set(state, place, start))
		return disagree(cause, "refers to %s at %#lx, elsewhere it is at %#lx",
				named ? named->name : section->name, start, place->vaddr);
	if (fresh && section->data && !(section->flags & SHF_EXECINSTR))
		verify_later(state, section);
	return true;
}

static bool address_agrees(struct match_state *state, const struct pe_object_reloc *reloc,
			   uint64_t vaddr, char **cause)
{
	const struct pe_object_symbol *symbol = reloc->symbol;

	if (symbol->absolute)
		return vaddr == symbol->value ||
		       disagree(cause, "refers to %#lx, not to %s", vaddr, symbol->name);
	if (!symbol->section || symbol->bind != STB_LOCAL)
		return global_agrees(state, symbol, vaddr, cause);
	/* @vaddr is the symbol's: the section's start, for a section symbol. */
	if (symbol->section->flags & SHF_MERGE) {
		uint64_t offset = target_offset(reloc);
		uint64_t ahead = symbol->type == STT_SECTION ? offset : 0;

		return merged_equal(state, symbol->section, offset, vaddr + ahead, cause);
	}
	return local_agrees(state, reloc, vaddr - symbol->value, cause);
}

static bool tls_agrees(struct match_state *state, const struct pe_object_symbol *symbol,
		       uint64_t offset, char **cause)
{
	enum listed listed = symbol->type == STT_SECTION
				     ? LISTED_NOT
				     : listed_at(state, symbol->name, offset, true);
	uint64_t size, align;

	pe_image_tls(state->image, &size, &align);
	if (offset > size || listed == LISTED_ELSEWHERE)
		return disagree(cause, "refers to thread-local %#lx, not to %s", offset,
				symbol->name);
	/* Other objects may have thread-locals of that name: so what the list agrees to is kept. */
	struct match_place *place = symbol->section ? &state->sections[symbol->section->index]
						    : &state->symbols[symbol->index];
	uint64_t start = symbol->section ? offset - symbol->value : offset;
	if (listed == LISTED_HERE &&
	    (symbol->bind != STB_LOCAL || !teaches(state, symbol->section)))
		return true;
	return match_place_set(state, place, start) ||
	       disagree(cause, "refers to thread-local %s at %#lx, elsewhere it is at %#lx",
			symbol->name, start, place->vaddr);
}

/* The slot holds the symbol's address (plus addend, in data) once the loader has been there. */
static bool slot_agrees(struct match_state *state, const struct pe_object_reloc *reloc,
			uint64_t slot_vaddr, char **cause)
{
	const struct pe_image_slot *slot = pe_image_slot_at(state->image, slot_vaddr);
	int64_t addend = reloc->type == R_X86_64_64 ? reloc->addend : 0;
	uint64_t target = 0;

	if (slot && slot->symbol[0]) {
		if (same_name(reloc->symbol->name, slot->symbol) &&
		    (slot->type != R_X86_64_64 || slot->addend == addend))
			return true;
		return disagree(cause, "refers to %s, not to %s", slot->symbol,
				reloc->symbol->name);
	}
	if (slot && slot->type == R_X86_64_IRELATIVE)
		return listed_at(state, reloc->symbol->name, (uint64_t)slot->addend, false) !=
			       LISTED_ELSEWHERE ||
		       disagree(cause, "refers to another resolver than that of %s",
				reloc->symbol->name);
	if (slot && slot->type == R_X86_64_TPOFF64)
		return tls_agrees(state, reloc->symbol, (uint64_t)slot->addend, cause);
	if (!pe_image_relative_at(state->image, slot_vaddr, &target)) {
		const void *bytes = pe_image_bytes(state->image, slot_vaddr, sizeof(target));

		if (!bytes)
			return disagree(cause, "the slot of %s at %#lx is not in the image file",
					reloc->symbol->name, slot_vaddr);
		memcpy(&target, bytes, sizeof(target)); /* fixed address, or an undefined weak */
	}
	return address_agrees(state, reloc, target - (uint64_t)addend, cause);
}

/*
 * What __tls_get_addr is called with in a library. @whole: for the start of the library's block,
 * whatever variable the access names.
 */
static bool pair_agrees(struct match_state *state, const struct pe_object_reloc *reloc,
			uint64_t vaddr, bool whole, char **cause)
{
	const struct pe_image_slot *slot = pe_image_slot_at(state->image, vaddr);
	uint64_t offset;

	if (!slot || slot->type != R_X86_64_DTPMOD64)
		return disagree(cause, "the image has no thread-local's module at %#lx", vaddr);
	if (slot->symbol[0])
		return (!whole && same_name(reloc->symbol->name, slot->symbol)) ||
		       disagree(cause, "refers to thread-local %s, not to %s", slot->symbol,
				reloc->symbol->name);
	const void *second = pe_image_bytes(state->image, vaddr + 8, sizeof(offset));
	if (!second)
		return disagree(cause, "the pair at %#lx is not in the image file", vaddr);
	memcpy(&offset, second, sizeof(offset));
	if (!whole)
		return tls_agrees(state, reloc->symbol, offset, cause);
	return !offset || disagree(cause, "the pair at %#lx is not of the whole block", vaddr);
}

bool match_refer(struct match_state *state, const struct match_ref *ref, char **cause)
{
	switch (ref->kind) {
	case MATCH_REF_NONE:
		return true;
	case MATCH_REF_ADDRESS:
		return address_agrees(state, ref->reloc, ref->value, cause);
	case MATCH_REF_SLOT:
		return slot_agrees(state, ref->reloc, ref->value, cause);
	case MATCH_REF_TLS:
		return tls_agrees(state, ref->reloc->symbol, ref->value, cause);
	case MATCH_REF_PAIR:
	case MATCH_REF_MODULE:
		return pair_agrees(state, ref->reloc, ref->value, ref->kind == MATCH_REF_MODULE,
				   cause);
	}
	return false;
}

/* ---- data ---- */

/*
 * An entry of a jump table holds the distance from the table's start, which no instruction's end
 * tells: with this relocation instead, its target is where it really leads.
 */
static struct pe_object_reloc table_entry(const struct match_code *table,
					  const struct pe_object_reloc *reloc)
{
	const struct pe_object_symbol *symbol = reloc->symbol;
	struct pe_object_reloc entry = *reloc;

	if (reloc->type == R_X86_64_PC32 && symbol->type == STT_SECTION && symbol->section &&
	    symbol->section->flags & SHF_EXECINSTR)
		entry.addend -= (int64_t)(reloc->offset - table->offset) + 4;
	return entry;
}

static bool bytes_equal(struct match_state *state, const struct match_code *data,
			const struct pe_object_reloc *relocs, size_t count, char **cause)
{
	pe_auto_free uint8_t *expected = malloc(data->size + 1);

	if (!expected) {
		state->no_memory = true;
		return false;
	}
	memcpy(expected, data->object, data->size);
	for (size_t i = 0; i < count; i++) {
		const struct pe_object_reloc entry = table_entry(data, &relocs[i]);
		struct match_ref ref;

		if (!match_decode(state, data, &relocs[i], &ref))
			return disagree(cause, "relocation type %u in data is not known",
					relocs[i].type);
		ref.reloc = &entry;
		memcpy(expected + ref.start, data->image + ref.start, ref.end - ref.start);
		if (!match_refer(state, &ref, cause))
			return false;
	}
	return memcmp(expected, data->image, data->size) == 0 ||
	       disagree(cause, "the data that it refers to at %#lx differ", data->vaddr);
}

/* Is [offset, end) of a data section what stands at @vaddr in the image? */
static bool range_equal(struct match_state *state, const struct pe_object_section *section,
			uint64_t offset, uint64_t end, uint64_t vaddr, char **cause)
{
	if (offset > end || end > section->size || state->depth == DEPTH_MAX)
		return disagree(cause, "a reference outside %s", section->name);

	size_t count;
	const struct pe_object_reloc *relocs = pe_object_relocs_in(section, offset, end, &count);
	struct match_code data = { section->data + offset,
				   pe_image_bytes(state->image, vaddr, end - offset), end - offset,
				   vaddr, offset };
	if (!data.image)
		return disagree(cause, "%s would be at %#lx, outside the image file", section->name,
				vaddr);
	state->depth++;
	bool equal = bytes_equal(state, &data, relocs, count, cause);
	state->depth--;
	return equal;
}

bool match_verify_data(struct match_state *state, char **cause)
{
	while (state->unverified_count > 0 && !state->no_memory) {
		size_t index = state->unverified[--state->unverified_count];

		const struct pe_object_section *section = &state->object->sections[index];
		if (!range_equal(state, section, 0, section->size, state->sections[index].vaddr,
				 cause))
			return false;
	}
	return !state->no_memory;
}
