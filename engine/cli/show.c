/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is in a patch, for people and for programs; all command lines print it the same way. */
#include "engine/show.h"
#include "engine/arch.h"
#include "engine/cleanup.h"
#include "engine/cli.h"
#include "engine/demangle.h"

#include <inttypes.h>
#include <string.h>

static const char *const symbol_kinds[] = {
	[PE_SYM_TARGET] = "target", [PE_SYM_SLOT] = "slot", [PE_SYM_IMPORT] = "import",
	[PE_SYM_TPOFF] = "tls",	    [PE_SYM_ZERO] = "zero", [PE_SYM_LOCAL] = "patch",
};

static const char *const section_kinds[] = {
	[PE_SECTION_TEXT] = "code",
	[PE_SECTION_RODATA] = "constants",
	[PE_SECTION_DATA] = "data",
	[PE_SECTION_BSS] = "zeroed data",
	[PE_SECTION_EH_FRAME] = "unwind tables",
};

#define SECTION_KINDS (sizeof(section_kinds) / sizeof(*section_kinds))

static void hex_of(const uint8_t *bytes, size_t size, char *out)
{
	for (size_t i = 0; i < size; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static uint64_t old_size(const struct pe_patch_function *function)
{
	uint64_t size = 0;

	for (size_t i = 0; i < function->range_count; i++)
		size += function->ranges[i].size;
	return size;
}

static uint64_t size_of_kind(const struct pe_patch *patch, enum pe_patch_section_kind kind)
{
	uint64_t size = 0;

	for (size_t i = 0; i < patch->section_count; i++)
		size += patch->sections[i].kind == kind ? patch->sections[i].size : 0;
	return size;
}

static const char *machine_name(uint16_t machine)
{
	const struct pe_arch *arch = pe_arch_find(machine);

	return arch ? arch->name : "unknown";
}

/* ---- JSON ---- */

static void set_text(json_t *object, const char *key, const char *text)
{
	json_object_set_new(object, key, text ? json_string(text) : json_null());
}

static json_t *json_address(uint64_t vaddr)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%" PRIx64, vaddr);
	return json_string(text);
}

static json_t *json_function(const struct pe_patch *patch, const struct pe_patch_function *function)
{
	const struct pe_patch_symbol *symbol = &patch->symbols[function->symbol];
	json_t *ranges = json_array(), *object = json_object();

	for (size_t i = 0; i < function->range_count; i++) {
		char hex[2 * PE_SHA256_SIZE + 1];

		hex_of(function->ranges[i].sha256, PE_SHA256_SIZE, hex);
		json_array_append_new(
			ranges, json_pack("{s:o, s:I, s:s}", "address",
					  json_address(function->ranges[i].vaddr), "size",
					  (json_int_t)function->ranges[i].size, "sha256", hex));
	}
	pe_auto_free char *demangled = pe_demangle(function->name);

	set_text(object, "name", function->name);
	set_text(object, "demangled", demangled);
	set_text(object, "reason", function->reason);
	set_text(object, "target", patch->targets[function->target].name);
	json_object_set_new(object, "old_size", json_integer((json_int_t)old_size(function)));
	json_object_set_new(object, "new_size", json_integer((json_int_t)symbol->size));
	json_object_set_new(object, "ranges", ranges);
	return object;
}

static json_t *json_symbol(const struct pe_patch *patch, const struct pe_patch_symbol *symbol)
{
	json_t *object = json_object();

	set_text(object, "name", symbol->name);
	set_text(object, "kind", symbol_kinds[symbol->kind]);
	if (symbol->kind == PE_SYM_TARGET || symbol->kind == PE_SYM_SLOT)
		json_object_set_new(object, "address", json_address(symbol->value));
	if (symbol->kind == PE_SYM_TPOFF)
		json_object_set_new(object, "offset", json_integer((json_int_t)symbol->value));
	if (symbol->kind == PE_SYM_IMPORT) {
		set_text(object, "library", symbol->library);
		set_text(object, "version", symbol->version);
	}
	if (symbol->kind == PE_SYM_LOCAL)
		set_text(object, "section", patch->sections[symbol->section].name);
	return object;
}

static json_t *json_lists(const struct pe_patch *patch, json_t *object)
{
	json_t *cves = json_array(), *targets = json_array(), *functions = json_array();
	json_t *symbols = json_array(), *sections = json_array(), *gates = json_array();
	json_t *notes = json_array();

	for (size_t i = 0; i < patch->cve_count; i++) {
		json_t *cve = json_object();

		set_text(cve, "id", patch->cves[i].id);
		set_text(cve, "cvss", patch->cves[i].cvss);
		set_text(cve, "url", patch->cves[i].url);
		json_array_append_new(cves, cve);
	}
	for (size_t i = 0; i < patch->gate_count; i++)
		json_array_append_new(gates, json_string(patch->gates[i]));
	for (size_t i = 0; i < patch->note_count; i++)
		json_array_append_new(notes, json_string(patch->notes[i]));
	for (size_t i = 0; i < patch->target_count; i++) {
		const struct pe_patch_target *target = &patch->targets[i];
		char hex[2 * PE_BUILD_ID_MAX + 1];

		pe_build_id_hex(&target->build_id, hex);
		json_array_append_new(targets,
				      json_pack("{s:s, s:b, s:s, s:s}", "name", target->name,
						"program", target->is_program, "build_id", hex,
						"architecture", machine_name(target->machine)));
	}
	for (size_t i = 0; i < patch->function_count; i++)
		json_array_append_new(functions, json_function(patch, &patch->functions[i]));
	for (size_t i = 0; i < patch->symbol_count; i++)
		json_array_append_new(symbols, json_symbol(patch, &patch->symbols[i]));
	for (size_t i = 0; i < patch->section_count; i++) {
		const struct pe_patch_section *section = &patch->sections[i];

		json_array_append_new(sections,
				      json_pack("{s:s, s:s, s:I, s:I}", "name", section->name,
						"kind", section_kinds[section->kind], "size",
						(json_int_t)section->size, "relocations",
						(json_int_t)section->reloc_count));
	}
	json_object_set_new(object, "cves", cves);
	json_object_set_new(object, "gates", gates);
	json_object_set_new(object, "notes", notes);
	json_object_set_new(object, "targets", targets);
	json_object_set_new(object, "functions", functions);
	json_object_set_new(object, "symbols", symbols);
	json_object_set_new(object, "sections", sections);
	return object;
}

json_t *pe_cli_patch_json(const struct pe_patch *patch)
{
	json_t *object = json_object();
	uint64_t total = 0;

	set_text(object, "name", patch->name);
	set_text(object, "description", patch->description);
	set_text(object, "kind", patch->kind);
	set_text(object, "product", patch->product);
	json_object_set_new(object, "level", json_integer(patch->level));
	json_object_set_new(object, "independent", json_boolean(patch->independent));
	set_text(object, "compiler", patch->compiler);
	set_text(object, "flags", patch->flags);
	set_text(object, "source_sha256", patch->source_sha256);
	for (size_t i = 0; i < SECTION_KINDS; i++)
		total += size_of_kind(patch, (enum pe_patch_section_kind)i);
	json_object_set_new(object, "size", json_integer((json_int_t)total));
	return json_lists(patch, object);
}

/* ---- tables ---- */

static void print_field(const char *name, const char *value)
{
	if (value)
		printf("%-13s %s\n", name, value);
}

static void print_manifest(const struct pe_patch *patch)
{
	print_field("patch", patch->name);
	print_field("description", patch->description);
	print_field("kind", patch->kind);
	print_field("product", patch->product);
	printf("%-13s %" PRIu32 "\n", "level", patch->level);
	print_field("switch", patch->independent ? "independent: functions may change one by one"
						 : "all functions at one moment");
	for (size_t i = 0; i < patch->cve_count; i++) {
		const struct pe_patch_cve *cve = &patch->cves[i];

		printf("%-13s %s%s%s%s%s\n", "fixes", cve->id, cve->cvss ? ", CVSS " : "",
		       cve->cvss ? cve->cvss : "", cve->url ? ", " : "", cve->url ? cve->url : "");
	}
	for (size_t i = 0; i < patch->gate_count; i++)
		print_field("gate", patch->gates[i]);
	for (size_t i = 0; i < patch->note_count; i++)
		print_field("note", patch->notes[i]);
	for (size_t i = 0; i < patch->target_count; i++) {
		char hex[2 * PE_BUILD_ID_MAX + 1];

		pe_build_id_hex(&patch->targets[i].build_id, hex);
		printf("%-13s %s (%s, %s), build-id %s\n", "target", patch->targets[i].name,
		       patch->targets[i].is_program ? "program" : "library",
		       machine_name(patch->targets[i].machine), hex);
	}
	print_field("compiler", patch->compiler);
	print_field("flags", patch->flags);
	print_field("source", patch->source_sha256);
}

static void print_functions(const struct pe_patch *patch)
{
	static const char *const titles[] = {
		"FUNCTION", ">ADDRESS", ">OLD", ">NEW", "REASON", NULL
	};
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *function = &patch->functions[i];
		pe_auto_free char *name = pe_demangle(function->name);
		char address[32], old[32], new[32];

		snprintf(address, sizeof(address), "0x%" PRIx64, function->ranges[0].vaddr);
		snprintf(old, sizeof(old), "%" PRIu64, old_size(function));
		snprintf(new, sizeof(new), "%" PRIu64, patch->symbols[function->symbol].size);
		pe_table_row(table,
			     (const char *const[]){ name, address, old, new, function->reason });
	}
	pe_table_print_and_free(table);
}

static void print_symbols(const struct pe_patch *patch)
{
	static const char *const titles[] = { "SYMBOL", "WHERE", ">VALUE", NULL };
	struct pe_table *table = pe_table_new(titles);

	for (size_t i = 0; i < patch->symbol_count; i++) {
		const struct pe_patch_symbol *symbol = &patch->symbols[i];
		char value[96] = "-";

		if (symbol->kind == PE_SYM_IMPORT)
			snprintf(value, sizeof(value), "%s%s%s",
				 symbol->library ? symbol->library : "any library",
				 symbol->version ? " " : "",
				 symbol->version ? symbol->version : "");
		else if (symbol->kind == PE_SYM_LOCAL)
			snprintf(value, sizeof(value), "%s+0x%" PRIx64,
				 patch->sections[symbol->section].name, symbol->value);
		else if (symbol->kind == PE_SYM_TPOFF)
			snprintf(value, sizeof(value), "%" PRId64, (int64_t)symbol->value);
		else if (symbol->kind != PE_SYM_ZERO)
			snprintf(value, sizeof(value), "0x%" PRIx64, symbol->value);
		pe_auto_free char *name = pe_demangle(symbol->name);

		pe_table_row(table,
			     (const char *const[]){ name, symbol_kinds[symbol->kind], value });
	}
	pe_table_print_and_free(table);
}

static void print_sizes(const struct pe_patch *patch)
{
	bool first = true;

	for (size_t i = 0; i < SECTION_KINDS; i++) {
		uint64_t size = size_of_kind(patch, (enum pe_patch_section_kind)i);
		char text[32];

		if (!size)
			continue;
		printf("%s%s of %s", first ? "" : ", ", pe_format_bytes(size, text),
		       section_kinds[i]);
		first = false;
	}
	printf("%s%zu function%s, %zu symbol%s\n", first ? "" : "; ", patch->function_count,
	       patch->function_count == 1 ? "" : "s", patch->symbol_count,
	       patch->symbol_count == 1 ? "" : "s");
}

void pe_cli_show(const struct pe_patch *patch, bool json)
{
	if (json) {
		pe_cli_json(pe_cli_patch_json(patch));
		return;
	}
	print_manifest(patch);
	putchar('\n');
	print_functions(patch);
	putchar('\n');
	print_symbols(patch);
	putchar('\n');
	print_sizes(patch);
}
