/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of care-patch share. */
#ifndef CLI_CARE_PATCH_H
#define CLI_CARE_PATCH_H

#include <jansson.h>

#include "engine/apply.h"

enum { MAX_REPLACE = 32 };

struct care_patch_options {
	const char *what; /* FILE, NAME or ADDRESS; NULL where none is needed */
	pid_t pid;
	uint64_t timeout_us;		  /* 0: the engine's own */
	uint64_t max_pause_us;		  /* 0: any */
	const char *replace[MAX_REPLACE]; /* names of patches that the new one replaces */
	size_t replace_count;
	bool dry_run, all, json, verbose, quiet;
	bool want_perf_map;
	const char *perf_map;	/* its file; NULL: where perf looks */
	const char *gdb, *perf; /* folders for symbol files, or NULL */
};

/* Tables, or with --json one object; care_patch_print.c. */
void care_patch_print_plan(const struct care_patch_options *options, const struct pe_plan *plan,
			   const struct pe_stack_hits *blockers,
			   const struct pe_pause_guess *guess);
/* What apply says of a patch that is applied already: it has succeeded. */
void care_patch_print_already(const struct care_patch_options *options, const char *name);
void care_patch_print_result(const struct care_patch_options *options, const char *action,
			     const char *name, const struct pe_switch_result *result);
void care_patch_print_applied(const struct care_patch_options *options,
			      const struct pe_applied_list *list);
void care_patch_print_recovery(const struct care_patch_options *options,
			       const struct pe_recovery *recovery);
/* The names of patched code, or that of the address asked for; care_patch_symbols.c. */
struct pe_error *care_patch_print_symbols(const struct care_patch_options *options,
					  const struct pe_applied_list *list) pe_must_check;
struct pe_error *care_patch_write_perf_map(const struct care_patch_options *options,
					   const struct pe_applied_list *list) pe_must_check;
struct pe_error *care_patch_write_perf(const struct care_patch_options *options,
				       const struct pe_target *target,
				       const struct pe_applied_list *list) pe_must_check;
struct pe_error *care_patch_write_gdb(const struct care_patch_options *options,
				      const struct pe_target *target,
				      const struct pe_applied_list *list) pe_must_check;
/* Prints and frees @err with the threads that were in the way; returns the exit status. */
int care_patch_fail(const struct care_patch_options *options, struct pe_error *err,
		    const struct pe_switch_result *result);

#endif
