/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Room for a patch: a hole in the address space, so near that a jump or a 32-bit offset reaches
 * from any byte of it to any byte of the images that it patches, and back.
 *
 * The best hole is below the program: the heap grows above it, the kernel hands out mappings far
 * away. Next best is high up in a hole above, away from what grows upwards from its bottom. Holes
 * under a stack keep their upper part for it.
 */
#include "internal.h"

#include <string.h>

static const uint64_t low_limit = 0x10000;     /* vm.mmap_min_addr is at most this in practice */
static const uint64_t low_2g = 0x7fff0000;     /* non-PIE code has absolute 32-bit addresses */
static const uint64_t margin = 1 << 20;	       /* off the exact reach */
static const uint64_t stack_room = 64UL << 20; /* a stack may grow into that */
static const uint64_t distance = 0x10000;      /* from neighbours, where there is space */

struct window {
	uint64_t low, high;   /* the mapping must lie in [low, high) */
	uint64_t image_start; /* of the lowest image */
};

static struct window reach_window(const struct pe_plan *plan)
{
	uint64_t reach = (uint64_t)plan->arch->reach;
	struct window w = { .low = low_limit, .high = UINT64_MAX, .image_start = UINT64_MAX };

	for (size_t i = 0; i < plan->image_count; i++) {
		const struct ledger_image *image = &plan->ledger_images[i];

		if (image->end > reach - margin && image->end - (reach - margin) > w.low)
			w.low = image->end - (reach - margin);
		if (image->start + (reach - margin) < w.high)
			w.high = image->start + (reach - margin);
		if (image->start < w.image_start)
			w.image_start = image->start;
		if (i < plan->patch->target_count && !plan->patch->targets[i].is_pie &&
		    plan->patch->targets[i].is_program && w.high > low_2g)
			w.high = low_2g;
	}
	w.low = align_up(w.low, PE_PAGE);
	w.high &= ~(PE_PAGE - 1);
	return w;
}

static bool is_stack(const struct pe_map *map)
{
	return map && !strncmp(map->path, "[stack", 6);
}

/* The highest fit place in the hole [start, end), or 0. */
static uint64_t place_in(uint64_t start, uint64_t end, const struct pe_map *above,
			 const struct window *w, uint64_t size)
{
	if (is_stack(above))
		end = end > stack_room ? end - stack_room : 0;
	if (start < w->low)
		start = w->low;
	if (end > w->high)
		end = w->high;
	if (end <= start || end - start < size)
		return 0;
	if (end - start >= size + 2 * distance)
		end -= distance;
	return end - size;
}

struct pe_error *room_find(const struct pe_maps *maps, const struct pe_plan *plan, uint64_t size,
			   uint64_t *ret)
{
	struct window w = reach_window(plan);
	uint64_t below = 0, over = 0;
	uint64_t start = 0;

	for (size_t i = 0; i <= maps->count; i++) {
		const struct pe_map *above = i < maps->count ? &maps->items[i] : NULL;
		/* Beyond the last mapping of user space lies nothing usable. */
		uint64_t end = above ? above->start : start;
		uint64_t place = place_in(start, end, above, &w, size);

		if (place && place < w.image_start)
			below = place;
		else if (place)
			over = place;
		if (above)
			start = above->end;
	}
	*ret = below ? below : over;
	if (*ret)
		return NULL;
	return pe_error_new(
		PE_ERR_UNSUPPORTED,
		"no free address range of %lu bytes within reach of %s (0x%lx to 0x%lx)",
		(unsigned long)size, plan->patch->targets[0].name, (unsigned long)w.low,
		(unsigned long)w.high);
}
