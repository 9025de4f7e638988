/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Showing a patch file on a command line. */
#ifndef ENGINE_SHOW_H
#define ENGINE_SHOW_H

#include <jansson.h>

#include "engine/patch.h"

/* Prints manifest, functions, symbols and sizes of a patch: tables, or one JSON object. */
void pe_cli_show(const struct pe_patch *patch, bool json);
/* The JSON object alone; owned by the caller. */
json_t *pe_cli_patch_json(const struct pe_patch *patch);

#endif
