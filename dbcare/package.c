/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which Debian package owns the program's file, from dpkg's own plain files in the server's mount
 * namespace (so that a container is asked about its own packages, without running anything in it).
 */
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "dbcare/server.h"
#include "engine/cleanup.h"

static bool file_has_line(const char *path, const char *wanted)
{
	pe_auto_file FILE *in = fopen(path, "re");
	pe_auto_free char *line = NULL;
	size_t room = 0;

	if (!in)
		return false;
	while (getline(&line, &room, in) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, wanted) == 0)
			return true;
	}
	return false;
}

/* The name in .../info/NAME.list or NAME:ARCH.list. */
static char *package_name(const char *list)
{
	const char *base = strrchr(list, '/');

	base = base ? base + 1 : list;

	char *name = strdup(base);

	if (name) {
		name[strlen(name) - strlen(".list")] = '\0';
		name[strcspn(name, ":")] = '\0';
	}
	return name;
}

static char *package_version(const char *status, const char *package)
{
	pe_auto_file FILE *in = fopen(status, "re");
	pe_auto_free char *line = NULL;
	size_t room = 0;
	bool here = false;

	if (!in)
		return NULL;
	while (getline(&line, &room, in) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "Package: ", 9) == 0)
			here = strcmp(line + 9, package) == 0;
		else if (here && strncmp(line, "Version: ", 9) == 0)
			return strdup(line + 9);
	}
	return NULL;
}

char *dbc_package_of(const struct dbc_server *server)
{
	static const char *const families[] = { "mariadb", "mysql", "percona" };
	char path[256];
	char *text = NULL;

	for (size_t f = 0; f < sizeof(families) / sizeof(*families) && !text; f++) {
		glob_t lists;

		snprintf(path, sizeof(path), "/proc/%d/root/var/lib/dpkg/info/%s*.list",
			 (int)server->pid, families[f]);
		if (glob(path, 0, NULL, &lists) != 0)
			continue;
		for (size_t i = 0; i < lists.gl_pathc && !text; i++) {
			if (!file_has_line(lists.gl_pathv[i], server->exe))
				continue;
			snprintf(path, sizeof(path), "/proc/%d/root/var/lib/dpkg/status",
				 (int)server->pid);
			pe_auto_free char *name = package_name(lists.gl_pathv[i]);
			pe_auto_free char *version = name ? package_version(path, name) : NULL;
			if (!version || asprintf(&text, "%s %s", name, version) < 0)
				text = NULL;
		}
		globfree(&lists);
	}
	return text;
}
