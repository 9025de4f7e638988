/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names without what the compiler numbers. A static local is "n.3", a clone "f.constprop.0", a
 * lambda "...UlvE2_...": the numbers shift when something is added before them, so symbols are
 * grouped by what is left without numbers, and paired inside the group by what they hold and who
 * uses them.
 */
#include <ctype.h>
#include <string.h>

#include "build/select_private.h"

/* Drops ".123" components: "n.3" -> "n", "f.part.0.cold" -> "f.part.cold". */
static void drop_numbers(char *name)
{
	char *out = strchr(name + 1, '.');

	for (const char *in = out; in && *in;) {
		size_t length = 1 + strcspn(in + 1, ".");

		if (length == 1 || strspn(in + 1, "0123456789") != length - 1) {
			memmove(out, in, length);
			out += length;
		}
		in += length;
		if (!*in)
			*out = 0;
	}
}

/*
 * Drops the discriminators of lambdas and unnamed types (Itanium C++ ABI 5.1.8): the number
 * between the E that ends a lambda's parameters and "_", and the one of "Ut3_".
 */
static void drop_discriminators(char *name)
{
	char *out = name;
	bool lambda = false;

	for (const char *in = name; *in;) {
		if (!strncmp(in, "Ul", 2))
			lambda = true;
		bool unnamed = !strncmp(in, "Ut", 2);
		size_t skip = unnamed ? 2 : lambda && *in == 'E';
		size_t digits = skip ? strspn(in + skip, "0123456789") : 0;

		*out++ = *in++;
		if (unnamed)
			*out++ = *in++;
		if (skip && digits && in[digits] == '_')
			in += digits;
	}
	*out = 0;
}

char *pe_sel_name_key(const char *name)
{
	char *key = strdup(name);

	if (!key || !key[0])
		return key;
	if (!strncmp(key, "DW.ref.", 7))
		return key;
	drop_numbers(key);
	if (!strncmp(key, "_Z", 2))
		drop_discriminators(key);
	return key;
}
