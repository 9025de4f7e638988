/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unwind tables of the included code (LSB Core, .eh_frame): the FDEs of that code and the CIEs that
 * they use, one after the other, each FDE's pointer back to its CIE rewritten, and a zero length
 * at the end, which __register_frame_info needs to find the end.
 */
#include <elf.h>
#include <string.h>

#include "build/select_private.h"

/* Offsets in the patch's section, and how much there is to copy. */
static void lay_out(struct pe_sel *sel, uint64_t *size, size_t *relocs)
{
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_object *so = &sel->units[u].patched;

		for (size_t i = 0; i < so->frame_count; i++) {
			struct pe_sel_frame *f = &so->frames[i];
			size_t count;

			if (!f->used)
				continue;
			f->out = *size;
			*size += f->size;
			pe_object_relocs_in(so->eh_frame, f->start, f->start + f->size, &count);
			*relocs += count;
		}
	}
}

static struct pe_error *emit_frame(struct pe_sel *sel, struct pe_sel_unit *unit,
				   struct pe_patch *patch, size_t section,
				   const struct pe_sel_frame *f)
{
	const struct pe_sel_object *so = &unit->patched;
	uint8_t *out = patch->sections[section].data + f->out;
	size_t count;
	const struct pe_object_reloc *relocs =
		pe_object_relocs_in(so->eh_frame, f->start, f->start + f->size, &count);

	memcpy(out, so->eh_frame->data + f->start, f->size);
	if (!f->is_cie) {
		uint32_t back = (uint32_t)(f->out + 4 - so->frames[f->cie].out);
		memcpy(out + 4, &back, sizeof(back));
	}
	for (size_t i = 0; i < count; i++) {
		struct pe_error *err =
			pe_sel_emit_reloc(sel, unit, patch, section, so->eh_frame, &relocs[i],
					  relocs[i].offset - f->start + f->out);
		if (err)
			return err;
	}
	return NULL;
}

struct pe_error *pe_sel_emit_unwind(struct pe_sel *sel, struct pe_patch *patch)
{
	struct pe_patch_section *out;
	uint64_t size = 0;
	size_t relocs = 0;

	lay_out(sel, &size, &relocs);
	if (!size)
		return NULL;
	struct pe_error *err = pe_sel_emit_section(patch, ".eh_frame", &out);
	if (err)
		return err;
	size_t section = patch->section_count - 1;
	out->kind = PE_SECTION_EH_FRAME;
	out->align = 8;
	out->size = size + 4;
	out->data = calloc(1, out->size);
	out->relocs = calloc(relocs + 1, sizeof(*out->relocs));
	if (!out->data || !out->relocs)
		return pe_error_nomem();
	for (size_t u = 0; u < sel->unit_count; u++) {
		struct pe_sel_unit *unit = &sel->units[u];

		for (size_t i = 0; i < unit->patched.frame_count && !err; i++) {
			if (unit->patched.frames[i].used)
				err = emit_frame(sel, unit, patch, section,
						 &unit->patched.frames[i]);
		}
	}
	return err;
}
