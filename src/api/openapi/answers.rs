//! The bodies of answers, as JSON Schema with an example each.
//!
//! The words (states, reasons, codes) come from the tables that the code itself uses. The tests of the whole daemon compare every answer
//! that they get with these, with no member beyond those named here.

#![allow(clippy::needless_pass_by_value, reason = "schemas are made where they are used")]

mod health;

use serde_json::{Map, Value, json};

use crate::api::error::Code;
use crate::api::start::PRUNED;
use crate::model::{ItemState, Job, JobResult, Resolution, Scope, TaskState, WaitReason};

pub fn of(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn maybe_text() -> Value {
    json!({"type": ["string", "null"]})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn maybe_time() -> Value {
    json!({"type": ["string", "null"], "format": "date-time"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// All members have to be there, but for those that begin with `?`.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).filter(|name| !name.starts_with('?')).collect();
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| (name.trim_start_matches('?').to_owned(), schema.clone())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"type": "string", "enum": words.into_iter().collect::<Vec<_>>()})
}

fn maybe(schema: Value) -> Value {
    json!({"oneOf": [schema, {"type": "null"}]})
}

/// A page of a listing.
fn page(name: &str, row: &str) -> Value {
    object([(name, list(of(row))), ("next_cursor", maybe_text())])
}

fn map_of(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn tasks() -> Vec<(&'static str, Value)> {
    let counts = {
        let properties: Map<String, Value> =
            ItemState::ALL.iter().map(|state| (state.name().to_owned(), count())).collect();
        json!({"type": "object", "required": ItemState::ALL.map(ItemState::name), "properties": properties})
    };
    let warning =
        object([("code", words(["possible_duplicate"])), ("index", count()), ("item_id", text()), ("detail", text())]);
    let started = object([
        ("task_id", text()),
        ("state", words(TaskState::ALL.map(TaskState::name).into_iter().chain([PRUNED]))),
        ("items", count()),
        ("?pruned", flag()),
        ("warnings", list(warning)),
    ]);
    let task = object([
        ("id", text()),
        ("flow", text()),
        ("state", words(TaskState::ALL.map(TaskState::name))),
        ("counts", counts),
        ("total", count()),
        ("created_at", time()),
        ("?rehearsal", flag()),
        ("?finished_at", time()),
        ("?cancel_requested_at", time()),
        ("?paused_at", time()),
        ("?webhook", object([("url", text())])),
        ("wait_reasons", map_of(count())),
        ("?wait_reasons_left_out", count()),
        ("?retried", count()),
        ("?skipped", list(object([("item_id", text()), ("reason", text())]))),
        ("?skipped_left_out", count()),
    ]);
    let event = object([("number", count()), ("at", time()), ("kind", text()), ("detail", text()), ("?item", text())]);
    vec![
        ("Started", started),
        ("Task", task),
        ("Tasks", page("tasks", "Task")),
        ("TaskEvent", event),
        ("TaskEvents", page("events", "TaskEvent")),
    ]
}

fn items() -> Vec<(&'static str, Value)> {
    let reason = maybe(words(WaitReason::ALL.map(WaitReason::name)));
    let file = object([("attempt", count()), ("file", text()), ("bytes", count()), ("kind", text()), ("url", text())]);
    let error = object([("code", text()), ("message", text()), ("help", text())]);
    let item = object([
        ("id", text()),
        ("task_id", text()),
        ("index", count()),
        ("profile", text()),
        ("state", words(ItemState::ALL.map(ItemState::name))),
        ("wait_reason", reason.clone()),
        ("wait_until", maybe_time()),
        ("wait_detail", maybe_text()),
        ("attempts", count()),
        ("fence", maybe_text()),
        ("key", maybe_text()),
        ("priority", json!({"type": "integer"})),
        ("not_before", maybe_time()),
        ("not_after", maybe_time()),
        ("inputs", map_of(json!({"type": ["string", "number", "boolean", "null"]}))),
        ("result", map_of(text())),
        ("url", maybe_text()),
        ("error", maybe(error)),
        ("resolution", maybe(words(Resolution::ALL.map(Resolution::name)))),
        ("evidence", list(of("EvidenceFile"))),
        ("created_at", time()),
        ("started_at", maybe_time()),
        ("finished_at", maybe_time()),
        ("?flow", text()),
        ("?files", map_of(object([("path", text()), ("sha256", text()), ("bytes", count())]))),
        ("?rehearsal", flag()),
        ("?warnings", list(object([("code", words(["completed_unarmed"])), ("detail", text())]))),
    ]);
    let delivery = object([
        ("id", text()),
        ("task_id", text()),
        ("item", maybe_text()),
        ("event", text()),
        ("state", text()),
        ("wait_reason", reason),
        ("attempts", count()),
        ("next_at", maybe_time()),
        ("created_at", time()),
        ("delivered_at", maybe_time()),
        ("given_up_at", maybe_time()),
        ("last_try_at", maybe_time()),
        ("last_duration_ms", json!({"type": ["integer", "null"]})),
        ("last_status", json!({"type": ["integer", "null"]})),
        ("last_error", maybe_text()),
    ]);
    vec![
        ("EvidenceFile", file),
        ("EvidenceFiles", object([("files", list(of("EvidenceFile")))])),
        ("Item", item),
        ("Items", page("items", "Item")),
        ("Delivery", delivery),
        ("Deliveries", page("deliveries", "Delivery")),
    ]
}

fn profiles_and_locks() -> Vec<(&'static str, Value)> {
    let profile = object([
        ("id", text()),
        ("name", text()),
        ("state", words(["idle", "running", "in_use_by_operator", "needs_human"])),
        ("needs_human", maybe_text()),
        ("item", maybe_text()),
        ("created_at", time()),
        ("last_armed_at", maybe_time()),
        ("?parked_at", time()),
        ("?parked_by", maybe_text()),
        ("?rate_limited_until", time()),
        ("?held_by", text()),
        ("?held_until", maybe_time()),
        ("?devtools_url", text()),
        ("?opened", object([("ready", flag())])),
        ("?open_error", text()),
        ("?close_error", text()),
    ]);
    let lock = object([
        ("kind", text()),
        ("key", text()),
        ("owner", text()),
        ("fence", text()),
        ("acquired_at", time()),
        ("expires_at", maybe_time()),
        ("expired", flag()),
    ]);
    let acquired =
        object([("acquired", flag()), ("?fence", text()), ("expires_at", maybe_time()), ("?held_by", text())]);
    let cleaned = object([
        ("removed", count()),
        ("locks", list(of("Lock"))),
        ("stopping", list(of("Lock"))),
        ("dry_run", flag()),
    ]);
    vec![
        ("Profile", profile),
        ("Profiles", page("profiles", "Profile")),
        ("Lock", lock),
        ("Locks", page("locks", "Lock")),
        ("Acquired", acquired),
        ("Refreshed", object([("refreshed", flag()), ("fence", text()), ("expires_at", maybe_time())])),
        ("Released", object([("released", flag())])),
        ("CleanedUp", cleaned),
    ]
}

fn sessions_and_claims() -> Vec<(&'static str, Value)> {
    let session = object([
        ("session_id", text()),
        ("profile", text()),
        ("?owner", text()),
        ("state", words(["starting", "ready", "stopping"])),
        ("?claim_id", maybe_text()),
        ("?connections", count()),
        ("?created_at", time()),
        ("?expires_at", maybe_time()),
        ("?lock", of("Lock")),
        ("?ws_endpoint", text()),
    ]);
    let claim = object([
        ("claim_id", text()),
        ("item", of("Item")),
        ("fence", text()),
        ("expires_at", maybe_time()),
        ("?session", object([("session_id", text()), ("ws_endpoint", text())])),
    ]);
    let version = json!({"type": "object", "required": ["webSocketDebuggerUrl"], "additionalProperties": true});
    vec![
        ("Session", session),
        ("Sessions", page("sessions", "Session")),
        ("Claim", claim),
        ("ClaimRefreshed", object([("expires_at", time())])),
        ("Armed", object([("armed", flag()), ("click_within_seconds", count())])),
        ("BrowserVersion", version),
    ]
}

fn flows_media_tokens() -> Vec<(&'static str, Value)> {
    let problem = object([
        ("severity", words(["error", "warning"])),
        ("step", json!({"type": ["integer", "null"], "minimum": 0})),
        ("pointer", text()),
        ("message", text()),
    ]);
    let token = object([
        ("id", text()),
        ("name", text()),
        ("scopes", list(words(Scope::ALL.map(Scope::name)))),
        ("state", words(["active", "expired", "revoked"])),
        ("created_at", time()),
        ("expires_at", maybe_time()),
        ("last_used_at", maybe_time()),
        ("revoked_at", maybe_time()),
        ("imported", flag()),
        ("?token", json!({"type": "string", "description": "Shown once, to whoever made it."})),
    ]);
    vec![
        (
            "Media",
            object([("media", json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})), ("bytes", count())]),
        ),
        ("Flow", object([("name", text()), ("hash", text()), ("bytes", count()), ("updated_at", time())])),
        ("Flows", page("flows", "Flow")),
        ("FlowProblem", problem),
        ("FlowPut", object([("name", text()), ("hash", text()), ("warnings", list(of("FlowProblem")))])),
        ("FlowChecked", object([("problems", list(of("FlowProblem")))])),
        ("FlowRecording", json!({"type": "object", "additionalProperties": true})),
        ("Token", token),
        ("Tokens", page("tokens", "Token")),
    ]
}

fn snapshots() -> Vec<(&'static str, Value)> {
    let maybe_flag = || json!({"type": ["boolean", "null"]});
    let reasons = ["asked", "signal", "schedule", "migration"];
    let snapshot = object([
        ("name", text()),
        ("bytes", count()),
        ("created_at", time()),
        ("verified", flag()),
        ("verified_at", maybe_time()),
        ("sha256", json!({"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"})),
        ("damage", maybe_text()),
        ("reason", maybe(words(reasons))),
        ("schema", json!({"type": ["integer", "null"], "minimum": 1})),
        ("media", maybe_flag()),
        ("evidence", maybe_flag()),
    ]);
    let mut page = page("snapshots", "Snapshot");
    page["properties"]["making"] = maybe_text();
    vec![("Snapshot", snapshot), ("Snapshots", page), ("SnapshotBegun", object([("name", text())]))]
}

fn maintenance() -> Vec<(&'static str, Value)> {
    let job = object([
        ("name", words(Job::ALL.map(Job::name))),
        ("schedule", maybe_text()),
        ("last_run_at", maybe_time()),
        ("last_duration_seconds", json!({"type": ["number", "null"], "minimum": 0})),
        ("last_result", maybe(words(JobResult::ALL.map(JobResult::name)))),
        ("last_detail", maybe_text()),
        ("last_error", maybe_text()),
        ("next_run_at", maybe_time()),
        ("running", flag()),
    ]);
    vec![("Job", job), ("Jobs", page("jobs", "Job"))]
}

/// What every error looks like.
fn problem() -> Value {
    let field = object([
        ("pointer", text()),
        ("code", of("ErrorCode")),
        ("detail", text()),
        ("?help", text()),
        ("?item_id", text()),
    ]);
    let mut problem = object([
        ("type", text()),
        ("title", text()),
        ("status", json!({"type": "integer", "minimum": 400, "maximum": 599})),
        ("detail", text()),
        ("code", of("ErrorCode")),
        ("request_id", text()),
        ("errors", list(field)),
        ("?item_id", text()),
        ("?task_id", text()),
        ("?state", text()),
        ("?held_by", text()),
        ("?expires_at", maybe_time()),
        ("?verified", flag()),
        ("?name", text()),
    ]);
    problem["examples"] = json!([{
        "type": "urn:cove:error:unknown_flow", "title": Code::UnknownFlow.title(), "status": 422,
        "detail": "There is no flow of this name; `cove flows add` stores one.", "code": "unknown_flow",
        "request_id": "r1", "errors": [{"pointer": "/flow", "code": "unknown_flow",
        "detail": "There is no flow of this name; `cove flows add` stores one."}],
    }]);
    problem
}

/// Every answer by its name.
pub fn all() -> Vec<(&'static str, Value)> {
    let codes = words(Code::ALL.iter().map(|code| code.name()));
    let mut all = vec![("Problem", problem()), ("ErrorCode", codes)];
    all.extend(tasks());
    all.extend(items());
    all.extend(profiles_and_locks());
    all.extend(sessions_and_claims());
    all.extend(flows_media_tokens());
    all.extend(snapshots());
    all.extend(maintenance());
    all.extend(health::health_and_status());
    all
}
