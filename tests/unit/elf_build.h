/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tests on real ELF files: a scratch directory, the compiler, files. */
#ifndef TESTS_ELF_BUILD_H
#define TESTS_ELF_BUILD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char scratch[64];

static inline int scratch_setup(void **state)
{
	snprintf(scratch, sizeof(scratch), "/tmp/pe-unit-XXXXXX");
	return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "cd / && rm -r %s", scratch);
	return chdir("/") || system(command);
}

static inline void write_file(const char *path, const void *bytes, size_t size)
{
	FILE *out = fopen(path, "wb");

	assert_non_null(out);
	assert_int_equal(fwrite(bytes, 1, size, out), size);
	assert_int_equal(fclose(out), 0);
}

static inline void write_text(const char *path, const char *text)
{
	write_file(path, text, strlen(text));
}

/* The whole file, with a zero behind it; the caller frees it. */
static inline uint8_t *read_file(const char *path, size_t *size)
{
	FILE *in = fopen(path, "rb");

	assert_non_null(in);
	fseek(in, 0, SEEK_END);
	*size = (size_t)ftell(in);
	rewind(in);
	uint8_t *bytes = calloc(1, *size + 1);
	assert_non_null(bytes);
	assert_int_equal(fread(bytes, 1, *size, in), *size);
	fclose(in);
	return bytes;
}

/* Runs a shell command in the scratch directory; the test fails when it does. */
static inline void run(const char *fmt, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

/* A small generator with the same numbers each time. */
static inline uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

#endif
