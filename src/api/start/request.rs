//! The body of a start, read into one form whichever of the two it came in.
//!
//! Called by the start handler off the runtime: a request may hold 16 MiB and ten thousand items.
//! Inputs and profiles are kept once and named by number, since `all_to_all` uses each many times.
//! Here only what the body alone can tell is checked; flows, profiles and files are looked up later.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::api::error::Code;
use crate::api::form::{Walk, optional, pointer};
use crate::model::{OnUnknown, Secret, Timestamp, Webhook};

pub const PRIORITY: RangeInclusive<i64> = -100..=100;
pub const MAX_ATTEMPTS: RangeInclusive<i64> = 1..=100;
pub const SPACING_SECONDS: RangeInclusive<i64> = 0..=86_400;
pub const KEY_BYTES: RangeInclusive<usize> = 1..=255;

const FIELDS: [&str; 12] = [
    "flow",
    "items",
    "profiles",
    "inputs_list",
    "distribute",
    "not_before",
    "not_after",
    "priority",
    "max_attempts",
    "spacing_seconds",
    "on_unknown",
    "webhook",
];
const ITEM_FIELDS: [&str; 5] = ["profile", "inputs", "key", "not_before", "not_after"];

/// What the configuration and the request's head say.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub max_items: usize,
    pub default_max_attempts: u32,
    pub idempotency_key: Option<String>,
    pub now: Timestamp,
}

/// A part of the body with its place in it.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    pub at: String,
    pub value: T,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number in [`Request::profiles`].
    pub profile: usize,
    /// Number in [`Request::inputs`].
    pub inputs: usize,
    pub key: Option<String>,
    /// It was made of the Idempotency-Key.
    pub key_of_header: bool,
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub flow: Option<String>,
    pub profiles: Vec<Placed<String>>,
    pub inputs: Vec<Placed<Map<String, Value>>>,
    pub rows: Vec<Row>,
    pub priority: i32,
    pub max_attempts: u32,
    pub spacing_seconds: u32,
    pub on_unknown: OnUnknown,
    pub webhook: Option<Webhook>,
}

/// Reads the body. What is wrong goes to `walk`; what is right is there for further checks.
pub fn read(body: &Value, bounds: &Bounds, walk: &mut Walk) -> Request {
    let none = Map::new();
    let fields = walk.object(body, "", &FIELDS).unwrap_or(&none);
    let mut request = Request {
        flow: None,
        profiles: Vec::new(),
        inputs: Vec::new(),
        rows: Vec::new(),
        priority: number(walk.integer(fields, "", "priority", &PRIORITY), 0),
        max_attempts: number(walk.integer(fields, "", "max_attempts", &MAX_ATTEMPTS), bounds.default_max_attempts),
        spacing_seconds: number(walk.integer(fields, "", "spacing_seconds", &SPACING_SECONDS), 0),
        on_unknown: on_unknown(fields, walk),
        webhook: None,
    };
    if !body.is_object() {
        return request;
    }
    if let Some(value) = walk.required(fields, "", "flow") {
        request.flow = walk.string(value, "/flow").map(str::to_owned);
    }
    request.webhook = optional(fields, "webhook").and_then(|value| read_webhook(value, walk));
    let times = times(fields, "", (None, None), bounds.now, walk);
    let lists = ["profiles", "inputs_list", "distribute"];
    if fields.contains_key("items") {
        for name in lists.into_iter().filter(|name| optional(fields, name).is_some()) {
            walk.wrong(
                Code::InvalidField,
                pointer("", name),
                "Give `items`, or `profiles` and `inputs_list`; not both.",
            );
        }
        read_items(&fields["items"], times, bounds, walk, &mut request);
    } else if lists.iter().any(|name| fields.contains_key(*name)) {
        read_lists(fields, times, bounds, walk, &mut request);
    } else {
        walk.wrong(Code::MissingField, "/items", "Give `items`, or `profiles` and `inputs_list`.");
    }
    name_rows(bounds, walk, &mut request);
    request
}

/// A number that its range keeps within the type.
fn number<T: TryFrom<i64>>(value: Option<i64>, default: T) -> T {
    value.and_then(|number| T::try_from(number).ok()).unwrap_or(default)
}

fn on_unknown(fields: &Map<String, Value>, walk: &mut Walk) -> OnUnknown {
    match optional(fields, "on_unknown").map(Value::as_str) {
        None | Some(Some("hold")) => OnUnknown::Hold,
        Some(Some("retry")) => OnUnknown::Retry,
        Some(_) => {
            walk.wrong(Code::InvalidField, "/on_unknown", "Expected `hold` or `retry`.");
            OnUnknown::Hold
        }
    }
}

/// The secret is looked at even where the address is wrong, and is in no message.
fn read_webhook(value: &Value, walk: &mut Walk) -> Option<Webhook> {
    const AT: &str = "/webhook";
    let fields = walk.object(value, AT, &["url", "secret"])?;
    let url = walk.required(fields, AT, "url").and_then(|value| walk.string(value, &pointer(AT, "url")));
    let secret = optional(fields, "secret").and_then(|value| walk.string(value, &pointer(AT, "secret")));
    let secret = match secret.map(Secret::new).transpose() {
        Ok(secret) => secret,
        Err(error) => {
            walk.wrong(Code::InvalidField, pointer(AT, "secret"), format!("{error}."));
            None
        }
    };
    match Webhook::new(url?, secret) {
        Ok(webhook) => Some(webhook),
        Err(error) => {
            walk.wrong(Code::InvalidField, pointer(AT, "url"), format!("{error}."));
            None
        }
    }
}

type Times = (Option<Timestamp>, Option<Timestamp>);

/// `not_before` and `not_after` at one place; what is absent comes from `defaults`.
fn times(fields: &Map<String, Value>, at: &str, defaults: Times, now: Timestamp, walk: &mut Walk) -> Times {
    let before = walk.parsed::<Timestamp>(fields, at, "not_before").or(defaults.0);
    let after = walk.parsed::<Timestamp>(fields, at, "not_after");
    if after.is_some_and(|after| after <= now) {
        let detail = format!("`not_after` is over: it is {now} here.");
        walk.wrong(Code::InvalidField, pointer(at, "not_after"), detail);
    }
    let after = after.or(defaults.1);
    if before.zip(after).is_some_and(|(before, after)| after <= before) {
        walk.wrong(Code::InvalidField, pointer(at, "not_after"), "`not_after` has to be later than `not_before`.");
    }
    (before, after)
}

fn read_items(value: &Value, defaults: Times, bounds: &Bounds, walk: &mut Walk, request: &mut Request) {
    let Some(items) = walk.array(value, "/items") else { return };
    if !check_count(items.len(), "/items", bounds, walk) {
        return;
    }
    let mut known_profiles: HashMap<&str, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        if walk.is_full() {
            return;
        }
        let at = pointer("/items", index);
        let Some(fields) = walk.object(item, &at, &ITEM_FIELDS) else { continue };
        let name = walk.required(fields, &at, "profile").and_then(|value| walk.string(value, &pointer(&at, "profile")));
        let inputs_at = pointer(&at, "inputs");
        let inputs = match optional(fields, "inputs") {
            Some(inputs) => walk.map(inputs, &inputs_at).cloned(),
            None => Some(Map::new()),
        };
        let key = optional(fields, "key").and_then(|value| read_key(value, &pointer(&at, "key"), walk));
        let (not_before, not_after) = times(fields, &at, defaults, bounds.now, walk);
        let (Some(name), Some(inputs)) = (name, inputs) else { continue };
        let profile = *known_profiles.entry(name).or_insert_with(|| {
            request.profiles.push(Placed { at: pointer(&at, "profile"), value: name.to_owned() });
            request.profiles.len() - 1
        });
        request.inputs.push(Placed { at: inputs_at, value: inputs });
        request.rows.push(Row {
            profile,
            inputs: request.inputs.len() - 1,
            key,
            key_of_header: false,
            not_before,
            not_after,
        });
    }
}

fn read_key(value: &Value, at: &str, walk: &mut Walk) -> Option<String> {
    let key = walk.string(value, at)?;
    if KEY_BYTES.contains(&key.len()) && !key.chars().any(char::is_control) {
        return Some(key.to_owned());
    }
    let (least, most) = (KEY_BYTES.start(), KEY_BYTES.end());
    walk.wrong(Code::InvalidField, at, format!("A key has {least} to {most} bytes and no control characters."));
    None
}

fn check_count(count: usize, at: &str, bounds: &Bounds, walk: &mut Walk) -> bool {
    let fits = (1..=bounds.max_items).contains(&count);
    if !fits {
        let detail = format!("A task has 1 to {} items; these are {count}.", bounds.max_items);
        walk.wrong(Code::InvalidField, at, detail);
    }
    fits
}

fn read_lists(fields: &Map<String, Value>, times: Times, bounds: &Bounds, walk: &mut Walk, request: &mut Request) {
    let profiles = walk.required(fields, "", "profiles").and_then(|value| walk.array(value, "/profiles"));
    let inputs = walk.required(fields, "", "inputs_list").and_then(|value| walk.array(value, "/inputs_list"));
    let round_robin = match optional(fields, "distribute").map(Value::as_str) {
        None | Some(Some("all_to_all")) => false,
        Some(Some("round_robin")) => true,
        Some(_) => {
            walk.wrong(Code::InvalidField, "/distribute", "Expected `all_to_all` or `round_robin`.");
            return;
        }
    };
    let (Some(profiles), Some(inputs)) = (profiles, inputs) else { return };
    let profiles_fit = check_count(profiles.len(), "/profiles", bounds, walk);
    let inputs_fit = check_count(inputs.len(), "/inputs_list", bounds, walk);
    if !(profiles_fit && inputs_fit) {
        return;
    }
    let count = if round_robin { inputs.len() } else { profiles.len().saturating_mul(inputs.len()) };
    if !check_count(count, "/inputs_list", bounds, walk) {
        return;
    }
    for (index, profile) in profiles.iter().enumerate() {
        let at = pointer("/profiles", index);
        let value = walk.string(profile, &at).unwrap_or_default().to_owned();
        request.profiles.push(Placed { at, value });
    }
    for (index, map) in inputs.iter().enumerate() {
        let at = pointer("/inputs_list", index);
        let value = walk.map(map, &at).cloned().unwrap_or_default();
        request.inputs.push(Placed { at, value });
    }
    let (not_before, not_after) = times;
    let row = |profile, inputs| Row { profile, inputs, key: None, key_of_header: false, not_before, not_after };
    request.rows = if round_robin {
        (0..inputs.len()).map(|number| row(number % profiles.len(), number)).collect()
    } else {
        (0..profiles.len())
            .flat_map(|profile| (0..inputs.len()).map(move |inputs| (profile, inputs)))
            .map(|(p, i)| row(p, i))
            .collect()
    };
}

/// Items without a key get one from the Idempotency-Key (fence.md rule 2); equal keys are refused.
fn name_rows(bounds: &Bounds, walk: &mut Walk, request: &mut Request) {
    if let Some(prefix) = &bounds.idempotency_key {
        for (index, row) in request.rows.iter_mut().enumerate() {
            row.key_of_header = row.key.is_none();
            row.key.get_or_insert_with(|| format!("{prefix}#{index}"));
        }
    }
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(request.rows.len());
    for (index, row) in request.rows.iter().enumerate() {
        let Some(key) = &row.key else { continue };
        if let Some(first) = seen.insert(key, index) {
            let detail = format!("Item {first} of this request has the same key.");
            walk.wrong(Code::DuplicateKey, format!("/items/{index}/key"), detail);
        }
    }
}

#[cfg(test)]
mod tests;
