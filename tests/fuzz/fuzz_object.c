/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzing what the builder makes of an object file and its debug information.
 *
 * One input is one relocatable object. It takes the place of the object compiled from the patched
 * source: it is read, correlated with the unpatched one, its DWARF is compared type by type, and a
 * patch is made of it. Whatever it is, the answer is a patch that keeps every rule, or an error.
 *
 * FUZZ_OBJECTS names a folder with base.o, patched.o (to start from) and program, linked from
 * base.o. Like fuzz_patch.c in the rest: with -DFUZZ_MAIN there is a main() for single files.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "build/select.h"
#include "engine/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct {
	struct pe_object *base;
	struct pe_image *image;
	struct pe_match *match;
} fixture;

static void must(struct pe_error *err)
{
	if (!err)
		return;
	fprintf(stderr, "%s\n", pe_error_text(err));
	abort();
}

static void fixture_open(void)
{
	const char *dir = getenv("FUZZ_OBJECTS");
	pe_auto_free char *base = NULL, *program = NULL;

	if (fixture.base)
		return;
	if (!dir || asprintf(&base, "%s/base.o", dir) < 0 ||
	    asprintf(&program, "%s/program", dir) < 0) {
		fprintf(stderr, "FUZZ_OBJECTS names no folder\n");
		abort();
	}
	must(pe_object_open(base, &fixture.base));
	must(pe_image_open(program, &fixture.image));
	must(pe_match_run(fixture.base, fixture.image, &fixture.match));
}

/* The writer still refuses what breaks a rule of patch files; what it writes can be read. */
static void check_made(const struct pe_patch *patch)
{
	pe_auto_free void *bytes = NULL;
	size_t size;
	struct pe_patch *again = NULL;
	pe_auto_error struct pe_error *err = pe_patch_serialize(patch, &bytes, &size);

	if (!err)
		must(pe_patch_parse(bytes, size, &again));
	pe_patch_free(again);
}

static void select_from(const struct pe_object *patched)
{
	static const struct pe_select_options options;
	const struct pe_unit_objects unit = { "unit.cc", fixture.base, patched, fixture.match };
	struct pe_select_report report = { 0 };
	struct pe_patch *patch = pe_patch_new();

	if (!patch)
		abort();
	patch->name = strdup("fuzz");
	patch->kind = strdup("bugfix");
	patch->product = strdup("test");
	pe_auto_error struct pe_error *err =
		pe_select(&unit, 1, fixture.image, &options, patch, &report);
	if (!err)
		check_made(patch);
	pe_select_report_deinit(&report);
	pe_patch_free(patch);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	char path[64];
	struct pe_object *object = NULL;
	pe_auto_fd int fd = memfd_create("object", MFD_CLOEXEC);

	fixture_open();
	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	pe_auto_error struct pe_error *err = pe_object_open(path, &object);
	if (!err == !object)
		abort();
	if (object)
		select_from(object);
	pe_object_close(object);
	return 0;
}

#ifdef FUZZ_MAIN
int main(int argc, char **argv)
{
	static uint8_t bytes[1 << 20];

	for (int i = 1; i < argc; i++) {
		FILE *in = fopen(argv[i], "rb");

		if (!in) {
			perror(argv[i]);
			return 1;
		}
		LLVMFuzzerTestOneInput(bytes, fread(bytes, 1, sizeof(bytes), in));
		fclose(in);
	}
	return 0;
}
#endif
