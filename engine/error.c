/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors: made where the fact is known, passed up, printed once. See engine/error.h. */
#include "engine/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	int exit_status;
	const char *advice;
} code_table[PE_ERR_COUNT] = {
	[PE_OK] = { "ok", 0, "" },
	[PE_ERR_INTERNAL] = { "internal", 1, "please report this as a bug" },
	[PE_ERR_NOMEM] = { "no-memory", 1, "free some memory and try again" },
	[PE_ERR_SYSTEM] = { "system", 1, "" },
	[PE_ERR_USAGE] = { "usage", 1, "see --help" },
	[PE_ERR_FORMAT] = { "bad-input", 1, "fetch or make the file again" },
	[PE_ERR_PERMISSION] = { "permission", 1, "run it as root" },
	[PE_ERR_NO_TARGET] = { "no-target", 3, "" },
	[PE_ERR_DIED] = { "target-died", 3, "start the target, then try again" },
	[PE_ERR_MISMATCH] = { "mismatch", 5, "use a patch made for exactly this build" },
	[PE_ERR_CHANGED] = { "changed", 4, "try again" },
	[PE_ERR_BUSY] = { "busy", 4, "try again later" },
	[PE_ERR_HELD] = { "held", 4, "try again when the reason is gone" },
	[PE_ERR_NOTHING] = { "nothing-to-do", 2, "" },
	[PE_ERR_UNSUPPORTED] = { "refused", 5, "" },
	[PE_ERR_SANDBOXED] = { "sandboxed", 5, "run it as root, outside of any sandbox" },
	[PE_ERR_POLICY] = { "policy", 5, "" },
	[PE_ERR_COMPILE] = { "compile", 1, "" },
	[PE_ERR_VERIFY] = { "verification", 1, "the change was taken back; see the text" },
	[PE_ERR_PARTIAL] = { "partial", 6, "" },
	[PE_ERR_CANCELLED] = { "cancelled", 4, "everything is as it was before" },
};

/* Returned when there is no memory for an error object; never freed. */
static struct pe_error no_memory = { PE_ERR_NOMEM, (char *)"out of memory", NULL };

static struct pe_error *error_make(enum pe_code code, struct pe_error *cause, const char *fmt,
				   va_list ap)
{
	struct pe_error *err = calloc(1, sizeof(*err));

	if (!err || vasprintf(&err->message, fmt, ap) < 0) {
		free(err);
		pe_error_free(cause);
		return &no_memory;
	}
	err->code = code;
	err->cause = cause;
	return err;
}

struct pe_error *pe_error_new(enum pe_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	struct pe_error *err = error_make(code, NULL, fmt, ap);
	va_end(ap);
	return err;
}

struct pe_error *pe_error_errno(int errnum, const char *fmt, ...)
{
	enum pe_code code = PE_ERR_SYSTEM;

	if (errnum == EPERM || errnum == EACCES)
		code = PE_ERR_PERMISSION;
	else if (errnum == ENOMEM)
		code = PE_ERR_NOMEM;

	struct pe_error *cause = pe_error_new(code, "%s", strerror(errnum));
	va_list ap;

	va_start(ap, fmt);
	struct pe_error *err = error_make(code, cause, fmt, ap);
	va_end(ap);
	return err;
}

struct pe_error *pe_error_wrap(struct pe_error *cause, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	struct pe_error *err = error_make(cause->code, cause, fmt, ap);
	va_end(ap);
	return err;
}

struct pe_error *pe_error_nomem(void)
{
	return &no_memory;
}

void pe_error_free(struct pe_error *err)
{
	while (err && err != &no_memory) {
		struct pe_error *cause = err->cause;

		free(err->message);
		free(err);
		err = cause;
	}
}

char *pe_error_text(const struct pe_error *err)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (; err; err = err->cause)
		fprintf(out, "%s%s", err->message, err->cause ? ": " : "");
	fclose(out);
	return text;
}

static enum pe_code code_clamp(enum pe_code code)
{
	return (unsigned int)code < PE_ERR_COUNT ? code : PE_ERR_INTERNAL;
}

const char *pe_code_name(enum pe_code code)
{
	return code_table[code_clamp(code)].name;
}

int pe_code_exit_status(enum pe_code code)
{
	return code_table[code_clamp(code)].exit_status;
}

const char *pe_code_advice(enum pe_code code)
{
	return code_table[code_clamp(code)].advice;
}
