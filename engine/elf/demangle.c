/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Demangles through __cxa_demangle of whatever libstdc++ is installed. Loaded on first use: of all
 * programs only the builder wants it, and none should carry a C++ runtime for prettier names.
 */
#include "engine/demangle.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef char *(*demangle_fn)(const char *name, char *buffer, size_t *size, int *status);

static demangle_fn demangle;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
	void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_LOCAL);

	if (library)
		demangle = (demangle_fn)(uintptr_t)dlsym(library, "__cxa_demangle");
}

char *pe_demangle(const char *name)
{
	int status;

	pthread_once(&once, load);
	/* Without the prefix, "i" would be taken for a type and become "int". */
	char *text = demangle && strncmp(name, "_Z", 2) == 0 ? demangle(name, NULL, NULL, &status)
							     : NULL;
	return text ? text : strdup(name);
}
