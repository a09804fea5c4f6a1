//! What a worker's requests may hold: the one place that reads their bodies and a claim's id.
//!
//! Called by the claims' handlers alone. Every wrong field is told with its pointer and what is allowed; an
//! unknown one is wrong. Whether the claim is the caller's, the store decides.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::error::{ApiError, Code};
use super::super::form::{Walk, optional, pointer};
use crate::model::flow::is_external_kind;
use crate::model::lock::{MAX_LOCK_NAME_BYTES, is_lock_name};
use crate::model::{Failure, FailureCode, Fence, ItemId};
use crate::store::{ClaimName, media};

const MAX_KINDS: usize = 16;
pub const TTL_SECONDS: std::ops::RangeInclusive<i64> = 5..=86_400;
const DEFAULT_TTL: Duration = Duration::from_secs(300);
const WAIT_SECONDS: std::ops::RangeInclusive<i64> = 0..=60;
const MAX_MESSAGE_BYTES: usize = 2_000;
const MAX_RESULTS: usize = 64;
const MAX_RESULT_BYTES: usize = 10_000;

pub struct Asked {
    pub kinds: Vec<String>,
    pub owner: String,
    pub ttl: Duration,
    pub wait: Duration,
    /// With a browser of cove's.
    pub session: bool,
}

fn read_kinds(walk: &mut Walk, fields: &Map<String, Value>) -> Vec<String> {
    let Some(list) = walk.required(fields, "", "kinds").and_then(|value| walk.array(value, "/kinds")) else {
        return Vec::new();
    };
    if !(1..=MAX_KINDS).contains(&list.len()) {
        walk.wrong(Code::InvalidField, "/kinds", format!("Expected 1 to {MAX_KINDS} kinds."));
    }
    let mut kinds = Vec::new();
    for (number, value) in list.iter().take(MAX_KINDS).enumerate() {
        match value.as_str().filter(|kind| is_external_kind(kind)) {
            Some(kind) => kinds.push(kind.to_owned()),
            None => {
                let detail = "A kind is what a flow's `cove.external` says: 1 to 64 of a-z, 0-9, _ and -.";
                walk.wrong(Code::InvalidField, pointer("/kinds", number), detail);
            }
        }
    }
    kinds
}

pub fn read_claim(body: &Value) -> Result<Asked, ApiError> {
    let mut walk = Walk::default();
    let (kinds, owner) = (Vec::new(), String::new());
    let mut asked = Asked { kinds, owner, ttl: DEFAULT_TTL, wait: Duration::ZERO, session: false };
    if let Some(fields) = walk.object(body, "", &["kinds", "owner", "ttl_seconds", "wait_seconds", "session"]) {
        asked.kinds = read_kinds(&mut walk, fields);
        if let Some(owner) = walk.required(fields, "", "owner").and_then(|value| walk.string(value, "/owner")) {
            if !is_lock_name(owner) {
                let detail = format!("Expected 1 to {MAX_LOCK_NAME_BYTES} bytes without control characters.");
                walk.wrong(Code::InvalidField, "/owner", detail);
            }
            owner.clone_into(&mut asked.owner);
        }
        asked.ttl = walk.seconds(fields, "", "ttl_seconds", &TTL_SECONDS).unwrap_or(DEFAULT_TTL);
        asked.wait = walk.seconds(fields, "", "wait_seconds", &WAIT_SECONDS).unwrap_or_default();
        asked.session = walk.boolean(fields, "", "session").unwrap_or_default();
    }
    walk.finish().map(|()| asked)
}

/// `c<item>.<fence>`
pub fn claim_id(item: ItemId, fence: Fence) -> String {
    format!("c{}.{}", item.raw(), fence.raw())
}

pub fn parse_claim_id(text: &str) -> Result<ClaimName, ApiError> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let parsed = text.strip_prefix('c').and_then(|text| text.split_once('.'));
    let parsed = parsed.and_then(|(item, fence)| Some((number(item)?, number(fence)?)));
    let (item, fence) = parsed.ok_or_else(|| ApiError::not_found("There is no claim with this id."))?;
    Ok(ClaimName { item: ItemId::new(item), fence: Fence::new(fence) })
}

pub fn read_fence(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Fence> {
    walk.required(fields, "", "fence");
    walk.parsed(fields, "", "fence")
}

/// None: the field is not there, which is right for an item without media alone.
pub fn read_hashes(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Vec<String>> {
    let mut hash = |value: &Value, at: String| {
        let text = value.as_str().map(|text| text.strip_prefix("sha256:").unwrap_or(text).to_lowercase());
        let hash = text.filter(|text| media::is_sha256(text));
        if hash.is_none() {
            walk.wrong(Code::InvalidField, at, "Expected a SHA-256: 64 hex digits, or a list of them.");
        }
        hash
    };
    Some(match optional(fields, "media_sha256")? {
        Value::Array(list) => {
            let numbered = list.iter().enumerate();
            numbered.filter_map(|(number, value)| hash(value, pointer("/media_sha256", number))).collect()
        }
        one => hash(one, "/media_sha256".to_owned()).into_iter().collect(),
    })
}

pub fn read_result(walk: &mut Walk, fields: &Map<String, Value>) -> BTreeMap<String, String> {
    let Some(map) = optional(fields, "result").and_then(|value| walk.map(value, "/result")) else {
        return BTreeMap::new();
    };
    if map.len() > MAX_RESULTS || map.keys().any(|name| !is_lock_name(name)) {
        let detail =
            format!("A result has at most {MAX_RESULTS} members with names of 1 to {MAX_LOCK_NAME_BYTES} bytes.");
        walk.wrong(Code::InvalidField, "/result", detail);
    }
    let mut result = BTreeMap::new();
    for (name, value) in map {
        let at = pointer("/result", name);
        match walk.string(value, &at) {
            Some(text) if text.len() <= MAX_RESULT_BYTES => {
                result.insert(name.clone(), text.to_owned());
            }
            Some(_) => walk.wrong(Code::InvalidField, at, format!("A value has at most {MAX_RESULT_BYTES} bytes.")),
            None => {}
        }
    }
    result
}

pub fn read_failure(walk: &mut Walk, fields: &Map<String, Value>) -> Failure {
    let message = optional(fields, "message").and_then(|value| walk.string(value, "/message")).unwrap_or("no message");
    if message.len() > MAX_MESSAGE_BYTES {
        walk.wrong(Code::InvalidField, "/message", format!("A message has at most {MAX_MESSAGE_BYTES} bytes."));
    }
    let code = match optional(fields, "reason").map(Value::as_str) {
        None | Some(Some("error")) => FailureCode::WorkerFailed,
        Some(Some("needs_human")) => FailureCode::NeedsHuman,
        Some(Some("rate_limited")) => FailureCode::RateLimited,
        Some(Some("rejected")) => FailureCode::Rejected,
        Some(_) => {
            let detail = "Expected `error`, `needs_human`, `rate_limited` or `rejected`.";
            walk.wrong(Code::InvalidField, "/reason", detail);
            FailureCode::WorkerFailed
        }
    };
    Failure::new(code, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_read_strictly() {
        let asked = read_claim(&json!({"kinds": ["studio"], "owner": "w1", "wait_seconds": 5})).unwrap();
        assert_eq!((asked.ttl, asked.wait), (DEFAULT_TTL, Duration::from_secs(5)));
        for (wrong, at) in [
            (json!({"owner": "w1"}), "/kinds"),
            (json!({"kinds": [], "owner": "w1"}), "/kinds"),
            (json!({"kinds": ["No Kind"], "owner": "w1"}), "/kinds/0"),
            (json!({"kinds": ["a"]}), "/owner"),
            (json!({"kinds": ["a"], "owner": ""}), "/owner"),
            (json!({"kinds": ["a"], "owner": "w", "ttl_seconds": 4}), "/ttl_seconds"),
            (json!({"kinds": ["a"], "owner": "w", "wait_seconds": 61}), "/wait_seconds"),
            (json!({"kinds": ["a"], "owner": "w", "session": "yes"}), "/session"),
            (json!({"kinds": ["a"], "owner": "w", "who": 1}), "/who"),
        ] {
            let error = read_claim(&wrong).err().unwrap_or_else(|| panic!("{wrong}"));
            assert_eq!(error.code().status(), 422, "{wrong}");
            assert!(format!("{error:?}").contains(&format!("{at:?}")), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn a_claims_id_names_its_item_and_fence() {
        let name = parse_claim_id("c12.34").unwrap();
        assert_eq!((name.item.raw(), name.fence.raw()), (12, 34));
        for wrong in ["", "c", "c12", "c12.", "c.3", "12.34", "c1.2.3", "c-1.2", "c+1.2", "c99999999999999999999.1"] {
            assert_eq!(parse_claim_id(wrong).unwrap_err().code(), Code::NotFound, "{wrong}");
        }
    }

    #[test]
    fn a_hash_that_is_none_is_named_by_its_place() {
        let read = |value: Value| {
            let (mut walk, fields) = (Walk::default(), json!({"media_sha256": value}));
            let hashes = read_hashes(&mut walk, fields.as_object().unwrap());
            walk.finish().map(|()| hashes)
        };
        let good = "aB".repeat(32);
        let lower = Some(vec![good.to_lowercase()]);
        for same in [json!(good), json!(format!("sha256:{good}")), json!([good])] {
            assert_eq!(read(same).unwrap(), lower);
        }
        assert_eq!(read(Value::Null).unwrap(), None);
        for (wrong, at) in [
            (json!("abc"), "/media_sha256"),
            (json!(7), "/media_sha256"),
            (json!({}), "/media_sha256"),
            (json!([good, "z".repeat(64)]), "/media_sha256/1"),
            (json!([null]), "/media_sha256/0"),
        ] {
            let error = read(wrong.clone()).err().unwrap_or_else(|| panic!("{wrong}"));
            assert_eq!(error.code(), Code::InvalidField);
            assert!(format!("{error:?}").contains(&format!("{at:?}")), "{wrong}: {error:?}");
        }
    }
}
