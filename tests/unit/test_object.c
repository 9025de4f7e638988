/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Relocatable objects: linked tables of real ones, errors for damaged ones. */
#include "elf_build.h"

#include <elf.h>

#include "build/object.h"
#include "engine/cleanup.h"

static const char source[] =
	"extern \"C\" int puts(const char *);\n"
	"template <class T> struct Box { T v; T get() { return v; } };\n"
	"template struct Box<int>;\n"
	"static int counter;\n"
	"__attribute__((noinline)) static int step(int x) { return counter += x; }\n"
	"int entry(int x) { puts(\"hello\"); return step(x) + step(1); }\n";

static struct pe_object *object_build(void)
{
	struct pe_object *object = NULL;

	write_text("o.cc", source);
	run("g++ -O1 -g -fPIC -ffunction-sections -fdata-sections -c o.cc -o o.o");
	assert_null(pe_object_open("o.o", &object));
	return object;
}

static void symbols_sections_and_relocations_point_to_each_other(void **state)
{
	struct pe_object *object = object_build();
	const struct pe_object_symbol *entry = pe_object_find(object, "_Z5entryi");
	const struct pe_object_symbol *step = pe_object_find(object, "_ZL4stepi");
	size_t count, calls = 0;

	assert_non_null(entry);
	assert_int_equal(entry->type, STT_FUNC);
	assert_string_equal(entry->section->name, ".text._Z5entryi");
	assert_ptr_equal(&object->sections[entry->section->index], entry->section);
	assert_ptr_equal(&object->symbols[entry->index], entry);
	const struct pe_object_reloc *relocs = pe_object_relocs_in(
		entry->section, entry->value, entry->value + entry->size, &count);
	assert_int_equal(count, entry->section->reloc_count);
	for (size_t i = 0; i < count; i++) {
		assert_true(i == 0 || relocs[i].offset > relocs[i - 1].offset);
		calls += relocs[i].symbol == step || relocs[i].symbol->section == step->section;
	}
	assert_int_equal(calls, 2);
	assert_false(pe_object_find(object, "no_such_symbol"));
	assert_null(pe_object_find(object, "puts")); /* undefined here */
	assert_ptr_equal(pe_object_symbol_at(object, step->section, 1), step);
	pe_object_close(object);
}

static void a_template_instance_is_in_its_group(void **state)
{
	struct pe_object *object = object_build();
	const struct pe_object_symbol *get = pe_object_find(object, "_ZN3BoxIiE3getEv");

	assert_non_null(get);
	assert_int_equal(get->bind, STB_WEAK);
	assert_string_equal(get->section->group, "_ZN3BoxIiE3getEv");
	assert_null(pe_object_find(object, "_Z5entryi")->section->group);
	pe_object_close(object);
}

static void an_object_with_more_sections_than_a_header_can_count_is_read(void **state)
{
	FILE *out = fopen("many.c", "w");
	struct pe_object *object;

	assert_non_null(out);
	for (int i = 0; i < 33000; i++)
		fprintf(out, "int v%d = %d;\n", i, i + 1);
	fclose(out);
	run("gcc -fdata-sections -ffunction-sections -c many.c && printf 'int last = 3;\\n' > l.c");
	assert_null(pe_object_open("many.o", &object));
	assert_string_equal(pe_object_find(object, "v32999")->section->name, ".data.v32999");
	pe_object_close(object);
}

static bool survives(const char *path)
{
	struct pe_object *object;
	pe_auto_error struct pe_error *err = pe_object_open(path, &object);
	size_t sum = 0, count;

	if (err)
		return false;
	for (size_t i = 0; i < object->section_count; i++) {
		const struct pe_object_section *section = &object->sections[i];

		sum += strlen(section->name) + (section->group ? strlen(section->group) : 0);
		for (size_t j = 0; section->data && j < section->size; j++)
			sum += section->data[j];
		for (size_t j = 0; j < section->reloc_count; j++)
			sum += section->relocs[j].symbol->index;
		pe_object_symbol_at(object, section, 1);
		pe_object_relocs_in(section, 1, 9, &count);
	}
	for (size_t i = 0; i < object->symbol_count; i++) {
		const struct pe_object_symbol *symbol = &object->symbols[i];

		sum += strlen(symbol->name);
		if (symbol->section && symbol->size > 0 && symbol->section->data)
			sum += symbol->section->data[symbol->value + symbol->size - 1];
	}
	pe_object_close(object);
	return sum > 0;
}

static void damaged_objects_are_errors_and_never_crashes(void **state)
{
	uint32_t seed = 7;
	size_t size, refused = 0;

	pe_object_close(object_build());
	run("objcopy -g o.o small.o");
	pe_auto_free uint8_t *bytes = read_file("small.o", &size);
	pe_auto_free uint8_t *copy = malloc(size);
	for (size_t cut = 0; cut < size; cut += 7) {
		write_file("cut.o", bytes, cut);
		refused += !survives("cut.o");
	}
	assert_true(refused > size / 7 - 2);
	for (int round = 0; round < 3000; round++) {
		memcpy(copy, bytes, size);
		for (int flips = 1 + round % 6; flips > 0; flips--)
			copy[next_random(&seed) % size] ^= (uint8_t)(1 << next_random(&seed) % 8);
		write_file("flipped.o", copy, size);
		survives("flipped.o");
	}
}

static void code_without_bytes_is_refused(void **state)
{
	const char assembly[] = ".section .text.entry,\"ax\",@nobits\nentry: .skip 16\n";
	struct pe_object *object;

	write_file("nobits.s", assembly, strlen(assembly));
	run("as nobits.s -o nobits.o");

	pe_auto_error struct pe_error *err = pe_object_open("nobits.o", &object);

	assert_non_null(err);
	assert_non_null(strstr(err->message, "is code without bytes"));
}

static void a_program_is_no_object(void **state)
{
	struct pe_object *object;
	pe_auto_error struct pe_error *err = pe_object_open("/bin/true", &object);

	assert_int_equal(err->code, PE_ERR_FORMAT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(symbols_sections_and_relocations_point_to_each_other),
		cmocka_unit_test(a_template_instance_is_in_its_group),
		cmocka_unit_test(an_object_with_more_sections_than_a_header_can_count_is_read),
		cmocka_unit_test(damaged_objects_are_errors_and_never_crashes),
		cmocka_unit_test(code_without_bytes_is_refused),
		cmocka_unit_test(a_program_is_no_object),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
