/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page that a reviewer reads before a patch is let near a server: source diff, old and new code
 * side by side, why each function is in, what the diff says and the patch does not carry, and every
 * outside symbol. One HTML file, no script, nothing fetched.
 */
#ifndef BUILD_REPORT_H
#define BUILD_REPORT_H

#include "engine/image.h"
#include "engine/patch.h"

/*
 * @image: the shipped program, for the old code. @html is owned by the caller. What comes from the
 * patch file is hostile text: it is escaped.
 */
struct pe_error *pe_report_html(const struct pe_patch *patch, const struct pe_image *image,
				char **html, size_t *size) pe_must_check;

#endif
