/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of engine/arch expect of an error. */
#ifndef UNIT_ARCH_CHECKS_H
#define UNIT_ARCH_CHECKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/arch.h"
#include "engine/cleanup.h"

static void must(struct pe_error *err)
{
	if (err) {
		pe_auto_free char *text = pe_error_text(err);

		fail_msg("%s", text);
	}
}

static void refused(struct pe_error *given, const char *expected)
{
	pe_auto_error struct pe_error *err = given;

	if (!err) {
		fail_msg("not refused: %s", expected);
		return;
	}
	pe_auto_free char *text = pe_error_text(err);

	if (!strstr(text, expected))
		fail_msg("expected \"%s\", got \"%s\"", expected, text);
	assert_int_equal(err->code, PE_ERR_UNSUPPORTED);
}

#endif
