//! The bodies of requests, as JSON Schema with an example each.
//!
//! Bounds come from the constants that the handlers check by. Invariant: a request that fits its schema is refused for
//! what it names (an unknown flow, a busy profile), never for its form; members that are not named are refused.

#![allow(clippy::needless_pass_by_value, reason = "schemas are made where they are used")]

use serde_json::{Value, json};

use crate::api::sessions::TTL_SECONDS as SESSION_TTL;
use crate::api::start::request::{KEY_BYTES, MAX_ATTEMPTS, PRIORITY, SPACING_SECONDS};
use crate::model::lock::{MAX_LOCK_NAME_BYTES, MAX_LOCK_TTL};
use crate::model::profile::MAX_PROFILE_NAME_BYTES;
use crate::model::token::MAX_TOKEN_NAME_BYTES;
use crate::model::{OnUnknown, Resolution, Scope};

/// A member that may be absent or null.
fn optional(mut schema: Value) -> Value {
    let kind = schema["type"].take();
    schema["type"] = json!([kind, "null"]);
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    schema
}

fn whole(range: &std::ops::RangeInclusive<i64>) -> Value {
    json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
}

fn text(most: usize) -> Value {
    // Bytes, so that a text of other letters may be shorter; without control characters.
    json!({"type": "string", "minLength": 1, "maxLength": most, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"})
}

fn body(required: &[&str], members: Value, example: Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": members, "examples": [example]})
}

fn time() -> Value {
    optional(json!({"type": "string", "format": "date-time"}))
}

fn inputs() -> Value {
    let help =
        "By the names of the flow's inputs. A file is a path under a media root, or `sha256:<hex>` of an upload.";
    json!({"type": ["object", "null"], "description": help, "additionalProperties": {"type": ["string", "number", "boolean"]}})
}

/// What both ways to start have in common.
fn order(flow: bool) -> Value {
    let key = text(*KEY_BYTES.end());
    let item = json!({
        "type": "object", "additionalProperties": false, "required": ["profile"],
        "properties": {
            "profile": {"type": "string", "description": "The id, or an unambiguous name."},
            "inputs": inputs(), "key": optional(key), "not_before": time(), "not_after": time(),
        },
    });
    let webhook = json!({
        "type": ["object", "null"], "additionalProperties": false, "required": ["url"],
        "properties": {"url": {"type": "string"}, "secret": {"type": ["string", "null"]}},
    });
    let list_inputs = json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}});
    let mut members = json!({
        "items": {"type": "array", "minItems": 1, "items": item},
        "profiles": {"type": ["array", "null"], "minItems": 1, "items": {"type": "string"}},
        "inputs_list": {"type": ["array", "null"], "minItems": 1, "items": list_inputs},
        "distribute": optional(json!({"type": "string", "enum": ["all_to_all", "round_robin"]})),
        "not_before": time(),
        "not_after": time(),
        "priority": optional(whole(&PRIORITY)),
        "max_attempts": optional(whole(&MAX_ATTEMPTS)),
        "spacing_seconds": optional(whole(&SPACING_SECONDS)),
        "on_unknown": optional(json!({"type": "string", "enum": [OnUnknown::Hold.name(), OnUnknown::Retry.name()]})),
        "webhook": webhook,
    });
    let mut example = json!({
        "items": [{"profile": "anna", "inputs": {"video": "/srv/media/1.mp4", "caption": "Spring"}, "key": "spring-1"}],
        "priority": 0, "max_attempts": 3, "on_unknown": "hold",
    });
    if flow {
        members["flow"] = json!({"type": "string", "description": "The name of a stored flow."});
        example["flow"] = "atelier".into();
    }
    let mut schema = body(if flow { &["flow"] } else { &[] }, members, example);
    // `items`, or the two lists.
    let none = json!({"type": "null"});
    schema["oneOf"] = json!([
        {"required": ["items"], "properties": {"profiles": none, "inputs_list": none, "distribute": none}},
        {"required": ["profiles", "inputs_list"], "not": {"required": ["items"]},
         "properties": {"profiles": {"type": "array"}, "inputs_list": {"type": "array"}}},
    ]);
    schema
}

fn lock_call(extra: &[(&str, Value)], required: &[&str], example: Value) -> Value {
    let mut members = json!({
        "kind": {"type": "string", "pattern": "^[a-z0-9_.-]{1,64}$"},
        "key": text(MAX_LOCK_NAME_BYTES), "owner": text(MAX_LOCK_NAME_BYTES),
    });
    for (name, schema) in extra {
        members[*name] = schema.clone();
    }
    body(&[&["kind", "key", "owner"], required].concat(), members, example)
}

fn fence() -> Value {
    json!({"type": "string", "pattern": "^f[0-9]+$"})
}

fn locks() -> Vec<(&'static str, Value)> {
    let ttl = optional(whole(&(1..=MAX_LOCK_TTL.as_secs().cast_signed())));
    let named = || json!({"kind": "account", "key": "anna", "owner": "nightly"});
    let with = |mut example: Value, name: &str, value: Value| {
        example[name] = value;
        example
    };
    let acquire = lock_call(&[("ttl_seconds", ttl.clone())], &[], with(named(), "ttl_seconds", 600.into()));
    let release = lock_call(&[("fence", fence())], &["fence"], with(named(), "fence", "f12".into()));
    let refresh =
        lock_call(&[("fence", fence()), ("ttl_seconds", ttl)], &["fence"], with(named(), "fence", "f12".into()));
    let flag = || json!({"type": ["boolean", "null"]});
    let members = json!({"owner": optional(text(MAX_LOCK_NAME_BYTES)), "dry_run": flag(), "force": flag()});
    let mut cleanup = body(&[], members, json!({"dry_run": true}));
    cleanup["if"] = json!({"properties": {"force": {"const": true}}, "required": ["force"]});
    cleanup["then"] = json!({"required": ["owner"], "properties": {"owner": {"type": "string"}}});
    vec![("LockAcquire", acquire), ("LockRefresh", refresh), ("LockRelease", release), ("LockCleanup", cleanup)]
}

fn claims() -> Vec<(&'static str, Value)> {
    let kinds = json!({"type": "array", "minItems": 1, "maxItems": 16, "items": {"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"}});
    let ttl = || optional(whole(&(5..=86_400)));
    let members = json!({
        "kinds": kinds, "owner": text(MAX_LOCK_NAME_BYTES), "ttl_seconds": ttl(),
        "wait_seconds": optional(whole(&(0..=60))), "session": {"type": ["boolean", "null"]},
    });
    let claim = body(
        &["kinds", "owner"],
        members,
        json!({"kinds": ["studio"], "owner": "worker-1", "ttl_seconds": 300, "wait_seconds": 0}),
    );
    let refresh = json!({"fence": fence(), "ttl_seconds": ttl()});
    let sha = json!({"type": "string", "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"});
    let shas = json!({"oneOf": [sha, {"type": "array", "items": sha}, {"type": "null"}]});
    let url = || optional(json!({"type": "string", "maxLength": 2_048, "pattern": "^https?://"}));
    let results = json!({
        "type": ["object", "null"], "maxProperties": 64,
        "propertyNames": text(MAX_LOCK_NAME_BYTES), "additionalProperties": {"type": "string", "maxLength": 10_000},
    });
    let reasons = json!({"type": "string", "enum": ["error", "needs_human", "rate_limited", "rejected"]});
    let fail = json!({"fence": fence(), "reason": optional(reasons), "message": optional(json!({"type": "string", "maxLength": 2_000}))});
    let complete = json!({"fence": fence(), "url": url(), "result": results});
    vec![
        ("ClaimRequest", claim),
        ("ClaimRefresh", body(&["fence"], refresh, json!({"fence": "f12", "ttl_seconds": 300}))),
        (
            "ClaimArm",
            body(
                &["fence"],
                json!({"fence": fence(), "media_sha256": shas}),
                json!({"fence": "f12", "media_sha256": "0".repeat(64)}),
            ),
        ),
        ("ClaimComplete", body(&["fence"], complete, json!({"fence": "f12", "url": "https://example.org/p/1"}))),
        (
            "ClaimFail",
            body(&["fence"], fail, json!({"fence": "f12", "reason": "error", "message": "the page did not load"})),
        ),
    ]
}

/// Every body by its name.
pub fn all() -> Vec<(&'static str, Value)> {
    let name = |most: usize| {
        let mut name = text(most);
        name["pattern"] = json!(
            "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f])?$"
        );
        name
    };
    let flag = |word: &str| body(&[], json!({word: {"type": ["boolean", "null"]}}), json!({word: true}));
    let scopes = json!({"type": "array", "minItems": 1, "uniqueItems": true, "items": {"type": "string", "enum": Scope::ALL.map(Scope::name)}});
    let token = json!({"name": name(MAX_TOKEN_NAME_BYTES), "scopes": scopes, "expires_in_seconds": optional(whole(&(1..=crate::api::tokens::MAX_EXPIRES_IN_SECONDS)))});
    let session = json!({
        "profile": {"type": "string"}, "ttl_seconds": optional(whole(&SESSION_TTL)),
        "owner": optional(text(MAX_LOCK_NAME_BYTES)), "headless": {"type": ["boolean", "null"]},
    });
    let resolve = json!({
        "outcome": {"type": "string", "enum": Resolution::ALL.map(Resolution::name)},
        "url": optional(json!({"type": "string", "maxLength": 2_048, "pattern": "^https?://"})),
        "note": optional(json!({"type": "string", "maxLength": 2_000})),
    });
    let mut resolve = body(&["outcome"], resolve, json!({"outcome": "published", "url": "https://example.org/p/1"}));
    resolve["if"] = json!({"properties": {"outcome": {"const": Resolution::Published.name()}}});
    resolve["else"] = json!({"properties": {"url": {"type": "null"}}});
    let recording = json!({
        "type": "object", "required": ["title", "steps"], "description": "A recording of the browser's Recorder, with cove's custom steps.",
        "properties": {"title": {"type": "string"}, "steps": {"type": "array", "items": {"type": "object"}}},
        "examples": [{"title": "look", "steps": [{"type": "navigate", "url": "http://127.0.0.1:9000/"}]}],
    });
    let mut all = vec![
        ("Start", order(true)),
        ("Rehearsal", order(false)),
        ("Resolve", resolve),
        ("NewProfile", body(&["name"], json!({"name": name(MAX_PROFILE_NAME_BYTES)}), json!({"name": "anna"}))),
        ("OpenProfile", flag("headless")),
        (
            "NewSession",
            body(&["profile"], session, json!({"profile": "anna", "ttl_seconds": 600, "owner": "my-script"})),
        ),
        (
            "SessionRefresh",
            body(&[], json!({"ttl_seconds": optional(whole(&SESSION_TTL))}), json!({"ttl_seconds": 600})),
        ),
        ("Recording", recording),
        (
            "AnyJson",
            json!({"description": "Any JSON: what is wrong with it as a recording is the answer.", "examples": [{"title": "look", "steps": []}]}),
        ),
        ("Resume", flag("accept_duplicates")),
        ("NewToken", body(&["name", "scopes"], token, json!({"name": "nightly", "scopes": ["read", "submit"]}))),
    ];
    all.extend(locks());
    all.extend(claims());
    all
}
