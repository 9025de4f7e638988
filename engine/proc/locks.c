/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A function that runs on a borrowed thread must not need a lock that this thread holds already:
 * of the loader, the unwinder or the allocator. A thread that holds one has a return address into
 * their code on its stack: ld.so, libgcc_s, the allocator's functions (all of its library when it
 * is not the C library's own).
 */
#include "locks.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cleanup.h"
#include "stack.h"

static const char *const allocator_functions[] = {
	"malloc",	  "free",	   "calloc",	      "realloc", "memalign",
	"posix_memalign", "aligned_alloc", "dl_iterate_phdr", "fork",
};

static struct pe_error *add_range(struct lock_code *code, uint64_t start, uint64_t end)
{
	if (code->count == code->capacity) {
		size_t capacity = code->capacity * 2 + 16;
		struct pe_range *bigger = reallocarray(code->ranges, capacity, sizeof(*bigger));

		if (!bigger)
			return pe_error_nomem();
		code->ranges = bigger;
		code->capacity = capacity;
	}
	code->ranges[code->count++] = (struct pe_range){ .start = start, .end = end };
	return NULL;
}

static const char *base_name(const struct pe_loaded_image *image)
{
	const char *slash = strrchr(image->path, '/');

	return slash ? slash + 1 : image->path;
}

static bool begins_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static struct pe_error *add_image(struct lock_code *code, const struct pe_loaded_image *image)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; i < code->maps.count && !err; i++) {
		const struct pe_map *map = &code->maps.items[i];

		if ((map->prot & PROT_EXEC) && map->start >= image->start && map->end <= image->end)
			err = add_range(code, map->start, map->end);
	}
	return err;
}

static const struct pe_loaded_image *image_at(const struct pe_loaded_images *images, uint64_t addr)
{
	for (size_t i = 0; i < images->count; i++) {
		if (addr >= images->items[i].start && addr < images->items[i].end)
			return &images->items[i];
	}
	return NULL;
}

/* The definition that programs call; absent ones (a static program) cannot be told apart. */
static struct pe_error *add_function(struct lock_code *code, const struct pe_target *target,
				     const struct pe_loaded_images *images, const char *name,
				     const char *library)
{
	struct pe_import import;
	struct pe_error *err = pe_target_find_symbol(target, images, name, library, NULL, &import);

	if (err && err->code == PE_ERR_NO_TARGET) {
		pe_error_free(err);
		return NULL;
	}
	if (err)
		return err;

	const struct pe_loaded_image *image = image_at(images, import.addr);

	if (image && !library && !image->is_program && !begins_with(base_name(image), "libc.so") &&
	    strcmp(name, "malloc") == 0)
		return add_image(code, image);
	return add_range(code, import.addr, import.addr + import.size);
}

struct pe_error *lock_code_find(struct pe_target *target, struct lock_code *ret)
{
	struct lock_code code = { 0 };
	struct pe_loaded_images images;
	struct pe_error *err = pe_target_images(target, &images);

	if (err)
		return err;
	err = pe_target_maps(target, &code.maps);
	for (size_t i = 0; i < images.count && !err; i++) {
		const char *name = base_name(&images.items[i]);

		if (begins_with(name, "ld-") || begins_with(name, "ld.so") ||
		    begins_with(name, "ld64.so") || begins_with(name, "libgcc_s.so"))
			err = add_image(&code, &images.items[i]);
	}
	for (size_t i = 0; i < sizeof(allocator_functions) / sizeof(*allocator_functions); i++) {
		if (!err)
			err = add_function(&code, target, &images, allocator_functions[i], NULL);
		if (!err)
			err = add_function(&code, target, &images, allocator_functions[i],
					   "libc.so.6");
	}
	pe_loaded_images_deinit(&images);
	if (err) {
		lock_code_deinit(&code);
		return err;
	}
	unwinder_prepare(target, &code.maps);
	*ret = code;
	return NULL;
}

void lock_code_deinit(struct lock_code *code)
{
	pe_maps_deinit(&code->maps);
	free(code->ranges);
	memset(code, 0, sizeof(*code));
}

struct pe_error *lock_code_check(const struct lock_code *code, struct pe_target *target, pid_t tid,
				 const struct user_regs_struct *regs)
{
	pe_auto_free uint8_t *buffer = malloc(STACK_BUFFER);
	struct pe_stack_hits hits = { 0 };
	struct stack_checker checker = {
		.target = target,
		.maps = &code->maps,
		.ranges = stack_ranges(code->ranges, code->count, PE_MATCH_BODY),
		.buffer = buffer,
		.hits = &hits,
	};
	struct pe_error *err =
		buffer ? stack_check_stopped(&checker, tid, regs, true) : pe_error_nomem();

	if (!err && hits.count)
		err = pe_error_new(PE_ERR_BUSY,
				   "thread %d is inside the loader, the allocator or the unwinder "
				   "(%#" PRIx64 " on its stack)",
				   tid, hits.items[0].addr);
	pe_stack_hits_deinit(&hits);
	stack_checker_deinit(&checker);
	return err;
}
