/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dbcarectl apply to several servers, those that are named or (--all) every one of this host that
 * the patch is for, one after the other.
 *
 * Before anything is touched all servers are asked which cluster they are of and how large it is.
 * A node's turn comes when its cluster is whole: itself Synced, in a Primary component of that
 * size; and when it is done, the cluster must be whole again before the next server's turn. The
 * first that fails ends it: what is wrong with one may be wrong with all.
 */
#include <stdio.h>
#include <string.h>

#include "dbcare/cli/cli.h"
#include "dbcare/cluster.h"
#include "engine/cleanup.h"

/* As long as a node may take to come back from being a donor; --timeout says otherwise. */
enum { WHOLE_TIMEOUT_S = 60 };

struct turn {
	struct dbc_session session;
	struct dbc_node node;
	json_t *report; /* NULL: its turn did not come, or failed */
};

struct turns {
	struct turn *items;
	size_t count;
	size_t skipped; /* servers that the patch is not for */
};

static void turns_deinit(struct turns *turns)
{
	for (size_t i = 0; i < turns->count; i++) {
		dbc_session_close(&turns->items[i].session);
		json_decref(turns->items[i].report);
	}
	free(turns->items);
}

/* By the build of the program, or of a library that the process has mapped. */
static struct pe_error *patch_fits(const struct dbc_session *session, const struct pe_patch *patch,
				   bool *ret)
{
	struct pe_loaded_images images;
	struct pe_error *err = pe_target_images(session->target, &images);

	*ret = false;
	if (err)
		return err;
	for (size_t i = 0; i < patch->target_count && !*ret; i++)
		*ret = pe_loaded_images_find(&images, &patch->targets[i].build_id) != NULL;
	pe_loaded_images_deinit(&images);
	return NULL;
}

/* Opens one server and asks about its cluster; one that cannot be asked holds at its turn. */
static struct pe_error *turn_open(struct cli *cli, const char *target, struct turn *turn)
{
	*turn = (struct turn){ 0 };
	struct pe_error *err = cli_session_open(cli, target, &turn->session);

	if (err)
		return err;
	dbc_session_connect(&turn->session);
	if (turn->session.sql) {
		pe_auto_error struct pe_error *ignored =
			dbc_node_ask(turn->session.sql, &turn->node);
	}
	return NULL;
}

/* Adds one server of this host when the patch is for it. */
static struct pe_error *turns_add(struct cli *cli, pid_t pid, const struct pe_patch *patch,
				  struct turns *turns)
{
	struct turn *turn = &turns->items[turns->count];
	char text[16];
	bool fits = false;

	snprintf(text, sizeof(text), "%d", (int)pid);
	struct pe_error *err = turn_open(cli, text, turn);

	/* It may have ended since it was listed. */
	if (err && (err->code == PE_ERR_NO_TARGET || err->code == PE_ERR_DIED)) {
		pe_error_free(err);
		return NULL;
	}
	if (!err)
		err = patch_fits(&turn->session, patch, &fits);
	if (!err && fits) {
		turns->count++;
		return NULL;
	}
	dbc_session_close(&turn->session);
	turns->skipped += !err;
	return err;
}

static struct pe_error *turns_find_all(struct cli *cli, const struct pe_patch *patch,
				       struct turns *ret)
{
	struct dbc_servers servers;
	struct pe_error *err = dbc_discover(&servers);

	if (err)
		return err;
	ret->items = calloc(servers.count + 1, sizeof(*ret->items));
	if (!ret->items)
		err = pe_error_nomem();
	for (size_t i = 0; !err && i < servers.count; i++)
		err = turns_add(cli, servers.items[i].pid, patch, ret);
	if (!err && servers.denied)
		err = pe_error_new(PE_ERR_PERMISSION,
				   "%zu servers of other users run here: --all needs root",
				   servers.denied);
	if (!err && !ret->count)
		err = pe_error_new(PE_ERR_NO_TARGET,
				   "no server of this host is the build that %s is for",
				   patch->name);
	dbc_servers_deinit(&servers);
	return err;
}

/* Those that the command line names, behind the file. */
static struct pe_error *turns_find_named(struct cli *cli, struct turns *ret)
{
	struct pe_error *err = NULL;

	ret->items = calloc(cli->word_count, sizeof(*ret->items));
	if (!ret->items)
		return pe_error_nomem();
	for (size_t i = 1; !err && i < cli->word_count; i++) {
		struct turn *turn = &ret->items[ret->count];

		err = turn_open(cli, cli->words[i], turn);
		for (size_t j = 0; !err && j < ret->count; j++) {
			if (ret->items[j].session.server.pid == turn->session.server.pid)
				err = pe_error_new(PE_ERR_USAGE, "server %d is named twice",
						   (int)turn->session.server.pid);
		}
		ret->count++;
	}
	return err;
}

/* How many nodes the cluster of @turn has when it is whole: as many as any of ours sees. */
static unsigned int whole_size(const struct turns *turns, const struct turn *turn,
			       unsigned int wanted)
{
	unsigned int size = wanted, here = 0;

	for (size_t i = 0; i < turns->count; i++) {
		const struct dbc_node *other = &turns->items[i].node;

		if (!other->member || strcmp(other->cluster, turn->node.cluster) != 0)
			continue;
		here++;
		if (!wanted && other->size > size)
			size = other->size;
	}
	return size > here ? size : here;
}

static void say_turn(const struct cli_change *change, const struct turns *turns, size_t index)
{
	const struct turn *turn = &turns->items[index];
	const struct dbc_server *server = &turn->session.server;

	if (change->cli.json)
		return;
	printf("%sserver %d", index ? "\n" : "", (int)server->pid);
	if (server->container)
		printf(", container %s", server->container_id ? server->container_id : "-");
	if (turn->node.member)
		printf(", node %s of a cluster of %u", turn->node.name, turn->node.size);
	printf(" (%zu of %zu)\n", index + 1, turns->count);
	fflush(stdout);
}

/* All of its nodes that are ours must be whole, not only the one whose turn it is. */
static struct pe_error *cluster_wait(const struct cli_change *change, const struct turns *turns,
				     const struct turn *turn)
{
	unsigned int size = whole_size(turns, turn, change->cluster_size);
	unsigned int seconds = (unsigned int)(change->options.timeout_us / 1000000);
	struct pe_error *err = NULL;

	for (size_t i = 0; !err && i < turns->count; i++) {
		struct turn *other = &turns->items[i];

		if (other->node.member && strcmp(other->node.cluster, turn->node.cluster) == 0)
			err = dbc_node_wait(&other->session, size,
					    seconds ? seconds : WHOLE_TIMEOUT_S, &change->options);
	}
	return err;
}

static struct pe_error *turn_apply(struct cli_change *change, const struct pe_patch *patch,
				   const struct turns *turns, struct turn *turn)
{
	struct dbc_outcome outcome = { 0 };
	struct pe_error *err = NULL;

	if (turn->node.member)
		err = cluster_wait(change, turns, turn);
	if (err)
		return pe_error_wrap(err, "its cluster is not whole");
	err = dbc_apply(&turn->session, patch, &change->options, &outcome);
	pe_progress_done(&change->cli.progress);
	cli_notes(turn->session.notes);
	cli_warnings(outcome.warning);
	if (!err) {
		turn->report = cli_apply_json(&turn->session, patch, &outcome);
		if (!change->cli.json)
			cli_apply_print(&turn->session, patch, &outcome);
	} else if (!change->cli.json) {
		cli_print_blockers(&outcome.blockers);
	}
	dbc_outcome_deinit(&outcome);
	if (err || !turn->node.member)
		return err;
	err = cluster_wait(change, turns, turn);
	pe_progress_done(&change->cli.progress);
	if (err && err->code == PE_ERR_CANCELLED)
		err->code = PE_ERR_PARTIAL;
	return err ? pe_error_wrap(err, "it was patched, but its cluster is not whole again")
		   : NULL;
}

/* One object a server, with what its turn brought. */
static json_t *report_json(const struct turns *turns, const struct pe_patch *patch)
{
	json_t *list = json_array();

	for (size_t i = 0; i < turns->count; i++) {
		struct turn *turn = &turns->items[i];
		const struct dbc_server *server = &turn->session.server;
		json_t *item = turn->report ? json_incref(turn->report)
					    : json_pack("{s:s, s:i}", "result", "not applied",
							"pid", (int)server->pid);

		json_object_set_new(item, "container_id",
				    server->container_id ? json_string(server->container_id)
							 : json_null());
		if (turn->node.member)
			json_object_set_new(item, "cluster",
					    json_pack("{s:s, s:s, s:i}", "uuid", turn->node.cluster,
						      "node", turn->node.name, "size",
						      (int)turn->node.size));
		json_array_append_new(list, item);
	}
	return json_pack("{s:s, s:o, s:I}", "name", patch->name, "servers", list, "not_for",
			 (json_int_t)turns->skipped);
}

/* The end: what was reached, and what ended it. */
static int finish(struct cli_change *change, const struct pe_patch *patch,
		  const struct turns *turns, size_t done, struct pe_error *err)
{
	struct cli *cli = &change->cli;

	pe_progress_done(&cli->progress);
	if (err) {
		json_t *more = cli->json ? report_json(turns, patch) : NULL;

		err = pe_error_wrap(err, "server %d (%zu of %zu are patched)",
				    (int)turns->items[done].session.server.pid, done, turns->count);
		if (done)
			err->code = PE_ERR_PARTIAL;
		return cli_fail_with(cli, err, more);
	}
	if (cli->json) {
		json_t *root = report_json(turns, patch);

		cli_put_blocked(change, root);
		pe_cli_json(root);
	} else {
		printf("\n%s: all %zu servers are patched\n", patch->name, turns->count);
	}
	return 0;
}

int cli_apply_all(struct cli_change *change, const struct pe_patch *patch)
{
	__attribute__((cleanup(turns_deinit))) struct turns turns = { 0 };
	struct pe_error *err = change->all ? turns_find_all(&change->cli, patch, &turns)
					   : turns_find_named(&change->cli, &turns);
	size_t done = 0;

	if (err)
		return cli_fail(&change->cli, err);
	while (!err && done < turns.count) {
		struct turn *turn = &turns.items[done];

		say_turn(change, &turns, done);
		err = turn_apply(change, patch, &turns, turn);
		done += !err;
	}
	return finish(change, patch, &turns, done, err);
}
