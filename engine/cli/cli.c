/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors, tables, JSON and progress as every command line of ours prints them. */
#include "engine/cli.h"
#include "engine/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <libsmartcols.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void check_output(int status, void *program)
{
	bool lost = ferror(stdout) != 0;

	errno = 0;
	if (!fflush(stdout) && !lost)
		return;
	fprintf(stderr,
		"%s: cannot write to standard output%s%s: what was to be shown is lost, what "
		"was done stays done\n",
		(const char *)program, errno ? ": " : "", errno ? strerror(errno) : "");
	if (!status)
		_exit(1);
}

void pe_cli_init(const char *program)
{
	/* In the wrong direction, so that using them fails as it would have. */
	static const int modes[] = { O_WRONLY, O_RDONLY, O_RDONLY };

	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) < 0)
			_exit(1);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	on_exit(check_output, (void *)program);
}

int pe_cli_fail(const char *program, struct pe_error *err, bool json)
{
	if (!err)
		return 0;

	pe_auto_free char *text = pe_error_text(err);
	enum pe_code code = err->code;
	int status = pe_code_exit_status(code);
	/* Root lacks what it lacks for another reason. */
	bool hopeless = code == PE_ERR_PERMISSION && !geteuid();
	const char *advice = hopeless ? "" : pe_code_advice(code);

	if (json) {
		pe_cli_json(json_pack("{s:{s:s, s:s, s:s, s:i}}", "error", "code",
				      pe_code_name(code), "message", text ? text : "", "advice",
				      advice, "exit", status));
	} else {
		fprintf(stderr, "%s: %s\n", program, text ? text : pe_code_name(code));
		if (*advice)
			fprintf(stderr, "  → %s\n", advice);
	}
	pe_error_free(err);
	return status;
}

void pe_cli_silence(void)
{
	pe_auto_fd int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	fflush(stdout);
	if (null >= 0)
		dup2(null, STDOUT_FILENO);
}

void pe_cli_json(json_t *root)
{
	json_dumpf(root, stdout, JSON_PRESERVE_ORDER | JSON_COMPACT);
	putchar('\n');
	json_decref(root);
}

struct pe_table {
	struct libscols_table *table;
	size_t columns;
};

struct pe_table *pe_table_new(const char *const *titles)
{
	struct pe_table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	scols_init_debug(0);
	/* Without UTF-8 libsmartcols escapes our units. */
	setlocale(LC_CTYPE, "");
	if (strcmp(nl_langinfo(CODESET), "UTF-8"))
		setlocale(LC_CTYPE, "C.UTF-8");
	table->table = scols_new_table();
	for (; titles[table->columns]; table->columns++) {
		const char *title = titles[table->columns];
		int flags = *title == '>' ? SCOLS_FL_RIGHT : *title == '~' ? SCOLS_FL_WRAP : 0;
		/* Of the terminal's width: what such columns share when there is not enough. */
		double hint = flags == SCOLS_FL_WRAP ? 0.2 : 0;

		scols_table_new_column(table->table, title + (flags != 0), hint, flags);
	}
	return table;
}

void pe_table_row(struct pe_table *table, const char *const *cells)
{
	if (!table)
		return;

	struct libscols_line *line = scols_table_new_line(table->table, NULL);

	for (size_t i = 0; line && i < table->columns; i++)
		scols_line_set_data(line, i, cells[i] ? cells[i] : "-");
}

void pe_table_print_and_free(struct pe_table *table)
{
	if (!table)
		return;
	scols_print_table(table->table);
	scols_unref_table(table->table);
	free(table);
}

void pe_progress_init(struct pe_progress *progress, bool enabled)
{
	*progress = (struct pe_progress){ .enabled = enabled, .terminal = isatty(STDERR_FILENO) };
}

void pe_progress_step(struct pe_progress *progress, const char *fmt, ...)
{
	va_list ap;

	if (!progress->enabled)
		return;
	if (progress->terminal)
		fputs("\r\033[K", stderr);
	fputs("  ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (!progress->terminal)
		fputc('\n', stderr);
	fflush(stderr);
	progress->open = progress->terminal;
}

void pe_progress_done(struct pe_progress *progress)
{
	if (progress->open)
		fputs("\r\033[K", stderr);
	progress->open = false;
}

const char *pe_format_bytes(unsigned long long bytes, char *buf)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < sizeof(units) / sizeof(*units); unit++)
		value /= 1024;
	snprintf(buf, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return buf;
}

const char *pe_format_us(unsigned long long us, char *buf)
{
	if (us < 1000)
		snprintf(buf, 32, "%llu µs", us);
	else if (us < 1000000)
		snprintf(buf, 32, "%.2f ms", (double)us / 1e3);
	else
		snprintf(buf, 32, "%.2f s", (double)us / 1e6);
	return buf;
}
