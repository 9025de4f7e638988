/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzing the reader of patch files.
 *
 * One input is one file. What is refused must be refused without harm; what is accepted must keep
 * every rule and survive being written and read again. A sanitizer or abort() tells otherwise.
 *
 * With clang -fsanitize=fuzzer only LLVMFuzzerTestOneInput() is used. With -DFUZZ_MAIN there is a
 * main(): no argument reads one input from standard input (AFL), files are tried one by one
 * (to repeat a crash), and --seed FILE writes the patch to start from.
 */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "sample_patch.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_accepted(struct pe_patch *patch)
{
	struct pe_patch *again = NULL;
	void *written = NULL, *rewritten = NULL;
	size_t written_size, rewritten_size;

	if (pe_patch_check(patch) || pe_patch_serialize(patch, &written, &written_size) ||
	    pe_patch_parse(written, written_size, &again) ||
	    pe_patch_serialize(again, &rewritten, &rewritten_size))
		abort();
	if (written_size != rewritten_size || memcmp(written, rewritten, written_size) != 0)
		abort();
	pe_patch_free(again);
	free(written);
	free(rewritten);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	/* The fuzzer's own buffer may be larger than the input. */
	uint8_t *exact = sample_copy(bytes, size);
	struct pe_patch *patch = NULL;
	struct pe_error *err;

	/* No fuzzer finds a checksum. */
	sample_seal(exact, size);
	err = pe_patch_parse(exact, size, &patch);
	if (!err == !patch)
		abort();
	if (patch)
		check_accepted(patch);
	free(pe_error_text(err));
	pe_error_free(err);
	pe_patch_free(patch);
	free(exact);
	return 0;
}

#ifdef FUZZ_MAIN
static int try_file(const char *path, FILE *in)
{
	static uint8_t bytes[1 << 20];

	if (!in) {
		perror(path);
		return 1;
	}
	LLVMFuzzerTestOneInput(bytes, fread(bytes, 1, sizeof(bytes), in));
	return 0;
}

static int write_seed(const char *path)
{
	struct pe_patch *patch = sample_patch();
	struct pe_error *err = pe_patch_write(patch, path);

	pe_patch_free(patch);
	if (!err)
		return 0;
	fprintf(stderr, "%s\n", err->message);
	pe_error_free(err);
	return 1;
}

int main(int argc, char **argv)
{
	int status = 0;

	if (argc == 3 && !strcmp(argv[1], "--seed"))
		return write_seed(argv[2]);
	if (argc == 1)
		return try_file("standard input", stdin);
	for (int i = 1; i < argc; i++) {
		FILE *in = fopen(argv[i], "rb");

		status |= try_file(argv[i], in);
		if (in)
			fclose(in);
	}
	return status;
}
#endif
