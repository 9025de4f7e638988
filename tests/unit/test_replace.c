/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A patch takes the place of others in one switch: which ones, what each function does then, what
 * is refused, and that nothing is left of them.
 */
#include "apply_fixture.h"

static const char *const first_name[] = { "first" };
static const char *const second_name[] = { "second" };
static const char *const both_names[] = { "first", "second" };

static struct pe_patch *level(uint32_t number, const char *const *functions, size_t count,
			      int value, bool independent)
{
	struct pe_patch *patch = make_patch("set", functions, count, value, independent);

	patch->level = number;
	return patch;
}

/* One applied patch, named and of that level, and nothing else mapped. */
static void assert_only(struct fixture *f, const char *name, uint32_t number)
{
	struct pe_applied_list list;

	succeed(pe_applied_read(f->target, &list));
	assert_int_equal(list.count, 1);
	assert_string_equal(list.items[0].name, name);
	assert_int_equal(list.items[0].level, number);
	/* Of a thread that runs all the time nobody knows whether it has left old code. */
	assert_true(list.items[0].state == PE_STATE_APPLIED ||
		    list.items[0].state == PE_STATE_SETTLING);
	pe_applied_list_deinit(&list);
}

static struct pe_error *apply_replacing(struct fixture *f, const struct pe_patch *patch,
					const char *const *names, size_t count,
					struct pe_switch_result *result)
{
	struct pe_plan *plan = NULL;
	struct pe_error *err = pe_plan_create_replacing(f->target, patch, names, count, &plan);

	*result = (struct pe_switch_result){ 0 };
	if (!err)
		err = pe_apply(f->target, plan, NULL, result);
	pe_plan_free(plan);
	return err;
}

static void a_higher_level_takes_the_place_of_the_lower(void **state)
{
	for (int independent = 0; independent <= 1; independent++) {
		struct fixture f = start(body_threads);

		for (uint32_t number = 1; number <= 5; number++) {
			struct pe_patch *patch = level(number, both_names, 2, 43, independent);
			struct pe_switch_result result;

			succeed(apply(&f, patch, 5000000, &result));
			assert_int_equal(result.replaced_count, number > 1);
			if (result.memory_kept)
				must_release(&f);
			pe_switch_result_deinit(&result);
			assert_int_equal(ask('f'), 43);
			assert_int_equal(ask('s'), 44);
			assert_only(&f, "set", number);
			pe_patch_free(patch);
		}
		must_revert(&f, "set");
		assert_int_equal(ask('f'), 1);
		assert_int_equal(ask('s'), 2);
		assert_int_equal(f.shared->errors, 0);
		assert_untouched(&f);
		finish(&f);
	}
}

static void one_function_needs_no_word(void **state)
{
	struct fixture f = start(body_answers);

	for (uint32_t number = 1; number <= 3; number++) {
		struct pe_patch *patch = level(number, first_name, 1, 40 + (int)number, true);

		must_apply(&f, patch);
		assert_int_equal(ask('f'), 40 + (int)number);
		assert_only(&f, "set", number);
		pe_patch_free(patch);
	}
	must_revert(&f, "set");
	assert_int_equal(ask('f'), 1);
	assert_untouched(&f);
	finish(&f);
}

/* Entries that only the old one has get their bytes back; others take their place later. */
static void functions_come_and_go_with_the_levels(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *levels[] = {
		level(1, both_names, 2, 10, false),  level(2, first_name, 1, 20, true),
		level(3, second_name, 1, 30, true),  level(4, both_names, 2, 40, true),
		level(5, second_name, 1, 50, false),
	};
	static const int answers[][2] = { { 10, 11 }, { 20, 2 }, { 1, 30 }, { 40, 41 }, { 1, 50 } };

	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++) {
		must_apply(&f, levels[i]);
		assert_int_equal(ask('f'), answers[i][0]);
		assert_int_equal(ask('s'), answers[i][1]);
		assert_only(&f, "set", levels[i]->level);
		/* A function that was let go is free for others. */
		if (i == 1) {
			struct pe_patch *other = make_patch("other", second_name, 1, 99, true);

			must_apply(&f, other);
			assert_int_equal(ask('s'), 99);
			must_revert(&f, "other");
			pe_patch_free(other);
		}
	}
	must_revert(&f, "set");
	assert_untouched(&f);
	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
		pe_patch_free(levels[i]);
	finish(&f);
}

static void expect_text(struct pe_error *err, enum pe_code code, const char *a, const char *b)
{
	assert_non_null(err);
	pe_auto_free char *text = pe_error_text(err);

	if (!strstr(text, a) || !strstr(text, b))
		fail_msg("%s", text);
	expect(err, code);
}

static void what_may_not_be_replaced_stays(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *three = level(3, first_name, 1, 30, true);
	struct pe_patch *same = level(3, first_name, 1, 31, true);
	struct pe_patch *lower = level(2, first_name, 1, 20, true);
	struct pe_patch *wrong = level(4, first_name, 1, 40, true);
	struct pe_patch *upper = make_patch("upper", first_name, 1, 99, true);
	struct pe_patch *four = level(4, first_name, 1, 40, true);
	static const char *const missing[] = { "missing" };
	static const char *const set[] = { "set" };
	struct pe_switch_result result;

	must_apply(&f, three);
	expect(apply(&f, three, 0, &result), PE_ERR_NOTHING);
	expect_text(apply(&f, same, 0, &result), PE_ERR_UNSUPPORTED, "level 3", "revert it first");
	expect_text(apply(&f, lower, 0, &result), PE_ERR_UNSUPPORTED, "level 3", "level 2");
	wrong->functions[0].ranges[0].sha256[0] ^= 1;
	expect(apply(&f, wrong, 0, &result), PE_ERR_MISMATCH);
	expect_text(apply_replacing(&f, four, missing, 1, &result), PE_ERR_NO_TARGET, "missing",
		    "not");
	assert_int_equal(ask('f'), 30);
	assert_only(&f, "set", 3);
	must_apply(&f, upper);
	expect_text(apply(&f, four, 0, &result), PE_ERR_BUSY, "upper", "--replace");
	assert_int_equal(ask('f'), 99);
	must_revert(&f, "upper");
	/* Back to a lower level only when told so. */
	succeed(apply_replacing(&f, lower, set, 1, &result));
	pe_switch_result_deinit(&result);
	assert_int_equal(ask('f'), 20);
	assert_only(&f, "set", 2);
	must_revert(&f, "set");
	assert_untouched(&f);
	pe_patch_free(three);
	pe_patch_free(same);
	pe_patch_free(lower);
	pe_patch_free(wrong);
	pe_patch_free(upper);
	pe_patch_free(four);
	finish(&f);
}

static void several_others_are_replaced_at_once(void **state)
{
	static const char *const names[] = { "one", "both" };
	struct fixture f = start(body_threads);
	struct pe_patch *base = patch_both(false);
	struct pe_patch *one = patch_first("one", 43);
	struct pe_patch *all = make_patch("all", second_name, 1, 44, true);
	struct pe_switch_result result;

	must_apply(&f, base);
	must_apply(&f, one);
	succeed(apply_replacing(&f, all, names, 2, &result));
	assert_int_equal(result.replaced_count, 2);
	if (result.memory_kept)
		must_release(&f);
	pe_switch_result_deinit(&result);
	assert_int_equal(ask('f'), 1);
	assert_int_equal(ask('s'), 44);
	assert_only(&f, "all", 1);
	must_revert(&f, "all");
	assert_int_equal(f.shared->errors, 0);
	assert_untouched(&f);
	pe_patch_free(base);
	pe_patch_free(one);
	pe_patch_free(all);
	finish(&f);
}

static void what_lies_below_is_reached_again(void **state)
{
	struct fixture f = start(body_answers);
	struct pe_patch *below = make_patch("below", both_names, 2, 70, false);
	struct pe_patch *one = level(1, both_names, 2, 10, false);
	struct pe_patch *two = level(2, first_name, 1, 20, true);

	must_apply(&f, below);
	must_apply(&f, one);
	must_apply(&f, two);
	assert_int_equal(ask('f'), 20);
	assert_int_equal(ask('s'), 71);
	must_revert(&f, "set");
	assert_int_equal(ask('f'), 70);
	assert_int_equal(ask('s'), 71);
	must_revert(&f, "below");
	assert_untouched(&f);
	pe_patch_free(below);
	pe_patch_free(one);
	pe_patch_free(two);
	finish(&f);
}

static void a_blocked_replacement_leaves_the_old_one(void **state)
{
	static const char *const names[] = { "first", "sleeper" };
	struct fixture f = start(body_busy);
	struct pe_patch *one = level(1, first_name, 1, 10, true);
	struct pe_patch *two = level(2, names, 2, 20, false);
	struct pe_switch_result result;

	must_apply(&f, one);
	pe_auto_free char *before = read_maps(f.pid);
	expect(apply(&f, two, 300000, &result), PE_ERR_BUSY);
	assert_string_equal(result.blocking_functions[0], "sleeper");
	pe_switch_result_deinit(&result);
	pe_auto_free char *after = read_maps(f.pid);
	assert_string_equal(before, after);
	assert_int_equal(ask('f'), 10);
	assert_only(&f, "set", 1);
	must_revert(&f, "set");
	assert_untouched(&f);
	pe_patch_free(one);
	pe_patch_free(two);
	finish(&f);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "--child"))
		return child_main(argv);

	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_higher_level_takes_the_place_of_the_lower),
		cmocka_unit_test(one_function_needs_no_word),
		cmocka_unit_test(functions_come_and_go_with_the_levels),
		cmocka_unit_test(what_may_not_be_replaced_stays),
		cmocka_unit_test(several_others_are_replaced_at_once),
		cmocka_unit_test(what_lies_below_is_reached_again),
		cmocka_unit_test(a_blocked_replacement_leaves_the_old_one),
	};

	cmocka_set_test_filter(getenv("FILTER"));
	return cmocka_run_group_tests(tests, open_own_image, close_own_image);
}
