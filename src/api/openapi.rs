//! The description of the API (`OpenAPI` 3.1), made of the tables that the daemon itself serves by.
//!
//! [`document`] joins the routes with [`operations`] and the schemas; it is served at `/api/v1/openapi.json` and
//! committed as `packaging/openapi.json`, which a test compares. Invariant: every route is in it with every
//! error that it can answer; the tests of the whole daemon hold each answer against it.

mod answers;
mod examples;
mod operations;
mod requests;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use hyper::{Method, Response};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::Reply;
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::limit::Class;
use super::page::Asset;
use super::query::{MAX_LIMIT, Query};
use super::routes::{Access, ROUTES, Route, Takes};
use crate::model::{ItemState, TaskState};
use crate::store::history::RESOLUTIONS;
use operations::{Holds, OPERATIONS, Operation};

static SERVED: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("application/json", document().to_string().into_bytes(), None));

pub async fn show(_: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    Ok(SERVED.answer(&call.head.headers))
}

/// The whole description.
///
/// # Panics
/// When a route has no operation: the two tables disagree.
#[must_use]
pub fn document() -> Value {
    let named = answers::all().into_iter().chain(requests::all());
    let schemas: Map<String, Value> = named.map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        let operation = operation_of(route).expect("every route has its operation");
        // It knows no parameter of several parts.
        let path = route.path.replace("{*rest}", "{rest}");
        let described = describe(route, operation, &schemas);
        paths.entry(path).or_default().insert(route.method.as_str().to_lowercase(), described);
    }
    let shared = share_errors(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cove",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Publishes your own media through your own browser profiles, unattended and never twice.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": shared,
            "headers": headers(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`cove tokens create NAME --scope SCOPE`"}},
        },
    })
}

/// Many routes can answer the same errors: each set is described once, and named by those who answer it.
fn share_errors(paths: &mut BTreeMap<String, Map<String, Value>>) -> Map<String, Value> {
    let mut shared = Map::new();
    let operations = paths.values_mut().flat_map(|operations| operations.values_mut());
    let responses = operations.filter_map(|operation| operation["responses"].as_object_mut()).flatten();
    for (status, response) in responses.filter(|(status, _)| status.as_str() >= "400") {
        let known = shared.iter().find(|(_, other)| *other == response).map(|(name, _): (&String, _)| name.clone());
        let name = known.unwrap_or_else(|| {
            let of_status = shared.keys().filter(|name| name.starts_with(&format!("Error{status}_"))).count();
            let name = format!("Error{status}_{}", of_status + 1);
            shared.insert(name.clone(), response.clone());
            name
        });
        *response = json!({"$ref": format!("#/components/responses/{name}")});
    }
    shared
}

fn operation_of(route: &Route) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.path == route.path && operation.method == route.method.as_str())
}

fn headers() -> Value {
    let whole = json!({"type": "integer", "minimum": 0});
    json!({
        "RequestId": {"description": "The request's X-Request-Id, or one that cove made.", "schema": {"type": "string"}},
        "RateLimit": {"description": "Requests of this class in a window.", "schema": whole},
        "RateLimitRemaining": {"description": "What is left of them.", "schema": whole},
        "RateLimitReset": {"description": "When the window ends, in seconds since 1970.", "schema": whole},
        "RetryAfter": {"description": "Seconds to wait.", "schema": whole},
        "Challenge": {"description": "What a token is needed for.", "schema": {"type": "string"}},
        "Allow": {"description": "The methods that the path knows.", "schema": {"type": "string"}},
        "Tag": {"description": "Names these bytes; sent back as `If-None-Match` they are not sent again.", "schema": {"type": "string"}},
        "Replay": {"description": "`true` where the Idempotency-Key came before.", "schema": {"type": "string"}},
    })
}

fn header(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

fn answer_headers(route: &Route, operation: &Operation, status: u16) -> Value {
    let mut headers = json!({"X-Request-Id": header("RequestId")});
    if route.class != Class::Unlimited {
        headers["X-RateLimit-Limit"] = header("RateLimit");
        headers["X-RateLimit-Remaining"] = header("RateLimitRemaining");
        headers["X-RateLimit-Reset"] = header("RateLimitReset");
    }
    if [200, 304].contains(&status) && (is_cached(operation) || operation.id == "getFlow") {
        headers["ETag"] = header("Tag");
    }
    match status {
        202 if route.is_order() => headers["Idempotent-Replay"] = header("Replay"),
        401 | 403 => headers["WWW-Authenticate"] = header("Challenge"),
        405 => headers["Allow"] = header("Allow"),
        429 | 503 | 507 => headers["Retry-After"] = header("RetryAfter"),
        _ => {}
    }
    headers
}

fn is_cached(operation: &Operation) -> bool {
    operation.answers.iter().any(|(status, _)| *status == 304)
}

fn describe(route: &Route, operation: &Operation, schemas: &Map<String, Value>) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag(route.path)],
        "parameters": parameters(route, operation),
        "responses": responses(route, operation, schemas),
    });
    match route.access {
        Access::Anyone | Access::PathSecret => described["security"] = json!([]),
        access if access.open_word().is_some() => described["security"] = json!([{}, {"token": []}]),
        _ => {}
    }
    if let Some(scope) = route.access.scope() {
        described["x-scope"] = json!(scope.name());
    }
    if let Some(other) = route.access.other_scope() {
        described["x-other-scope"] = json!(other.name());
    }
    if let Some(body) = body(route, operation) {
        described["requestBody"] = body;
    }
    described
}

/// The plural noun of the path.
fn tag(path: &str) -> &str {
    match path.strip_prefix("/api/v1").unwrap_or(path).trim_start_matches('/').split('/').next().unwrap_or_default() {
        "bulk-upload" => "tasks",
        "" | "devtools" | "docs" | "openapi.json" => "page",
        "pause" | "resume" | "health" | "status" | "events" => "daemon",
        first => first,
    }
}

fn body(route: &Route, operation: &Operation) -> Option<Value> {
    let required = route.takes == Takes::Json;
    match (route.takes, operation.body) {
        (Takes::Bytes, _) => Some(json!({"required": true, "content": {
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}}}})),
        (_, Some(schema)) => {
            let all = requests::all();
            let example = all.iter().find(|(name, _)| *name == schema).map(|(_, schema)| schema["examples"][0].clone());
            Some(
                json!({"required": required, "content": {"application/json": {"schema": answers::of(schema), "example": example}}}),
            )
        }
        (_, None) => None,
    }
}

fn parameters(route: &Route, operation: &Operation) -> Vec<Value> {
    let text = json!({"type": "string", "minLength": 1});
    let named = route.path.split(['{', '}']).skip(1).step_by(2).map(|name| name.trim_start_matches('*'));
    let told = |name: &str| parameter_told(route, name);
    let in_path = named
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": text, "description": told(name)}));
    let in_query = operation.query.iter().map(
        |name| json!({"name": name, "in": "query", "schema": query_schema(route, name), "description": told(name)}),
    );
    let mut all: Vec<Value> = in_path.chain(in_query).collect();
    if route.is_order() {
        all.push(
            json!({"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "The same key and body give the same task, for 400 days."}),
        );
    }
    if is_cached(operation) {
        all.push(json!({"name": "If-None-Match", "in": "header", "schema": {"type": "string"},
            "description": "The `ETag` of what is there already: where it still is that, the answer is 304."}));
    }
    if operation.id == "listenToEvents" {
        all.push(json!({"name": "Last-Event-ID", "in": "header", "schema": {"type": "string", "pattern": "^[!-~]*$"},
            "description": "Goes on behind this event; where that cannot be, the first event is `resync`."}));
    }
    all
}

/// What a parameter is, for whoever reads the description.
fn parameter_told(route: &Route, name: &str) -> &'static str {
    match (name, tag(route.path)) {
        ("id", "tasks") => "The task: its `id`, such as `t17`.",
        ("id", "items") => "The item: its `id`, such as `i42`.",
        ("id", "profiles") => "The profile: its `id`.",
        ("id", "claims") => "The claim: its `claim_id`.",
        ("id", "sessions") => "The lent browser: its `session_id`.",
        ("id", "tokens") => "The token: its `id`, not its text.",
        ("name", "flows") => "The flow's name.",
        ("name", "snapshots") => "The snapshot's name, as it is listed.",
        ("name", _) => "A gauge or a counter, as `GET /api/v1/metrics` names it.",
        ("file", "page") => "A file of the page.",
        ("file", _) => "The file's name, as the listing has it.",
        ("token", _) => "What makes the address a secret; part of the address that was handed out.",
        ("rest", _) => "The rest of the address.",
        ("delivery", _) => "The delivery: its `id`.",
        ("job", _) => "The job's name, as it is listed.",
        ("state", "tasks") if route.path == "/api/v1/tasks" => "Tasks in this state alone.",
        ("state", _) => "Items in this state alone.",
        ("flow", _) => "Tasks of this flow alone.",
        ("profile", _) => "What this profile publishes alone: its id, or an unambiguous name.",
        ("task", _) => "What belongs to this task alone.",
        ("kind", _) => "Locks of this kind alone.",
        ("key", _) => "The lock of this key alone; `kind` says of which.",
        ("owner", _) => "Locks of this owner alone.",
        ("cursor", _) => "The `next_cursor` of an answer to this path.",
        ("limit", _) => "How many at most; 100 where nothing is said.",
        ("attempt", _) => "The number of the attempt; the last one where nothing is said.",
        ("fence", _) => "The fence of the attempt; the last one where nothing is said.",
        ("from", _) => "From when on.",
        ("to", _) => "Until when; now where nothing is said.",
        ("step", _) => "Seconds from one value to the next.",
        _ => "",
    }
}

/// One that is empty counts as absent.
fn query_schema(route: &Route, name: &str) -> Value {
    let one_of = |words: &[&str]| {
        let words = [&[""], words].concat();
        json!({"type": "string", "enum": words})
    };
    let or_empty = |schema: Value| json!({"anyOf": [schema, {"type": "string", "maxLength": 0}]});
    match name {
        "step" => {
            let steps = RESOLUTIONS.map(|resolution| resolution.step_seconds);
            or_empty(json!({"type": "integer", "enum": steps}))
        }
        "from" | "to" => or_empty(json!({"type": "string", "format": "date-time"})),
        "limit" => or_empty(json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT})),
        "state" if route.path == "/api/v1/tasks" => one_of(&TaskState::ALL.map(TaskState::name)),
        "state" => one_of(&ItemState::ALL.map(ItemState::name)),
        "attempt" => or_empty(json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})),
        "fence" => json!({"type": "string", "pattern": "^(f[0-9]{1,15})?$"}),
        "kind" => json!({"type": "string", "pattern": "^[a-z0-9_.-]{0,64}$"}),
        "task" => json!({"type": "string", "pattern": "^(t[0-9]{1,15})?$"}),
        "cursor" => json!({"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}),
        _ => json!({"type": "string"}),
    }
}

/// Every error that a route of this kind can answer, by what the way to its handler and the daemon's own
/// state can say.
fn errors(route: &Route, operation: &Operation) -> Vec<Code> {
    let mut codes = vec![
        Code::TooManyConnections,
        Code::UnsupportedTransfer,
        Code::WrongHost,
        Code::CrossSite,
        Code::UnsupportedEncoding,
        Code::Internal,
    ];
    codes.extend([Code::BrokenBody, Code::BodyTimeout, Code::BodyTooLarge, Code::UnsupportedContentType]);
    codes.extend([Code::InvalidJson, Code::InvalidField, Code::UnknownField, Code::InvalidRequest]);
    if route.access.scope().is_some() {
        codes.extend([
            Code::TokenMissing,
            Code::TokenInvalid,
            Code::TokenExpired,
            Code::TokenRevoked,
            Code::MissingScope,
        ]);
        codes.extend([Code::StoreFailed, Code::Draining, Code::NotReady]);
    }
    if route.class != Class::Unlimited {
        codes.push(Code::RateLimited);
    }
    if matches!(route.takes, Takes::Json | Takes::MaybeJson) {
        codes.push(Code::MissingField);
    }
    let reads = [Method::GET, Method::HEAD].contains(&route.method);
    if reads {
        codes.push(Code::UnexpectedBody);
    }
    if !reads && route.access.scope().is_some() {
        codes.push(Code::NoDisk);
    }
    codes.extend(operation.errors);
    let mut seen = std::collections::HashSet::new();
    codes.retain(|code| seen.insert(*code));
    codes
}

fn responses(route: &Route, operation: &Operation, schemas: &Map<String, Value>) -> Value {
    let mut responses: BTreeMap<u16, Value> = BTreeMap::new();
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in errors(route, operation) {
        by_status.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in &by_status {
        let told: Vec<String> = codes.iter().map(|code| format!("`{}`: {}.", code.name(), code.title())).collect();
        let first = codes[0];
        let example = json!({
            "type": format!("urn:cove:error:{}", first.name()), "title": first.title(), "status": status,
            "detail": first.title(), "code": first.name(), "request_id": "r1", "errors": [],
        });
        let content = json!({"application/problem+json": {"schema": answers::of("Problem"), "example": example}});
        let headers = answer_headers(route, operation, *status);
        responses.insert(*status, json!({"description": told.join(" "), "headers": headers, "content": content}));
    }
    for (status, holds) in operation.answers {
        let content = match holds {
            Holds::Nothing => Value::Null,
            Holds::Json(schema) => {
                let example = examples::of(schema, schemas);
                json!({"application/json": {"schema": answers::of(schema), "example": example}})
            }
            Holds::Bytes(kind) => json!({*kind: {"schema": {"type": "string"}}}),
        };
        let description = hyper::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        let mut response = json!({"description": description.unwrap_or_default(), "headers": answer_headers(route, operation, *status)});
        if !content.is_null() {
            response["content"] = content;
        }
        if let Some(links) = links(operation.id).filter(|_| matches!(holds, Holds::Json(_))) {
            response["links"] = links;
        }
        // A status that is an error and an answer (health) is described by both.
        match responses.get_mut(status) {
            Some(both) => {
                if let Some(content) = response["content"].as_object() {
                    both["content"].as_object_mut().expect("errors have content").extend(content.clone());
                }
            }
            None => drop(responses.insert(*status, response)),
        }
    }
    json!(responses.into_iter().map(|(status, response)| (status.to_string(), response)).collect::<BTreeMap<_, _>>())
}

/// What can be asked of what was made.
fn links(id: &str) -> Option<Value> {
    let link = |to: &str, parameter: &str, from: &str| json!({"operationId": to, "parameters": {parameter: format!("$response.body#/{from}")}});
    let of =
        |from: &str, to: &[&str]| Value::Object(to.iter().map(|to| ((*to).to_owned(), link(to, "id", from))).collect());
    match id {
        "start" => Some(of(
            "task_id",
            &[
                "getTask",
                "listTaskItems",
                "listTaskEvents",
                "listDeliveries",
                "pauseTask",
                "resumeTask",
                "cancelTask",
                "retryTask",
            ],
        )),
        "claimItem" => Some(of("claim_id", &["refreshClaim", "armClaim", "completeClaim", "failClaim"])),
        "createSession" => Some(of("session_id", &["getSession", "refreshSession", "deleteSession"])),
        "createProfile" => Some(of("id", &["getProfile", "openProfile", "closeProfile", "unparkProfile"])),
        "createToken" => Some(of("id", &["revokeToken"])),
        "putFlow" => Some(json!({
            "getFlow": {"operationId": "getFlow", "parameters": {"name": "$response.body#/name"}},
            "deleteFlow": {"operationId": "deleteFlow", "parameters": {"name": "$response.body#/name"}},
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        for route in ROUTES {
            assert!(operation_of(route).is_some(), "{} {} is not described", route.method, route.path);
        }
        assert_eq!(ROUTES.len(), OPERATIONS.len());
        let mut ids = std::collections::HashSet::new();
        assert!(OPERATIONS.iter().all(|operation| ids.insert(operation.id)));
    }

    #[test]
    fn what_a_route_reads_is_described() {
        for route in ROUTES {
            let operation = operation_of(route).unwrap();
            let reads = matches!(route.takes, Takes::Json | Takes::MaybeJson);
            assert_eq!(operation.body.is_some(), reads, "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn every_error_is_some_routes() {
        let of_routes: std::collections::HashSet<Code> =
            ROUTES.iter().flat_map(|route| errors(route, operation_of(route).unwrap())).collect();
        // A path that is not there and a method that it does not know belong to no route.
        let of_none = [Code::MethodNotAllowed];
        let missing: Vec<_> =
            Code::ALL.iter().filter(|code| !of_routes.contains(code) && !of_none.contains(code)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = document();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"#/").skip(1) {
            let pointer = format!("/{}", part.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
    }

    /// `UPDATE=1 cargo test openapi` writes it anew.
    #[test]
    fn the_committed_description_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/openapi.json");
        let now = format!("{:#}\n", document());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == now, "packaging/openapi.json is not what the code says: UPDATE=1 cargo test openapi");
    }
}
