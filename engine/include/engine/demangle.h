/* SPDX-License-Identifier: GPL-2.0-or-later */
/* C++ names for people. */
#ifndef ENGINE_DEMANGLE_H
#define ENGINE_DEMANGLE_H

/* The demangled name, or a copy of @name when it is none of C++;
 * owned by the caller; NULL without memory. */
char *pe_demangle(const char *name);

#endif
