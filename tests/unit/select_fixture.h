/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two versions of a small source, compiled and linked at test time, and the patch between them.
 * The source defines entry(), which a main() in another file calls.
 */
#ifndef TEST_SELECT_FIXTURE_H
#define TEST_SELECT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <string.h>
#include <sys/stat.h>

#include "build/select.h"
#include "build/survey.h"
#include "engine/cleanup.h"

/* What the other file of the program holds besides main(); for the next fixture_make. */
static const char *other_source;

struct fixture {
	char dir[32];
	struct pe_object *base, *patched;
	struct pe_image *image;
	struct pe_match *match;
	struct pe_patch *patch;
	struct pe_select_report report;
	struct pe_error *err; /* of pe_select */
};

static void write_file(const struct fixture *f, const char *name, const char *text)
{
	pe_auto_free char *path = NULL;

	assert_true(asprintf(&path, "%s/%s", f->dir, name) > 0);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void shell(const struct fixture *f, const char *fmt, ...)
{
	pe_auto_free char *args = NULL, *command = NULL;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&args, fmt, ap) > 0);
	va_end(ap);
	assert_true(asprintf(&command, "cd %s && %s", f->dir, args) > 0);
	assert_int_equal(system(command), 0);
}

static const char *const main_source =
	"int entry(int n);\n"
	"int main(int argc, char **argv) { (void)argv; return entry(argc); }\n";

/* Matches @base against @program and selects. */
static void fixture_select(struct fixture *f, const char *base, const char *patched,
			   const char *program, const struct pe_select_options *options)
{
	static const struct pe_select_options none;

	assert_null(pe_object_open(base, &f->base));
	assert_null(pe_object_open(patched, &f->patched));
	assert_null(pe_image_open(program, &f->image));
	assert_null(pe_match_run(f->base, f->image, &f->match));
	f->patch = pe_patch_new();
	assert_non_null(f->patch);
	f->patch->name = strdup("test");
	f->patch->kind = strdup("bugfix");
	f->patch->product = strdup("test");
	struct pe_unit_objects unit = { "unit.c", f->base, f->patched, f->match };
	f->err = pe_select(&unit, 1, f->image, options ? options : &none, f->patch, &f->report);
}

/*
 * Compiles both versions with @flags ("-x c ..." or "-x c++ ..."), links the base one, matches and
 * selects. What pe_select says is in f->err.
 */
static void fixture_make(struct fixture *f, const char *flags, const char *base,
			 const char *patched, const struct pe_select_options *options)
{
	pe_auto_free char *o = NULL, *n = NULL, *program = NULL;

	memset(f, 0, sizeof(*f));
	strcpy(f->dir, "/tmp/test-select-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	bool own_main = strstr(base, "int main(");
	pe_auto_free char *rest = NULL;
	assert_true(asprintf(&rest, "%s%s", own_main ? "" : main_source,
			     other_source ? other_source : "") >= 0);
	other_source = NULL;
	write_file(f, "main.c", rest);
	shell(f, "mkdir base patched");
	write_file(f, "base/unit.src", base);
	write_file(f, "patched/unit.src", patched);
	shell(f,
	      "for v in base patched; do cd $v && gcc -O2 -g -ffunction-sections -fdata-sections "
	      "-ffile-prefix-map=%s=. "
	      "-c -o ../$v.o %s unit.src && cd .. || exit 1; done",
	      f->dir, flags);
	shell(f, "gcc -O2 -c main.c && g++ %s -Wl,-z,now -o program main.o base.o",
	      strstr(flags, "-no-pie") ? "-no-pie" : "-pie");
	assert_true(asprintf(&o, "%s/base.o", f->dir) > 0);
	assert_true(asprintf(&n, "%s/patched.o", f->dir) > 0);
	assert_true(asprintf(&program, "%s/program", f->dir) > 0);
	fixture_select(f, o, n, program, options);
}

static void fixture_free(struct fixture *f)
{
	pe_select_report_deinit(&f->report);
	pe_patch_free(f->patch);
	pe_match_free(f->match);
	pe_image_close(f->image);
	pe_object_close(f->base);
	pe_object_close(f->patched);
	pe_error_free(f->err);
	shell(f, "rm -rf %s", f->dir);
}

/* Fails with the refusal's own words. */
static inline void assert_made(struct fixture *f)
{
	if (f->err) {
		pe_auto_free char *text = pe_error_text(f->err);
		fail_msg("refused: %s", text);
	}
	pe_auto_error struct pe_error *err = pe_patch_check(f->patch);
	if (err) {
		pe_auto_free char *text = pe_error_text(err);
		fail_msg("the patch is not well formed: %s", text);
	}
}

static inline void assert_refused(struct fixture *f, enum pe_code code, const char *words)
{
	assert_non_null(f->err);
	pe_auto_free char *text = pe_error_text(f->err);
	if (f->err->code != code || !strstr(text, words))
		fail_msg("expected %s and \"%s\", got %s: %s", pe_code_name(code), words,
			 pe_code_name(f->err->code), text);
	/* A survey counts it by a reason of its own. */
	if (!pe_survey_reason(pe_code_name(code), text))
		fail_msg("no reason of a survey is known for: %s", text);
}

static inline const struct pe_patch_function *find_function(const struct fixture *f,
							    const char *name)
{
	for (size_t i = 0; i < f->patch->function_count; i++) {
		if (!strcmp(f->patch->functions[i].name, name))
			return &f->patch->functions[i];
	}
	return NULL;
}

static inline const struct pe_patch_symbol *find_symbol(const struct fixture *f, const char *name)
{
	for (size_t i = 0; i < f->patch->symbol_count; i++) {
		if (!strcmp(f->patch->symbols[i].name, name))
			return &f->patch->symbols[i];
	}
	return NULL;
}

static inline void assert_kind(const struct fixture *f, const char *name,
			       enum pe_patch_symbol_kind kind)
{
	const struct pe_patch_symbol *s = find_symbol(f, name);

	if (!s)
		fail_msg("the patch has no symbol %s", name);
	if (s->kind != kind)
		fail_msg("%s is of kind %d, not %d", name, s->kind, kind);
}

static inline uint64_t image_address(const struct fixture *f, const char *name)
{
	size_t count;
	const struct pe_image_symbol *const *list = pe_image_find(f->image, name, &count);

	assert_true(count > 0);
	return list[0]->vaddr;
}

/* The section that holds @text, or NULL. */
static inline const struct pe_patch_section *section_with(const struct fixture *f,
							  const void *bytes, size_t size)
{
	for (size_t i = 0; i < f->patch->section_count; i++) {
		const struct pe_patch_section *s = &f->patch->sections[i];

		if (s->data && memmem(s->data, s->size, bytes, size))
			return s;
	}
	return NULL;
}

#endif
