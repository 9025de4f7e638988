/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `make -n` prints becomes a compile database. */
#include "build_helpers.h"

#include "build/database.h"
#include "build/dry_run.h"

#define auto_database __attribute__((cleanup(pe_database_deinit))) struct pe_database

static void read_back(const char *text, struct pe_database *ret)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	pe_auto_free char *json = NULL;

	ok(pe_temp_dir_init(&dir));
	ok(pe_dry_run_database(text, "/src/build", &json));
	put(&dir, "c.json", json);

	pe_auto_free char *path = in_dir(&dir, "c.json");

	ok(pe_database_read(path, ret));
}

static void compile_commands_become_entries_with_their_quotes(void **state)
{
	auto_database db = { 0 };

	read_back("perl ../util/make.pl x.c.in > x.c\n"
		  "gcc -I. -DDIR=\"\\\"/usr/lib\\\"\" -MMD -MF a.d -c -o lib/a.o ../lib/a.c\n"
		  "touch a.d\n"
		  "x86_64-linux-gnu-g++-12 -O2 -c -o b.o \\\n  ../lib/b.cc\n"
		  "gcc -shared -o liba.so lib/a.o b.o\n",
		  &db);
	assert_int_equal(db.count, 2);
	assert_string_equal(db.entries[0].file, "/src/lib/a.c");
	assert_string_equal(db.entries[0].output, "/src/build/lib/a.o");
	assert_string_equal(db.entries[0].argv.items[2], "-DDIR=\"/usr/lib\"");
	assert_string_equal(db.entries[1].file, "/src/lib/b.cc");
	assert_string_equal(db.entries[1].output, "/src/build/b.o");
}

static void directories_of_a_recursive_make_are_followed(void **state)
{
	auto_database db = { 0 };

	read_back("make[1]: Entering directory '/src/build/sub'\n"
		  "cc -c -o a.o a.c\n"
		  "make[1]: Leaving directory '/src/build/sub'\n"
		  "cc -c -o b.o b.c\n",
		  &db);
	assert_int_equal(db.count, 2);
	assert_string_equal(db.entries[0].file, "/src/build/sub/a.c");
	assert_string_equal(db.entries[1].file, "/src/build/b.c");
}

static void other_commands_are_left_out(void **state)
{
	pe_auto_free char *json = NULL;

	/* Assembler, a link, a script, two sources, a shell's list, an open quote. */
	fails(pe_dry_run_database("gcc -c -o a.o a.s\n"
				  "gcc -o prog a.c\n"
				  "echo gcc -c a.c\n"
				  "gcc -c a.c b.c\n"
				  "gcc -E x.c > y.c\n"
				  "gcc -c a.c && mv a.o b.o\n"
				  "mygcc2x -c a.c\n"
				  "for i in 'a\n"
				  "make[1]: Leaving directory '/x'\n",
				  "/src", &json),
	      PE_ERR_UNSUPPORTED, "no command that compiles");
	fails(pe_dry_run_database("", "/src", &json), PE_ERR_UNSUPPORTED, "make -n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(compile_commands_become_entries_with_their_quotes),
		cmocka_unit_test(directories_of_a_recursive_make_are_followed),
		cmocka_unit_test(other_commands_are_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
