/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files that are whole or not there, in a folder that one process has at a time. */
#include "agent/repo/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "engine/cleanup.h"

/* Not a name that percent-encoding can give: those never begin with a dot. */
#define TEMPORARY ".new"

struct pe_error *repo_store_open(struct repo_store *store, const char *path)
{
	store->path = path;
	store->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->dir < 0)
		return pe_error_errno(errno, "cannot open folder %s", path);
	if (!flock(store->dir, LOCK_EX | LOCK_NB))
		return NULL;

	int reason = errno;

	repo_store_close(store);
	if (reason == EWOULDBLOCK)
		return pe_error_new(PE_ERR_BUSY, "another process works in %s", path);
	return pe_error_errno(reason, "cannot lock %s", path);
}

void repo_store_close(struct repo_store *store)
{
	if (store->dir >= 0)
		close(store->dir);
	store->dir = -1;
}

struct pe_error *repo_store_read(struct repo_store *store, const char *name, size_t max,
				 char **bytes, size_t *size)
{
	pe_auto_fd int fd = openat(store->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	*bytes = NULL;
	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0 || fstat(fd, &st))
		return pe_error_errno(errno, "cannot open %s/%s", store->path, name);
	if (!S_ISREG(st.st_mode) || (size_t)st.st_size > max)
		return pe_error_new(PE_ERR_FORMAT, "%s/%s is no file of at most %zu bytes",
				    store->path, name, max);

	pe_auto_free char *text = malloc((size_t)st.st_size + 1);
	size_t have = 0;
	ssize_t n;

	if (!text)
		return pe_error_nomem();
	while (have < (size_t)st.st_size &&
	       (n = read(fd, text + have, (size_t)st.st_size - have)) != 0) {
		if (n < 0)
			return pe_error_errno(errno, "cannot read %s/%s", store->path, name);
		have += (size_t)n;
	}
	text[have] = 0;
	*size = have;
	*bytes = pe_steal(text);
	return NULL;
}

bool repo_write_all(int fd, const void *bytes, size_t size)
{
	const char *p = bytes;

	while (size) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		p += n;
		size -= (size_t)n;
	}
	return true;
}

struct pe_error *repo_write_at(int dir, const char *path, const char *name, const void *bytes,
			       size_t size)
{
	pe_auto_fd int fd =
		openat(dir, TEMPORARY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

	if (fd < 0)
		return pe_error_errno(errno, "cannot write in %s", path);
	if (repo_write_all(fd, bytes, size) && !fsync(fd) && !renameat(dir, TEMPORARY, dir, name) &&
	    !fsync(dir))
		return NULL;

	int reason = errno;

	unlinkat(dir, TEMPORARY, 0);
	return pe_error_errno(reason, "cannot write %s/%s", path, name);
}

struct pe_error *repo_store_write(struct repo_store *store, const char *name, const void *bytes,
				  size_t size)
{
	return repo_write_at(store->dir, store->path, name, bytes, size);
}

struct pe_error *repo_store_remove(struct repo_store *store, const char *name)
{
	if (!unlinkat(store->dir, name, 0) || errno == ENOENT)
		return NULL;
	return pe_error_errno(errno, "cannot remove %s/%s", store->path, name);
}
