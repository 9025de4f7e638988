/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of preparing a Debian target share; see build/debian.h. */
#ifndef BUILD_DEBIAN_PRIVATE_H
#define BUILD_DEBIAN_PRIVATE_H

#include "build/debian.h"
#include "build/tree.h"

struct preparation {
	const struct pe_debian_recipe *recipe;
	const struct pe_debian_options *options;
	char *dir; /* of the target in the store */
	char *log;
	struct pe_strv env;
	struct pe_tree tree; /* that it is compiled in; its path is NULL without options->suite */
	bool inside;	     /* tools run in the tree now */
	char *mirror;	     /* where the suite's packages come from */
	char *epoch;
	char *note;
};

/* Runs a tool in @cwd (of the target's directory) with its output in the log. */
struct pe_error *debian_tool_run(struct preparation *p, const char *cwd,
				 struct pe_strv *argv) pe_must_check;
/* The same with its words as arguments, NULL at the end. */
struct pe_error *debian_tool(struct preparation *p, const char *cwd, ...) pe_must_check;
/* What a tool prints (each of the results may be NULL); its exit status is no error. */
struct pe_error *debian_output(struct preparation *p, const char *cwd, const char *command,
			       char **out, char **err_out, bool *ok) pe_must_check;
/* apt-get on our own sources list, package lists and cache. */
struct pe_error *debian_apt(struct preparation *p, const char *cwd, ...) pe_must_check;

/* Downloads source and packages from the archive's pool, without its package lists. */
struct pe_error *debian_pool_download(struct preparation *p) pe_must_check;

/* Steps of the preparation that have a file of their own. */
struct pe_error *debian_step_lists(struct preparation *p) pe_must_check;
struct pe_error *debian_step_tree(struct preparation *p) pe_must_check;
struct pe_error *debian_step_tree_install(struct preparation *p) pe_must_check;

#endif
