/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What has to be known about each source package that can be a target: data, no code. */
#include "build/debian.h"

#include <string.h>

static const char *const mariadb_packages[] = {
	"mariadb-server",      "mariadb-server-core", "mariadb-client",
	"mariadb-client-core", "mariadb-common",      NULL,
};

static const char *const mariadb_generate[] = { "GenError", "GenServerSource", NULL };

static const char *const openssl_packages[] = { "libssl3", NULL };

/* What the libraries' sources include beside headers that are made for all. */
static const char *const openssl_generate[] = {
	"build_generated",
	"crypto/buildinf.h",
	"providers/common/include/prov/der_digests.h",
	"providers/common/include/prov/der_dsa.h",
	"providers/common/include/prov/der_ec.h",
	"providers/common/include/prov/der_ecx.h",
	"providers/common/include/prov/der_rsa.h",
	"providers/common/include/prov/der_sm2.h",
	"providers/common/include/prov/der_wrap.h",
	"providers/common/der/der_digests_gen.c",
	"providers/common/der/der_dsa_gen.c",
	"providers/common/der/der_ec_gen.c",
	"providers/common/der/der_ecx_gen.c",
	"providers/common/der/der_rsa_gen.c",
	"providers/common/der/der_sm2_gen.c",
	"providers/common/der/der_wrap_gen.c",
	NULL,
};

static const char *const openssl_libraries[] = { "libcrypto.so", "libssl.so", NULL };

static const struct pe_debian_recipe recipes[] = {
	{
		.name = "mariadb",
		.product = "db",
		.source = "mariadb",
		.packages = mariadb_packages,
		.binary = "usr/sbin/mariadbd",
		.symbols = "usr/share/doc/mariadb-server/mariadbd.sym.gz",
		.configure = "override_dh_auto_configure",
		.build_dir = "builddir",
		.generate = mariadb_generate,
	},
	{
		/* libssl.so.3 is another image of the same target. */
		.name = "openssl",
		.product = "libs",
		.source = "openssl",
		.packages = openssl_packages,
		.binary = "usr/lib/x86_64-linux-gnu/libcrypto.so.3",
		.configure = "override_dh_auto_configure",
		.dh_flags = true,
		.build_dir = "build_shared",
		.generate = openssl_generate,
		.dry_run = openssl_libraries,
	},
};

const struct pe_debian_recipe *pe_debian_recipe_find(const char *name)
{
	for (size_t i = 0; i < sizeof(recipes) / sizeof(*recipes); i++) {
		if (!strcmp(recipes[i].name, name))
			return &recipes[i];
	}
	return NULL;
}
