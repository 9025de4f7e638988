/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger: what has been done to a process, kept inside the process.
 *
 * It is found through the mappings named care:NAME, and, for targets where no memfd could be made,
 * by its magic at the beginning of an anonymous mapping. It is parsed as hostile input: its tables
 * must add up, its checksum must hold, its jumps must lead from the code of an image that it names
 * by build-id into its own code. Only then does anybody write an address that it gives.
 */
#include "internal.h"

#include <jansson.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cleanup.h"
#include "sha256.h"

enum {
	MAX_FUNCTIONS = 4096,
	MAX_RANGES = 16384,
	MAX_IMAGES = 16,
	MAX_STARTS = 65536,
	MAX_REPLACED = 64,
	MAX_JSON = 1 << 20
};

static const char *const state_names[] = {
	[PE_STATE_NONE] = "none",	    [PE_STATE_STAGED] = "staged",
	[PE_STATE_SWITCHING] = "switching", [PE_STATE_SETTLING] = "settling",
	[PE_STATE_APPLIED] = "applied",	    [PE_STATE_REVERTING] = "reverting",
	[PE_STATE_REVERTED] = "reverted",
};

const char *pe_state_name(enum pe_state state)
{
	return (unsigned int)state <= PE_STATE_REVERTED ? state_names[state] : "unknown";
}

void ledger_checksum(const void *constant, size_t size, uint8_t out[PE_SHA256_SIZE])
{
	struct ledger_header header;

	memcpy(&header, constant, sizeof(header));
	header.magic = 0;
	memset(header.checksum, 0, sizeof(header.checksum));
	memset(&header.variable, 0, sizeof(header.variable));

	const struct iovec pieces[] = {
		{ &header, sizeof(header) },
		{ (uint8_t *)constant + sizeof(header), size - sizeof(header) },
	};

	sha256_pieces(pieces, 2, out);
}

void ledger_deinit(struct ledger *ledger)
{
	for (size_t i = 0; ledger->function_names && i < ledger->header.function_count; i++)
		free(ledger->function_names[i]);
	free(ledger->function_names);
	free(ledger->functions);
	free(ledger->ranges);
	free(ledger->images);
	free(ledger->gone);
	free(ledger->starts);
	free(ledger->replaced);
	free(ledger->json);
	free(ledger->name);
	*ledger = (struct ledger){ 0 };
}

void ledgers_deinit(struct ledgers *ledgers)
{
	for (size_t i = 0; i < ledgers->count; i++)
		ledger_deinit(&ledgers->items[i]);
	free(ledgers->items);
	*ledgers = (struct ledgers){ 0 };
}

bool ledger_is_live(const struct ledger *ledger)
{
	return ledger->complete && ledger->header.variable.state >= PE_STATE_SWITCHING &&
	       ledger->header.variable.state <= PE_STATE_REVERTING;
}

size_t ledger_entries(const struct ledger *ledger)
{
	return ledger->header.variable.replacing ? ledger->header.function_count
						 : ledger->header.own_count;
}

bool ledger_stands_on(const struct ledger *ledger, const struct ledger *below)
{
	if (!ledger_is_live(ledger) || ledger->header.sequence <= below->header.sequence)
		return false;
	for (size_t a = 0; a < ledger_entries(ledger); a++)
		for (size_t b = 0; b < ledger_entries(below); b++)
			if (ledger->functions[a].patched == below->functions[b].patched)
				return true;
	return false;
}

bool ledger_entry_exists(const struct ledger *ledger, size_t i)
{
	return !ledger->gone[ledger->functions[i].image];
}

const uint8_t *ledger_bytes_below(const struct ledger *ledger, size_t i)
{
	return ledger->header.variable.replacing ? ledger->functions[i].previous
						 : ledger->functions[i].original;
}

struct pe_error *ledger_count_ours(const struct pe_target *target, const struct ledger *ledger,
				   size_t *ret)
{
	*ret = 0;
	for (size_t i = 0; i < ledger_entries(ledger); i++) {
		const struct ledger_function *f = &ledger->functions[i];
		uint8_t bytes[PE_JUMP_MAX];

		if (!ledger_entry_exists(ledger, i))
			continue;
		struct pe_error *err = pe_target_read(target, f->patched, bytes, f->size);
		if (err)
			return err;
		*ret += !memcmp(bytes, f->jump, f->size);
	}
	return NULL;
}

struct pe_error *ledger_is_committed(const struct pe_target *target, const struct ledger *ledger,
				     bool *ret)
{
	size_t ours, there = 0;

	if (ledger->header.flags & LEDGER_SELECT) {
		*ret = ledger->header.variable.commit;
		return NULL;
	}
	struct pe_error *err = ledger_count_ours(target, ledger, &ours);

	for (size_t i = 0; !err && i < ledger_entries(ledger); i++)
		there += ledger_entry_exists(ledger, i);
	*ret = !err && ours == there;
	return err;
}

struct ledger *ledgers_find(const struct ledgers *ledgers, const char *name)
{
	for (size_t i = 0; i < ledgers->count; i++)
		if (ledger_is_live(&ledgers->items[i]) && !strcmp(ledgers->items[i].name, name))
			return &ledgers->items[i];
	return NULL;
}

uint64_t ledger_variable_address(const struct ledger *ledger, size_t offset)
{
	return ledger->address + offsetof(struct ledger_header, variable) + offset;
}

struct pe_error *ledger_write_state(struct pe_target *target, struct ledger *ledger,
				    enum pe_state state)
{
	ledger->header.variable.state = state;
	return ledger_write_field(target, ledger, state);
}

struct pe_error *ledger_write_commit(struct pe_target *target, struct ledger *ledger,
				     uint32_t value)
{
	ledger->header.variable.commit = value;
	return ledger_write_field(target, ledger, commit);
}

/* ---- parsing ---- */

static struct pe_error *damaged(const struct ledger *ledger, const char *what)
{
	return pe_error_new(PE_ERR_FORMAT, "the ledger of patch %s at 0x%lx is damaged: %s",
			    ledger->name ? ledger->name : "?", (unsigned long)ledger->address,
			    what);
}

static const char *check_header(const struct ledger *ledger)
{
	const struct ledger_header *h = &ledger->header;
	const struct ledger_variable *v = &h->variable;
	uint64_t sum = sizeof(*h);

	if (h->version != LEDGER_VERSION)
		return "unknown version";
	if (!h->own_count || h->function_count < h->own_count ||
	    h->function_count > MAX_FUNCTIONS || h->range_count > MAX_RANGES ||
	    h->range_count < h->own_count || !h->own_images || h->image_count < h->own_images ||
	    h->image_count > MAX_IMAGES || h->start_count > MAX_STARTS ||
	    h->replaced_count > MAX_REPLACED || h->json_size > MAX_JSON ||
	    (h->function_count > h->own_count && !h->replaced_count))
		return "bad counts";
	sum += h->function_count * sizeof(struct ledger_function);
	sum += h->range_count * sizeof(struct ledger_range);
	sum += h->image_count * sizeof(struct ledger_image);
	sum += h->start_count * sizeof(uint64_t);
	sum += h->replaced_count * sizeof(uint64_t);
	sum += h->json_size;
	if (sum != h->constant_size || sum > h->data_size)
		return "sizes do not add up";
	if (h->base % PE_PAGE || h->text_size % PE_PAGE || h->rodata_size % PE_PAGE ||
	    h->data_size % PE_PAGE || h->text_size >> 31 || h->rodata_size >> 31 ||
	    h->data_size >> 31 || h->base != ledger->start ||
	    h->base + h->text_size + h->rodata_size + h->data_size != ledger->end ||
	    h->base + h->text_size + h->rodata_size != ledger->address)
		return "it does not describe its own mapping";
	if ((h->register_stub || h->deregister_stub) &&
	    (h->register_stub - h->base >= h->text_size ||
	     h->deregister_stub - h->base >= h->text_size))
		return "stub outside its text";
	if (v->state < PE_STATE_STAGED || v->state > PE_STATE_REVERTED || v->commit > 1 ||
	    v->unwind > UNWIND_DEREGISTERED || v->replacing > 1 ||
	    (v->replacing && !h->replaced_count))
		return "impossible state";
	return NULL;
}

static bool mapped_code(const struct pe_maps *maps, uint64_t start, uint64_t size)
{
	const struct pe_map *map = pe_maps_at(maps, start);
	const struct pe_map *last = pe_maps_at(maps, start + size - 1);

	return map && last && (map->prot & PROT_EXEC) && (last->prot & PROT_EXEC);
}

/*
 * A library that was unloaded took its patched code along: when no entry is left, what is left is
 * memory to be released.
 */
static struct pe_error *find_gone(struct ledger *ledger, const struct pe_loaded_images *images)
{
	ledger->gone = calloc(ledger->header.image_count, sizeof(*ledger->gone));
	if (!ledger->gone)
		return pe_error_nomem();
	for (size_t i = 0; i < ledger->header.image_count; i++) {
		const struct pe_loaded_image *loaded =
			pe_loaded_images_find(images, &ledger->images[i].build_id);

		ledger->gone[i] = !loaded || loaded->start != ledger->images[i].start;
	}
	return NULL;
}

static bool any_entry_exists(const struct ledger *ledger)
{
	for (size_t i = 0; i < ledger_entries(ledger); i++)
		if (ledger_entry_exists(ledger, i))
			return true;
	return false;
}

static const char *check_tables(const struct ledger *ledger, const struct pe_maps *maps)
{
	const struct ledger_header *h = &ledger->header;
	const struct pe_arch *arch = pe_arch_find((uint16_t)h->machine);

	if (!arch)
		return "unknown processor";
	for (size_t i = 0; i < h->image_count; i++) {
		const struct ledger_image *image = &ledger->images[i];

		if (image->end < image->start)
			return "bad image";
	}
	for (size_t i = 0; i < h->function_count; i++) {
		const struct ledger_function *f = &ledger->functions[i];
		uint64_t to;

		if (f->image >= h->image_count || f->size != arch->jump_size)
			return "bad function";
		const struct ledger_image *image = &ledger->images[f->image];
		if (f->patched < image->start || f->patched + f->size > image->end ||
		    (ledger_entry_exists(ledger, i) && !mapped_code(maps, f->patched, f->size)))
			return "a function outside the code of its image";
		if (!arch->jump_decode(f->patched, f->jump, f->size, &to) || to != f->target ||
		    to - h->base >= h->text_size)
			return "a jump that leads elsewhere";
	}
	for (size_t i = 0; i < h->range_count; i++)
		if (ledger->ranges[i].function >= h->own_count ||
		    ledger->ranges[i].end < ledger->ranges[i].start)
			return "bad range";
	return NULL;
}

static const char *parse_json(struct ledger *ledger)
{
	json_t *root = json_loads(ledger->json, JSON_REJECT_DUPLICATES, NULL);
	const char *name = json_string_value(json_object_get(root, "name"));
	json_t *functions = json_object_get(root, "functions"); /* with those that pass through */
	const char *wrong = NULL;

	if (!name || json_array_size(functions) != ledger->header.function_count) {
		json_decref(root);
		return "bad description";
	}
	free(ledger->name);
	ledger->name = strdup(name);
	ledger->function_names = calloc(ledger->header.function_count, sizeof(char *));
	for (size_t i = 0; ledger->function_names && i < ledger->header.function_count; i++) {
		const char *function = json_string_value(json_array_get(functions, i));

		if (!function)
			wrong = "bad function name";
		ledger->function_names[i] = strdup(function ? function : "?");
	}
	json_decref(root);
	return wrong;
}

static void *copy_table(const uint8_t **from, size_t size)
{
	void *table = malloc(size + 1);

	if (table) {
		memcpy(table, *from, size);
		((char *)table)[size] = '\0';
	}
	*from += size;
	return table;
}

/* Reads the rest of a ledger whose header has been read and has the final magic. */
static struct pe_error *ledger_parse(const struct pe_target *target, const struct pe_maps *maps,
				     const struct pe_loaded_images *images, struct ledger *ledger)
{
	struct ledger_header *h = &ledger->header;
	const char *wrong = check_header(ledger);

	if (wrong)
		return damaged(ledger, wrong);

	pe_auto_free uint8_t *constant = malloc(h->constant_size);
	uint8_t checksum[PE_SHA256_SIZE];

	if (!constant)
		return pe_error_nomem();
	struct pe_error *err = pe_target_read(target, ledger->address, constant, h->constant_size);
	if (err)
		return err;
	ledger_checksum(constant, h->constant_size, checksum);
	if (memcmp(checksum, h->checksum, sizeof(checksum)))
		return damaged(ledger, "its checksum is wrong");

	const uint8_t *at = constant + sizeof(*h);

	ledger->functions = copy_table(&at, h->function_count * sizeof(*ledger->functions));
	ledger->ranges = copy_table(&at, h->range_count * sizeof(*ledger->ranges));
	ledger->images = copy_table(&at, h->image_count * sizeof(*ledger->images));
	ledger->starts = copy_table(&at, h->start_count * sizeof(*ledger->starts));
	ledger->replaced = copy_table(&at, h->replaced_count * sizeof(*ledger->replaced));
	ledger->json = copy_table(&at, h->json_size);
	if (!ledger->functions || !ledger->ranges || !ledger->images || !ledger->starts ||
	    !ledger->replaced || !ledger->json)
		return pe_error_nomem();
	for (size_t i = 0; i < h->image_count; i++)
		if (ledger->images[i].build_id.size > PE_BUILD_ID_MAX)
			return damaged(ledger, "bad build-id");

	err = find_gone(ledger, images);
	if (err)
		return err;
	wrong = check_tables(ledger, maps);
	if (!wrong && !any_entry_exists(ledger))
		h->variable.state = PE_STATE_REVERTED;
	if (!wrong)
		wrong = parse_json(ledger);
	if (wrong)
		return damaged(ledger, wrong);
	ledger->complete = true;
	return NULL;
}

/* ---- finding ---- */

static bool is_ours(const struct pe_map *map)
{
	return !strncmp(map->path, MAPPING_PREFIX, strlen(MAPPING_PREFIX));
}

/* The pieces of one memfd lie side by side: gathers them from maps[*i] on. */
static void gather(const struct pe_maps *maps, size_t *i, struct ledger *ledger)
{
	const struct pe_map *first = &maps->items[*i];
	const char *name = first->path + strlen(MAPPING_PREFIX);
	size_t length = strcspn(name, " ");

	ledger->start = first->start;
	ledger->name = strndup(name, length);
	for (; *i < maps->count; ++*i) {
		const struct pe_map *map = &maps->items[*i];

		if (map != first && (map->inode != first->inode || map->dev != first->dev ||
				     map->start != ledger->end || !is_ours(map)))
			break;
		ledger->end = map->end;
		if ((map->prot & PROT_WRITE) && !ledger->address)
			ledger->address = map->start;
	}
	--*i;
}

/* An anonymous mapping that begins with a ledger: its header tells where the mapping begins. */
static bool find_anonymous(const struct pe_target *target, const struct pe_map *map,
			   struct ledger *ledger)
{
	uint64_t magic;
	struct ledger_header h;

	if (*map->path || map->shared ||
	    (map->prot & (PROT_WRITE | PROT_READ | PROT_EXEC)) != (PROT_READ | PROT_WRITE))
		return false;
	pe_auto_error struct pe_error *err =
		pe_target_read(target, map->start, &magic, sizeof(magic));
	if (err || (magic != LEDGER_MAGIC && magic != LEDGER_PARTIAL))
		return false;
	pe_auto_error struct pe_error *err2 = pe_target_read(target, map->start, &h, sizeof(h));
	if (err2)
		return false;

	uint64_t size = h.text_size + h.rodata_size + h.data_size;

	if (h.base % PE_PAGE || h.base > map->start || size >> 32 ||
	    h.base + h.text_size + h.rodata_size != map->start || h.base + size > map->end)
		return false;
	ledger->start = h.base;
	ledger->end = h.base + size;
	ledger->address = map->start;
	return true;
}

static int by_sequence(const void *a, const void *b)
{
	const struct ledger *x = a, *y = b;
	uint64_t sx = x->complete ? x->header.sequence : 0;
	uint64_t sy = y->complete ? y->header.sequence : 0;

	return sx < sy ? -1 : sx > sy;
}

static struct pe_error *ledgers_add(const struct pe_target *target, const struct pe_maps *maps,
				    const struct pe_loaded_images *images, struct ledger *ledger,
				    struct ledgers *ret)
{
	struct ledger *items = realloc(ret->items, (ret->count + 1) * sizeof(*items));

	if (!items) {
		ledger_deinit(ledger);
		return pe_error_nomem();
	}
	ret->items = items;

	struct ledger *slot = &items[ret->count++];

	*slot = *ledger;
	if (!slot->name)
		slot->name = strdup("?");
	if (!slot->address)
		return NULL;
	struct pe_error *err =
		pe_target_read(target, slot->address, &slot->header, sizeof(slot->header));
	if (err || slot->header.magic != LEDGER_MAGIC) {
		pe_error_free(err);
		memset(&slot->header, 0, sizeof(slot->header));
		return NULL;
	}
	return ledger_parse(target, maps, images, slot);
}

/* Somebody died between committing a patch and marking those that it replaced as reverted. */
static struct pe_error *note_replaced(const struct pe_target *target, struct ledgers *ledgers)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < ledgers->count; i++) {
		const struct ledger *ledger = &ledgers->items[i];
		bool committed = false;

		if (!ledger_is_live(ledger) || !ledger->header.variable.replacing)
			continue;
		err = ledger_is_committed(target, ledger, &committed);
		for (size_t l = 0; committed && l < i; l++)
			for (size_t r = 0; r < ledger->header.replaced_count; r++)
				if (ledgers->items[l].complete &&
				    ledgers->items[l].header.sequence == ledger->replaced[r])
					ledgers->items[l].header.variable.state = PE_STATE_REVERTED;
	}
	return err;
}

/* Do these bytes, at that entry, stand for code that no patch up to ledgers[@last] has touched? */
static bool is_bare(const struct ledgers *ledgers, size_t last, const struct ledger_function *entry,
		    const uint8_t *bytes)
{
	for (size_t i = 0; i <= last; i++) {
		const struct ledger *ledger = &ledgers->items[i];

		for (size_t f = 0; ledger->complete && f < ledger->header.function_count; f++)
			if (ledger->functions[f].patched == entry->patched &&
			    !memcmp(bytes, ledger->functions[f].original, entry->size))
				return memcmp(bytes, entry->jump, entry->size) != 0;
	}
	return false;
}

/* All entries in one image of an applied patch. */
static struct pe_error *is_image_bare(const struct pe_target *target, const struct ledgers *ledgers,
				      size_t i, size_t image, bool *ret)
{
	const struct ledger *ledger = &ledgers->items[i];
	bool any = false, all = true;

	for (size_t f = 0; all && f < ledger_entries(ledger); f++) {
		const struct ledger_function *entry = &ledger->functions[f];
		uint8_t bytes[PE_JUMP_MAX];

		if (entry->image != image || !ledger_entry_exists(ledger, f))
			continue;
		struct pe_error *err = pe_target_read(target, entry->patched, bytes, entry->size);
		if (err)
			return err;
		any = true;
		all = is_bare(ledgers, i, entry, bytes);
	}
	*ret = any && all;
	return NULL;
}

/* A library that was unloaded and loaded again to the same place came without its patch. */
static struct pe_error *note_reloaded(const struct pe_target *target, struct ledgers *ledgers)
{
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < ledgers->count; i++) {
		struct ledger *ledger = &ledgers->items[i];
		struct ledger_variable *v = &ledger->header.variable;

		if (!ledger->complete ||
		    (v->state != PE_STATE_APPLIED && v->state != PE_STATE_SETTLING))
			continue;
		for (size_t image = 0; !err && image < ledger->header.image_count; image++) {
			bool bare = false;

			err = is_image_bare(target, ledgers, i, image, &bare);
			ledger->gone[image] |= bare;
		}
		if (!err && !any_entry_exists(ledger))
			v->state = PE_STATE_REVERTED;
	}
	return err;
}

struct pe_error *ledgers_read(const struct pe_target *target, struct ledgers *ret)
{
	struct pe_maps maps = { 0 };
	struct pe_loaded_images images = { 0 };
	struct pe_error *err = pe_target_maps(target, &maps);

	*ret = (struct ledgers){ 0 };
	for (size_t i = 0; !err && i < maps.count; i++) {
		struct ledger ledger = { 0 };

		if (is_ours(&maps.items[i]))
			gather(&maps, &i, &ledger);
		else if (!find_anonymous(target, &maps.items[i], &ledger))
			continue;
		if (!images.count)
			err = pe_target_images(target, &images);
		if (!err)
			err = ledgers_add(target, &maps, &images, &ledger, ret);
		else
			ledger_deinit(&ledger);
	}
	pe_loaded_images_deinit(&images);
	pe_maps_deinit(&maps);
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), by_sequence);
	if (!err)
		err = note_replaced(target, ret);
	if (!err)
		err = note_reloaded(target, ret);
	if (err)
		ledgers_deinit(ret);
	return err;
}
