/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bounding the objects that are kept for a target: those that nobody used for longest go first.
 * The time of a file is that of its last use. What was used within the last hour stays, whatever
 * its size: another care-build may be about to read it.
 */
#include "build/files.h"
#include "build/store.h"
#include "engine/cleanup.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const time_t in_use = 3600; /* seconds */

struct kept {
	char *path;
	uint64_t size;
	time_t used;
};

static int by_use(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;

	return x->used < y->used ? -1 : x->used > y->used;
}

uint64_t pe_objects_limit(void)
{
	const char *text = getenv("CARE_BUILD_OBJECTS_MIB");
	char *end = NULL;
	unsigned long long mib = text ? strtoull(text, &end, 10) : 0;

	return text && *text && !*end && mib <= UINT64_MAX >> 20 ? mib << 20 : 2048ULL << 20;
}

void pe_object_used(const char *path)
{
	utimensat(AT_FDCWD, path, NULL, 0);
}

struct pe_error *pe_objects_prune(const char *dir, uint64_t limit)
{
	pe_auto_strv struct pe_strv names = { 0 };
	struct pe_error *err = pe_dir_list(dir, &names);
	struct kept *kept = err ? NULL : calloc(names.count + 1, sizeof(*kept));
	uint64_t total = 0;
	size_t count = 0;

	if (!err && !kept)
		err = pe_error_nomem();
	for (size_t i = 0; !err && i < names.count; i++) {
		pe_auto_free char *path = pe_format("%s/%s", dir, names.items[i]);
		struct stat st;

		if (!path)
			err = pe_error_nomem();
		else if (!lstat(path, &st) && S_ISREG(st.st_mode)) {
			total += (uint64_t)st.st_size;
			kept[count++] =
				(struct kept){ pe_steal(path), (uint64_t)st.st_size, st.st_mtime };
		}
	}
	if (count)
		qsort(kept, count, sizeof(*kept), by_use);
	for (size_t i = 0; !err && i < count && total > limit; i++) {
		if (kept[i].used + in_use > time(NULL))
			break;
		if (!unlink(kept[i].path))
			total -= kept[i].size;
	}
	for (size_t i = 0; i < count; i++)
		free(kept[i].path);
	free(kept);
	return err;
}
