/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page that a reviewer reads before a patch is let near a server: source diff, old and new code
 * side by side, why each function is in, what the diff says and the patch does not carry, and every
 * outside symbol. One HTML file, no script, nothing fetched.
 */
#ifndef BUILD_REPORT_H
#define BUILD_REPORT_H

#include "build/select.h"
#include "engine/image.h"
#include "engine/patch.h"

/*
 * @image: the shipped program, for the old code. @html is owned by the caller. What comes from the
 * patch file is hostile text: it is escaped.
 */
struct pe_error *pe_report_html(const struct pe_patch *patch, const struct pe_image *image,
				char **html, size_t *size) pe_must_check;

/* What a patch would have been: why there is none. Texts are escaped too. */
struct pe_refusal {
	const char *message, *code, *advice; /* of the error */
	const char *target;
	const struct pe_select_report *report; /* what was found until then */
};

/* The page of a patch that was refused; @patch is as pe_make_patch left it. */
struct pe_error *pe_report_refusal_html(const struct pe_patch *patch,
					const struct pe_refusal *refusal, char **html,
					size_t *size) pe_must_check;

#endif
