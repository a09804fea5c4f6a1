//! Lent sessions: a started profile for a program's own Playwright or Puppeteer.
//!
//! Handlers of `/sessions`. Who has what stands in the store (the profile's lock and its lease), the engine
//! starts and stops, and `cdp` lets the program in. Invariants: a session's address is in the answer that
//! made it and nowhere else; a session that is not named exactly is not found; nothing here waits for a
//! browser. A worker's session lives as long as its claim, and is refreshed with it.

pub mod cdp;
mod lenders;

pub use lenders::Lenders;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::body::{self, Reply, empty};
use super::error::{ApiError, Code, FieldError};
use super::form::{Walk, optional};
use super::front::Call;
use super::locks::{default_ttl, lock_json, not_yours, read_name};
use super::profiles::{Directory, no_body};
use super::query::Query;
use crate::engine::pressure::Scarce;
use crate::engine::{Borrower, LendAsked, LendRefused, SessionState};
use crate::model::lock::MAX_LOCK_TTL;
use crate::model::{Fence, Lock, LockKind, LockOwner, ProfileId};
use crate::store::SessionName;

pub const TTL_SECONDS: std::ops::RangeInclusive<i64> = 5..=MAX_LOCK_TTL.as_secs().cast_signed();
/// The owner of a session whose program does not say who it is.
const UNNAMED: &str = "unnamed";
const FULL_RETRY_AFTER_SECONDS: &str = "5";

/// `s<fence>`
fn session_id(fence: Fence) -> String {
    format!("s{}", fence.raw())
}

fn parse_session_id(text: &str) -> Option<Fence> {
    let number = text.strip_prefix('s').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    let fence = Fence::new(number.parse().ok()?);
    (session_id(fence) == text).then_some(fence)
}

/// How a caller reached cove, and so reaches what it is told of.
pub struct Reached {
    pub host: String,
    pub secure: bool,
}

impl Reached {
    pub fn by(call: &Call) -> Self {
        Self { host: call.host(), secure: call.secure }
    }
}

/// The id of a session, and where its browser is reached by whoever reached cove so.
pub fn address(fence: Fence, reached: &Reached, token: &str) -> (String, String) {
    let id = session_id(fence);
    let (scheme, host) = (if reached.secure { "wss" } else { "ws" }, &reached.host);
    let endpoint = format!("{scheme}://{host}/api/v1/sessions/{id}/cdp/{token}");
    (id, endpoint)
}

pub struct Asked {
    profile: String,
    owner: String,
    ttl: Duration,
    headless: bool,
}

pub fn read_asked(body: &Value, ttl: Duration, headless: bool) -> Result<Asked, ApiError> {
    let mut walk = Walk::default();
    let mut asked = Asked { profile: String::new(), owner: UNNAMED.to_owned(), ttl, headless };
    if let Some(fields) = walk.object(body, "", &["profile", "ttl_seconds", "owner", "headless"]) {
        let profile = walk.required(fields, "", "profile").and_then(|value| walk.string(value, "/profile"));
        profile.unwrap_or_default().clone_into(&mut asked.profile);
        if optional(fields, "owner").is_some() {
            asked.owner = read_name(&mut walk, fields, "owner").unwrap_or_default();
        }
        asked.ttl = walk.seconds(fields, "", "ttl_seconds", &TTL_SECONDS).unwrap_or(ttl);
        asked.headless = walk.boolean(fields, "", "headless").unwrap_or(headless);
    }
    walk.finish().map(|()| asked)
}

pub async fn create(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (reached, caller) = (Reached::by(&call), call.caller);
    let body = call.json(&context).await?.ok_or_else(no_body)?;
    let asked = read_asked(&body, default_ttl(&context), context.config.browser.headless)?;
    let directory = Directory::load(&context).await?;
    let unfit =
        |unfit: super::profiles::Unfit| ApiError::field(FieldError::new(unfit.code(), "/profile", unfit.to_string()));
    let profile = directory.find(&asked.profile).map_err(unfit)?.id.clone();
    let wanted = LendAsked {
        profile: profile.clone(),
        to: Borrower::Program(asked.owner),
        ttl: asked.ttl,
        headless: asked.headless,
    };
    let acting = context.keyring.act(&caller, context.clock.now()).await?;
    let lent = match context.engine.lend(wanted).await {
        Ok(lent) => lent,
        Err(refused) => return Err(why_refused(&context, &profile, refused).await),
    };
    let fence = lent.lent.fence;
    context.lenders.note(fence, caller.hash, |fence| context.engine.door(fence).is_some());
    drop(acting);
    let lock = context.store.lock(LockKind::PROFILE, profile.to_string()).await?;
    // It may have failed and be over by now; its address tells why.
    let mut json = match lock.filter(|lock| lock.fence == fence) {
        Some(lock) => session_json(&context, &lock, SessionState::Starting),
        None => json!({"session_id": session_id(fence), "profile": profile, "state": SessionState::Stopping.name()}),
    };
    json["ws_endpoint"] = json!(address(fence, &reached, lent.door.token()).1);
    Ok(body::json(StatusCode::CREATED, &json))
}

/// Why nothing was lent, as the API says it.
pub async fn why_refused(context: &Context, profile: &ProfileId, refused: LendRefused) -> ApiError {
    match refused {
        LendRefused::Busy | LendRefused::Moved | LendRefused::NotTaken => busy(context, profile).await,
        LendRefused::Draining => ApiError::new(Code::Draining, "The daemon stops; ask again when it runs."),
        LendRefused::NoDisk => match context.needs_disk() {
            Err(error) => error,
            Ok(()) => ApiError::new(Code::NoDisk, "The disk is short of space."),
        },
        LendRefused::Full => {
            let most = context.config.engine.sessions;
            let detail = format!("{most} sessions are lent, which is the most ([engine] sessions): end one.");
            let soon = HeaderValue::from_static(FULL_RETRY_AFTER_SECONDS);
            ApiError::new(Code::SessionsFull, detail).with_header(header::RETRY_AFTER, soon)
        }
        LendRefused::Short(of) => {
            let shortage = context.engine.view().strain.shortage.clone();
            // It may be over by now: then asking again is all there is to say.
            let why = shortage.map_or_else(|| "the machine had no room for it".to_owned(), |shortage| shortage.why);
            let code = match of {
                Scarce::Memory => Code::NoMemory,
                Scarce::Cpu => Code::NoCpu,
            };
            let soon = HeaderValue::from_static(FULL_RETRY_AFTER_SECONDS);
            ApiError::new(code, format!("No browser is started now: {why}.")).with_header(header::RETRY_AFTER, soon)
        }
        LendRefused::ProviderDown => {
            let down = context.engine.view().provider_down.clone();
            let why =
                down.unwrap_or_else(|| "what starts them failed too often and is left alone for a while".to_owned());
            ApiError::new(Code::ProviderDown, format!("No browser can be started now: {why}."))
        }
        LendRefused::Restored => {
            let detail = "Whoever had a profile before may still act in it; sessions are lent after `cove resume`.";
            ApiError::new(Code::Restored, detail)
        }
        LendRefused::UnknownProfile => {
            ApiError::field(FieldError::new(Code::UnknownProfile, "/profile", "There is no profile with this id."))
        }
        LendRefused::NotReady => ApiError::internal(Code::NotReady, "the engine did not lend in time"),
    }
}

async fn busy(context: &Context, profile: &ProfileId) -> ApiError {
    let lock = match context.store.lock(LockKind::PROFILE, profile.to_string()).await {
        Ok(lock) => lock,
        Err(error) => return error.into(),
    };
    match lock {
        Some(lock) => {
            let until = lock.free_at(context.clock.moment());
            ApiError::new(Code::ProfileBusy, format!("{} has the profile.", lock.owner))
                .with_member("held_by", lock.owner.to_string())
                .with_member("expires_at", json!(until))
        }
        None => ApiError::new(Code::ProfileBusy, "A person uses the profile, or it is being closed; try again soon."),
    }
}

/// `now`: what the engine says of it, where it has said something.
fn session_json(context: &Context, lock: &Lock, state: SessionState) -> Value {
    let (owner, item) = match &lock.owner {
        LockOwner::Session { owner, item } => (owner.as_str(), *item),
        _ => ("", None),
    };
    json!({
        "session_id": session_id(lock.fence),
        "profile": lock.key,
        "owner": owner,
        "state": state.name(),
        "claim_id": item.map(|item| super::claims::claim_id(item, lock.fence)),
        "connections": context.engine.door(lock.fence).map_or(0, |door| door.visitors()),
        "created_at": lock.acquired_at,
        "expires_at": lock.expires_at(),
        "lock": lock_json(lock, context.clock.moment()),
    })
}

fn shown(context: &Context, lock: &Lock) -> Value {
    // Not in the engine's view yet: it was lent in this moment.
    let state = context.engine.view().sessions.get(&lock.fence).map_or(SessionState::Starting, |view| view.state);
    session_json(context, lock, state)
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    let sessions: Vec<Value> = context.store.sessions().await?.iter().map(|lock| shown(&context, lock)).collect();
    Ok(body::json(StatusCode::OK, &json!({"sessions": sessions, "next_cursor": null})))
}

/// The session that the path names.
fn named(call: &Call) -> Result<Fence, ApiError> {
    parse_session_id(call.params.get("id")).ok_or_else(|| none(None))
}

async fn lock_of(context: &Context, fence: Fence) -> Result<Option<Lock>, ApiError> {
    Ok(context.store.sessions().await?.into_iter().find(|lock| lock.fence == fence))
}

/// There is no such session; of one that was until lately, why.
fn none(ended: Option<String>) -> ApiError {
    match ended {
        Some(why) => ApiError::not_found(&format!("The session ended: {why}.")),
        None => ApiError::not_found("There is no session with this id."),
    }
}

fn gone(context: &Context, fence: Fence) -> ApiError {
    none(context.engine.door(fence).and_then(|door| door.why_shut()))
}

pub async fn show(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let fence = named(&call)?;
    let lock = lock_of(&context, fence).await?.ok_or_else(|| gone(&context, fence))?;
    Ok(body::json(StatusCode::OK, &shown(&context, &lock)))
}

pub async fn refresh(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let fence = named(&call)?;
    let body = call.json(&context).await?.unwrap_or_else(|| json!({}));
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["ttl_seconds"]);
    let ttl = fields.and_then(|fields| walk.seconds(fields, "", "ttl_seconds", &TTL_SECONDS));
    walk.finish()?;
    let lock = lock_of(&context, fence).await?.ok_or_else(|| gone(&context, fence))?;
    if lock.owner.claim().is_some() {
        return Err(ApiError::new(Code::NotHeld, "The session lives as long as its claim: refresh the claim."));
    }
    let ends = |view: &crate::engine::SessionView| view.state == SessionState::Stopping;
    if context.engine.view().sessions.get(&fence).is_some_and(ends) {
        return Err(ApiError::new(Code::NotHeld, "The session is ending: its browser is being stopped."));
    }
    let profile = ProfileId::new(&lock.key).map_err(|error| ApiError::internal(Code::Internal, error))?;
    let name = SessionName { profile, fence };
    context.store.refresh_session(name, ttl, context.clock.moment()).await.map_err(not_yours)?;
    // The engine wakes for the end of the new lease.
    context.engine.ring();
    let lock = lock_of(&context, fence).await?.ok_or_else(|| gone(&context, fence))?;
    Ok(body::json(StatusCode::OK, &shown(&context, &lock)))
}

/// Intent alone: the profile is free when its browser is verified dead. Asking twice is asking once. The engine
/// cuts no browser whose worker may click (fence.md rule 8); where that is known, it is said.
pub async fn delete(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let fence = named(&call)?;
    let lock = lock_of(&context, fence).await?;
    if lock.is_none() && context.engine.door(fence).is_none() {
        return Err(none(None));
    }
    if let Some((id, _)) = lock.as_ref().and_then(|lock| lock.owner.claim()) {
        let item = context.store.item(id).await?.filter(|item| item.armed_fence == Some(fence) && item.is_armed());
        if item.is_some() {
            let detail = "Its item is armed, and a browser is not cut after that: it is stopped when the claim ends.";
            return Err(ApiError::new(Code::AlreadyArmed, detail));
        }
    }
    context.engine.stop(fence).await;
    Ok(empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_strictly() {
        let ttl = Duration::from_secs(3_600);
        let asked = read_asked(&json!({"profile": "anna"}), ttl, true).unwrap();
        assert_eq!(
            (asked.profile.as_str(), asked.owner.as_str(), asked.ttl, asked.headless),
            ("anna", UNNAMED, ttl, true)
        );
        let body = json!({"profile": "anna", "owner": "w 1", "ttl_seconds": 5, "headless": false});
        let asked = read_asked(&body, ttl, true).unwrap();
        assert_eq!((asked.owner.as_str(), asked.ttl.as_secs(), asked.headless), ("w 1", 5, false));
        for (wrong, at) in [
            (json!({}), "/profile"),
            (json!({"profile": 7}), "/profile"),
            (json!({"profile": "a", "owner": ""}), "/owner"),
            (json!({"profile": "a", "owner": "a\u{1}"}), "/owner"),
            (json!({"profile": "a", "ttl_seconds": 4}), "/ttl_seconds"),
            (json!({"profile": "a", "ttl_seconds": 604_801}), "/ttl_seconds"),
            (json!({"profile": "a", "headless": "no"}), "/headless"),
            (json!({"profile": "a", "ttl": 60}), "/ttl"),
        ] {
            let error = read_asked(&wrong, ttl, true).err().unwrap_or_else(|| panic!("{wrong}"));
            assert_eq!(error.code().status(), 422, "{wrong}");
            assert!(format!("{error:?}").contains(&format!("{at:?}")), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn an_id_names_exactly_one_fence() {
        let reached = |secure| Reached { host: "127.0.0.1:8088".to_owned(), secure };
        let (id, endpoint) = address(Fence::new(12), &reached(false), "secret");
        assert_eq!((id.as_str(), parse_session_id(&id)), ("s12", Some(Fence::new(12))));
        assert_eq!(endpoint, "ws://127.0.0.1:8088/api/v1/sessions/s12/cdp/secret");
        assert!(address(Fence::new(12), &reached(true), "secret").1.starts_with("wss://127.0.0.1:8088/api/"));
        for wrong in ["", "s", "12", "s012", "s-1", "s+1", "s1.2", "S1", "s99999999999999999999"] {
            assert_eq!(parse_session_id(wrong), None, "{wrong}");
        }
    }
}
