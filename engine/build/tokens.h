/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two versions of a C or C++ text as the compiler reads them, token by token: what differs besides
 * blanks, line breaks and comments. A release that was indented anew differs in every file from the
 * one before; what it fixes stands in few of them.
 */
#ifndef BUILD_TOKENS_H
#define BUILD_TOKENS_H

#include <stddef.h>

#include "engine/error.h"

/*
 * @ret, owned by the caller, is the old text in which only those lines are replaced by new ones
 * whose tokens differ: it reads as the new text does, token by token, and is the old text to the
 * byte when no token differs. What the compiler can still tell from the new text: line numbers, and
 * the blanks between words that a macro turns into a string.
 */
struct pe_error *pe_tokens_merge(const char *old, size_t old_size, const char *new, size_t new_size,
				 char **ret, size_t *ret_size) pe_must_check;

/* Lower-case hex SHA-256 of the tokens alone: equal when two texts read the same. @hex: 65 bytes.
 */
struct pe_error *pe_tokens_hash(const char *text, size_t size, char *hex) pe_must_check;

#endif
