/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packages that the archive's lists do not name any more, since a newer version took their place,
 * while its pool still has the files: servers run the older version for months. Nothing that the
 * archive signs vouches for them then, so they are fetched over TLS only, and the user is told.
 */
#include "build/debian_private.h"
#include "build/files.h"
#include "build/run.h"
#include "engine/cleanup.h"

#include <string.h>

#define POOL "https://deb.debian.org/debian/pool/main"
#define APT_HELPER "/usr/lib/apt/apt-helper"

/* Versions in file names have no epoch. */
static const char *version_in_names(const struct preparation *p)
{
	const char *colon = strchr(p->options->version, ':');

	return colon ? colon + 1 : p->options->version;
}

/* @sha256 may be NULL. The file gets its name when it is whole. */
static struct pe_error *fetch(struct preparation *p, const char *file, const char *sha256)
{
	const char *source = p->recipe->source;
	int letters = pe_starts_with(source, "lib") ? 4 : 1;
	pe_auto_free char *url = pe_format("%s/%.*s/%s/%s", POOL, letters, source, source, file);
	pe_auto_free char *path = pe_format("%s/download/%s", p->dir, file);
	pe_auto_free char *hash = sha256 ? pe_format("SHA256:%s", sha256) : NULL;

	if (!url || !path || (sha256 && !hash))
		return pe_error_nomem();
	/* What was fetched before is asked for again only when nothing checks it here. */
	if (pe_file_exists(path) && !sha256)
		return NULL;
	return debian_tool(p, "download", APT_HELPER, "-oAPT::Sandbox::User=root", "download-file",
			   url, path, hash, NULL);
}

/* The files that a .dsc lists under Checksums-Sha256: lines of " HASH SIZE NAME". */
static struct pe_error *fetch_listed(struct preparation *p, const char *dsc)
{
	const char *at = strstr(dsc, "\nChecksums-Sha256:");
	struct pe_error *err = NULL;
	size_t count = 0;

	for (at = at ? strchr(at + 1, '\n') : NULL; !err && at && at[1] == ' ';
	     at = strchr(at + 1, '\n')) {
		char hash[65], name[256];

		if (sscanf(at + 1, " %64[0-9a-f] %*u %255s", hash, name) != 2 || *name == '.' ||
		    strchr(name, '/'))
			return pe_error_new(PE_ERR_FORMAT, "the .dsc of %s is damaged",
					    p->recipe->source);
		err = fetch(p, name, hash);
		count++;
	}
	if (!err && !count)
		err = pe_error_new(PE_ERR_FORMAT, "the .dsc of %s lists no files",
				   p->recipe->source);
	return err;
}

static struct pe_error *fetch_source(struct preparation *p)
{
	pe_auto_free char *name = pe_format("%s_%s.dsc", p->recipe->source, version_in_names(p));
	pe_auto_free char *path = name ? pe_format("%s/download/%s", p->dir, name) : NULL;
	pe_auto_free char *text = NULL;
	struct pe_error *err = path ? fetch(p, name, NULL) : pe_error_nomem();

	if (!err)
		err = pe_file_read(path, &text, NULL);
	return err ? err : fetch_listed(p, text);
}

static struct pe_error *fetch_package(struct preparation *p, const char *package, const char *arch)
{
	const char *version = version_in_names(p);
	pe_auto_free char *own = pe_format("%s_%s_%s.deb", package, version, arch);
	pe_auto_free char *all = pe_format("%s_%s_all.deb", package, version);
	struct pe_error *err = own && all ? fetch(p, own, NULL) : pe_error_nomem();

	if (!err || pe_interrupted() || !all)
		return err;
	pe_error_free(err);
	return fetch(p, all, NULL);
}

struct pe_error *debian_pool_download(struct preparation *p)
{
	pe_auto_free char *arch = NULL;
	struct pe_error *err =
		debian_output(p, ".", "dpkg --print-architecture", &arch, NULL, NULL);

	if (err)
		return err;
	arch[strcspn(arch, "\n")] = 0;
	err = fetch_source(p);
	for (size_t i = 0; !err && p->recipe->packages[i]; i++)
		err = fetch_package(p, p->recipe->packages[i], arch);
	if (err)
		return pe_error_wrap(
			err,
			"%s %s is not in the package lists, and not to be had from the "
			"archive's pool either",
			p->recipe->source, p->options->version);
	p->note = pe_format("%s %s is not in the package lists any more: it was fetched from %s "
			    "over TLS, without the archive's signature",
			    p->recipe->source, p->options->version, POOL);
	return p->note ? NULL : pe_error_nomem();
}
