//! Claims: outside workers take the items of flows that are theirs (`cove.external`), and say how they ended.
//!
//! A worker claims, arms right before its click, and completes; a long poll waits for work. The store
//! decides by the fence (fence.md rule 23); nothing is kept here. Invariants: a worker is told the real
//! inputs of its own item, secrets included, and nobody else is; what it says of an item that is not its any
//! more changes nothing; arming looks at the files once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code, FieldError};
use super::form::{Walk, optional, pointer};
use super::front::Call;
use super::profiles::no_body;
use super::tasks::Viewer;
use super::{sessions, wire};
use crate::engine::{
    Borrower, Door, LendAsked, LendRefused, Lent, LentBrowser, Limits, after_failure, effect, effect_after_commit,
};
use crate::model::flow::is_external_kind;
use crate::model::lock::{MAX_LOCK_NAME_BYTES, is_lock_name};
use crate::model::{Failure, FailureCode, Fence, Item, ItemId, ItemState, LockKind, Proofs, Verdict};
use crate::store::media;
use crate::store::{ArmRefused, AttemptEnded, Claim, ClaimName, Claimed, FinishRefused, NotYours};

const MAX_KINDS: usize = 16;
const TTL_SECONDS: std::ops::RangeInclusive<i64> = 5..=86_400;
const DEFAULT_TTL: Duration = Duration::from_secs(300);
const WAIT_SECONDS: std::ops::RangeInclusive<i64> = 0..=60;
const MAX_MESSAGE_BYTES: usize = 2_000;
const MAX_RESULTS: usize = 64;
const MAX_RESULT_BYTES: usize = 10_000;
/// How often a claim looks for the next item where it had to move those before it out of the way.
const MAX_LOOKS: usize = 100;
/// What an attempt needs between the answer to `arm` and its click.
const CLICK_MARGIN: Duration = Duration::from_secs(1);

struct Asked {
    kinds: Vec<String>,
    owner: String,
    ttl: Duration,
    wait: Duration,
    /// With a browser of cove's.
    session: bool,
}

fn seconds(value: Option<i64>, default: Duration) -> Duration {
    value.map_or(default, |seconds| Duration::from_secs(seconds.unsigned_abs()))
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

fn read_claim(body: &Value) -> Result<Asked, ApiError> {
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
        asked.ttl = seconds(walk.integer(fields, "", "ttl_seconds", &TTL_SECONDS), DEFAULT_TTL);
        asked.wait = seconds(walk.integer(fields, "", "wait_seconds", &WAIT_SECONDS), Duration::ZERO);
        asked.session = walk.boolean(fields, "", "session").unwrap_or_default();
    }
    walk.finish().map(|()| asked)
}

/// Waits for an item of these kinds, at most as long as the worker does.
pub async fn claim(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let host = call.host.clone();
    let asked = read_claim(&call.json(&context).await?.ok_or_else(no_body)?)?;
    let until = Instant::now() + asked.wait;
    let mut changes = context.engine.changes();
    loop {
        if context.engine.view().draining {
            return Err(ApiError::new(Code::Draining, "The daemon stops; claim again when it runs."));
        }
        let mut full = None;
        if context.engine.view().ready {
            match try_claim(&context, &asked).await? {
                Looked::Claimed(claimed, door) => {
                    context.engine.ring();
                    let mut json = claimed_json(&context, &claimed).await?;
                    if let Some(door) = door {
                        let (session_id, endpoint) = sessions::address(claimed.fence, &host, door.token());
                        json["session"] = json!({"session_id": session_id, "ws_endpoint": endpoint});
                    }
                    return Ok(body::json(StatusCode::OK, &json));
                }
                Looked::Full(error) => full = Some(error),
                Looked::Nothing => {}
            }
        }
        // Every change of the queue turns the engine, which shows itself anew.
        match timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return full.map_or_else(|| Ok(body::empty(StatusCode::NO_CONTENT)), Err),
        }
    }
}

/// What a look at the queue brought.
enum Looked {
    Claimed(Box<Claimed>, Option<Arc<Door>>),
    /// There is work, and no browser left to lend.
    Full(ApiError),
    Nothing,
}

async fn try_claim(context: &Context, asked: &Asked) -> Result<Looked, ApiError> {
    let store = &context.store;
    for _ in 0..MAX_LOOKS {
        let mut moved = false;
        for head in store.claimable(asked.kinds.clone(), context.clock.moment()).await? {
            let (owner, kinds) = (asked.owner.clone(), asked.kinds.clone());
            if asked.session {
                let to = Borrower::Worker { item: head.item, name: owner, kinds };
                let headless = context.config.browser.headless;
                let wanted = LendAsked { profile: head.profile.clone(), to, ttl: asked.ttl, headless };
                match context.engine.lend(wanted).await {
                    Ok(LentBrowser { lent: Lent { claimed: Some(claimed), .. }, door }) => {
                        return Ok(Looked::Claimed(claimed, Some(door)));
                    }
                    Err(LendRefused::Moved) => moved = true,
                    Ok(_) | Err(LendRefused::NotTaken | LendRefused::Busy | LendRefused::UnknownProfile) => {}
                    Err(LendRefused::Full) => {
                        let full = sessions::why_refused(context, &head.profile, LendRefused::Full).await;
                        return Ok(Looked::Full(full));
                    }
                    Err(refused) => return Err(sessions::why_refused(context, &head.profile, refused).await),
                }
                continue;
            }
            match store.claim_for_worker(head.item, owner, kinds, asked.ttl, context.clock.moment()).await? {
                Ok(Claim::Started(claimed)) => return Ok(Looked::Claimed(claimed, None)),
                // It was canceled, or its time is over or not yet come: another of its profile may be next.
                Ok(Claim::Moved) => moved = true,
                // Another worker was quicker.
                Err(_) => {}
            }
        }
        if !moved {
            break;
        }
    }
    Ok(Looked::Nothing)
}

async fn claimed_json(context: &Context, claimed: &Claimed) -> Result<Value, ApiError> {
    let item = &claimed.item;
    // A worker has to put secrets into the page, so it is told them.
    let mut shown = wire::item(item, None, |_| false);
    shown["flow"] = json!(claimed.task.flow);
    shown["files"] = files(item);
    let lock = context.store.lock(LockKind::PROFILE, item.profile.to_string()).await?;
    // Not there: a worker has already spoken for it, as one that knows its name may.
    let expires_at = lock.filter(|lock| lock.fence == claimed.fence).and_then(|lock| lock.expires_at());
    Ok(
        json!({"claim_id": claim_id(item.id, claimed.fence), "item": shown, "fence": claimed.fence, "expires_at": expires_at}),
    )
}

/// What the worker publishes, so that it can look whether it has the same.
fn files(item: &Item) -> Value {
    let files = item.inputs.iter().filter_map(|(name, input)| Some((name, input.as_file()?)));
    let one = |(name, file): (&String, &crate::model::FileInput)| {
        (name.clone(), json!({"path": file.path, "sha256": file.sha256, "bytes": file.bytes}))
    };
    Value::Object(files.map(one).collect())
}

/// `c<item>.<fence>`
pub fn claim_id(item: ItemId, fence: Fence) -> String {
    format!("c{}.{}", item.raw(), fence.raw())
}

fn parse_claim_id(text: &str) -> Result<ClaimName, ApiError> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let parsed = text.strip_prefix('c').and_then(|text| text.split_once('.'));
    let parsed = parsed.and_then(|(item, fence)| Some((number(item)?, number(fence)?)));
    let (item, fence) = parsed.ok_or_else(|| ApiError::not_found("There is no claim with this id."))?;
    Ok(ClaimName { item: ItemId::new(item), fence: Fence::new(fence) })
}

/// The claim that the path names; its fence stands in the body once more.
fn same_fence(name: ClaimName, fence: Option<Fence>) -> Result<(), ApiError> {
    if fence.is_some_and(|fence| fence != name.fence) { Err(stale()) } else { Ok(()) }
}

fn stale() -> ApiError {
    ApiError::new(Code::StaleFence, "The item is not yours under this fence any more: stop what you do with it.")
}

fn over(refused: NotYours) -> ApiError {
    match refused {
        NotYours::StaleFence => stale(),
        NotYours::NotHeld => {
            let detail = "The lease of this claim is over: stop what you do with the item. Where it was armed and went out, `complete` still counts.";
            ApiError::new(Code::NotHeld, detail)
        }
        NotYours::Store(error) => error.into(),
    }
}

fn read_fence(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Fence> {
    walk.required(fields, "", "fence");
    walk.parsed(fields, "", "fence")
}

async fn body_of(context: &Context, call: Call) -> Result<(ClaimName, Value), ApiError> {
    let name = parse_claim_id(call.params.get("id"))?;
    Ok((name, call.json(context).await?.ok_or_else(no_body)?))
}

pub async fn refresh(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (name, body) = body_of(&context, call).await?;
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["fence", "ttl_seconds"]).cloned().unwrap_or_default();
    let fence = read_fence(&mut walk, &fields);
    let ttl = walk.integer(&fields, "", "ttl_seconds", &TTL_SECONDS);
    let ttl = ttl.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    walk.finish()?;
    same_fence(name, fence)?;
    let refreshed = context.store.refresh_claim(name, ttl, context.clock.moment()).await?;
    let expires_at = refreshed.map_err(over)?;
    Ok(body::json(StatusCode::OK, &json!({"expires_at": expires_at})))
}

/// None: the field is not there, which is right for an item without media alone.
fn read_hashes(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Vec<String>> {
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

/// Right before the click: what is about to go out is what was accepted, and it is still this worker's.
pub async fn arm(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (name, body) = body_of(&context, call).await?;
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["fence", "media_sha256"]).cloned().unwrap_or_default();
    let (fence, hashes) = (read_fence(&mut walk, &fields), read_hashes(&mut walk, &fields));
    walk.finish()?;
    same_fence(name, fence)?;
    let left = context.store.claim_left(name, context.clock.moment()).await?.map_err(over)?;
    let item = context.store.item(name.item).await?.ok_or_else(stale)?;
    not_armed_yet(&item, name)?;
    check_media(&item, hashes).await?;
    if left <= CLICK_MARGIN {
        let detail = "Less than a second of the lease is left: refresh it, then arm.";
        return Err(ApiError::new(Code::NotHeld, detail));
    }
    match context.store.arm(name.item, name.fence, Proofs::unproven(), context.clock.moment()).await? {
        Ok(()) => {}
        Err(ArmRefused::Canceled) => {
            return Err(ApiError::new(Code::Canceled, "A cancel was requested: do not click, and call `fail`."));
        }
        Err(ArmRefused::Outdated | ArmRefused::LockLost) => {
            // The same asked twice at once is answered once.
            let item = context.store.item(name.item).await?.ok_or_else(stale)?;
            return Err(not_armed_yet(&item, name).err().unwrap_or_else(stale));
        }
    }
    let left = context.store.claim_left(name, context.clock.moment()).await?.unwrap_or_default();
    let within = left.saturating_sub(CLICK_MARGIN).as_secs();
    Ok(body::json(StatusCode::OK, &json!({"armed": true, "click_within_seconds": within})))
}

/// A worker that never got the answer to its `arm` must not take a second one for its first.
fn not_armed_yet(item: &Item, name: ClaimName) -> Result<(), ApiError> {
    if item.state != ItemState::Running || item.armed_fence != Some(name.fence) {
        return Ok(());
    }
    let at = item.armed_at.map(|at| format!(" at {at}")).unwrap_or_default();
    let detail = format!(
        "It was armed{at}, and cove says yes to a click once. If you have clicked, complete it or fail it; if you have not, do not click any more, and fail it."
    );
    Err(ApiError::new(Code::AlreadyArmed, detail))
}

async fn check_media(item: &Item, given: Option<Vec<String>>) -> Result<(), ApiError> {
    let files: Vec<_> = item.inputs.values().filter_map(|input| input.as_file()).collect();
    let mut expected: Vec<String> = files.iter().map(|file| file.sha256.clone()).collect();
    if given.is_none() && !expected.is_empty() {
        let detail = "Give the SHA-256 of what you are about to publish, or a list of them.";
        return Err(ApiError::field(FieldError::new(Code::MissingField, "/media_sha256", detail)));
    }
    let mut given = given.unwrap_or_default();
    expected.sort_unstable();
    given.sort_unstable();
    if expected != given {
        let detail = format!("The item's media are {}; give exactly their SHA-256.", expected.join(", "));
        return Err(ApiError::new(Code::MediaMismatch, detail));
    }
    for file in files {
        if !media::unchanged(file).await.unwrap_or(false) {
            let detail = format!("{} is not the file any more that was accepted.", file.path.display());
            return Err(ApiError::new(Code::MediaMismatch, detail));
        }
    }
    Ok(())
}

fn read_result(walk: &mut Walk, fields: &Map<String, Value>) -> BTreeMap<String, String> {
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

pub async fn complete(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (name, body) = body_of(&context, call).await?;
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["fence", "url", "result"]).cloned().unwrap_or_default();
    let (fence, result) = (read_fence(&mut walk, &fields), read_result(&mut walk, &fields));
    let url = walk.web_address(&fields, "", "url");
    walk.finish()?;
    same_fence(name, fence)?;
    let verdict = Verdict::Succeeded { url, result };
    end(&context, name, |_| (verdict.clone(), None)).await
}

fn read_failure(walk: &mut Walk, fields: &Map<String, Value>) -> Failure {
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

pub async fn fail(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (name, body) = body_of(&context, call).await?;
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["fence", "reason", "message"]).cloned().unwrap_or_default();
    let (fence, failure) = (read_fence(&mut walk, &fields), read_failure(&mut walk, &fields));
    walk.finish()?;
    same_fence(name, fence)?;
    let task = context.store.item(name.item).await?.ok_or_else(stale)?.task;
    let max_attempts = context.store.task_alone(task).await?.ok_or_else(stale)?.0.max_attempts;
    let (limits, now) = (Limits::from(&context.config.engine), context.clock.now());
    let verdict = |item: &Item| {
        if item.is_armed() {
            let unknown = failure.clone().after_commit();
            return (Verdict::OutcomeUnknown(unknown), effect_after_commit(&failure));
        }
        let (spent, roll) = (item.attempts_spent(), fastrand::f64());
        let verdict = after_failure(&limits, spent, max_attempts, failure.clone(), roll, now);
        (verdict, effect(&failure, &limits, now))
    };
    end(&context, name, verdict).await
}

/// Writes the end; `verdict` is asked again where the item was armed meanwhile.
async fn end(
    context: &Context,
    name: ClaimName,
    verdict: impl Fn(&Item) -> (Verdict, Option<crate::model::ProfileEffect>),
) -> Result<Response<Reply>, ApiError> {
    let mut tries = 0;
    loop {
        let item = context.store.item(name.item).await?.ok_or_else(stale)?;
        let (verdict, effect) = verdict(&item);
        let ended = AttemptEnded { item: name.item, fence: name.fence, verdict, evidence: Vec::new(), effect };
        match context.store.end_claim(ended, context.clock.now()).await? {
            Ok(ended) => {
                if ended.late {
                    context.engine.resolved(name.item).await;
                }
                // The browser that came with it; the profile is free behind it.
                if context.engine.door(name.fence).is_some() {
                    context.engine.stop(name.fence).await;
                }
                context.engine.ring();
                return Ok(body::json(StatusCode::OK, &Viewer::new(context).await?.item(&ended.item).await?));
            }
            Err(FinishRefused::Armed) if tries == 0 => tries += 1,
            Err(_) => return Err(stale()),
        }
    }
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

    #[tokio::test]
    async fn rule_23_arming_names_exactly_the_items_media() {
        let mut item = wire::tests::waiting_item();
        let sha = "0".repeat(64);
        for wrong in [vec![], vec!["1".repeat(64)], vec![sha.clone(), sha.clone()]] {
            assert_eq!(check_media(&item, Some(wrong)).await.unwrap_err().code(), Code::MediaMismatch);
        }
        assert_eq!(check_media(&item, None).await.unwrap_err().code(), Code::MissingField);
        // The right hash of a file that is gone is no ground for a click.
        assert_eq!(check_media(&item, Some(vec![sha])).await.unwrap_err().code(), Code::MediaMismatch);
        item.inputs.remove("video");
        for none in [None, Some(Vec::new())] {
            assert!(check_media(&item, none).await.is_ok());
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
