//! The engine's operations: claim, arm, finish, promote.
//!
//! Each is a compare-and-set: the engine's picture of the queue may be old, the row decides. An item that
//! is armed ends `succeeded` or `outcome_unknown`, whoever asks (fence.md rules 4, 7 and 8). Called by the
//! store's facade alone.

use std::convert::Infallible;
use std::time::Duration;

use redb::ReadableTable;

use super::super::ledger::Line;
use super::super::tables::{Bytes, Tx, get, get_named};
use super::super::writer::Ran;
use super::super::{
    ArmRefused, AttemptEnded, Claim, ClaimRefused, Claimed, FinishRefused, Finished, StoreError, Worker, locks,
};
use super::{hex, key_hash};
use crate::model::{
    Failure, FailureCode, Fence, HeldFor, Item, ItemId, ItemState, LockKind, LockOwner, Moment, Place, Profile, Proofs,
    Task, Timestamp, Verdict, VerifyPlan,
};

/// The longest that a task may ask for.
const MAX_SPACING: Duration = Duration::from_hours(24);
/// Of a published thing's address; escaped as JSON it is still far below the longest line of the ledger.
const MAX_URL_BYTES: usize = 4_096;

/// Takes the profile's lock for a waiting item and starts an attempt, or moves the item out of the way
/// when it cannot start any more (overdue, canceled) or not yet (spacing).
pub(in crate::store) fn claim(tx: &mut Tx<'_>, id: ItemId, taker: &Taker, moment: Moment) -> Ran<Claim, ClaimRefused> {
    let moment = tx.in_order(moment);
    let now = moment.wall;
    let Some(item) = tx.item(id)? else { return Ok(Err(ClaimRefused::NotWaiting)) };
    if item.place != Place::Ready || !taker.takes(&item) {
        return Ok(Err(ClaimRefused::NotWaiting));
    }
    if tx.meta.pause.is_some() {
        return Ok(Err(ClaimRefused::Paused));
    }
    let Some(profile) = tx.profile(item.profile.as_str())? else { return Ok(Err(ClaimRefused::ProfileUnknown)) };
    if profile.parked.is_some() || profile.rests_until.is_some_and(|until| until > now) {
        return Ok(Err(ClaimRefused::ProfileParked));
    }
    if locks::held(tx, &LockKind::PROFILE, item.profile.as_str(), moment)?.is_some() {
        return Ok(Err(ClaimRefused::ProfileBusy));
    }
    let task = tx.task(item.task)?.ok_or_else(|| StoreError::Corrupt(format!("tasks: no row of {}", item.task)))?;
    if tx.intent(item.task)?.cancel_requested_at.is_some() {
        super::settle::cancel_one(tx, &item, now)?;
        return Ok(Ok(Claim::Moved));
    }
    if item.not_after.is_some_and(|not_after| not_after < now) {
        end_overdue(tx, &item, now)?;
        return Ok(Ok(Claim::Moved));
    }
    if let Some(next) = spaced_until(&profile, task.spacing_seconds).filter(|next| *next > now) {
        put_off(tx, &item, next, now)?;
        return Ok(Ok(Claim::Moved));
    }
    let (owner, ttl, kind) = match taker {
        Taker::Engine => (LockOwner::Item(id), None, "started"),
        Taker::Worker(Worker { name, ttl, with_browser: true, .. }) => {
            (LockOwner::Session { owner: name.clone(), item: Some(id) }, Some(*ttl), "claimed")
        }
        Taker::Worker(Worker { name, ttl, .. }) => {
            (LockOwner::Claim { item: id, worker: name.clone() }, Some(*ttl), "claimed")
        }
    };
    let fence = locks::take_profile(tx, &item.profile, owner, ttl, moment)?;
    let detail = match taker {
        Taker::Engine => format!("attempt {}", item.attempts + 1),
        Taker::Worker(Worker { name, .. }) => format!("attempt {} by {name}", item.attempts + 1),
    };
    let started = Item {
        state: ItemState::Running,
        attempts: item.attempts + 1,
        fence: Some(fence),
        started_at: Some(now),
        finished_at: None,
        ..item.clone()
    };
    let started = tx.change_item(&item, started, kind, &detail, now)?;
    Ok(Ok(Claim::Started(Box::new(Claimed { item: started, task, fence }))))
}

/// Who starts an attempt.
pub(in crate::store) enum Taker {
    Engine,
    Worker(Worker),
}

impl Taker {
    fn takes(&self, item: &Item) -> bool {
        match (self, &item.external) {
            (Self::Engine, None) => true,
            (Self::Worker(worker), Some(kind)) => worker.kinds.contains(kind),
            _ => false,
        }
    }
}

fn spaced_until(profile: &Profile, spacing_seconds: u32) -> Option<Timestamp> {
    profile
        .last_armed_at
        .filter(|_| spacing_seconds > 0)
        .map(|last| last.plus(Duration::from_secs(u64::from(spacing_seconds))))
}

/// The compare-and-set before the click (fence.md rule 4). The ledger's line follows the commit.
pub(in crate::store) fn arm(
    tx: &mut Tx<'_>,
    id: ItemId,
    fence: Fence,
    proofs: &Proofs,
    moment: Moment,
) -> Ran<(), ArmRefused> {
    let moment = tx.in_order(moment);
    let now = moment.wall;
    let Some(item) = tx.item(id)? else { return Ok(Err(ArmRefused::Outdated)) };
    let running = item.state == ItemState::Running && item.fence == Some(fence);
    if !running || fence.epoch() != tx.meta.epoch || item.armed_fence == Some(fence) {
        return Ok(Err(ArmRefused::Outdated));
    }
    let held = locks::held(tx, &LockKind::PROFILE, item.profile.as_str(), moment)?;
    // A lease that is over allows nothing, even while it is nobody else's yet.
    if held.is_none_or(|lock| lock.fence != fence || lock.is_expired(moment)) {
        return Ok(Err(ArmRefused::LockLost));
    }
    if tx.intent(item.task)?.cancel_requested_at.is_some() {
        return Ok(Err(ArmRefused::Canceled));
    }
    write_armed(tx, &item, fence, Some(proofs.clone()), now).map(Ok)
}

/// What an arming leaves in the store and, behind the commit, in the ledger.
pub(super) fn write_armed(
    tx: &mut Tx<'_>,
    item: &Item,
    fence: Fence,
    proofs: Option<Proofs>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(mut profile) = tx.profile(item.profile.as_str())? {
        profile.last_armed_at = Some(now);
        tx.put_profile(&profile)?;
    }
    let armed = Item { armed_fence: Some(fence), armed_at: Some(now), proofs, ..item.clone() };
    let armed = tx.change_item(item, armed, "armed", "", now)?;
    let (key, idempotency) = ledger_hashes(tx, &armed)?;
    tx.ledger_after.push(Line::Armed { item: item.id, fence, key, idempotency, at: now });
    Ok(())
}

pub(super) fn ledger_hashes(tx: &Tx<'_>, item: &Item) -> Result<(Option<String>, Option<String>), StoreError> {
    let key = item.key.as_ref().map(|key| hex(&key_hash(key)));
    Ok((key, tx.task(item.task)?.and_then(|task| task.idempotency)))
}

/// An address comes from a page, which may make it as long as it likes; a line of the ledger may not be.
pub(super) fn bounded_url(url: &str) -> String {
    url[..url.floor_char_boundary(MAX_URL_BYTES.min(url.len()))].to_owned()
}

/// Writes how an attempt ended, and what that means for its profile. The lock stays until the browser
/// is verified dead.
pub(in crate::store) fn finish(tx: &mut Tx<'_>, end: &AttemptEnded, now: Timestamp) -> Ran<Finished, FinishRefused> {
    let AttemptEnded { item: id, fence, verdict, evidence, effect } = end;
    let (id, fence) = (*id, *fence);
    let Some(item) = tx.item(id)? else { return Ok(Err(FinishRefused::StaleFence)) };
    if item.state != ItemState::Running || item.fence != Some(fence) {
        return Ok(Err(FinishRefused::StaleFence));
    }
    if item.is_armed() && !matches!(verdict, Verdict::Succeeded { .. } | Verdict::OutcomeUnknown(_)) {
        return Ok(Err(FinishRefused::Armed));
    }
    let canceled = matches!(verdict, Verdict::TryAgain { .. }) && tx.intent(item.task)?.cancel_requested_at.is_some();
    let canceled = canceled.then(|| Verdict::Canceled(Failure::new(FailureCode::Canceled, "canceled on request")));
    let verdict = canceled.as_ref().unwrap_or(verdict);
    let mut ended = Item { state: verdict.state(), ..item.clone() };
    ended.evidence.extend_from_slice(evidence);
    let detail = match verdict {
        Verdict::Succeeded { url, result } => {
            // A rehearsal published nothing: the page that it ended on is not where anything is.
            let rehearsal = tx.task(item.task)?.is_some_and(|task| task.rehearsal);
            let url = url.as_deref().filter(|_| !rehearsal).map(bounded_url);
            ended.url.clone_from(&url);
            ended.result.clone_from(result);
            ended.failure = None;
            if !rehearsal {
                let (key, idempotency) = ledger_hashes(tx, &item)?;
                tx.ledger_before.push(Line::Published { item: id, fence, url: url.clone(), key, idempotency, at: now });
            }
            url.unwrap_or_default()
        }
        Verdict::TryAgain { failure, due_at, counted } => {
            ended.due_at = *due_at;
            // Nothing is waited for but a free place.
            if *due_at == Timestamp::ZERO {
                ended.state = ItemState::Queued;
            }
            if !counted {
                ended.attempts = ended.attempts.saturating_sub(1);
            }
            ended.failure = Some(failure.clone());
            failure.to_string()
        }
        Verdict::OutcomeUnknown(failure) => {
            ended.failure = Some(failure.clone());
            let verifiable = tx.task(item.task)?.is_some_and(|task| task.verifiable);
            ended.verify = verifiable.then(|| VerifyPlan::beginning(now));
            failure.to_string()
        }
        Verdict::Failed(failure) | Verdict::Canceled(failure) => {
            ended.failure = Some(failure.clone());
            failure.to_string()
        }
    };
    if ended.state.is_terminal() {
        ended.finished_at = Some(now);
    }
    let kind = ended.state.name();
    let ended = tx.change_item(&item, ended, kind, &detail, now)?;
    tx.free_key_of_ended(&ended)?;
    if let Some(effect) = effect {
        tx.affect_profile(&ended, effect, now)?;
    }
    Ok(Ok(Finished { task: ended.task, state: ended.state }))
}

/// Ends what waits and may not start any more: nobody has to ask for it first. Then moves items whose time
/// has come from `DUE` to `READY`, or holds them where the clock that says so is not to be believed (fence.md
/// rules 20 and 24); at most `limit` of each. True: there may be more.
pub(in crate::store) fn promote(tx: &mut Tx<'_>, now: Timestamp, limit: usize) -> Ran<bool, Infallible> {
    let mut overdue = Vec::new();
    for row in tx.not_after.range(..(now.as_millis(), 0))?.take(limit) {
        overdue.push(row?.0.value().1);
    }
    for id in &overdue {
        let id = ItemId::new(*id);
        let item = tx.item(id)?.ok_or_else(|| StoreError::Corrupt(format!("not_after: no item {id}")))?;
        if tx.intent(item.task)?.cancel_requested_at.is_some() {
            super::settle::cancel_one(tx, &item, now)?;
        } else {
            end_overdue(tx, &item, now)?;
        }
    }
    let mut due = Vec::new();
    for row in tx.due.range(..=(now.as_millis(), u64::MAX))?.take(limit) {
        due.push(row?.0.value().1);
    }
    for id in &due {
        let id = ItemId::new(*id);
        let item = tx.item(id)?.ok_or_else(|| StoreError::Corrupt(format!("due: no item {id}")))?;
        if tx.clock_is_suspect() {
            hold_for_clock(tx, &item, now)?;
        } else if item.state == ItemState::RetryWait {
            let queued = Item { state: ItemState::Queued, ..item.clone() };
            tx.change_item(&item, queued, "queued", "its back-off is over", now)?;
        } else {
            tx.move_item(&item, item.clone(), now)?;
        }
    }
    let spaced = space(tx, now, limit)?;
    Ok(Ok([overdue.len(), due.len(), spaced].contains(&limit)))
}

/// Not yet, for its spacing. The log tells of it once at most: of a long queue all but one are put off each time that one
/// was armed.
fn put_off(tx: &mut Tx<'_>, item: &Item, until: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    let first = item.due_at == item.not_before.unwrap_or(Timestamp::ZERO);
    tx.move_item(item, Item { due_at: until, ..item.clone() }, now)?;
    if first {
        tx.log(item.task, Some(item.id), "spaced", &format!("until {until}"), now)?;
    }
    Ok(())
}

/// Puts off what a worker would be refused for its spacing, so that it says until when without being asked
/// for; at most `limit`. How many.
fn space(tx: &mut Tx<'_>, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
    let mut moved = 0;
    while moved < limit {
        let most = limit - moved;
        let spaced = spaced_heads(&tx.ready_heads, &tx.items, &tx.tasks, &tx.profiles, now, most)?;
        if spaced.is_empty() {
            break;
        }
        for (item, until) in &spaced {
            put_off(tx, item, *until, now)?;
        }
        moved += spaced.len();
    }
    Ok(moved)
}

/// The best items for workers that their tasks' spacing keeps back, one a profile and kind, and until when.
pub(in crate::store) fn spaced_heads(
    heads: &impl ReadableTable<(&'static str, &'static str), (u64, u32, u64)>,
    items: &impl ReadableTable<u64, Bytes>,
    tasks: &impl ReadableTable<u64, Bytes>,
    profiles: &impl ReadableTable<&'static str, Bytes>,
    now: Timestamp,
    most: usize,
) -> Result<Vec<(Item, Timestamp)>, StoreError> {
    let mut spaced = Vec::new();
    // The lane of cove itself has no name and comes first: there every head is asked for.
    for row in heads.range(("\0", "")..)? {
        if spaced.len() == most {
            break;
        }
        let row = row?;
        let (_, name) = row.0.value();
        let Some(profile) = get_named::<Profile>("profiles", profiles, name)? else { continue };
        if profile.last_armed_at.is_none_or(|last| now.since(last) > MAX_SPACING) {
            continue;
        }
        let (.., id) = row.1.value();
        let item: Item = get("items", items, id)?
            .ok_or_else(|| StoreError::Corrupt(format!("ready_heads: no item {}", ItemId::new(id))))?;
        let task: Option<Task> = get("tasks", tasks, item.task.raw())?;
        let until = spaced_until(&profile, task.map_or(0, |task| task.spacing_seconds));
        spaced.extend(until.filter(|until| *until > now).map(|until| (item, until)));
    }
    Ok(spaced)
}

/// Its `not_after` has passed: it fails, or is held where the clock that says so is not to be believed.
fn end_overdue(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<(), StoreError> {
    if tx.clock_is_suspect() {
        return hold_for_clock(tx, item, now);
    }
    let failure = Failure::new(FailureCode::Overdue, "its not_after passed before it could start");
    let overdue = Item { state: ItemState::Failed, failure: Some(failure), finished_at: Some(now), ..item.clone() };
    let overdue = tx.change_item(item, overdue, "failed", "overdue", now)?;
    tx.free_key_of_ended(&overdue)
}

/// By this clock the item's time has come, or is over; and this clock is not believed.
fn hold_for_clock(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<(), StoreError> {
    let held = Item { state: ItemState::Held, held_for: Some(HeldFor::Clock), ..item.clone() };
    tx.change_item(item, held, "held", "it came due by a clock that jumped", now).map(drop)
}
