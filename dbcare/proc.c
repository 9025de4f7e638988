/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small reads from /proc. */
#include "dbcare/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/cleanup.h"

char *dbc_proc_read(pid_t pid, const char *name, size_t *size)
{
	char path[64 + NAME_MAX];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;

	size_t room = 4096, used = 0;
	char *text = malloc(room);

	while (text) {
		ssize_t got = read(fd, text + used, room - used - 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			if (got < 0)
				break;
			text[used] = '\0';
			if (size)
				*size = used;
			return text;
		}
		used += (size_t)got;
		if (used + 1 < room)
			continue;
		char *grown = realloc(text, room *= 2);
		if (!grown)
			break;
		text = grown;
	}
	int saved = errno;
	free(text);
	errno = saved;
	return NULL;
}

char *dbc_proc_link(pid_t pid, const char *name)
{
	char path[64 + NAME_MAX], target[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	ssize_t size = readlink(path, target, sizeof(target) - 1);
	if (size < 0)
		return NULL;
	target[size] = '\0';
	return strdup(target);
}

char *dbc_cmdline_option(const char *cmdline, size_t size, const char *name)
{
	size_t length = strlen(name);
	const char *end = cmdline + size;

	for (const char *word = cmdline; word < end;
	     word += strnlen(word, (size_t)(end - word)) + 1) {
		if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, name, length) != 0)
			continue;

		const char *rest = word + 2 + length;

		if (*rest == '=')
			return strdup(rest + 1);
		if (*rest == '\0' && rest + 1 < end)
			return strdup(rest + 1);
	}
	return NULL;
}

pid_t dbc_status_nspid(const char *status)
{
	const char *line = strstr(status, "\nNSpid:");

	if (!line)
		return 0;
	line += strlen("\nNSpid:");

	long id = 0;
	char *end;

	for (; *line && *line != '\n'; line = end) {
		long value = strtol(line, &end, 10);

		if (end == line)
			break;
		id = value;
	}
	return (pid_t)id;
}

/*
 * Signal 0 goes to a thread only if it is one of that process; then the right to send it is looked
 * at (kernel/signal.c, do_send_specific). Its EPERM is also that of filters, so ours is tried
 * first.
 */
bool dbc_is_thread_of(pid_t tid, pid_t pid)
{
	char path[64];

	if (syscall(SYS_tgkill, getpid(), gettid(), 0) == 0)
		return syscall(SYS_tgkill, pid, tid, 0) == 0 || errno == EPERM;
	snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)pid, (int)tid);
	return access(path, F_OK) == 0;
}
