/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compile commands are split, moved to the patched tree and cleaned of paths. */
#include "build_helpers.h"

#include "build/command.h"
#include "build/debian.h"

#define auto_database __attribute__((cleanup(pe_database_deinit))) struct pe_database

static void database(const char *command, struct pe_database *ret)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	pe_auto_free char *text = pe_format("[{\"directory\":\"/src/build\",\"command\":\"%s\","
					    "\"file\":\"../sql/a.cc\"}]",
					    command);

	ok(pe_temp_dir_init(&dir));
	put(&dir, "c.json", text);

	pe_auto_free char *path = in_dir(&dir, "c.json");

	ok(pe_database_read(path, ret));
}

static char *made(const char *command, const char *work)
{
	auto_database db = { 0 };
	pe_auto_strv struct pe_strv argv = { 0 };

	database(command, &db);
	ok(pe_command_make(&db.entries[0], "/o.o", "/src", work, &argv));
	return pe_strv_join(&argv, " ");
}

static void check_made(const char *command, const char *work, const char *expected)
{
	pe_auto_free char *text = made(command, work);

	assert_string_equal(text, expected);
}

#define OWN " -ffunction-sections -fdata-sections -frandom-seed=care-build -o /o.o"

static void words_are_split_as_a_shell_does(void **state)
{
	pe_auto_strv struct pe_strv words = { 0 };

	ok(pe_split_command("a  'b c' \"d \\\"e\\\\\" f\\ g -DX=\\\"y\\\" ''", &words));
	assert_int_equal(words.count, 6);
	assert_string_equal(words.items[1], "b c");
	assert_string_equal(words.items[2], "d \"e\\");
	assert_string_equal(words.items[3], "f g");
	assert_string_equal(words.items[4], "-DX=\"y\"");
	assert_string_equal(words.items[5], "");
	fails(pe_split_command("a 'b", &words), PE_ERR_FORMAT, "quote");
}

static void entries_have_absolute_names(void **state)
{
	auto_database db = { 0 };
	size_t from = 0;

	database("cc -g -o x/a.o -c ../sql/a.cc", &db);
	assert_string_equal(db.entries[0].file, "/src/sql/a.cc");
	assert_string_equal(db.entries[0].output, "/src/build/x/a.o");
	assert_ptr_equal(pe_database_next(&db, "/src/sql/a.cc", &from), &db.entries[0]);
	assert_null(pe_database_next(&db, "/src/sql/a.cc", &from));
}

static void the_unpatched_command_only_changes_its_output(void **state)
{
	check_made("cc -g -O2 -I/src/include -o x/a.o -c /src/sql/a.cc", NULL,
		   "cc -g -O2 -I/src/include -c /src/sql/a.cc" OWN);
	check_made("cc -MD -MT x -MF x.d -oa.o /src/sql/a.cc", NULL, "cc /src/sql/a.cc -c -g" OWN);
}

static void the_patched_command_leads_to_the_patched_tree(void **state)
{
	check_made("cc -g -I/src/include -isystem /src/x -I/srcx -DDIR=/src/d "
		   "-ffile-prefix-map=/src=. -c /src/sql/a.cc",
		   "/w",
		   "cc -ffile-prefix-map=/w=/src -g -I/w/include -isystem /w/x -I/srcx "
		   "-DDIR=/src/d -ffile-prefix-map=/w=. -c /w/sql/a.cc" OWN);
	check_made("ccache g++ -g -c /src/sql/a.cc", "/w",
		   "ccache g++ -ffile-prefix-map=/w=/src -g -c /w/sql/a.cc" OWN);
}

static void link_time_optimisation_is_refused(void **state)
{
	auto_database db = { 0 };
	pe_auto_strv struct pe_strv argv = { 0 };

	database("cc -flto=auto -c ../sql/a.cc", &db);
	fails(pe_command_make(&db.entries[0], "/o.o", "/src", NULL, &argv), PE_ERR_UNSUPPORTED,
	      "-flto");
}

static void the_flags_of_the_manifest_hold_no_path(void **state)
{
	auto_database db = { 0 };

	database("cc -g -O2 -I/src/i -isystem /x -DA=1 -DB=/x -O2 -ffile-prefix-map=/src=. -Wall "
		 "-fPIC -o a.o -c /src/sql/a.cc",
		 &db);

	pe_auto_free char *flags = pe_command_flags(&db.entries[0]);

	assert_string_equal(flags, "-g -O2 -DA=1 -fPIC");
}

static void damaged_databases_are_refused(void **state)
{
	static const char *const texts[] = { "",
					     "{}",
					     "[]",
					     "[{}]",
					     "[1]",
					     "[{\"directory\":\"/\",\"file\":\"a.c\"}]",
					     "[{\"directory\":\"/\",\"file\":\"a.c\","
					     "\"arguments\":[1]}]" };
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };

	ok(pe_temp_dir_init(&dir));
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		auto_database db = { 0 };

		put(&dir, "c.json", texts[i]);

		pe_auto_free char *path = in_dir(&dir, "c.json");

		fails(pe_database_read(path, &db), PE_ERR_FORMAT, "c.json");
	}
}

static void objects_are_followed_through_archives_of_a_cmake_build(void **state)
{
	pe_auto_temp_dir struct pe_temp_dir dir = { 0 };
	pe_auto_strv struct pe_strv linked = { 0 };
	auto_database db = { 0 };

	ok(pe_temp_dir_init(&dir));
	put(&dir, "app/CMakeFiles/app.dir/link.txt", "cc -O2 main.o -o app ../lib/libx.a -lm\n");
	put(&dir, "lib/CMakeFiles/x.dir/link.txt", "ar qc libx.a x.o y.o\nranlib libx.a\n");
	put(&dir, "lib/CMakeFiles/z.dir/link.txt", "ar qc libz.a z.o\n");

	pe_auto_free char *text =
		pe_format("[{\"directory\":\"%s/app\",\"file\":\"m.c\",\"command\":\"cc m.c\"},"
			  "{\"directory\":\"%s/lib\",\"file\":\"x.c\",\"command\":\"cc x.c\"}]",
			  dir.path, dir.path);

	put(&dir, "c.json", text);

	pe_auto_free char *path = in_dir(&dir, "c.json");

	ok(pe_database_read(path, &db));
	ok(pe_linked_objects(&db, "app", &linked));

	pe_auto_free char *x = in_dir(&dir, "lib/x.o");
	pe_auto_free char *z = in_dir(&dir, "lib/z.o");

	assert_int_equal(linked.count, 3);
	assert_true(pe_strv_has(&linked, x));
	assert_false(pe_strv_has(&linked, z));
}

static void package_sources_follow_the_machine_and_add_the_source_packages(void **state)
{
	pe_auto_free char *own = pe_debian_sources(
		"Debian|http://m/debian|bookworm|main\nDebian|http://m/debian|bookworm|main\n"
		"Other|http://o|stable|main\nDebian|http://m/debian|trixie|main\n"
		"Debian|http://m/debian-security|bookworm-security|main\n",
		"bookworm", "bookworm", true, "/k.gpg");
	pe_auto_free char *none = pe_debian_sources("", "bookworm", "bookworm", true, NULL);

	assert_string_equal(own,
			    "deb [signed-by=/k.gpg] http://m/debian bookworm main\n"
			    "deb-src [signed-by=/k.gpg] http://m/debian bookworm main\n"
			    "deb [signed-by=/k.gpg] http://m/debian-security bookworm-security "
			    "main\n"
			    "deb-src [signed-by=/k.gpg] http://m/debian-security "
			    "bookworm-security main\n");
	assert_non_null(strstr(none, "deb-src http://deb.debian.org/debian bookworm main\n"));
}

static void package_sources_of_another_release_come_from_the_same_mirrors(void **state)
{
	static const char targets[] = "Debian|http://m/debian|bookworm|main\n"
				      "Debian|http://m/debian-security|bookworm-security|main\n"
				      "Debian|http://m/debian|bookwormish|main\n";
	pe_auto_free char *all = pe_debian_sources(targets, "bookworm", "trixie", true, NULL);
	pe_auto_free char *alone = pe_debian_sources(targets, "bookworm", "trixie", false, NULL);

	assert_string_equal(all, "deb http://m/debian trixie main\n"
				 "deb-src http://m/debian trixie main\n"
				 "deb http://m/debian-security trixie-security main\n"
				 "deb-src http://m/debian-security trixie-security main\n");
	assert_string_equal(alone, "deb http://m/debian trixie main\n"
				   "deb-src http://m/debian trixie main\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_are_split_as_a_shell_does),
		cmocka_unit_test(entries_have_absolute_names),
		cmocka_unit_test(the_unpatched_command_only_changes_its_output),
		cmocka_unit_test(the_patched_command_leads_to_the_patched_tree),
		cmocka_unit_test(link_time_optimisation_is_refused),
		cmocka_unit_test(the_flags_of_the_manifest_hold_no_path),
		cmocka_unit_test(damaged_databases_are_refused),
		cmocka_unit_test(objects_are_followed_through_archives_of_a_cmake_build),
		cmocka_unit_test(package_sources_follow_the_machine_and_add_the_source_packages),
		cmocka_unit_test(package_sources_of_another_release_come_from_the_same_mirrors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
