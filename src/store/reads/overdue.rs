//! Items whose time has come and that the engine has not queued yet, in numbers.
//!
//! Read by the look at what waits alone. They are few while the engine turns; while it may write nothing (no disk
//! space, a drain) they stay, so the look has a bound.

use std::collections::BTreeMap;

use redb::{ReadOnlyTable, ReadTransaction};

use super::item;
use crate::model::{ItemId, ItemState, ProfileId, Timestamp};
use crate::store::StoreError;

/// Items looked at whose time has come: they stay so only while nothing may be written, and any more than that are
/// told as if it had not.
const OVERDUE_SCAN: usize = 2_000;

#[derive(Default)]
pub struct Overdue {
    /// By lane and profile.
    pub by_profile: BTreeMap<(String, ProfileId), u64>,
    pub scheduled: u64,
    pub retries: u64,
}

/// Whose time has come and whose turn has not: they wait for what ready ones wait for, and so it is said of each.
pub fn of(txn: &ReadTransaction, due: &ReadOnlyTable<(u64, u64), ()>, now: Timestamp) -> Result<Overdue, StoreError> {
    let mut overdue = Overdue::default();
    for row in due.range(..=(now.as_millis(), u64::MAX))?.take(OVERDUE_SCAN) {
        let Some(item) = item(txn, ItemId::new(row?.0.value().1))? else { continue };
        let count = if item.state == ItemState::RetryWait { &mut overdue.retries } else { &mut overdue.scheduled };
        *count += 1;
        let lane = item.external.unwrap_or_default();
        *overdue.by_profile.entry((lane, item.profile)).or_default() += 1;
    }
    Ok(overdue)
}
