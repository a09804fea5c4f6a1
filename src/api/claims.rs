//! Claims: outside workers take the items of flows that are theirs (`cove.external`), and say how they ended.
//!
//! A worker claims, arms right before its click, and completes; a long poll waits for work. The store
//! decides by the fence (fence.md rule 23), the engine which browser may still be stopped; nothing is kept
//! here. Invariants: a worker is told the real inputs of its own item, secrets included, and nobody else is; what
//! it says of an item that is not its any more changes nothing; arming looks at the files once more.

mod form;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code, FieldError};
use super::form::Walk;
use super::front::Call;
use super::keyring::Caller;
use super::places::Full;
use super::profiles::no_body;
use super::tasks::Viewer;
use super::{sessions, wire};
use crate::engine::{
    Borrower, Door, LendAsked, LendRefused, Lent, LentBrowser, Limits, after_failure, effect, effect_after_commit,
};
use crate::model::{FailureCode, Fence, FileInput, Item, ItemState, LockKind, Proofs, Scope, Verdict};
use crate::store::media::{self, MediaStore};
use crate::store::{AttemptEnded, Claim, ClaimName, Claimed, FinishRefused, Head, NotYours, Worker};
use form::{Asked, TTL_SECONDS, parse_claim_id};
pub use form::{claim_id, read_claim, read_failure, read_fence, read_hashes, read_result};

/// How often a claim looks for the next item where it had to move those before it out of the way.
const MAX_LOOKS: usize = 100;
/// What an attempt needs between the answer to `arm` and its click.
const CLICK_MARGIN: Duration = Duration::from_secs(1);
const UNARMED: &str = "It was completed without having been armed: cove took your word, and could not keep you from a click that it would have refused. Call `arm` right before the click, and do not click where it is refused.";
/// How long nothing is asked of the engine after it refused to lend: its answer is a change that wakes whoever
/// waits for one.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
const FULL_RETRY_AFTER_SECONDS: &str = "10";

/// Waits for an item of these kinds, at most as long as the worker does.
pub async fn claim(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (reached, caller) = (sessions::Reached::by(&call), call.caller);
    let asked = read_claim(&call.json(&context).await?.ok_or_else(no_body)?)?;
    if asked.session {
        caller.needs(Scope::Sessions)?;
    }
    let until = Instant::now() + asked.wait;
    let mut place = None;
    let (mut changes, mut revocations) = (context.engine.changes(), context.keyring.revocations());
    loop {
        if context.engine.view().draining {
            return Err(ApiError::new(Code::Draining, "The daemon stops; claim again when it runs."));
        }
        let mut why_not = None;
        match look(&context, &caller, &asked).await? {
            Looked::Claimed(claimed, door) => {
                context.engine.ring();
                let mut json = claimed_json(&context, &claimed).await?;
                if let Some(door) = door {
                    let (session_id, endpoint) = sessions::address(claimed.fence, &reached, door.token());
                    json["session"] = json!({"session_id": session_id, "ws_endpoint": endpoint});
                }
                return Ok(body::json(StatusCode::OK, &json));
            }
            Looked::NoBrowser(why) => why_not = Some(why),
            Looked::Refused(why) => {
                why_not = why;
                sleep_until(until.min(Instant::now() + REFUSED_PAUSE)).await;
            }
            Looked::Moved | Looked::Nothing => {}
        }
        // Every change of the queue turns the engine, which shows itself anew. What was asked of the engine is such a
        // change itself: at the end of the wait it is no reason to look again.
        let over = Instant::now() >= until;
        if !over && place.is_none() {
            place = Some(context.places.take(caller.token).map_err(no_place)?);
        }
        let woken = async {
            tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                revoked = revocations.changed() => revoked.is_ok(),
            }
        };
        match timeout_at(until, woken).await {
            Ok(true) if !over => {}
            _ => return why_not.map_or_else(|| Ok(body::empty(StatusCode::NO_CONTENT)), Err),
        }
    }
}

fn no_place(full: Full) -> ApiError {
    let soon = HeaderValue::from_static(FULL_RETRY_AFTER_SECONDS);
    ApiError::new(Code::TooManyWaiting, full.told()).with_header(header::RETRY_AFTER, soon)
}

/// What a look at the queue brought.
enum Looked {
    Claimed(Box<Claimed>, Option<Arc<Door>>),
    /// There is work, and by the engine's view no browser left to lend.
    NoBrowser(ApiError),
    /// The engine was asked and lent none; why, where that is the same for every profile.
    Refused(Option<ApiError>),
    /// It was canceled, or its time is over or not yet come: another of its profile may be next.
    Moved,
    Nothing,
}

/// One look at the queue, for a token that can be used: it is not revoked while something is claimed for it.
async fn look(context: &Context, caller: &Caller, asked: &Asked) -> Result<Looked, ApiError> {
    let _acting = context.keyring.act(caller, context.clock.now()).await?;
    if !context.engine.view().ready {
        return Ok(Looked::Nothing);
    }
    let looked = try_claim(context, asked).await?;
    if let Looked::Claimed(claimed, Some(_)) = &looked {
        context.lenders.note(claimed.fence, caller.hash, |fence| context.engine.door(fence).is_some());
    }
    Ok(looked)
}

async fn try_claim(context: &Context, asked: &Asked) -> Result<Looked, ApiError> {
    let mut refused = false;
    for _ in 0..MAX_LOOKS {
        let mut moved = false;
        for head in context.store.claimable(asked.kinds.clone(), context.clock.moment()).await? {
            match if asked.session { borrow(context, asked, head).await? } else { take(context, asked, head).await? } {
                Looked::Moved => moved = true,
                Looked::Refused(None) => refused = true,
                Looked::Nothing => {}
                looked => return Ok(looked),
            }
        }
        if !moved {
            break;
        }
    }
    Ok(if refused { Looked::Refused(None) } else { Looked::Nothing })
}

async fn take(context: &Context, asked: &Asked, head: Head) -> Result<Looked, ApiError> {
    let worker = Worker { name: asked.owner.clone(), kinds: asked.kinds.clone(), ttl: asked.ttl, with_browser: false };
    Ok(match context.store.claim_for_worker(head.item, worker, context.clock.moment()).await? {
        Ok(Claim::Started(claimed)) => Looked::Claimed(claimed, None),
        Ok(Claim::Moved) => Looked::Moved,
        // Another worker was quicker.
        Err(_) => Looked::Nothing,
    })
}

/// Takes it with a browser of cove's.
async fn borrow(context: &Context, asked: &Asked, head: Head) -> Result<Looked, ApiError> {
    let view = context.engine.view();
    if view.sessions.len() >= usize::try_from(context.config.engine.sessions).unwrap_or(usize::MAX) {
        return Ok(Looked::NoBrowser(sessions::why_refused(context, &head.profile, LendRefused::Full).await));
    }
    if view.in_use.get(&head.profile).is_some_and(|until| *until > context.clock.now()) {
        return Ok(Looked::Nothing);
    }
    let to = Borrower::Worker { item: head.item, name: asked.owner.clone(), kinds: asked.kinds.clone() };
    let headless = context.config.browser.headless;
    let wanted = LendAsked { profile: head.profile.clone(), to, ttl: asked.ttl, headless };
    match context.engine.lend(wanted).await {
        Ok(LentBrowser { lent: Lent { claimed: Some(claimed), .. }, door }) => Ok(Looked::Claimed(claimed, Some(door))),
        Err(LendRefused::Moved) => Ok(Looked::Moved),
        Ok(_) | Err(LendRefused::NotTaken | LendRefused::Busy | LendRefused::UnknownProfile) => {
            Ok(Looked::Refused(None))
        }
        Err(refused @ (LendRefused::Full | LendRefused::ProviderDown | LendRefused::Short(_))) => {
            Ok(Looked::Refused(Some(sessions::why_refused(context, &head.profile, refused).await)))
        }
        Err(refused) => Err(sessions::why_refused(context, &head.profile, refused).await),
    }
}

async fn claimed_json(context: &Context, claimed: &Claimed) -> Result<Value, ApiError> {
    let item = &claimed.item;
    // A worker has to put secrets into the page, so it is told them.
    let mut shown = wire::item(item, None, None, |_| false);
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
    let one = |(name, file): (&String, &FileInput)| {
        (name.clone(), json!({"path": file.path, "sha256": file.sha256, "bytes": file.bytes}))
    };
    Value::Object(files.map(one).collect())
}

/// The claim that the path names; its fence stands in the body once more.
fn same_fence(name: ClaimName, fence: Option<Fence>) -> Result<(), ApiError> {
    if fence.is_some_and(|fence| fence != name.fence) { Err(stale()) } else { Ok(()) }
}

fn stale() -> ApiError {
    ApiError::new(Code::StaleFence, "The item is not yours under this fence any more: stop what you do with it.")
}

fn canceled() -> ApiError {
    ApiError::new(Code::Canceled, "A cancel was requested: do not click, and call `fail`.")
}

fn over(refused: NotYours) -> ApiError {
    match refused {
        NotYours::StaleFence => stale(),
        NotYours::Canceled => canceled(),
        NotYours::NotHeld => {
            let detail = "The lease of this claim is over: stop what you do with the item. Where it was armed and went out, `complete` still counts.";
            ApiError::new(Code::NotHeld, detail)
        }
        NotYours::Store(error) => error.into(),
    }
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
    let ttl = walk.seconds(&fields, "", "ttl_seconds", &TTL_SECONDS);
    walk.finish()?;
    same_fence(name, fence)?;
    let refreshed = context.store.refresh_claim(name, ttl, context.clock.moment()).await?;
    let expires_at = refreshed.map_err(over)?;
    Ok(body::json(StatusCode::OK, &json!({"expires_at": expires_at})))
}

/// Right before the click: what is about to go out is what was accepted, and it is still this worker's.
pub async fn arm(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (name, body) = body_of(&context, call).await?;
    let mut walk = Walk::default();
    let fields = walk.object(&body, "", &["fence", "media_sha256"]).cloned().unwrap_or_default();
    let (fence, hashes) = (read_fence(&mut walk, &fields), read_hashes(&mut walk, &fields));
    walk.finish()?;
    same_fence(name, fence)?;
    context.store.claim_left(name, context.clock.moment()).await?.map_err(over)?;
    let item = context.store.item(name.item).await?.ok_or_else(stale)?;
    not_armed_yet(&item, name)?;
    check_media(&context.media, &item, hashes).await?;
    // A file that was hashed again took its time.
    let left = context.store.claim_left(name, context.clock.moment()).await?.map_err(over)?;
    if left <= CLICK_MARGIN {
        let detail = "Less than a second of the lease is left: refresh it, then arm.";
        return Err(ApiError::new(Code::NotHeld, detail));
    }
    if let Err(failure) = context.engine.arm_claim(name, Proofs::unproven()).await {
        return Err(match failure.code {
            FailureCode::Canceled => canceled(),
            FailureCode::BrowserLost => {
                ApiError::new(Code::SessionEnded, "The browser of this claim is being stopped: do not click in it.")
            }
            FailureCode::DaemonStopped => ApiError::new(Code::Draining, "The daemon stops: do not click."),
            _ => {
                // The same asked twice at once is answered once.
                let item = context.store.item(name.item).await?.ok_or_else(stale)?;
                not_armed_yet(&item, name).err().unwrap_or_else(stale)
            }
        });
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

/// A file that was only touched, or put back, is the same by its hash (fence.md rule 3).
async fn check_media(media: &MediaStore, item: &Item, given: Option<Vec<String>>) -> Result<(), ApiError> {
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
        let unchanged = media::unchanged(file).await.unwrap_or(false);
        if !unchanged && !has_its_bytes(media, file).await? {
            let detail = format!("{} is not the file any more that was accepted.", file.path.display());
            return Err(ApiError::new(Code::MediaMismatch, detail));
        }
    }
    Ok(())
}

async fn has_its_bytes(media: &MediaStore, file: &FileInput) -> Result<bool, ApiError> {
    let Some(name) = file.path.to_str() else { return Ok(false) };
    let Ok(found) = media.resolve(name).await else { return Ok(false) };
    Ok(found.sha256 == file.sha256)
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
        // Also where it was said before, and its answer was lost.
        let unknown = item.state == ItemState::OutcomeUnknown && item.armed_fence == Some(name.fence);
        if item.is_armed() || unknown {
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
                // It also stops the browser that came with it; the profile is free behind that.
                context.engine.ring();
                let mut json = Viewer::new(context).await?.item(&ended.item).await?;
                if ended.unasked {
                    tracing::warn!(item = %name.item, fence = %name.fence, "a worker completed it without having armed it");
                    json["warnings"] = json!([{"code": "completed_unarmed", "detail": UNARMED}]);
                }
                return Ok(body::json(StatusCode::OK, &json));
            }
            Err(FinishRefused::Armed) if tries == 0 => tries += 1,
            Err(_) => return Err(stale()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InputValue;

    #[tokio::test]
    async fn rule_23_arming_names_exactly_the_items_media() {
        let folder = tempfile::tempdir().unwrap();
        let media = MediaStore::new(folder.path(), Vec::new(), 1_000).unwrap();
        let mut item = wire::tests::waiting_item();
        let sha = "0".repeat(64);
        for wrong in [vec![], vec!["1".repeat(64)], vec![sha.clone(), sha.clone()]] {
            assert_eq!(check_media(&media, &item, Some(wrong)).await.unwrap_err().code(), Code::MediaMismatch);
        }
        assert_eq!(check_media(&media, &item, None).await.unwrap_err().code(), Code::MissingField);
        // The right hash of a file that is gone is no ground for a click.
        assert_eq!(check_media(&media, &item, Some(vec![sha])).await.unwrap_err().code(), Code::MediaMismatch);
        item.inputs.remove("video");
        for none in [None, Some(Vec::new())] {
            assert!(check_media(&media, &item, none).await.is_ok());
        }
    }

    #[tokio::test]
    async fn rule_3_a_file_that_was_only_touched_is_armed_and_one_with_other_bytes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let media = MediaStore::new(folder.path(), vec![root.clone()], 1_000).unwrap();
        let path = root.join("film.mp4");
        std::fs::write(&path, "a film").unwrap();
        let file = media.resolve(path.to_str().unwrap()).await.unwrap();
        let (sha, accepted) = (file.sha256.clone(), std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        let mut item = wire::tests::waiting_item();
        item.inputs.insert("video".to_owned(), InputValue::File(file.clone()));
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(accepted).unwrap();
        assert!(!media::unchanged(&file).await.unwrap());
        assert!(check_media(&media, &item, Some(vec![sha.clone()])).await.is_ok());
        std::fs::write(&path, "b film").unwrap();
        let refused = check_media(&media, &item, Some(vec![sha])).await.unwrap_err();
        assert_eq!(refused.code(), Code::MediaMismatch);
    }
}
