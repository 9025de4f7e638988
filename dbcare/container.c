/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Containers; see container.h.
 *
 * The kernel knows no containers, only namespaces and cgroups; but every runtime names the cgroup
 * after the container: "/docker/ID", "…/docker-ID.scope", "…/libpod-ID.scope/container",
 * "…/cri-containerd-ID.scope", "/lxc.payload.NAME", and plain runc "/ID".
 */
#include "dbcare/container.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/cleanup.h"

enum { HEX_ID = 64 }; /* docker, podman, containerd, cri-o */

/*
 * Ours is the host's, or that of the container that we are in: the one of process 1. A service may
 * have a mount namespace of its own, so that our own is asked only when process 1 may not be.
 */
static bool same_file(pid_t pid, const char *name)
{
	char path[64];
	struct stat ours, theirs;

	snprintf(path, sizeof(path), "/proc/1/%s", name);
	if (stat(path, &ours) != 0) {
		snprintf(path, sizeof(path), "/proc/self/%s", name);
		if (stat(path, &ours) != 0)
			return true;
	}
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return stat(path, &theirs) != 0 ||
	       (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev);
}

bool dbc_is_contained(pid_t pid)
{
	return !same_file(pid, "ns/pid") || (!same_file(pid, "ns/mnt") && !same_file(pid, "root/"));
}

/* Cuts what runtimes put around the id of a container; in place. */
static char *strip(char *name)
{
	static const char *const prefixes[] = { "docker-", "libpod-", "cri-containerd-", "crio-",
						"lxc.payload." };
	char *scope = strstr(name, ".scope");

	if (scope && !scope[strlen(".scope")])
		*scope = '\0';
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++) {
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return name + strlen(prefixes[i]);
	}
	return name;
}

static bool is_hex_id(const char *name)
{
	size_t digits = 0;

	while (isxdigit((unsigned char)name[digits]))
		digits++;
	return digits == HEX_ID && !name[digits];
}

/* Groups that systemd or a runtime makes inside of, or instead of, a container's own. */
static bool is_ordinary(const char *name)
{
	static const char *const suffixes[] = { ".slice", ".service", ".mount", ".socket" };
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < sizeof(suffixes) / sizeof(*suffixes); i++) {
		if (strcmp(dot, suffixes[i]) == 0)
			return true;
	}
	return !*name || strcmp(name, "..") == 0 || strcmp(name, "init") == 0 ||
	       strncmp(name, "session-", 8) == 0;
}

/* The id in one path: a component that only a runtime writes, else the last one. */
static char *id_in_path(char *path)
{
	char *last = NULL, *save = NULL;

	for (char *part = strtok_r(path, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		if (is_ordinary(part))
			continue;

		char *name = strip(part);

		if (is_hex_id(name) || name != part)
			return strdup(name);
		last = name;
	}
	return last && *last ? strdup(last) : NULL;
}

char *dbc_container_id(const char *cgroup)
{
	pe_auto_free char *text = strdup(cgroup);
	char *save = NULL, *found = NULL;

	/* "ID:CONTROLLERS:PATH"; the hierarchies of cgroup v1 usually agree. */
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !found;
	     line = strtok_r(NULL, "\n", &save)) {
		char *path = strchr(line, ':');

		path = path ? strchr(path + 1, ':') : NULL;
		if (path)
			found = id_in_path(path + 1);
	}
	return found;
}
