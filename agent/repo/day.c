/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/repo/day.h"

#include <stdio.h>
#include <string.h>

static bool read_parts(const char *text, int *day, int *month, int *year)
{
	size_t digits = strspn(text, "0123456789");
	int end = 0;

	if (sscanf(text, "%4d-%2d-%2d%n", year, month, day, &end) == 3 && end == 10 && !text[end])
		return digits == 4;
	if (text[digits] || (digits != 6 && digits != 8))
		return false;
	return sscanf(text, "%2d%2d%4d", day, month, year) == 3;
}

struct pe_error *repo_day_parse(const char *text, time_t *ret)
{
	int day, month, year;

	if (!read_parts(text, &day, &month, &year))
		return pe_error_new(PE_ERR_USAGE, "'%.32s' is no date DDMMYY", text);

	struct tm date = { .tm_mday = day,
			   .tm_mon = month - 1,
			   .tm_year = (year < 100 ? year + 2000 : year) - 1900 };
	struct tm given = date;

	*ret = timegm(&date);
	/* timegm makes 31 February another day. */
	if (date.tm_mday != given.tm_mday || date.tm_mon != given.tm_mon)
		return pe_error_new(PE_ERR_USAGE, "there is no day %s", text);
	return NULL;
}
