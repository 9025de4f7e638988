/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which files could include a header, told from #include lines alone: quick, and never too few. */
#ifndef BUILD_INCLUDES_H
#define BUILD_INCLUDES_H

#include "build/text.h"

struct pe_includes;

/* Lists the files below @root; nothing is read yet. */
struct pe_error *pe_includes_open(const char *root, struct pe_includes **ret) pe_must_check;
void pe_includes_close(struct pe_includes *includes);

/* Reads @file (an absolute path), which @argv compiles, and whatever it may include. */
struct pe_error *pe_includes_command(struct pe_includes *includes, const char *file,
				     const struct pe_strv *argv) pe_must_check;
/* Everything was read: finds who may reach any of @headers, which are paths of any kind. */
struct pe_error *pe_includes_search(struct pe_includes *includes,
				    const struct pe_strv *headers) pe_must_check;
/* After the search: may @file include one of the headers? */
bool pe_includes_reaches(const struct pe_includes *includes, const char *file);

#endif
