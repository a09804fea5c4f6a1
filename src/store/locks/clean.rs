//! Cleaning up: what is expired goes, what an owner still holds goes when a person insists.
//!
//! One walk serves the cleanup and its dry run, so that they cannot disagree. It looks at a bounded number
//! of rows at a time and goes on from its [`Place`]; others write in between. Without an owner it walks
//! the index of ends, kind by kind, with one the index of owners. The engine's locks and those of workers'
//! claims are never removed here (fence.md rules 21 and 23).

use std::convert::Infallible;
use std::ops::Bound;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable};

use super::super::tables::{Bytes, LOCK_EXPIRY, LOCK_OWNERS, LOCKS, Tx};
use super::super::writer::Ran;
use super::super::{CleanedUp, Cleanup, MAX_LOCKS_SHOWN, StoreError};
use super::{codec, remove, renew};
use crate::model::{Lock, Moment};

/// After which row a walk goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Place {
    kind: String,
    /// Of the row of the index of ends; 0 in a walk through one owner's locks.
    ends: u64,
    key: String,
}

/// What becomes of a lock.
enum Fate {
    Removed,
    /// Its holder is asked to stop.
    Asked,
    /// A worker's: its lease ends now, and what follows is what follows the end of any lease (rule 23).
    Ended,
    Kept,
}

fn fate(lock: &Lock, asked: &Cleanup, now: Moment) -> Fate {
    let insisted = asked.force && asked.owner.is_some();
    match (lock.owner.is_freed_by_time(), insisted) {
        (true, true) => Fate::Removed,
        (true, false) if lock.is_expired(now) => Fate::Removed,
        (false, true) if lock.owner.claim().is_none() => Fate::Asked,
        (false, true) if !lock.is_expired(now) => Fate::Ended,
        (false, true) | (_, false) => Fate::Kept,
    }
}

/// The next rows that a cleanup has to look at, and where to go on. None: that was all.
fn walk<L, E, O>(
    (locks, expiry, owners): (&L, &E, &O),
    asked: &Cleanup,
    from: &Place,
    limit: usize,
    now: Moment,
) -> Result<(Vec<Lock>, Option<Place>), StoreError>
where
    L: ReadableTable<(&'static str, &'static str), Bytes>,
    E: ReadableTable<(&'static str, u64, &'static str), ()>,
    O: ReadableTable<(&'static str, &'static str, &'static str), ()>,
{
    let mut found = Vec::new();
    let mut place = from.clone();
    for _ in 0..limit {
        let next = match &asked.owner {
            Some(owner) => next_of_owner(owners, owner, &place)?,
            None => next_ended(expiry, &place, now)?,
        };
        let Some((next, is_ended)) = next else { return Ok((found, None)) };
        if is_ended {
            let row = locks.get((next.kind.as_str(), next.key.as_str()))?;
            let row = row.ok_or_else(|| StoreError::Corrupt(format!("an index of locks: no row for {next:?}")))?;
            found.push(codec::decode("locks", row.value())?);
        }
        place = next;
    }
    Ok((found, Some(place)))
}

/// The row after `place`, and whether its lock is to be looked at.
type Next = Option<(Place, bool)>;

fn next_of_owner(
    owners: &impl ReadableTable<(&'static str, &'static str, &'static str), ()>,
    owner: &str,
    place: &Place,
) -> Result<Next, StoreError> {
    let from = Bound::Excluded((owner, place.kind.as_str(), place.key.as_str()));
    let Some(row) = owners.range((from, Bound::Unbounded))?.next().transpose()? else { return Ok(None) };
    let (found, kind, key) = row.0.value();
    Ok((found == owner).then(|| (Place { kind: kind.to_owned(), ends: 0, key: key.to_owned() }, true)))
}

/// Of a kind without a lease that is over, the walk makes one step to the next kind.
fn next_ended(
    expiry: &impl ReadableTable<(&'static str, u64, &'static str), ()>,
    place: &Place,
    now: Moment,
) -> Result<Next, StoreError> {
    let from = Bound::Excluded((place.kind.as_str(), place.ends, place.key.as_str()));
    let Some(row) = expiry.range((from, Bound::Unbounded))?.next().transpose()? else { return Ok(None) };
    let (kind, ends, key) = row.0.value();
    if ends <= now.boot.as_millis() {
        return Ok(Some((Place { kind: kind.to_owned(), ends, key: key.to_owned() }, true)));
    }
    Ok(Some((Place { kind: kind.to_owned(), ends: u64::MAX, key: String::new() }, false)))
}

/// One step of a cleanup, and where the next goes on.
pub(in crate::store) fn clean_up(
    tx: &mut Tx<'_>,
    asked: &Cleanup,
    from: &Place,
    limit: usize,
    now: Moment,
) -> Ran<(CleanedUp, Option<Place>), Infallible> {
    let now = tx.in_order(now);
    let (found, next) = walk((&tx.locks, &tx.lock_expiry, &tx.lock_owners), asked, from, limit, now)?;
    let mut cleaned = CleanedUp::default();
    for lock in found {
        match fate(&lock, asked, now) {
            Fate::Removed => {
                remove(tx, &lock)?;
                tell(&mut cleaned, lock);
            }
            Fate::Asked => cleaned.stopping.push(lock),
            Fate::Ended => cleaned.stopping.push(renew(tx, &lock, Some(Duration::ZERO), now)?),
            Fate::Kept => {}
        }
    }
    Ok(Ok((cleaned, next)))
}

/// What a cleanup would do, without doing it.
pub(in crate::store) fn to_clean_up(
    txn: &ReadTransaction,
    asked: &Cleanup,
    step: usize,
    now: Moment,
) -> Result<CleanedUp, StoreError> {
    let tables = (&txn.open_table(LOCKS)?, &txn.open_table(LOCK_EXPIRY)?, &txn.open_table(LOCK_OWNERS)?);
    let mut all = CleanedUp::default();
    let mut from = Some(Place::default());
    while let Some(place) = from {
        let (found, next) = walk(tables, asked, &place, step, now)?;
        for lock in found {
            match fate(&lock, asked, now) {
                Fate::Removed => tell(&mut all, lock),
                Fate::Asked | Fate::Ended => all.stopping.push(lock),
                Fate::Kept => {}
            }
        }
        from = next;
    }
    Ok(all)
}

fn tell(cleaned: &mut CleanedUp, lock: Lock) {
    cleaned.removed += 1;
    if cleaned.locks.len() < MAX_LOCKS_SHOWN {
        cleaned.locks.push(lock);
    }
}

/// Adds what one step did to what the others did.
pub(in crate::store) fn add(all: &mut CleanedUp, step: CleanedUp) {
    all.removed += step.removed;
    let room = MAX_LOCKS_SHOWN.saturating_sub(all.locks.len());
    all.locks.extend(step.locks.into_iter().take(room));
    all.stopping.extend(step.stopping);
}
