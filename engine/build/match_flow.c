/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The second look at code whose bytes differ: the assembler sizes jumps (2, 5 or 6 bytes) by
 * distances that -ffunction-sections and padding change, also to functions that were in the same
 * section when the image was built. So instructions are walked in pairs: padding is skipped, jumps
 * are compared by where they lead, everything else by its bytes as usual. What results is a map
 * from offsets of the object to offsets of the image, by which later references into the function
 * (jump tables, its .cold part) are judged.
 */
#include <capstone/capstone.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "build/match_private.h"
#include "engine/cleanup.h"

#define UNMAPPED UINT32_MAX   /* no instruction begins there */
#define SLACK 256	      /* bytes by which longer jumps may make the image's code longer */
#define FUNCTION_MAX 0x400000 /* bytes; no function is that long */

struct walk {
	struct match_state *state;
	const struct match_code *code; /* .size is the object's */
	uint64_t image_size;
	bool exact; /* that is known, from the unwind table */
	const struct pe_object_reloc *relocs;
	size_t reloc_count, next;
	csh handle;
	cs_insn *insn;
	uint32_t *map;	      /* by object offset: image offset of that instruction */
	uint32_t (*leads)[2]; /* internal jumps: object target, image target */
	size_t lead_count;
	struct match_ref *refs; /* to be judged when the map is complete */
	size_t ref_count;
	uint64_t i, j; /* where the walk is in the object and in the image */
};

struct insn {
	uint64_t size;
	bool padding;
	bool jump;	/* a relative jump; */
	uint8_t kind;	/* its condition, 0x10 for none */
	int64_t target; /* offset from the start of the code */
};

/* Relative jumps without a prefix: EB, E9, 70-7F, 0F 80-8F. */
static void jump_decode(const uint8_t *bytes, uint64_t at, struct insn *insn)
{
	int32_t wide;

	if (bytes[0] == 0xeb || (bytes[0] & 0xf0) == 0x70) {
		insn->target = (int64_t)(at + insn->size) + (int8_t)bytes[1];
	} else if (bytes[0] == 0xe9 || (bytes[0] == 0x0f && (bytes[1] & 0xf0) == 0x80)) {
		memcpy(&wide, bytes + insn->size - 4, sizeof(wide));
		insn->target = (int64_t)(at + insn->size) + wide;
	} else {
		return;
	}
	insn->jump = true;
	insn->kind = bytes[0] == 0xeb || bytes[0] == 0xe9 ? 0x10
		     : bytes[0] == 0x0f			  ? bytes[1] & 0x0f
							  : bytes[0] & 0x0f;
}

static bool insn_decode(struct walk *walk, const uint8_t *bytes, uint64_t size, uint64_t at,
			struct insn *ret)
{
	const uint8_t *code = bytes + at;
	size_t left = size - at;
	uint64_t addr = at;

	*ret = (struct insn){ 0 };
	if (!cs_disasm_iter(walk->handle, &code, &left, &addr, walk->insn))
		return false;
	ret->size = walk->insn->size;
	ret->padding = walk->insn->id == X86_INS_NOP ||
		       (ret->size == 2 && memcmp(bytes + at, "\x66\x90", 2) == 0);
	jump_decode(bytes + at, at, ret);
	return true;
}

/* The next relocation, if it is before @end. Those behind the walk's place were done. */
static const struct pe_object_reloc *reloc_next(struct walk *walk, uint64_t end)
{
	for (; walk->next < walk->reloc_count; walk->next++) {
		const struct pe_object_reloc *reloc = &walk->relocs[walk->next];
		uint64_t at = reloc->offset - walk->code->offset;

		if (at >= walk->i && reloc->type != R_X86_64_NONE)
			return at < end ? reloc : NULL;
	}
	return NULL;
}

/* Both jump: where to? */
static bool jumps_agree(struct walk *walk, const struct insn *old, const struct insn *new)
{
	const struct pe_object_reloc *reloc = reloc_next(walk, walk->i + old->size);

	if (old->kind != new->kind)
		return false;
	if (reloc) { /* its field ends the instruction, so that S + A is 4 less than the target */
		walk->refs[walk->ref_count++] = (struct match_ref){
			.reloc = reloc,
			.start = walk->i,
			.kind = MATCH_REF_ADDRESS,
			.value = walk->code->vaddr + (uint64_t) new->target - 4 -
				 (uint64_t)reloc->addend,
		};
	} else {
		if (old->target < 0 || (uint64_t)old->target >= walk->code->size ||
		    new->target < 0 || (uint64_t) new->target >= walk->image_size)
			return false;
		walk->leads[walk->lead_count][0] = (uint32_t)old->target;
		walk->leads[walk->lead_count++][1] = (uint32_t) new->target;
	}
	walk->i += old->size;
	walk->j += new->size;
	return true;
}

/* Anything else: the bytes but for relocations, as in the first look. */
static bool others_agree(struct walk *walk, const struct insn *old)
{
	uint64_t left = walk->image_size - walk->j, end = walk->i + old->size;
	struct match_code shifted = *walk->code;
	const struct pe_object_reloc *reloc;
	uint8_t expected[64];

	if (walk->j < 4 && walk->i != walk->j)
		return false; /* decoding looks back */
	/* As if the whole function began where its offsets fit this instruction. */
	shifted.image += (int64_t)(walk->j - walk->i);
	shifted.vaddr += walk->j - walk->i;
	if (walk->code->size - walk->i > left)
		shifted.size = walk->i + left;
	if (end - walk->i > sizeof(expected) / 2 || end > shifted.size)
		return false;
	memset(expected, 0, sizeof(expected));
	memcpy(expected, walk->code->object + walk->i,
	       shifted.size - walk->i < sizeof(expected) ? shifted.size - walk->i
							 : sizeof(expected));
	while ((reloc = reloc_next(walk, end))) {
		struct match_ref *ref = &walk->refs[walk->ref_count];

		if (!match_decode(walk->state, &shifted, reloc, ref) || ref->start < walk->i ||
		    ref->end - walk->i > sizeof(expected))
			return false;
		memcpy(expected + (ref->start - walk->i), shifted.image + ref->start,
		       ref->end - ref->start);
		/* A rewritten sequence covers more instructions, and their relocations. */
		end = ref->end > end ? ref->end : end;
		walk->ref_count++;
		walk->next++;
		while (walk->next < walk->reloc_count &&
		       walk->relocs[walk->next].offset - walk->code->offset < ref->end)
			walk->next++;
	}
	uint64_t size = end - walk->i;
	if (memcmp(expected, walk->code->image + walk->j, size) != 0)
		return false;
	walk->i += size;
	walk->j += size;
	return true;
}

static bool pair_agrees(struct walk *walk)
{
	struct insn old, new;

	if (!insn_decode(walk, walk->code->object, walk->code->size, walk->i, &old))
		return false;
	walk->map[walk->i] = (uint32_t)walk->j;
	if (old.padding) {
		walk->i += old.size;
		return true;
	}
	if (walk->j >= walk->image_size ||
	    !insn_decode(walk, walk->code->image, walk->image_size, walk->j, &new))
		return false;
	if (new.padding) {
		walk->j += new.size;
		return true;
	}
	return old.jump && new.jump ? jumps_agree(walk, &old, &new) : others_agree(walk, &old);
}

static uint64_t image_padding_skip(struct walk *walk, uint64_t at)
{
	struct insn insn;

	while (at < walk->image_size &&
	       insn_decode(walk, walk->code->image, walk->image_size, at, &insn) && insn.padding)
		at += insn.size;
	return at;
}

static bool leads_agree(struct walk *walk)
{
	for (size_t k = 0; k < walk->lead_count; k++) {
		uint32_t mapped = walk->map[walk->leads[k][0]];

		if (mapped == UNMAPPED ||
		    image_padding_skip(walk, walk->leads[k][1]) != image_padding_skip(walk, mapped))
			return false;
	}
	return true;
}

static bool walk_all(struct walk *walk)
{
	while (walk->i < walk->code->size) {
		if (!pair_agrees(walk))
			return false;
	}
	return leads_agree(walk) &&
	       (!walk->exact || image_padding_skip(walk, walk->j) == walk->image_size);
}

/* Bytes of the function in the image, by its unwind table or by guess. */
static uint64_t image_code_size(const struct match_state *state, const struct match_code *code,
				bool *exact)
{
	uint64_t start, end;

	if (pe_image_function_extent(state->image, code->vaddr, &start, &end) &&
	    start == code->vaddr) {
		*exact = true;
		return end - start;
	}
	for (uint64_t size = code->size + SLACK; size > code->size; size -= 16) {
		if (pe_image_bytes(state->image, code->vaddr, size))
			return size;
	}
	return code->size;
}

static bool walk_run(struct walk *walk)
{
	bool equal = false;

	if (cs_open(CS_ARCH_X86, CS_MODE_64, &walk->handle) != CS_ERR_OK)
		return false;
	walk->insn = cs_malloc(walk->handle);
	if (walk->insn) {
		equal = walk_all(walk);
		cs_free(walk->insn, 1);
	}
	cs_close(&walk->handle);
	return equal;
}

/* Judges what the code refers to, now that the map of the code is known. */
static bool refs_agree(struct walk *walk, char **cause)
{
	for (size_t k = 0; k < walk->ref_count; k++) {
		if (!match_refer(walk->state, &walk->refs[k], cause))
			return false;
	}
	return match_verify_data(walk->state, cause);
}

static bool flow_add(struct match_state *state, const struct pe_object_symbol *function,
		     const struct match_code *code, uint32_t *map)
{
	struct match_flow *flow = malloc(sizeof(*flow));

	if (!flow) {
		state->no_memory = true;
		free(map);
		return false;
	}
	*flow = (struct match_flow){ function, code->vaddr, code->size, map, state->flows };
	state->flows = flow;
	return true;
}

bool match_flow_compare(struct match_state *state, const struct pe_object_symbol *function,
			const struct match_code *code, const struct pe_object_reloc *relocs,
			size_t count, uint64_t *size, char **cause)
{
	if (code->size == 0 || code->size > FUNCTION_MAX)
		return false;

	pe_auto_free uint32_t *map = malloc(code->size * sizeof(*map));
	pe_auto_free void *leads = malloc(code->size * sizeof(uint32_t[2]));
	pe_auto_free struct match_ref *refs = calloc(count + 1, sizeof(*refs));
	struct match_code whole = *code;
	struct walk walk = { .state = state,
			     .code = &whole,
			     .relocs = relocs,
			     .reloc_count = count,
			     .map = map,
			     .leads = leads,
			     .refs = refs };

	if (!map || !leads || !refs) {
		state->no_memory = true;
		return false;
	}
	walk.image_size = image_code_size(state, code, &walk.exact);
	whole.image = pe_image_bytes(state->image, code->vaddr, walk.image_size);
	memset(map, 0xff, code->size * sizeof(*map));
	if (!whole.image || !walk_run(&walk))
		return false;
	*size = walk.j;
	return flow_add(state, function, code, pe_steal(map)) && refs_agree(&walk, cause);
}

bool match_flow_at(const struct match_state *state, const struct pe_object_section *section,
		   uint64_t offset, uint64_t *vaddr)
{
	for (const struct match_flow *flow = state->flows; flow; flow = flow->next) {
		uint64_t at = offset - flow->function->value;

		if (flow->function->section != section || at >= flow->size)
			continue;
		*vaddr = flow->map[at] == UNMAPPED ? 0 : flow->vaddr + flow->map[at];
		return true;
	}
	return false;
}

bool match_is_padding(const struct match_state *state, uint64_t vaddr, uint64_t end)
{
	struct match_code code = { .vaddr = vaddr };
	struct walk walk = { .code = &code, .image_size = end - vaddr };

	if (vaddr > end || end - vaddr > SLACK)
		return false;
	code.image = pe_image_bytes(state->image, vaddr, walk.image_size);
	if (!code.image || cs_open(CS_ARCH_X86, CS_MODE_64, &walk.handle) != CS_ERR_OK)
		return false;
	walk.insn = cs_malloc(walk.handle);
	bool padding = walk.insn && image_padding_skip(&walk, 0) == walk.image_size;
	if (walk.insn)
		cs_free(walk.insn, 1);
	cs_close(&walk.handle);
	return padding;
}

void match_flows_drop(struct match_state *state, const struct match_flow *until)
{
	while (state->flows != until) {
		struct match_flow *next = state->flows->next;

		free(state->flows->map);
		free(state->flows);
		state->flows = next;
	}
}
