/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all command lines share: one way to print errors, tables, JSON and progress.
 */
#ifndef ENGINE_CLI_H
#define ENGINE_CLI_H

#include <jansson.h>
#include <stddef.h>

#include "engine/error.h"

/*
 * The first call of main(). Streams that were closed are occupied, so that no file of ours becomes
 * standard output; a closed pipe and a file size limit become errors of the write instead of
 * killing us in the middle of something; and when at the end what was printed could not be
 * written, that is said on stderr and the exit status is 1 instead of 0.
 */
void pe_cli_init(const char *program);

/*
 * Prints @err ("PROGRAM: text" and, on a line of its own, advice) to stderr, or with @json
 * {"error":{"code":NAME,"message":TEXT,"exit":N}} to stdout; frees it; returns the exit status.
 * NULL is no error: prints nothing, 0.
 */
int pe_cli_fail(const char *program, struct pe_error *err, bool json);

/* For --quiet: nothing that is printed to stdout from now on is seen. Errors go to stderr. */
void pe_cli_silence(void);

/* Prints and frees @root on stdout, one line, sorted by insertion. */
void pe_cli_json(json_t *root);

/*
 * A table by libsmartcols: @titles ends with NULL; a title that begins with '>' is right-aligned,
 * one that begins with '~' takes several lines where the terminal is too narrow for one.
 */
struct pe_table;
struct pe_table *pe_table_new(const char *const *titles);
/* One row; as many strings as titles; NULL prints as "-". */
void pe_table_row(struct pe_table *table, const char *const *cells);
void pe_table_print_and_free(struct pe_table *table);

/*
 * Progress of something long, on stderr: a line that is rewritten on a terminal, plain lines
 * otherwise; silent with --json or --quiet (enabled false).
 */
struct pe_progress {
	bool enabled;
	bool terminal;
	bool open; /* an unfinished line stands on the terminal */
};
void pe_progress_init(struct pe_progress *progress, bool enabled);
void pe_progress_step(struct pe_progress *progress, const char *fmt, ...) pe_printf(2, 3);
void pe_progress_done(struct pe_progress *progress);

/* "12.3 KiB", "840 µs", "1.25 ms" into a caller's buffer of at least 32 bytes; return it. */
const char *pe_format_bytes(unsigned long long bytes, char *buf);
const char *pe_format_us(unsigned long long us, char *buf);

#endif
