/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cleanup.h"

bool pe_output_write(int fd, const void *bytes, size_t size)
{
	const uint8_t *at = bytes;

	while (size) {
		ssize_t n = write(fd, at, size);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			at += n;
			size -= (size_t)n;
		}
	}
	return true;
}

static struct pe_error *write_through(const char *path, const void *bytes, size_t size)
{
	pe_auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && pe_output_write(fd, bytes, size)
		       ? NULL
		       : pe_error_errno(errno, "cannot write %s", path);
}

struct pe_error *pe_output_place(const char *path, const void *bytes, size_t size, char **place)
{
	struct stat st;
	bool there = stat(path, &st) == 0;

	*place = NULL;
	if (there && !S_ISREG(st.st_mode))
		return write_through(path, bytes, size);
	/* Where a link leads that leads to nothing yet, only its file tells. */
	if (!there && lstat(path, &st) == 0) {
		int made = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

		if (made < 0)
			return pe_error_errno(errno, "cannot write %s", path);
		close(made);
	}
	*place = realpath(path, NULL);
	if (!*place)
		*place = strdup(path);
	return *place ? NULL : pe_error_nomem();
}
