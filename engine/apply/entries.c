/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing the entries of many functions in a stop, with as few system calls as pages.
 *
 * What takes time in a commit is not the bytes: it is a system call for each entry, and the copy
 * that the kernel makes of each page at its first write. So before the stop the process gets its
 * own copies, by writing a byte of each page as it is; and entries of one page are written
 * together, with the code between them. A write that stays in one page is never cut in two by the
 * death of the patcher.
 *
 * A switch may wait for half a minute before its stop, and a library may be unloaded meanwhile and
 * another one be where it was. So in the stop all entries are read once more, with one system call
 * for a thousand, before anything is written.
 */
#include "internal.h"

#include <string.h>
#include <sys/uio.h>

#include "engine/cleanup.h"

/* Entries of one page, from the first one's first byte to the last one's last. */
struct entry_span {
	uint64_t at;
	size_t size;
	size_t first, count;	       /* of the writes */
	uint8_t *before, *now, *after; /* the whole span: when prepared, in the stop, to be */
};

enum { READ_AT_ONCE = 1024 }; /* IOV_MAX */

static int by_address(const void *a, const void *b)
{
	const struct entry_write *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

void entries_deinit(struct entries *entries)
{
	for (size_t i = 0; i < entries->span_count; i++)
		free(entries->spans[i].before);
	free(entries->spans);
	free(entries->writes);
	*entries = (struct entries){ 0 };
}

bool entries_add(struct entries *entries, uint64_t at, const uint8_t *expected,
		 const uint8_t *bytes, size_t size)
{
	struct entry_write *writes =
		reallocarray(entries->writes, entries->count + 1, sizeof(*writes));

	if (!writes)
		return false;
	entries->writes = writes;
	writes[entries->count++] = (struct entry_write){
		.at = at, .expected = expected, .bytes = bytes, .size = size
	};
	return true;
}

/* The writes from @first on that lie on the page of the first one. */
static struct entry_span span_from(const struct entries *entries, size_t first)
{
	const struct entry_write *writes = entries->writes;
	struct entry_span span = { .at = writes[first].at, .first = first };

	for (size_t i = first; i < entries->count; i++) {
		uint64_t end = writes[i].at + writes[i].size;

		if (i > first && (end - 1) / PE_PAGE != span.at / PE_PAGE)
			break;
		span.size = end - span.at;
		span.count++;
	}
	return span;
}

/* Are the bytes to be overwritten, in @bytes of the whole span, those that are expected? */
static struct pe_error *span_expected(const struct entries *entries, const struct entry_span *span,
				      const uint8_t *bytes)
{
	for (size_t i = span->first; i < span->first + span->count; i++) {
		const struct entry_write *write = &entries->writes[i];

		if (memcmp(bytes + (write->at - span->at), write->expected, write->size) != 0)
			return pe_error_new(PE_ERR_CHANGED,
					    "the code at 0x%lx was changed or unloaded meanwhile",
					    (unsigned long)write->at);
	}
	return NULL;
}

static struct pe_error *span_fill(struct pe_target *target, const struct entries *entries,
				  struct entry_span *span)
{
	span->before = malloc(3 * span->size);
	if (!span->before)
		return pe_error_nomem();
	span->now = span->before + span->size;
	span->after = span->now + span->size;

	struct pe_error *err = pe_target_read(target, span->at, span->before, span->size);

	if (!err)
		err = span_expected(entries, span, span->before);
	if (err)
		return err;
	memcpy(span->after, span->before, span->size);
	for (size_t i = span->first; i < span->first + span->count; i++) {
		const struct entry_write *write = &entries->writes[i];

		memcpy(span->after + (write->at - span->at), write->bytes, write->size);
	}
	/* Where only a tracer may write, the copy is made in the stop. */
	pe_error_free(pe_target_write(target, span->at, span->before, 1));
	return NULL;
}

struct pe_error *entries_prepare(struct pe_target *target, struct entries *entries)
{
	struct pe_error *err = NULL;

	if (!entries->count)
		return NULL;
	qsort(entries->writes, entries->count, sizeof(*entries->writes), by_address);
	entries->spans = calloc(entries->count, sizeof(*entries->spans));
	if (!entries->spans)
		return pe_error_nomem();
	for (size_t first = 0; !err && first < entries->count;) {
		struct entry_span *span = &entries->spans[entries->span_count++];

		*span = span_from(entries, first);
		first += span->count;
		err = span_fill(target, entries, span);
	}
	return err;
}

/* Into now[] of up to READ_AT_ONCE spans; pages without read permission one by one. */
static struct pe_error *read_spans(struct pe_target *target, const struct entry_span *spans,
				   size_t count)
{
	struct iovec local[READ_AT_ONCE], remote[READ_AT_ONCE];
	size_t size = 0;

	for (size_t i = 0; i < count; i++) {
		local[i] = (struct iovec){ spans[i].now, spans[i].size };
		remote[i] = (struct iovec){ (void *)(uintptr_t)spans[i].at, spans[i].size };
		size += spans[i].size;
	}
	if (process_vm_readv(pe_target_pid(target), local, count, remote, count, 0) ==
	    (ssize_t)size)
		return NULL;

	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < count; i++)
		err = pe_target_read(target, spans[i].at, spans[i].now, spans[i].size);
	if (err && err->code == PE_ERR_SYSTEM)
		err->code = PE_ERR_CHANGED; /* unloaded */
	return err;
}

struct pe_error *entries_check(struct pe_target *target, const struct entries *entries)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < entries->span_count; i += READ_AT_ONCE) {
		size_t left = entries->span_count - i;

		err = read_spans(target, &entries->spans[i],
				 left < READ_AT_ONCE ? left : READ_AT_ONCE);
	}
	for (size_t i = 0; !err && i < entries->span_count; i++)
		err = span_expected(entries, &entries->spans[i], entries->spans[i].now);
	return err;
}

static struct pe_error *write_span(struct pe_target *target, const struct entries *entries,
				   const struct entry_span *span)
{
	struct pe_error *err = NULL;

	/* Somebody else's breakpoint between two entries is not ours to remove. */
	if (!memcmp(span->now, span->before, span->size))
		return pe_target_write(target, span->at, span->after, span->size);
	for (size_t i = span->first; !err && i < span->first + span->count; i++)
		err = pe_target_write(target, entries->writes[i].at, entries->writes[i].bytes,
				      entries->writes[i].size);
	return err;
}

struct pe_error *entries_write(struct pe_target *target, const struct entries *entries)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < entries->span_count; i++)
		err = write_span(target, entries, &entries->spans[i]);
	return err;
}
