/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files and trees as the builder needs them; see build/files.h. */
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"
#include "engine/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>

/* What cannot tell its size, such as a pipe. */
static struct pe_error *stream_read(int fd, const char *path, char **text, size_t *size)
{
	size_t memory_size = 0;
	ssize_t n;
	char buffer[65536];
	FILE *out = open_memstream(text, &memory_size);

	if (!out)
		return pe_error_nomem();
	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		fwrite(buffer, 1, (size_t)n, out);
	fclose(out);
	if (n < 0) {
		free(*text);
		return pe_error_errno(errno, "cannot read %s", path);
	}
	if (size)
		*size = memory_size;
	return NULL;
}

struct pe_error *pe_file_read(const char *path, char **text, size_t *size)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return pe_error_errno(errno, "cannot open %s", path);
	if (S_ISFIFO(st.st_mode))
		return stream_read(fd, path, text, size);
	if (!S_ISREG(st.st_mode))
		return pe_error_new(PE_ERR_FORMAT, "%s is not a regular file", path);

	pe_auto_free char *bytes = malloc((size_t)st.st_size + 1);
	size_t done = 0;

	if (!bytes)
		return pe_error_nomem();
	while (done < (size_t)st.st_size) {
		ssize_t n = read(fd, bytes + done, (size_t)st.st_size - done);

		if (n < 0)
			return pe_error_errno(errno, "cannot read %s", path);
		if (!n)
			break;
		done += (size_t)n;
	}
	bytes[done] = 0;
	if (size)
		*size = done;
	*text = pe_steal(bytes);
	return NULL;
}

struct pe_error *pe_file_write(const char *path, const void *bytes, size_t size)
{
	pe_auto_free char *place = NULL;
	struct pe_error *err = pe_output_place(path, bytes, size, &place);

	if (err || !place)
		return err;

	pe_auto_free char *temp = pe_format("%s.tmp.%d", place, getpid());

	if (!temp)
		return pe_error_nomem();

	pe_auto_fd int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return pe_error_errno(errno, "cannot create %s", path);
	if (!pe_output_write(fd, bytes, size) || rename(temp, place)) {
		int saved = errno;

		unlink(temp);
		return pe_error_errno(saved, "cannot write %s", path);
	}
	return NULL;
}

struct pe_error *pe_file_copy(const char *from, const char *to)
{
	pe_auto_free char *bytes = NULL;
	size_t size;
	struct pe_error *err = pe_file_read(from, &bytes, &size);

	return err ? err : pe_file_write(to, bytes, size);
}

bool pe_file_exists(const char *path)
{
	return !access(path, F_OK);
}

void pe_sha256_hex(const void *bytes, size_t size, char *hex)
{
	unsigned char digest[EVP_MAX_MD_SIZE] = { 0 };

	EVP_Digest(bytes, size, digest, NULL, EVP_sha256(), NULL);
	for (size_t i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

struct pe_error *pe_dir_make(const char *path)
{
	pe_auto_free char *copy = strdup(path);

	if (!copy)
		return pe_error_nomem();
	for (char *p = copy + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(copy, 0755) && errno != EEXIST)
			return pe_error_errno(errno, "cannot make directory %s", copy);
		*p = c;
		if (!c)
			return NULL;
	}
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

struct pe_error *pe_tree_remove(const char *path)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? NULL : pe_error_errno(errno, "cannot remove %s", path);
	if (nftw(path, remove_entry, 64, FTW_DEPTH | FTW_PHYS))
		return pe_error_errno(errno, "cannot remove %s", path);
	return NULL;
}

static int no_dots(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

struct pe_error *pe_dir_list(const char *path, struct pe_strv *ret)
{
	struct dirent **entries = NULL;
	int count = scandir(path, &entries, no_dots, by_bytes);
	bool ok = true;

	if (count < 0 && errno != ENOENT)
		return pe_error_errno(errno, "cannot read directory %s", path);
	for (int i = 0; i < count; i++) {
		ok = ok && pe_strv_add(ret, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return ok ? NULL : pe_error_nomem();
}
