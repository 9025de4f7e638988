/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Showing patch files and plans on a command line. */
#ifndef ENGINE_SHOW_H
#define ENGINE_SHOW_H

#include <jansson.h>

#include "engine/apply.h"

/* Prints manifest, functions, symbols and sizes of a patch: tables, or one JSON object. */
void pe_cli_show(const struct pe_patch *patch, bool json);
/* The JSON object alone; owned by the caller. */
json_t *pe_cli_patch_json(const struct pe_patch *patch);

/* What stands at the entry of a planned function now. */
const char *pe_cli_entry_now(const struct pe_plan_function *function);
/* The patches that a plan replaces: lines, or an array owned by the caller. */
void pe_cli_print_replaced(const struct pe_plan *plan);
json_t *pe_cli_json_replaced(const struct pe_plan *plan);
json_t *pe_cli_json_strings(const char *const *strings, size_t count);
/* A line on threads that still have old frames; nothing when the patch has settled. */
void pe_cli_print_old_frames(const struct pe_applied *applied);

#endif
