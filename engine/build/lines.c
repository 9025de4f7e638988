/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * #line directives that keep line numbers; see build/lines.h.
 *
 * A small scanner walks the new text once, just exact enough to know at the start of each line
 * whether it is inside something: comments, character and string literals (raw ones too), digit
 * separators, directives with continuation lines, the depth of parentheses (taken back at #else,
 * as each branch of a conditional may close the same one).
 */
#include "build/lines.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define NESTING_MAX 64

enum place {
	IN_CODE,
	IN_LINE_COMMENT,
	IN_COMMENT,
	IN_STRING,
	IN_CHAR,
	IN_RAW,
};

struct scanner {
	const char *p, *end;
	enum place place;
	bool in_directive; /* until a newline that is not escaped */
	bool line_blank;   /* nothing but blanks on this line so far */
	int depth;	   /* of parentheses, outside directives */
	int saved[NESTING_MAX];
	int nesting; /* of #if */
	char raw_end[20];
	char before; /* the character before p, 0 at the start of a token's neighbourhood */
};

static bool starts(const struct scanner *s, const char *text)
{
	size_t n = strlen(text);

	return (size_t)(s->end - s->p) >= n && !memcmp(s->p, text, n);
}

/* Conditionals: each branch begins at the depth at which the #if stood. */
static void directive_begin(struct scanner *s)
{
	const char *p = s->p + 1;

	s->in_directive = true;
	while (p < s->end && (*p == ' ' || *p == '\t'))
		p++;

	size_t n = (size_t)(s->end - p);

	if (n >= 2 && !memcmp(p, "if", 2)) {
		if (s->nesting < NESTING_MAX)
			s->saved[s->nesting] = s->depth;
		s->nesting++;
	} else if (n >= 3 && !memcmp(p, "el", 2) && s->nesting) {
		if (s->nesting <= NESTING_MAX)
			s->depth = s->saved[s->nesting - 1];
	} else if (n >= 5 && !memcmp(p, "endif", 5) && s->nesting) {
		s->nesting--;
	}
}

/* At a quote: is it the start of R"delimiter( ? Notes how it ends. */
static bool raw_begin(struct scanner *s)
{
	const char *open = memchr(s->p, '(', (size_t)(s->end - s->p));
	size_t n = open ? (size_t)(open - s->p - 1) : 17;

	if (s->before != 'R' || n > 16)
		return false;
	snprintf(s->raw_end, sizeof(s->raw_end), ")%.*s\"", (int)n, s->p + 1);
	s->p = open;
	return true;
}

static void code_char(struct scanner *s)
{
	char c = *s->p;

	if (starts(s, "//")) {
		s->place = IN_LINE_COMMENT;
	} else if (starts(s, "/*")) {
		s->place = IN_COMMENT;
		s->p++;
	} else if (c == '"') {
		s->place = raw_begin(s) ? IN_RAW : IN_STRING;
	} else if (c == '\'' && !isxdigit((unsigned char)s->before)) {
		/* After a digit it separates digits: 1'000. */
		s->place = IN_CHAR;
	} else if (c == '#' && s->line_blank && !s->in_directive) {
		directive_begin(s);
	} else if (c == '(' && !s->in_directive) {
		s->depth++;
	} else if (c == ')' && !s->in_directive && s->depth) {
		s->depth--;
	}
}

/* Consumes one character that is no newline. */
static void scan_char(struct scanner *s)
{
	char c = *s->p;

	switch (s->place) {
	case IN_CODE:
		code_char(s);
		break;
	case IN_COMMENT:
		if (starts(s, "*/")) {
			s->place = IN_CODE;
			s->p++;
			c = ' ';
		}
		break;
	case IN_STRING:
	case IN_CHAR:
		if (c == '\\' && s->p + 1 < s->end && s->p[1] != '\n')
			s->p++;
		else if (c == (s->place == IN_STRING ? '"' : '\''))
			s->place = IN_CODE;
		break;
	case IN_RAW:
		if (starts(s, s->raw_end)) {
			s->place = IN_CODE;
			s->p += strlen(s->raw_end) - 1;
		}
		break;
	case IN_LINE_COMMENT:
		break;
	}
	/* A comment in front of '#' is blank too; anything else is not. */
	if (!isspace((unsigned char)c) && s->place != IN_COMMENT && s->place != IN_LINE_COMMENT)
		s->line_blank = false;
	if (c != '\r')
		s->before = c;
	s->p++;
}

/* Consumes the rest of the line with its newline; true when a directive may follow it. */
static bool scan_line(struct scanner *s)
{
	s->line_blank = true;
	s->before = 0;
	while (s->p < s->end && *s->p != '\n')
		scan_char(s);

	bool continued = s->before == '\\' && s->place != IN_RAW;

	if (s->p < s->end)
		s->p++;
	if (continued)
		return false;
	s->in_directive = false;
	/* An apostrophe in a skipped branch (#if 0 ... don't ...) ends with its line. */
	if (s->place == IN_LINE_COMMENT || s->place == IN_STRING || s->place == IN_CHAR)
		s->place = IN_CODE;
	if (s->place != IN_CODE)
		return false;

	const char *next = s->p;

	while (next < s->end && isspace((unsigned char)*next))
		next++;
	/* A column-0 brace ends a function: whatever unbalanced the count is over. */
	if (s->p < s->end && *s->p == '}')
		s->depth = 0;
	/* A parenthesis may belong to a macro's name on the line before. */
	return !s->depth && (next >= s->end || *next != '(');
}

/* First new line behind a hunk, and the old number of that line. */
static void hunk_after(const struct pe_lines_hunk *hunk, unsigned long *new_line,
		       unsigned long *old_line)
{
	*new_line = hunk->new_start + (hunk->new_count ? hunk->new_count : 1);
	*old_line = hunk->old_start + (hunk->old_count ? hunk->old_count : 1);
}

static void lines_write(FILE *out, struct scanner *s, const struct pe_lines_hunk *hunks,
			size_t count)
{
	unsigned long line = 1; /* of the new text: the one that begins at s->p */
	long shift = 0;		/* new number - number that the compiler will give it */
	size_t hunk = 0;	/* the last one whose end was passed is hunk - 1 */
	bool safe = true;	/* at the start of the file */
	long wanted = 0;	/* shift that keeps old numbers */

	while (s->p < s->end) {
		while (hunk < count) {
			unsigned long after, old;

			hunk_after(&hunks[hunk], &after, &old);
			if (after > line)
				break;
			wanted = (long)after - (long)old;
			hunk++;
		}
		if (safe && shift != wanted) {
			fprintf(out, "#line %ld\n", (long)line - wanted);
			shift = wanted;
		}

		const char *from = s->p;

		safe = scan_line(s);
		fwrite(from, 1, (size_t)(s->p - from), out);
		line++;
	}
}

struct pe_error *pe_lines_keep(const char *text, size_t size, const struct pe_lines_hunk *hunks,
			       size_t count, char **ret, size_t *ret_size)
{
	struct scanner s = { .p = text, .end = text + size };
	FILE *out = open_memstream(ret, ret_size);

	if (!out)
		return pe_error_nomem();
	lines_write(out, &s, hunks, count);
	fclose(out);
	return NULL;
}

static struct pe_error *hunks_parse(const char *text, struct pe_lines_hunk **ret, size_t *count)
{
	pe_auto_free struct pe_lines_hunk *hunks = NULL;
	size_t n = 0;

	for (const char *p = text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		struct pe_lines_hunk hunk = { .old_count = 1, .new_count = 1 };
		char *end;

		if (!pe_starts_with(p, "@@ -"))
			continue;
		hunk.old_start = strtoul(p + 4, &end, 10);
		if (*end == ',')
			hunk.old_count = strtoul(end + 1, &end, 10);
		if (!pe_starts_with(end, " +"))
			return pe_error_new(PE_ERR_INTERNAL, "diff wrote an unknown hunk: %.40s",
					    p);
		hunk.new_start = strtoul(end + 2, &end, 10);
		if (*end == ',')
			hunk.new_count = strtoul(end + 1, &end, 10);

		struct pe_lines_hunk *more = reallocarray(hunks, n + 1, sizeof(*more));

		if (!more)
			return pe_error_nomem();
		hunks = more;
		hunks[n++] = hunk;
	}
	*ret = pe_steal(hunks);
	*count = n;
	return NULL;
}

struct pe_error *pe_lines_diff(const char *old_path, const char *new_path,
			       struct pe_lines_hunk **ret, size_t *count)
{
	pe_auto_strv struct pe_strv argv = { 0 };
	pe_auto_run struct pe_run run = { .argv = &argv };

	*ret = NULL;
	*count = 0;
	if (!pe_strv_add(&argv, "diff") || !pe_strv_add(&argv, "--text") ||
	    !pe_strv_add(&argv, "--unified=0") || !pe_strv_add(&argv, old_path) ||
	    !pe_strv_add(&argv, new_path))
		return pe_error_nomem();

	struct pe_error *err = pe_run(&run);

	if (err || pe_run_succeeded(&run))
		return err;
	if (*run.err)
		return pe_error_new(PE_ERR_SYSTEM, "diff failed: %s", run.err);
	return hunks_parse(run.out, ret, count);
}
