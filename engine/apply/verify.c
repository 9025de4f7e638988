/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Are the bytes of the functions in memory those that the patch was made for?
 *
 * What applied patches of ours overwrote is put back in a copy before it is hashed: they may be
 * stood upon. Anything else that differs is somebody else's: a probe, a debugger's breakpoint,
 * another live patch; it is named, with the byte, and nothing is touched.
 */
#include "internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <string.h>

#include "engine/cleanup.h"
#include "engine/demangle.h"

/* Puts the original bytes of live patches back into a copy, the latest first. */
static void overlay(const struct ledgers *ledgers, uint64_t start, uint8_t *bytes, size_t size)
{
	for (size_t i = ledgers->count; i-- > 0;) {
		const struct ledger *ledger = &ledgers->items[i];

		for (size_t f = 0; ledger_is_live(ledger) && f < ledger_entries(ledger); f++) {
			const struct ledger_function *function = &ledger->functions[f];

			if (function->patched < start ||
			    function->patched + function->size > start + size)
				continue;
			uint8_t *at = bytes + (function->patched - start);

			if (!memcmp(at, function->jump, function->size))
				memcpy(at, function->original, function->size);
		}
	}
}

/* The same bytes as the mapped file has them; false when they cannot be had. */
static bool read_file_bytes(const struct pe_target *target, uint64_t start, uint8_t *bytes,
			    size_t size)
{
	struct pe_maps maps = { 0 };
	pe_auto_error struct pe_error *err = pe_target_maps(target, &maps);
	const struct pe_map *map = err ? NULL : pe_maps_at(&maps, start);
	bool ok = false;

	if (map && map->inode && map->end - start >= size) {
		char path[128];

		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pe_target_pid(target),
			 (unsigned long)map->start, (unsigned long)map->end);
		pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

		ok = fd >= 0 && pread(fd, bytes, size, (off_t)(map->offset + start - map->start)) ==
					(ssize_t)size;
	}
	pe_maps_deinit(&maps);
	return ok;
}

static const char *guess(uint8_t byte)
{
	switch (byte) {
	case 0xcc:
		return "a breakpoint or uprobe";
	case 0xe9:
	case 0xeb:
	case 0xe8:
	case 0xff:
		return "a jump of another patch or tool";
	default:
		return "a modification by somebody else";
	}
}

static struct pe_error *explain(const struct pe_target *target,
				const struct pe_patch_function *function, uint64_t start,
				const uint8_t *memory, size_t size, const char *image)
{
	pe_auto_free uint8_t *file = malloc(size);
	pe_auto_free char *name = pe_demangle(function->name);
	size_t at = 0;

	if (!file || !name)
		return pe_error_nomem();
	if (!read_file_bytes(target, start, file, size))
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the code of %s in memory is not what the patch was made for",
				    name);
	while (at < size && file[at] == memory[at])
		at++;
	if (at == size)
		return pe_error_new(PE_ERR_MISMATCH,
				    "the code of %s in %s is not what the patch was made for", name,
				    image);
	return pe_error_new(PE_ERR_UNSUPPORTED,
			    "%s at %s+0x%zx: the byte in memory is %02x, in the file it is %02x",
			    guess(memory[at]), name, at, memory[at], file[at]);
}

static struct pe_error *verify_range(struct pe_target *target, struct pe_plan *plan,
				     struct plan_function *f, const struct pe_patch_range *range,
				     bool entry)
{
	uint64_t start = f->bias + range->vaddr;
	pe_auto_free uint8_t *memory = malloc(range->size + 1);
	uint8_t hash[PE_SHA256_SIZE];

	if (!memory)
		return pe_error_nomem();
	struct pe_error *err = pe_target_read(target, start, memory, range->size);
	if (err)
		return pe_error_wrap(err, "cannot read the code of %s", f->function->name);
	if (entry) {
		memcpy(f->previous, memory + f->function->entry_skip, plan->arch->jump_size);
		plan_peel(plan, f);
	}
	overlay(&plan->ledgers, start, memory, range->size);
	if (entry)
		memcpy(f->code, memory + f->function->entry_skip, f->function->entry_size);
	SHA256(memory, range->size, hash);
	if (memcmp(hash, range->sha256, sizeof(hash)))
		return explain(target, f->function, start, memory, range->size,
			       plan->targets[f->function->target]->path);
	return NULL;
}

/* Of these the patch knows nothing: what counts is that the replaced patch's jump stands there. */
static struct pe_error *verify_pass_through(struct pe_target *target, struct pe_plan *plan,
					    struct plan_function *f)
{
	const uint64_t size = f->body_size;
	struct pe_entry entry;
	pe_auto_free uint8_t *code = malloc(size + 1);
	struct pe_error *err =
		code ? pe_target_read(target, f->entry, code, size) : pe_error_nomem();

	if (err)
		return err;
	memcpy(f->previous, code + (f->patched - f->entry), plan->arch->jump_size);
	plan_peel(plan, f);
	if (!f->replaced)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "the entry of %s (0x%lx) was changed by somebody else: "
				    "%02x %02x %02x",
				    f->name, (unsigned long)f->patched, f->previous[0],
				    f->previous[1], f->previous[2]);
	overlay(&plan->ledgers, f->entry, code, size);
	err = plan->arch->entry_examine(f->entry, code, size, 0, &entry);
	if (err)
		return pe_error_wrap(err, "cannot take %s back", f->name);
	f->entry_size = entry.displaced;
	memcpy(f->code, code + entry.skip, f->entry_size);
	return NULL;
}

struct pe_error *plan_verify_bytes(struct pe_target *target, struct pe_plan *plan)
{
	for (size_t i = 0; i < plan->patch->function_count; i++) {
		struct plan_function *f = &plan->functions[i];

		for (size_t r = 0; r < f->function->range_count; r++) {
			struct pe_error *err =
				verify_range(target, plan, f, &f->function->ranges[r], r == 0);

			if (err)
				return err;
		}
	}
	for (size_t i = plan->patch->function_count; i < plan->function_count; i++) {
		struct plan_function *f = &plan->functions[i];
		struct pe_error *err = verify_pass_through(target, plan, f);

		if (err)
			return err;
	}
	return NULL;
}
