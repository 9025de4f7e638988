/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contents of the mapping: where each thing lies, then, once a base is known, its bytes with
 * everything relocated, so that the target gets it finished.
 */
#include "internal.h"

#include <elf.h>
#include <string.h>

#include "engine/cleanup.h"

enum { STUB_ALIGN = 16 };

void layout_deinit(struct layout *layout)
{
	free(layout->sections);
	free(layout->got);
	free(layout->plt);
	free(layout->entries);
	free(layout->moved);
	free(layout->back);
	*layout = (struct layout){ 0 };
}

uint64_t layout_size(const struct layout *layout)
{
	return layout->text_size + layout->rodata_size + layout->data_size;
}

static uint64_t take(uint64_t *at, uint64_t size, uint64_t align)
{
	uint64_t place = align_up(*at, align ? align : 1);

	*at = place + size;
	return place;
}

/* A slot for each symbol that a relocation reaches through the GOT, a stub for each far callee. */
static struct pe_error *mark_symbols(struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	struct layout *layout = &plan->layout;

	for (size_t s = 0; s < patch->section_count; s++) {
		const struct pe_patch_section *section = &patch->sections[s];

		for (size_t r = 0; r < section->reloc_count; r++) {
			const struct pe_patch_reloc *reloc = &section->relocs[r];
			enum pe_patch_symbol_kind kind = patch->symbols[reloc->symbol].kind;

			if (!plan->arch->reloc_known(reloc->type))
				return pe_error_new(PE_ERR_UNSUPPORTED,
						    "relocation type %u in section %s is not known",
						    reloc->type, section->name);
			unsigned int need = plan->arch->reloc_need(reloc->type);

			if (need & PE_RELOC_NEEDS_GOT)
				layout->got[reloc->symbol] = 1;
			if ((need & PE_RELOC_MAY_NEED_PLT) &&
			    (kind == PE_SYM_IMPORT || kind == PE_SYM_SLOT || kind == PE_SYM_ZERO)) {
				layout->plt[reloc->symbol] = 1;
				layout->got[reloc->symbol] = 1;
			}
		}
	}
	return NULL;
}

static uint64_t plt_stub_size(const struct pe_arch *arch)
{
	uint8_t stub[PE_STUB_MAX];
	size_t size = 0;
	pe_auto_error struct pe_error *err = arch->plt_stub(0x1000, 0x2000, stub, &size);

	return align_up(size, STUB_ALIGN);
}

bool is_except_table(const struct pe_patch_section *section)
{
	static const char name[] = ".gcc_except_table";

	return section->kind == PE_SECTION_RODATA &&
	       !strncmp(section->name, name, sizeof(name) - 1);
}

static void place_sections(struct pe_plan *plan, enum pe_patch_section_kind kind, bool except,
			   uint64_t *at)
{
	for (size_t i = 0; i < plan->patch->section_count; i++) {
		const struct pe_patch_section *section = &plan->patch->sections[i];

		if (section->kind == kind && is_except_table(section) == except)
			plan->layout.sections[i] = take(at, section->size, section->align);
	}
}

static void place_text(struct pe_plan *plan)
{
	struct layout *layout = &plan->layout;
	uint64_t stub = plt_stub_size(plan->arch);
	uint64_t at = 0;

	/* Offset 0 stays free: it stands for "none" in the tables. */
	take(&at, STUB_ALIGN, 1);
	for (size_t i = 0; i < plan->patch->symbol_count; i++)
		if (layout->plt[i])
			layout->plt[i] = take(&at, stub, STUB_ALIGN);
	for (size_t i = 0; plan->select && i < plan->function_count; i++) {
		const struct plan_function *f = &plan->functions[i];

		layout->entries[i] = take(&at, PE_STUB_MAX, STUB_ALIGN);
		if (!f->stacked)
			layout->moved[i] = take(&at, PE_STUB_MAX + PE_JUMP_MAX, STUB_ALIGN);
		if (f->replaced && f->function)
			layout->back[i] = take(&at, PE_STUB_MAX, STUB_ALIGN);
	}
	if (plan->register_function) {
		layout->register_stub = take(&at, PE_STUB_MAX, STUB_ALIGN);
		layout->deregister_stub = take(&at, PE_STUB_MAX, STUB_ALIGN);
	}
	place_sections(plan, PE_SECTION_TEXT, false, &at);
	layout->text_size = align_up(at, PE_PAGE);
}

/* Unwind tables stand together at the end: release.c tells references to them from others. */
static void place_rodata(struct pe_plan *plan)
{
	struct layout *layout = &plan->layout;
	uint64_t at = layout->text_size;

	place_sections(plan, PE_SECTION_RODATA, false, &at);
	layout->unwind_tables = at;
	place_sections(plan, PE_SECTION_RODATA, true, &at);
	place_sections(plan, PE_SECTION_EH_FRAME, false, &at);
	layout->unwind_size = at - layout->unwind_tables;
	layout->rodata_size = align_up(at, PE_PAGE) - layout->text_size;
	for (size_t i = 0; i < plan->patch->section_count; i++)
		if (plan->patch->sections[i].kind == PE_SECTION_EH_FRAME)
			layout->eh_frame = layout->sections[i];
}

static void place_data(struct pe_plan *plan, uint64_t at)
{
	struct layout *layout = &plan->layout;
	uint64_t start = at;

	layout->ledger = take(&at, layout->ledger_size, STUB_ALIGN);
	for (size_t i = 0; i < plan->patch->symbol_count; i++)
		if (layout->got[i])
			layout->got[i] = take(&at, sizeof(uint64_t), sizeof(uint64_t));
	if (plan->register_function)
		layout->unwind_object = take(&at, UNWIND_OBJECT_SIZE, STUB_ALIGN);
	place_sections(plan, PE_SECTION_DATA, false, &at);
	place_sections(plan, PE_SECTION_BSS, false, &at);
	layout->data_size = align_up(at - start, PE_PAGE);
}

static size_t count_ranges(const struct pe_patch *patch)
{
	size_t count = 0;

	for (size_t i = 0; i < patch->function_count; i++)
		count += patch->functions[i].range_count;
	return count;
}

bool is_new_function(const struct pe_patch *patch, const struct pe_patch_symbol *symbol)
{
	return symbol->kind == PE_SYM_LOCAL && symbol->type == STT_FUNC &&
	       patch->sections[symbol->section].kind == PE_SECTION_TEXT;
}

static size_t count_starts(const struct pe_patch *patch)
{
	size_t count = 0;

	for (size_t i = 0; i < patch->symbol_count; i++)
		count += is_new_function(patch, &patch->symbols[i]);
	return count;
}

struct pe_error *layout_init(struct pe_plan *plan)
{
	const struct pe_patch *patch = plan->patch;
	struct layout *layout = &plan->layout;

	layout->sections = calloc(patch->section_count + 1, sizeof(uint64_t));
	layout->got = calloc(patch->symbol_count + 1, sizeof(uint64_t));
	layout->plt = calloc(patch->symbol_count + 1, sizeof(uint64_t));
	layout->entries = calloc(plan->function_count + 1, sizeof(uint64_t));
	layout->moved = calloc(plan->function_count + 1, sizeof(uint64_t));
	layout->back = calloc(plan->function_count + 1, sizeof(uint64_t));
	if (!layout->sections || !layout->got || !layout->plt || !layout->entries ||
	    !layout->moved || !layout->back)
		return pe_error_nomem();
	layout->ledger_size = sizeof(struct ledger_header) +
			      plan->function_count * sizeof(struct ledger_function) +
			      count_ranges(patch) * sizeof(struct ledger_range) +
			      plan->image_count * sizeof(struct ledger_image) +
			      (count_starts(patch) + plan->replaced_count) * sizeof(uint64_t) +
			      strlen(plan->ledger_json);

	struct pe_error *err = mark_symbols(plan);
	if (err)
		return err;
	place_text(plan);
	place_rodata(plan);
	place_data(plan, layout->text_size + layout->rodata_size);
	return NULL;
}

/* ---- building ---- */

struct build {
	struct pe_target *target;
	const struct pe_plan *plan;
	uint64_t base;
	uint8_t *bytes;
};

static uint64_t symbol_address(const struct build *b, uint32_t index)
{
	const struct pe_patch_symbol *symbol = &b->plan->patch->symbols[index];

	if (symbol->kind == PE_SYM_LOCAL)
		return b->base + b->plan->layout.sections[symbol->section] + symbol->value;
	return b->plan->values[index];
}

static struct pe_error *relocate_section(const struct build *b, size_t index)
{
	const struct pe_patch_section *section = &b->plan->patch->sections[index];
	const struct layout *layout = &b->plan->layout;
	uint8_t *bytes = b->bytes + layout->sections[index];

	if (!section->data)
		return NULL;
	memcpy(bytes, section->data, section->size);
	for (size_t i = 0; i < section->reloc_count; i++) {
		const struct pe_patch_reloc *reloc = &section->relocs[i];
		uint64_t got = layout->got[reloc->symbol], plt = layout->plt[reloc->symbol];
		struct pe_reloc_value value = {
			.place = b->base + layout->sections[index] + reloc->offset,
			.symbol = symbol_address(b, reloc->symbol),
			.addend = reloc->addend,
			.got_slot = got ? b->base + got : 0,
			.plt_stub = plt ? b->base + plt : 0,
		};
		struct pe_error *err = b->plan->arch->reloc_apply(reloc->type, &value, bytes,
								  reloc->offset, section->size);

		if (err)
			return pe_error_wrap(err, "cannot link %s+0x%lx to %s", section->name,
					     (unsigned long)reloc->offset,
					     b->plan->patch->symbols[reloc->symbol].name);
	}
	return NULL;
}

static struct pe_error *fill_slots(const struct build *b)
{
	const struct layout *layout = &b->plan->layout;

	for (uint32_t i = 0; i < b->plan->patch->symbol_count; i++) {
		uint64_t value = symbol_address(b, i);

		if (layout->got[i])
			memcpy(b->bytes + layout->got[i], &value, sizeof(value));
		if (layout->plt[i]) {
			size_t size;
			struct pe_error *err = b->plan->arch->plt_stub(
				b->base + layout->plt[i], b->base + layout->got[i],
				b->bytes + layout->plt[i], &size);

			if (err)
				return err;
		}
	}
	return NULL;
}

/* Moved old instructions, then back behind them; or, when stacked, the earlier patch's code. */
static struct pe_error *build_below(const struct build *b, size_t i, uint64_t *ret)
{
	const struct plan_function *f = &b->plan->functions[i];
	const struct pe_arch *arch = b->plan->arch;
	uint8_t *out = b->bytes + b->plan->layout.moved[i];
	size_t size;

	*ret = f->below;
	if (f->stacked)
		return NULL;
	*ret = b->base + b->plan->layout.moved[i];
	struct pe_error *err =
		arch->insns_move(f->patched, f->code, f->entry_size, *ret, out, &size);

	if (!err)
		err = arch->jump_encode(*ret + size, f->patched + f->entry_size, out + size);
	return err ? pe_error_wrap(err, "cannot keep the old entry of %s", f->name) : NULL;
}

static struct pe_error *build_select(const struct build *b, uint64_t offset, size_t variable,
				     uint64_t when_zero, uint64_t otherwise)
{
	uint64_t word = b->base + b->plan->layout.ledger +
			offsetof(struct ledger_header, variable) + variable;
	size_t size;

	return b->plan->arch->select_stub(b->base + offset, word, when_zero, otherwise,
					  b->bytes + offset, &size);
}

/*
 *	entry ──► commit? ──1──► new function; below, when it passes through
 *	             │0
 *	             ├─ replaced? ──► replacing? ──1──► the replaced patch's function
 *	             ▼                     │0
 *	           below ◄─────────────────┘
 */
static struct pe_error *build_entry(const struct build *b, size_t i)
{
	const size_t commit = offsetof(struct ledger_variable, commit);
	const size_t replacing = offsetof(struct ledger_variable, replacing);
	const struct plan_function *f = &b->plan->functions[i];
	const struct layout *layout = &b->plan->layout;
	uint64_t below;
	struct pe_error *err = build_below(b, i, &below);

	if (err)
		return err;
	if (!f->function)
		return build_select(b, layout->entries[i], commit, f->leads, below);
	if (f->replaced) {
		err = build_select(b, layout->back[i], replacing, below, f->leads);
		below = b->base + layout->back[i];
	}
	if (!err)
		err = build_select(b, layout->entries[i], commit, below,
				   symbol_address(b, f->function->symbol));
	return err;
}

static struct pe_error *build_unwind_stubs(const struct build *b)
{
	const struct layout *layout = &b->plan->layout;
	uint64_t flag = b->base + layout->ledger + offsetof(struct ledger_header, variable.unwind);
	uint64_t eh_frame = b->base + layout->eh_frame;
	size_t size;

	if (!layout->register_stub)
		return NULL;
	struct pe_error *err = b->plan->arch->call_stub(
		b->base + layout->register_stub, b->plan->register_function, eh_frame,
		b->base + layout->unwind_object, flag, UNWIND_REGISTERING, UNWIND_REGISTERED,
		b->bytes + layout->register_stub, &size);
	if (err)
		return err;
	return b->plan->arch->call_stub(b->base + layout->deregister_stub,
					b->plan->deregister_function, eh_frame, 0, flag,
					UNWIND_DEREGISTERING, UNWIND_DEREGISTERED,
					b->bytes + layout->deregister_stub, &size);
}

static uint32_t eh_frame_offset(const struct layout *layout)
{
	uint64_t offset = layout->unwind_size;

	if (layout->eh_frame)
		offset = layout->eh_frame - layout->unwind_tables;
	return (uint32_t)offset;
}

static void fill_header(const struct build *b, struct ledger_header *h)
{
	const struct pe_plan *plan = b->plan;
	const struct layout *layout = &plan->layout;
	const struct pe_patch *patch = plan->patch;

	*h = (struct ledger_header){
		.magic = LEDGER_PARTIAL,
		.version = LEDGER_VERSION,
		.constant_size = (uint32_t)layout->ledger_size,
		.base = b->base,
		.text_size = layout->text_size,
		.rodata_size = layout->rodata_size,
		.data_size = layout->data_size,
		.start_time = pe_target_start_time(b->target),
		.pid = pe_target_pid(b->target),
		.level = patch->level,
		.flags = (patch->independent ? LEDGER_INDEPENDENT : 0U) |
			 (plan->select ? LEDGER_SELECT : 0U),
		.function_count = (uint32_t)plan->function_count,
		.own_count = (uint32_t)patch->function_count,
		.range_count = (uint32_t)count_ranges(patch),
		.image_count = (uint32_t)plan->image_count,
		.own_images = (uint32_t)patch->target_count,
		.start_count = (uint32_t)count_starts(patch),
		.replaced_count = (uint32_t)plan->replaced_count,
		.json_size = (uint32_t)strlen(plan->ledger_json),
		.machine = plan->arch->machine,
		.sequence = plan->sequence,
		.register_stub = layout->register_stub ? b->base + layout->register_stub : 0,
		.deregister_stub = layout->deregister_stub ? b->base + layout->deregister_stub : 0,
		.unwind_tables = b->base + layout->unwind_tables,
		.unwind_size = layout->unwind_size,
		.eh_frame = eh_frame_offset(layout),
		.unwind_object = layout->unwind_object ? b->base + layout->unwind_object : 0,
		.variable = { .state = PE_STATE_STAGED, .replacing = plan->replaced_count > 0 },
	};
	memcpy(h->patch_sha256, plan->patch_sha256, sizeof(h->patch_sha256));
}

static struct pe_error *fill_function(const struct build *b, size_t i, struct ledger_function *out)
{
	const struct plan_function *f = &b->plan->functions[i];

	*out = (struct ledger_function){
		.entry = f->entry,
		.patched = f->patched,
		.target = b->plan->select ? b->base + b->plan->layout.entries[i]
					  : symbol_address(b, f->function->symbol),
		.size = (uint32_t)b->plan->arch->jump_size,
		.image = f->image,
	};
	memcpy(out->original, f->original, out->size);
	memcpy(out->previous, f->previous, out->size);
	return b->plan->arch->jump_encode(f->patched, out->target, out->jump);
}

static struct pe_error *build_ledger(const struct build *b)
{
	const struct pe_patch *patch = b->plan->patch;
	uint8_t *start = b->bytes + b->plan->layout.ledger;
	struct ledger_header *h = (struct ledger_header *)start;
	struct ledger_function *function = (struct ledger_function *)(h + 1);
	struct ledger_range *range = (struct ledger_range *)(function + b->plan->function_count);
	struct pe_error *err = NULL;

	fill_header(b, h);
	for (size_t i = 0; !err && i < b->plan->function_count; i++)
		err = fill_function(b, i, &function[i]);
	if (err)
		return err;
	for (size_t i = 0; i < patch->function_count; i++) {
		for (size_t r = 0; r < patch->functions[i].range_count; r++) {
			const struct pe_patch_range *old = &patch->functions[i].ranges[r];

			range->start = b->plan->functions[i].bias + old->vaddr;
			range->end = range->start + old->size;
			range->function = (uint32_t)i;
			range++;
		}
	}

	struct ledger_image *image = (struct ledger_image *)range;

	memcpy(image, b->plan->ledger_images, b->plan->image_count * sizeof(*image));

	uint64_t *starts = (uint64_t *)(image + b->plan->image_count);

	for (uint32_t i = 0; i < patch->symbol_count; i++)
		if (is_new_function(patch, &patch->symbols[i]))
			*starts++ = symbol_address(b, i);
	for (size_t i = 0; i < b->plan->replaced_count; i++)
		*starts++ = b->plan->replaced[i]->header.sequence;
	memcpy(starts, b->plan->ledger_json, h->json_size);
	ledger_checksum(start, h->constant_size, h->checksum);
	return NULL;
}

struct pe_error *layout_build(struct pe_target *target, const struct pe_plan *plan, uint64_t base,
			      uint8_t **ret)
{
	pe_auto_free uint8_t *bytes = calloc(1, layout_size(&plan->layout));
	struct build b = { .target = target, .plan = plan, .base = base, .bytes = bytes };
	struct pe_error *err = bytes ? NULL : pe_error_nomem();

	for (size_t i = 0; !err && i < plan->patch->section_count; i++)
		err = relocate_section(&b, i);
	if (!err)
		err = fill_slots(&b);
	for (size_t i = 0; !err && plan->select && i < plan->function_count; i++)
		err = build_entry(&b, i);
	if (!err)
		err = build_unwind_stubs(&b);
	if (!err)
		err = build_ledger(&b);
	if (err)
		return err;
	*ret = pe_steal(bytes);
	return NULL;
}
