/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the passes of pe_select share. Everything here lives in one `struct pe_sel`, made at the
 * start of pe_select and released at its end.
 */
#ifndef BUILD_SELECT_PRIVATE_H
#define BUILD_SELECT_PRIVATE_H

#include "build/select.h"
#include "engine/arch.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

/* A record of .eh_frame. */
struct pe_sel_frame {
	uint64_t start, size; /* its length field included */
	bool is_cie;
	size_t cie;			      /* of an FDE: index of its CIE */
	const struct pe_object_section *text; /* of an FDE: the code that it describes */
	const struct pe_object_section *lsda; /* of an FDE: its exception table, or NULL */
	bool used;			      /* goes into the patch */
	uint64_t out;			      /* offset in the patch's .eh_frame */
};

/* An object and what the passes look up in it again and again. */
struct pe_sel_object {
	const struct pe_object *object;
	const struct pe_arch *arch;
	struct pe_object_symbol **owner;   /* by section: the one thing in it, or NULL */
	struct pe_object_symbol **cold;	   /* by symbol: .cold part of that function, or NULL */
	struct pe_object_symbol **parent;  /* by symbol: the function whose .cold part it is */
	struct pe_object_symbol **by_name; /* named symbols, sorted by name, then index */
	size_t by_name_count;
	const struct pe_object_section *eh_frame; /* or NULL */
	struct pe_sel_frame *frames;
	size_t frame_count;
};

/* Where a relocation leads. */
struct pe_sel_ref {
	const struct pe_object_symbol *symbol;	 /* NULL: a place without a name */
	const struct pe_object_section *section; /* NULL: undefined */
	uint64_t offset;			 /* in section */
	int64_t addend;	      /* relative to symbol; without one, to the section's start */
	bool through_section; /* the object names the section, not the symbol */
};

/* A part of a mergeable section that goes into the patch: one string or one constant. */
struct pe_sel_piece {
	uint64_t start, size;
	uint64_t out; /* offset in the patch's section */
};

/* By section of a patched object. */
struct pe_sel_section {
	bool included;
	struct pe_sel_piece *pieces; /* of a mergeable section, by start */
	size_t piece_count;
	size_t out; /* index in patch->sections */
};

enum pe_sel_state {
	PE_SEL_SAME, /* the image's own serves */
	PE_SEL_CHANGED,
	PE_SEL_NEW,
};

/* By symbol of a patched object. */
struct pe_sel_symbol {
	struct pe_object_symbol *base; /* its counterpart in the base object, or NULL */
	enum pe_sel_state state;       /* of functions and constants */
	bool replaced;		       /* CHANGED, and the image has it at vaddr */
	bool doubtful;		       /* several counterparts are as likely */
	uint64_t vaddr;
	uint64_t size; /* bytes in the image: jumps may have other sizes than in the object */
	char *reason;  /* owned */
};

struct pe_sel_unit {
	const struct pe_unit_objects *in;
	struct pe_sel_object base, patched;
	struct pe_sel_symbol *symbols;		     /* by symbol of the patched object */
	struct pe_object_symbol **counterpart;	     /* by symbol of the base object */
	struct pe_sel_section *sections;	     /* by section of the patched object */
	const struct pe_object_symbol *changed_data; /* the first that compare saw, or NULL */
	unsigned int depth;			     /* of a comparison of contents */
	struct pe_sel_debug *debug;		     /* select_inlines.c's */
};

/* A section whose relocations still have to be followed. */
struct pe_sel_work {
	struct pe_sel_unit *unit;
	const struct pe_object_section *section;
};

struct pe_sel {
	struct pe_sel_unit *units;
	size_t unit_count;
	const struct pe_image *image;
	const struct pe_arch *arch;
	const struct pe_select_options *options;
	struct pe_sel_work *work;
	size_t work_count;
	struct pe_image **libraries; /* host copies of what the image needs */
	size_t library_count;
	bool libraries_open;
	bool libraries_complete; /* every needed library was found */
	size_t replaced_count;
	bool entangled; /* functions know each other's code: one by one is refused */
	char *entangled_why;
};

/* What a relocation of included code becomes in the patch. */
struct pe_sel_dest {
	enum pe_patch_symbol_kind kind;
	const char *name;
	uint8_t type; /* STT_* */
	bool global;
	uint64_t value; /* TARGET, SLOT, TPOFF; as in struct pe_patch_symbol */
	uint64_t size;
	int64_t addend;
	/* LOCAL: a symbol at @offset of @section of the patched object of @unit */
	struct pe_sel_unit *unit;
	const struct pe_object_section *section;
	uint64_t offset;
};

/* ---- select_object.c: looking into one object ---- */

struct pe_error *pe_sel_object_init(struct pe_sel_object *so, const struct pe_object *object,
				    const struct pe_arch *arch) pe_must_check;
void pe_sel_object_deinit(struct pe_sel_object *so);
/* Where @reloc of @section leads. */
struct pe_sel_ref pe_sel_ref_of(const struct pe_sel_object *so,
				const struct pe_object_section *section,
				const struct pe_object_reloc *reloc);
/* The first named symbol of that name, defined ones first; NULL when there is none. */
struct pe_object_symbol *pe_sel_find(const struct pe_sel_object *so, const char *name);
const struct pe_object_section *pe_sel_lsda(const struct pe_sel_object *so,
					    const struct pe_object_section *text);
/* The piece (string or constant) of a mergeable section that @offset lies in. */
void pe_sel_piece_at(const struct pe_object_section *section, uint64_t offset, uint64_t *start,
		     uint64_t *size);
size_t pe_sel_field_size(const struct pe_arch *arch, uint32_t type);
bool pe_sel_is_label(const struct pe_object_symbol *symbol);
bool pe_sel_is_text(const struct pe_object_section *section);
/* Never written after the program's start. */
bool pe_sel_is_read_only(const struct pe_object_section *section);
bool pe_sel_is_mergeable(const struct pe_object_section *section);
/* Sections whose contents a running program sees: not debug information, notes or unwind tables. */
bool pe_sel_is_data(const struct pe_object_section *section);
/* A function that the compiler split or specialised: nobody holds its address. */
bool pe_sel_is_clone(const struct pe_object_symbol *symbol);
/* A constant that the compiler made (string of __func__, switch table): copied, never shared. */
bool pe_sel_is_compiler_constant(const struct pe_object_symbol *symbol);
/* A constant inside a function: shared while unchanged, otherwise new data. */
bool pe_sel_is_local_constant(const struct pe_object_symbol *symbol);
/* The number that ends a name like "n.12": true, and the length before the dot. */
bool pe_sel_numbered(const char *name, size_t *stem);

/* ---- correlate.c ---- */

/* Fills unit->symbols[].base, .doubtful and unit->counterpart. */
struct pe_error *pe_sel_correlate(struct pe_sel_unit *unit) pe_must_check;
/* @name without what the compiler numbers; owned by the caller, NULL without memory. */
char *pe_sel_name_key(const char *name);

/* ---- compare.c ---- */

/* Sets the state of every function and constant. */
void pe_sel_compare(struct pe_sel_unit *unit);
/* Refuses changed data of a running process. */
struct pe_error *pe_sel_guard_data(const struct pe_sel_unit *unit) pe_must_check;
bool pe_sel_refs_equal(struct pe_sel_unit *unit, const struct pe_object_section *bs,
		       const struct pe_object_reloc *br, const struct pe_object_section *ps,
		       const struct pe_object_reloc *pr);
bool pe_sel_sections_equal(struct pe_sel_unit *unit, const struct pe_object_section *b,
			   const struct pe_object_section *p);
/* Equal code and references, both functions of patched objects (of maybe different units). */
bool pe_sel_same_code(const struct pe_sel_unit *ua, const struct pe_object_symbol *a,
		      const struct pe_sel_unit *ub, const struct pe_object_symbol *b);

/* ---- select_functions.c ---- */

/* Which changed functions replace which of the image, and why. */
struct pe_error *pe_sel_functions(struct pe_sel *sel) pe_must_check;

/* ---- select_inlines.c ---- */

/* Why a function's code changed. */
enum pe_sel_why {
	PE_SEL_WHY_SELF,    /* its own source; or it cannot be told */
	PE_SEL_WHY_INLINES, /* a changed function is inlined into it */
	PE_SEL_WHY_OTHER,   /* neither: the compiler saw another function change */
};

/*
 * Tells by debug information and the lines that the diff touches. *name: the inlined function's
 * symbol name, NULL unless INLINES; owned by the caller.
 */
struct pe_error *pe_sel_why(const struct pe_sel *sel, struct pe_sel_unit *unit,
			    const struct pe_object_symbol *p, enum pe_sel_why *why,
			    char **name) pe_must_check;
void pe_sel_debug_free(struct pe_sel_debug *debug);

/* ---- select_closure.c ---- */

/* Includes what replaced functions need. */
struct pe_error *pe_sel_closure(struct pe_sel *sel) pe_must_check;
/* What @reloc of the included @section becomes; includes what it leads to. */
struct pe_error *pe_sel_resolve(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_section *section,
				const struct pe_object_reloc *reloc,
				struct pe_sel_dest *ret) pe_must_check;
struct pe_error *pe_sel_include(struct pe_sel *sel, struct pe_sel_unit *unit,
				const struct pe_object_section *section) pe_must_check;

/* ---- select_outside.c ---- */

/*
 * What @name means outside the patch: defined in the image, imported by it, or of a library.
 * @found false when nothing has it.
 */
struct pe_error *pe_sel_outside(struct pe_sel *sel, const struct pe_object_symbol *symbol,
				struct pe_sel_dest *ret, bool *found) pe_must_check;
/* The image's own definition only. */
struct pe_error *pe_sel_in_image(struct pe_sel *sel, const struct pe_object_symbol *symbol,
				 struct pe_sel_dest *ret, bool *found) pe_must_check;
void pe_sel_libraries_close(struct pe_sel *sel);

/* ---- select_thread_local.c ---- */

/* Is @symbol at a constant offset from the thread pointer, the same in each process? */
bool pe_sel_tls_is_constant(const struct pe_sel *sel, const struct pe_object_symbol *symbol);
/* Offset of @symbol in the image's own block of thread-locals, bytes; refuses a new one. */
struct pe_error *pe_sel_tls_offset(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				   const struct pe_object_symbol *symbol,
				   uint64_t *ret) pe_must_check;
/*
 * What a relocation of type @access to @symbol becomes: TPOFF for a constant offset, else TARGET,
 * the entry in the image's GOT that such an access goes through.
 */
struct pe_error *pe_sel_thread_local(struct pe_sel *sel, struct pe_sel_unit *unit,
				     const struct pe_object_symbol *symbol, uint32_t access,
				     struct pe_sel_dest *ret) pe_must_check;

/* ---- select_tls.c ---- */

/* True when @reloc is an access to a thread-local that pe_sel_tls_relax takes care of. */
bool pe_sel_tls_access(const struct pe_object_reloc *reloc);
/*
 * Rewrites the access at relocs[*index] of @code (a copy of the section's bytes) as the linker did
 * for the image. *index moves past the relocations that it used up; *out is the relocation to
 * emit, its symbol NULL when none is left.
 */
struct pe_error *pe_sel_tls_relax(const struct pe_sel *sel, const struct pe_sel_unit *unit,
				  const struct pe_object_section *section, uint8_t *code,
				  size_t *index, struct pe_object_reloc *out) pe_must_check;

/* ---- image_refs.c ---- */

/* Does @vaddr lie in a function that is replaced? */
bool pe_sel_is_replaced(const struct pe_sel *sel, uint64_t vaddr);
/*
 * Something in the image, outside of replaced functions, that leads to [start, end): in words,
 * owned by the caller; NULL when there is nothing.
 */
struct pe_error *pe_sel_reference(const struct pe_sel *sel, uint64_t start, uint64_t end,
				  char **who) pe_must_check;
/* Bytes of padding from @vaddr, the end of a function, that nothing knows. */
struct pe_error *pe_sel_padding(const struct pe_sel *sel, uint64_t vaddr,
				size_t *ret) pe_must_check;

/* ---- guard.c, guard_types.c, guard_users.c, guard_signatures.c ---- */

struct pe_error *pe_sel_guard_units(struct pe_sel *sel) pe_must_check;
struct pe_error *pe_sel_guard_types(struct pe_sel *sel, struct pe_sel_unit *unit) pe_must_check;
/*
 * Who besides local variables of replaced functions uses @type (a name with its scopes), as text
 * owned by the caller; NULL when nobody does.
 */
struct pe_error *pe_sel_type_users(struct pe_sel *sel, const char *type, char **ret) pe_must_check;
struct pe_error *pe_sel_guard_signatures(struct pe_sel *sel) pe_must_check;
struct pe_error *pe_sel_guard_entries(struct pe_sel *sel) pe_must_check;
/* Refuses new objects whose destructors would run at the end of the process. */
struct pe_error *pe_sel_guard_exit(struct pe_sel *sel) pe_must_check;
/* How the entry of the function that @p replaces can be overwritten. */
struct pe_error *pe_sel_entry(const struct pe_sel *sel, const struct pe_sel_unit *unit,
			      const struct pe_object_symbol *p, struct pe_entry *ret) pe_must_check;

/* ---- emit.c, emit_unwind.c ---- */

struct pe_error *pe_sel_emit(struct pe_sel *sel, struct pe_patch *patch) pe_must_check;
/* Appends an empty section. */
struct pe_error *pe_sel_emit_section(struct pe_patch *patch, const char *name,
				     struct pe_patch_section **ret) pe_must_check;
/* Appends @reloc of @from to patch section @section, which has room for it, at @offset. */
struct pe_error *pe_sel_emit_reloc(struct pe_sel *sel, struct pe_sel_unit *unit,
				   struct pe_patch *patch, size_t section,
				   const struct pe_object_section *from,
				   const struct pe_object_reloc *reloc,
				   uint64_t offset) pe_must_check;
/* The index of the patch symbol for @dest; made when it is new. */
struct pe_error *pe_sel_emit_symbol(struct pe_sel *sel, struct pe_patch *patch,
				    const struct pe_sel_dest *dest, uint32_t *ret) pe_must_check;
/* The unwind tables of what is included, with a zero terminator; nothing when none is. */
struct pe_error *pe_sel_emit_unwind(struct pe_sel *sel, struct pe_patch *patch) pe_must_check;

#endif
