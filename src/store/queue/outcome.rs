//! What becomes of an item whose outcome is not known: a verify proves it, or a human says it.
//!
//! The ledger's `resolved` line is durable before the commit, so that a restore cannot bring the question
//! back as a second publication (fence.md rules 11, 12 and 14). A verify takes the profile's lock like an
//! attempt and is none. What each answer of a verify is worth is the engine's to say.

use super::super::ledger::Line;
use super::super::locks;
use super::super::tables::Tx;
use super::super::writer::Ran;
use super::super::{
    ClaimRefused, FinishRefused, Pause, ResolveRefused, StoreError, Verified, VerifyBegun, VerifyFinding,
};
use super::progress::{bounded_url, ledger_hashes};
use crate::model::{Item, ItemId, ItemState, LockKind, LockOwner, Moment, OnUnknown, Resolution, Timestamp};

/// Longest note of a person kept in the log, in bytes.
const MAX_NOTE_BYTES: usize = 2_000;

/// Settles an unknown outcome as a person says.
pub(in crate::store) fn resolve(
    tx: &mut Tx<'_>,
    id: ItemId,
    resolution: Resolution,
    url: Option<&str>,
    note: &str,
    now: Timestamp,
) -> Ran<Item, ResolveRefused> {
    let Some(item) = tx.item(id)? else { return Ok(Err(ResolveRefused::NotFound)) };
    if item.state != ItemState::OutcomeUnknown {
        return Ok(Err(ResolveRefused::NotUnknown(item.state)));
    }
    let note = &note[..note.floor_char_boundary(MAX_NOTE_BYTES.min(note.len()))];
    let detail = if note.is_empty() { resolution.name().to_owned() } else { format!("{}: {note}", resolution.name()) };
    tx.log(item.task, Some(id), "resolved", &detail, now)?;
    let resolved = match resolution {
        Resolution::Published => Item {
            state: ItemState::Succeeded,
            url: url.map(bounded_url).or_else(|| item.url.clone()),
            failure: None,
            finished_at: Some(now),
            ..item.clone()
        },
        Resolution::NotPublished => unpublished(&item, item.attempts),
        Resolution::GiveUp => Item { state: ItemState::Failed, finished_at: Some(now), ..item.clone() },
    };
    write_resolution(tx, &item, resolved, resolution, now).map(Ok)
}

/// Queued again: nothing of what was armed so far went out.
fn unpublished(item: &Item, attempts_before: u32) -> Item {
    Item {
        state: ItemState::Queued,
        due_at: Timestamp::ZERO,
        cleared_fence: item.armed_fence,
        attempts_before,
        ..item.clone()
    }
}

pub(super) fn write_resolution(
    tx: &mut Tx<'_>,
    item: &Item,
    resolved: Item,
    resolution: Resolution,
    now: Timestamp,
) -> Result<Item, StoreError> {
    let (key, idempotency) = ledger_hashes(tx, item)?;
    if let Some(fence) = item.armed_fence {
        let url = resolved.url.clone().filter(|_| resolution == Resolution::Published);
        tx.ledger_before.push(Line::Resolved { item: item.id, fence, resolution, url, key, idempotency, at: now });
    }
    if resolution == Resolution::Published {
        tx.settled_published.insert(item.id.raw(), ())?;
    }
    let resolved = Item { verify: None, held_for: None, ..resolved };
    if resolved.state.is_waiting() && tx.intent(item.task)?.cancel_requested_at.is_some() {
        // The cancel passed it by while nobody knew; it does not wait for its turn to hear of it.
        tx.writes += 1;
        tx.settling.insert(item.task.raw(), 0)?;
    }
    let kind = resolved.state.name();
    // Of a success it is said where it can be seen, however it became known.
    let url = resolved.url.clone().filter(|_| resolved.state == ItemState::Succeeded);
    let detail = url.unwrap_or_else(|| resolution.name().to_owned());
    tx.change_item(item, resolved, kind, &detail, now)
}

/// Takes the profile's lock for a verify whose time has come.
pub(in crate::store) fn begin_verify(tx: &mut Tx<'_>, id: ItemId, moment: Moment) -> Ran<VerifyBegun, ClaimRefused> {
    let moment = tx.in_order(moment);
    let now = moment.wall;
    let Some(item) = tx.item(id)? else { return Ok(Err(ClaimRefused::NotWaiting)) };
    if item.verify.and_then(|plan| plan.next_at).is_none_or(|next_at| next_at > now) {
        return Ok(Err(ClaimRefused::NotWaiting));
    }
    if matches!(tx.meta.pause, Some(Pause::Operator { .. })) {
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
    let fence = locks::take_profile(tx, &item.profile, LockOwner::Verify(id), None, moment)?;
    Ok(Ok(VerifyBegun { item, task, fence }))
}

/// Writes what a verify found. The lock stays until its browser is verified dead.
pub(in crate::store) fn finish_verify(
    tx: &mut Tx<'_>,
    end: &Verified,
    now: Timestamp,
) -> Ran<ItemState, FinishRefused> {
    let Some(item) = tx.item(end.item)? else { return Ok(Err(FinishRefused::StaleFence)) };
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, item.profile.as_str())?;
    let locked = lock.is_some_and(|lock| lock.fence == end.fence);
    let Some(plan) = item.verify.filter(|plan| locked && plan.next_at.is_some()) else {
        return Ok(Err(FinishRefused::StaleFence));
    };
    let mut looked = item.clone();
    looked.evidence.extend_from_slice(&end.evidence);
    let found = match &end.finding {
        VerifyFinding::Found { .. } => "found".to_owned(),
        VerifyFinding::NotFound(detail) => format!("not_found: {detail}"),
        VerifyFinding::Inconclusive(failure) => format!("inconclusive: {failure}"),
    };
    tx.log(item.task, Some(item.id), "verified", &found, now)?;
    if let Some(effect) = &end.effect {
        tx.affect_profile(&item, effect, now)?;
    }
    if let VerifyFinding::Found { url, result } = &end.finding {
        let url = url.as_deref().map(bounded_url);
        let done = Item {
            state: ItemState::Succeeded,
            url,
            result: result.clone(),
            failure: None,
            finished_at: Some(now),
            ..looked
        };
        return Ok(Ok(write_resolution(tx, &item, done, Resolution::Published, now)?.state));
    }
    let plan = plan.after_run(matches!(end.finding, VerifyFinding::NotFound(_)), now);
    looked.verify = Some(plan);
    if plan.all_not_found() {
        let task = tx.task(item.task)?.ok_or_else(|| StoreError::Corrupt(format!("tasks: no row of {}", item.task)))?;
        let canceled = tx.intent(item.task)?.cancel_requested_at.is_some();
        let again = task.on_unknown == OnUnknown::Retry && item.attempts_spent() < task.max_attempts && !canceled;
        if item.state == ItemState::Held || again {
            let queued = unpublished(&looked, looked.attempts_before);
            return Ok(Ok(write_resolution(tx, &item, queued, Resolution::NotPublished, now)?.state));
        }
    }
    tx.writes += 1;
    Ok(Ok(tx.move_item(&item, looked, now)?.state))
}
