/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Life and death of a patch in memory; the checksum of one in a file. */
#include <stdlib.h>

#include "patch/format.h"
#include "sha256.h"

struct pe_patch *pe_patch_new(void)
{
	return calloc(1, sizeof(struct pe_patch));
}

static void free_manifest(struct pe_patch *patch)
{
	for (size_t i = 0; i < patch->cve_count; i++) {
		free(patch->cves[i].id);
		free(patch->cves[i].cvss);
		free(patch->cves[i].url);
	}
	for (size_t i = 0; i < patch->gate_count; i++)
		free(patch->gates[i]);
	for (size_t i = 0; i < patch->note_count; i++)
		free(patch->notes[i]);
	for (size_t i = 0; i < patch->target_count; i++)
		free(patch->targets[i].name);
	free(patch->cves);
	free(patch->gates);
	free(patch->notes);
	free(patch->targets);
	free(patch->name);
	free(patch->description);
	free(patch->kind);
	free(patch->product);
	free(patch->compiler);
	free(patch->flags);
	free(patch->source_sha256);
}

void pe_patch_free(struct pe_patch *patch)
{
	if (!patch)
		return;
	free_manifest(patch);
	for (size_t i = 0; i < patch->function_count; i++) {
		free(patch->functions[i].name);
		free(patch->functions[i].reason);
		free(patch->functions[i].ranges);
	}
	for (size_t i = 0; i < patch->symbol_count; i++) {
		free(patch->symbols[i].name);
		free(patch->symbols[i].library);
		free(patch->symbols[i].version);
	}
	for (size_t i = 0; i < patch->section_count; i++) {
		free(patch->sections[i].name);
		free(patch->sections[i].data);
		free(patch->sections[i].relocs);
	}
	free(patch->functions);
	free(patch->symbols);
	free(patch->sections);
	free(patch->diff);
	free(patch);
}

void care_checksum(const uint8_t *bytes, size_t size, size_t at, uint8_t out[PE_SHA256_SIZE])
{
	static const uint8_t zeros[PE_SHA256_SIZE];
	size_t behind = at + sizeof(zeros);
	const struct iovec pieces[] = {
		{ (uint8_t *)bytes, at },
		{ (uint8_t *)zeros, sizeof(zeros) },
		{ (uint8_t *)bytes + behind, size - behind },
	};

	sha256_pieces(pieces, 3, out);
}
