/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzing the repository's metadata: parser, canonical form, verification, paths of delegations and
 * the line of a patch's signature. The first byte says as what the rest is read.
 *
 * What is refused must be refused without harm; what is accepted must have one canonical form that
 * is read again as the same. With clang -fsanitize=fuzzer only LLVMFuzzerTestOneInput() is used;
 * with -DFUZZ_MAIN files are tried one by one, and --seed FOLDER writes inputs to start from.
 */
#include <stdint.h>

#include "agent/repo/metadata.h"
#include "agent/repo/names.h"
#include "agent/repo/signature.h"
#include "tuf_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Whatever was read: its canonical form is read as the same, with the same canonical form. */
static void check_canonical(const struct tuf_metadata *metadata)
{
	pe_auto_free char *first = NULL, *second = NULL;
	repo_auto_json json_t *again = NULL;
	size_t size, second_size;
	pe_auto_error struct pe_error *err = repo_json_canonical(metadata->body, &first, &size);

	if (err)
		return;
	for (size_t i = 0; i < size; i++)
		if ((unsigned char)first[i] < 0x20)
			return; /* canonical JSON has these raw: no JSON that a parser reads */
	pe_auto_error struct pe_error *parsed = repo_json_parse(first, size, "again", &again);
	pe_auto_error struct pe_error *written =
		parsed ? NULL : repo_json_canonical(again, &second, &second_size);

	if (parsed || written || size != second_size || memcmp(first, second, size) ||
	    !json_equal(again, metadata->body))
		abort();
}

static void check_verify(const struct tuf_metadata *metadata)
{
	json_t *keys = json_object_get(metadata->body, "keys");
	json_t *role = metadata->type == TUF_ROOT ? tuf_root_role(metadata, "root") : NULL;

	if (role)
		pe_error_free(tuf_metadata_verify(metadata, keys, role, "root"));
	if (metadata->type == TUF_ROOT)
		(void)tuf_root_rotated(metadata, metadata, "timestamp");
}

static void check_delegations(const struct tuf_metadata *metadata)
{
	json_t *roles = json_object_get(json_object_get(metadata->body, "delegations"), "roles");

	for (size_t i = 0; i < json_array_size(roles); i++) {
		json_t *role = json_array_get(roles, i);
		const char *name = json_string_value(json_object_get(role, "name"));
		pe_auto_free char *file = repo_quote_file(name, ".json");

		if (tuf_delegation(metadata, name) != role)
			abort();
		if (file && (strchr(file, '/') || *file == '.'))
			abort();
		(void)repo_delegated(role, "main/db/7a14/1-fix.cpatch");
	}
}

static void read_metadata(enum tuf_type type, const uint8_t *bytes, size_t size)
{
	tuf_auto_metadata struct tuf_metadata *metadata = NULL;
	pe_auto_error struct pe_error *err =
		tuf_metadata_parse(type, bytes, size, "input", &metadata);

	if (!err == !metadata)
		abort();
	if (err)
		return;
	if (metadata->version < 1)
		abort();
	check_canonical(metadata);
	check_verify(metadata);
	if (type == TUF_TARGETS)
		check_delegations(metadata);
}

static void read_signature(const uint8_t *bytes, size_t size)
{
	struct repo_keyring *ring = NULL;
	pe_auto_error struct pe_error *err = repo_keyring_new(&ring);
	pe_auto_error struct pe_error *bad =
		err ? NULL : repo_signature_verify(ring, "x", 1, (const char *)bytes, size, NULL);

	/* An empty ring trusts nobody. */
	if (!err && !bad)
		abort();
	repo_keyring_free(ring);
}

static void read_pattern(const uint8_t *bytes, size_t size)
{
	pe_auto_free char *pattern = strndup((const char *)bytes, size);
	pe_auto_free char *path =
		strndup((const char *)bytes + strlen(pattern), size - strlen(pattern));

	if (size > strlen(pattern)) {
		free(path);
		path = strndup((const char *)bytes + strlen(pattern) + 1,
			       size - strlen(pattern) - 1);
	}
	(void)repo_glob(pattern, path);
	/* A pattern without special characters matches itself alone. */
	if (!strpbrk(pattern, "*?[") && repo_glob(pattern, path) != !strcmp(pattern, path))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	if (!size)
		return 0;

	/* The fuzzer's own buffer may be larger than the input. */
	pe_auto_free uint8_t *exact = malloc(size - 1 + !(size - 1));

	memcpy(exact, bytes + 1, size - 1);
	switch (bytes[0] % 6) {
	case 4:
		read_signature(exact, size - 1);
		break;
	case 5:
		read_pattern(exact, size - 1);
		break;
	default:
		read_metadata((enum tuf_type)(bytes[0] % 6), exact, size - 1);
	}
	return 0;
}

#ifdef FUZZ_MAIN
static int try_file(const char *path)
{
	static uint8_t bytes[1 << 20];
	FILE *in = fopen(path, "rb");

	if (!in) {
		perror(path);
		return 1;
	}
	LLVMFuzzerTestOneInput(bytes, fread(bytes, 1, sizeof(bytes), in));
	fclose(in);
	return 0;
}

static void write_seed(const char *folder, const char *name, char kind, const char *bytes,
		       size_t size)
{
	pe_auto_free char *path = NULL;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		abort();

	pe_auto_file FILE *out = fopen(path, "wb");

	if (!out || putc(kind, out) == EOF || fwrite(bytes, 1, size, out) != size)
		abort();
}

static int write_seeds(const char *folder)
{
	static const char signature[] =
		"care-signature-1 8bc0eaf3c1ed3868 Lr47KigvGVrULO2TYS2Qcx8MZlc6rVp8cIR/fVVv66eUqS6o"
		"TmJthoLr5v3CFIaU0Vx9rZdcnCtSOJ9crxfpCA==\n";
	struct tuf_fixture fixture;

	tuf_fixture_init(&fixture);
	write_seed(folder, "root", TUF_ROOT, fixture.now.bytes[0], fixture.now.size[0]);
	write_seed(folder, "timestamp", TUF_TIMESTAMP, fixture.now.bytes[1], fixture.now.size[1]);
	write_seed(folder, "snapshot", TUF_SNAPSHOT, fixture.now.bytes[2], fixture.now.size[2]);
	write_seed(folder, "targets", TUF_TARGETS, fixture.now.bytes[3], fixture.now.size[3]);
	write_seed(folder, "feed", TUF_TARGETS, fixture.now.bytes[4], fixture.now.size[4]);
	write_seed(folder, "signature", 4, signature, strlen(signature));
	write_seed(folder, "pattern", 5, "main/*/[0-7]?*\0main/db/7a", 25);
	tuf_fixture_deinit(&fixture);
	return 0;
}

int main(int argc, char **argv)
{
	int status = 0;

	if (argc == 3 && !strcmp(argv[1], "--seed"))
		return write_seeds(argv[2]);
	for (int i = 1; i < argc; i++)
		status |= try_file(argv[i]);
	return status;
}
#endif
