/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making the tree that a package of another Debian release is compiled in: debootstrap, then that
 * release's own apt installs what the source needs. It grows as tree.partial and gets its name
 * when it is whole; what an interrupted preparation left is made anew (packages that were
 * downloaded are kept).
 */
#include "build/debian_private.h"
#include "build/files.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define SCRIPTS "/usr/share/debootstrap/scripts"

static char *path_in(const struct preparation *p, const char *name)
{
	return pe_format("%s/%s", p->dir, name);
}

/* Whether the finished tree of an earlier attempt is of this suite. */
static bool tree_is_there(const struct preparation *p)
{
	pe_auto_free char *tree = path_in(p, "tree");
	pe_auto_free char *path = path_in(p, "tree/etc/care-build-suite");
	pe_auto_free char *suite = NULL;

	if (!tree || !path || !pe_file_exists(tree))
		return false;
	pe_error_free(pe_file_read(path, &suite, NULL));
	return suite && !strcmp(suite, p->options->suite);
}

static struct pe_error *write_in(const struct preparation *p, const char *name, const char *text,
				 mode_t mode)
{
	pe_auto_free char *path = pe_format("%s/%s", p->tree.path, name);
	struct pe_error *err = path ? pe_file_write(path, text, strlen(text)) : pe_error_nomem();

	if (!err && chmod(path, mode))
		err = pe_error_errno(errno, "cannot set the mode of %s", path);
	return err;
}

/* No service starts in there, no documentation, and no waiting for the disk after each file. */
static struct pe_error *tree_configure(const struct preparation *p)
{
	static const struct {
		const char *path, *text;
		mode_t mode;
	} files[] = {
		{ "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0755 },
		{ "etc/dpkg/dpkg.cfg.d/care-build",
		  "force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
		  "path-exclude=/usr/share/locale/*\n",
		  0644 },
	};
	struct pe_error *err = write_in(p, "etc/care-build-suite", p->options->suite, 0644);

	for (size_t i = 0; !err && i < sizeof(files) / sizeof(*files); i++)
		err = write_in(p, files[i].path, files[i].text, files[i].mode);
	return err;
}

struct pe_error *debian_step_tree(struct preparation *p)
{
	pe_auto_free char *tree = path_in(p, "tree");
	pe_auto_free char *partial = path_in(p, "tree.partial");
	pe_auto_free char *archives = path_in(p, "download/archives");
	pe_auto_free char *script = pe_format("%s/%s", SCRIPTS, p->options->suite);
	pe_auto_strv struct pe_strv argv = { 0 };
	bool done = tree_is_there(p);
	struct pe_error *err = NULL;

	if (!tree || !partial || !archives || !script)
		return pe_error_nomem();
	err = pe_tree_remove(partial);
	if (!err && !done)
		err = pe_tree_remove(tree);
	if (err || done)
		return err;
	free((char *)p->tree.path);
	p->tree.path = pe_steal(partial);
	if (!pe_strv_add(&argv, "debootstrap") || !pe_strv_add(&argv, "--variant=minbase") ||
	    !pe_strv_addf(&argv, "--cache-dir=%s", archives) ||
	    !pe_strv_add(&argv, p->options->suite) || !pe_strv_add(&argv, p->tree.path) ||
	    !pe_strv_add(&argv, p->mirror) ||
	    /* A release that is younger than this debootstrap is made as the newest it knows. */
	    (!pe_file_exists(script) && !pe_strv_add(&argv, SCRIPTS "/sid")))
		return pe_error_nomem();
	err = debian_tool_run(p, ".", &argv);
	return err ? err : tree_configure(p);
}

struct pe_error *debian_step_tree_install(struct preparation *p)
{
	pe_auto_free char *tree = path_in(p, "tree");
	struct pe_error *err = NULL;

	if (!tree)
		return pe_error_nomem();
	if (!strcmp(p->tree.path, tree))
		return NULL; /* it was there */
	p->inside = true;
	err = debian_apt(p, ".", "install", "-y", "--no-install-recommends", "build-essential",
			 NULL);
	if (!err)
		err = debian_apt(p, ".", "build-dep", "-y", "--no-install-recommends", "./src",
				 NULL);
	p->inside = false;
	if (err)
		return err;
	if (rename(p->tree.path, tree))
		return pe_error_errno(errno, "cannot rename %s", p->tree.path);
	free((char *)p->tree.path);
	p->tree.path = pe_steal(tree);
	return NULL;
}
