/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opens ELF files for the readers of images and objects. */
#include "elf/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "engine/cleanup.h"

void pe_elf_file_deinit(struct pe_elf_file *file)
{
	if (file->elf)
		elf_end(file->elf);
	if (file->map)
		munmap(file->map, file->size);
	*file = (struct pe_elf_file){ 0 };
}

static struct pe_error *file_map(struct pe_elf_file *file, const char *path)
{
	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return pe_error_errno(errno, "cannot open %s", path);
	if (!S_ISREG(st.st_mode))
		return pe_error_new(PE_ERR_FORMAT, "%s is no regular file", path);
	if (st.st_size < (off_t)sizeof(Elf64_Ehdr))
		return pe_error_new(PE_ERR_FORMAT, "%s is no ELF file: only %lld bytes", path,
				    (long long)st.st_size);
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return pe_error_errno(errno, "cannot map %s", path);
	file->map = map;
	file->size = (size_t)st.st_size;
	return NULL;
}

struct pe_error *pe_elf_file_init(struct pe_elf_file *file, const char *path)
{
	*file = (struct pe_elf_file){ 0 };
	elf_version(EV_CURRENT);

	struct pe_error *err = file_map(file, path);
	if (err)
		return err;

	const unsigned char *ident = file->map;
	if (memcmp(ident, ELFMAG, SELFMAG) != 0)
		err = pe_error_new(PE_ERR_FORMAT, "%s is no ELF file", path);
	else if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB)
		err = pe_error_new(PE_ERR_FORMAT, "%s is no 64-bit little-endian ELF file", path);
	else if (!(file->elf = elf_memory(file->map, file->size)) ||
		 elf_kind(file->elf) != ELF_K_ELF)
		err = pe_error_new(PE_ERR_FORMAT, "%s is a damaged ELF file: %s", path,
				   elf_errmsg(-1));
	if (err)
		pe_elf_file_deinit(file);
	return err;
}
