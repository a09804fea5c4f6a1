//! Outside workers: an item is theirs for a while, under a lease on its profile's lock (fence.md rule 23).
//!
//! A claim is named by its item and its fence; there is no row of its own. What a worker says counts while
//! the item runs under that very fence, and a completion also while its outcome is unknown. When a lease
//! is over, an armed item becomes `outcome_unknown` at once; one that is not armed is queued again a minute
//! later, since its worker may still be at it. The profile stays locked until then. A worker whose browser
//! cove lends it is at it no longer than that browser lives: see `lent`.

use std::convert::Infallible;
use std::time::Duration;

use super::super::tables::Tx;
use super::super::writer::Ran;
use super::super::{AttemptEnded, ClaimEnded, ClaimName, Expired, FinishRefused, NotYours, StoreError, locks};
use super::outcome::write_resolution;
use super::progress::{bounded_url, finish, write_armed};
use crate::meter::Mark;
use crate::model::lock::CLAIM_GRACE;
use crate::model::{
    Failure, FailureCode, Fence, Item, ItemState, Lock, LockKind, LockOwner, Moment, ProfileId, Resolution, Timestamp,
    Verdict,
};

/// Leases that one step ends.
const STEP: u32 = 100;

/// The lock of a claim that is still the worker's.
fn lock_of(tx: &Tx<'_>, name: &ClaimName, now: Moment) -> Ran<(Item, Lock), NotYours> {
    let Some(item) = tx.item(name.item)? else { return Ok(Err(NotYours::StaleFence)) };
    if item.state != ItemState::Running || item.fence != Some(name.fence) {
        return Ok(Err(NotYours::StaleFence));
    }
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, item.profile.as_str())?;
    let lock = lock.filter(|lock| lock.fence == name.fence && lock.owner.claim().is_some());
    Ok(match lock {
        Some(lock) if !lock.is_expired(now) => Ok((item, lock)),
        _ => Err(NotYours::NotHeld),
    })
}

/// A new lease, as long as the one before where nothing else is asked. There is none for what may not be armed any
/// more: its worker has nothing left to do but to give up.
pub(in crate::store) fn refresh(
    tx: &mut Tx<'_>,
    name: &ClaimName,
    ttl: Option<Duration>,
    moment: Moment,
) -> Ran<Option<Timestamp>, NotYours> {
    let moment = tx.in_order(moment);
    match lock_of(tx, name, moment)? {
        Ok((item, _)) if !item.is_armed() && tx.intent(item.task)?.cancel_requested_at.is_some() => {
            Ok(Err(NotYours::Canceled))
        }
        Ok((_, lock)) => Ok(Ok(locks::renew(tx, &lock, ttl.or(lock.ttl()), moment)?.expires_at())),
        Err(refused) => Ok(Err(refused)),
    }
}

/// What is left of a claim's lease, for whoever is about to click.
pub(in crate::store) fn left(tx: &mut Tx<'_>, name: &ClaimName, moment: Moment) -> Ran<Duration, NotYours> {
    let moment = tx.in_order(moment);
    Ok(lock_of(tx, name, moment)?.map(|(_, lock)| lock.lease.map_or(Duration::ZERO, |lease| lease.left(moment))))
}

/// The worker says how it ended. A completion of what became `outcome_unknown` meanwhile is taken under the
/// very fence that armed it; saying the same again is saying it once, a completion as well as a failure.
pub(in crate::store) fn end(tx: &mut Tx<'_>, end: &AttemptEnded, now: Timestamp) -> Ran<ClaimEnded, FinishRefused> {
    let Some(item) = tx.item(end.item)? else { return Ok(Err(FinishRefused::StaleFence)) };
    let claimed = is_claim(tx, &item, end.fence)?;
    if let Verdict::Succeeded { url, result } = &end.verdict {
        if item.state == ItemState::Succeeded && item.fence == Some(end.fence) {
            return Ok(Ok(ClaimEnded { item, late: false, unasked: false }));
        }
        if item.state == ItemState::OutcomeUnknown && item.armed_fence == Some(end.fence) && item.external.is_some() {
            let done = Item {
                state: ItemState::Succeeded,
                url: url.as_deref().map(bounded_url),
                result: result.clone(),
                failure: None,
                finished_at: Some(now),
                ..item.clone()
            };
            let item = write_resolution(tx, &item, done, Resolution::Published, now)?;
            // Its worker is done with the profile, where nobody else has it since.
            free_unless_lent(tx, &item.profile, end.fence)?;
            return Ok(Ok(ClaimEnded { item, late: true, unasked: false }));
        }
    }
    if said_before(&item, end) {
        return Ok(Ok(ClaimEnded { item, late: false, unasked: false }));
    }
    if !claimed {
        return Ok(Err(FinishRefused::StaleFence));
    }
    if let Err(refused) = finish(tx, end, now)? {
        return Ok(Err(refused));
    }
    free_unless_lent(tx, &item.profile, end.fence)?;
    let item = tx.item(end.item)?.ok_or_else(|| StoreError::Corrupt(format!("items: {} vanished", end.item)))?;
    Ok(Ok(ClaimEnded { item, late: false, unasked: false }))
}

/// A failure whose answer was lost: the item still stands where this attempt's very failure left it.
fn said_before(item: &Item, end: &AttemptEnded) -> bool {
    if item.external.is_none() || item.fence != Some(end.fence) {
        return false;
    }
    let failure = item.failure.as_ref();
    match (&end.verdict, item.state) {
        (Verdict::OutcomeUnknown(said), ItemState::OutcomeUnknown) | (Verdict::Failed(said), ItemState::Failed) => {
            failure == Some(said)
        }
        (Verdict::TryAgain { failure: said, .. }, ItemState::RetryWait | ItemState::Queued) => failure == Some(said),
        // The task was canceled meanwhile, so that the failure became a cancel.
        (Verdict::TryAgain { .. }, ItemState::Canceled) => true,
        _ => false,
    }
}

/// A worker says that it published what it never asked to arm, or was refused to. It is out there: to take no notice
/// of that would queue it again. So it is written down as armed under its fence, without the checks that allow a
/// click (they are for a click to come), before the completion itself is. False: there is nothing to write down.
pub(in crate::store) fn arm_completed(tx: &mut Tx<'_>, name: &ClaimName, now: Timestamp) -> Ran<bool, Infallible> {
    let Some(item) = tx.item(name.item)? else { return Ok(Ok(false)) };
    let unarmed = item.state == ItemState::Running && item.fence == Some(name.fence) && !item.is_armed();
    if !unarmed || !is_claim(tx, &item, name.fence)? {
        return Ok(Ok(false));
    }
    tx.log(item.task, Some(item.id), "completed_unarmed", "its worker completed it and never armed it", now)?;
    write_armed(tx, &item, name.fence, None, now)?;
    tx.marks.push(Mark::CompletedUnarmed);
    Ok(Ok(true))
}

/// A browser of cove's is stopped first; the engine frees the profile behind it.
fn free_unless_lent(tx: &mut Tx<'_>, profile: &ProfileId, fence: Fence) -> Result<(), StoreError> {
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, profile.as_str())?;
    if !lock.is_some_and(|lock| matches!(lock.owner, LockOwner::Session { .. })) {
        let Ok(_freed) = locks::free_profile(tx, profile, fence)?;
    }
    Ok(())
}

/// Whether this is the fence of a worker, and not of an attempt of cove's own.
fn is_claim(tx: &Tx<'_>, item: &Item, fence: Fence) -> Result<bool, StoreError> {
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, item.profile.as_str())?;
    Ok(lock.is_some_and(|lock| lock.fence == fence && lock.owner.claim().is_some()))
}

/// Ends what workers left: at most a step of it.
pub(in crate::store) fn expire(tx: &mut Tx<'_>, moment: Moment) -> Ran<Expired, Infallible> {
    let moment = tx.in_order(moment);
    let mut expired = Expired::default();
    for lock in locks::leases_over(&tx.lock_expiry, &tx.locks, moment)? {
        if expired.items.max(expired.freed) >= STEP {
            break;
        }
        let Some((item, worker)) = lock.owner.claim() else { continue };
        let over = lock.lease.map_or(Duration::ZERO, |lease| moment.boot.since(lease.expires_boot));
        let given_up = over >= CLAIM_GRACE && matches!(lock.owner, LockOwner::Claim { .. });
        let running = tx.item(item)?.filter(|item| item.state == ItemState::Running && item.fence == Some(lock.fence));
        if let Some(item) = running.filter(|item| item.is_armed() || given_up) {
            give_back(tx, &item, worker, moment.wall)?;
            expired.items += 1;
        }
        if given_up && let Ok(profile) = ProfileId::new(&lock.key) {
            let Ok(_freed) = locks::free_profile(tx, &profile, lock.fence)?;
            expired.freed += 1;
        }
    }
    Ok(Ok(expired))
}

/// The worker was not heard of in time. Its attempt counts: it may have done all of it but the last word.
pub(super) fn give_back(tx: &mut Tx<'_>, item: &Item, worker: &str, now: Timestamp) -> Result<(), StoreError> {
    let task = tx.task(item.task)?.ok_or_else(|| StoreError::Corrupt(format!("tasks: no row of {}", item.task)))?;
    let failure = Failure::new(FailureCode::WorkerLost, format!("{worker} let its lease run out"));
    let verdict = if item.is_armed() {
        Verdict::OutcomeUnknown(failure.after_commit())
    } else if item.attempts_spent() >= task.max_attempts {
        Verdict::Failed(failure)
    } else {
        Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: true }
    };
    let Some(fence) = item.fence else { return Ok(()) };
    let end = AttemptEnded { item: item.id, fence, verdict, evidence: Vec::new(), effect: None };
    finish(tx, &end, now)?.map(drop).map_err(|refused| StoreError::Corrupt(format!("{}: {refused}", item.id)))
}
