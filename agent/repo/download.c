/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The artifact of a target: written under a hidden name while length and hashes are computed, and
 * in place only when both are as signed.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>

#include "agent/repo/client.h"
#include "agent/repo/key.h"
#include "agent/repo/names.h"
#include "engine/cleanup.h"

/* The signed hashes that are known here, computed while bytes pass by. */
enum { MAX_HASHES = 3 };

struct hashing {
	size_t count;
	EVP_MD_CTX *ctx[MAX_HASHES];
	const char *name[MAX_HASHES], *hex[MAX_HASHES];
	uint64_t size;
};

struct tuf_download {
	char *path; /* for messages */
	char *file, *part;
	int dir, fd;
	uint64_t length;
	json_t *hashes;
	struct hashing hashing;
};

static void hashing_deinit(struct hashing *hashing)
{
	for (size_t i = 0; i < hashing->count; i++)
		EVP_MD_CTX_free(hashing->ctx[i]);
	hashing->count = 0;
}

static struct pe_error *hashing_init(struct hashing *hashing, json_t *hashes, const char *path)
{
	for (const char *const *name = tuf_hash_names; *name; name++) {
		const char *hex = json_string_value(json_object_get(hashes, *name));
		EVP_MD_CTX *ctx;

		if (!hex)
			continue;
		ctx = EVP_MD_CTX_new();
		hashing->ctx[hashing->count] = ctx;
		hashing->name[hashing->count] = *name;
		hashing->hex[hashing->count++] = hex;
		if (!ctx || !EVP_DigestInit_ex(ctx, EVP_get_digestbyname(*name), NULL))
			return pe_error_nomem();
	}
	if (!hashing->count)
		return pe_error_new(PE_ERR_POLICY, "%s is signed with no hash known here", path);
	return NULL;
}

static bool hashing_update(struct hashing *hashing, const void *bytes, size_t size)
{
	bool good = true;

	for (size_t i = 0; i < hashing->count; i++)
		good &= EVP_DigestUpdate(hashing->ctx[i], bytes, size) == 1;
	hashing->size += size;
	return good;
}

static struct pe_error *hashing_check(struct hashing *hashing, uint64_t length, const char *path)
{
	if (hashing->size != length)
		return pe_error_new(PE_ERR_POLICY, "%s has %llu bytes, signed are %llu", path,
				    (unsigned long long)hashing->size, (unsigned long long)length);
	for (size_t i = 0; i < hashing->count; i++) {
		unsigned char digest[EVP_MAX_MD_SIZE], wanted[EVP_MAX_MD_SIZE];
		unsigned int size;

		if (!EVP_DigestFinal_ex(hashing->ctx[i], digest, &size))
			return pe_error_nomem();
		if (!repo_unhex(hashing->hex[i], wanted, size) || memcmp(digest, wanted, size))
			return pe_error_new(PE_ERR_POLICY, "%s has another %s than signed", path,
					    hashing->name[i]);
	}
	return NULL;
}

/* ---- names ---- */

char *tuf_target_file(const struct tuf_target *target)
{
	return repo_quote_file(target->path, "");
}

char *tuf_target_url(const struct tuf_client *client, const struct tuf_target *target)
{
	pe_auto_free char *quoted = repo_quote_url(target->path, "/");
	const char *hash = NULL, *base;
	char *url = NULL;

	if (!quoted || !tuf_root_consistent(client->root))
		return pe_steal(quoted);
	for (const char *const *name = tuf_hash_names; *name && !hash; name++)
		hash = json_string_value(json_object_get(target->hashes, *name));

	/* Hashes of hostile metadata are any text. */
	pe_auto_free char *quoted_hash = repo_quote_url(hash ? hash : "", "");

	base = strrchr(quoted, '/');
	base = base ? base + 1 : quoted;
	if (!quoted_hash ||
	    asprintf(&url, "%.*s%s.%s", (int)(base - quoted), quoted, quoted_hash, base) < 0)
		return NULL;
	return url;
}

bool tuf_target_there(const struct tuf_target *target, const char *dir)
{
	pe_auto_free char *name = tuf_target_file(target), *path = NULL;
	pe_auto_free char *buffer = malloc(65536);
	struct hashing hashing = { 0 };
	bool good = false;

	if (!name || !buffer || asprintf(&path, "%s/%s", dir, name) < 0)
		return false;

	pe_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	pe_auto_error struct pe_error *err = hashing_init(&hashing, target->hashes, target->path);

	if (fd >= 0 && !err) {
		ssize_t n;

		good = true;
		while (good && hashing.size <= target->length && (n = read(fd, buffer, 65536)) != 0)
			good = n > 0 && hashing_update(&hashing, buffer, (size_t)n);
		if (good)
			err = hashing_check(&hashing, target->length, target->path);
	}
	hashing_deinit(&hashing);
	return good && !err;
}

/* ---- a download ---- */

static void download_free(struct tuf_download *download)
{
	if (download->fd >= 0)
		close(download->fd);
	if (download->part && download->dir >= 0)
		unlinkat(download->dir, download->part, 0);
	if (download->dir >= 0)
		close(download->dir);
	hashing_deinit(&download->hashing);
	json_decref(download->hashes);
	free(download->path);
	free(download->file);
	free(download->part);
	free(download);
}

static struct pe_error *open_part(struct tuf_download *download, const char *dir)
{
	download->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (download->dir < 0)
		return pe_error_errno(errno, "cannot open folder %s", dir);
	download->fd = openat(download->dir, download->part,
			      O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	return download->fd < 0 ? pe_error_errno(errno, "cannot write in %s", dir) : NULL;
}

struct pe_error *tuf_download_begin(const struct tuf_target *target, const char *dir,
				    struct tuf_download **ret)
{
	struct tuf_download *download = calloc(1, sizeof(*download));

	*ret = NULL;
	if (!download)
		return pe_error_nomem();
	download->dir = download->fd = -1;
	download->length = target->length;
	download->hashes = json_incref(target->hashes);
	download->path = strdup(target->path);
	download->file = tuf_target_file(target);

	struct pe_error *err = NULL;

	if (download->path && !download->file)
		err = pe_error_new(PE_ERR_POLICY, "the path of target %.40s… is too long",
				   target->path);
	else if (!download->path || asprintf(&download->part, ".%s.part", download->file) < 0)
		err = pe_error_nomem();
	if (!err)
		err = hashing_init(&download->hashing, download->hashes, download->path);
	if (!err)
		err = open_part(download, dir);
	if (err)
		download_free(download);
	else
		*ret = download;
	return err;
}

struct pe_error *tuf_download_write(struct tuf_download *download, const void *bytes, size_t size)
{
	if (size > download->length - download->hashing.size)
		return pe_error_new(PE_ERR_POLICY, "%s has more than the signed %llu bytes",
				    download->path, (unsigned long long)download->length);
	if (!hashing_update(&download->hashing, bytes, size))
		return pe_error_nomem();
	if (!repo_write_all(download->fd, bytes, size))
		return pe_error_errno(errno, "cannot write %s", download->path);
	return NULL;
}

struct pe_error *tuf_download_end(struct tuf_download *download, bool keep)
{
	struct pe_error *err = NULL;

	if (keep)
		err = hashing_check(&download->hashing, download->length, download->path);
	if (keep && !err) {
		if (fsync(download->fd) ||
		    renameat(download->dir, download->part, download->dir, download->file))
			err = pe_error_errno(errno, "cannot write %s", download->path);
		else
			free(pe_steal(download->part)); /* it is the file now */
		if (!err && fsync(download->dir))
			err = pe_error_errno(errno, "cannot sync the folder of %s", download->path);
	}
	download_free(download);
	return err;
}
