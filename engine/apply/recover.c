/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recovery: what a dead patcher left is finished or undone. Every state has one answer:
 *
 *	memfd without mapping, mapping without complete ledger   → removed
 *	STAGED                                                   → removed
 *	SWITCHING, committed (word 1; or all direct entries ours) → finished: SETTLING; what it
 *	                                                           replaced becomes REVERTED
 *	SWITCHING, else                                          → undone: entries restored (to
 *	                                                           what it would have replaced);
 *	                                                           if there are none, removed
 *	SETTLING                                                 → APPLIED when nobody is in
 *	                                                           old code
 *	REVERTING, committed (word 0; or any direct entry back)  → finished: entries restored
 *	REVERTING, else                                          → undone: APPLIED
 *	REVERTED                                                 → memory released when unused
 *
 * It is itself killed at any point without harm: each answer leads to a state of this table.
 */
#include "internal.h"

#include <dirent.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "engine/cleanup.h"

static void say(struct pe_recovery *ret, const char *what, const char *name)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s %s", ret->text ? ret->text : "", ret->text ? "\n" : "", name,
		     what) < 0)
		return;
	free(ret->text);
	ret->text = joined;
}

void pe_recovery_deinit(struct pe_recovery *recovery)
{
	free(recovery->text);
	*recovery = (struct pe_recovery){ 0 };
}

/* ---- descriptors ---- */

bool fd_is_ours(const struct pe_target *target, int fd)
{
	char path[64], link[128];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pe_target_pid(target), fd);
	ssize_t n = readlink(path, link, sizeof(link) - 1);

	return n >= (ssize_t)strlen(MAPPING_PREFIX) &&
	       !strncmp(link, MAPPING_PREFIX, strlen(MAPPING_PREFIX));
}

static struct pe_error *close_fd(struct pe_target *target, int fd, uint64_t deadline)
{
	const uint64_t args[6] = { (uint64_t)fd };
	struct pe_injector *injector;
	int64_t result;
	struct pe_error *err = inject_begin_until(target, PE_INJECT_SYSCALL, deadline, &injector);

	if (err)
		return err;
	/* Time has passed: the process may have closed it, and opened something else there. */
	if (fd_is_ours(target, fd))
		err = pe_inject_syscall(injector, SYS_close, args, &result);

	struct pe_error *end = pe_inject_end(injector);

	if (!err)
		return end;
	pe_error_free(end);
	return err;
}

static struct pe_error *recover_fds(struct pe_target *target, uint64_t deadline,
				    struct pe_recovery *ret)
{
	char path[64];
	struct pe_error *err = NULL;

	snprintf(path, sizeof(path), "/proc/%d/fd", pe_target_pid(target));
	DIR *dir = opendir(path);

	if (!dir)
		return NULL; /* no rights, or no process: whatever comes next tells it better */
	for (struct dirent *entry; !err && (entry = readdir(dir));) {
		if (entry->d_name[0] == '.' || !fd_is_ours(target, atoi(entry->d_name)))
			continue;
		err = close_fd(target, atoi(entry->d_name), deadline);
		if (!err) {
			ret->undone++;
			say(ret, "was not staged: its descriptor is closed", "a patch");
		}
	}
	closedir(dir);
	return err;
}

/* ---- ledgers ---- */

static struct pe_error *try_release(struct pe_target *target, struct ledger *ledger,
				    const struct stop_view *view, struct pe_recovery *ret)
{
	pe_auto_free char *kept = NULL;
	struct pe_error *err = release(target, ledger, view, &kept);

	if (!err && !kept) {
		ret->released++;
		say(ret, "is reverted: its memory is released", ledger->name);
	}
	return err;
}

static struct pe_error *take_back(struct pe_target *target, struct ledger *ledger,
				  uint64_t deadline, struct pe_recovery *ret)
{
	struct pe_switch_result result = { 0 };
	struct stop_view view = { 0 };
	struct pe_error *err = switch_back(target, ledger, false, NULL, deadline, &result, &view);

	if (!err)
		err = try_release(target, ledger, &view, ret);
	stop_view_deinit(&view);
	pe_switch_result_deinit(&result);
	return err;
}

static struct pe_error *recover_switching(struct pe_target *target, struct ledger *ledger,
					  struct ledgers *ledgers, uint64_t deadline,
					  struct pe_recovery *ret)
{
	bool committed;
	size_t ours = 0;
	struct pe_error *err = ledger_is_committed(target, ledger, &committed);

	if (!err)
		err = ledger_count_ours(target, ledger, &ours);
	if (!err && committed)
		err = replace_finish(target, ledger, ledgers, deadline);
	if (err)
		return err;
	if (committed) {
		ret->finished++;
		say(ret, "was being applied by somebody who died: finished", ledger->name);
		return ledger_write_state(target, ledger, PE_STATE_SETTLING);
	}
	ret->undone++;
	say(ret, "was being applied by somebody who died: undone", ledger->name);
	if (!ours) /* nobody has ever run it: whoever restores entries says REVERTING first */
		return unstage(target, ledger, deadline);
	return take_back(target, ledger, deadline, ret);
}

static struct pe_error *recover_reverting(struct pe_target *target, struct ledger *ledger,
					  uint64_t deadline, struct pe_recovery *ret)
{
	bool committed;
	struct pe_error *err = ledger_is_committed(target, ledger, &committed);

	if (err)
		return err;
	if (committed) {
		ret->undone++;
		say(ret, "was being reverted by somebody who died: still applied", ledger->name);
		return ledger_write_state(target, ledger, PE_STATE_SETTLING);
	}
	ret->finished++;
	say(ret, "was being reverted by somebody who died: finished", ledger->name);
	return take_back(target, ledger, deadline, ret);
}

/* Only an independent patch leaves calls of the old code under way. */
static struct pe_error *recover_settling(struct pe_target *target, struct ledger *ledger,
					 bool *done)
{
	size_t threads, unknown;
	struct pe_error *err = NULL;

	*done = true;
	if (!ledger->header.variable.applied_at) { /* whoever switched died before it was noted */
		ledger->header.variable.applied_at = time(NULL);
		err = ledger_write_field(target, ledger, applied_at);
	}
	if (!err && (ledger->header.flags & LEDGER_INDEPENDENT))
		err = settled(target, ledger, done, &threads, &unknown);
	if (!err && *done)
		err = ledger_write_state(target, ledger, PE_STATE_APPLIED);
	return err;
}

static struct pe_error *recover_one(struct pe_target *target, struct ledger *ledger,
				    struct ledgers *ledgers, uint64_t deadline,
				    struct pe_recovery *ret)
{
	bool was_settling = ledger->header.variable.state == PE_STATE_SETTLING, done = false;
	struct pe_error *err;

	if (!ledger->complete || ledger->header.variable.state == PE_STATE_STAGED) {
		err = unstage(target, ledger, deadline);
		if (!err) {
			ret->undone++;
			say(ret, "was staged by somebody who died: removed", ledger->name);
		}
		return err;
	}
	switch (ledger->header.variable.state) {
	case PE_STATE_SWITCHING:
		err = recover_switching(target, ledger, ledgers, deadline, ret);
		break;
	case PE_STATE_REVERTING:
		err = recover_reverting(target, ledger, deadline, ret);
		break;
	case PE_STATE_REVERTED:
		return try_release(target, ledger, NULL, ret);
	default:
		err = NULL;
	}
	if (!err && ledger->header.variable.state == PE_STATE_SETTLING)
		err = recover_settling(target, ledger, &done);
	if (!err && was_settling && done) {
		ret->finished++;
		say(ret, "has settled: no thread is left in the old code", ledger->name);
	}
	return err;
}

struct pe_error *recover_locked(struct pe_target *target, uint64_t deadline,
				struct pe_recovery *ret)
{
	struct ledgers ledgers = { 0 };

	*ret = (struct pe_recovery){ 0 };

	struct pe_error *err = recover_fds(target, deadline, ret);

	if (!err)
		err = ledgers_read(target, &ledgers);
	/* The latest first: an earlier one's bytes are below. */
	for (size_t i = ledgers.count; !err && i-- > 0;) {
		err = recover_one(target, &ledgers.items[i], &ledgers, deadline, ret);
		if (err)
			err = pe_error_wrap(err, "cannot recover patch %s", ledgers.items[i].name);
	}
	ledgers_deinit(&ledgers);
	return err;
}

struct recover {
	struct pe_target *target;
	struct pe_recovery *ret;
};

static struct pe_error *recover(void *ctx)
{
	const struct recover *r = ctx;
	uint64_t deadline = options_deadline(NULL);
	int lock = -1;
	struct pe_error *err = check_approachable(r->target);

	if (!err)
		err = lock_take(r->target, &lock);
	if (!err)
		err = recover_locked(r->target, deadline, r->ret);
	lock_release(r->target, &lock);
	return explain_death(r->target, err);
}

struct pe_error *pe_recover(struct pe_target *target, struct pe_recovery *ret)
{
	struct recover ctx = { target, ret };

	*ret = (struct pe_recovery){ 0 };
	return pe_target_trace(target, recover, &ctx);
}
