//! Lent browsers: a program drives a profile's browser through cove, under a lease on the profile's lock.
//!
//! The lock's owner is the session; of an outside worker it is the claim's own lock, under the claim's fence
//! (fence.md rules 21 and 23). The end of the lease frees nothing: the engine stops the browser and releases
//! when it is verified dead, and only then what a worker left is queued again. Called by the store's
//! facade alone.

use std::convert::Infallible;
use std::time::Duration;

use super::super::tables::Tx;
use super::super::writer::Ran;
use super::super::{ClaimRefused, Granted, NotYours, Pause, SessionName, StoreError, locks};
use super::claims::give_back;
use crate::model::{ItemState, Lock, LockKind, LockOwner, Moment, ProfileId};

/// Takes a profile's lock for a program.
pub(in crate::store) fn lend(
    tx: &mut Tx<'_>,
    profile: &ProfileId,
    owner: &str,
    ttl: Duration,
    moment: Moment,
) -> Ran<Granted, ClaimRefused> {
    let moment = tx.in_order(moment);
    if matches!(tx.meta.pause, Some(Pause::Restored { .. } | Pause::LedgerDamaged { .. })) {
        return Ok(Err(ClaimRefused::Paused));
    }
    if tx.profile(profile.as_str())?.is_none() {
        return Ok(Err(ClaimRefused::ProfileUnknown));
    }
    if locks::held(tx, &LockKind::PROFILE, profile.as_str(), moment)?.is_some() {
        return Ok(Err(ClaimRefused::ProfileBusy));
    }
    let owner = LockOwner::Session { owner: owner.to_owned(), item: None };
    let fence = locks::take_profile(tx, profile, owner, Some(ttl), moment)?;
    Ok(Ok(Granted { fence, expires_at: Some(moment.wall.plus(ttl)) }))
}

/// A new lease, as long as the one before where nothing else is asked. A worker's is renewed with its claim.
pub(in crate::store) fn refresh(
    tx: &mut Tx<'_>,
    name: &SessionName,
    ttl: Option<Duration>,
    moment: Moment,
) -> Ran<Granted, NotYours> {
    let moment = tx.in_order(moment);
    let Some(lock) = of(tx, name)?.filter(|lock| !lock.is_expired(moment)) else { return Ok(Err(NotYours::NotHeld)) };
    let renewed = locks::renew(tx, &lock, ttl.or(lock.ttl()), moment)?;
    Ok(Ok(Granted { fence: renewed.fence, expires_at: renewed.expires_at() }))
}

fn of(tx: &Tx<'_>, name: &SessionName) -> Result<Option<Lock>, StoreError> {
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, name.profile.as_str())?;
    let is_it = |lock: &Lock| lock.fence == name.fence && matches!(lock.owner, LockOwner::Session { item: None, .. });
    Ok(lock.filter(is_it))
}

/// Frees the profile's lock: the browser is verified dead. A claim that goes on keeps it, without a browser
/// of cove's; where the claim's lease is over, its item goes with it (rule 23).
/// False: it does not stand under this fence.
pub(in crate::store) fn release(tx: &mut Tx<'_>, name: &SessionName, moment: Moment) -> Ran<bool, Infallible> {
    let moment = tx.in_order(moment);
    let lock = locks::get(&tx.locks, &LockKind::PROFILE, name.profile.as_str())?;
    let lock = lock.filter(|lock| lock.fence == name.fence);
    let claim = match &lock {
        Some(Lock { owner: LockOwner::Session { owner, item: Some(item) }, .. }) => Some((*item, owner.clone())),
        _ => None,
    };
    if let (Some(lock), Some((id, worker))) = (&lock, claim)
        && let Some(item) = tx.item(id)?.filter(|item| item.state == ItemState::Running)
        && item.fence == Some(lock.fence)
    {
        if !lock.is_expired(moment) {
            let owner = LockOwner::Claim { item: id, worker };
            locks::put(tx, Some(lock), &Lock { owner, ..lock.clone() })?;
            return Ok(Ok(true));
        }
        give_back(tx, &item, &worker, moment.wall)?;
    }
    locks::free_profile(tx, &name.profile, name.fence)
}
