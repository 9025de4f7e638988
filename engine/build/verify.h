/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is a patch file what it says? Its original bytes are looked up in the shipped program, and it is
 * made once more, from the target's source and the diff that it carries, to be compared byte by
 * byte.
 */
#ifndef BUILD_VERIFY_H
#define BUILD_VERIFY_H

#include "build/make.h"

struct pe_verify_result {
	size_t ranges;		/* of original code that were compared */
	uint64_t original;	/* bytes in them */
	size_t functions;	/* that the rebuilt patch replaces */
	struct pe_strv differs; /* what is not the same, in words; empty: the file is verified */
};

/*
 * @bytes is the file that @patch was read from; @work an existing empty directory. Everything is
 * compiled anew, whatever is kept. Errors say that it could not be found out (no diff in the file,
 * another target, the compiler failed); that the file is not what it says is told by differs.
 */
struct pe_error *pe_verify(struct pe_build *build, const struct pe_patch *patch, const void *bytes,
			   size_t size, const char *work,
			   struct pe_verify_result *ret) pe_must_check;
void pe_verify_result_deinit(struct pe_verify_result *result);

/* NULL when one of @patch's targets is the program of @build; MISMATCH with both build-ids. */
struct pe_error *pe_verify_target(const struct pe_build *build,
				  const struct pe_patch *patch) pe_must_check;
/*
 * Makes the patch again from the diff that @patch carries, and from what its maker said of it.
 * @work as in pe_make_options; @result as pe_make_patch leaves it.
 */
struct pe_error *pe_remake(const struct pe_build *build, const struct pe_patch *patch,
			   const char *work, struct pe_patch *again,
			   struct pe_make_result *result) pe_must_check;

#endif
