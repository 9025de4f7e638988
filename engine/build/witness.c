/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses that no symbol table tells; see build/witness.h. */
#include "build/witness.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <ctype.h>
#include <elf.h>
#include <string.h>

/* Compilations are what it costs; the first unit that has the name in its text tells mostly. */
static const size_t most_witnesses = 8;

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static bool has_word(const char *text, const char *word)
{
	size_t size = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p += size)
		if ((p == text || !is_word(p[-1])) && !is_word(p[size]))
			return true;
	return false;
}

/* What one compiled unit tells. Of its own code, only what the shipped program has as it is. */
static bool tells(const struct pe_unit *unit, const char *name, uint64_t *vaddr)
{
	const struct pe_object_symbol *symbol = pe_object_find(unit->base, name);
	const struct pe_match_function *function =
		symbol ? pe_match_function_of(unit->match, symbol) : NULL;

	if (!symbol || symbol->bind == STB_LOCAL || symbol->type == STT_TLS ||
	    symbol->type == STT_GNU_IFUNC || (function && function->verdict > PE_MATCH_RELOCATED))
		return false;
	return pe_match_address(unit->match, symbol, vaddr);
}

static struct pe_error *ask(const struct pe_build *build, const char *source, const char *name,
			    uint64_t *vaddr, bool *found)
{
	__attribute__((cleanup(pe_units_deinit))) struct pe_units units = { 0 };
	struct pe_error *err = pe_units_add(build, &units, source);

	if (!err)
		err = pe_units_compile(build, &units, NULL);
	if (!err)
		err = pe_units_match(build, &units);
	if (err && pe_interrupted())
		return err;
	pe_error_free(err);
	for (size_t i = 0; !err && !*found && i < units.count; i++)
		*found = tells(&units.items[i], name, vaddr);
	return NULL;
}

struct pe_error *pe_witness_address(const struct pe_build *build, const char *name, uint64_t *vaddr,
				    bool *found)
{
	const char *root = build->target->source;
	pe_auto_strv struct pe_strv asked = { 0 };

	*found = false;
	for (size_t i = 0; !*found && i < build->database.count; i++) {
		const char *file = build->database.entries[i].file;
		pe_auto_free char *text = NULL;
		size_t size;

		if (asked.count == most_witnesses)
			break;
		if (!pe_path_below(file, root) || strlen(file) == strlen(root) ||
		    pe_strv_has(&asked, file) || !pe_file_exists(file))
			continue;

		struct pe_error *err = pe_file_read(file, &text, &size);

		if (err)
			return err;
		if (!has_word(text, name))
			continue;
		if (!pe_strv_add(&asked, file))
			return pe_error_nomem();
		err = ask(build, file + strlen(root) + 1, name, vaddr, found);
		if (err)
			return err;
	}
	return NULL;
}
