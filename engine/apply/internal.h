/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of engine/apply share. Nothing outside the folder includes it.
 *
 * A patch lives in the target in one mapping:
 *
 *	base ──► text    R-X   far-jump stubs, entry stubs, new functions
 *	         rodata  R--   constants, unwind tables
 *	         data    RW-   ledger, GOT, data, bss
 *
 * The ledger begins the writable piece, so that a mapping boundary stands before it whatever the
 * neighbours are: it is found even where the kernel merges anonymous mappings.
 */
#ifndef ENGINE_APPLY_INTERNAL_H
#define ENGINE_APPLY_INTERNAL_H

#include <signal.h>

#include "engine/apply.h"
#include "engine/arch.h"

#define PE_PAGE 4096UL
#define MAPPING_PREFIX "/memfd:care:"

static inline uint64_t align_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) & ~(align - 1);
}

/* ---- ledger.c: the layout in the target's memory ---- */

#define LEDGER_VERSION 2
#define LEDGER_MAGIC 0x3152474445524143ULL   /* "CAREDGR1": complete */
#define LEDGER_PARTIAL 0x3050474445524143ULL /* "CAREDGP0": being written, or its writer died */

enum ledger_flags {
	LEDGER_INDEPENDENT = 1,
	LEDGER_SELECT = 2, /* entries lead to stubs that obey the commit word */
};

/* How far the registration of unwind tables has come; written by the stubs in the target. */
enum ledger_unwind {
	UNWIND_NONE,
	UNWIND_REGISTERING,
	UNWIND_REGISTERED,
	UNWIND_DEREGISTERING,
	UNWIND_DEREGISTERED,
};

/* What changes during the life of a patch; not covered by the checksum. */
struct ledger_variable {
	uint32_t commit;  /* 0: old functions, 1: new ones (LEDGER_SELECT) */
	uint32_t state;	  /* enum pe_state */
	uint32_t unwind;  /* enum ledger_unwind */
	uint32_t threads; /* that the switch stopped */
	/*
	 * 1 as long as the patches that this one replaces may still be needed: taking it back then
	 * means going back to them. Cleared, after the commit, before they are released.
	 */
	uint32_t replacing;
	uint32_t reserved;
	int64_t applied_at;
	uint64_t pause_us;
};

struct ledger_header {
	uint64_t magic; /* written last */
	uint32_t version;
	uint32_t constant_size;		  /* header, tables and text, bytes */
	uint8_t checksum[PE_SHA256_SIZE]; /* of them, with magic, checksum and variable as zeros */
	uint64_t base;			  /* of the mapping */
	uint64_t text_size;		  /* bytes; pages */
	uint64_t rodata_size;
	uint64_t data_size;
	uint64_t start_time; /* of the process that was patched */
	int32_t pid;
	uint32_t level;
	uint32_t flags;		 /* enum ledger_flags */
	uint32_t function_count; /* those of the patch, then those that pass through */
	uint32_t own_count;	 /* of the patch */
	uint32_t range_count;
	uint32_t image_count; /* those of the patch, then those that only pass-through needs */
	uint32_t own_images;
	uint32_t start_count;
	uint32_t replaced_count; /* patches that this one replaced */
	uint32_t json_size;	 /* name, description, CVEs, function names, symbols of starts */
	uint32_t machine;
	uint32_t eh_frame; /* where it begins in the unwind tables, bytes */
	uint32_t reserved;
	uint64_t sequence;
	uint64_t register_stub; /* 0: no unwind tables to register */
	uint64_t deregister_stub;
	uint64_t unwind_tables, unwind_size;  /* .gcc_except_table and .eh_frame */
	uint64_t unwind_object;		      /* 64 bytes for libgcc */
	uint8_t patch_sha256[PE_SHA256_SIZE]; /* of the patch file */
	struct ledger_variable variable;
};

/*
 * One replaced function, or one that passes through: a replaced patch had it and this one has not,
 * so its entry is switched with the others, to the code below, and is restored after the commit.
 */
struct ledger_function {
	uint64_t entry;
	uint64_t patched;	       /* where the bytes were overwritten: behind endbr64 */
	uint64_t target;	       /* where our jump leads */
	uint32_t size;		       /* bytes overwritten */
	uint32_t image;		       /* index */
	uint8_t original[PE_JUMP_MAX]; /* below this patch and those that it replaced */
	uint8_t jump[PE_JUMP_MAX];
	uint8_t previous[PE_JUMP_MAX]; /* before the switch: perhaps a replaced patch's jump */
};

/* A piece of the old code of a function. */
struct ledger_range {
	uint64_t start, end;
	uint32_t function;
	uint32_t reserved;
};

struct ledger_image {
	uint64_t start, end;
	struct pe_build_id build_id;
};

/* A mapping of ours, with what its ledger says. */
struct ledger {
	uint64_t start, end; /* of the mapping */
	uint64_t address;    /* of the ledger; 0 when there is none to be read */
	bool complete;	     /* magic and everything checked; else only start and end count */
	struct ledger_header header;
	struct ledger_function *functions;
	struct ledger_range *ranges;
	struct ledger_image *images;
	bool *gone;	    /* per image: it was unloaded, its entries with it */
	uint64_t *starts;   /* of all functions in its text: what a function pointer may hold */
	uint64_t *replaced; /* sequences */
	char *json;
	char *name; /* from the ledger, or from the mapping when incomplete */
	char **function_names;
};

struct ledgers {
	struct ledger *items; /* by sequence, incomplete ones first */
	size_t count;
};

/*
 * Every mapping of ours in the process. FORMAT when a complete ledger contradicts itself or the
 * process: what it says cannot be trusted then, and neither can the code.
 */
struct pe_error *ledgers_read(const struct pe_target *target, struct ledgers *ret) pe_must_check;
void ledgers_deinit(struct ledgers *ledgers);
/* The live patch of that name: staged to reverting; NULL when there is none. */
struct ledger *ledgers_find(const struct ledgers *ledgers, const char *name);
/* True when its jumps may stand at the entries. */
bool ledger_is_live(const struct ledger *ledger);
/* True when it has overwritten an entry of @below. */
bool ledger_stands_on(const struct ledger *ledger, const struct ledger *below);
/* How many of functions[] have entries that are this patch's business now: without those that pass
 * through, once they have their own bytes again. */
size_t ledger_entries(const struct ledger *ledger);
/* False when the image with the entry of functions[@i] was unloaded. */
bool ledger_entry_exists(const struct ledger *ledger, size_t i);
/* What stands at the entry of functions[@i] when the patch is taken back. */
const uint8_t *ledger_bytes_below(const struct ledger *ledger, size_t i);
/* Do the new functions run now? By the commit word, or else by the entries. */
struct pe_error *ledger_is_committed(const struct pe_target *target, const struct ledger *ledger,
				     bool *ret) pe_must_check;
/* How many of the entries hold our jump. */
struct pe_error *ledger_count_ours(const struct pe_target *target, const struct ledger *ledger,
				   size_t *ret) pe_must_check;
uint64_t ledger_variable_address(const struct ledger *ledger, size_t offset);
struct pe_error *ledger_write_state(struct pe_target *target, struct ledger *ledger,
				    enum pe_state state) pe_must_check;
struct pe_error *ledger_write_commit(struct pe_target *target, struct ledger *ledger,
				     uint32_t value) pe_must_check;
void ledger_checksum(const void *constant, size_t size, uint8_t out[PE_SHA256_SIZE]);

#define ledger_write_field(target, ledger, field)                                                 \
	pe_target_write(target,                                                                   \
			ledger_variable_address(ledger, offsetof(struct ledger_variable, field)), \
			&(ledger)->header.variable.field, sizeof((ledger)->header.variable.field))

/* ---- plan.c ---- */

/* A function of the patch, or one that only a replaced patch has and that passes through. */
struct plan_function {
	const struct pe_patch_function *function; /* NULL: passes through */
	const char *name;
	uint32_t image; /* index in plan->ledger_images */
	uint64_t bias;
	uint64_t entry, patched;
	uint64_t body_size;	       /* bytes from the entry on; of one that passes through */
	size_t entry_size;	       /* bytes of displaced instructions */
	uint8_t code[256];	       /* displaced instructions as they should be, unpatched */
	uint8_t previous[PE_JUMP_MAX]; /* what stands there now */
	uint8_t original[PE_JUMP_MAX]; /* the same without the patches that are replaced */
	bool replaced;		       /* previous is a replaced patch's jump */
	uint64_t leads;		       /* where that jump leads */
	bool stacked;		       /* original is the jump of a patch that stays */
	uint64_t below;		       /* where that jump leads */
};

/* Where everything lies relative to the base of the mapping; known before there is a base. */
struct layout {
	uint64_t text_size, rodata_size, data_size; /* pages */
	uint64_t *sections;			    /* offset of each section of the patch */
	uint64_t *got;				    /* offset of each symbol's slot, or 0 */
	uint64_t *plt;	   /* offset of each symbol's far-jump stub, or 0 */
	uint64_t *entries; /* offset of each function's entry stub, or 0 */
	uint64_t *moved;   /* offset of each function's moved instructions, or 0 */
	uint64_t *back;	   /* offset of each replaced function's stub for the way back, or 0 */
	uint64_t ledger;
	uint64_t ledger_size;	/* bytes */
	uint64_t unwind_object; /* 64 bytes for libgcc; 0 when there is nothing to register */
	uint64_t register_stub, deregister_stub;
	uint64_t eh_frame;
	uint64_t unwind_tables, unwind_size;
};

struct pe_plan {
	const struct pe_patch *patch;
	const struct pe_arch *arch;
	uint8_t patch_sha256[PE_SHA256_SIZE];
	struct pe_loaded_images images;
	const struct pe_loaded_image **targets; /* per target of the patch */
	struct ledger_image *ledger_images;	/* the same, then those of functions[] beyond */
	size_t image_count;
	struct plan_function *functions; /* those of the patch, then those that pass through */
	size_t function_count;
	struct pe_plan_function *shown;
	struct ledgers ledgers;
	const char *const *replace_names; /* the caller's wish; not owned */
	size_t replace_count;
	const struct ledger **replaced; /* in ledgers; what the patch takes the place of */
	size_t replaced_count;
	struct pe_plan_replaced *shown_replaced;
	uint64_t sequence;
	bool dependent; /* all functions change at one moment, for every thread */
	bool select;	/* entries through stubs and the commit word */
	bool stacks;	/* check stacks, not only program counters */
	enum pe_range_match match;
	struct pe_range *ranges; /* what must be free; tag: see pe_plan_tag_name */
	size_t range_count;
	uint64_t *values; /* of symbols; of the resolver while ifunc[i] */
	bool *ifunc;
	uint64_t register_function, deregister_function; /* libgcc's; 0 when not to be used */
	const char *unwind_note;			 /* why not, or NULL */
	char *ledger_json;
	struct layout layout;
};

/* Whatever failed, that the target is gone explains it: @err, or an error in its place. */
struct pe_error *explain_death(const struct pe_target *target, struct pe_error *err) pe_must_check;

/* Alive, and nobody traces it. */
struct pe_error *check_approachable(const struct pe_target *target) pe_must_check;

/* ---- replace.c ---- */

/*
 * Which applied patches the new one replaces: a lower level of the same name, and those that the
 * caller named. NOTHING when the patch is applied already.
 */
struct pe_error *plan_find_replaced(struct pe_target *target, struct pe_plan *plan) pe_must_check;
/* Appends the functions that only they have; makes ledger_images. */
struct pe_error *plan_pass_through(struct pe_plan *plan) pe_must_check;
/* original, leads and below of functions[], from previous. */
void plan_peel(struct pe_plan *plan, struct plan_function *f);
bool plan_replaces(const struct pe_plan *plan, const struct ledger *ledger);
/* Entries that pass through get their bytes back; in a stop. */
struct pe_error *replace_restore(struct pe_target *target,
				 const struct ledger *ledger) pe_must_check;
/*
 * What is left to do once a patch that replaces others is committed, by whoever comes first: the
 * entries that pass through are restored, the others are marked as reverted.
 */
struct pe_error *replace_finish(struct pe_target *target, struct ledger *ledger,
				struct ledgers *ledgers, uint64_t deadline) pe_must_check;

/* ---- verify.c ---- */

/* Checks the original bytes of every range; fills functions[]. */
struct pe_error *plan_verify_bytes(struct pe_target *target, struct pe_plan *plan) pe_must_check;

/* ---- symbols.c ---- */

struct pe_error *plan_resolve_symbols(struct pe_target *target, struct pe_plan *plan) pe_must_check;
struct pe_error *plan_resolve_unwind(struct pe_target *target, struct pe_plan *plan) pe_must_check;
/* Calls the resolvers of indirect functions in the target. */
struct pe_error *plan_call_resolvers(struct pe_target *target, struct pe_plan *plan,
				     uint64_t deadline) pe_must_check;

/* ---- layout.c ---- */

/* Defined in the text of the patch: the ledger lists where they start, in this order. */
bool is_new_function(const struct pe_patch *patch, const struct pe_patch_symbol *symbol);
/* Tables of landing pads: only unwinding reads them. */
bool is_except_table(const struct pe_patch_section *section);
struct pe_error *layout_init(struct pe_plan *plan) pe_must_check;
void layout_deinit(struct layout *layout);
uint64_t layout_size(const struct layout *layout);
/* The contents of the whole mapping as they must be at @base; magic is LEDGER_PARTIAL. */
struct pe_error *layout_build(struct pe_target *target, const struct pe_plan *plan, uint64_t base,
			      uint8_t **ret) pe_must_check;

/* ---- room.c ---- */

/* A free address range for @size bytes within reach of the plan's images. */
struct pe_error *room_find(const struct pe_maps *maps, const struct pe_plan *plan, uint64_t size,
			   uint64_t *ret) pe_must_check;

/* ---- stage.c ---- */

/* pe_inject_begin, again and again until it works or @deadline (pe_now_us) has passed. */
struct pe_error *inject_begin_until(struct pe_target *target, enum pe_inject_for purpose,
				    uint64_t deadline, struct pe_injector **ret) pe_must_check;
/*
 * Maps the patch; its state is STAGED then, and *ret is a copy of its ledger. @note gets a line for
 * each fallback taken.
 */
struct pe_error *stage(struct pe_target *target, const struct pe_plan *plan, uint64_t deadline,
		       struct ledger *ret, char **note) pe_must_check;
/* Registers the unwind tables of a staged patch. */
struct pe_error *stage_register_unwind(struct pe_target *target, struct ledger *ledger,
				       uint64_t deadline) pe_must_check;
/* And takes that back, when it was done. BUSY when the target is still inside libgcc for us. */
struct pe_error *stage_deregister_unwind(struct pe_target *target, struct ledger *ledger,
					 uint64_t deadline) pe_must_check;
/* Deregisters unwind tables and unmaps; nothing may run or refer to it any more. */
struct pe_error *unstage(struct pe_target *target, struct ledger *ledger,
			 uint64_t deadline) pe_must_check;
void ledger_deinit(struct ledger *ledger);

/* ---- entries.c ---- */

struct entry_write {
	uint64_t at;
	const uint8_t *expected, *bytes; /* there, and to be there; not owned */
	size_t size;
};

/* Bytes to be written to entries in one stop, in any order. Zeroed is empty. */
struct entries {
	struct entry_write *writes;
	size_t count;
	struct entry_span *spans;
	size_t span_count;
};

/* False without memory. No write crosses a page. */
bool entries_add(struct entries *entries, uint64_t at, const uint8_t *expected,
		 const uint8_t *bytes, size_t size);
/* All that can be done while the target runs; after the last entries_add. */
struct pe_error *entries_prepare(struct pe_target *target, struct entries *entries) pe_must_check;
/* In the stop, before anything is written: what is expected is still there. */
struct pe_error *entries_check(struct pe_target *target,
			       const struct entries *entries) pe_must_check;
/* After entries_check, in the same stop. */
struct pe_error *entries_write(struct pe_target *target,
			       const struct entries *entries) pe_must_check;
void entries_deinit(struct entries *entries);

/* ---- switch.c ---- */

/* Below the stack pointer, for functions that call no other (psABI x86-64, 3.2.2). */
#define RED_ZONE 128UL
#define UNWIND_OBJECT_SIZE 64UL

/* What a stop saw besides what it was made for. */
struct stop_view {
	bool text_free; /* no thread runs in, or returns to, the watched patches' code */
	bool data_free; /* no register holds an address of their mappings */
	uint64_t *sps;	/* of all threads: where the live part of the stack begins */
	size_t sp_count, sp_room;
};

void stop_view_deinit(struct stop_view *view);

struct switch_job {
	const struct pe_range *ranges;
	size_t range_count;
	enum pe_range_match match;
	bool check; /* false: nothing needs to be free */
	bool stacks;
	/* The commit; a few writes. */
	struct pe_error *(*commit)(struct pe_target *target, void *ctx);
	void *ctx;
	/* Fill the view for these. */
	const struct ledger *const *watch;
	size_t watch_count;
	bool watch_checked; /* the ranges contain their text, and stacks are checked */
	const char *(*range_name)(void *ctx, uint32_t tag);
};

/* Waits for a free moment, stops, checks, commits, resumes (DESIGN 6). */
struct pe_error *switch_run(struct pe_target *target, const struct switch_job *job,
			    const struct pe_apply_options *options, uint64_t deadline,
			    struct pe_switch_result *result, struct stop_view *view) pe_must_check;
/* One hit a thread and function is enough for whoever reads it. */
void hits_unique(struct pe_stack_hits *hits);
/* With @threads some of them are stopped to measure; NULL: from what is known of @count threads. */
void predict_pause(struct pe_target *target, const struct ledgers *ledgers,
		   const struct pe_threads *threads, size_t count, struct pe_pause_guess *ret);
void report(const struct pe_apply_options *options, const char *fmt, ...) pe_printf(2, 3);
void note_add(char **note, const char *fmt, ...) pe_printf(2, 3);
uint64_t options_deadline(const struct pe_apply_options *options);

/* ---- revert.c ---- */

/* Brings the bytes of the entries back in a stop; state is REVERTED after it. */
struct pe_error *switch_back(struct pe_target *target, struct ledger *ledger, bool must_be_free,
			     const struct pe_apply_options *options, uint64_t deadline,
			     struct pe_switch_result *result, struct stop_view *view) pe_must_check;

/* ---- release.c ---- */

/*
 * Unmaps a reverted patch when nothing refers to it any more; otherwise leaves it and says why in
 * *kept (owned; NULL when it was unmapped). @view of the stop that reverted it, or NULL.
 */
struct pe_error *release(struct pe_target *target, struct ledger *ledger,
			 const struct stop_view *view, char **kept) pe_must_check;
/*
 * True when no thread is left in the old code of an applied patch: @threads seem to be, @unknown
 * were running. Stops nobody.
 */
struct pe_error *settled(const struct pe_target *target, const struct ledger *ledger, bool *ret,
			 size_t *threads, size_t *unknown) pe_must_check;

/* Threads with frames of the old code, or, of a reverted patch, of its own. Stops nobody. */
struct pe_error *old_frames(const struct pe_target *target, const struct ledger *ledger,
			    size_t *threads, size_t *unknown) pe_must_check;

/* ---- cancel.c ---- */

void cancel_begin(const struct pe_apply_options *options, sigset_t *before);
void cancel_end(const struct pe_apply_options *options, const sigset_t *before);
/* From here on the operation is finished, or taken back, whatever signal comes. */
void cancel_forbid(void);
struct pe_error *cancel_check(void) pe_must_check;

/* ---- recover.c, lock.c ---- */

struct pe_error *recover_locked(struct pe_target *target, uint64_t deadline,
				struct pe_recovery *ret) pe_must_check;
/* One patcher at a time a process; BUSY with the other's pid. */
struct pe_error *lock_take(const struct pe_target *target, int *ret) pe_must_check;
void lock_release(const struct pe_target *target, int *fd);
/* Who is at work on it now; 0: nobody that can be seen from here. */
pid_t lock_holder(const struct pe_target *target);
/* Is this descriptor of the target one of a patch? */
bool fd_is_ours(const struct pe_target *target, int fd);

#endif
