/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checking the fields of a patch that are text, and its list of targets. */
#include <string.h>

#include "engine/arch.h"
#include "patch/format.h"

enum { MAX_TEXT = 64 << 10 }; /* bytes of a text in the manifest */

/* Length of the UTF-8 sequence at @s, 0 when it is none; shortest forms only, no surrogates. */
static size_t utf8_length(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;

	size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;

	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
		return 0;
	return length;
}

/* What may be shown on a terminal: UTF-8 without control characters. */
static bool is_printable(const char *text, bool lines)
{
	for (const unsigned char *c = (const unsigned char *)text; *c;) {
		size_t length = utf8_length(c);
		bool newline = *c == '\n' || *c == '\t';

		/* C1 controls (U+0080 to U+009f) drive terminals too. */
		if (!length || (*c < ' ' && !(lines && newline)) || *c == 0x7f ||
		    (*c == 0xc2 && c[1] < 0xa0))
			return false;
		c += length;
	}
	return true;
}

bool care_name_is_sane(const char *name)
{
	return name && *name && strlen(name) <= PATCH_MAX_NAME && !strchr(name, ' ') &&
	       is_printable(name, false);
}

static struct pe_error *check_text(const char *what, const char *text, bool required, bool lines)
{
	if (!text)
		return required ? pe_error_new(PE_ERR_FORMAT, "%s is missing", what) : NULL;
	if (required && !*text)
		return pe_error_new(PE_ERR_FORMAT, "%s is empty", what);
	if (strlen(text) > MAX_TEXT)
		return pe_error_new(PE_ERR_FORMAT, "%s is longer than %d bytes", what, MAX_TEXT);
	if (!is_printable(text, lines))
		return pe_error_new(PE_ERR_FORMAT, "%s has a character that cannot be printed",
				    what);
	return NULL;
}

bool care_text_is_sane(const char *text)
{
	return *text && strlen(text) <= MAX_TEXT && is_printable(text, false);
}

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static struct pe_error *check_name(const char *name)
{
	if (!name || !is_alnum(*name) || strlen(name) > 64)
		goto bad;
	for (const char *c = name; *c; c++)
		if (!is_alnum(*c) && !strchr("._+-", *c))
			goto bad;
	return NULL;
bad:
	return pe_error_new(PE_ERR_FORMAT,
			    "the patch's name must be 1 to 64 letters, digits and ._+-, and begin "
			    "with a letter or digit");
}

static struct pe_error *check_source(const char *hex)
{
	if (hex && (strlen(hex) != 2 * PE_SHA256_SIZE ||
		    strspn(hex, "0123456789abcdef") != 2 * PE_SHA256_SIZE))
		return pe_error_new(PE_ERR_FORMAT, "source_sha256 is no SHA-256 in hexadecimal");
	return NULL;
}

static struct pe_error *check_lists(const struct pe_patch *patch)
{
	struct pe_error *err = NULL;

	if (patch->cve_count > PATCH_MAX_LIST || patch->gate_count > PATCH_MAX_LIST ||
	    patch->note_count > PATCH_MAX_LIST)
		return pe_error_new(PE_ERR_FORMAT, "more than %d CVEs, gates or notes",
				    PATCH_MAX_LIST);
	for (size_t i = 0; !err && i < patch->cve_count; i++) {
		err = check_text("the id of a CVE", patch->cves[i].id, true, false);
		if (!err)
			err = check_text("a CVSS score", patch->cves[i].cvss, false, false);
		if (!err)
			err = check_text("the URL of a CVE", patch->cves[i].url, false, false);
	}
	for (size_t i = 0; !err && i < patch->gate_count; i++)
		err = check_text("the name of a gate", patch->gates[i], true, false);
	for (size_t i = 0; !err && i < patch->note_count; i++)
		err = check_text("a note", patch->notes[i], true, false);
	return err;
}

static struct pe_error *check_target(const struct pe_patch *patch, size_t i)
{
	const struct pe_patch_target *t = &patch->targets[i];
	struct pe_error *err = check_text("its name", t->name, true, false);

	if (!err && strchr(t->name, '/'))
		err = pe_error_new(PE_ERR_FORMAT, "its name \"%s\" is a path", t->name);
	if (!err && (!t->build_id.size || t->build_id.size > PE_BUILD_ID_MAX))
		err = pe_error_new(PE_ERR_FORMAT, "it has no build-id");
	if (!err && !pe_arch_find(t->machine))
		err = pe_error_new(PE_ERR_UNSUPPORTED,
				   "its processor (ELF machine %u) is not supported", t->machine);
	if (!err && t->machine != patch->targets[0].machine)
		err = pe_error_new(PE_ERR_FORMAT, "its processor is not that of the first target");
	for (size_t j = 0; !err && j < i; j++)
		if (pe_build_id_equal(&t->build_id, &patch->targets[j].build_id))
			err = pe_error_new(PE_ERR_FORMAT, "it has the build-id of target %zu", j);
	return err ? pe_error_wrap(err, "target %zu", i) : NULL;
}

struct pe_error *care_check_manifest(const struct pe_patch *patch)
{
	struct pe_error *err = check_name(patch->name);

	if (!err)
		err = check_text("the description", patch->description, false, true);
	if (!err &&
	    (!patch->kind || (strcmp(patch->kind, "security") && strcmp(patch->kind, "bugfix"))))
		err = pe_error_new(PE_ERR_FORMAT, "the kind is neither security nor bugfix");
	if (!err)
		err = check_text("the product", patch->product, true, false);
	if (!err)
		err = check_text("the compiler", patch->compiler, false, false);
	if (!err)
		err = check_text("the flags", patch->flags, false, true);
	if (!err)
		err = check_source(patch->source_sha256);
	if (!err)
		err = check_lists(patch);
	if (!err && !patch->target_count)
		err = pe_error_new(PE_ERR_FORMAT, "there is no target");
	if (!err && patch->target_count > PATCH_MAX_TARGETS)
		err = pe_error_new(PE_ERR_FORMAT, "%zu targets are more than %d",
				   patch->target_count, PATCH_MAX_TARGETS);
	for (size_t i = 0; !err && i < patch->target_count; i++)
		err = check_target(patch, i);
	return err ? pe_error_wrap(err, CARE_MANIFEST) : NULL;
}
