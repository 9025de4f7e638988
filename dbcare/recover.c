/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a patcher that died left: in the process, where its ledger tells the engine, and in the
 * history, as an operation that began and has no outcome. What such an operation applied was never
 * verified. That is done now; what fails is taken back.
 */
#include "dbcare/recover.h"

#include <string.h>

#include "dbcare/abandoned.h"
#include "dbcare/history.h"
#include "engine/cleanup.h"

static const char *text_of(const json_t *record, const char *name)
{
	const char *text = json_string_value(json_object_get(record, name));

	return text ? text : "";
}

/* What became of an operation that needs no verification: the server tells. */
static const char *result_of(const struct dbc_server *server, const json_t *record)
{
	const char *action = text_of(record, "action");

	if (strcmp(action, "recover") == 0)
		return "recovered";
	if (strcmp(action, "apply") == 0 || dbc_abandoned_in_effect(server, record))
		return "undone";
	return "reverted";
}

static struct pe_error *end_record(json_t *record, const char *result, const struct pe_error *cause)
{
	pe_auto_free char *text = cause ? pe_error_text(cause) : NULL;
	struct dbc_history *history;
	struct pe_error *err = dbc_history_resume(record, &history);

	return err ? err
		   : dbc_history_end(
			     history, result,
			     json_pack("{s:s, s:s*}", "ended_by", "recover", "message", text));
}

/* NULL: the server serves. @ret says so only where there was somebody to ask. */
static struct pe_error *serves(struct dbc_session *session, bool *ret)
{
	struct dbc_verification verification;
	struct dbc_baseline before;

	*ret = false;
	dbc_session_connect(session);
	if (!session->sql && session->sql_error->code == PE_ERR_VERIFY)
		return pe_steal(session->sql_error);
	if (!session->sql)
		return NULL;

	struct pe_error *err = dbc_baseline_take(session->sql, &before);

	if (err)
		err->code = PE_ERR_VERIFY; /* it let us in, and answers nothing */
	else
		err = dbc_verify(&session->server, session->target, &session->login, session->sql,
				 &before, &verification);
	*ret = !err;
	return err;
}

/* The latest first, as patches that build on one another want it. @ill is taken over. */
static struct pe_error *take_back_all(struct dbc_session *session,
				      const struct dbc_options *options, const json_t *records,
				      struct pe_error *ill, struct dbc_recovery *ret)
{
	struct pe_error *err = NULL;

	for (size_t i = json_array_size(records); !err && i-- > 0;) {
		json_t *record = json_array_get(records, i);
		pe_auto_free char *why = pe_error_text(ill);
		struct dbc_outcome outcome = { 0 };

		err = dbc_take_back(session, text_of(record, "patch"),
				    json_object_get(record, "replaces"), options,
				    pe_error_new(ill->code, "%s", why ? why : ""), &outcome);
		if (outcome.reverted) {
			pe_error_free(err);
			err = NULL;
		}
		dbc_outcome_deinit(&outcome);
		if (!err)
			err = end_record(record, pe_code_name(PE_ERR_VERIFY), ill);
		if (!err)
			json_array_append(ret->reverted, json_object_get(record, "patch"));
	}
	if (!err)
		return pe_error_wrap(ill, "what somebody who died had applied failed its "
					  "verification and was reverted");

	pe_auto_free char *why = pe_error_text(ill);

	pe_error_free(ill);
	return pe_error_wrap(err,
			     "what somebody who died had applied failed its verification (%s), and "
			     "could not be reverted",
			     why ? why : "");
}

static struct pe_error *verify_late(struct dbc_session *session, const struct dbc_options *options,
				    const json_t *records, struct dbc_recovery *ret)
{
	bool good;
	json_t *record;
	size_t i;
	struct pe_error *err = serves(session, &good);

	if (err)
		return take_back_all(session, options, records, err, ret);
	if (!good) {
		pe_auto_free char *why = pe_error_text(session->sql_error);
		const char *name = text_of(json_array_get(records, 0), "patch");

		return pe_error_new(PE_ERR_HELD,
				    "%s was applied by somebody who died before it was verified, "
				    "and cannot be verified now: %s; if that is the patch's doing, "
				    "`dbcarectl revert %s` takes it back",
				    name, why ? why : "", name);
	}
	json_array_foreach(records, i, record)
	{
		if (!err)
			err = end_record(record, "applied", NULL);
		if (!err)
			json_array_append(ret->verified, json_object_get(record, "patch"));
	}
	return err;
}

static struct pe_error *finish_records(struct dbc_session *session,
				       const struct dbc_options *options, struct dbc_recovery *ret)
{
	json_t *abandoned, *unverified = json_array(), *record;
	size_t i;
	struct pe_error *err = dbc_server_refresh(&session->server, session->target);

	if (!err)
		err = dbc_abandoned(&session->server, &abandoned);
	else
		abandoned = NULL;
	json_array_foreach(abandoned, i, record)
	{
		if (dbc_unverified(&session->server, record))
			json_array_append(unverified, record);
		else if (!err)
			err = end_record(record, result_of(&session->server, record), NULL);
	}
	if (!err && json_array_size(unverified))
		err = verify_late(session, options, unverified, ret);
	json_decref(unverified);
	json_decref(abandoned);
	return err;
}

static bool nothing_done(const struct dbc_recovery *recovery)
{
	const struct pe_recovery *engine = &recovery->engine;

	return !engine->finished && !engine->undone && !engine->released &&
	       !json_array_size(recovery->verified);
}

struct pe_error *dbc_recover(struct dbc_session *session, const struct dbc_options *options,
			     struct dbc_recovery *ret)
{
	struct dbc_history *history;
	const struct pe_recovery *engine = &ret->engine;

	*ret = (struct dbc_recovery){ .verified = json_array(), .reverted = json_array() };

	struct pe_error *err =
		dbc_history_begin("recover", dbc_record_fields(session, "-"), &history);

	if (err)
		return err;
	ret->warning = dbc_history_note(history) ? strdup(dbc_history_note(history)) : NULL;
	err = pe_recover(session->target, &ret->engine);
	if (!err)
		err = finish_records(session, options, ret);
	ret->nothing = nothing_done(ret);

	json_t *more = json_pack("{s:I, s:I, s:I, s:O, s:O}", "finished",
				 (json_int_t)engine->finished, "undone", (json_int_t)engine->undone,
				 "released", (json_int_t)engine->released, "verified",
				 ret->verified, "reverted", ret->reverted);
	const char *result = err	    ? pe_code_name(err->code)
			     : ret->nothing ? pe_code_name(PE_ERR_NOTHING)
					    : "recovered";
	struct pe_error *lost = dbc_history_end(history, result, more);

	if (lost && !ret->warning)
		ret->warning = pe_error_text(lost);
	pe_error_free(lost);
	return err;
}

void dbc_recovery_deinit(struct dbc_recovery *recovery)
{
	pe_recovery_deinit(&recovery->engine);
	json_decref(recovery->verified);
	json_decref(recovery->reverted);
	free(recovery->warning);
	*recovery = (struct dbc_recovery){ 0 };
}
