/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which sources include a header: asked from the compiler. */
#ifndef BUILD_DEPENDS_H
#define BUILD_DEPENDS_H

#include "build/units.h"

/*
 * The sources of the program (relative to the source root, sorted) that include any of @headers.
 * The preprocessor runs over each unit that could; its answers are kept with the target when the
 * source is immutable.
 */
struct pe_error *pe_depends_sources(const struct pe_build *build, const struct pe_strv *headers,
				    struct pe_strv *ret) pe_must_check;

#endif
