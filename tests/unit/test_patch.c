/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A patch survives writing and reading, and other people's tools understand the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../fuzz/sample_patch.h"
#include "engine/cleanup.h"

static void must(struct pe_error *err)
{
	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		fail_msg("%s", text);
	}
}

static void same_text(const char *a, const char *b)
{
	assert_int_equal(!a, !b);
	if (a)
		assert_string_equal(a, b);
}

static void same_manifest(const struct pe_patch *a, const struct pe_patch *b)
{
	same_text(a->name, b->name);
	same_text(a->description, b->description);
	same_text(a->kind, b->kind);
	same_text(a->product, b->product);
	same_text(a->compiler, b->compiler);
	same_text(a->flags, b->flags);
	same_text(a->source_sha256, b->source_sha256);
	assert_int_equal(a->level, b->level);
	assert_int_equal(a->independent, b->independent);
	assert_int_equal(a->cve_count, b->cve_count);
	for (size_t i = 0; i < a->cve_count; i++) {
		same_text(a->cves[i].id, b->cves[i].id);
		same_text(a->cves[i].cvss, b->cves[i].cvss);
		same_text(a->cves[i].url, b->cves[i].url);
	}
	assert_int_equal(a->gate_count, b->gate_count);
	for (size_t i = 0; i < a->gate_count; i++)
		same_text(a->gates[i], b->gates[i]);
	assert_int_equal(a->note_count, b->note_count);
	for (size_t i = 0; i < a->note_count; i++)
		same_text(a->notes[i], b->notes[i]);
	same_text(a->diff, b->diff);
	assert_int_equal(a->diff_size, b->diff_size);
	assert_int_equal(a->target_count, b->target_count);
	for (size_t i = 0; i < a->target_count; i++) {
		same_text(a->targets[i].name, b->targets[i].name);
		assert_int_equal(a->targets[i].is_program, b->targets[i].is_program);
		assert_int_equal(a->targets[i].is_pie, b->targets[i].is_pie);
		assert_int_equal(a->targets[i].machine, b->targets[i].machine);
		assert_true(pe_build_id_equal(&a->targets[i].build_id, &b->targets[i].build_id));
	}
}

static void same_sections(const struct pe_patch *a, const struct pe_patch *b)
{
	assert_int_equal(a->section_count, b->section_count);
	for (size_t i = 0; i < a->section_count; i++) {
		const struct pe_patch_section *x = &a->sections[i], *y = &b->sections[i];

		same_text(x->name, y->name);
		assert_int_equal(x->kind, y->kind);
		assert_int_equal(x->size, y->size);
		assert_int_equal(x->align, y->align);
		assert_int_equal(!x->data, !y->data);
		if (x->data)
			assert_memory_equal(x->data, y->data, x->size);
		assert_int_equal(x->reloc_count, y->reloc_count);
		for (size_t j = 0; j < x->reloc_count; j++) {
			assert_int_equal(x->relocs[j].offset, y->relocs[j].offset);
			assert_int_equal(x->relocs[j].type, y->relocs[j].type);
			assert_int_equal(x->relocs[j].symbol, y->relocs[j].symbol);
			assert_int_equal(x->relocs[j].addend, y->relocs[j].addend);
		}
	}
}

static void same_symbols(const struct pe_patch *a, const struct pe_patch *b)
{
	assert_int_equal(a->symbol_count, b->symbol_count);
	for (size_t i = 0; i < a->symbol_count; i++) {
		const struct pe_patch_symbol *x = &a->symbols[i], *y = &b->symbols[i];

		same_text(x->name, y->name);
		same_text(x->library, y->library);
		same_text(x->version, y->version);
		assert_int_equal(x->kind, y->kind);
		assert_int_equal(x->type, y->type);
		assert_int_equal(x->global, y->global);
		assert_int_equal(x->target, y->target);
		assert_int_equal(x->value, y->value);
		assert_int_equal(x->section, y->section);
		assert_int_equal(x->size, y->size);
	}
}

static void same_functions(const struct pe_patch *a, const struct pe_patch *b)
{
	assert_int_equal(a->function_count, b->function_count);
	for (size_t i = 0; i < a->function_count; i++) {
		const struct pe_patch_function *x = &a->functions[i], *y = &b->functions[i];

		same_text(x->name, y->name);
		same_text(x->reason, y->reason);
		assert_int_equal(x->target, y->target);
		assert_int_equal(x->symbol, y->symbol);
		assert_int_equal(x->entry_skip, y->entry_skip);
		assert_int_equal(x->entry_size, y->entry_size);
		assert_int_equal(x->displaced_call, y->displaced_call);
		assert_int_equal(x->range_count, y->range_count);
		for (size_t j = 0; j < x->range_count; j++) {
			assert_int_equal(x->ranges[j].vaddr, y->ranges[j].vaddr);
			assert_int_equal(x->ranges[j].size, y->ranges[j].size);
			assert_memory_equal(x->ranges[j].sha256, y->ranges[j].sha256,
					    PE_SHA256_SIZE);
		}
	}
}

static void same_patch(const struct pe_patch *a, const struct pe_patch *b)
{
	same_manifest(a, b);
	same_sections(a, b);
	same_symbols(a, b);
	same_functions(a, b);
}

static void a_patch_that_is_written_and_read_is_the_same(void **state)
{
	struct pe_patch *patch = sample_patch(), *read = NULL;
	pe_auto_free void *bytes = NULL;
	size_t size;

	must(pe_patch_serialize(patch, &bytes, &size));
	must(pe_patch_parse(bytes, size, &read));
	same_patch(patch, read);
	pe_patch_free(patch);
	pe_patch_free(read);
}

static void a_patch_with_the_least_contents_is_read_back_too(void **state)
{
	struct pe_patch *patch = sample_patch(), *read = NULL;
	pe_auto_free void *bytes = NULL;
	size_t size;

	free(patch->description);
	free(patch->compiler);
	free(patch->flags);
	free(patch->source_sha256);
	free(patch->cves[0].id);
	free(patch->cves[0].cvss);
	free(patch->gates[0]);
	free(patch->notes[0]);
	free(patch->diff);
	patch->diff = NULL;
	patch->diff_size = patch->note_count = 0;
	patch->description = patch->compiler = patch->flags = patch->source_sha256 = NULL;
	patch->cve_count = patch->gate_count = 0;
	for (size_t i = 0; i < patch->section_count; i++)
		patch->sections[i].reloc_count = 0;
	must(pe_patch_serialize(patch, &bytes, &size));
	must(pe_patch_parse(bytes, size, &read));
	same_patch(patch, read);
	pe_patch_free(patch);
	pe_patch_free(read);
}

static void the_same_patch_gives_the_same_bytes(void **state)
{
	struct pe_patch *patch = sample_patch(), *read = NULL;
	pe_auto_free void *first = NULL, *second = NULL, *third = NULL;
	size_t first_size, second_size, third_size;

	must(pe_patch_serialize(patch, &first, &first_size));
	must(pe_patch_serialize(patch, &second, &second_size));
	must(pe_patch_parse(first, first_size, &read));
	must(pe_patch_serialize(read, &third, &third_size));
	assert_int_equal(first_size, second_size);
	assert_memory_equal(first, second, first_size);
	assert_int_equal(first_size, third_size);
	assert_memory_equal(first, third, first_size);
	pe_patch_free(patch);
	pe_patch_free(read);
}

/* What @command prints, which must succeed and complain of nothing. */
static char *run(const char *command, const char *path)
{
	pe_auto_free char *line = NULL;
	char *output = NULL;
	size_t size;

	assert_true(asprintf(&line, "%s '%s' 2>&1", command, path) > 0);

	FILE *in = popen(line, "r");
	FILE *out = open_memstream(&output, &size);

	assert_non_null(in);
	assert_non_null(out);
	for (int c; (c = getc(in)) != EOF;)
		putc(c, out);
	fclose(out);
	assert_int_equal(pclose(in), 0);
	assert_null(strcasestr(output, "warning"));
	assert_null(strcasestr(output, "error:"));
	return output;
}

static void readelf_and_objdump_understand_a_patch_file(void **state)
{
	struct pe_patch *patch = sample_patch(), *read = NULL;
	char directory[] = "/tmp/test-patch-XXXXXX";
	pe_auto_free char *path = NULL;

	assert_non_null(mkdtemp(directory));
	assert_true(asprintf(&path, "%s/x.cpatch", directory) > 0);
	must(pe_patch_write(patch, path));
	must(pe_patch_read(path, &read));
	same_patch(patch, read);

	pe_auto_free char *elf = run("readelf -aW", path);
	pe_auto_free char *code = run("objdump -drC", path);
	pe_auto_free char *frames = run("readelf --debug-dump=frames", path);
	pe_auto_free char *manifest = run("readelf -p .care.manifest", path);

	assert_non_null(strstr(elf, "R_X86_64_REX_GOTPCRELX"));
	assert_non_null(strstr(elf, "THR_KEY_mysys"));
	assert_non_null(strstr(code, "<Item::foo()>:"));
	assert_non_null(strstr(code, "R_X86_64_PLT32\tputs-0x4"));
	assert_non_null(strstr(frames, "ZERO terminator"));
	assert_non_null(strstr(manifest, "\"build_id\": \"7a14d39c\""));
	unlink(path);
	assert_int_equal(rmdir(directory), 0); /* no temporary file is left */
	pe_patch_free(patch);
	pe_patch_free(read);
}

static void a_file_that_cannot_be_written_is_named(void **state)
{
	struct pe_patch *patch = sample_patch();
	pe_auto_error struct pe_error *err = pe_patch_write(patch, "/nonexistent/x.cpatch");
	pe_auto_free char *text = pe_error_text(err);

	assert_non_null(strstr(text, "cannot create /nonexistent/x.cpatch"));
	pe_patch_free(patch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_patch_that_is_written_and_read_is_the_same),
		cmocka_unit_test(a_patch_with_the_least_contents_is_read_back_too),
		cmocka_unit_test(the_same_patch_gives_the_same_bytes),
		cmocka_unit_test(readelf_and_objdump_understand_a_patch_file),
		cmocka_unit_test(a_file_that_cannot_be_written_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
