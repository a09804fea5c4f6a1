//! Time that cannot be believed, and time that was missed.
//!
//! While the wall clock is suspect, what comes due by it is held (fence.md rule 20); what is held for it is
//! queued again when the clock is trusted or a human resumes. What came due while the daemon was down for
//! long is spread over the time to come (rule 24). When a clock is suspect is the engine's to say.

use std::convert::Infallible;

use redb::ReadableTable;

use super::super::tables::{CatchUp, Tx};
use super::super::writer::Ran;
use super::super::{ClockMark, StoreError};
use crate::model::{HeldFor, Item, ItemId, ItemState, Moment, Place, Timestamp};

impl Tx<'_> {
    pub fn clock_is_suspect(&self) -> bool {
        self.meta.clock.is_some_and(|mark| mark.suspect_since.is_some())
    }

    /// This time has come by a clock that jumped, and had not by the one that was believed.
    pub fn is_due_by_suspect_clock(&self, due_at: Timestamp) -> bool {
        self.meta.clock.is_some_and(|mark| mark.suspect_since.is_some() && due_at > mark.believed.wall)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of every operation")]
pub(in crate::store) fn mark(tx: &mut Tx<'_>, mark: ClockMark) -> Ran<(), Infallible> {
    tx.writes += 1;
    tx.meta.clock = Some(mark);
    Ok(Ok(()))
}

/// Believes the clock again, and queues what was held for it, at most `limit`. True: there is more.
pub(in crate::store) fn trust(tx: &mut Tx<'_>, now: Moment, limit: usize) -> Ran<bool, Infallible> {
    tx.writes += 1;
    tx.meta.clock = Some(ClockMark { believed: now, suspect_since: None });
    let mut released = 0;
    for id in tx.items_in(ItemState::Held)? {
        let Some(item) = tx.item(id)?.filter(|item| item.held_for == Some(HeldFor::Clock)) else { continue };
        if released == limit {
            return Ok(Ok(true));
        }
        let queued = Item { state: ItemState::Queued, held_for: None, ..item.clone() };
        tx.change_item(&item, queued, "queued", "the clock is believed again", now.wall)?;
        released += 1;
    }
    Ok(Ok(false))
}

/// Spreads a step of what waits: one item an interval, the oldest first. True: there is more.
pub(in crate::store) fn catch_up(
    tx: &mut Tx<'_>,
    per_hour: u32,
    now: Timestamp,
    limit: usize,
) -> Ran<bool, Infallible> {
    let begun = || CatchUp { since: now, interval_ms: 3_600_000 / u64::from(per_hour.max(1)), next: 0, counted: 0 };
    let mut catch_up = tx.meta.catch_up.clone().unwrap_or_else(begun);
    let range = (ItemState::Queued as u8, catch_up.next)..=(ItemState::Queued as u8, u64::MAX);
    let ids: Vec<u64> =
        tx.item_states.range(range)?.take(limit).map(|row| Ok(row?.0.value().1)).collect::<Result<_, StoreError>>()?;
    for id in &ids {
        let id = ItemId::new(*id);
        let item = tx.item(id)?.ok_or_else(|| StoreError::Corrupt(format!("item_states: no item {id}")))?;
        let missed = item.place != Place::Paused && item.due_at <= catch_up.since;
        if !missed {
            continue;
        }
        if catch_up.counted > 0 {
            let wait = std::time::Duration::from_millis(catch_up.interval_ms.saturating_mul(catch_up.counted));
            let due_at = catch_up.since.plus(wait);
            tx.move_item(&item, Item { due_at, ..item.clone() }, now)?;
        }
        catch_up.counted += 1;
    }
    tx.writes += 1;
    let more = ids.len() == limit;
    catch_up.next = ids.last().map_or(u64::MAX, |last| last + 1);
    tx.meta.catch_up = more.then_some(catch_up);
    Ok(Ok(more))
}
