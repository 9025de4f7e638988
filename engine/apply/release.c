/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Releasing the memory of a reverted patch, once nothing in the process can refer to it:
 *
 *  - no thread runs in it or returns to it (unwound in a stop), no register holds an address of it;
 *  - no word of the writable memory is an address of it: a string of the patch may be stored in
 *    some structure, one of its functions may be registered as a callback.
 *
 * Only live parts of thread stacks count, and there an address inside a function is no pointer that
 * anybody calls (it is a stale return address: true ones were excluded by unwinding); the start of
 * a function or data is. Stacks of ended threads that libc keeps for the next one are skipped: they
 * are told from coroutine stacks by the thread descriptor of libc in them. When in doubt the memory
 * stays; the next operation on the process tries again.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "engine/cleanup.h"

static const uint64_t patience_us = 2000000;
static const uint64_t chunk_size = 1 << 20;
static const uint64_t page_present = 3ULL << 62; /* or swapped; /proc/PID/pagemap */
static const uint64_t largest_by_read = 1ULL << 40;

enum { MAX_REGIONS = 64 };

struct scan {
	const struct pe_target *target;
	const struct ledger *ledger;
	int pagemap;
	bool by_ioctl;
	uint64_t *chunk; /* chunk_size bytes */
	uint64_t found;	 /* address of a word that refers to the mapping; 0: none */
};

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool is_start(const struct ledger *ledger, uint64_t address)
{
	for (uint32_t i = 0; i < ledger->header.start_count; i++)
		if (ledger->starts[i] == address)
			return true;
	return false;
}

/*
 * libgcc_s since 13 keeps what was registered in a tree (unwind-dw2-btree.h) whose entries are
 * three words: start of the code, its size, the object that it was registered with. Entries that it
 * took out stay behind its count of them, and it never wipes a node.
 */
static bool is_unwind_entry(const struct ledger *ledger, const uint64_t *words, size_t count)
{
	return count >= 3 && ledger->header.unwind_object &&
	       words[1] <= ledger->end - ledger->start && words[2] == ledger->header.unwind_object;
}

static bool matters(const struct ledger *ledger, const uint64_t *words, size_t count, bool stack)
{
	uint64_t word = words[0];

	if (word - ledger->start >= ledger->end - ledger->start)
		return false;
	/* What only libgcc follows, while it unwinds through frames that are gone now. It leaves
	 * stale copies, in ended exceptions too. */
	if (word - ledger->header.unwind_tables < ledger->header.unwind_size ||
	    word - ledger->header.unwind_object < UNWIND_OBJECT_SIZE ||
	    is_unwind_entry(ledger, words, count))
		return false;
	return !stack || word - ledger->start >= ledger->header.text_size || is_start(ledger, word);
}

static void scan_words(struct scan *scan, uint64_t at, size_t count, bool stack)
{
	uint64_t start = scan->ledger->start, size = scan->ledger->end - start;
	bool any = false;

	/* Written so that the compiler can vectorize: nearly always there is nothing. */
	for (size_t i = 0; i < count; i++)
		any |= scan->chunk[i] - start < size;
	for (size_t i = 0; any && i < count && !scan->found; i++)
		if (matters(scan->ledger, &scan->chunk[i], count - i, stack))
			scan->found = at + i * sizeof(uint64_t);
}

static void scan_run(struct scan *scan, uint64_t start, uint64_t end, bool stack)
{
	for (uint64_t at = start; at < end && !scan->found; at += chunk_size) {
		uint64_t size = end - at < chunk_size ? end - at : chunk_size;
		struct iovec local = { .iov_base = scan->chunk, .iov_len = size };
		struct iovec remote = { .iov_base = (void *)at, .iov_len = size };
		ssize_t n = process_vm_readv(pe_target_pid(scan->target), &local, 1, &remote, 1, 0);

		/* Unmapped meanwhile: nothing is there. */
		if (n > 0)
			scan_words(scan, at, (size_t)n / sizeof(uint64_t), stack);
	}
}

/* ---- which pages exist: reading others would create them ---- */

/* PAGEMAP_SCAN, Linux 6.7: Documentation/admin-guide/mm/pagemap.rst; older headers lack it. */
struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

static const unsigned long pagemap_scan = _IOWR('f', 16, struct pm_scan_arg);
static const uint64_t page_is_present_or_swapped = 3 << 3;

/* Fills regions with the next existing pages of [*at, end) and moves *at behind what was seen. */
static struct pe_error *next_by_ioctl(const struct scan *scan, uint64_t *at, uint64_t end,
				      struct page_region *regions, size_t *count)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = *at,
		.end = end,
		.vec = (uint64_t)(uintptr_t)regions,
		.vec_len = MAX_REGIONS,
		.category_anyof_mask = page_is_present_or_swapped,
		.return_mask = page_is_present_or_swapped,
	};
	int n = ioctl(scan->pagemap, pagemap_scan, &arg);

	if (n < 0)
		return pe_error_errno(errno, "PAGEMAP_SCAN");
	*count = (size_t)n;
	*at = arg.walk_end > *at ? arg.walk_end : end;
	return NULL;
}

static struct pe_error *next_by_read(const struct scan *scan, uint64_t *at, uint64_t end,
				     struct page_region *regions, size_t *count)
{
	uint64_t *entries = scan->chunk;
	uint64_t pages = (end - *at) / PE_PAGE, start = *at, i = 0;

	if (pages > chunk_size / sizeof(*entries))
		pages = chunk_size / sizeof(*entries);
	ssize_t n = pread(scan->pagemap, entries, pages * sizeof(*entries),
			  (off_t)(start / PE_PAGE * sizeof(*entries)));
	if (n < 0)
		return pe_error_errno(errno, "cannot read the pagemap");
	pages = (uint64_t)n / sizeof(*entries);
	*count = 0;
	while (i < pages && *count < MAX_REGIONS) {
		uint64_t first = i;

		while (i < pages && (entries[i] & page_present))
			i++;
		if (i > first)
			regions[(*count)++] =
				(struct page_region){ .start = start + first * PE_PAGE,
						      .end = start + i * PE_PAGE };
		else
			i++;
	}
	*at = i ? start + i * PE_PAGE : end;
	return NULL;
}

static struct pe_error *scan_pages(struct scan *scan, uint64_t start, uint64_t end, bool stack)
{
	struct page_region regions[MAX_REGIONS];
	uint64_t at = start & ~(PE_PAGE - 1);
	size_t count = 0;

	while (at < end && !scan->found) {
		struct pe_error *err = scan->by_ioctl
					       ? next_by_ioctl(scan, &at, end, regions, &count)
					       : next_by_read(scan, &at, end, regions, &count);

		if (err && scan->by_ioctl) {
			pe_error_free(err);
			scan->by_ioctl = false;
			/* Page by page, a sparse mapping of terabytes would take for ever. */
			if (end - start > largest_by_read)
				scan->found = start;
			continue;
		}
		if (err)
			return err;
		for (size_t i = 0; i < count; i++)
			scan_run(scan, regions[i].start < start ? start : regions[i].start,
				 regions[i].end > end ? end : regions[i].end, stack);
	}
	return NULL;
}

/* ---- which parts of which mappings ---- */

/* Data of other patches counts: it may hold what functions of this one returned. */
static bool is_its_own(const struct pe_map *map, const struct ledger *ledger)
{
	return map->start < ledger->end && map->end > ledger->start;
}

static bool can_hold_pointers(const struct pe_map *map)
{
	const int rw = PROT_READ | PROT_WRITE;

	if ((map->prot & rw) != rw)
		return false;
	/* Shared memory of files and devices is not where a program keeps its own pointers. */
	return !map->shared || !map->inode || !strncmp(map->path, "/dev/zero", 9) ||
	       !strncmp(map->path, "/memfd:", 7) || !strncmp(map->path, "/SYSV", 5);
}

/*
 * Does a thread descriptor of libc stand at the top of this mapping? Its first and third words
 * point to itself (tcb and self; psABI, thread-local storage, variant II).
 */
static bool is_thread_stack(const struct scan *scan, const struct pe_map *map)
{
	enum { WORDS = 2 * PE_PAGE / sizeof(uint64_t) };
	uint64_t words[WORDS];
	uint64_t start = map->end - sizeof(words);

	if (*map->path || map->end - map->start < sizeof(words))
		return false;
	struct iovec local = { .iov_base = words, .iov_len = sizeof(words) };
	struct iovec remote = { .iov_base = (void *)start, .iov_len = sizeof(words) };

	if (process_vm_readv(pe_target_pid(scan->target), &local, 1, &remote, 1, 0) !=
	    (ssize_t)sizeof(words))
		return false;
	for (size_t i = 0; i + 2 < WORDS; i++)
		if (words[i] == start + i * sizeof(uint64_t) && words[i + 2] == words[i])
			return true;
	return false;
}

static struct pe_error *scan_map(struct scan *scan, const struct pe_map *map,
				 const struct stop_view *view)
{
	size_t inside = 0;
	uint64_t sp = 0;

	for (size_t i = 0; i < view->sp_count; i++)
		if (view->sps[i] >= map->start && view->sps[i] < map->end) {
			inside++;
			sp = view->sps[i];
		}
	if (inside == 1) {
		return scan_pages(scan, sp & ~(sizeof(uint64_t) - 1), map->end, true);
	}
	if (!inside && is_thread_stack(scan, map))
		return NULL;
	return scan_pages(scan, map->start, map->end, false);
}

static struct pe_error *scan_memory(const struct pe_target *target, const struct ledger *ledger,
				    const struct stop_view *view, uint64_t *found)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pe_target_pid(target));
	pe_auto_fd int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return pe_error_errno(errno, "cannot open %s", path);

	pe_auto_free uint64_t *chunk = malloc(chunk_size);
	struct scan scan = { .target = target,
			     .ledger = ledger,
			     .pagemap = pagemap,
			     .by_ioctl = true,
			     .chunk = chunk };
	struct pe_maps maps = { 0 };
	struct pe_error *err = chunk ? pe_target_maps(target, &maps) : pe_error_nomem();

	for (size_t i = 0; !err && !scan.found && i < maps.count; i++)
		if (can_hold_pointers(&maps.items[i]) && !is_its_own(&maps.items[i], ledger))
			err = scan_map(&scan, &maps.items[i], view);
	pe_maps_deinit(&maps);
	*found = scan.found;
	return err;
}

/* ---- deciding ---- */

static struct pe_error *no_commit(struct pe_target *target, void *ctx)
{
	return NULL;
}

/* A stop of its own, to look; not made when it is plain that somebody is inside. */
static struct pe_error *look(struct pe_target *target, const struct ledger *ledger,
			     uint64_t deadline, struct stop_view *view)
{
	const struct switch_job job = { .commit = no_commit, .watch = &ledger, .watch_count = 1 };
	struct pe_switch_result result = { 0 };
	struct pe_error *err = switch_run(target, &job, NULL, deadline, &result, view);

	pe_switch_result_deinit(&result);
	return err;
}

/*
 * Before threads are stopped only to look: is there a plain reason to keep it? Running threads'
 * stacks are not seen here.
 */
static struct pe_error *look_from_afar(struct pe_target *target, const struct ledger *ledger,
				       uint64_t *found)
{
	struct pe_threads threads = { 0 };
	struct stop_view view = { 0 };
	struct pe_error *err = pe_target_threads(target, &threads);

	if (!err) {
		view.sps = calloc(threads.count + 1, sizeof(*view.sps));
		err = view.sps ? NULL : pe_error_nomem();
	}
	for (size_t i = 0; !err && i < threads.count; i++)
		if (!threads.items[i].running)
			view.sps[view.sp_count++] = threads.items[i].sp;
	if (!err)
		err = scan_memory(target, ledger, &view, found);
	stop_view_deinit(&view);
	pe_threads_deinit(&threads);
	return err;
}

static struct pe_error *why_kept(struct pe_target *target, struct ledger *ledger,
				 const struct stop_view *view, uint64_t deadline, char **kept)
{
	uint64_t found = 0;
	struct pe_error *err = NULL;
	int n = 0;

	if (!view->text_free)
		n = asprintf(kept, "a thread is still in its code");
	else if (!view->data_free)
		n = asprintf(kept, "a register refers to it");
	else
		err = stage_deregister_unwind(target, ledger, deadline);
	if (!err && !*kept && !n)
		err = scan_memory(target, ledger, view, &found);
	if (!err && found)
		n = asprintf(kept, "the word at 0x%lx refers to it", (unsigned long)found);
	return n < 0 ? pe_error_nomem() : err;
}

struct pe_error *release(struct pe_target *target, struct ledger *ledger,
			 const struct stop_view *view, char **kept)
{
	/* It is not urgent: whoever comes next does it, when this is not the moment. */
	uint64_t deadline = pe_now_us() + patience_us;
	struct stop_view own = { 0 };
	struct pe_error *err = NULL;
	uint64_t found = 0;

	*kept = NULL;
	if (!view) {
		err = look_from_afar(target, ledger, &found);
		if (!err && !found)
			err = look(target, ledger, deadline, &own);
		view = &own;
	}
	if (!err && found && asprintf(kept, "the word at 0x%lx refers to it", found) < 0)
		err = pe_error_nomem();
	if (!err && !found)
		err = why_kept(target, ledger, view, deadline, kept);
	stop_view_deinit(&own);
	if (!err && !*kept)
		err = unstage(target, ledger, deadline);
	if (!err || err->code != PE_ERR_BUSY)
		return err;
	/* No thread was fit to make the call: harmless, the next one tries again. */
	*kept = pe_error_text(err);
	pe_error_free(err);
	return *kept ? NULL : pe_error_nomem();
}

static size_t count_tids(const struct pe_stack_hits *hits)
{
	pe_auto_free uint64_t *tids = calloc(hits->count + 1, sizeof(*tids));
	size_t count = 0;

	for (size_t i = 0; tids && i < hits->count; i++)
		tids[i] = (uint64_t)hits->items[i].tid;
	if (tids)
		qsort(tids, hits->count, sizeof(*tids), compare_u64);
	for (size_t i = 0; tids && i < hits->count; i++)
		count += !i || tids[i] != tids[i - 1];
	return count;
}

struct pe_error *settled(const struct pe_target *target, const struct ledger *ledger, bool *ret,
			 size_t *threads, size_t *unknown)
{
	struct pe_error *err = old_frames(target, ledger, threads, unknown);

	*ret = !err && !*threads && !*unknown;
	return err;
}

struct pe_error *old_frames(const struct pe_target *target, const struct ledger *ledger,
			    size_t *threads, size_t *unknown)
{
	size_t count = ledger->header.range_count;
	pe_auto_free struct pe_range *ranges = calloc(count + 1, sizeof(*ranges));
	struct pe_stack_hits hits = { 0 };
	struct pe_maps maps = { 0 };
	*unknown = 0;

	struct pe_error *err = ranges ? pe_target_maps(target, &maps) : pe_error_nomem();

	for (size_t i = 0; ranges && i < count; i++)
		ranges[i] = (struct pe_range){ .start = ledger->ranges[i].start,
					       .end = ledger->ranges[i].end };
	if (ranges && ledger->header.variable.state == PE_STATE_REVERTED) {
		count = 1;
		ranges[0] = (struct pe_range){ .start = ledger->start,
					       .end = ledger->start + ledger->header.text_size };
	}
	if (!err)
		err = pe_stack_predict(target, &maps, ranges, count, PE_MATCH_BODY, &hits, unknown);
	*threads = count_tids(&hits);
	pe_stack_hits_deinit(&hits);
	pe_maps_deinit(&maps);
	return err;
}
