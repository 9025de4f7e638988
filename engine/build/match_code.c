/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compares one function of the object with the image: first all bytes outside relocations (the
 * fields, and what a linker rewrote around them, are taken from the image), then each reference.
 */
#include <capstone/capstone.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build/match_private.h"
#include "engine/cleanup.h"

uint64_t match_code_size(const struct pe_object_symbol *function)
{
	/* Hand-written assembly may lack .size: then it is all that follows. */
	return function->size ? function->size : function->section->size - function->value;
}

/* The instruction of @bytes at @at, for people; "" when it cannot be read. */
static void instruction_text(csh handle, const uint8_t *bytes, uint64_t size, uint64_t at,
			     char *out, size_t out_size)
{
	cs_insn *insn;

	out[0] = '\0';
	if (cs_disasm(handle, bytes + at, size - at, at, 1, &insn) != 1)
		return;
	snprintf(out, out_size, "%s%s%s", insn->mnemonic, insn->op_str[0] ? " " : "", insn->op_str);
	cs_free(insn, 1);
}

/* Where the instruction that covers @offset begins. */
static uint64_t instruction_start(csh handle, const uint8_t *bytes, uint64_t size, uint64_t offset)
{
	cs_insn *insn = cs_malloc(handle);
	uint64_t addr = 0, start = 0;
	size_t left = size;

	while (insn && addr <= offset) {
		start = addr;
		if (!cs_disasm_iter(handle, &bytes, &left, &addr, insn))
			break;
	}
	if (insn)
		cs_free(insn, 1);
	return start;
}

static char *difference_text(const struct match_code *code, uint64_t offset)
{
	char *text = NULL, old[256], new[256];
	csh handle;

	if (cs_open(CS_ARCH_X86, CS_MODE_64, &handle) != CS_ERR_OK)
		return NULL;
	uint64_t start = instruction_start(handle, code->object, code->size, offset);
	instruction_text(handle, code->object, code->size, start, old, sizeof(old));
	instruction_text(handle, code->image, code->size, start, new, sizeof(new));
	cs_close(&handle);
	if (asprintf(&text, "first difference at +%#lx: `%s` compiled, `%s` in the image", start,
		     old, new) < 0)
		return NULL;
	return text;
}

static bool code_equal(const struct match_code *code, const uint8_t *expected, char **cause)
{
	if (memcmp(expected, code->image, code->size) == 0)
		return true;
	for (uint64_t at = 0; at < code->size; at++) {
		if (expected[at] == code->image[at])
			continue;
		*cause = difference_text(code, at);
		return false;
	}
	return true;
}

/* Decodes all fields into @refs; @expected becomes the object's bytes with the image's fields. */
static bool fields_decode(const struct match_state *state, const struct match_code *code,
			  const struct pe_object_reloc *relocs, size_t count, uint8_t *expected,
			  struct match_ref *refs, size_t *ref_count, char **cause)
{
	uint64_t covered = 0;

	for (size_t i = 0; i < count; i++) {
		struct match_ref *ref = &refs[*ref_count];

		/* A rewritten sequence may cover the next relocation too: the call behind TLSGD. */
		if (relocs[i].type == 0 || relocs[i].offset - code->offset < covered)
			continue;
		if (!match_decode(state, code, &relocs[i], ref)) {
			if (asprintf(cause, "relocation type %u at +%#lx is not known",
				     relocs[i].type, relocs[i].offset - code->offset) < 0)
				*cause = NULL;
			return false;
		}
		memcpy(expected + ref->start, code->image + ref->start, ref->end - ref->start);
		covered = ref->end;
		(*ref_count)++;
	}
	return true;
}

static bool code_compare(struct match_state *state, const struct match_code *code,
			 const struct pe_object_reloc *relocs, size_t count, bool *same_bytes,
			 char **cause)
{
	pe_auto_free uint8_t *expected = malloc(code->size);
	pe_auto_free struct match_ref *refs = calloc(count + 1, sizeof(*refs));
	size_t ref_count = 0;

	if (!expected || !refs) {
		state->no_memory = true;
		return false;
	}
	memcpy(expected, code->object, code->size);
	if (!fields_decode(state, code, relocs, count, expected, refs, &ref_count, cause))
		return false;
	*same_bytes = code_equal(code, expected, cause);
	if (!*same_bytes)
		return false;
	for (size_t i = 0; i < ref_count; i++) {
		pe_auto_free char *why = NULL;

		if (match_refer(state, &refs[i], &why))
			continue;
		if (why && asprintf(cause, "at +%#lx: %s", refs[i].start, why) < 0)
			*cause = NULL;
		return false;
	}
	return match_verify_data(state, cause);
}

/* Both looks; the cause of the first is kept unless the second says what else it found. */
static bool looks_compare(struct match_state *state, const struct pe_object_symbol *function,
			  const struct match_code *code, struct match_equal *equal, char **cause)
{
	bool same_bytes = true;
	size_t count;
	const struct pe_object_reloc *relocs = pe_object_relocs_in(
		function->section, code->offset, code->offset + code->size, &count);

	equal->relocated = count > 0;
	equal->size = code->size;
	if (code_compare(state, code, relocs, count, &same_bytes, cause))
		return true;
	if (same_bytes ||
	    !match_flow_compare(state, function, code, relocs, count, &equal->size, cause))
		return false;
	equal->relocated = true;
	free(*cause);
	*cause = NULL;
	return true;
}

bool match_compare(struct match_state *state, const struct pe_object_symbol *function,
		   uint64_t vaddr, struct match_equal *equal, char **cause)
{
	const struct pe_object_section *section = function->section;
	struct match_code code = { section->data + function->value, NULL, match_code_size(function),
				   vaddr, function->value };

	code.image = pe_image_bytes(state->image, vaddr, code.size);
	if (!code.image || !pe_image_is_code(state->image, vaddr)) {
		*cause = strdup("its address is not in the code of the image");
		return false;
	}
	match_begin(state);
	state->teacher = function;
	/* Another object's copy of a COMDAT section may have its functions in another order. */
	bool same =
		match_place_set(state, &state->sections[section->index], vaddr - function->value) ||
		pe_match_is_weak(function);
	if (!same)
		*cause = strdup("other functions refer to another copy of it");
	else
		same = looks_compare(state, function, &code, equal, cause);
	state->teacher = NULL;
	if (!same)
		match_rollback(state);
	return same;
}
