/* SPDX-License-Identifier: GPL-2.0-or-later */
/* C++ names for people, by the demangler of the C++ run-time library (Itanium C++ ABI 5.1). */
#include "engine/demangle.h"

#include <stdio.h>
#include <string.h>

#include "engine/cleanup.h"

char *__cxa_demangle(const char *name, char *buffer, size_t *length, int *status);

char *pe_demangle(const char *name)
{
	int status;

	if (!strncmp(name, "_Z", 2)) {
		/* The suffix of a clone is no part of the mangled name. */
		size_t stem = strcspn(name, ".");
		pe_auto_free char *mangled = strndup(name, stem);
		pe_auto_free char *plain =
			mangled ? __cxa_demangle(mangled, NULL, NULL, &status) : NULL;
		char *whole;

		if (plain && asprintf(&whole, "%s%s", plain, name + stem) >= 0)
			return whole;
	}
	return strdup(name);
}
