/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run-pre match for people and programs: counts and JSON. */
#include <stdio.h>

#include "build/match.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

const char *pe_match_verdict_name(enum pe_match_verdict verdict)
{
	switch (verdict) {
	case PE_MATCH_IDENTICAL:
		return "identical";
	case PE_MATCH_RELOCATED:
		return "relocated";
	case PE_MATCH_DIFFERENT:
		return "different";
	case PE_MATCH_ABSENT:
		return "absent";
	}
	return "unknown";
}

size_t pe_match_count(const struct pe_match *match, enum pe_match_verdict verdict)
{
	size_t count = 0;

	for (size_t i = 0; i < match->function_count; i++)
		count += match->functions[i].verdict == verdict;
	return count;
}

static json_t *function_json(const struct pe_match_function *function)
{
	pe_auto_free char *name = pe_demangle(function->symbol->name);
	char vaddr[24] = "";

	if (function->vaddr)
		snprintf(vaddr, sizeof(vaddr), "0x%lx", function->vaddr);
	return json_pack("{s:s, s:s?, s:s?, s:I, s:s, s:s?}", "symbol", function->symbol->name,
			 "name", name, "vaddr", vaddr[0] ? vaddr : NULL, "size",
			 (json_int_t)function->symbol->size, "verdict",
			 pe_match_verdict_name(function->verdict), "cause", function->cause);
}

json_t *pe_match_to_json(const struct pe_match *match)
{
	json_t *functions = json_array();

	for (size_t i = 0; i < match->function_count; i++)
		json_array_append_new(functions, function_json(&match->functions[i]));
	size_t equal = pe_match_count(match, PE_MATCH_IDENTICAL) +
		       pe_match_count(match, PE_MATCH_RELOCATED);
	return json_pack("{s:s, s:I, s:I, s:o}", "object", match->object->path, "total",
			 (json_int_t)match->function_count, "identical", (json_int_t)equal,
			 "functions", functions);
}
