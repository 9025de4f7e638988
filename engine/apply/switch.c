/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The switch: find a moment when nobody is in the way, and commit in it.
 *
 *	predict (stops nobody) → looks free? → stop all → check → commit → resume
 *	            ▲                 │no                   │somebody is there
 *	            └── back off ◄────┴─────────────────────┘
 *
 * The prediction is conservative: a stale word on a stack looks like a return address for ever. So
 * from time to time a stop is tried although it does not look free: there stacks are unwound. Not
 * with many such threads, though: that would hold all of them for long.
 */
#include "internal.h"

#include <stdarg.h>
#include <string.h>

#include "engine/cleanup.h"
#include "engine/demangle.h"

static const uint64_t default_timeout_us = 30000000;
static const unsigned int first_blind_stop = 3, predictions_per_stop = 10;
static const uint64_t first_wait_us = 1000, longest_wait_us = 50000;
static const uint64_t pause_share = 20; /* the process stands at most 1/20 of the time */
static const size_t named_blockers = 5;
/* Unwinding a thread takes about 50 µs while all stand still. */
static const size_t most_unwound = 32, most_looked_at = 4;

uint64_t options_deadline(const struct pe_apply_options *options)
{
	uint64_t timeout =
		options && options->timeout_us ? options->timeout_us : default_timeout_us;

	return pe_now_us() + timeout;
}

void report(const struct pe_apply_options *options, const char *fmt, ...)
{
	pe_auto_free char *text = NULL;
	va_list ap;

	if (!options || !options->progress)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) >= 0)
		options->progress(options->progress_ctx, text);
	va_end(ap);
}

void note_add(char **note, const char *fmt, ...)
{
	pe_auto_free char *text = NULL;
	char *joined;
	va_list ap;

	va_start(ap, fmt);
	int length = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (length < 0)
		return;
	if (asprintf(&joined, "%s%s%s", *note ? *note : "", *note ? "; " : "", text) < 0)
		return;
	free(*note);
	*note = joined;
}

void predict_pause(struct pe_target *target, const struct ledgers *ledgers,
		   const struct pe_threads *threads, size_t count, struct pe_pause_guess *ret)
{
	const uint64_t base_us = 200, thread_us = 10;
	struct pe_stop_sample sample;

	if (threads && pe_target_sample_stop(target, threads, &sample)) {
		ret->us = sample.one_us + sample.further_ns * (count ? count - 1 : 0) / 1000;
		snprintf(ret->from, sizeof(ret->from),
			 "%zu threads, %.1f µs each as measured just now on %zu of them", count,
			 (double)ret->us / (double)(count ? count : 1), sample.threads);
		return;
	}
	for (size_t i = ledgers->count; i-- > 0;) {
		const struct ledger_variable *v = &ledgers->items[i].header.variable;

		if (!ledgers->items[i].complete || !v->pause_us || !v->threads)
			continue;
		ret->us = v->pause_us * (count + 10) / (v->threads + 10);
		snprintf(ret->from, sizeof(ret->from),
			 "%zu threads; the last switch of this process stopped %u for %lu µs",
			 count, v->threads, (unsigned long)v->pause_us);
		return;
	}
	ret->us = base_us + thread_us * count;
	snprintf(ret->from, sizeof(ret->from), "%zu threads, 10 µs each as a rule", count);
}

void stop_view_deinit(struct stop_view *view)
{
	free(view->sps);
	*view = (struct stop_view){ 0 };
}

/* ---- one stop ---- */

static bool register_in(const struct user_regs_struct *regs, uint64_t start, uint64_t end)
{
	const unsigned long long *words = (const unsigned long long *)regs;

	for (size_t i = 0; i < sizeof(*regs) / sizeof(*words); i++)
		if (words[i] >= start && words[i] < end)
			return true;
	return false;
}

/* The text of the watched patches; owned. */
static struct pe_range *watched_text(const struct switch_job *job)
{
	struct pe_range *text = calloc(job->watch_count + 1, sizeof(*text));

	for (size_t i = 0; text && i < job->watch_count; i++)
		text[i] = (struct pe_range){ .start = job->watch[i]->start,
					     .end = job->watch[i]->start +
						    job->watch[i]->header.text_size };
	return text;
}

static size_t count_threads_of(const struct pe_stack_hits *hits)
{
	size_t count = 0;

	for (size_t i = 0; i < hits->count; i++) {
		size_t j = 0;

		while (j < i && hits->items[j].tid != hits->items[i].tid)
			j++;
		count += j == i;
	}
	return count;
}

/* Where many threads seem to be in the patch's code, their unwinding would only prolong the stop.
 */
static bool worth_looking(const struct pe_target *target, const struct pe_maps *maps,
			  const struct switch_job *job, const struct pe_range *text)
{
	struct pe_stack_hits hits = { 0 };
	size_t unknown;
	pe_auto_error struct pe_error *err = pe_stack_predict(target, maps, text, job->watch_count,
							      PE_MATCH_BODY, &hits, &unknown);
	bool worth = !err && count_threads_of(&hits) <= most_looked_at;

	pe_stack_hits_deinit(&hits);
	return worth;
}

static struct pe_error *is_text_free(struct pe_stop *stop, const struct pe_maps *maps,
				     const struct switch_job *job, const struct pe_range *text,
				     bool *ret)
{
	struct pe_stack_hits hits = { 0 };
	struct pe_error *err =
		pe_stop_check(stop, maps, text, job->watch_count, PE_MATCH_BODY, true, &hits);

	*ret = !err && !hits.count;
	pe_stack_hits_deinit(&hits);
	return err;
}

/* Made and touched before the stop, with room for threads that are born meanwhile. */
static struct pe_error *view_reserve(struct stop_view *view, const struct switch_job *job,
				     size_t threads)
{
	if (!job->watch_count || view->sp_room > threads)
		return NULL;

	size_t room = threads + threads / 2 + 64;
	uint64_t *sps = reallocarray(view->sps, room, sizeof(*sps));

	if (!sps)
		return pe_error_nomem();
	memset(sps, 0, room * sizeof(*sps));
	view->sps = sps;
	view->sp_room = room;
	return NULL;
}

static struct pe_error *view_fill(struct pe_stop *stop, const struct switch_job *job,
				  struct stop_view *view)
{
	size_t count;
	const struct pe_stopped_thread *threads = pe_stop_threads(stop, &count);
	struct pe_error *err = view_reserve(view, job, count);

	if (err)
		return err;
	view->data_free = true;
	view->sp_count = 0;
	for (size_t i = 0; i < count; i++) {
		/* A thread in a system call is in a function of libc that uses no red zone. */
		bool in_syscall = (int64_t)threads[i].regs.orig_rax >= 0;

		view->sps[view->sp_count++] = threads[i].regs.rsp - (in_syscall ? 0 : RED_ZONE);
		for (size_t w = 0; w < job->watch_count; w++)
			if (register_in(&threads[i].regs, job->watch[w]->start, job->watch[w]->end))
				view->data_free = false;
	}
	return NULL;
}

static uint64_t hold_limit(size_t threads)
{
	const uint64_t base_us = 250000, thread_us = 200;

	return base_us + thread_us * threads;
}

/* *done: committed. Not done without an error: somebody is in the way (hits). */
static struct pe_error *stop_once(struct pe_target *target, const struct switch_job *job,
				  size_t expected_threads, struct pe_switch_result *result,
				  struct pe_stack_hits *hits, struct stop_view *view, bool *done)
{
	struct pe_maps maps = { 0 };
	struct pe_stop_options stop_options = {
		.fifo = true,
		.limit_us = hold_limit(expected_threads),
		.maps = &maps,
		.ranges = job->check && job->stacks ? job->ranges : NULL,
		.range_count = job->range_count,
		.match = job->match,
		.parts = &result->parts,
	};
	struct pe_stop *stop = NULL;
	struct pe_error *err = pe_target_maps(target, &maps);
	uint64_t pause_us = 0;
	pe_auto_free struct pe_range *text = watched_text(job);

	if (!err && !text)
		err = pe_error_nomem();
	bool look = !err && job->watch_count && !job->watch_checked &&
		    worth_looking(target, &maps, job, text);

	/* Of two questions the one about stacks is worth answering while others still stop. */
	if (look && !stop_options.ranges) {
		stop_options.ranges = text;
		stop_options.range_count = job->watch_count;
		stop_options.match = PE_MATCH_BODY;
	}
	if (!err)
		err = view_reserve(view, job, expected_threads);
	if (!err)
		err = pe_stop_all(target, &stop_options, &stop);
	if (err) {
		pe_maps_deinit(&maps);
		return err;
	}
	result->attempts++;
	if (job->check)
		err = pe_stop_check(stop, &maps, job->ranges, job->range_count, job->match,
				    job->stacks, hits);
	if (!err && !hits->count && job->watch_count) {
		view->text_free = job->watch_checked;
		if (look)
			err = is_text_free(stop, &maps, job, text, &view->text_free);
		if (!err)
			err = view_fill(stop, job, view);
	}
	if (!err)
		err = pe_stop_within_limit(stop);
	if (!err && !hits->count) {
		err = job->commit(target, job->ctx);
		*done = !err;
	}
	pe_stop_threads(stop, &result->threads);
	result->fifo_refused = pe_stop_fifo_refused(stop);
	pe_stop_resume(stop, &pause_us);
	result->pause_us = pause_us;
	pe_maps_deinit(&maps);
	return err;
}

/* ---- the loop ---- */

static struct pe_error *predict(struct pe_target *target, const struct switch_job *job,
				struct pe_stack_hits *hits)
{
	struct pe_maps maps = { 0 };
	size_t unknown;

	if (!job->check || !job->stacks)
		return NULL;
	struct pe_error *err = pe_target_maps(target, &maps);

	if (!err)
		err = pe_stack_predict(target, &maps, job->ranges, job->range_count, job->match,
				       hits, &unknown);
	pe_maps_deinit(&maps);
	return err;
}

static bool seen_before(const struct pe_stack_hits *hits, size_t i)
{
	for (size_t j = 0; j < i; j++)
		if (hits->items[j].tid == hits->items[i].tid &&
		    hits->items[j].tag == hits->items[i].tag)
			return true;
	return false;
}

void hits_unique(struct pe_stack_hits *hits)
{
	size_t kept = 0;

	for (size_t i = 0; i < hits->count; i++)
		if (!seen_before(hits, i))
			hits->items[kept++] = hits->items[i];
	hits->count = kept;
}

static void read_comm(const struct pe_target *target, pid_t tid, char *comm, size_t size)
{
	char path[64];

	*comm = '\0';
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", pe_target_pid(target), tid);
	pe_auto_file FILE *file = fopen(path, "re");

	if (file && fgets(comm, (int)size, file))
		comm[strcspn(comm, "\n")] = '\0';
}

/* Moves @hits into the result and makes the error that names them. */
static struct pe_error *blocked(const struct pe_target *target, const struct switch_job *job,
				struct pe_stack_hits *hits, struct pe_switch_result *result)
{
	char *text = NULL;
	size_t size;

	hits_unique(hits);
	result->blocking_functions = calloc(hits->count + 1, sizeof(char *));
	FILE *out = result->blocking_functions ? open_memstream(&text, &size) : NULL;

	if (!out)
		return pe_error_nomem();
	for (size_t i = 0; i < hits->count; i++) {
		const char *symbol = job->range_name(job->ctx, hits->items[i].tag);
		pe_auto_free char *name = pe_demangle(symbol);
		char comm[32];

		result->blocking_functions[i] = strdup(symbol);
		if (i >= named_blockers)
			continue;
		read_comm(target, hits->items[i].tid, comm, sizeof(comm));
		fprintf(out, "%sthread %d%s%s%s is in %s", i ? ", " : "", hits->items[i].tid,
			*comm ? " (" : "", comm, *comm ? ")" : "", name ? name : symbol);
	}
	if (hits->count > named_blockers)
		fprintf(out, " and %zu more", hits->count - named_blockers);
	fclose(out);
	result->blockers = *hits;
	*hits = (struct pe_stack_hits){ 0 };

	struct pe_error *err = pe_error_new(PE_ERR_BUSY, "no free moment: %s", text);

	free(text);
	return err;
}

static size_t count_threads(const struct pe_target *target)
{
	struct pe_threads threads = { 0 };
	pe_auto_error struct pe_error *err = pe_target_threads(target, &threads);
	size_t count = threads.count;

	pe_threads_deinit(&threads);
	return err ? 0 : count;
}

/*
 * Grows, but not beyond what the last pause justifies: a function that is hot but short is met at a
 * free moment by trying often, which costs little where stops are short.
 */
static uint64_t next_wait(uint64_t wait, const struct pe_switch_result *result)
{
	uint64_t longest = longest_wait_us;

	if (result->attempts && result->pause_us * pause_share < longest)
		longest = result->pause_us * pause_share;
	wait *= 2;
	if (wait > longest)
		wait = longest;
	return wait < first_wait_us ? first_wait_us : wait;
}

struct pe_error *switch_run(struct pe_target *target, const struct switch_job *job,
			    const struct pe_apply_options *options, uint64_t deadline,
			    struct pe_switch_result *result, struct stop_view *view)
{
	uint64_t wait = first_wait_us;
	size_t threads = count_threads(target);
	struct pe_stack_hits hits = { 0 };

	for (unsigned int i = 1;; i++) {
		bool done = false, last = pe_now_us() >= deadline;

		pe_stack_hits_deinit(&hits);
		struct pe_error *err = pe_target_alive(target);

		if (!err)
			err = cancel_check();
		if (!err)
			err = predict(target, job, &hits);
		bool blind = last || i == first_blind_stop || i % predictions_per_stop == 0;

		if (!err && (!hits.count || (blind && count_threads_of(&hits) <= most_unwound))) {
			pe_stack_hits_deinit(&hits);
			err = stop_once(target, job, threads, result, &hits, view, &done);
		}
		if (err && !done) {
			/* Held too long: the machine was busy; nothing was committed. */
			bool again = err->code == PE_ERR_BUSY && !last && !pe_target_tracer(target);
			if (!again) {
				pe_stack_hits_deinit(&hits);
				return err;
			}
			pe_error_free(err);
		}
		if (done)
			return NULL;
		if (last)
			return blocked(target, job, &hits, result);
		if (hits.count && i == 1)
			report(options, "waiting for %zu stack frame%s to end", hits.count,
			       hits.count == 1 ? "" : "s");
		wait = next_wait(wait, result);
		pe_target_sleep(target, wait + (uint64_t)random() % wait);
	}
}

void pe_switch_result_deinit(struct pe_switch_result *result)
{
	for (size_t i = 0; result->blocking_functions && i < result->blockers.count; i++)
		free(result->blocking_functions[i]);
	free(result->blocking_functions);
	for (size_t i = 0; i < result->replaced_count; i++)
		free(result->replaced[i]);
	free(result->replaced);
	pe_stack_hits_deinit(&result->blockers);
	free(result->note);
	*result = (struct pe_switch_result){ 0 };
}
