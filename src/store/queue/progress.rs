//! The engine's operations: claim, arm, finish, promote, cancel.
//!
//! Each is a compare-and-set: the engine's picture of the queue may be old, the row decides. An item that
//! is armed ends `succeeded` or `outcome_unknown`, whoever asks (fence.md rules 4, 7 and 8). Called by the
//! store's facade alone.

use std::convert::Infallible;

use redb::ReadableTable;

use super::super::ledger::Line;
use super::super::tables::{self, Tx};
use super::super::writer::Ran;
use super::super::{
    ArmRefused, Canceled, Claim, ClaimRefused, Claimed, FinishRefused, Finished, StoreError, codec, locks,
};
use super::{hex, key_hash};
use crate::model::{
    EvidenceFile, Failure, FailureCode, Fence, Item, ItemId, ItemState, LockKind, LockOwner, Moment, TaskId, Timestamp,
    Verdict,
};

/// Of a published thing's address; escaped as JSON it is still far below the longest line of the ledger.
const MAX_URL_BYTES: usize = 4_096;

/// Takes the profile's lock for a waiting item and starts an attempt, or moves the item out of the way
/// when it cannot start any more (overdue, canceled) or not yet (spacing).
pub(in crate::store) fn claim(tx: &mut Tx<'_>, id: ItemId, moment: Moment) -> Ran<Claim, ClaimRefused> {
    let moment = tx.in_order(moment);
    let now = moment.wall;
    let Some(item) = tx.item(id)? else { return Ok(Err(ClaimRefused::NotWaiting)) };
    if !item.state.is_waiting() || !item.ready {
        return Ok(Err(ClaimRefused::NotWaiting));
    }
    if tx.meta.pause.is_some() {
        return Ok(Err(ClaimRefused::Paused));
    }
    let Some(profile) = tx.profile(item.profile.as_str())? else { return Ok(Err(ClaimRefused::ProfileUnknown)) };
    if profile.parked.is_some() {
        return Ok(Err(ClaimRefused::ProfileParked));
    }
    if locks::held(tx, &LockKind::PROFILE, item.profile.as_str(), moment)?.is_some() {
        return Ok(Err(ClaimRefused::ProfileBusy));
    }
    let task = tx.task(item.task)?.ok_or_else(|| StoreError::Corrupt(format!("tasks: no row of {}", item.task)))?;
    if tx.intent(item.task)?.cancel_requested_at.is_some() {
        cancel_one(tx, &item, now)?;
        return Ok(Ok(Claim::Moved));
    }
    if item.not_after.is_some_and(|not_after| not_after < now) {
        let failure = Failure::new(FailureCode::Overdue, "its not_after passed before it could start");
        let overdue = Item { state: ItemState::Failed, failure: Some(failure), finished_at: Some(now), ..item.clone() };
        let overdue = tx.change_item(&item, overdue, "failed", "overdue", now)?;
        if overdue.armed_fence.is_none() {
            tx.free_key(&overdue)?;
        }
        return Ok(Ok(Claim::Moved));
    }
    if let Some(next) = spaced_until(&profile, task.spacing_seconds).filter(|next| *next > now) {
        tx.change_item(&item, Item { due_at: next, ..item.clone() }, "spaced", &format!("until {next}"), now)?;
        return Ok(Ok(Claim::Moved));
    }
    let fence = locks::take_profile(tx, &item.profile, LockOwner::Item(id), moment)?;
    let started = Item {
        state: ItemState::Running,
        attempts: item.attempts + 1,
        fence: Some(fence),
        started_at: Some(now),
        finished_at: None,
        ..item.clone()
    };
    let started = tx.change_item(&item, started, "started", &format!("attempt {}", item.attempts + 1), now)?;
    Ok(Ok(Claim::Started(Box::new(Claimed { item: started, task, fence }))))
}

fn spaced_until(profile: &crate::model::Profile, spacing_seconds: u32) -> Option<Timestamp> {
    profile
        .last_armed_at
        .filter(|_| spacing_seconds > 0)
        .map(|last| last.plus(std::time::Duration::from_secs(u64::from(spacing_seconds))))
}

/// The compare-and-set before the click (fence.md rule 4). The ledger's line follows the commit.
pub(in crate::store) fn arm(tx: &mut Tx<'_>, id: ItemId, fence: Fence, moment: Moment) -> Ran<(), ArmRefused> {
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
    if let Some(mut profile) = tx.profile(item.profile.as_str())? {
        profile.last_armed_at = Some(now);
        tx.put_profile(&profile)?;
    }
    let armed = Item { armed_fence: Some(fence), armed_at: Some(now), ..item.clone() };
    let armed = tx.change_item(&item, armed, "armed", "", now)?;
    let (key, idempotency) = ledger_hashes(tx, &armed)?;
    tx.ledger_after.push(Line::Armed { item: id, fence, key, idempotency, at: now });
    Ok(Ok(()))
}

fn ledger_hashes(tx: &Tx<'_>, item: &Item) -> Result<(Option<String>, Option<String>), StoreError> {
    let key = item.key.as_ref().map(|key| hex(&key_hash(key)));
    Ok((key, tx.task(item.task)?.and_then(|task| task.idempotency)))
}

/// An address comes from a page, which may make it as long as it likes; a line of the ledger may not be.
fn bounded_url(url: &str) -> String {
    url[..url.floor_char_boundary(MAX_URL_BYTES.min(url.len()))].to_owned()
}

/// Writes how an attempt ended. The lock stays until the browser is verified dead.
pub(in crate::store) fn finish(
    tx: &mut Tx<'_>,
    id: ItemId,
    fence: Fence,
    verdict: &Verdict,
    evidence: &[EvidenceFile],
    now: Timestamp,
) -> Ran<Finished, FinishRefused> {
    let Some(item) = tx.item(id)? else { return Ok(Err(FinishRefused::StaleFence)) };
    if item.state != ItemState::Running || item.fence != Some(fence) {
        return Ok(Err(FinishRefused::StaleFence));
    }
    if item.is_armed() && !matches!(verdict, Verdict::Succeeded { .. } | Verdict::OutcomeUnknown(_)) {
        return Ok(Err(FinishRefused::Armed));
    }
    let mut ended = Item { state: verdict.state(), ..item.clone() };
    ended.evidence.extend_from_slice(evidence);
    let detail = match verdict {
        Verdict::Succeeded { url, result } => {
            let url = url.as_deref().map(bounded_url);
            ended.url.clone_from(&url);
            ended.result.clone_from(result);
            ended.failure = None;
            let (key, idempotency) = ledger_hashes(tx, &item)?;
            tx.ledger_before.push(Line::Published { item: id, fence, url: url.clone(), key, idempotency, at: now });
            url.unwrap_or_default()
        }
        Verdict::TryAgain { failure, due_at, counted } => {
            ended.due_at = *due_at;
            if !counted {
                ended.attempts = ended.attempts.saturating_sub(1);
            }
            ended.failure = Some(failure.clone());
            failure.to_string()
        }
        Verdict::OutcomeUnknown(failure) | Verdict::Failed(failure) | Verdict::Canceled(failure) => {
            ended.failure = Some(failure.clone());
            failure.to_string()
        }
    };
    if ended.state.is_terminal() {
        ended.finished_at = Some(now);
    }
    let ended = tx.change_item(&item, ended, verdict.state().name(), &detail, now)?;
    if matches!(ended.state, ItemState::Failed | ItemState::Canceled) && ended.armed_fence.is_none() {
        tx.free_key(&ended)?;
    }
    Ok(Ok(Finished { task: ended.task, state: ended.state }))
}

/// Moves items whose time has come from `DUE` to `READY`; at most `limit`. True: there may be more.
pub(in crate::store) fn promote(tx: &mut Tx<'_>, now: Timestamp, limit: usize) -> Ran<bool, Infallible> {
    let mut due = Vec::new();
    for row in tx.due.range(..=(now.as_millis(), u64::MAX))?.take(limit) {
        due.push(row?.0.value());
    }
    for (due_at, id) in &due {
        let mut item = tx
            .item(ItemId::new(*id))?
            .ok_or_else(|| StoreError::Corrupt(format!("due: no item {}", ItemId::new(*id))))?;
        tx.writes += 1;
        tx.due.remove((*due_at, *id))?;
        item.ready = true;
        tx.items.insert(*id, codec::encode(&item)?.as_slice())?;
        tx.ready.insert((item.profile.as_str(), super::rank_of(item.priority), *id), ())?;
    }
    Ok(Ok(due.len() == limit))
}

/// What a person asks: the engine carries it out. False: no such task.
pub(in crate::store) fn request_cancel(tx: &mut Tx<'_>, id: TaskId, now: Timestamp) -> Ran<bool, Infallible> {
    let Some(task) = tx.task(id)? else { return Ok(Ok(false)) };
    let mut intent = tx.intent(id)?;
    if intent.cancel_requested_at.is_none() && !task.counts.state().is_terminal() {
        tx.writes += 1;
        intent.cancel_requested_at = Some(now);
        tx.intents.insert(id.raw(), codec::encode(&intent)?.as_slice())?;
        tx.cancels.insert(id.raw(), ())?;
        tx.log(id, None, "cancel_requested", "", now)?;
    }
    Ok(Ok(true))
}

/// Cancels a task's waiting items, at most `limit`; when none is left the request is done.
pub(in crate::store) fn cancel_waiting(
    tx: &mut Tx<'_>,
    id: TaskId,
    limit: usize,
    now: Timestamp,
) -> Ran<Canceled, Infallible> {
    let mut waiting = Vec::new();
    for row in tx.task_items.range((id.raw(), 0)..=(id.raw(), u64::MAX))? {
        let (_, item) = row?.0.value();
        let item: Item = tables::get("items", &tx.items, item)?
            .ok_or_else(|| StoreError::Corrupt(format!("task_items: no item of {id}")))?;
        if item.state.is_waiting() || item.state == ItemState::Held {
            waiting.push(item);
            if waiting.len() > limit {
                break;
            }
        }
    }
    let more = waiting.len() > limit;
    for item in waiting.iter().take(limit) {
        cancel_one(tx, item, now)?;
    }
    if !more {
        tx.writes += 1;
        tx.cancels.remove(id.raw())?;
    }
    Ok(Ok(Canceled { more }))
}

pub(in crate::store) fn cancel_one(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<(), StoreError> {
    let failure = Failure::new(FailureCode::Canceled, "canceled on request");
    let canceled = Item { state: ItemState::Canceled, failure: Some(failure), finished_at: Some(now), ..item.clone() };
    let canceled = tx.change_item(item, canceled, "canceled", "", now)?;
    if canceled.armed_fence.is_none() {
        tx.free_key(&canceled)?;
    }
    Ok(())
}
