/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the dynamic linker says of itself: the link map, and whether it is at work.
 *
 * glibc and musl set DT_DEBUG before they load the libraries of a program. r_state is RT_CONSISTENT
 * when all of them are relocated, and another while more are being mapped or unmapped. During
 * dlopen it is RT_CONSISTENT again before the new ones are relocated: what is read from those must
 * be checked where it is read. A static program has no link map.
 */
#include <elf.h>
#include <link.h>

#include "proc.h"

enum { LINK_MAP_MAX = 4096, DYNAMIC_MAX = 512, DYNAMIC_STEP = 16 };

bool proc_dynamic_value(const struct pe_target *target, uint64_t dynamic, int64_t tag,
			uint64_t *ret)
{
	Elf64_Dyn dyn[DYNAMIC_STEP];

	for (size_t done = 0; dynamic && done < DYNAMIC_MAX; done += DYNAMIC_STEP) {
		size_t size =
			proc_read_some(target, dynamic + done * sizeof(*dyn), dyn, sizeof(dyn));

		for (size_t i = 0; i < size / sizeof(*dyn); i++) {
			if (dyn[i].d_tag == tag) {
				*ret = dyn[i].d_un.d_val;
				return true;
			}
			if (dyn[i].d_tag == DT_NULL)
				return false;
		}
		if (size < sizeof(dyn))
			return false;
	}
	return false;
}

static uint64_t mix(uint64_t digest, uint64_t value)
{
	return (digest ^ value) * 0x100000001b3ULL; /* FNV-1a */
}

void proc_walk_link_map(const struct pe_target *target, struct pe_link_map *ret,
			void (*each)(void *ctx, int n, uint64_t dynamic), void *ctx)
{
	struct r_debug debug;
	struct link_map map;
	uint64_t at = 0;

	ret->loading = false;
	ret->digest = 0;
	if (!proc_dynamic_value(target, ret->dynamic, DT_DEBUG, &at))
		return;
	if (!at || proc_read_some(target, at, &debug, sizeof(debug)) != sizeof(debug)) {
		ret->loading = ret->interpreted;
		return;
	}
	ret->loading = debug.r_state != RT_CONSISTENT || !debug.r_map;
	at = (uint64_t)(uintptr_t)debug.r_map;
	for (int n = 0; at && n < LINK_MAP_MAX; n++) {
		if (proc_read_some(target, at, &map, sizeof(map)) != sizeof(map))
			return;
		ret->digest =
			mix(mix(mix(ret->digest, at), map.l_addr), (uint64_t)(uintptr_t)map.l_ld);
		if (each)
			each(ctx, n, (uint64_t)(uintptr_t)map.l_ld);
		at = (uint64_t)(uintptr_t)map.l_next;
	}
}

struct pe_link_map pe_link_map_again(const struct pe_target *target,
				     const struct pe_link_map *before)
{
	struct pe_link_map now = *before;

	proc_walk_link_map(target, &now, NULL, NULL);
	return now;
}
