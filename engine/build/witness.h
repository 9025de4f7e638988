/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses that no symbol table tells. A stripped library keeps the names of what it exports; a
 * function that its own sources share among each other is there without a name. Another unit that
 * defines it or refers to it, matched against the shipped code, bears witness to where it lies.
 */
#ifndef BUILD_WITNESS_H
#define BUILD_WITNESS_H

#include "build/units.h"

/*
 * The image vaddr of @name, a global name of the program. *@found is false when no unit tells; a
 * unit that does not compile or match tells nothing. Compiles at most a few units.
 */
struct pe_error *pe_witness_address(const struct pe_build *build, const char *name, uint64_t *vaddr,
				    bool *found) pe_must_check;

#endif
