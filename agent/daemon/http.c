/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libcurl says which sockets it wants to hear of and when it wants to be called; uv_poll and one
 * uv_timer do that. A task that fetches waits until its transfer is done. Connections are closed
 * when nothing is under way: the next check is hours away.
 */
#include "agent/daemon/http.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "agent/daemon/task.h"
#include "engine/cleanup.h"

enum { WANTS_LOGIN = 401, NOT_THERE = 404, PROXY_WANTS_LOGIN = 407 };

/* A transfer that is slower than this for so long has failed. */
enum { CONNECT_SECONDS = 20, SLOW_BYTES = 100, SLOW_SECONDS = 30, WHOLE_SECONDS = 600 };

static struct {
	CURLM *multi;
	uv_timer_t timer;
	size_t transfers;
} http;

struct transfer {
	struct agent_task *task;
	struct agent_http_reply *reply;
	size_t most;
	bool done, too_long;
	CURLcode code;
	char reason[CURL_ERROR_SIZE]; /* in words; may stay empty */
};

/* ---- the loop's side ---- */

static void take_finished(void)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(http.multi, &left))) {
		struct transfer *transfer;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
		transfer->code = message->data.result;
		transfer->done = true;
		agent_task_wake(transfer->task);
	}
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
	curl_socket_t fd = (curl_socket_t)(intptr_t)poll->data;
	int running, flags = (status < 0 ? CURL_CSELECT_ERR : 0) |
			     (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
			     (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);

	curl_multi_socket_action(http.multi, fd, flags, &running);
	take_finished();
}

static void on_timer(uv_timer_t *timer)
{
	int running;

	curl_multi_socket_action(http.multi, CURL_SOCKET_TIMEOUT, 0, &running);
	take_finished();
}

static void poll_closed(uv_handle_t *handle)
{
	free(handle);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket)
{
	uv_poll_t *poll = socket;
	int events = (what != CURL_POLL_OUT ? UV_READABLE : 0) |
		     (what != CURL_POLL_IN ? UV_WRITABLE : 0);

	if (what == CURL_POLL_REMOVE) {
		if (poll) {
			uv_poll_stop(poll);
			uv_close((uv_handle_t *)poll, poll_closed);
			curl_multi_assign(http.multi, fd, NULL);
		}
		return 0;
	}
	if (!poll) {
		poll = calloc(1, sizeof(*poll));
		if (!poll || uv_poll_init_socket(agent_loop(), poll, fd) != 0) {
			free(poll);
			return -1;
		}
		poll->data = (void *)(intptr_t)fd;
		curl_multi_assign(http.multi, fd, poll);
	}
	uv_poll_start(poll, events, on_socket);
	return 0;
}

static int want_timer(CURLM *multi, long ms, void *ctx)
{
	if (ms < 0)
		uv_timer_stop(&http.timer);
	else
		uv_timer_start(&http.timer, on_timer, ms ? (uint64_t)ms : 1, 0);
	return 0;
}

static bool start_multi(void)
{
	if (http.multi)
		return true;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
		return false;
	http.multi = curl_multi_init();
	uv_timer_init(agent_loop(), &http.timer);
	curl_multi_setopt(http.multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	curl_multi_setopt(http.multi, CURLMOPT_TIMERFUNCTION, want_timer);
	curl_multi_setopt(http.multi, CURLMOPT_MAXCONNECTS, 4L);
	return http.multi != NULL;
}

/* ---- one transfer ---- */

static size_t take_body(char *data, size_t one, size_t size, void *ctx)
{
	struct transfer *transfer = ctx;
	struct agent_http_reply *reply = transfer->reply;

	if (size > transfer->most - reply->size) {
		transfer->too_long = true;
		return 0;
	}

	char *grown = realloc(reply->bytes, reply->size + size + 1);

	if (!grown)
		return 0;
	reply->bytes = grown;
	memcpy(grown + reply->size, data, size);
	reply->size += size;
	grown[reply->size] = '\0';
	return size;
}

static size_t take_header(char *data, size_t one, size_t size, void *ctx)
{
	struct agent_http_reply *reply = ((struct transfer *)ctx)->reply;
	static const char name[] = "etag:";
	size_t begin = sizeof(name) - 1;

	if (size <= begin || strncasecmp(data, name, begin) != 0)
		return size;
	while (begin < size && data[begin] == ' ')
		begin++;

	size_t end = size;

	while (end > begin && strchr("\r\n ", data[end - 1]))
		end--;
	free(reply->etag);
	reply->etag = strndup(data + begin, end - begin);
	return size;
}

static void set_options(CURL *easy, const struct agent_settings *settings, const char *url,
			struct transfer *transfer, struct curl_slist *headers)
{
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "care-agent/" CARE_VERSION);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https,file");
	curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 5L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)SLOW_SECONDS);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)WHOLE_SECONDS);
	if (settings->proxy)
		curl_easy_setopt(easy, CURLOPT_PROXY, settings->proxy);
	if (settings->no_proxy)
		curl_easy_setopt(easy, CURLOPT_NOPROXY, settings->no_proxy);
	if (settings->ca_file)
		curl_easy_setopt(easy, CURLOPT_CAINFO, settings->ca_file);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->reason);
}

/* For messages: names and passwords before the host are nobody's business. */
static char *without_user(const char *url)
{
	const char *host = strstr(url, "://");
	const char *end = host ? host + 3 + strcspn(host + 3, "/?#") : NULL;
	const char *at = host ? memrchr(host, '@', (size_t)(end - host)) : NULL;
	char *text = NULL;

	if (!at)
		return strdup(url);
	return asprintf(&text, "%.*s%s", (int)(host + 3 - url), url, at + 1) < 0 ? NULL : text;
}

static struct pe_error *result_of(const struct transfer *transfer, const char *whole_url)
{
	pe_auto_free char *url = without_user(whole_url);

	if (transfer->too_long)
		return pe_error_new(PE_ERR_POLICY,
				    "%s has more than the %zu bytes that it may have", url,
				    transfer->most);
	if (transfer->reply->status == PROXY_WANTS_LOGIN || transfer->reply->status == WANTS_LOGIN)
		return pe_error_new(PE_ERR_SYSTEM,
				    "cannot fetch %s: the %s wants a name and a password, or other "
				    "ones (answer %ld)",
				    url,
				    transfer->reply->status == WANTS_LOGIN ? "server or its proxy"
									   : "proxy",
				    transfer->reply->status);
	if (transfer->code != CURLE_OK)
		return pe_error_new(PE_ERR_SYSTEM, "cannot fetch %s: %s", url,
				    *transfer->reason ? transfer->reason
						      : curl_easy_strerror(transfer->code));
	return NULL;
}

struct pe_error *agent_http_get(const struct agent_settings *settings, const char *url,
				const char *etag, size_t most, struct agent_http_reply *ret)
{
	struct transfer transfer = { .task = agent_task_self(), .reply = ret, .most = most };
	struct curl_slist *headers = NULL;
	pe_auto_free char *condition = NULL;
	CURL *easy = start_multi() ? curl_easy_init() : NULL;

	*ret = (struct agent_http_reply){ 0 };
	if (!easy)
		return pe_error_nomem();
	if (etag && asprintf(&condition, "If-None-Match: %s", etag) >= 0)
		headers = curl_slist_append(NULL, condition);
	set_options(easy, settings, url, &transfer, headers);
	http.transfers++;
	curl_multi_add_handle(http.multi, easy);
	while (!transfer.done)
		agent_task_wait(-1);
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &ret->status);
	if (!ret->status)
		curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &ret->status);
	curl_multi_remove_handle(http.multi, easy);
	curl_easy_cleanup(easy);
	curl_slist_free_all(headers);
	http.transfers--;

	if (transfer.code == CURLE_FILE_COULDNT_READ_FILE) {
		transfer.code = CURLE_OK;
		ret->status = NOT_THERE;
	}

	struct pe_error *err = result_of(&transfer, url);

	/* file:// has no status. */
	if (!err && !ret->status)
		ret->status = 200;
	if (err)
		agent_http_reply_deinit(ret);
	return err;
}

void agent_http_reply_deinit(struct agent_http_reply *reply)
{
	free(reply->bytes);
	free(reply->etag);
	*reply = (struct agent_http_reply){ 0 };
}
