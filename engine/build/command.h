/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The variants of a compile command that we run. */
#ifndef BUILD_COMMAND_H
#define BUILD_COMMAND_H

#include "build/database.h"

/*
 * The command of @entry with its output in @object, -ffunction-sections -fdata-sections, debug
 * information (the guard reads types) and without writing dependency files. With @work not NULL
 * every path below @root leads below @work instead, and @work's name does not show in the object
 * (__FILE__ and debug paths stay those of the unpatched compilation).
 * With @object NULL only the options that the preprocessor needs are there, and nothing says what
 * to do. UNSUPPORTED for what we cannot compare, such as -flto.
 */
struct pe_error *pe_command_make(const struct pe_unit_entry *entry, const char *object,
				 const char *root, const char *work,
				 struct pe_strv *ret) pe_must_check;
/* Where it runs: @entry's directory, below @work when given. Owned by the caller. */
char *pe_command_directory(const struct pe_unit_entry *entry, const char *root, const char *work);
/* How many words name the compiler: 2 when a launcher (ccache) stands in front. */
size_t pe_command_compiler_words(const struct pe_unit_entry *entry);
/*
 * The options that shape the code, without any path: for the manifest. Owned by the caller.
 */
char *pe_command_flags(const struct pe_unit_entry *entry);

#endif
