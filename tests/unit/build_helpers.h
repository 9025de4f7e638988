/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A folder of files for tests of the builder. */
#ifndef TEST_BUILD_HELPERS_H
#define TEST_BUILD_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "build/files.h"
#include "engine/cleanup.h"

static inline void ok(struct pe_error *err)
{
	pe_auto_free char *text = err ? pe_error_text(err) : NULL;

	if (err)
		fail_msg("unexpected error: %s", text);
}

/* The error must have that code and say @part. */
static inline void fails(struct pe_error *err, enum pe_code code, const char *part)
{
	assert_non_null(err);

	pe_auto_free char *text = pe_error_text(err);

	if (err->code != code || !strstr(text, part))
		fail_msg("expected %s with \"%s\", got %s: %s", pe_code_name(code), part,
			 pe_code_name(err->code), text);
	pe_error_free(err);
}

static inline char *in_dir(const struct pe_temp_dir *dir, const char *name)
{
	return pe_format("%s/%s", dir->path, name);
}

/* Writes a file and the folders above it. */
static inline void put(const struct pe_temp_dir *dir, const char *name, const char *text)
{
	pe_auto_free char *path = in_dir(dir, name);
	pe_auto_free char *folder = strdup(path);

	*strrchr(folder, '/') = 0;
	ok(pe_dir_make(folder));
	ok(pe_file_write(path, text, strlen(text)));
}

static inline char *get(const struct pe_temp_dir *dir, const char *name)
{
	pe_auto_free char *path = in_dir(dir, name);
	char *text = NULL;

	ok(pe_file_read(path, &text, NULL));
	return text;
}

#endif
