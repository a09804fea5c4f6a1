//! The daemon's answers, held against its own description: every answer that any test of this binary gets.
//!
//! Stricter than the description itself: a member that it does not name is wrong here, so that it stays complete.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use cove::api::openapi::document;
use cove::api::routes::{Found, Router};
use jsonschema::Validator;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
static ROUTER: LazyLock<Router> = LazyLock::new(Router::new);
/// By the JSON pointer of the schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// No member beyond those that are named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") && !members.contains_key("additionalProperties") {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

fn validator(schema: &Value) -> Arc<Validator> {
    let name = schema.to_string();
    let mut known = VALIDATORS.lock().unwrap();
    let made = || {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        close(&mut whole["components"]["schemas"]);
        Arc::new(jsonschema::options().should_validate_formats(true).build(&whole).unwrap())
    };
    Arc::clone(known.entry(name).or_insert_with(made))
}

/// What is wrong with an answer, by the description.
pub fn wrong(method: &str, route: &str, status: u16, headers: &HeaderMap, body: &Value) -> Option<String> {
    let operation = &DOCUMENT["paths"][route.replace("{*rest}", "{rest}")][method.to_lowercase()];
    let Some(response) = operation["responses"].get(status.to_string()) else {
        return Some("the status is not described".to_owned());
    };
    let shared = response["$ref"].as_str().map(|shared| shared.trim_start_matches('#'));
    let response = shared.map_or(response, |pointer| DOCUMENT.pointer(pointer).unwrap());
    let missing = response["headers"].as_object().into_iter().flat_map(|named| named.keys());
    let optional = ["Idempotent-Replay", "Retry-After", "WWW-Authenticate"];
    // Limits that are switched off are not shown.
    let missing: Vec<_> = missing
        .filter(|name| !name.starts_with("X-RateLimit") && !optional.contains(&name.as_str()))
        .filter(|name| !headers.contains_key(name.as_str()))
        .collect();
    if !missing.is_empty() {
        return Some(format!("headers are missing: {missing:?}"));
    }
    let kind = headers.get("content-type").map(|kind| kind.to_str().unwrap());
    let Some(contents) = response["content"].as_object() else {
        return kind.map(|kind| format!("content that is not described: {kind}"));
    };
    let Some(kind) = kind else { return Some("the content is missing".to_owned()) };
    let Some(content) = contents.get(kind).or_else(|| contents.get("*/*")) else {
        return Some(format!("{kind} is not described"));
    };
    if !kind.ends_with("json") {
        return None;
    }
    let validator = validator(&content["schema"]);
    let errors: Vec<_> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// Asserts that an answer is as the description says.
pub fn check(method: &Method, path: &str, status: u16, headers: &HeaderMap, body: &Value) {
    let Found::Route(route, _) = ROUTER.find(&method.as_str().parse().unwrap(), path) else { return };
    if let Some(wrong) = wrong(route.method.as_str(), route.path, status, headers, body) {
        panic!("{method} {path} answered {status}, which is not as described: {wrong}\n{body:#}");
    }
}
