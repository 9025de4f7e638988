/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Applying a patch to a target: plan, stage, switch, settle, revert (DESIGN 6).
 *
 *	pe_plan_create(target, patch, &plan);      checks everything, changes nothing
 *	pe_apply(target, plan, &options, &result); stages and switches
 *	pe_revert(target, name, &options, &result);
 *
 * What is applied is known by the ledger inside the target and by nothing else.
 */
#ifndef ENGINE_APPLY_H
#define ENGINE_APPLY_H

#include "engine/patch.h"
#include "engine/target.h"

enum pe_state {
	PE_STATE_NONE,
	PE_STATE_STAGED,    /* mapped, nothing runs it */
	PE_STATE_SWITCHING, /* somebody is (or was, and died) between staged and applied */
	PE_STATE_SETTLING,  /* switched; old code may still be on stacks */
	PE_STATE_APPLIED,
	PE_STATE_REVERTING, /* somebody is (or was) between applied and reverted */
	PE_STATE_REVERTED,  /* bytes are back; memory not released yet */
};

const char *pe_state_name(enum pe_state state);

/* A piece of the code of an applied patch: a new function, or the way into one. */
struct pe_applied_symbol {
	char *name; /* as the linker knows it; "NAME.care_entry" for the way into NAME */
	uint64_t address;
	uint64_t size; /* bytes */
};

/* One patch found in a process, read from its ledger. */
struct pe_applied {
	char *name;
	enum pe_state state;
	uint32_t level;
	bool independent;
	char *description; /* or NULL */
	struct pe_patch_cve *cves;
	size_t cve_count;
	size_t function_count;
	char **functions; /* names of replaced functions */
	struct pe_build_id build_id;
	uint64_t start, size;		  /* of its mapping, bytes */
	uint64_t text_size;		  /* of its code, which begins the mapping; bytes */
	uint64_t eh_frame, eh_frame_size; /* its unwind tables; size 0 when it has none */
	struct pe_applied_symbol *symbols;
	size_t symbol_count;
	uint16_t machine;   /* EM_* */
	uint64_t sequence;  /* order of application in this process: 1, 2, ... */
	int64_t applied_at; /* seconds since the epoch; 0 when it never was */
	uint64_t pause_us;  /* of its switch */
	bool inherited;	    /* the ledger names another process: we are a fork of it */
	/*
	 * SETTLING: threads that seem to have frames of the old code; REVERTED: of this patch's.
	 * Read without stopping anyone, so those that run are not seen: running_threads. Else both
	 * 0.
	 */
	size_t old_threads, running_threads;
};

struct pe_applied_list {
	struct pe_applied *items; /* by sequence */
	size_t count;
};

struct pe_error *pe_applied_read(const struct pe_target *target,
				 struct pe_applied_list *ret) pe_must_check;
void pe_applied_list_deinit(struct pe_applied_list *list);

/* One function as the plan sees it; for printing. */
struct pe_plan_function {
	const char *name;
	uint64_t entry; /* run-time address */
	uint64_t size;	/* old code, bytes, cold parts included */
	uint64_t new_size;
	bool patched_already; /* by an applied patch that this one will stand upon */
	bool replaced;	      /* by an applied patch that this one replaces */
};

/* An applied patch whose place the new one takes. */
struct pe_plan_replaced {
	const char *name;
	uint32_t level;
	const char **dropped; /* its functions that the new patch has not: the code below again */
	size_t dropped_count;
};

/* A pause that is expected, and what from: "78 threads, 6.1 µs each as measured on 8 of them". */
struct pe_pause_guess {
	uint64_t us;
	char from[120];
};

struct pe_plan;

/*
 * Everything that can be known without touching the target: images by build-id, original bytes,
 * imports, room near the image, probes and tracers, what is applied already.
 * NOTHING when that patch is applied already; MISMATCH for another build; BUSY when traced;
 * UNSUPPORTED with the reason otherwise. @patch must outlive the plan.
 *
 * A lower level of the same patch is replaced: one switch leads from its functions to the new ones.
 */
struct pe_error *pe_plan_create(struct pe_target *target, const struct pe_patch *patch,
				struct pe_plan **ret) pe_must_check;
/*
 * The same, and the applied patches @names are replaced too: in one switch with the new one they
 * are reverted. NO_TARGET names one that is not applied. @names must outlive the plan.
 */
struct pe_error *pe_plan_create_replacing(struct pe_target *target, const struct pe_patch *patch,
					  const char *const *names, size_t count,
					  struct pe_plan **ret) pe_must_check;
void pe_plan_free(struct pe_plan *plan);
const struct pe_plan_function *pe_plan_functions(const struct pe_plan *plan, size_t *count);
const struct pe_patch *pe_plan_patch(const struct pe_plan *plan);
const struct pe_plan_replaced *pe_plan_replaced(const struct pe_plan *plan, size_t *count);
/* The function that a hit of pe_plan_predict is in; of a replaced patch perhaps its name. */
const char *pe_plan_tag_name(const struct pe_plan *plan, uint32_t tag);
uint64_t pe_plan_memory(const struct pe_plan *plan);   /* bytes it will add */
bool pe_plan_needs_stacks(const struct pe_plan *plan); /* a stack in old code blocks it */
/*
 * Who would be in the way now, and how long the pause is likely to be: a few blocked threads are
 * stopped for a moment each to measure. All are only if stacks count and a thread is running:
 * then there is one stop, to look.
 */
struct pe_error *pe_plan_predict(struct pe_target *target, const struct pe_plan *plan,
				 struct pe_stack_hits *blockers,
				 struct pe_pause_guess *guess) pe_must_check;

struct pe_apply_options {
	uint64_t timeout_us;   /* how long to wait for a free moment; 0: 30 s */
	uint64_t max_pause_us; /* refuse when the predicted pause exceeds it; 0: no limit */
	/*
	 * SIGINT, SIGTERM and SIGHUP, held back meanwhile, cancel: CANCELLED, and the process is as
	 * it was. Once committed, the operation is finished and they are dropped.
	 */
	bool cancellable;
	/* Called on each step ("staged", "waiting for 2 threads", ...); may be NULL. */
	void (*progress)(void *ctx, const char *text);
	void *progress_ctx;
};

struct pe_switch_result {
	uint64_t predicted_us; /* pause that was predicted */
	uint64_t pause_us;     /* of the stop that switched */
	struct pe_pause_parts parts;
	uint64_t operation_us; /* the whole operation */
	size_t threads;	       /* stopped */
	unsigned int attempts; /* stops tried, the successful one included */
	bool fifo_refused;
	bool memory_kept; /* revert: old mapping not released; reason in note */
	char *note;	  /* or NULL; fallbacks taken, for the user */
	char **replaced;  /* apply: "NAME (level N)" of each patch that was replaced; owned */
	size_t replaced_count;
	/* On BUSY: who was in the way. */
	struct pe_stack_hits blockers;
	char **blocking_functions; /* parallel to blockers: names; owned */
};

void pe_switch_result_deinit(struct pe_switch_result *result);

/* On any error the target is as it was before. BUSY fills result->blockers. */
struct pe_error *pe_apply(struct pe_target *target, const struct pe_plan *plan,
			  const struct pe_apply_options *options,
			  struct pe_switch_result *result) pe_must_check;
/*
 * Reverts one patch by name; refused (BUSY names the other) while a later patch stands on it.
 * NOTHING when no such patch is applied.
 */
struct pe_error *pe_revert(struct pe_target *target, const char *name,
			   const struct pe_apply_options *options,
			   struct pe_switch_result *result) pe_must_check;

/* What pe_recover found and did. */
struct pe_recovery {
	size_t finished; /* operations of a dead patcher that were completed */
	size_t undone;
	size_t released; /* mappings of reverted patches */
	char *text;	 /* owned; one line each; NULL when there was nothing */
};

/* Finishes or undoes what a dead patcher left; also done by pe_apply and pe_revert first. */
struct pe_error *pe_recover(struct pe_target *target, struct pe_recovery *ret) pe_must_check;
void pe_recovery_deinit(struct pe_recovery *recovery);

/* What pe_recover would find to do, apart from memory that may be released later. */
struct pe_leftovers {
	size_t count;
	char *text;    /* owned; one line each, "NAME: what"; NULL when there is nothing */
	pid_t patcher; /* at work on the process now: then it is no leftover; 0: nobody */
};

/* Changes nothing and stops nobody. */
struct pe_error *pe_leftovers_read(const struct pe_target *target,
				   struct pe_leftovers *ret) pe_must_check;
void pe_leftovers_deinit(struct pe_leftovers *leftovers);

#endif
