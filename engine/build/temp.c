/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Temporary directories, and what killed processes left of theirs; see build/files.h. */
#include "build/files.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "care-build-"

/* Between mkdtemp() and flock() a directory looks like one that was left. */
static const time_t unlocked_seconds = 60;

/*
 * Ten thousand links take 0.3 s in memory and up to several seconds on a busy disk: memory, when
 * there is room for them and for what compilers put beside them.
 */
static const char *temp_base(void)
{
	const char *base = getenv("TMPDIR");
	struct statvfs fs;

	if (base && *base)
		return base;
	if (!statvfs("/dev/shm", &fs) && !access("/dev/shm", W_OK | X_OK) &&
	    (unsigned long long)fs.f_bavail * fs.f_frsize >= 512ULL << 20 && fs.f_favail >= 100000)
		return "/dev/shm";
	return "/tmp";
}

/* Removes @path if it is ours and its process is gone: nobody holds its lock. */
static struct pe_error *remove_left(const char *path)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || st.st_uid != geteuid() ||
	    time(NULL) - st.st_mtime < unlocked_seconds || flock(fd, LOCK_EX | LOCK_NB))
		return NULL;
	return pe_tree_remove(path);
}

static struct pe_error *sweep(const char *base)
{
	pe_auto_strv struct pe_strv names = { 0 };
	struct pe_error *err = pe_dir_list(base, &names);

	for (size_t i = 0; !err && i < names.count; i++) {
		pe_auto_free char *path = pe_format("%s/%s", base, names.items[i]);

		if (!path)
			return pe_error_nomem();
		/* What cannot be removed is in nobody's way. */
		if (pe_starts_with(names.items[i], PREFIX))
			pe_error_free(remove_left(path));
	}
	return err;
}

struct pe_error *pe_temp_dir_init(struct pe_temp_dir *dir)
{
	const char *base = temp_base();
	pe_auto_free char *path = pe_format("%s/" PREFIX "XXXXXX", base);

	*dir = (struct pe_temp_dir){ .lock = -1 };
	if (!path)
		return pe_error_nomem();
	pe_error_free(sweep(base));
	if (!mkdtemp(path))
		return pe_error_errno(errno, "cannot make a temporary directory %s", path);
	dir->path = realpath(path, NULL);
	if (!dir->path)
		return pe_error_errno(errno, "cannot resolve %s", path);
	dir->lock = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->lock < 0 || flock(dir->lock, LOCK_EX | LOCK_NB))
		return pe_error_errno(errno, "cannot lock %s", dir->path);
	return NULL;
}

void pe_temp_dir_deinit(struct pe_temp_dir *dir)
{
	if (dir->path)
		pe_error_free(pe_tree_remove(dir->path));
	/* Zeroed, it was never made. */
	if (dir->path && dir->lock >= 0)
		close(dir->lock);
	free(dir->path);
	*dir = (struct pe_temp_dir){ .lock = -1 };
}
