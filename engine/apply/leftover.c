/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a dead patcher left in a process, as recovery would find it, without touching anything. A
 * patcher that lives and works on it is told apart by its lock.
 */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "engine/cleanup.h"

static const char *describe(const struct ledger *ledger)
{
	if (!ledger->complete)
		return "an apply was interrupted while its memory was made; nothing runs it";
	switch (ledger->header.variable.state) {
	case PE_STATE_STAGED:
		return "an apply was interrupted before its switch; nothing runs it";
	case PE_STATE_SWITCHING:
		return "an apply was interrupted in its switch";
	case PE_STATE_REVERTING:
		return "a revert was interrupted";
	default:
		return NULL;
	}
}

static void add(struct pe_leftovers *ret, const char *name, const char *what)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s: %s", ret->text ? ret->text : "", ret->text ? "\n" : "", name,
		     what) < 0)
		return;
	free(ret->text);
	ret->text = joined;
	ret->count++;
}

static bool has_descriptor(const struct pe_target *target)
{
	char path[64];
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%d/fd", pe_target_pid(target));
	DIR *dir = opendir(path);

	if (!dir)
		return false;
	for (struct dirent *entry; !found && (entry = readdir(dir));)
		found = entry->d_name[0] != '.' && fd_is_ours(target, atoi(entry->d_name));
	closedir(dir);
	return found;
}

struct pe_error *pe_leftovers_read(const struct pe_target *target, struct pe_leftovers *ret)
{
	struct ledgers ledgers = { 0 };

	*ret = (struct pe_leftovers){ .patcher = lock_holder(target) };

	struct pe_error *err = ledgers_read(target, &ledgers);

	for (size_t i = 0; !err && i < ledgers.count; i++) {
		const char *what = describe(&ledgers.items[i]);

		if (what)
			add(ret, ledgers.items[i].name, what);
	}
	if (!err && !ret->count && has_descriptor(target))
		add(ret, "a patch", "an apply was interrupted before its memory was made");
	ledgers_deinit(&ledgers);
	/* Whoever works on it may have ended meanwhile, and begun only now: then all is well. */
	if (!ret->patcher)
		ret->patcher = lock_holder(target);
	return err;
}

void pe_leftovers_deinit(struct pe_leftovers *leftovers)
{
	free(leftovers->text);
	*leftovers = (struct pe_leftovers){ 0 };
}
