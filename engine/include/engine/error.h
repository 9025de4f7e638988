/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one error type of engine, dbcare and agent.
 *
 * A fallible function returns `struct pe_error *`: NULL is success, anything else carries a code,
 * a text with the fact in it (which thread, which function, which byte) and an optional cause.
 * The caller owns what it gets: it passes it up, wraps it, or frees it. Libraries never print.
 *
 *	struct pe_error *err = pe_thing(a, b, &result);
 *	if (err)
 *		return pe_error_wrap(err, "cannot do the thing with %s", name);
 */
#ifndef ENGINE_ERROR_H
#define ENGINE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

/* One row a code in error.c: JSON name, exit status (DESIGN 7), what the user can do. */
enum pe_code {
	PE_OK = 0,
	PE_ERR_INTERNAL,    /* a broken promise of ours */
	PE_ERR_NOMEM,	    /* out of memory */
	PE_ERR_SYSTEM,	    /* a system call or a tool failed; the text names it */
	PE_ERR_USAGE,	    /* bad command line or option value */
	PE_ERR_FORMAT,	    /* malformed input: ELF, patch file, diff, ledger, JSON */
	PE_ERR_PERMISSION,  /* missing rights */
	PE_ERR_NO_TARGET,   /* no such process, image, server or build target */
	PE_ERR_DIED,	    /* the target died or was replaced (exec) meanwhile */
	PE_ERR_MISMATCH,    /* another build: build-id or original bytes differ */
	PE_ERR_BUSY,	    /* not now: threads are in the way, traced, another patcher */
	PE_ERR_CHANGED,	    /* not now: libraries came or went while we waited */
	PE_ERR_HELD,	    /* not now: a gate holds */
	PE_ERR_NOTHING,	    /* nothing to do: already applied, nothing changed */
	PE_ERR_UNSUPPORTED, /* the change or the target cannot be patched safely; the text says why
			     */
	PE_ERR_SANDBOXED,   /* the target is under a seccomp filter that we may not suspend */
	PE_ERR_POLICY,	    /* refused by policy or signature */
	PE_ERR_COMPILE,	    /* the changed source does not compile, or a build fails */
	PE_ERR_VERIFY,	    /* applied, failed verification, reverted */
	PE_ERR_PARTIAL,	    /* partly applied */
	PE_ERR_CANCELLED,   /* by a signal, before anything was changed */
	PE_ERR_COUNT
};

struct pe_error {
	enum pe_code code;
	char *message;		/* owned; one sentence without final full stop */
	struct pe_error *cause; /* owned; NULL when there is none */
};

#define pe_must_check __attribute__((warn_unused_result))
#define pe_printf(fmt, args) __attribute__((format(printf, fmt, args)))

struct pe_error *pe_error_new(enum pe_code code, const char *fmt, ...)
	pe_printf(2, 3) pe_must_check;
/* The same with ": strerror(errno)" appended, code PE_ERR_SYSTEM, or PERMISSION for EPERM/EACCES.
 */
struct pe_error *pe_error_errno(int errnum, const char *fmt, ...) pe_printf(2, 3) pe_must_check;
/* Puts a sentence in front; keeps the code of @cause, which it takes over. */
struct pe_error *pe_error_wrap(struct pe_error *cause, const char *fmt, ...)
	pe_printf(2, 3) pe_must_check;
struct pe_error *pe_error_nomem(void) pe_must_check;
void pe_error_free(struct pe_error *err);

/* "message: cause: cause"; owned by the caller. */
char *pe_error_text(const struct pe_error *err);
const char *pe_code_name(enum pe_code code);   /* JSON name, e.g. "busy" */
int pe_code_exit_status(enum pe_code code);    /* DESIGN 7: 0 to 6 */
const char *pe_code_advice(enum pe_code code); /* what the user can do; "" when nothing general */

#endif
