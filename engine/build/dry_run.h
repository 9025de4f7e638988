/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A compile database for a Makefile that writes none: from what `make -n` prints. */
#ifndef BUILD_DRY_RUN_H
#define BUILD_DRY_RUN_H

#include "engine/error.h"

/*
 * @text: what `make -n` printed that was started in @dir (absolute). Directories that a recursive
 * make enters and leaves are followed. UNSUPPORTED when there is no compile command in it.
 * @ret: owned by the caller, as compile_commands.json is written.
 */
struct pe_error *pe_dry_run_database(const char *text, const char *dir, char **ret) pe_must_check;

#endif
