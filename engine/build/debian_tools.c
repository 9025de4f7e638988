/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Running Debian's tools, their output in the target's log; see build/debian.h. */
#include "build/debian_private.h"
#include "build/files.h"
#include "build/run.h"
#include "build/units.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct pe_error *debian_tool_run(struct preparation *p, const char *cwd, struct pe_strv *argv)
{
	pe_auto_free char *dir = pe_format("%s/%s", p->dir, cwd);
	pe_auto_free char *command = pe_strv_join(argv, " ");
	pe_auto_file FILE *log = fopen(p->log, "ae");
	/* On the machine itself mounts are kept to the tool too: debootstrap leaves some. */
	const struct pe_tree outside = { 0 };
	struct pe_run run = { .argv = argv, .cwd = dir, .env = &p->env, .log = p->log };

	if (p->tree.path)
		run.tree = p->inside ? &p->tree : &outside;

	if (!dir || !command)
		return pe_error_nomem();
	if (!log)
		return pe_error_errno(errno, "cannot write %s", p->log);
	fprintf(log, "+ %s\n", command);
	fflush(log);

	struct pe_error *err = pe_run(&run);

	if (err || pe_run_succeeded(&run))
		return err;

	pe_auto_free char *text = NULL;
	char how[64];

	err = pe_file_read(p->log, &text, NULL);
	if (err)
		return err;
	const char *tail = pe_text_tail(text, 15);

	/* Nothing of the step before. */
	for (const char *next; (next = strstr(tail, "\n+ "));)
		tail = next + 1;
	return pe_error_new(PE_ERR_COMPILE, "%s failed (%s); the end of %s:\n%s", argv->items[0],
			    pe_run_how(&run, how), p->log, tail);
}

struct pe_error *debian_tool(struct preparation *p, const char *cwd, ...)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = true;
	va_list ap;

	va_start(ap, cwd);
	for (const char *word; (word = va_arg(ap, const char *));)
		ok = ok && pe_strv_add(&argv, word);
	va_end(ap);
	return ok ? debian_tool_run(p, cwd, &argv) : pe_error_nomem();
}

struct pe_error *debian_output(struct preparation *p, const char *cwd, const char *command,
			       char **out, char **err_out, bool *ok)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_free char *dir = pe_format("%s/%s", p->dir, cwd);
	pe_auto_run struct pe_run run = {
		.argv = &argv,
		.cwd = dir,
		.env = &p->env,
		.tree = p->inside ? &p->tree : NULL,
	};
	struct pe_error *err = pe_split_command(command, &argv);

	if (!err && !dir)
		err = pe_error_nomem();
	if (!err)
		err = pe_run(&run);
	if (err)
		return err;
	if (out)
		*out = pe_steal(run.out);
	if (err_out)
		*err_out = pe_steal(run.err);
	if (ok)
		*ok = pe_run_succeeded(&run);
	return NULL;
}

struct pe_error *debian_apt(struct preparation *p, const char *cwd, ...)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	bool ok = pe_strv_add(&argv, "apt-get") && pe_strv_add(&argv, "-q") &&
		  pe_strv_addf(&argv, "-oDir::Etc::sourcelist=%s/apt/sources.list", p->dir) &&
		  pe_strv_add(&argv, "-oDir::Etc::sourceparts=/nonexistent") &&
		  pe_strv_addf(&argv, "-oDir::State::lists=%s/apt/lists", p->dir) &&
		  pe_strv_addf(&argv, "-oDir::Cache=%s/apt/cache", p->dir) &&
		  /* Kept when a preparation is begun again. */
		  pe_strv_addf(&argv, "-oDir::Cache::archives=%s/download/archives", p->dir) &&
		  pe_strv_add(&argv, "-oAcquire::Languages=none") &&
		  pe_strv_add(&argv, "-oAPT::Sandbox::User=root") &&
		  pe_strv_add(&argv, "-oDpkg::Use-Pty=0");
	va_list ap;

	va_start(ap, cwd);
	for (const char *word; (word = va_arg(ap, const char *));)
		ok = ok && pe_strv_add(&argv, word);
	va_end(ap);
	return ok ? debian_tool_run(p, cwd, &argv) : pe_error_nomem();
}
