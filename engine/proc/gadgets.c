/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Instructions that stand in the target anyway and that injected calls lead through, so that no
 * byte of its code has to change. The C library has all of them; a static program is its own.
 */
#include "gadgets.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cleanup.h"

enum { TEXT_MAX = 64 << 20 };

static const uint8_t syscall_ret[] = { 0x0f, 0x05, 0xc3 };
static const uint8_t restore_rt[] = { 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05 };
static const uint8_t store_ret[] = { 0x48, 0x89, 0x03, 0x5b, 0xc3 };

static void look(uint64_t *ret, const uint8_t *text, size_t size, uint64_t at, const uint8_t *what,
		 size_t what_size)
{
	const uint8_t *hit = *ret ? NULL : memmem(text, size, what, what_size);

	if (hit)
		*ret = at + (uint64_t)(hit - text);
}

static bool complete(const struct gadgets *gadgets)
{
	return gadgets->syscall_ret && gadgets->restore_rt && gadgets->store_ret;
}

static struct pe_error *search_map(const struct pe_target *target, const struct pe_map *map,
				   struct gadgets *gadgets)
{
	size_t size = map->end - map->start;

	if (size > TEXT_MAX)
		size = TEXT_MAX;

	pe_auto_free uint8_t *text = malloc(size);

	if (!text)
		return pe_error_nomem();
	size = proc_read_some(target, map->start, text, size);
	look(&gadgets->syscall_ret, text, size, map->start, syscall_ret, sizeof(syscall_ret));
	look(&gadgets->restore_rt, text, size, map->start, restore_rt, sizeof(restore_rt));
	look(&gadgets->store_ret, text, size, map->start, store_ret, sizeof(store_ret));
	return NULL;
}

static bool is_libc(const struct pe_map *map)
{
	const char *slash = strrchr(map->path, '/');
	const char *base = slash ? slash + 1 : map->path;

	return strncmp(base, "libc.so", 7) == 0 || strncmp(base, "libc-", 5) == 0 ||
	       strncmp(base, "ld-musl", 7) == 0;
}

struct pe_error *gadgets_find(struct pe_target *target)
{
	struct gadgets gadgets = { .searched = true };
	struct pe_maps maps;

	if (target->gadgets.searched)
		return NULL;

	struct pe_error *err = pe_target_maps(target, &maps);

	if (err)
		return err;
	/* The C library first; then files only: what we or a JIT mapped may go away. */
	for (int pass = 0; pass < 2 && !err; pass++) {
		for (size_t i = 0; i < maps.count && !err && !complete(&gadgets); i++) {
			const struct pe_map *map = &maps.items[i];

			if ((map->prot & (PROT_READ | PROT_EXEC)) == (PROT_READ | PROT_EXEC) &&
			    map->path[0] == '/' && strncmp(map->path, "/memfd:", 7) != 0 &&
			    is_libc(map) == (pass == 0))
				err = search_map(target, map, &gadgets);
		}
	}
	pe_maps_deinit(&maps);
	if (err)
		return err;
	if (!gadgets.syscall_ret || !gadgets.restore_rt)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "process %d has no C library that injected calls can use (%s "
				    "not found)",
				    target->pid,
				    gadgets.syscall_ret ? "__restore_rt" : "syscall; ret");
	target->gadgets = gadgets;
	return NULL;
}
