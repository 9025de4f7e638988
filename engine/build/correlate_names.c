/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names without what the compiler numbers. A static local is "n.3", a clone "f.constprop.0", a
 * lambda "...UlvE2_...": the numbers shift when something is added before them, so symbols are
 * grouped by what is left without numbers, and paired inside the group by what they hold and who
 * uses them.
 */
#include <ctype.h>
#include <stdio.h>
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

/* Does @name, cut off at @end, end with a source name: its length in decimal, then so many bytes?
 */
static bool ends_with_source_name(const char *name, size_t end)
{
	for (size_t length = 1; length + 1 < end; length++) {
		char digits[21];
		int count = snprintf(digits, sizeof(digits), "%zu", length);
		size_t start = end - length;

		if ((size_t)count < start && !memcmp(name + start - count, digits, (size_t)count) &&
		    !isdigit((unsigned char)name[start - (size_t)count - 1]))
			return true;
	}
	return false;
}

/*
 * Drops what tells the second variable of a name in one function from the first (Itanium C++ ABI
 * 5.1.6): "_0", or "__10_" from the eleventh on. A new one in front makes the old one the second.
 */
static void drop_local_discriminator(char *name)
{
	size_t length = strlen(name), end = length;

	if (strncmp(name, "_ZZ", 3) != 0 && strncmp(name, "_ZGVZ", 5) != 0)
		return;
	bool many = end && name[end - 1] == '_';
	end -= many;
	while (end && isdigit((unsigned char)name[end - 1]))
		end--;
	size_t underscores = many ? 2 : 1;
	if (end == length - many || end < underscores || name[end - 1] != '_' ||
	    name[end - underscores] != '_')
		return;
	end -= underscores;
	if (ends_with_source_name(name, end))
		name[end] = 0;
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
	drop_local_discriminator(key);
	return key;
}
