/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The review page; see build/report.h. Top down as a reviewer asks: what is it, what does the
 * source change, which functions are in and why, what does the machine code change, what does it
 * touch besides, what was left out.
 */
#include "build/report.h"
#include "build/listing.h"
#include "engine/arch.h"
#include "engine/cleanup.h"
#include "engine/demangle.h"

#include <inttypes.h>
#include <string.h>

static const char style[] =
	"body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:92rem;padding:1.5rem;"
	"color:#1c2430;background:#fff}"
	"h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;"
	"border-bottom:1px solid #d5dae1;padding-bottom:.2rem}h3{font-size:1rem;margin:1.4rem 0 "
	".4rem}"
	"table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;"
	"vertical-align:top}th{color:#5a6675;font-weight:600}.n{text-align:right;"
	"font-variant-numeric:tabular-nums}"
	"code,pre,.c{font:12.5px/1.45 ui-monospace,Menlo,Consolas,monospace}"
	"pre{background:#f6f8fa;border:1px solid #d5dae1;border-radius:6px;padding:.7rem;"
	"overflow:auto;margin:.3rem 0}.why{white-space:pre-wrap;overflow-wrap:anywhere}"
	".s{display:inline-block;border-radius:4px;padding:0 .5rem;background:#e6edf7;"
	"margin-right:.4rem}.s.bad{background:#fde3e1}"
	".add{background:#dcf5e3}.del{background:#fde3e1}.hunk{color:#5b4bb0}.file{font-weight:700}"
	"table.code{width:100%;table-layout:fixed;border:1px solid #d5dae1;border-radius:6px}"
	"table.code td{padding:0 .5rem;white-space:pre-wrap;overflow-wrap:anywhere;width:50%}"
	"table.code th{padding:.2rem .5rem;background:#f6f8fa}"
	".o{color:#8793a1;user-select:none}details{margin:.4rem 0}summary{cursor:pointer}"
	"@media (prefers-color-scheme:dark){body{background:#12161c;color:#dfe5ec}"
	"pre,table.code th{background:#1a2029}h2,pre,table.code{border-color:#323b47}"
	".add{background:#12351f}.del{background:#451c1c}.s{background:#26344a}"
	".s.bad{background:#5a2320}.hunk{color:#b3a6ff}}";

/* ---- text ---- */

static void put_text(FILE *out, const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '<')
			fputs("&lt;", out);
		else if (c == '>')
			fputs("&gt;", out);
		else if (c == '&')
			fputs("&amp;", out);
		else if (c == '"')
			fputs("&quot;", out);
		else if (c < ' ' && c != '\n' && c != '\t')
			fputs("\xef\xbf\xbd", out);
		else
			fputc(c, out);
	}
}

static void put(FILE *out, const char *text)
{
	put_text(out, text, strlen(text));
}

static void put_name(FILE *out, const char *symbol)
{
	pe_auto_free char *name = pe_demangle(symbol);

	put(out, name ? name : symbol);
}

static void row(FILE *out, const char *title, const char *text)
{
	if (!text || !*text)
		return;
	fprintf(out, "<tr><th>%s</th><td>", title);
	put(out, text);
	fputs("</td></tr>\n", out);
}

/* ---- what it is ---- */

static bool is_web_address(const char *url)
{
	return url && (!strncmp(url, "https://", 8) || !strncmp(url, "http://", 7));
}

static void put_cves(FILE *out, const struct pe_patch *patch)
{
	for (size_t i = 0; i < patch->cve_count; i++) {
		const struct pe_patch_cve *cve = &patch->cves[i];
		bool link = is_web_address(cve->url);

		fputs("<span class=\"s bad\">", out);
		if (link) {
			fputs("<a href=\"", out);
			put(out, cve->url);
			fputs("\">", out);
		}
		put(out, cve->id);
		fputs(link ? "</a>" : "", out);
		if (cve->cvss) {
			fputs(" &middot; CVSS ", out);
			put(out, cve->cvss);
		}
		fputs("</span>", out);
	}
}

static void put_head(FILE *out, const struct pe_patch *patch, bool refused)
{
	fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
	      "<meta name=\"viewport\" content=\"width=device-width\">"
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	      "style-src 'unsafe-inline'\"><title>Patch ",
	      out);
	put(out, patch->name);
	fprintf(out, "%s</title><style>%s</style></head><body>\n<h1>Patch ",
		refused ? ": refused" : "", style);
	put(out, patch->name);
	fputs("</h1><p>", out);
	put_cves(out, patch);
	fprintf(out, "<span class=\"s\">%s</span><span class=\"s\">level %u</span>", patch->kind,
		patch->level);
	fprintf(out, "<span class=\"s%s</span></p>\n",
		refused		     ? " bad\">refused"
		: patch->independent ? "\">functions change one by one"
				     : "\">all functions change at one moment");
	if (patch->description) {
		fputs("<p>", out);
		put(out, patch->description);
		fputs("</p>\n", out);
	}
}

static void put_facts(FILE *out, const struct pe_patch *patch)
{
	fputs("<table>\n", out);
	for (size_t i = 0; i < patch->target_count; i++) {
		const struct pe_patch_target *target = &patch->targets[i];
		char hex[2 * PE_BUILD_ID_MAX + 1];

		pe_build_id_hex(&target->build_id, hex);
		row(out, target->is_program ? "program" : "library", target->name);
		row(out, "build-id", hex);
	}
	row(out, "product", patch->product);
	row(out, "compiler", patch->compiler);
	row(out, "flags", patch->flags);
	row(out, "source SHA-256", patch->source_sha256);
	fputs("</table>\n", out);
}

/* ---- the source ---- */

static const char *diff_class(const char *line, size_t size)
{
	if (size >= 4 && (!memcmp(line, "--- ", 4) || !memcmp(line, "+++ ", 4)))
		return "file";
	if (size >= 2 && !memcmp(line, "@@", 2))
		return "hunk";
	return size && *line == '+' ? "add" : size && *line == '-' ? "del" : NULL;
}

static void put_diff(FILE *out, const struct pe_patch *patch)
{
	const char *end = patch->diff + patch->diff_size;

	fputs("<h2>What the source changes</h2>\n", out);
	if (!patch->diff) {
		fputs("<p>The file does not carry the diff that it was made from.</p>\n", out);
		return;
	}
	fputs("<pre>", out);
	for (const char *line = patch->diff; line < end;) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));
		size_t size = (size_t)((newline ? newline : end) - line);
		const char *class = diff_class(line, size);

		if (class)
			fprintf(out, "<span class=\"%s\">", class);
		put_text(out, line, size);
		fputs(class ? "</span>\n" : "\n", out);
		line += size + 1;
	}
	fputs("</pre>\n", out);
}

/* ---- functions ---- */

static uint64_t old_size(const struct pe_patch_function *function)
{
	uint64_t size = 0;

	for (size_t i = 0; i < function->range_count; i++)
		size += function->ranges[i].size;
	return size;
}

static bool is_replacement(const struct pe_patch *patch, size_t symbol)
{
	for (size_t i = 0; i < patch->function_count; i++)
		if (patch->functions[i].symbol == symbol)
			return true;
	return false;
}

/* A function that the patch brings along and that replaces none. */
static bool is_new_function(const struct pe_patch *patch, size_t i)
{
	const struct pe_patch_symbol *symbol = &patch->symbols[i];

	return symbol->kind == PE_SYM_LOCAL && symbol->size &&
	       patch->sections[symbol->section].kind == PE_SECTION_TEXT &&
	       !is_replacement(patch, i);
}

static void put_function_table(FILE *out, const struct pe_patch *patch)
{
	fprintf(out, "<h2>Functions</h2>\n<table><tr><th>function</th><th>why it is in</th>"
		     "<th class=\"n\">old, bytes</th><th class=\"n\">new, bytes</th></tr>\n");
	for (size_t i = 0; i < patch->function_count; i++) {
		const struct pe_patch_function *function = &patch->functions[i];

		fprintf(out, "<tr><td><a href=\"#f%zu\">", i);
		put_name(out, function->name);
		fputs("</a></td><td>", out);
		put(out, function->reason ? function->reason : "");
		fprintf(out, "</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%" PRIu64,
			old_size(function), patch->symbols[function->symbol].size);
		fputs("</td></tr>\n", out);
	}
	for (size_t i = 0; i < patch->symbol_count; i++) {
		if (!is_new_function(patch, i))
			continue;
		fprintf(out, "<tr><td><a href=\"#s%zu\">", i);
		put_name(out, patch->symbols[i].name);
		fprintf(out,
			"</a></td><td>new: others of the patch call it</td><td class=\"n\">-</td>"
			"<td class=\"n\">%" PRIu64 "</td></tr>\n",
			patch->symbols[i].size);
	}
	fputs("</table>\n", out);
}

static void put_line(FILE *out, const struct pe_listing *listing, size_t i, const char *class)
{
	if (i == PE_NO_LINE) {
		fputs("<td></td>", out);
		return;
	}
	fprintf(out, "<td class=\"c %s\"><span class=\"o\">%4" PRIx64 "  </span>", class,
		listing->lines[i].offset);
	put(out, listing->lines[i].text);
	fputs("</td>", out);
}

static struct pe_error *put_pairs(FILE *out, const struct pe_listing *old,
				  const struct pe_listing *new)
{
	pe_auto_free struct pe_listing_pair *pairs = NULL;
	size_t count;
	struct pe_error *err = pe_listing_align(old, new, &pairs, &count);

	if (err)
		return err;
	fputs("<table class=\"code\"><tr><th>old</th><th>new</th></tr>\n", out);
	for (size_t i = 0; i < count; i++) {
		size_t a = pairs[i].old, b = pairs[i].new;
		bool same = a != PE_NO_LINE && b != PE_NO_LINE &&
			    !strcmp(old->lines[a].key, new->lines[b].key);

		fputs("<tr>", out);
		put_line(out, old, a, same ? "" : "del");
		put_line(out, new, b, same ? "" : "add");
		fputs("</tr>\n", out);
	}
	fputs("</table>\n", out);
	return NULL;
}

static struct pe_error *put_function(FILE *out, const struct pe_patch *patch,
				     const struct pe_image *image, const struct pe_arch *arch,
				     size_t i)
{
	const struct pe_patch_function *function = &patch->functions[i];
	const struct pe_patch_symbol *symbol = &patch->symbols[function->symbol];
	struct pe_listing old = { 0 }, new = { 0 };
	struct pe_error *err = NULL;

	for (size_t r = 0; !err && r < function->range_count; r++)
		err = pe_listing_old(image, arch, &function->ranges[r], &old);
	if (!err)
		err = pe_listing_new(patch, arch, symbol, &new);
	if (!err) {
		fprintf(out, "<h3 id=\"f%zu\">", i);
		put_name(out, function->name);
		fprintf(out, "</h3>\n<p>Old code at 0x%" PRIx64 " of %s.</p>\n",
			function->ranges[0].vaddr, patch->targets[function->target].name);
		err = put_pairs(out, &old, &new);
	}
	pe_listing_deinit(&old);
	pe_listing_deinit(&new);
	return err;
}

static struct pe_error *put_new_function(FILE *out, const struct pe_patch *patch,
					 const struct pe_arch *arch, size_t i)
{
	struct pe_listing listing = { 0 };
	struct pe_error *err = pe_listing_new(patch, arch, &patch->symbols[i], &listing);

	if (!err) {
		fprintf(out, "<h3 id=\"s%zu\">", i);
		put_name(out, patch->symbols[i].name);
		fputs(" (new)</h3>\n<pre>", out);
		for (size_t l = 0; l < listing.count; l++) {
			fprintf(out, "<span class=\"o\">%4" PRIx64 "  </span>",
				listing.lines[l].offset);
			put(out, listing.lines[l].text);
			fputc('\n', out);
		}
		fputs("</pre>\n", out);
	}
	pe_listing_deinit(&listing);
	return err;
}

static struct pe_error *put_code(FILE *out, const struct pe_patch *patch,
				 const struct pe_image *image)
{
	const struct pe_arch *arch = pe_arch_find(patch->targets[0].machine);
	struct pe_error *err = NULL;

	fputs("<h2>Machine code</h2>\n<p>Lines that say the same stand side by side; offsets count "
	      "from the beginning of the function.</p>\n",
	      out);
	for (size_t i = 0; !err && i < patch->function_count; i++)
		err = put_function(out, patch, image, arch, i);
	for (size_t i = 0; !err && i < patch->symbol_count; i++)
		if (is_new_function(patch, i))
			err = put_new_function(out, patch, arch, i);
	return err;
}

/* ---- what else ---- */

static void put_symbols(FILE *out, const struct pe_patch *patch)
{
	static const char *const kinds[] = {
		[PE_SYM_TARGET] = "of the program itself",
		[PE_SYM_SLOT] = "through a slot of the program",
		[PE_SYM_IMPORT] = "of a library",
		[PE_SYM_TPOFF] = "thread-local",
		[PE_SYM_ZERO] = "not there: zero",
		[PE_SYM_LOCAL] = "",
	};

	fputs("<h2>Outside symbols that new code refers to</h2>\n<table><tr><th>symbol</th>"
	      "<th>how it is reached</th><th>address</th></tr>\n",
	      out);
	for (size_t i = 0; i < patch->symbol_count; i++) {
		const struct pe_patch_symbol *symbol = &patch->symbols[i];

		if (symbol->kind == PE_SYM_LOCAL)
			continue;
		fputs("<tr><td class=\"c\">", out);
		put_name(out, symbol->name);
		fprintf(out, "</td><td>%s", kinds[symbol->kind]);
		if (symbol->library) {
			fputs(": ", out);
			put(out, symbol->library);
		}
		fputs("</td><td class=\"c\">", out);
		if (symbol->kind == PE_SYM_TARGET || symbol->kind == PE_SYM_SLOT)
			fprintf(out, "0x%" PRIx64, symbol->value);
		fputs("</td></tr>\n", out);
	}
	fputs("</table>\n", out);
}

static void put_data(FILE *out, const struct pe_patch *patch)
{
	fputs("<h2>Sections</h2>\n<table><tr><th>section</th><th class=\"n\">bytes</th>"
	      "<th class=\"n\">relocations</th></tr>\n",
	      out);
	for (size_t i = 0; i < patch->section_count; i++) {
		fputs("<tr><td class=\"c\">", out);
		put(out, patch->sections[i].name);
		fprintf(out, "</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%zu</td></tr>\n",
			patch->sections[i].size, patch->sections[i].reloc_count);
	}
	fputs("</table>\n", out);
}

static void put_left_out(FILE *out, const struct pe_patch *patch)
{
	fputs("<h2>What the diff says and the patch does not carry</h2>\n", out);
	if (!patch->note_count)
		fputs("<p>Nothing: every file of the diff is in.</p>\n", out);
	fputs(patch->note_count ? "<ul>\n" : "", out);
	for (size_t i = 0; i < patch->note_count; i++) {
		fputs("<li>", out);
		put(out, patch->notes[i]);
		fputs("</li>\n", out);
	}
	fputs(patch->note_count ? "</ul>\n" : "", out);
}

struct pe_error *pe_report_html(const struct pe_patch *patch, const struct pe_image *image,
				char **html, size_t *size)
{
	FILE *out = open_memstream(html, size);

	if (!out)
		return pe_error_nomem();
	put_head(out, patch, false);
	put_facts(out, patch);
	put_function_table(out, patch);
	put_left_out(out, patch);
	put_diff(out, patch);

	struct pe_error *err = put_code(out, patch, image);

	put_symbols(out, patch);
	put_data(out, patch);
	fputs("</body></html>\n", out);
	if (fclose(out) && !err)
		err = pe_error_nomem();
	return err;
}

/* ---- when there is no patch ---- */

static void put_refusal(FILE *out, const struct pe_refusal *refusal)
{
	fputs("<h2>Why it is refused</h2>\n<pre class=\"why\">", out);
	put(out, refusal->message);
	fputs("</pre>\n<table>\n", out);
	row(out, "kind of refusal", refusal->code);
	row(out, "what can be done", refusal->advice);
	row(out, "target", refusal->target);
	fputs("</table>\n", out);
}

/* What the selection had come to. */
static void put_found(FILE *out, const struct pe_select_report *report)
{
	if (!report->count)
		return;
	fputs("<h2>What was found to change before</h2>\n<table><tr><th>name</th><th>why</th>"
	      "<th class=\"n\">old, bytes</th><th class=\"n\">new, bytes</th></tr>\n",
	      out);
	for (size_t i = 0; i < report->count; i++) {
		const struct pe_select_item *item = &report->items[i];

		fputs("<tr><td>", out);
		put(out, item->name ? item->name : "");
		fputs("</td><td>", out);
		put(out, item->reason ? item->reason : "");
		fprintf(out,
			"</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%" PRIu64
			"</td></tr>\n",
			item->old_size, item->new_size);
	}
	fputs("</table>\n", out);
}

struct pe_error *pe_report_refusal_html(const struct pe_patch *patch,
					const struct pe_refusal *refusal, char **html, size_t *size)
{
	FILE *out = open_memstream(html, size);

	if (!out)
		return pe_error_nomem();
	put_head(out, patch, true);
	put_refusal(out, refusal);
	put_found(out, refusal->report);
	if (patch->note_count)
		put_left_out(out, patch);
	if (patch->diff)
		put_diff(out, patch);
	fputs("</body></html>\n", out);
	return fclose(out) ? pe_error_nomem() : NULL;
}
