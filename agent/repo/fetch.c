/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's requests by libcurl's easy interface, one connection kept. Proxies come from the
 * environment as libcurl reads it. A server that sends endlessly or nothing at all is left.
 */
#include "agent/repo/fetch.h"

#include <curl/curl.h>
#include <string.h>

#include "engine/cleanup.h"

enum {
	CONNECT_SECONDS = 30,
	STALLED_SECONDS = 60, /* less than STALLED_BYTES a second for so long: given up */
	STALLED_BYTES = 100,
	MAX_REDIRECTS = 5,
};

struct repo_fetch {
	CURL *curl;
	struct repo_traffic traffic;
	/* of the transfer that runs */
	char *bytes;
	size_t size, max;
	struct tuf_download *download; /* instead of bytes */
	struct pe_error *err;
	char *etag;
};

struct pe_error *repo_fetch_new(struct repo_fetch **ret)
{
	struct repo_fetch *fetch = calloc(1, sizeof(*fetch));

	if (fetch && !curl_global_init(CURL_GLOBAL_DEFAULT))
		fetch->curl = curl_easy_init();
	*ret = fetch && fetch->curl ? fetch : NULL;
	if (*ret)
		return NULL;
	free(fetch);
	return pe_error_nomem();
}

void repo_fetch_free(struct repo_fetch *fetch)
{
	if (!fetch)
		return;
	curl_easy_cleanup(fetch->curl);
	curl_global_cleanup();
	free(fetch->bytes);
	free(fetch->etag);
	free(fetch);
}

const struct repo_traffic *repo_fetch_traffic(const struct repo_fetch *fetch)
{
	return &fetch->traffic;
}

/* ---- what libcurl calls ---- */

static bool is_answer(struct repo_fetch *fetch)
{
	long status = 0;

	curl_easy_getinfo(fetch->curl, CURLINFO_RESPONSE_CODE, &status);
	return status == 200;
}

static size_t take_bytes(char *bytes, size_t one, size_t size, void *arg)
{
	struct repo_fetch *fetch = arg;
	char *more;

	/* A page that explains a 404 is nobody's. */
	if (!is_answer(fetch))
		return size;
	if (fetch->download) {
		fetch->err = tuf_download_write(fetch->download, bytes, size);
		return fetch->err ? 0 : size;
	}
	if (size > fetch->max - fetch->size) {
		fetch->err = pe_error_new(PE_ERR_POLICY, "more than %zu bytes came", fetch->max);
		return 0;
	}
	more = realloc(fetch->bytes, fetch->size + size + 1);
	if (!more)
		return 0;
	fetch->bytes = more;
	memcpy(more + fetch->size, bytes, size);
	fetch->size += size;
	return size;
}

static size_t take_header(char *line, size_t one, size_t size, void *arg)
{
	struct repo_fetch *fetch = arg;
	size_t begin = strlen("etag:"), end = size;

	if (size <= begin || strncasecmp(line, "etag:", begin))
		return size;
	while (begin < end && line[begin] == ' ')
		begin++;
	while (end > begin && (line[end - 1] == '\r' || line[end - 1] == '\n'))
		end--;
	free(fetch->etag);
	fetch->etag = strndup(line + begin, end - begin);
	return size;
}

/* ---- a transfer ---- */

static void set_options(struct repo_fetch *fetch, const char *url)
{
	CURL *curl = fetch->curl;

	curl_easy_reset(curl); /* keeps the connection */
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALLED_SECONDS);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)STALLED_BYTES);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "care-tuf");
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, fetch);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, fetch);
}

static void count_traffic(struct repo_fetch *fetch)
{
	long request = 0, header = 0;
	curl_off_t body = 0;

	curl_easy_getinfo(fetch->curl, CURLINFO_REQUEST_SIZE, &request);
	curl_easy_getinfo(fetch->curl, CURLINFO_HEADER_SIZE, &header);
	curl_easy_getinfo(fetch->curl, CURLINFO_SIZE_DOWNLOAD_T, &body);
	fetch->traffic.requests++;
	fetch->traffic.sent += (unsigned long long)request;
	fetch->traffic.received += (unsigned long long)header + (unsigned long long)body;
}

static struct pe_error *transfer(struct repo_fetch *fetch, const char *base, const char *path,
				 const char *etag, long *status)
{
	char reason[CURL_ERROR_SIZE] = "";
	pe_auto_free char *url = NULL, *header = NULL;
	struct curl_slist *headers = NULL;
	bool slash = *base && base[strlen(base) - 1] == '/';

	if (asprintf(&url, "%s%s%s", base, slash ? "" : "/", path) < 0)
		return pe_error_nomem();
	set_options(fetch, url);
	curl_easy_setopt(fetch->curl, CURLOPT_ERRORBUFFER, reason);
	if (etag && asprintf(&header, "If-None-Match: %s", etag) > 0)
		headers = curl_slist_append(NULL, header);
	curl_easy_setopt(fetch->curl, CURLOPT_HTTPHEADER, headers);
	fetch->size = 0;
	free(pe_steal(fetch->etag));

	CURLcode result = curl_easy_perform(fetch->curl);

	curl_slist_free_all(headers);
	count_traffic(fetch);
	curl_easy_getinfo(fetch->curl, CURLINFO_RESPONSE_CODE, status);
	if (fetch->err)
		return pe_error_wrap(pe_steal(fetch->err), "cannot fetch %s", url);
	if (result)
		return pe_error_new(PE_ERR_SYSTEM, "cannot fetch %s: %s", url,
				    *reason ? reason : curl_easy_strerror(result));
	return NULL;
}

struct pe_error *repo_fetch_run(struct repo_fetch *fetch, struct tuf_client *client,
				const char *metadata_url,
				void (*progress)(void *arg, const char *path), void *arg)
{
	for (;;) {
		struct tuf_request request;
		struct tuf_reply reply = { 0 };
		struct pe_error *err = tuf_next(client, &request);

		if (err || !request.path)
			return err;
		if (progress)
			progress(arg, request.path);
		fetch->max = request.max_bytes;
		err = transfer(fetch, metadata_url, request.path, request.etag, &reply.status);
		if (err)
			return err;
		reply.bytes = fetch->size ? fetch->bytes : "";
		reply.size = fetch->size;
		reply.etag = fetch->etag;
		err = tuf_answer(client, &reply);
		if (err)
			return err;
	}
}

struct pe_error *repo_fetch_target(struct repo_fetch *fetch, const struct tuf_client *client,
				   const struct tuf_target *target, const char *targets_url,
				   const char *dir)
{
	pe_auto_free char *path = tuf_target_url(client, target);
	struct pe_error *err, *end;
	long status = 0;

	if (!path)
		return pe_error_nomem();
	err = tuf_download_begin(target, dir, &fetch->download);
	if (err)
		return err;
	err = transfer(fetch, targets_url, path, NULL, &status);
	if (!err && status != 200)
		err = pe_error_new(PE_ERR_SYSTEM, "%s: the server answered %ld", path, status);
	end = tuf_download_end(pe_steal(fetch->download), !err);
	return err ? err : end;
}
