/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Differences of two texts by tokens; see build/tokens.h.
 *
 * Each text is read into tokens as the preprocessor does it. diff(1) compares them, one a line.
 * What differs grows to whole lines: back and forth over equal tokens, up to a pair that begins a
 * line in both texts. Lines are taken from the new text there, and from the old one elsewhere.
 */
#include "build/tokens.h"
#include "build/files.h"
#include "build/lines.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <string.h>

/* Tokens that stand for something which is no text: no other token contains a '#' and more. */
static const char directive_end[] = "#end", macro_arguments[] = "#(";

struct token {
	const char *text; /* in the source, or one of the above */
	size_t size;
	const char *line; /* start of its line when it is the first there; else NULL */
};

struct tokens {
	struct token *items;
	size_t count, room;
	const char *last; /* end of the text when that begins a line; else NULL */
};

static void tokens_deinit(struct tokens *tokens)
{
	free(tokens->items);
}

#define auto_tokens __attribute__((cleanup(tokens_deinit)))

struct reader {
	const char *p, *end;
	const char *line; /* start of the line when nothing but blanks was on it; else NULL */
	bool in_directive;
	size_t directive; /* tokens of it so far */
	struct tokens *tokens;
};

static bool emit(struct reader *r, const char *text, size_t size)
{
	struct tokens *tokens = r->tokens;

	if (tokens->count == tokens->room) {
		size_t room = tokens->room ? 2 * tokens->room : 1024;
		void *items = reallocarray(tokens->items, room, sizeof(*tokens->items));

		if (!items)
			return false;
		tokens->items = items;
		tokens->room = room;
	}
	tokens->items[tokens->count++] =
		(struct token){ .text = text, .size = size, .line = r->line };
	r->line = NULL;
	r->directive++;
	return true;
}

static char at(const struct reader *r, size_t n)
{
	return n < (size_t)(r->end - r->p) ? r->p[n] : '\0';
}

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '$' || (unsigned char)c >= 0x80;
}

/* ---- what separates tokens ---- */

static void skip_comment(struct reader *r)
{
	const char *close = memmem(r->p + 2, (size_t)(r->end - r->p - 2), "*/", 2);
	const char *after = close ? close + 2 : r->end;

	/* A line that begins in a comment is no place to cut. */
	if (memchr(r->p, '\n', (size_t)(after - r->p)))
		r->line = NULL;
	r->p = after;
}

static void skip_line_comment(struct reader *r)
{
	while (r->p < r->end && *r->p != '\n')
		r->p += at(r, 0) == '\\' && at(r, 1) == '\n' ? 2 : 1;
}

/* Skips blanks and comments; false without memory. */
static bool skip_blanks(struct reader *r)
{
	while (r->p < r->end) {
		if (*r->p == '\n') {
			if (r->in_directive && !emit(r, directive_end, strlen(directive_end)))
				return false;
			r->in_directive = false;
			r->line = ++r->p;
		} else if (*r->p == '\\' && at(r, 1) == '\n') {
			r->p += 2;
			r->line = r->p;
		} else if (*r->p == '/' && at(r, 1) == '*') {
			skip_comment(r);
		} else if (*r->p == '/' && at(r, 1) == '/') {
			skip_line_comment(r);
		} else if (isspace((unsigned char)*r->p)) {
			r->p++;
		} else {
			return true;
		}
	}
	return true;
}

/* ---- tokens ---- */

/* Length of the literal that @quote begins at r->p[@n]; one that is not closed ends with its line.
 */
static size_t literal(const struct reader *r, size_t n, char quote)
{
	for (n++; r->p + n < r->end && at(r, n) != '\n'; n++) {
		if (at(r, n) == '\\')
			n++;
		else if (at(r, n) == quote)
			return n + 1;
	}
	return n;
}

/* R"x( ... )x", its quote at r->p[@n]. */
static size_t raw_literal(const struct reader *r, size_t n)
{
	const char *open = memchr(r->p + n, '(', (size_t)(r->end - r->p) - n);
	char close[24];

	if (!open || open - (r->p + n) > 17)
		return literal(r, n, '"');

	int size = snprintf(close, sizeof(close), ")%.*s\"", (int)(open - (r->p + n) - 1),
			    r->p + n + 1);
	const char *found = memmem(open, (size_t)(r->end - open), close, (size_t)size);

	return found ? (size_t)(found - r->p) + (size_t)size : (size_t)(r->end - r->p);
}

static size_t number(const struct reader *r)
{
	size_t n = 1;

	for (;; n++) {
		char c = at(r, n), before = (char)tolower((unsigned char)at(r, n - 1));

		if ((c == '+' || c == '-') && (before == 'e' || before == 'p'))
			continue;
		if (!is_word(c) && c != '.' && !(c == '\'' && is_word(at(r, n + 1))))
			return n;
	}
}

static size_t word(const struct reader *r)
{
	static const char *const prefixes[] = { "L", "u", "U", "u8" };
	size_t n = 1;

	while (is_word(at(r, n)))
		n++;
	if (at(r, n) != '"' && at(r, n) != '\'')
		return n;

	bool raw = at(r, n) == '"' && at(r, n - 1) == 'R';
	size_t prefix = n - raw;

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++)
		if (!prefix ||
		    (strlen(prefixes[i]) == prefix && !memcmp(r->p, prefixes[i], prefix)))
			return raw ? raw_literal(r, n) : literal(r, n, at(r, n));
	return n;
}

static size_t operator(const struct reader *r)
{
	static const char *const operators[] = {
		"<<=", ">>=", "...", "<=>", "->*", "->", "++", "--", "<<",
		">>",  "<=",  ">=",  "==",  "!=",  "&&", "||", "+=", "-=",
		"*=",  "/=",  "%=",  "&=",  "|=",  "^=", "##", "::", ".*",
	};

	for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++) {
		size_t n = strlen(operators[i]);

		if ((size_t)(r->end - r->p) >= n && !memcmp(r->p, operators[i], n))
			return n;
	}
	return 1;
}

static bool is_token(const struct token *token, const char *text)
{
	return token->size == strlen(text) && !memcmp(token->text, text, token->size);
}

/* Behind the name of "#define NAME(": no blank may come in between. */
static bool begins_macro_arguments(const struct reader *r)
{
	const struct tokens *tokens = r->tokens;

	return r->in_directive && r->directive == 3 && *r->p == '(' &&
	       is_token(&tokens->items[tokens->count - 2], "define") &&
	       tokens->items[tokens->count - 1].text + tokens->items[tokens->count - 1].size ==
		       r->p;
}

static bool read_token(struct reader *r)
{
	char c = *r->p;
	size_t n;

	if (c == '#' && r->line && !r->in_directive) {
		r->in_directive = true;
		r->directive = 0;
	}
	if (begins_macro_arguments(r)) {
		r->p++;
		return emit(r, macro_arguments, strlen(macro_arguments));
	}
	if (c == '"' || c == '\'')
		n = literal(r, 0, c);
	else if (isdigit((unsigned char)c) || (c == '.' && isdigit((unsigned char)at(r, 1))))
		n = number(r);
	else if (is_word(c))
		n = word(r);
	else
		n = operator(r);
	if (n > (size_t)(r->end - r->p))
		n = (size_t)(r->end - r->p);
	r->p += n;
	return emit(r, r->p - n, n);
}

static struct pe_error *tokens_read(const char *text, size_t size, struct tokens *ret)
{
	struct reader r = { .p = text, .end = text + size, .line = text, .tokens = ret };

	for (;;) {
		if (!skip_blanks(&r))
			return pe_error_nomem();
		if (r.p >= r.end)
			break;
		if (!read_token(&r))
			return pe_error_nomem();
	}
	if (r.in_directive && !emit(&r, directive_end, strlen(directive_end)))
		return pe_error_nomem();
	ret->last = r.line;
	return NULL;
}

/* ---- what differs ---- */

static bool same_tokens(const struct tokens *a, const struct tokens *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (a->items[i].size != b->items[i].size ||
		    memcmp(a->items[i].text, b->items[i].text, a->items[i].size))
			return false;
	return true;
}

/* One token a line; a literal's own newlines become another control character. */
static struct pe_error *tokens_write(const struct tokens *tokens, const char *path)
{
	pe_auto_free char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; i < tokens->count; i++) {
		const struct token *token = &tokens->items[i];

		for (size_t j = 0; j < token->size; j++)
			putc(token->text[j] == '\n' ? '\1' : token->text[j], out);
		putc('\n', out);
	}
	fclose(out);
	return text ? pe_file_write(path, text, size) : pe_error_nomem();
}

static struct pe_error *tokens_diff(const struct tokens *old, const struct tokens *new,
				    struct pe_lines_hunk **hunks, size_t *count)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	struct pe_error *err = pe_temp_dir_init(&dir);

	if (err)
		return err;

	pe_auto_free char *old_path = pe_format("%s/old", dir.path);
	pe_auto_free char *new_path = pe_format("%s/new", dir.path);

	err = old_path && new_path ? tokens_write(old, old_path) : pe_error_nomem();
	if (!err)
		err = tokens_write(new, new_path);
	return err ? err : pe_lines_diff(old_path, new_path, hunks, count);
}

/* ---- whole lines ---- */

struct merge {
	const struct tokens *old, *new;
	const char *old_end, *new_end; /* of the texts */
	const char *taken;	       /* the old text is written up to here */
	FILE *out;
};

/* Start of the line that token @i begins, or the end of the text; NULL when it begins none. */
static const char *line_of(const struct tokens *tokens, size_t i)
{
	return i < tokens->count ? tokens->items[i].line : tokens->last;
}

/* Can lines of one text follow those of the other here? The ends of both texts fit anyway. */
static bool is_cut(const struct merge *m, size_t i, size_t j)
{
	return (line_of(m->old, i) && line_of(m->new, j)) ||
	       (i == m->old->count && j == m->new->count);
}

/* Tokens [i, i_end) of the old text become [j, j_end) of the new one; all four are cuts. */
static void write_region(struct merge *m, size_t i, size_t i_end, size_t j, size_t j_end)
{
	const char *from = line_of(m->old, i) ?: m->old_end;
	const char *new_from = line_of(m->new, j) ?: m->new_end;
	const char *new_to = line_of(m->new, j_end) ?: m->new_end;

	fwrite(m->taken, 1, (size_t)(from - m->taken), m->out);
	fwrite(new_from, 1, (size_t)(new_to - new_from), m->out);
	m->taken = line_of(m->old, i_end) ?: m->old_end;
}

/* "@@ -5,0": behind the fifth; all others count from one. */
static size_t first_of(unsigned long start, unsigned long count)
{
	return count ? start - 1 : start;
}

/* False when the texts have no common place to cut in front of the first hunk. */
static bool write_merged(struct merge *m, const struct pe_lines_hunk *hunks, size_t count)
{
	for (size_t h = 0; h < count;) {
		size_t i = first_of(hunks[h].old_start, hunks[h].old_count);
		size_t j = first_of(hunks[h].new_start, hunks[h].new_count);
		size_t i_end = i + hunks[h].old_count, j_end = j + hunks[h].new_count;

		/* A cut that lies in an earlier region cannot be met: that one ended at a cut. */
		while (!is_cut(m, i, j)) {
			if (!i || !j)
				return false;
			i--;
			j--;
		}
		for (h++;; i_end++, j_end++) {
			while (h < count &&
			       i_end >= first_of(hunks[h].old_start, hunks[h].old_count)) {
				i_end = first_of(hunks[h].old_start, hunks[h].old_count) +
					hunks[h].old_count;
				j_end = first_of(hunks[h].new_start, hunks[h].new_count) +
					hunks[h].new_count;
				h++;
			}
			if (is_cut(m, i_end, j_end))
				break;
		}
		write_region(m, i, i_end, j, j_end);
	}
	fwrite(m->taken, 1, (size_t)(m->old_end - m->taken), m->out);
	return true;
}

static struct pe_error *copy(const char *text, size_t size, char **ret, size_t *ret_size)
{
	*ret = malloc(size + 1);
	if (!*ret)
		return pe_error_nomem();
	memcpy(*ret, text, size);
	(*ret)[size] = '\0';
	*ret_size = size;
	return NULL;
}

struct pe_error *pe_tokens_merge(const char *old, size_t old_size, const char *new, size_t new_size,
				 char **ret, size_t *ret_size)
{
	auto_tokens struct tokens a = { 0 }, b = { 0 }, merged = { 0 };
	pe_auto_free struct pe_lines_hunk *hunks = NULL;
	pe_auto_free char *text = NULL;
	size_t count = 0, size = 0;
	struct pe_error *err = tokens_read(old, old_size, &a);

	if (!err)
		err = tokens_read(new, new_size, &b);
	if (err)
		return err;
	if (same_tokens(&a, &b))
		return copy(old, old_size, ret, ret_size);
	err = tokens_diff(&a, &b, &hunks, &count);
	if (err)
		return err;

	struct merge m = { .old = &a,
			   .new = &b,
			   .old_end = old + old_size,
			   .new_end = new + new_size,
			   .taken = old };

	m.out = open_memstream(&text, &size);
	if (!m.out)
		return pe_error_nomem();

	bool whole = write_merged(&m, hunks, count);

	fclose(m.out);
	if (!text)
		return pe_error_nomem();
	/* The promise is kept whatever the texts look like: else all of the new one is taken. */
	err = tokens_read(text, size, &merged);
	if (!err && (!whole || !same_tokens(&merged, &b)))
		return copy(new, new_size, ret, ret_size);
	if (err)
		return err;
	*ret = pe_steal(text);
	*ret_size = size;
	return NULL;
}

struct pe_error *pe_tokens_hash(const char *text, size_t size, char *hex)
{
	auto_tokens struct tokens tokens = { 0 };
	unsigned char digest[EVP_MAX_MD_SIZE];
	struct pe_error *err = tokens_read(text, size, &tokens);
	EVP_MD_CTX *md = err ? NULL : EVP_MD_CTX_new();
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL);

	for (size_t i = 0; ok && i < tokens.count; i++)
		ok = EVP_DigestUpdate(md, &tokens.items[i].size, sizeof(tokens.items[i].size)) &&
		     EVP_DigestUpdate(md, tokens.items[i].text, tokens.items[i].size);
	ok = ok && EVP_DigestFinal_ex(md, digest, NULL);
	EVP_MD_CTX_free(md);
	if (err || !ok)
		return err ? err : pe_error_nomem();
	for (size_t i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	return NULL;
}
