/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where Debian's packages come from: the mirrors that this machine uses, for the wanted release.
 */
#include "build/debian_private.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <string.h>

#define DEBIAN_KEYRING "/usr/share/keyrings/debian-archive-keyring.gpg"
#define DEFAULT_MIRROR "http://deb.debian.org/debian"

char *pe_debian_sources(const char *targets, const char *codename, const char *suite, bool all,
			const char *keyring)
{
	pe_auto_free char *copy = strdup(targets);
	pe_auto_strv struct pe_strv lines = { 0 };
	pe_auto_free char *option = keyring ? pe_format("[signed-by=%s] ", keyring) : strdup("");
	char *save = NULL;

	if (!copy || !option)
		return NULL;
	/* Lines of "ORIGIN|SITE|RELEASE|COMPONENT"; an origin that is not fetched yet is empty. */
	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *fields[4] = { "", "", "", "" };

		for (size_t i = 0; i < 4 && line; i++)
			fields[i] = strsep(&line, "|");
		if (!pe_starts_with(fields[2], codename) || !*fields[3] ||
		    (strcmp(fields[0], "Debian") && (*fields[0] || !strstr(fields[1], "debian"))))
			continue;

		const char *rest = fields[2] + strlen(codename); /* "-updates", "-security" */

		if (*rest && (!all || *rest != '-'))
			continue;
		for (size_t i = 0; i < 2; i++) {
			pe_auto_free char *text =
				pe_format("%s %s%s %s%s %s", i ? "deb-src" : "deb", option,
					  fields[1], suite, rest, fields[3]);

			if (text && !pe_strv_has(&lines, text) && !pe_strv_add(&lines, text))
				return NULL;
		}
	}

	bool found = lines.count > 0;

	for (size_t i = 0; !found && i < 2; i++)
		pe_strv_addf(&lines, "%s %s%s %s main", i ? "deb-src" : "deb", option,
			     DEFAULT_MIRROR, suite);
	pe_strv_add(&lines, "");
	return pe_strv_join(&lines, "\n");
}

static struct pe_error *os_codename(char **ret)
{
	pe_auto_free char *text = NULL;
	struct pe_error *err = pe_file_read("/etc/os-release", &text, NULL);
	char *at = err ? NULL : strstr(text, "VERSION_CODENAME=");

	if (err)
		return err;
	if (!at)
		return pe_error_new(PE_ERR_UNSUPPORTED,
				    "/etc/os-release names no VERSION_CODENAME: is this Debian?");
	at += strlen("VERSION_CODENAME=");
	at += *at == '"';
	*ret = strndup(at, strcspn(at, "\"\n"));
	return *ret ? NULL : pe_error_nomem();
}

/* Where a sources list gets the release itself from; owned by the caller. */
static char *mirror_of(const char *sources, const char *suite)
{
	pe_auto_free char *word = pe_format(" %s ", suite);
	const char *end = word ? strstr(sources, word) : NULL;
	const char *start = end;

	while (start && start > sources && start[-1] != ' ')
		start--;
	return start ? strndup(start, (size_t)(end - start)) : strdup(DEFAULT_MIRROR);
}

static struct pe_error *lists_update(struct preparation *p, const char *targets, bool all)
{
	pe_auto_free char *codename = NULL, *sources = NULL;
	pe_auto_free char *path = pe_format("%s/apt/sources.list", p->dir);
	struct pe_error *err = path ? os_codename(&codename) : pe_error_nomem();

	if (err)
		return err;

	const char *suite = p->options->suite ? p->options->suite : codename;

	sources = pe_debian_sources(targets, codename, suite, all,
				    pe_file_exists(DEBIAN_KEYRING) ? DEBIAN_KEYRING : NULL);
	free(p->mirror);
	p->mirror = sources ? mirror_of(sources, suite) : NULL;
	if (!p->mirror)
		return pe_error_nomem();
	err = pe_file_write(path, sources, strlen(sources));
	return err ? err : debian_apt(p, ".", "update", "--error-on=any", NULL);
}

struct pe_error *debian_step_lists(struct preparation *p)
{
	pe_auto_free char *targets = NULL;
	pe_auto_free char *lists = pe_format("%s/apt/lists/partial", p->dir);
	pe_auto_free char *cache = pe_format("%s/apt/cache", p->dir);
	pe_auto_free char *archives = pe_format("%s/download/archives/partial", p->dir);
	struct pe_error *err = lists && cache && archives ? pe_dir_make(lists) : pe_error_nomem();

	if (!err)
		err = pe_dir_make(cache);
	if (!err)
		err = pe_dir_make(archives);
	if (!err)
		err = debian_output(p, ".",
				    "apt-get indextargets --format "
				    "$(ORIGIN)|$(SITE)|$(RELEASE)|$(COMPONENT) "
				    "'Created-By: Packages'",
				    &targets, NULL, NULL);
	if (!err)
		err = lists_update(p, targets ? targets : "", true);
	if (!err || !p->options->suite || pe_interrupted())
		return err;
	/* An old or coming release has no updates of its own. */
	pe_error_free(err);
	return lists_update(p, targets ? targets : "", false);
}
