/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Option files, checked and joined; see options.h. */
#include "dbcare/options.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "engine/cleanup.h"

enum { INCLUDE_DEPTH_MAX = 10 }; /* as MariaDB has it */

struct joiner {
	FILE *out;   /* the joined text */
	FILE *notes; /* files left out */
	int root;    /* below which paths are looked up; -1: our own root */
};

static struct pe_error *join_file(struct joiner *joiner, const char *path, bool must, int depth);

/* MariaDB's own rule: what others than owner and group may write is not believed. */
static struct pe_error *check_safe(const char *path, int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return pe_error_errno(errno, "cannot examine option file %s", path);
	if (!S_ISREG(st.st_mode))
		return pe_error_new(PE_ERR_PERMISSION, "option file %s is no regular file", path);
	if (st.st_mode & S_IWOTH)
		return pe_error_new(PE_ERR_PERMISSION,
				    "option file %s is writable by everybody (mode %04o), so it "
				    "is not read; chmod o-w it",
				    path, st.st_mode & 07777);
	return NULL;
}

/* Below another root no link and no ".." leads out of it. */
static int open_path(const struct joiner *joiner, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_RDONLY | O_CLOEXEC | O_NOCTTY),
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

	if (joiner->root < 0)
		return open(path, (int)how.flags);
	return (int)syscall(SYS_openat2, joiner->root, path, &how, sizeof(how));
}

static int name_compare(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_cnf(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot && strcmp(dot, ".cnf") == 0;
}

static struct pe_error *join_directory(struct joiner *joiner, const char *path, int depth)
{
	struct dirent **entries;
	struct pe_error *err = NULL;
	pe_auto_fd int dir = open_path(joiner, path, O_DIRECTORY);
	int count = dir < 0 ? -1 : scandirat(dir, ".", &entries, is_cnf, name_compare);

	for (int i = 0; i < count; i++) {
		char file[PATH_MAX];

		snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
		if (!err)
			err = join_file(joiner, file, false, depth);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return err;
}

/* "!include PATH" and "!includedir PATH"; *path points behind the word, or is NULL. */
static bool is_directive(char *line, const char *word, char **path)
{
	size_t size = strlen(word);

	if (strncmp(line, word, size) != 0 || (line[size] != ' ' && line[size] != '\t'))
		return false;
	*path = line + size + strspn(line + size, " \t");

	size_t end = strlen(*path);

	while (end && strchr(" \t\r", (*path)[end - 1]))
		(*path)[--end] = '\0';
	return true;
}

/* "NAME" or "NAME = VALUE", as option files have it: "-" and "_" are the same. */
static bool is_option(const char *line, const char *name)
{
	size_t size = strlen(name);

	return strncmp(line, name, size) == 0 && (!line[size] || strchr(" \t=", line[size]));
}

/*
 * Of a container's files only who to be: whoever owns the container could have the client library
 * load a plugin, and more, into a process of the host otherwise.
 */
static bool is_wanted(const struct joiner *joiner, const char *line)
{
	return joiner->root < 0 || *line == '[' || is_option(line, "user") ||
	       is_option(line, "password");
}

static struct pe_error *join_lines(struct joiner *joiner, FILE *in, int depth)
{
	pe_auto_free char *line = NULL;
	size_t room = 0;
	struct pe_error *err = NULL;

	while (!err && getline(&line, &room, in) > 0) {
		char *text = line + strspn(line, " \t"), *path;

		text[strcspn(text, "\n")] = '\0';
		if (is_directive(text, "!includedir", &path))
			err = join_directory(joiner, path, depth + 1);
		else if (is_directive(text, "!include", &path))
			err = join_file(joiner, path, false, depth + 1);
		else if (is_wanted(joiner, text))
			fprintf(joiner->out, "%s\n", text);
	}
	return err;
}

/* An error only when the file @must be read; otherwise an unsafe one becomes a note. */
static struct pe_error *join_file(struct joiner *joiner, const char *path, bool must, int depth)
{
	if (depth > INCLUDE_DEPTH_MAX)
		return NULL;

	int fd = open_path(joiner, path, O_NONBLOCK);

	if (fd < 0) {
		if (must)
			return pe_error_errno(errno, "cannot read option file %s", path);
		return NULL;
	}

	struct pe_error *err = check_safe(path, fd);

	if (err) {
		close(fd);
		if (must)
			return err;
		pe_auto_free char *text = pe_error_text(err);
		fprintf(joiner->notes, "%s\n", text ? text : path);
		pe_error_free(err);
		return NULL;
	}

	pe_auto_file FILE *in = fdopen(fd, "r");

	if (!in) {
		close(fd);
		return pe_error_nomem();
	}
	return join_lines(joiner, in, depth);
}

static struct pe_error *join_usual(struct joiner *joiner)
{
	char path[PATH_MAX];
	bool ours = joiner->root < 0;
	const char *mysql_home = ours ? getenv("MYSQL_HOME") : NULL;
	const char *home = ours ? getenv("HOME") : "/root";
	struct pe_error *err = join_file(joiner, "/etc/my.cnf", false, 0);

	if (!err)
		err = join_file(joiner, "/etc/mysql/my.cnf", false, 0);
	if (!err && mysql_home) {
		snprintf(path, sizeof(path), "%s/my.cnf", mysql_home);
		err = join_file(joiner, path, false, 0);
	}
	if (!err && home) {
		snprintf(path, sizeof(path), "%s/.my.cnf", home);
		err = join_file(joiner, path, false, 0);
	}
	return err;
}

static struct pe_error *files_read(const char *file, int root, struct dbc_option_files *ret)
{
	size_t size;

	*ret = (struct dbc_option_files){ .fd = -1 };
	pe_auto_fd int fd = memfd_create("dbcare-options", MFD_CLOEXEC);
	if (fd < 0)
		return pe_error_errno(errno, "cannot make a file in memory");

	struct joiner joiner = { .out = fdopen(dup(fd), "w"),
				 .notes = open_memstream(&ret->notes, &size),
				 .root = root };

	if (!joiner.out || !joiner.notes) {
		if (joiner.out)
			fclose(joiner.out);
		if (joiner.notes)
			fclose(joiner.notes);
		dbc_option_files_deinit(ret);
		return pe_error_nomem();
	}

	struct pe_error *err = file ? join_file(&joiner, file, true, 0) : join_usual(&joiner);

	fclose(joiner.out);
	fclose(joiner.notes);
	if (err) {
		dbc_option_files_deinit(ret);
		return err;
	}
	if (!*ret->notes) {
		free(ret->notes);
		ret->notes = NULL;
	}
	ret->fd = fd;
	fd = -1;
	return NULL;
}

struct pe_error *dbc_option_files_read(const char *file, struct dbc_option_files *ret)
{
	return files_read(file, -1, ret);
}

struct pe_error *dbc_option_files_below(const char *root, struct dbc_option_files *ret)
{
	pe_auto_fd int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);

	*ret = (struct dbc_option_files){ .fd = -1 };
	if (fd < 0)
		return pe_error_errno(errno, "cannot look into %s", root);
	return files_read(NULL, fd, ret);
}

void dbc_option_files_deinit(struct dbc_option_files *files)
{
	if (files->fd >= 0)
		close(files->fd);
	free(files->notes);
	*files = (struct dbc_option_files){ .fd = -1 };
}
