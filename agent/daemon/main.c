/* SPDX-License-Identifier: GPL-2.0-or-later */
/* care-agent: options, and the loop with its first tasks. */
#include <argp.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <mysql.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <syslog.h>
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "agent/daemon/agent.h"
#include "agent/daemon/supervise.h"
#include "agent/paths.h"
#include "agent/sockets.h"
#include "engine/cleanup.h"
#include "engine/cli.h"

#define PROGRAM "care-agent"

const char *argp_program_version = PROGRAM " (DatabaseCare) " CARE_VERSION;

static void notify(const char *what)
{
#ifdef HAVE_SYSTEMD
	sd_notify(0, what);
#endif
}

static void on_terminate(uv_signal_t *signal, int number)
{
	notify("STOPPING=1");
	uv_stop(signal->loop);
}

/* Settings that cannot be read leave the old ones in force. */
static void on_hangup(uv_signal_t *signal, int number)
{
	struct agent *agent = signal->data;
	struct agent_settings fresh;
	struct pe_error *err = agent_settings_read(agent_conf_path(), &fresh);

	free(agent->settings_error);
	agent->settings_error = err ? pe_error_text(err) : NULL;
	agent_event(agent, err ? LOG_ERR : LOG_INFO, "settings-read", NULL,
		    err ? json_pack("{s:s}", "message", err->message) : NULL);
	if (!err) {
		agent_settings_replace(&agent->settings, &fresh);
		agent_state_key_known(agent);
		agent_offers_refresh(agent);
		if (agent->check_task)
			agent_task_wake(agent->check_task);
		agent_wake_targets(agent, 0);
	}
	pe_error_free(err);
}

static void on_watchdog(uv_timer_t *timer)
{
	notify("WATCHDOG=1");
}

static void start_watchdog(uv_loop_t *loop)
{
	static uv_timer_t timer;
	const char *usec = getenv("WATCHDOG_USEC");
	uint64_t ms = usec ? strtoull(usec, NULL, 10) / 2000 : 0;

	uv_timer_init(loop, &timer);
	if (ms)
		uv_timer_start(&timer, on_watchdog, ms, ms);
}

static struct pe_error *start_tasks(struct agent *agent, int listener)
{
	struct pe_error *err = agent_control_start(agent, listener);

	if (!err)
		err = agent_metrics_start(agent);
	if (!err)
		err = agent_task_start(agent_watcher_task, agent);
	if (!err)
		err = agent_task_start(agent_check_task, agent);
	return err ? err : agent_task_start(agent_scan_task, agent);
}

static struct pe_error *run(void)
{
	static struct agent agent = { .patcher = { .fd = -1, .out_fd = -1 } };
	static uv_signal_t terminate, interrupt, hangup;
	int listener = -1;
	uv_loop_t *loop = uv_default_loop();
	struct pe_error *err = agent_socket_inherited(&listener);

	if (!err)
		err = agent_user_ids(&agent.uid, &agent.gid);
	if (!err)
		err = agent_settings_read(agent_conf_path(), &agent.settings);
	if (!err)
		err = agent_check_folders();
	if (!err)
		err = agent_tasks_init(loop);
	if (err)
		return err;
	fcntl(listener, F_SETFL, O_NONBLOCK);
	agent.started = time(NULL);
	agent_state_load(&agent);
	agent_offers_refresh(&agent);
	uv_signal_init(loop, &terminate);
	uv_signal_start(&terminate, on_terminate, SIGTERM);
	uv_signal_init(loop, &interrupt);
	uv_signal_start(&interrupt, on_terminate, SIGINT);
	uv_signal_init(loop, &hangup);
	hangup.data = &agent;
	uv_signal_start(&hangup, on_hangup, SIGHUP);
	err = start_tasks(&agent, listener);
	if (err)
		return err;
	start_watchdog(loop);
	notify("READY=1");
	uv_run(loop, UV_RUN_DEFAULT);
	return NULL;
}

struct options {
	bool foreground;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;

	if (key != 'f')
		return ARGP_ERR_UNKNOWN;
	options->foreground = true;
	return 0;
}

static struct pe_error *foreground(void)
{
	char path[PATH_MAX];
	ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *folder = secure_getenv("DBCARE_LIBEXEC_DIR");

	if (size < 0)
		return pe_error_errno(errno, "cannot tell where the programs are");
	path[size] = '\0';
	if (geteuid() != 0)
		return pe_error_new(PE_ERR_PERMISSION,
				    "--foreground starts a process with rights and needs root; it "
				    "gives up its own for the user %s",
				    agent_user());

	struct agent_settings settings;
	struct pe_error *err = agent_settings_read(agent_conf_path(), &settings);

	if (err)
		return err;

	bool sandboxed_targets = settings.sandboxed_targets;

	agent_settings_deinit(&settings);
	return agent_supervise(folder && *folder ? folder : dirname(path), sandboxed_targets);
}

int main(int argc, char **argv)
{
	static const struct argp_option arguments[] = {
		{ "foreground", 'f', NULL, 0,
		  "Run without systemd: start care-patcher and care-watch too, start again "
		  "whichever ends, and run the agent itself as user dbcare" },
		{ 0 }
	};
	static const struct argp argp = {
		arguments, parse, NULL,
		"The DatabaseCare agent: finds the MariaDB servers of this host, gets what is "
		"signed for exactly their builds, applies it when the server says that now is a "
		"good time, and patches a restarted server again within a second.\v"
		"Under systemd it is started by care-agent.service. Settings: "
		"/etc/dbcare/agent.conf. Talk to it with dbcarectl: status, update, hold, resume, "
		"events.\n"
		"\n"
		"Example (a container's init, or no systemd):\n"
		"  care-agent --foreground\n"
		"\n"
		"Environment: DBCARE_RUN_DIR, DBCARE_STATE_DIR, DBCARE_CACHE_DIR, DBCARE_CONF, "
		"DBCARE_KEYS_DIR, DBCARE_PATCHES_DIR, DBCARE_HOOKS_DIR, DBCARE_USER: other places "
		"than the installed ones.\n"
	};
	struct options options = { 0 };

	argp_err_exit_status = 1;
	argp_parse(&argp, argc, argv, 0, NULL, &options);
	signal(SIGPIPE, SIG_IGN);
	mallopt(M_ARENA_MAX, 1);
	return pe_cli_fail(PROGRAM, options.foreground ? foreground() : run(), false);
}
