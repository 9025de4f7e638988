/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images: what the reader says about real programs and libraries, and about damaged ones. */
#include "elf_build.h"

#include <elf.h>

#include "engine/cleanup.h"
#include "engine/image.h"

static const char program_source[] =
	"#include <stdio.h>\n"
	"#include <stdlib.h>\n"
	"__thread int hidden_tls = 4;\n"
	"static __thread char block[40];\n"
	"static int twice(int x) { return hidden_tls + 2 * x; }\n"
	"int (*pointer)(int) = twice;\n"
	"const char *table[] = { \"a\", \"b\" };\n"
	"int main(int c, char **v)\n"
	"{ block[c] = 1; puts(getenv(\"HOME\")); fputs(v[0], stderr);\n"
	"  return pointer(c) + block[2]; }\n";

static struct pe_image *image_open(const char *path)
{
	struct pe_image *image = NULL;
	pe_auto_error struct pe_error *err = pe_image_open(path, &image);
	pe_auto_free char *text = err ? pe_error_text(err) : NULL;

	if (err)
		fail_msg("%s", text);
	return image;
}

static const struct pe_image_symbol *symbol_of(const struct pe_image *image, const char *name)
{
	size_t count;
	const struct pe_image_symbol *const *found = pe_image_find(image, name, &count);

	if (count != 1)
		fail_msg("%zu symbols %s", count, name);
	return found[0];
}

static void build_program(const char *flags)
{
	write_text("p.c", program_source);
	run("gcc -O1 -g %s -o p p.c && nm --defined-only p > p.sym && gzip -kf p.sym", flags);
}

/* ---- build-ids ---- */

static size_t note_add(uint8_t *at, const char *owner, uint32_t type, const void *desc,
		       uint32_t size, size_t align)
{
	Elf64_Nhdr note = { (uint32_t)strlen(owner) + 1, size, type };
	size_t name = sizeof(note), body = (name + note.n_namesz + align - 1) & ~(align - 1);

	memcpy(at, &note, sizeof(note));
	memcpy(at + name, owner, note.n_namesz);
	memcpy(at + body, desc, size);
	return (body + size + align - 1) & ~(align - 1);
}

static void the_build_id_is_found_whatever_the_order_of_the_notes(void **state)
{
	static const uint8_t id[20] = { 1, 2, 3, 4, 5 }, other[33] = { 9, 9 };

	for (int order = 0; order < 6; order++) {
		for (size_t align = 4; align <= 8; align += 4) {
			uint8_t notes[512] = { 0 };
			struct pe_build_id found;
			size_t size = 0;

			for (int i = 0; i < 3; i++) {
				int which = (order + i * (order < 3 ? 1 : 2)) % 3;

				if (which == 0)
					size += note_add(notes + size, "GNU", NT_GNU_BUILD_ID, id,
							 sizeof(id), align);
				else if (which == 1)
					size += note_add(notes + size, "GNU", NT_GNU_ABI_TAG, other,
							 16, align);
				else /* an odd owner and size, and a type that is the wanted one */
					size += note_add(notes + size, "stapsdt", NT_GNU_BUILD_ID,
							 other, 33, align);
			}
			assert_true(pe_build_id_from_notes(notes, size, &found));
			assert_int_equal(found.size, sizeof(id));
			assert_memory_equal(found.bytes, id, sizeof(id));
			/* Cut anywhere: found or not, but never beyond the end. */
			for (size_t cut = 0; cut < size; cut++) {
				pe_auto_free uint8_t *exact = malloc(cut + 1);

				memcpy(exact, notes, cut);
				pe_build_id_from_notes(exact, cut, &found);
			}
		}
	}
}

static void a_build_id_is_written_and_read_as_hex(void **state)
{
	struct pe_build_id id, again;
	char hex[2 * PE_BUILD_ID_MAX + 1];

	assert_true(pe_build_id_parse("00ffA1", &id));
	pe_build_id_hex(&id, hex);
	assert_string_equal(hex, "00ffa1");
	assert_true(pe_build_id_parse(hex, &again));
	assert_true(pe_build_id_equal(&id, &again));
	assert_false(pe_build_id_parse("", &id));
	assert_false(pe_build_id_parse("abc", &id));
	assert_false(pe_build_id_parse("zz", &id));
}

static void notes_before_the_build_id_of_a_real_program_do_not_hide_it(void **state)
{
	struct pe_build_id want;

	write_text("n.s",
		   ".section .note.AAA,\"a\",@note\n.p2align 2\n.long 4,6,3\n.asciz \"XYZ\"\n"
		   ".byte 1,2,3,4,5,6,0,0\n.section .note.GNU-stack,\"\",@progbits\n");
	write_text("m.c", "int main(void) { return 0; }\n");
	run("gcc -Wl,--build-id=0x0123456789abcdef -o n n.s m.c");
	assert_true(pe_build_id_parse("0123456789abcdef", &want));
	struct pe_image *image = image_open("n");
	assert_true(pe_build_id_equal(pe_image_build_id(image), &want));
	pe_image_close(image);
}

/* ---- symbols ---- */

static void sizes_types_and_extents_agree_with_the_symbol_table(void **state)
{
	uint64_t start, end;

	build_program("");
	struct pe_image *image = image_open("p");
	const struct pe_image_symbol *twice = symbol_of(image, "twice");

	assert_true(pe_image_is_pie(image));
	assert_int_equal(twice->type, STT_FUNC);
	assert_int_equal(twice->bind, STB_LOCAL);
	assert_true(pe_image_is_code(image, twice->vaddr));
	assert_true(pe_image_function_extent(image, twice->vaddr + 1, &start, &end));
	assert_int_equal(start, twice->vaddr);
	assert_int_equal(end - start, twice->size);
	assert_ptr_equal(pe_image_function_before(image, end - 1), twice);
	size_t count;
	assert_ptr_equal(pe_image_at(image, twice->vaddr, &count)[0], twice);
	assert_int_equal(count, 1);
	pe_image_close(image);
}

static void an_nm_list_gives_a_stripped_program_its_static_functions_back(void **state)
{
	static const char *const lists[] = { "p.sym", "p.sym.gz" };
	size_t count;

	build_program("");
	run("strip -o stripped p");
	struct pe_image *full = image_open("p");
	for (size_t i = 0; i < 2; i++) {
		struct pe_image *image = image_open("stripped");

		pe_image_find(image, "twice", &count);
		assert_int_equal(count, 0);
		assert_null(pe_image_add_nm(image, lists[i]));
		assert_int_equal(symbol_of(image, "twice")->vaddr, symbol_of(full, "twice")->vaddr);
		assert_int_equal(symbol_of(image, "twice")->source, PE_SOURCE_NM);
		assert_int_equal(symbol_of(image, "pointer")->type, STT_OBJECT);
		/* nm shows them among data at small addresses. */
		assert_int_equal(symbol_of(image, "hidden_tls")->type, STT_TLS);
		assert_int_equal(symbol_of(image, "block")->type, STT_TLS);
		assert_int_equal(symbol_of(image, "block")->vaddr, symbol_of(full, "block")->vaddr);
		pe_image_at(image, symbol_of(image, "block")->vaddr, &count);
		assert_int_equal(count, 0);
		pe_image_close(image);
	}
	pe_image_close(full);
}

static void a_list_of_another_build_is_refused(void **state)
{
	build_program("-rdynamic");
	run("sed -i 's/^\\(.*\\).. T main$/\\1ff T main/' p.sym; echo 'no list' > bad.sym");
	struct pe_image *image = image_open("p");
	pe_auto_error struct pe_error *other = pe_image_add_nm(image, "p.sym");
	pe_auto_error struct pe_error *bad = pe_image_add_nm(image, "bad.sym");
	pe_auto_error struct pe_error *none = pe_image_add_nm(image, "none.sym");

	assert_int_equal(other->code, PE_ERR_MISMATCH);
	assert_int_equal(bad->code, PE_ERR_FORMAT);
	assert_int_equal(none->code, PE_ERR_SYSTEM);
	assert_true(symbol_of(image, "main")->vaddr > 0); /* what was there still is */
	pe_image_close(image);
}

static void a_separate_debug_file_is_checked_by_build_id(void **state)
{
	build_program("");
	run("objcopy --only-keep-debug p p.debug && strip -o stripped p");
	run("gcc -O2 -o other p.c && objcopy --only-keep-debug other other.debug");
	struct pe_image *image = image_open("stripped");
	pe_auto_error struct pe_error *err = pe_image_add_debug(image, "other.debug");

	assert_int_equal(err->code, PE_ERR_MISMATCH);
	assert_null(pe_image_add_debug(image, "p.debug"));
	assert_int_equal(symbol_of(image, "twice")->source, PE_SOURCE_DEBUG);
	pe_image_close(image);
}

/* ---- slots ---- */

/* How many PLT entries lead to @name. */
static size_t plt_entries(const struct pe_image *image, const char *name)
{
	uint64_t start, end;
	size_t found = 0;

	pe_image_extent(image, &start, &end);
	for (uint64_t at = start; at < end; at++) {
		const struct pe_image_slot *slot = pe_image_plt_slot(image, at);

		found += slot && strcmp(slot->symbol, name) == 0;
	}
	return found;
}

static void imports_are_found_by_slot_and_through_plt_entries(void **state)
{
	static const char *const flavours[] = { "-pie -fPIE -Wl,-z,now", "-pie -fPIE -Wl,-z,lazy",
						"-no-pie -fno-pie", "-fcf-protection -Wl,-z,now" };

	for (size_t i = 0; i < sizeof(flavours) / sizeof(flavours[0]); i++) {
		build_program(flavours[i]);
		struct pe_image *image = image_open("p");
		const struct pe_image_slot *slot = pe_image_find_slot(image, "puts", NULL);
		bool now = strstr(flavours[i], "now") != NULL;

		assert_int_equal(pe_image_binds_now(image), now);
		assert_int_equal(slot != NULL, now);
		if (slot) {
			assert_string_equal(slot->version, "GLIBC_2.2.5");
			assert_ptr_equal(pe_image_slot_at(image, slot->vaddr), slot);
			assert_null(pe_image_find_slot(image, "puts", "GLIBC_9"));
		}
		assert_true(plt_entries(image, "puts") >= 1);
		slot = pe_image_find_slot(image, "stderr", NULL);
		assert_non_null(slot);
		assert_int_equal(slot->symbol_type, STT_OBJECT);
		size_t count;
		assert_string_equal(pe_image_needed(image, &count)[0], "libc.so.6");
		pe_image_close(image);
	}
}

static void relative_pointers_lead_where_the_program_will_find_them(void **state)
{
	static const char *const flavours[] = { "", "-Wl,-z,pack-relative-relocs" };
	uint64_t target;

	for (size_t i = 0; i < 2; i++) {
		build_program(flavours[i]);
		struct pe_image *image = image_open("p");
		const struct pe_image_symbol *pointer = symbol_of(image, "pointer");
		const struct pe_image_symbol *table = symbol_of(image, "table");

		assert_true(pe_image_relative_at(image, pointer->vaddr, &target));
		assert_int_equal(target, symbol_of(image, "twice")->vaddr);
		assert_true(pe_image_relative_at(image, table->vaddr + 8, &target));
		assert_string_equal(pe_image_bytes(image, target, 2), "b");
		assert_false(pe_image_relative_at(image, pointer->vaddr + 4, &target));
		assert_true(pe_image_is_writable(image, pointer->vaddr));
		assert_false(pe_image_is_writable(image, symbol_of(image, "_DYNAMIC")->vaddr));
		pe_image_close(image);
	}
}

static void a_library_without_section_headers_is_read_all_the_same(void **state)
{
	size_t size;

	write_text("l.c", "#include <stdlib.h>\n"
			  "__attribute__((visibility(\"hidden\"))) int deep(int x) { return x; }\n"
			  "void *shown(void) { return malloc(deep(1)); }\n");
	run("gcc -O1 -shared -fPIC -Wl,-soname,libl.so.7 -Wl,-z,now -o l.so l.c");
	pe_auto_free uint8_t *bytes = read_file("l.so", &size);
	Elf64_Ehdr *ehdr = (Elf64_Ehdr *)bytes;
	ehdr->e_shoff = ehdr->e_shnum = ehdr->e_shstrndx = 0;
	write_file("bare.so", bytes, size);

	struct pe_image *whole = image_open("l.so"), *bare = image_open("bare.so");
	assert_string_equal(pe_image_soname(bare), "libl.so.7");
	assert_int_equal(symbol_of(bare, "shown")->vaddr, symbol_of(whole, "shown")->vaddr);
	assert_string_equal(pe_image_find_slot(bare, "malloc", NULL)->version, "GLIBC_2.2.5");
	pe_image_close(whole);
	pe_image_close(bare);
}

/* ---- hostile input ---- */

/* Opens it and asks everything; whatever the answers, nothing may crash. */
static bool survives(const char *path)
{
	struct pe_image *image;
	uint64_t start, end, target;
	size_t count;
	pe_auto_error struct pe_error *err = pe_image_open(path, &image);

	if (err)
		return false;
	pe_auto_error struct pe_error *nm = pe_image_add_nm(image, "p.sym");
	const struct pe_image_symbol *const *symbols = pe_image_symbols(image, &count);
	for (size_t i = 0; i < count; i++) {
		pe_image_function_extent(image, symbols[i]->vaddr, &start, &end);
		pe_image_bytes(image, symbols[i]->vaddr, symbols[i]->size);
		pe_image_plt_slot(image, symbols[i]->vaddr);
		pe_image_relative_at(image, symbols[i]->vaddr, &target);
	}
	pe_image_find_slot(image, "puts", NULL);
	pe_image_close(image);
	return true;
}

static void damaged_images_are_errors_and_never_crashes(void **state)
{
	uint32_t seed = 1;
	size_t size, refused = 0;

	build_program("-Wl,-z,now");
	pe_auto_free uint8_t *bytes = read_file("p", &size);
	pe_auto_free uint8_t *copy = malloc(size);
	for (size_t cut = 0; cut < size; cut += 1 + cut / 16) {
		write_file("cut", bytes, cut);
		refused += !survives("cut");
	}
	assert_true(refused > 20);
	for (int round = 0; round < 1500; round++) {
		memcpy(copy, bytes, size);
		for (int flips = 1 + round % 8; flips > 0; flips--) {
			/* Mostly where the tables are. */
			size_t within = round % 2 ? 4096 : size;

			copy[next_random(&seed) % within] ^= (uint8_t)(1 << next_random(&seed) % 8);
		}
		write_file("flipped", copy, size);
		survives("flipped");
	}
}

static void what_is_no_image_is_named(void **state)
{
	struct pe_image *image;

	write_text("text",
		   "This is no ELF file, though it is longer than the header of one would be,"
		   " as one can see.");
	write_text("o.c", "int x;\n");
	run("gcc -c o.c");
	pe_auto_error struct pe_error *text = pe_image_open("text", &image);
	pe_auto_error struct pe_error *object = pe_image_open("o.o", &image);
	pe_auto_error struct pe_error *folder = pe_image_open(".", &image);
	pe_auto_error struct pe_error *none = pe_image_open("none", &image);

	assert_int_equal(text->code, PE_ERR_FORMAT);
	assert_int_equal(object->code, PE_ERR_FORMAT);
	assert_int_equal(folder->code, PE_ERR_FORMAT);
	assert_int_equal(none->code, PE_ERR_SYSTEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_build_id_is_found_whatever_the_order_of_the_notes),
		cmocka_unit_test(a_build_id_is_written_and_read_as_hex),
		cmocka_unit_test(notes_before_the_build_id_of_a_real_program_do_not_hide_it),
		cmocka_unit_test(sizes_types_and_extents_agree_with_the_symbol_table),
		cmocka_unit_test(an_nm_list_gives_a_stripped_program_its_static_functions_back),
		cmocka_unit_test(a_list_of_another_build_is_refused),
		cmocka_unit_test(a_separate_debug_file_is_checked_by_build_id),
		cmocka_unit_test(imports_are_found_by_slot_and_through_plt_entries),
		cmocka_unit_test(relative_pointers_lead_where_the_program_will_find_them),
		cmocka_unit_test(a_library_without_section_headers_is_read_all_the_same),
		cmocka_unit_test(damaged_images_are_errors_and_never_crashes),
		cmocka_unit_test(what_is_no_image_is_named),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
