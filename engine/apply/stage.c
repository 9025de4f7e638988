/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Staging: the finished patch becomes a mapping of the target; nothing runs it yet.
 *
 * The target itself creates a memfd (injected call); we fill it through /proc/PID/fd before it is
 * mapped, each piece with its final protection, so that no page is ever writable and executable.
 * Where the target may not have a memfd, or may not execute from one, an anonymous mapping serves,
 * filled through /proc/PID/mem. The magic of the ledger is written last: a mapping without it is
 * the work of a patcher that died here, and recovery removes it.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "engine/cleanup.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static const int max_places = 8;
static const uint64_t call_timeout_us = 2000000;

struct pe_error *inject_begin_until(struct pe_target *target, enum pe_inject_for purpose,
				    uint64_t deadline, struct pe_injector **ret)
{
	uint64_t pause = 500;

	for (;;) {
		struct pe_error *err = pe_inject_begin(target, purpose, ret);

		if (!err || err->code != PE_ERR_BUSY || pe_now_us() >= deadline)
			return err;
		pe_error_free(err);
		err = cancel_check();
		if (err)
			return err;
		pe_target_sleep(target, pause);
		if (pause < 20000)
			pause *= 2;
	}
}

/* Ends @injector whatever happened; the first error counts. */
static struct pe_error *inject_finish(struct pe_injector *injector, struct pe_error *err)
{
	struct pe_error *end = pe_inject_end(injector);

	if (!err)
		return end;
	pe_error_free(end);
	return err;
}

static struct pe_error *call(struct pe_injector *injector, int64_t *result, long nr, uint64_t a0,
			     uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	const uint64_t args[6] = { a0, a1, a2, a3, a4, a5 };

	return pe_inject_syscall(injector, nr, args, result);
}

/* ---- the memfd ---- */

/* *fd: in the target; -1 when it cannot have one (*reason says why). */
static struct pe_error *memfd_in_target(struct pe_injector *injector, const char *name, int *fd,
					int64_t *reason)
{
	pe_auto_free char *full = NULL;
	uint64_t addr;
	int64_t result;

	*fd = -1;
	if (asprintf(&full, "care:%s", name) < 0)
		return pe_error_nomem();
	struct pe_error *err = pe_inject_scratch(injector, full, strlen(full) + 1, &addr);

	if (!err)
		err = call(injector, &result, SYS_memfd_create, addr, MFD_CLOEXEC | MFD_EXEC, 0, 0,
			   0, 0);
	if (!err && result == -EINVAL) /* before Linux 6.3 */
		err = call(injector, &result, SYS_memfd_create, addr, MFD_CLOEXEC, 0, 0, 0, 0);
	if (err)
		return err;
	if (result >= 0)
		*fd = (int)result;
	else
		*reason = result;
	return NULL;
}

/* Fills the target's memfd from outside. False, with errno, when we are not let. */
static bool memfd_fill(const struct pe_target *target, int fd, const uint8_t *bytes, uint64_t size)
{
	char path[64], link[128];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pe_target_pid(target), fd);
	ssize_t length = readlink(path, link, sizeof(link) - 1);

	/* A thread with its own table of descriptors would show us another file here. */
	if (length < 0 || strncmp(link, MAPPING_PREFIX, strlen(MAPPING_PREFIX)))
		return false;
	pe_auto_fd int file = open(path, O_RDWR | O_CLOEXEC);

	if (file < 0 || ftruncate(file, (off_t)size))
		return false;
	for (uint64_t done = 0; done < size;) {
		ssize_t n = pwrite(file, bytes + done, size - done, (off_t)done);

		if (n <= 0)
			return false;
		done += (uint64_t)n;
	}
	return true;
}

/* ---- the mapping ---- */

enum map_result { MAP_DONE, MAP_OCCUPIED, MAP_NOT_EXECUTABLE };

static struct pe_error *unmap(struct pe_injector *injector, uint64_t start, uint64_t size)
{
	int64_t result;
	struct pe_error *err = call(injector, &result, SYS_munmap, start, size, 0, 0, 0, 0);

	if (!err && result)
		err = pe_error_errno((int)-result, "munmap in the target");
	return err;
}

/*
 * Reserves the whole range first, then puts the pieces over it, so that nobody else gets a part.
 * @fd -1: anonymous.
 */
static struct pe_error *map_pieces(struct pe_injector *injector, const struct layout *layout,
				   uint64_t base, int fd, enum map_result *ret)
{
	const uint64_t anonymous = fd < 0 ? MAP_ANONYMOUS : 0;
	const struct {
		uint64_t offset, size;
		int prot;
		uint64_t flags;
	} pieces[] = {
		{ 0, layout_size(layout), PROT_READ, MAP_FIXED_NOREPLACE },
		{ 0, layout->text_size, PROT_READ | PROT_EXEC, MAP_FIXED },
		{ layout->text_size + layout->rodata_size, layout->data_size,
		  PROT_READ | PROT_WRITE, MAP_FIXED },
	};
	struct pe_error *err;
	int64_t result;

	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
		uint64_t addr = base + pieces[i].offset;

		err = call(injector, &result, SYS_mmap, addr, pieces[i].size,
			   (uint64_t)pieces[i].prot, MAP_PRIVATE | pieces[i].flags | anonymous,
			   (uint64_t)(int64_t)fd, fd < 0 ? 0 : pieces[i].offset);
		if (err)
			return err;
		if ((uint64_t)result == addr)
			continue;
		if (i) {
			err = unmap(injector, base, layout_size(layout));
			if (err)
				return err;
		} else if (result > 0) { /* before Linux 4.17 the flag is only a hint */
			err = unmap(injector, (uint64_t)result, layout_size(layout));
			if (err)
				return err;
			result = -EEXIST;
		}
		if (result == -EEXIST) {
			*ret = MAP_OCCUPIED;
			return NULL;
		}
		if (fd >= 0 && i == 1 && (result == -EPERM || result == -EACCES)) {
			*ret = MAP_NOT_EXECUTABLE;
			return NULL;
		}
		return pe_error_errno((int)-result, "mmap of %lu bytes in the target",
				      (unsigned long)pieces[i].size);
	}
	*ret = MAP_DONE;
	return NULL;
}

struct attempt {
	const struct pe_plan *plan;
	uint64_t base;
	const uint8_t *bytes;
	bool anonymous;
	const char *why_anonymous;
	enum map_result result;
};

static struct pe_error *map_with_memfd(struct pe_target *target, struct pe_injector *injector,
				       struct attempt *a)
{
	uint64_t size = layout_size(&a->plan->layout);
	int64_t reason = 0, result;
	int fd;
	struct pe_error *err = memfd_in_target(injector, a->plan->patch->name, &fd, &reason);

	if (err)
		return err;
	if (fd < 0) {
		a->why_anonymous = strerror((int)-reason);
		a->result = MAP_NOT_EXECUTABLE;
		return NULL;
	}
	if (memfd_fill(target, fd, a->bytes, size)) {
		err = map_pieces(injector, &a->plan->layout, a->base, fd, &a->result);
		if (a->result == MAP_NOT_EXECUTABLE)
			a->why_anonymous = "it may not execute from a memfd";
	} else {
		a->why_anonymous = "its memfd cannot be written from outside";
		a->result = MAP_NOT_EXECUTABLE;
	}

	struct pe_error *close_err =
		call(injector, &result, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	if (!err)
		return close_err;
	pe_error_free(close_err);
	return err;
}

static struct pe_error *attempt_run(struct pe_target *target, struct attempt *a, uint64_t deadline)
{
	struct pe_injector *injector;
	struct pe_error *err = inject_begin_until(target, PE_INJECT_SYSCALL, deadline, &injector);

	if (err)
		return err;
	a->result = MAP_DONE;
	if (!a->anonymous)
		err = map_with_memfd(target, injector, a);
	if (!err && a->result == MAP_NOT_EXECUTABLE)
		a->anonymous = true;
	if (!err && a->anonymous) {
		const struct layout *layout = &a->plan->layout;

		err = map_pieces(injector, layout, a->base, -1, &a->result);
		/* The ledger first, so that recovery knows whose the mapping is. */
		if (!err && a->result == MAP_DONE)
			err = pe_target_write(target, a->base + layout->ledger,
					      a->bytes + layout->ledger, layout->data_size);
		if (!err && a->result == MAP_DONE)
			err = pe_target_write(target, a->base, a->bytes, layout->ledger);
	}
	return inject_finish(injector, err);
}

static struct pe_error *find_staged(struct pe_target *target, uint64_t base, struct ledger *ret)
{
	struct ledgers ledgers;
	struct pe_error *err = ledgers_read(target, &ledgers);

	if (err)
		return err;
	err = pe_error_new(PE_ERR_INTERNAL, "the staged patch is not to be found in the target");
	for (size_t i = 0; i < ledgers.count; i++) {
		if (ledgers.items[i].start != base || !ledgers.items[i].complete)
			continue;
		*ret = ledgers.items[i];
		ledgers.items[i] = (struct ledger){ 0 };
		pe_error_free(err);
		err = NULL;
		break;
	}
	ledgers_deinit(&ledgers);
	return err;
}

static struct pe_error *place_and_map(struct pe_target *target, const struct pe_plan *plan,
				      uint64_t deadline, uint64_t *base, char **note)
{
	struct attempt a = { .plan = plan };

	for (int i = 0; i < max_places; i++) {
		struct pe_maps maps = { 0 };
		pe_auto_free uint8_t *bytes = NULL;
		struct pe_error *err = pe_target_maps(target, &maps);

		if (!err)
			err = room_find(&maps, plan, layout_size(&plan->layout), &a.base);
		pe_maps_deinit(&maps);
		if (!err)
			err = layout_build(target, plan, a.base, &bytes);
		a.bytes = bytes;
		if (!err)
			err = attempt_run(target, &a, deadline);
		if (err)
			return err;
		if (a.result == MAP_DONE) {
			*base = a.base;
			if (a.anonymous)
				note_add(note, "anonymous memory instead of a memfd: %s",
					 a.why_anonymous);
			return NULL;
		}
	}
	return pe_error_new(PE_ERR_BUSY,
			    "the process took every place that was found for the patch");
}

struct pe_error *stage(struct pe_target *target, const struct pe_plan *plan, uint64_t deadline,
		       struct ledger *ret, char **note)
{
	const uint64_t magic = LEDGER_MAGIC;
	uint64_t base = 0;
	struct pe_error *err = place_and_map(target, plan, deadline, &base, note);

	if (err)
		return pe_error_wrap(err, "cannot stage the patch");
	err = pe_target_write(target, base + plan->layout.ledger, &magic, sizeof(magic));
	if (!err)
		err = find_staged(target, base, ret);
	if (err) {
		struct ledger mapping = { .start = base, .end = base + layout_size(&plan->layout) };
		pe_error_free(unstage(target, &mapping, deadline));
		return pe_error_wrap(err, "cannot stage the patch");
	}
	return NULL;
}

/* ---- unwind tables, and the way back ---- */

static struct pe_error *read_unwind(struct pe_target *target, struct ledger *ledger)
{
	return pe_target_read(
		target, ledger_variable_address(ledger, offsetof(struct ledger_variable, unwind)),
		&ledger->header.variable.unwind, sizeof(ledger->header.variable.unwind));
}

static struct pe_error *call_stub(struct pe_target *target, struct pe_injector *injector,
				  struct ledger *ledger, uint64_t stub, uint32_t expected)
{
	static const uint64_t no_args[6];
	uint64_t result;
	struct pe_error *err = pe_inject_call(injector, stub, no_args, call_timeout_us, &result);

	if (!err)
		err = read_unwind(target, ledger);
	if (!err && ledger->header.variable.unwind != expected)
		err = pe_error_new(PE_ERR_INTERNAL, "the unwind tables of %s are in state %u",
				   ledger->name, ledger->header.variable.unwind);
	return err;
}

struct pe_error *stage_register_unwind(struct pe_target *target, struct ledger *ledger,
				       uint64_t deadline)
{
	struct pe_injector *injector;

	if (!ledger->header.register_stub || ledger->header.variable.unwind != UNWIND_NONE)
		return NULL;
	struct pe_error *err = inject_begin_until(target, PE_INJECT_FUNCTION, deadline, &injector);

	if (!err)
		err = inject_finish(injector,
				    call_stub(target, injector, ledger,
					      ledger->header.register_stub, UNWIND_REGISTERED));
	return err ? pe_error_wrap(err, "cannot register the unwind tables") : NULL;
}

struct pe_error *stage_deregister_unwind(struct pe_target *target, struct ledger *ledger,
					 uint64_t deadline)
{
	struct pe_injector *injector;
	struct pe_error *err = ledger->complete ? read_unwind(target, ledger) : NULL;

	if (err)
		return err;
	switch (ledger->header.variable.unwind) {
	case UNWIND_NONE:
	case UNWIND_DEREGISTERED:
		return NULL;
	case UNWIND_REGISTERED:
		break;
	default: /* somebody died while the target was in there for us; perhaps it still is */
		return pe_error_new(PE_ERR_BUSY, "the target has not come back from libgcc");
	}
	err = inject_begin_until(target, PE_INJECT_FUNCTION, deadline, &injector);
	if (!err)
		err = inject_finish(injector,
				    call_stub(target, injector, ledger,
					      ledger->header.deregister_stub, UNWIND_DEREGISTERED));
	return err ? pe_error_wrap(err, "cannot deregister the unwind tables") : NULL;
}

struct pe_error *unstage(struct pe_target *target, struct ledger *ledger, uint64_t deadline)
{
	struct pe_injector *injector;
	struct pe_error *err = stage_deregister_unwind(target, ledger, deadline);

	if (!err)
		err = inject_begin_until(target, PE_INJECT_SYSCALL, deadline, &injector);
	if (err)
		return err;
	return inject_finish(injector, unmap(injector, ledger->start, ledger->end - ledger->start));
}
