//! Locks: the engine's own on profiles, and those of outside programs on whatever they name.
//!
//! Called by the store's facade, by the queue's operations (a claim takes the profile's lock in its own
//! transaction) and at boot. Invariants (fence.md rules 20 to 22): one row a (kind, key); a fence comes from
//! the one sequence and is never given twice; an outside lease that is over counts as free for whoever
//! asks, from its very millisecond on, and is only listed until a cleanup; the engine's locks are
//! freed by the engine alone. What ends is found by an index: nothing here reads all locks, save a boot
//! after a reboot. What a lock means is not decided here.

mod clean;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable};

pub(super) use clean::{Place, add, clean_up, to_clean_up};

use super::tables::{Bytes, LOCK_EXPIRY, LOCK_OWNERS, LOCKS, Tx};
use super::writer::Ran;
use super::{
    Acquire, AcquireRefused, ClaimRefused, Granted, LockAsked, LockHeld, LockPage, LockPlace, LockQuery, NotYours,
    Pause, StoreError, codec,
};
use crate::model::lock::Lease;
use crate::model::{Fence, Lock, LockKind, LockOwner, Moment, ProfileId, Timestamp};

/// Locks read at a time when all leases move into another boot.
const REBASE_STEP: usize = 1_000;

/// The row of a lock, held or expired.
pub(super) fn get(
    table: &impl ReadableTable<(&'static str, &'static str), Bytes>,
    kind: &LockKind,
    key: &str,
) -> Result<Option<Lock>, StoreError> {
    table.get((kind.as_str(), key))?.map(|row| codec::decode("locks", row.value())).transpose()
}

/// The lock, while nobody else can have it.
pub(super) fn held(tx: &Tx<'_>, kind: &LockKind, key: &str, now: Moment) -> Result<Option<Lock>, StoreError> {
    Ok(get(&tx.locks, kind, key)?.filter(|lock| lock.is_held(now)))
}

/// Writes a row and its indexes; `was` is the row as it stands in the table.
pub(super) fn put(tx: &mut Tx<'_>, was: Option<&Lock>, is: &Lock) -> Result<(), StoreError> {
    if let Some(was) = was {
        unindex(tx, was)?;
    }
    tx.writes += 1;
    let (kind, key) = (is.kind.as_str(), is.key.as_str());
    tx.locks.insert((kind, key), codec::encode(is)?.as_slice())?;
    tx.lock_owners.insert((is.owner.to_string().as_str(), kind, key), ())?;
    if let Some(lease) = &is.lease {
        tx.lock_expiry.insert((kind, lease.expires_boot.as_millis(), key), ())?;
    }
    Ok(())
}

fn unindex(tx: &mut Tx<'_>, lock: &Lock) -> Result<(), StoreError> {
    let (kind, key) = (lock.kind.as_str(), lock.key.as_str());
    tx.lock_owners.remove((lock.owner.to_string().as_str(), kind, key))?;
    if let Some(lease) = &lock.lease {
        tx.lock_expiry.remove((kind, lease.expires_boot.as_millis(), key))?;
    }
    Ok(())
}

fn remove(tx: &mut Tx<'_>, lock: &Lock) -> Result<(), StoreError> {
    tx.writes += 1;
    unindex(tx, lock)?;
    tx.locks.remove((lock.kind.as_str(), lock.key.as_str()))?;
    Ok(())
}

/// Gives a free lock, over an expired one where that still stands.
fn take(
    tx: &mut Tx<'_>,
    kind: &LockKind,
    key: &str,
    owner: LockOwner,
    ttl: Option<Duration>,
    now: Moment,
) -> Result<Lock, StoreError> {
    let was = get(&tx.locks, kind, key)?;
    debug_assert!(was.as_ref().is_none_or(|was| !was.is_held(now)), "{was:?} is taken from its owner");
    let lock = Lock {
        kind: kind.clone(),
        key: key.to_owned(),
        owner,
        fence: tx.next_fence(),
        acquired_at: now.wall,
        lease: ttl.map(|ttl| Lease::new(ttl, now)),
    };
    put(tx, was.as_ref(), &lock)?;
    Ok(lock)
}

/// Takes a profile's lock for the engine; the caller has seen that it is free.
pub(super) fn take_profile(
    tx: &mut Tx<'_>,
    profile: &ProfileId,
    owner: LockOwner,
    ttl: Option<Duration>,
    now: Moment,
) -> Result<Fence, StoreError> {
    Ok(take(tx, &LockKind::PROFILE, profile.as_str(), owner, ttl, now)?.fence)
}

/// Takes a profile's lock for a person.
pub(super) fn take_for_operator(tx: &mut Tx<'_>, profile: &ProfileId, now: Moment) -> Ran<Fence, ClaimRefused> {
    let now = tx.in_order(now);
    if tx.profile(profile.as_str())?.is_none() {
        return Ok(Err(ClaimRefused::ProfileUnknown));
    }
    if held(tx, &LockKind::PROFILE, profile.as_str(), now)?.is_some() {
        return Ok(Err(ClaimRefused::ProfileBusy));
    }
    take_profile(tx, profile, LockOwner::Operator, None, now).map(Ok)
}

/// Frees a profile's lock, for the engine; false: it does not stand under this fence.
pub(super) fn free_profile(tx: &mut Tx<'_>, profile: &ProfileId, fence: Fence) -> Ran<bool, Infallible> {
    let lock = get(&tx.locks, &LockKind::PROFILE, profile.as_str())?.filter(|lock| lock.fence == fence);
    if let Some(lock) = &lock {
        remove(tx, lock)?;
    }
    Ok(Ok(lock.is_some()))
}

pub(super) fn acquire(tx: &mut Tx<'_>, asked: &LockAsked, now: Moment) -> Ran<Acquire, AcquireRefused> {
    if matches!(tx.meta.pause, Some(Pause::Restored { .. } | Pause::LedgerDamaged { .. })) {
        return Ok(Err(AcquireRefused::Restored));
    }
    if asked.kind == LockKind::PROFILE && tx.profile(&asked.key)?.is_none() {
        return Ok(Err(AcquireRefused::UnknownProfile));
    }
    let now = tx.in_order(now);
    let lock = match held(tx, &asked.kind, &asked.key, now)? {
        Some(lock) if lock.owner == asked.owner => renew(tx, &lock, asked.ttl, now)?,
        Some(lock) => {
            let expires_at = lock.expires_at();
            return Ok(Ok(Acquire::Busy { held_by: lock.owner, expires_at }));
        }
        None => take(tx, &asked.kind, &asked.key, asked.owner.clone(), asked.ttl, now)?,
    };
    Ok(Ok(Acquire::Acquired(granted(&lock))))
}

pub(super) fn renew(tx: &mut Tx<'_>, lock: &Lock, ttl: Option<Duration>, now: Moment) -> Result<Lock, StoreError> {
    let renewed = Lock { lease: ttl.map(|ttl| Lease::new(ttl, now)), ..lock.clone() };
    put(tx, Some(lock), &renewed)?;
    Ok(renewed)
}

fn granted(lock: &Lock) -> Granted {
    Granted { fence: lock.fence, expires_at: lock.expires_at() }
}

/// The lock that `named` speaks of, while it is its owner's under that very fence.
fn owned(tx: &Tx<'_>, named: &LockHeld, now: Moment) -> Ran<Lock, NotYours> {
    let Some(lock) = get(&tx.locks, &named.kind, &named.key)?.filter(|lock| !lock.is_expired(now)) else {
        return Ok(Err(NotYours::NotHeld));
    };
    Ok(if lock.owner == named.owner && lock.fence == named.fence { Ok(lock) } else { Err(NotYours::StaleFence) })
}

/// A new lease, as long as the one before where nothing else is asked.
pub(super) fn refresh(tx: &mut Tx<'_>, named: &LockHeld, ttl: Option<Duration>, now: Moment) -> Ran<Granted, NotYours> {
    let now = tx.in_order(now);
    match owned(tx, named, now)? {
        Ok(lock) => Ok(Ok(granted(&renew(tx, &lock, ttl.or(lock.ttl()), now)?))),
        Err(refused) => Ok(Err(refused)),
    }
}

pub(super) fn release(tx: &mut Tx<'_>, named: &LockHeld, now: Moment) -> Ran<(), NotYours> {
    let now = tx.in_order(now);
    match owned(tx, named, now)? {
        Ok(lock) => remove(tx, &lock).map(Ok),
        Err(refused) => Ok(Err(refused)),
    }
}

pub(super) fn read(txn: &ReadTransaction, kind: &LockKind, key: &str) -> Result<Option<Lock>, StoreError> {
    get(&txn.open_table(LOCKS)?, kind, key)
}

/// The smallest text above every key of this kind.
fn above(kind: &str) -> String {
    format!("{kind}\0")
}

pub(super) fn list(txn: &ReadTransaction, query: &LockQuery) -> Result<LockPage, StoreError> {
    let locks = txn.open_table(LOCKS)?;
    if let (Some(kind), Some(key)) = (&query.kind, &query.key) {
        let fits = |lock: &Lock| query.owner.as_ref().is_none_or(|owner| *owner == lock.owner.to_string());
        return Ok(LockPage { rows: get(&locks, kind, key)?.filter(fits).into_iter().collect(), next: None });
    }
    let kind = query.kind.as_ref().map_or("", LockKind::as_str);
    let after = query.after.as_ref().map(|place| (place.kind.as_str(), place.key.as_str()));
    // A page that was asked for with another filter than its cursor begins where the filter does.
    let from = after.filter(|after| *after >= (kind, "")).map_or(Bound::Included((kind, "")), Bound::Excluded);
    let end = query.kind.as_ref().map(|kind| above(kind.as_str()));
    if end.as_ref().is_some_and(|end| after.is_some_and(|after| after >= (end.as_str(), ""))) {
        return Ok(LockPage { rows: Vec::new(), next: None });
    }
    let mut rows: Vec<Lock> = Vec::new();
    // One more than a page says whether there is another.
    if let Some(owner) = &query.owner {
        let owners = txn.open_table(LOCK_OWNERS)?;
        let next_owner = above(owner);
        let to = end.as_ref().map_or((next_owner.as_str(), "", ""), |end| (owner.as_str(), end.as_str(), ""));
        let from = from.map(|(kind, key)| (owner.as_str(), kind, key));
        for row in owners.range((from, Bound::Excluded(to)))?.take(query.limit + 1) {
            let row = row?;
            let (_, kind, key) = row.0.value();
            let lock = locks.get((kind, key))?;
            let lock = lock.ok_or_else(|| StoreError::Corrupt(format!("lock_owners: no lock {kind} {key:?}")))?;
            rows.push(codec::decode("locks", lock.value())?);
        }
    } else {
        let to = end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded((end.as_str(), "")));
        for row in locks.range((from, to))?.take(query.limit + 1) {
            rows.push(codec::decode("locks", row?.1.value())?);
        }
    }
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let place = |lock: &Lock| LockPlace { kind: lock.kind.clone(), key: lock.key.clone() };
    let next = rows.last().filter(|_| more).map(place);
    Ok(LockPage { rows, next })
}

/// Locks of workers and of sessions whose lease is over, in the order of their ends: no more than there are
/// profiles.
pub(super) fn leases_over(
    expiry: &impl ReadableTable<(&'static str, u64, &'static str), ()>,
    locks: &impl ReadableTable<(&'static str, &'static str), Bytes>,
    now: Moment,
) -> Result<Vec<Lock>, StoreError> {
    let kind = LockKind::PROFILE;
    let end = now.boot.as_millis().saturating_add(1);
    let mut over = Vec::new();
    for row in expiry.range((kind.as_str(), 0, "")..(kind.as_str(), end, ""))? {
        let row = row?;
        let (_, _, key) = row.0.value();
        let of_ours = |lock: &Lock| matches!(lock.owner, LockOwner::Claim { .. } | LockOwner::Session { .. });
        over.extend(get(locks, &kind, key)?.filter(of_ours));
    }
    Ok(over)
}

/// Every row of kind `profile`: no more than there are profiles.
pub(super) fn of_profiles(
    txn: &ReadTransaction,
) -> Result<impl Iterator<Item = Result<Lock, StoreError>> + use<>, StoreError> {
    let (kind, end) = (LockKind::PROFILE, above(LockKind::PROFILE.as_str()));
    let rows = txn.open_table(LOCKS)?.range((kind.as_str(), "")..(end.as_str(), ""))?;
    Ok(rows.map(|row| codec::decode("locks", row?.1.value())))
}

/// Every lent browser's lock, by profile. Each has a lease.
pub(super) fn of_sessions(txn: &ReadTransaction) -> Result<Vec<Lock>, StoreError> {
    let (kind, end) = (LockKind::PROFILE, above(LockKind::PROFILE.as_str()));
    let locks = txn.open_table(LOCKS)?;
    let mut sessions = Vec::new();
    for row in txn.open_table(LOCK_EXPIRY)?.range((kind.as_str(), 0, "")..(end.as_str(), 0, ""))? {
        let row = row?;
        let (_, _, key) = row.0.value();
        sessions.extend(get(&locks, &kind, key)?.filter(|lock| matches!(lock.owner, LockOwner::Session { .. })));
    }
    sessions.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    Ok(sessions)
}

pub(super) fn profiles_held_outside(
    txn: &ReadTransaction,
    now: Moment,
) -> Result<BTreeMap<ProfileId, Lock>, StoreError> {
    let mut held = BTreeMap::new();
    for lock in of_profiles(txn)? {
        let lock = lock?;
        let outside = matches!(lock.owner, LockOwner::Outside(_) | LockOwner::Claim { .. } | LockOwner::Session { .. });
        if outside && lock.is_held(now) {
            let profile = ProfileId::new(&lock.key).map_err(|error| StoreError::Corrupt(format!("locks: {error}")))?;
            held.insert(profile, lock);
        }
    }
    Ok(held)
}

/// When the next lease of a profile ends, as the wall clock has it now.
pub(super) fn next_profile_expiry(txn: &ReadTransaction, now: Moment) -> Result<Option<Timestamp>, StoreError> {
    let (kind, end) = (LockKind::PROFILE, above(LockKind::PROFILE.as_str()));
    let index = txn.open_table(LOCK_EXPIRY)?;
    let first = now.boot.as_millis().saturating_add(1);
    let row = index.range((kind.as_str(), first, "")..(end.as_str(), 0, ""))?.next().transpose()?;
    Ok(row.map(|row| now.wall.plus(Duration::from_millis(row.0.value().1 - now.boot.as_millis()))))
}

/// A restored store: whoever held one may still act on it, and none of them counts (fence.md rule 18).
pub(super) fn drop_all(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.writes += 1;
    tx.locks.retain(|_, _| false)?;
    tx.lock_expiry.retain(|_, ()| false)?;
    tx.lock_owners.retain(|_, ()| false)?;
    Ok(())
}

/// The machine was booted: every lease goes on with its rest, on this boot's clock (fence.md rule 20). Says
/// how many there are.
pub(super) fn rebase(tx: &mut Tx<'_>, now: Moment) -> Result<u64, StoreError> {
    let mut rebased = 0;
    let mut after = (String::new(), String::new());
    loop {
        let mut step: Vec<Lock> = Vec::new();
        let from = Bound::Excluded((after.0.as_str(), after.1.as_str()));
        for row in tx.locks.range((from, Bound::Unbounded))?.take(REBASE_STEP) {
            step.push(codec::decode("locks", row?.1.value())?);
        }
        let Some(last) = step.last() else { return Ok(rebased) };
        after = (last.kind.to_string(), last.key.clone());
        for lock in step {
            if let Some(lease) = lock.lease {
                put(tx, Some(&lock), &Lock { lease: Some(lease.rebased(now)), ..lock.clone() })?;
                rebased += 1;
            }
        }
    }
}
