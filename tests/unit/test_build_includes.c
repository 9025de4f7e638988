/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who may include a header, told from #include lines. */
#include "build_helpers.h"

#include "build/includes.h"

struct fixture {
	struct pe_temp_dir dir;
	struct pe_includes *includes;
	struct pe_strv argv;
};

static void setup(struct fixture *f)
{
	*f = (struct fixture){ 0 };
	ok(pe_temp_dir_init(&f->dir));
	pe_strv_add(&f->argv, "cc");
	put(&f->dir, "a.c", "#include \"sub/top.h\"\n");
	put(&f->dir, "b.c", "  #  include <other.h>\n/* #include \"low.h\" says a comment */\n");
	put(&f->dir, "c.c", "int c;\n");
	put(&f->dir, "inc/sub/top.h", "#define UNUSED \"low.h\"\n#include_next <mid.h>\n");
	put(&f->dir, "inc/mid.h", "#include \"low.h\"\n#include \"mid.h\"\n");
	put(&f->dir, "inc/other.h", "#ifdef X\n#error \"include low.h first\"\n#endif\n");
	put(&f->dir, "inc/low.h", "\n");
}

static bool reaches(struct fixture *f, const char *file, const char *header)
{
	pe_auto_strv struct pe_strv headers = { 0 };
	pe_auto_free char *path = in_dir(&f->dir, file);

	ok(pe_includes_open(f->dir.path, &f->includes));
	ok(pe_includes_command(f->includes, path, &f->argv));
	pe_strv_add(&headers, header);
	ok(pe_includes_search(f->includes, &headers));

	bool found = pe_includes_reaches(f->includes, path);

	pe_includes_close(f->includes);
	return found;
}

static void teardown(struct fixture *f)
{
	pe_strv_deinit(&f->argv);
	pe_temp_dir_deinit(&f->dir);
}

static void a_header_is_found_through_other_headers(void **state)
{
	struct fixture f;

	setup(&f);
	assert_true(reaches(&f, "a.c", "inc/low.h"));
	assert_true(reaches(&f, "a.c", "inc/sub/top.h"));
	assert_false(reaches(&f, "b.c", "inc/low.h"));
	assert_false(reaches(&f, "c.c", "inc/low.h"));
	teardown(&f);
}

static void a_header_that_the_command_names_is_found(void **state)
{
	struct fixture f;

	setup(&f);
	pe_strv_add(&f.argv, "-include");
	pe_strv_add(&f.argv, "inc/mid.h");
	assert_true(reaches(&f, "c.c", "low.h"));
	teardown(&f);
}

static void a_macro_instead_of_a_file_is_followed(void **state)
{
	struct fixture f;

	setup(&f);
	put(&f.dir, "m.c", "#define OTHER THIS\n#define THIS \"inc/low.h\"\n#include OTHER\n");
	put(&f.dir, "n.c", "#include CONFIG\n");
	put(&f.dir, "o.c", "#define PASTE(x) <x.h>\n#include PASTE(low)\n");
	assert_true(reaches(&f, "m.c", "low.h"));
	assert_false(reaches(&f, "n.c", "low.h"));
	/* What cannot be told may be anything. */
	assert_true(reaches(&f, "o.c", "low.h"));
	pe_strv_add(&f.argv, "-DCONFIG=\"low.h\"");
	assert_true(reaches(&f, "n.c", "low.h"));
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_is_found_through_other_headers),
		cmocka_unit_test(a_header_that_the_command_names_is_found),
		cmocka_unit_test(a_macro_instead_of_a_file_is_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
