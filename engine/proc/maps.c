/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mappings of a process, from /proc/PID/maps. The paths point into the text, which is kept. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "engine/cleanup.h"
#include "proc.h"

static struct pe_error *read_all(const char *path, char **ret)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return pe_error_errno(errno, "cannot open %s", path);

	size_t size = 65536, used = 0;
	pe_auto_free char *text = malloc(size);

	while (text) {
		ssize_t n = read(fd, text + used, size - 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return pe_error_errno(errno, "cannot read %s", path);
		if (n == 0) {
			text[used] = '\0';
			*ret = pe_steal(text);
			return NULL;
		}
		used += (size_t)n;
		if (used + 4096 < size)
			continue;

		char *bigger = realloc(text, size * 2);

		if (!bigger)
			break;
		text = bigger;
		size *= 2;
	}
	return pe_error_nomem();
}

static bool parse_line(char *line, struct pe_map *map)
{
	unsigned int major_nr, minor_nr;
	char perms[5];
	int path_at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n",
		   &map->start, &map->end, perms, &map->offset, &major_nr, &minor_nr, &map->inode,
		   &path_at) < 7)
		return false;
	map->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
		    (perms[2] == 'x' ? PROT_EXEC : 0);
	map->shared = perms[3] == 's';
	map->dev = makedev(major_nr, minor_nr);
	map->path = line + path_at;
	return map->start < map->end;
}

struct pe_error *pe_target_maps(const struct pe_target *target, struct pe_maps *ret)
{
	char path[64];
	struct pe_maps maps = { 0 };

	snprintf(path, sizeof(path), "/proc/%d/maps", target->pid);
	struct pe_error *err = read_all(path, &maps.text);

	if (err) {
		struct pe_error *dead = pe_target_alive(target);

		if (dead)
			pe_error_free(err);
		return dead ? dead : err;
	}

	size_t lines = 0;

	for (const char *p = maps.text; (p = strchr(p, '\n')); p++)
		lines++;
	maps.items = calloc(lines + 1, sizeof(*maps.items));
	if (!maps.items) {
		pe_maps_deinit(&maps);
		return pe_error_nomem();
	}
	for (char *line = maps.text, *end; (end = strchr(line, '\n')); line = end + 1) {
		*end = '\0';
		if (parse_line(line, &maps.items[maps.count]))
			maps.count++;
	}
	if (maps.count == 0) {
		pe_maps_deinit(&maps);
		return pe_error_new(PE_ERR_DIED, "process %d has no memory any more", target->pid);
	}
	*ret = maps;
	return NULL;
}

void pe_maps_deinit(struct pe_maps *maps)
{
	free(maps->items);
	free(maps->text);
	memset(maps, 0, sizeof(*maps));
}

const struct pe_map *pe_maps_at(const struct pe_maps *maps, uint64_t addr)
{
	size_t low = 0, high = maps->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct pe_map *map = &maps->items[mid];

		if (addr < map->start)
			high = mid;
		else if (addr >= map->end)
			low = mid + 1;
		else
			return map;
	}
	return NULL;
}
