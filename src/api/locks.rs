//! The lock service for outside programs: acquire, refresh, release, list, clean up.
//!
//! Handlers of `/locks`. The store decides who has what (fence.md rules 20 to 22); here a request is read
//! and the answer is written. Invariants: a lock of kind `profile` is one of a profile that cove knows,
//! under its id, whatever name it was asked by; and whoever frees a profile rings the engine. A busy lock is
//! no error. Locks outlive the daemon's stop, so a drain changes nothing here.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code, FieldError};
use super::form::{Walk, optional};
use super::front::Call;
use super::profiles::{Directory, no_body};
use super::query::Query;
use crate::model::lock::{MAX_LOCK_NAME_BYTES, MAX_LOCK_TTL, is_lock_name};
use crate::model::{Fence, Lock, LockKind, LockOwner, Moment};
use crate::store::{Acquire, AcquireRefused, Cleanup, Granted, LockAsked, LockHeld, LockPlace, LockQuery, NotYours};

const MAX_TTL_SECONDS: i64 = MAX_LOCK_TTL.as_secs().cast_signed();
/// Between kind and key in a cursor; neither can hold it.
const BETWEEN: char = '\n';

/// What every call of an owner names.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    kind: LockKind,
    key: String,
    owner: String,
}

/// A text of a request that has to be there, and the name of a lock or its owner.
pub fn read_name(walk: &mut Walk, fields: &Map<String, Value>, name: &str) -> Option<String> {
    let at = format!("/{name}");
    let value = walk.required(fields, "", name)?;
    let text = walk.string(value, &at)?;
    if !is_lock_name(text) {
        let detail = format!("Expected 1 to {MAX_LOCK_NAME_BYTES} bytes without control characters.");
        walk.wrong(Code::InvalidField, at, detail);
        return None;
    }
    Some(text.to_owned())
}

pub fn read_named(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Named> {
    walk.required(fields, "", "kind");
    let kind = walk.parsed(fields, "", "kind");
    let (key, owner) = (read_name(walk, fields, "key"), read_name(walk, fields, "owner"));
    Some(Named { kind: kind?, key: key?, owner: owner? })
}

fn read_ttl(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Duration> {
    walk.seconds(fields, "", "ttl_seconds", &(1..=MAX_TTL_SECONDS))
}

fn read_fence(walk: &mut Walk, fields: &Map<String, Value>) -> Option<Fence> {
    walk.required(fields, "", "fence");
    walk.parsed(fields, "", "fence")
}

pub fn default_ttl(context: &Context) -> Duration {
    Duration::from_secs(60 * context.config.locks.ttl_minutes)
}

/// The body of a call, read by `read`; None without any wrong field told cannot be.
fn read_body<T>(
    body: &Value,
    known: &[&str],
    read: impl FnOnce(&mut Walk, &Map<String, Value>) -> Option<T>,
) -> Result<T, ApiError> {
    let mut walk = Walk::default();
    let fields = walk.object(body, "", known);
    let read = fields.and_then(|fields| read(&mut walk, fields));
    walk.finish()?;
    read.ok_or_else(|| ApiError::internal(Code::Internal, "a wrong field was not told"))
}

/// The key as locks have it: of a profile its id.
async fn resolve(context: &Context, kind: &LockKind, key: String) -> Result<String, ApiError> {
    if *kind != LockKind::PROFILE {
        return Ok(key);
    }
    let directory = Directory::load(context).await?;
    let unfit =
        |unfit: super::profiles::Unfit| ApiError::field(FieldError::new(unfit.code(), "/key", unfit.to_string()));
    directory.find(&key).map(|profile| profile.id.to_string()).map_err(unfit)
}

async fn held(context: &Context, named: Named, fence: Fence) -> Result<LockHeld, ApiError> {
    let Named { kind, key, owner } = named;
    let key = resolve(context, &kind, key).await?;
    Ok(LockHeld { kind, key, owner: LockOwner::Outside(owner), fence })
}

pub fn not_yours(error: NotYours) -> ApiError {
    match error {
        NotYours::StaleFence => {
            ApiError::new(Code::StaleFence, "Somebody got the lock since, or it is not yours: stop what it guards.")
        }
        // Of a claim alone.
        NotYours::NotHeld | NotYours::Canceled => {
            let detail = "It was released, or its time is over: stop what it guards, and acquire it again.";
            ApiError::new(Code::NotHeld, detail)
        }
        NotYours::Store(error) => error.into(),
    }
}

/// Something about a profile's lock is new: the engine looks again.
fn ring(context: &Context, kind: &LockKind) {
    if *kind == LockKind::PROFILE {
        context.engine.ring();
    }
}

pub async fn acquire(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let body = call.json(&context).await?.ok_or_else(no_body)?;
    let default = default_ttl(&context);
    let (named, ttl) = read_body(&body, &["kind", "key", "owner", "ttl_seconds"], |walk, fields| {
        let (named, ttl) = (read_named(walk, fields), read_ttl(walk, fields));
        Some((named?, ttl.unwrap_or(default)))
    })?;
    let Named { kind, key, owner } = named;
    let key = resolve(&context, &kind, key).await?;
    let asked = LockAsked { kind: kind.clone(), key, owner: LockOwner::Outside(owner), ttl: Some(ttl) };
    let answer = match context.store.acquire_lock(asked, context.clock.moment()).await {
        Ok(Acquire::Acquired(Granted { fence, expires_at })) => {
            ring(&context, &kind);
            json!({"acquired": true, "fence": fence, "expires_at": expires_at})
        }
        Ok(Acquire::Busy { held_by, expires_at }) => {
            json!({"acquired": false, "held_by": held_by.to_string(), "expires_at": expires_at})
        }
        Err(refused) => return Err(why_refused(refused)),
    };
    Ok(body::json(StatusCode::OK, &answer))
}

fn why_refused(refused: AcquireRefused) -> ApiError {
    match refused {
        AcquireRefused::Restored => {
            let detail = "The state was restored or its ledger is damaged: whoever held a lock before may still act on it. \
                          Locks are given again after `cove resume`.";
            ApiError::new(Code::Restored, detail)
        }
        AcquireRefused::UnknownProfile => {
            ApiError::field(FieldError::new(Code::UnknownProfile, "/key", "There is no profile with this id."))
        }
        AcquireRefused::Store(error) => error.into(),
    }
}

pub async fn refresh(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let body = call.json(&context).await?.ok_or_else(no_body)?;
    let known = ["kind", "key", "owner", "fence", "ttl_seconds"];
    let (named, fence, ttl) = read_body(&body, &known, |walk, fields| {
        let (named, fence) = (read_named(walk, fields), read_fence(walk, fields));
        let ttl = read_ttl(walk, fields);
        Some((named?, fence?, ttl))
    })?;
    let held = held(&context, named, fence).await?;
    let kind = held.kind.clone();
    let granted = context.store.refresh_lock(held, ttl, context.clock.moment()).await.map_err(not_yours)?;
    ring(&context, &kind);
    let answer = json!({"refreshed": true, "fence": granted.fence, "expires_at": granted.expires_at});
    Ok(body::json(StatusCode::OK, &answer))
}

pub async fn release(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let body = call.json(&context).await?.ok_or_else(no_body)?;
    let (named, fence) = read_body(&body, &["kind", "key", "owner", "fence"], |walk, fields| {
        let (named, fence) = (read_named(walk, fields), read_fence(walk, fields));
        Some((named?, fence?))
    })?;
    let held = held(&context, named, fence).await?;
    let kind = held.kind.clone();
    context.store.release_lock(held, context.clock.moment()).await.map_err(not_yours)?;
    ring(&context, &kind);
    Ok(body::json(StatusCode::OK, &json!({"released": true})))
}

pub fn lock_json(lock: &Lock, now: Moment) -> Value {
    json!({
        "kind": lock.kind.as_str(),
        "key": lock.key,
        "owner": lock.owner.to_string(),
        "fence": lock.fence,
        "acquired_at": lock.acquired_at,
        "expires_at": lock.expires_at(),
        "expired": lock.is_expired(now),
    })
}

fn locks_json(locks: &[Lock], now: Moment) -> Vec<Value> {
    locks.iter().map(|lock| lock_json(lock, now)).collect()
}

fn cursor(place: &LockPlace) -> String {
    URL_SAFE_NO_PAD.encode(format!("l{}{BETWEEN}{}", place.kind, place.key))
}

pub fn parse_cursor(text: &str) -> Option<LockPlace> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (kind, key) = std::str::from_utf8(&bytes).ok()?.strip_prefix('l')?.split_once(BETWEEN)?;
    let place = LockPlace { kind: LockKind::new(kind).ok()?, key: key.to_owned() };
    (is_lock_name(key) && cursor(&place) == text).then_some(place)
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["kind", "key", "owner", "cursor", "limit"], &mut walk);
    let expected = "1 to 64 of the characters a-z 0-9 _ . -";
    let mut asked = LockQuery {
        key: query.get("key").map(str::to_owned),
        kind: query.parsed("kind", &mut walk, expected, |text| LockKind::new(text).ok()),
        owner: query.get("owner").map(str::to_owned),
        after: query.parsed("cursor", &mut walk, "the `next_cursor` of an answer to this path", parse_cursor),
        limit: query.limit(&mut walk),
    };
    if asked.key.is_some() && query.get("kind").is_none() {
        walk.wrong(
            Code::MissingField,
            "kind",
            "A key names a lock within its kind: say of which, for example `profile`.",
        );
    }
    walk.finish()?;
    // A profile is found by its name, too; one that there is not has no lock.
    if let (Some(kind), Some(key)) = (&asked.kind, &mut asked.key)
        && *kind == LockKind::PROFILE
        && let Ok(profile) = Directory::load(&context).await?.find(key)
    {
        *key = profile.id.to_string();
    }
    let page = context.store.locks(asked).await?;
    let locks = locks_json(&page.rows, context.clock.moment());
    let json = json!({"locks": locks, "next_cursor": page.next.as_ref().map(cursor)});
    Ok(body::json(StatusCode::OK, &json))
}

#[derive(Debug, PartialEq, Eq)]
pub struct CleanupAsked {
    cleanup: Cleanup,
    dry_run: bool,
}

pub fn read_cleanup(body: Option<&Value>) -> Result<CleanupAsked, ApiError> {
    let nothing = json!({});
    read_body(body.unwrap_or(&nothing), &["owner", "dry_run", "force"], |walk, fields| {
        let owner = optional(fields, "owner").and_then(|_| read_name(walk, fields, "owner"));
        let mut flag = |name: &str| walk.boolean(fields, "", name).unwrap_or_default();
        let (dry_run, force) = (flag("dry_run"), flag("force"));
        if force && optional(fields, "owner").is_none() {
            let detail = "`force` takes locks away from whoever holds them: say from whom.";
            walk.wrong(Code::MissingField, "/owner", detail);
        }
        Some(CleanupAsked { cleanup: Cleanup { owner, force }, dry_run })
    })
}

/// Expired locks, of everybody or of one owner; with `force` also what that owner still holds. The engine's
/// own are not freed by that: whoever runs behind them is asked to stop (fence.md rule 21).
pub async fn clean_up(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let CleanupAsked { cleanup, dry_run } = read_cleanup(call.json(&context).await?.as_ref())?;
    let now = context.clock.moment();
    let cleaned = if dry_run {
        context.store.locks_to_clean_up(cleanup, now).await?
    } else {
        let cleaned = context.store.clean_up_locks(cleanup, now).await?;
        for lock in &cleaned.stopping {
            tracing::info!(kind = %lock.kind, key = lock.key, owner = %lock.owner, fence = %lock.fence, "asked to stop");
            context.engine.stop(lock.fence).await;
        }
        context.engine.ring();
        cleaned
    };
    let now = context.clock.moment();
    let json = json!({
        "removed": cleaned.removed,
        "locks": locks_json(&cleaned.locks, now),
        "stopping": locks_json(&cleaned.stopping, now),
        "dry_run": dry_run,
    });
    Ok(body::json(StatusCode::OK, &json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(body: &Value) -> Result<Named, ApiError> {
        read_body(body, &["kind", "key", "owner"], read_named)
    }

    #[test]
    fn what_names_a_lock_is_checked() {
        let good = json!({"kind": "task.x", "key": "7 ж", "owner": "w 1"});
        let expected =
            Named { kind: LockKind::new("task.x").unwrap(), key: "7 ж".to_owned(), owner: "w 1".to_owned() };
        assert_eq!(named(&good).unwrap(), expected);
        let long = "k".repeat(256);
        for (field, value) in [
            ("kind", json!("Task")),
            ("kind", json!("")),
            ("kind", json!("k".repeat(65))),
            ("kind", json!(7)),
            ("key", json!("")),
            ("key", json!("a\u{0}b")),
            ("owner", json!(long)),
            ("owner", json!(["w"])),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(named(&bad).unwrap_err().code(), Code::InvalidField, "{bad}");
            bad[field] = Value::Null;
            assert_eq!(named(&bad).unwrap_err().code(), Code::MissingField, "{bad}");
        }
        assert_eq!(
            named(&json!({"kind": "a", "key": "b", "owner": "c", "ttl": 1})).unwrap_err().code(),
            Code::UnknownField
        );
        assert_eq!(named(&json!([])).unwrap_err().code(), Code::InvalidField);
    }

    #[test]
    fn a_fence_is_text_and_a_ttl_has_bounds() {
        let fence = |value: Value| read_body(&json!({"fence": value}), &["fence"], read_fence);
        assert_eq!(fence(json!("f123")).unwrap(), Fence::new(123));
        for bad in [json!(123), json!("123"), json!("i123"), json!("f"), json!(" f1"), json!("F1")] {
            assert_eq!(fence(bad.clone()).unwrap_err().code(), Code::InvalidField, "{bad}");
        }
        assert_eq!(fence(Value::Null).unwrap_err().code(), Code::MissingField);
        let ttl = |body: Value| read_body(&body, &["ttl_seconds"], |walk, fields| Some(read_ttl(walk, fields)));
        assert_eq!(ttl(json!({})).unwrap(), None);
        for good in [1, 604_800] {
            assert_eq!(ttl(json!({"ttl_seconds": good})).unwrap(), Some(Duration::from_secs(good)));
        }
        for bad in [json!(0), json!(-1), json!(604_801), json!(1.5), json!("60")] {
            assert!(ttl(json!({"ttl_seconds": bad})).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cleanup_by_force_says_whose() {
        let asked = |owner: Option<&str>, force, dry_run| CleanupAsked {
            cleanup: Cleanup { owner: owner.map(str::to_owned), force },
            dry_run,
        };
        assert_eq!(read_cleanup(None).unwrap(), asked(None, false, false));
        assert_eq!(read_cleanup(Some(&json!({"dry_run": true}))).unwrap(), asked(None, false, true));
        let all = json!({"owner": "w", "force": true, "dry_run": false});
        assert_eq!(read_cleanup(Some(&all)).unwrap(), asked(Some("w"), true, false));
        for bad in [json!({"force": true}), json!({"force": true, "owner": null})] {
            assert_eq!(read_cleanup(Some(&bad)).unwrap_err().code(), Code::MissingField, "{bad}");
        }
        for bad in [json!({"force": "yes"}), json!({"owner": ""}), json!({"kind": "task"}), json!([])] {
            assert!(read_cleanup(Some(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_goes_round_and_a_forged_one_is_refused() {
        let place = LockPlace { kind: LockKind::new("task").unwrap(), key: "7 / ж".to_owned() };
        assert_eq!(parse_cursor(&cursor(&place)), Some(place));
        for forged in
            ["", "!!!", "bHRhc2s", "dDc", &URL_SAFE_NO_PAD.encode("lTask\n7"), &URL_SAFE_NO_PAD.encode("ltask\n")]
        {
            assert_eq!(parse_cursor(forged), None, "{forged}");
        }
    }
}
