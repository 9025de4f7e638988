/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Strict reading with jansson, and OLPC canonical JSON as the implementations of TUF write it. */
#include "agent/repo/json.h"

#include <stdbool.h>
#include <string.h>

#include "engine/cleanup.h"

enum { MAX_DEPTH = 64 };

/*
 * jansson's parser is recursive (2,048 levels): the depth is bounded before it begins. Brackets in
 * strings do not count; what is no JSON at all is the parser's to refuse.
 */
static bool too_deep(const char *bytes, size_t size)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < size; i++) {
		if (in_string) {
			if (bytes[i] == '\\')
				i++;
			else if (bytes[i] == '"')
				in_string = false;
		} else if (bytes[i] == '"') {
			in_string = true;
		} else if (bytes[i] == '{' || bytes[i] == '[') {
			if (++depth > MAX_DEPTH)
				return true;
		} else if (bytes[i] == '}' || bytes[i] == ']') {
			depth--;
		}
	}
	return false;
}

struct pe_error *repo_json_parse(const void *bytes, size_t size, const char *what, json_t **ret)
{
	json_error_t e;

	*ret = NULL;
	if (too_deep(bytes, size))
		return pe_error_new(PE_ERR_FORMAT, "%s: JSON nested deeper than %d levels", what,
				    MAX_DEPTH);

	json_t *json = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &e);

	if (!json)
		return pe_error_new(PE_ERR_FORMAT, "%s: no JSON, line %d: %s", what, e.line,
				    e.text);
	if (!json_is_object(json)) {
		json_decref(json);
		return pe_error_new(PE_ERR_FORMAT, "%s: no JSON object", what);
	}
	*ret = json;
	return NULL;
}

/* ---- canonical form ---- */

static void put_value(FILE *out, const json_t *json, bool *bad);

static void put_string(FILE *out, const char *text, size_t size)
{
	putc('"', out);
	for (size_t i = 0; i < size; i++) {
		if (text[i] == '"' || text[i] == '\\')
			putc('\\', out);
		putc(text[i], out);
	}
	putc('"', out);
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void put_object(FILE *out, const json_t *json, bool *bad)
{
	size_t count = json_object_size(json), n = 0;
	pe_auto_free const char **keys = calloc(count + 1, sizeof(*keys));
	const char *key;
	json_t *value;

	if (!keys) {
		*bad = true;
		return;
	}
	/* jansson's own iteration is not const; nothing is changed. */
	json_object_foreach((json_t *)json, key, value) keys[n++] = key;
	qsort(keys, n, sizeof(*keys), by_bytes);
	putc('{', out);
	for (size_t i = 0; i < n; i++) {
		if (i)
			putc(',', out);
		put_string(out, keys[i], strlen(keys[i]));
		putc(':', out);
		put_value(out, json_object_get(json, keys[i]), bad);
	}
	putc('}', out);
}

static void put_array(FILE *out, const json_t *json, bool *bad)
{
	putc('[', out);
	for (size_t i = 0; i < json_array_size(json); i++) {
		if (i)
			putc(',', out);
		put_value(out, json_array_get(json, i), bad);
	}
	putc(']', out);
}

static void put_value(FILE *out, const json_t *json, bool *bad)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		put_object(out, json, bad);
		return;
	case JSON_ARRAY:
		put_array(out, json, bad);
		return;
	case JSON_STRING:
		put_string(out, json_string_value(json), json_string_length(json));
		return;
	case JSON_INTEGER:
		fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
		return;
	case JSON_TRUE:
		fputs("true", out);
		return;
	case JSON_FALSE:
		fputs("false", out);
		return;
	case JSON_NULL:
		fputs("null", out);
		return;
	case JSON_REAL: /* has no canonical form */
		*bad = true;
		return;
	}
}

struct pe_error *repo_json_canonical(const json_t *json, char **bytes, size_t *size)
{
	bool bad = false;

	*bytes = NULL;

	FILE *out = open_memstream(bytes, size);

	if (!out)
		return pe_error_nomem();
	put_value(out, json, &bad);

	bool written = !ferror(out);

	written &= !fclose(out);
	if (written && !bad)
		return NULL;
	free(pe_steal(*bytes));
	return written ? pe_error_new(PE_ERR_FORMAT, "a number that is no integer has no canonical "
						     "form to be signed")
		       : pe_error_nomem();
}
