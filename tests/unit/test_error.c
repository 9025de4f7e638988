/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors keep their code through wrapping and print as one sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "engine/cleanup.h"

static void wrapping_keeps_the_code_and_puts_the_sentence_in_front(void **state)
{
	struct pe_error *inner = pe_error_new(PE_ERR_BUSY, "thread %d is in foo()", 7);
	pe_auto_error struct pe_error *err = pe_error_wrap(inner, "cannot apply x");
	pe_auto_free char *text = pe_error_text(err);

	assert_int_equal(err->code, PE_ERR_BUSY);
	assert_string_equal(text, "cannot apply x: thread 7 is in foo()");
}

static void errno_decides_between_system_and_permission(void **state)
{
	pe_auto_error struct pe_error *denied = pe_error_errno(EPERM, "open x");
	pe_auto_error struct pe_error *missing = pe_error_errno(ENOENT, "open x");

	assert_int_equal(denied->code, PE_ERR_PERMISSION);
	assert_int_equal(missing->code, PE_ERR_SYSTEM);
	pe_auto_free char *text = pe_error_text(missing);
	assert_string_equal(text, "open x: No such file or directory");
}

static void every_code_has_a_name_and_an_exit_status_of_the_design(void **state)
{
	for (int code = PE_OK; code < PE_ERR_COUNT; code++) {
		assert_non_null(pe_code_name(code));
		assert_in_range(pe_code_exit_status(code), 0, 6);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrapping_keeps_the_code_and_puts_the_sentence_in_front),
		cmocka_unit_test(errno_decides_between_system_and_permission),
		cmocka_unit_test(every_code_has_a_name_and_an_exit_status_of_the_design),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
