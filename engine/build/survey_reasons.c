/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a refused change tells: the kind of its reason, and what else it may need. */
#include "build/files.h"
#include "build/make.h"
#include "build/survey.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <string.h>

/* ---- kinds ---- */

const char *pe_survey_reason(const char *code, const char *message)
{
	/* The first that fits; what stands first is the more special. */
	static const struct {
		const char *code, *part, *reason;
	} reasons[] = {
		{ "compile", "", "does not compile without the other changes" },
		{ NULL, "changes no source of the program", "no code of the program" },
		{ NULL, "no compile command", "not compiled in this build" },
		{ NULL, "is compiled, but not into", "part of another program or library" },
		{ NULL, "no function of the shipped binary changes", "no function changes" },
		{ NULL, "decides how the program is made", "changes how the program is made" },
		{ NULL, "is a new source file", "a new source file" },
		{ NULL, "is no part of", "no code of the program" },
		{ NULL, "layout of type", "layout of a type in use changes" },
		{ NULL, "give the changed function another name",
		  "signature of a function in use changes" },
		{ NULL, "would be destroyed at the end", "static object with a destructor" },
		{ NULL, "initial value", "initial value of existing data changes" },
		{ NULL, "size of the existing variable", "size of existing data changes" },
		{ NULL, "which existing objects use", "virtual table changes" },
		{ NULL, "thread-local", "thread-local data" },
		{ NULL, "runs only once", "runs only once" },
		{ NULL, "called only once", "runs only once" },
		{ NULL, "constructor or destructor", "runs only once" },
		{ NULL, "static initialiser", "runs only once" },
		{ NULL, "identical code folding", "entry shared by folded functions" },
		{ NULL, "cannot overwrite the entry", "entry cannot be overwritten" },
		{ NULL, "bytes that the patch would overwrite", "entry cannot be overwritten" },
		{ NULL, "source files of the program change with", "header of too many sources" },
		{ NULL, "whose shipped code is not what",
		  "shipped code is not what the source gives" },
		{ NULL, "in the shipped binary is not certain",
		  "shipped code is not what the source gives" },
		{ NULL, "is not in the shipped binary as compiled",
		  "shipped code is not what the source gives" },
		{ NULL, "in the shipped binary is unknown", "address of a symbol is not known" },
		{ NULL, "which neither the shipped binary nor",
		  "refers to what the program does not have" },
		{ NULL, "several static symbols", "name of several static symbols" },
		{ NULL, "cannot tell which of several", "name of several static symbols" },
		{ NULL, "indirect function", "indirect function" },
		{ NULL, "unnamed writable data", "unnamed data" },
		{ NULL, "needs relocation type", "relocation that a patch cannot have" },
		{ NULL, "no function with a name", "assembler code" },
		{ NULL, "refers directly to", "relocation that a patch cannot have" },
		{ NULL, "wants an alignment", "an alignment that a patch cannot have" },
		{ NULL, "no debug information", "no debug information" },
		{ NULL, "typeinfo", "run-time type information changes" },
		{ NULL, ", a part of the program", "removes a source of the program" },
		{ NULL, "cannot change one by one", "functions rely on each other" },
		{ "busy", "another patcher", "another patcher was at work" },
		{ "busy", "another care-build", "another care-build was at work" },
		{ "busy", "", "a thread never leaves the function" },
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
		if ((!reasons[i].code || !strcmp(reasons[i].code, code)) &&
		    strstr(message, reasons[i].part))
			return reasons[i].reason;
	return NULL;
}

/* ---- what else it needs ---- */

/* More is no small change any more. */
static const size_t most_needed = 12;

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

/* Adds the identifiers of @text; short ones and the words of types tell nothing. */
static struct pe_error *add_names(const char *text, size_t size, struct pe_strv *names)
{
	static const char *const common[] = { "struct", "union",  "enum",   "const",   "unsigned",
					      "signed", "char",	  "short",  "int",     "long",
					      "float",	"double", "void",   "static",  "inline",
					      "class",	"size_t", "extern", "volatile" };

	for (const char *p = text, *end = text + size; p < end;) {
		const char *from = p;
		bool known = false;

		while (p < end && is_word(*p))
			p++;

		size_t n = (size_t)(p - from);

		for (size_t i = 0; i < sizeof(common) / sizeof(*common); i++)
			known |= n == strlen(common[i]) && !memcmp(from, common[i], n);
		if (n > 2 && !known && !isdigit((unsigned char)*from)) {
			pe_auto_free char *name = strndup(from, n);

			if (!name || (!pe_strv_has(names, name) && !pe_strv_add(names, name)))
				return pe_error_nomem();
		}
		while (p < end && !is_word(*p))
			p++;
	}
	return NULL;
}

/* The words between @open and @close, from @text on. */
static struct pe_error *add_quoted(const char *text, const char *open, const char *close,
				   struct pe_strv *names)
{
	const char *from = strstr(text, open), *to = from ? strstr(from, close) : NULL;

	return to ? add_names(from + strlen(open), (size_t)(to - from) - strlen(open), names)
		  : NULL;
}

/*
 * The names that a refusal is about: on the lines of the compiler's errors what is quoted first,
 * and the member that a type has not; or the symbol that nobody defines.
 */
static struct pe_error *names_in(const char *message, struct pe_strv *names)
{
	static const char open[] = "\xe2\x80\x98", close[] = "\xe2\x80\x99"; /* quotes in UTF-8 */
	pe_auto_strv struct pe_strv lines = { 0 };
	struct pe_error *err = pe_split_lines(message, strlen(message), &lines);

	for (size_t i = 0; !err && i < lines.count; i++) {
		const char *error = strstr(lines.items[i], "error: ");
		const char *named = error ? strstr(error, " named ") : NULL;

		if (error)
			err = add_quoted(error, open, close, names);
		if (!err && named)
			err = add_quoted(named, open, close, names);
	}
	return err ? err : add_quoted(message, "refers to ", ", which", names);
}

/*
 * Does a hunk of the diff have the name as a word? Lines around a change count too: a declaration
 * may change in the line behind its name.
 */
static bool mentions(const char *diff, const char *name)
{
	size_t size = strlen(name);

	for (const char *p = diff; (p = strstr(p, name)); p += size) {
		const char *line = p;

		while (line > diff && line[-1] != '\n')
			line--;
		if (strchr("+- ", *line) && strncmp(line, "+++", 3) && strncmp(line, "---", 3) &&
		    !is_word(p[-1]) && !is_word(p[size]))
			return true;
	}
	return false;
}

static bool is_header(const char *path)
{
	return pe_file_role(path) == PE_FILE_CODE && !pe_file_is_source(path);
}

/* The search for what a refused change needs. */
struct search {
	const struct pe_survey_changes *changes;
	char **diffs;  /* of those that may be it; others NULL */
	bool declared; /* it does not compile: what it misses, a header declares, if one has it */
	bool *found;
	bool *of_name; /* those that have one name */
};

static void search_deinit(struct search *s)
{
	for (size_t i = 0; s->diffs && i < s->changes->count; i++)
		free(s->diffs[i]);
	free(s->diffs);
	free(s->found);
	free(s->of_name);
}

static struct pe_error *search_init(struct search *s, const bool *may, const bool *in)
{
	size_t count = s->changes->count;
	struct pe_error *err = NULL;

	s->diffs = calloc(count + 1, sizeof(*s->diffs));
	s->found = calloc(count + 1, sizeof(*s->found));
	s->of_name = calloc(count + 1, sizeof(*s->of_name));
	if (!s->diffs || !s->found || !s->of_name)
		return pe_error_nomem();
	for (size_t i = 0; !err && i < count; i++)
		if (!in[i] && may[i] && s->changes->items[i].diff)
			err = pe_file_read(s->changes->items[i].diff, &s->diffs[i], NULL);
	return err;
}

/* Which changes have a name; their number. */
static size_t find_name(struct search *s, const char *name)
{
	size_t sources = 0, headers = 0;

	for (size_t i = 0; i < s->changes->count; i++) {
		bool header = is_header(s->changes->items[i].path);

		s->of_name[i] = s->diffs[i] && mentions(s->diffs[i], name);
		headers += s->of_name[i] && header;
		sources += s->of_name[i] && !header;
	}
	if (!s->declared || !headers)
		return sources + headers;
	for (size_t i = 0; i < s->changes->count; i++)
		s->of_name[i] &= is_header(s->changes->items[i].path);
	return headers;
}

/* The changes that have one of the names; a name that more than @most have is a common word. */
static size_t find_names(struct search *s, const struct pe_strv *names, size_t most)
{
	size_t count = 0;

	memset(s->found, 0, s->changes->count * sizeof(*s->found));
	for (size_t n = 0; n < names->count; n++) {
		bool common = find_name(s, names->items[n]) > most;

		for (size_t i = 0; !common && i < s->changes->count; i++) {
			count += s->of_name[i] && !s->found[i];
			s->found[i] |= s->of_name[i];
		}
	}
	return count;
}

struct pe_error *pe_survey_needs(const struct pe_survey_changes *changes, const char *message,
				 const bool *may, bool *in, size_t *added)
{
	__attribute__((cleanup(search_deinit))) struct search s = {
		.changes = changes,
		.declared = !strstr(message, ", which neither"),
	};
	pe_auto_strv struct pe_strv names = { 0 };
	struct pe_error *err = names_in(message, &names);

	*added = 0;
	if (err || !names.count)
		return err;
	err = search_init(&s, may, in);
	if (err)
		return err;
	/* Of many, the rarest. */
	for (size_t most = most_needed; most; most /= 2) {
		*added = find_names(&s, &names, most);
		if (*added <= most_needed)
			break;
		*added = 0;
	}
	for (size_t i = 0; *added && i < changes->count; i++)
		in[i] |= s.found[i];
	return NULL;
}
