/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many compilers at a time: as many as there are processors for, and memory. A unit of C++
 * takes more than half a GiB; a machine that begins to swap or to kill is slower than one compiler.
 */
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t bytes_each = 1 << 30;

/* The number in a file of one number, or behind @key in a file of many; UINT64_MAX without one. */
static uint64_t number_in(const char *path, const char *key)
{
	pe_auto_free char *text = NULL;
	struct pe_error *err = pe_file_read(path, &text, NULL);
	const char *at = err ? NULL : key ? strstr(text, key) : text;
	char *end;

	pe_error_free(err);
	if (!at)
		return UINT64_MAX;
	at += key ? strlen(key) : 0;

	uint64_t value = strtoull(at, &end, 10);

	return end == at ? UINT64_MAX : value;
}

/* What a control group leaves, which may have no limit; @cache of what it uses can be dropped. */
static uint64_t group_left(const char *limit, const char *used, const char *stat, const char *cache)
{
	uint64_t most = number_in(limit, NULL), now = number_in(used, NULL);
	uint64_t free = number_in(stat, cache);

	if (most == UINT64_MAX || now == UINT64_MAX)
		return UINT64_MAX;
	now -= free < now ? free : 0;
	return now < most ? most - now : 0;
}

/* Bytes that may be taken without harm to others. */
static uint64_t memory_left(void)
{
	uint64_t kib = number_in("/proc/meminfo", "MemAvailable:");
	const uint64_t left[] = {
		kib < UINT64_MAX / 1024 ? kib * 1024 : UINT64_MAX,
		group_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
			   "/sys/fs/cgroup/memory.stat", "\ninactive_file "),
		group_left("/sys/fs/cgroup/memory/memory.limit_in_bytes",
			   "/sys/fs/cgroup/memory/memory.usage_in_bytes",
			   "/sys/fs/cgroup/memory/memory.stat", "\ntotal_inactive_file "),
	};
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < sizeof(left) / sizeof(*left); i++)
		least = left[i] < least ? left[i] : least;
	return least;
}

size_t pe_run_jobs(void)
{
	const char *wanted = getenv("CARE_BUILD_JOBS");
	unsigned long number = wanted ? strtoul(wanted, NULL, 10) : 0;
	uint64_t memory = memory_left() / bytes_each;
	cpu_set_t set;

	if (number && number <= 1024)
		return number;
	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;

	uint64_t processors = (uint64_t)CPU_COUNT(&set);

	return memory < 1 ? 1 : (size_t)(memory < processors ? memory : processors);
}
