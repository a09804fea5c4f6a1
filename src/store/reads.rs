//! Reads: pages, single rows, the engine's outlook and the figures.
//!
//! Each runs in one read transaction on a blocking thread and is bounded: a page by its limit and by
//! [`SCAN`] rows looked at, the outlook by [`MAX_HEADS`]. Nothing here writes.

mod overdue;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::queue::progress::spaced_heads;
use super::queue::settle::to_settle;
use super::tables::{self, Bytes, META, META_KEY, Meta, get};
use super::{
    EventRow, Head, ItemQuery, Leftover, Outlook, Page, StoreError, StoreStats, TaskQuery, TaskRow, Waiting,
    WaitingAlike, codec, locks,
};
use crate::model::{
    Delivery, Fence, HeldFor, Intent, Item, ItemId, ItemState, LockKind, LockOwner, Moment, Place, Profile, ProfileId,
    Task, TaskEvent, TaskId, Timestamp,
};

/// Rows that one page may look at when filters leave out most of them; the page is short then and has
/// a cursor.
const SCAN: usize = 10_000;
/// Profiles that one look at the queue considers.
const MAX_HEADS: usize = 4_096;
/// Tasks whose intent is carried out in one turn of the engine.
const MAX_SETTLING: usize = 64;
/// Items looked at for the `wait_reasons` of one page of tasks.
const PAGE_WAITS_SCAN: usize = 10_000;
/// Items looked at for the `wait_reasons` of one task: more than a task can have.
const TASK_WAITS_SCAN: usize = 1_000_000;
/// Items looked at for the next time at which one comes due.
const DUE_SCAN: usize = 500;
/// Verifies looked at in one turn of the engine; one a profile can run.
const MAX_VERIFIES: usize = 256;

pub(super) fn meta(txn: &ReadTransaction) -> Result<Meta, StoreError> {
    let row = txn.open_table(META)?.get(META_KEY)?;
    let row = row.ok_or_else(|| StoreError::Corrupt("meta: the row is missing".to_owned()))?;
    codec::decode("meta", row.value())
}

pub(super) fn item(txn: &ReadTransaction, id: ItemId) -> Result<Option<Item>, StoreError> {
    get("items", &txn.open_table(tables::ITEMS)?, id.raw())
}

/// Which of these items' unknown outcomes were settled as published.
pub(super) fn settled_published(txn: &ReadTransaction, items: &[ItemId]) -> Result<BTreeSet<ItemId>, StoreError> {
    let table = txn.open_table(tables::SETTLED_PUBLISHED)?;
    let mut settled = BTreeSet::new();
    for item in items {
        if table.get(item.raw())?.is_some() {
            settled.insert(*item);
        }
    }
    Ok(settled)
}

/// A task with all of its items that wait.
pub(super) fn task(txn: &ReadTransaction, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
    let Some(task) = get("tasks", &txn.open_table(tables::TASKS)?, id.raw())? else { return Ok(None) };
    let mut scan = TASK_WAITS_SCAN;
    task_row(txn, task, &mut scan).map(Some)
}

pub(super) fn task_alone(txn: &ReadTransaction, id: TaskId) -> Result<Option<(Task, Intent)>, StoreError> {
    let Some(task) = get("tasks", &txn.open_table(tables::TASKS)?, id.raw())? else { return Ok(None) };
    Ok(Some((task, intent(txn, id)?)))
}

/// Looks at the task's items, `scan` of them at most, until all that wait are found: its counters say how
/// many there are.
fn task_row(txn: &ReadTransaction, task: Task, scan: &mut usize) -> Result<TaskRow, StoreError> {
    let intent = intent(txn, task.id)?;
    let waits = |state: &ItemState| !state.is_terminal() && *state != ItemState::Running;
    let waiting = ItemState::ALL.iter().filter(|state| waits(state));
    let mut left: u64 = waiting.map(|state| u64::from(task.counts.of(*state))).sum();
    let mut alike: HashMap<(ProfileId, ItemState, Option<HeldFor>, Place), WaitingAlike> = HashMap::new();
    if left > 0 {
        let items = txn.open_table(tables::ITEMS)?;
        let index = txn.open_table(tables::TASK_ITEMS)?;
        // The oldest are started first: what waits is found soonest from the newest on.
        for row in index.range((task.id.raw(), 0)..=(task.id.raw(), u64::MAX))?.rev() {
            if left == 0 || *scan == 0 {
                break;
            }
            *scan -= 1;
            let (_, id) = row?.0.value();
            let item: Item = get("items", &items, id)?
                .ok_or_else(|| StoreError::Corrupt(format!("task_items: no item {}", ItemId::new(id))))?;
            if waits(&item.state) {
                left -= 1;
                let key = (item.profile.clone(), item.state, item.held_for, item.place);
                match alike.entry(key) {
                    Entry::Occupied(mut found) => found.get_mut().items += 1,
                    Entry::Vacant(free) => drop(free.insert(WaitingAlike { item, items: 1 })),
                }
            }
        }
    }
    Ok(TaskRow { task, intent, waiting: alike.into_values().collect(), waiting_left_out: left })
}

fn intent(txn: &ReadTransaction, task: TaskId) -> Result<Intent, StoreError> {
    Ok(get("intents", &txn.open_table(tables::INTENTS)?, task.raw())?.unwrap_or_default())
}

/// Ids of an index, newest first, from right below `before`.
type Ids<'a> = Box<dyn Iterator<Item = Result<u64, StoreError>> + 'a>;

/// The ids that an index of (key, id) holds under one key.
macro_rules! ids_under {
    ($txn:expr, $table:expr, $key:expr, $before:expr) => {{
        let index = $txn.open_table($table)?;
        let range = index.range(($key, 0)..($key, $before))?;
        Box::new(range.rev().map(|row| Ok(row?.0.value().1))) as Ids<'_>
    }};
}

fn ids_of(table: &ReadOnlyTable<u64, Bytes>, before: u64) -> Result<Ids<'static>, StoreError> {
    Ok(Box::new(table.range(..before)?.rev().map(|row| Ok(row?.0.value()))))
}

pub(super) fn tasks(txn: &ReadTransaction, query: &TaskQuery) -> Result<Page<TaskRow>, StoreError> {
    let before = query.before.unwrap_or(u64::MAX);
    let table = txn.open_table(tables::TASKS)?;
    let of_profile = txn.open_table(tables::TASK_PROFILES)?;
    let ids = if let Some(profile) = &query.profile {
        ids_under!(txn, tables::TASK_PROFILES, profile.as_str(), before)
    } else if let Some(state) = query.state {
        ids_under!(txn, tables::TASK_STATES, state as u8, before)
    } else if let Some(flow) = &query.flow {
        ids_under!(txn, tables::TASK_FLOWS, flow.as_str(), before)
    } else {
        ids_of(&table, before)?
    };
    let page = page(ids, query.limit, |id| {
        let Some(task) = get::<Task>("tasks", &table, id)? else { return Ok(None) };
        let fits = query.state.is_none_or(|state| task.counts.state() == state)
            && query.flow.as_ref().is_none_or(|flow| &task.flow == flow)
            && match &query.profile {
                Some(profile) => of_profile.get((profile.as_str(), id))?.is_some(),
                None => true,
            };
        Ok(fits.then_some(task))
    })?;
    let mut scan = PAGE_WAITS_SCAN;
    let rows = page.rows.into_iter().map(|task| task_row(txn, task, &mut scan)).collect::<Result<_, _>>()?;
    Ok(Page { rows, next: page.next })
}

pub(super) fn items(txn: &ReadTransaction, query: &ItemQuery) -> Result<Page<Item>, StoreError> {
    let before = query.before.unwrap_or(u64::MAX);
    let table = txn.open_table(tables::ITEMS)?;
    let ids = if let Some(task) = query.task {
        ids_under!(txn, tables::TASK_ITEMS, task.raw(), before)
    } else if let Some(profile) = &query.profile {
        ids_under!(txn, tables::ITEM_PROFILES, profile.as_str(), before)
    } else if let Some(state) = query.state {
        ids_under!(txn, tables::ITEM_STATES, state as u8, before)
    } else {
        ids_of(&table, before)?
    };
    page(ids, query.limit, |id| {
        let item = get::<Item>("items", &table, id)?;
        Ok(item.filter(|item| {
            query.task.is_none_or(|task| item.task == task)
                && query.state.is_none_or(|state| item.state == state)
                && query.profile.as_ref().is_none_or(|profile| &item.profile == profile)
        }))
    })
}

pub(super) fn deliveries(
    txn: &ReadTransaction,
    task: TaskId,
    before: Option<u64>,
    limit: usize,
) -> Result<Page<Delivery>, StoreError> {
    let table = txn.open_table(tables::DELIVERIES)?;
    let ids = ids_under!(txn, tables::TASK_DELIVERIES, task.raw(), before.unwrap_or(u64::MAX));
    page(ids, limit, |id| get("deliveries", &table, id))
}

/// One page: rows that `read` keeps, until the limit or [`SCAN`] is reached.
fn page<T>(
    ids: Ids<'_>,
    limit: usize,
    mut read: impl FnMut(u64) -> Result<Option<T>, StoreError>,
) -> Result<Page<T>, StoreError> {
    let mut rows = Vec::new();
    let mut last = None;
    for (scanned, id) in ids.enumerate() {
        let id = id?;
        if rows.len() == limit || scanned == SCAN {
            return Ok(Page { rows, next: last });
        }
        last = Some(id);
        rows.extend(read(id)?);
    }
    Ok(Page { rows, next: None })
}

pub(super) fn events(
    txn: &ReadTransaction,
    task: TaskId,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<EventRow>, StoreError> {
    let first = after.map_or(0, |after| after.saturating_add(1));
    txn.open_table(tables::EVENTS)?
        .range((task.raw(), first)..=(task.raw(), u64::MAX))?
        .take(limit)
        .map(|row| {
            let (key, row) = row?;
            let event: TaskEvent = codec::decode("events", row.value())?;
            Ok(EventRow { number: key.value().1, event })
        })
        .collect()
}

pub(super) fn outlook(txn: &ReadTransaction, moment: Moment) -> Result<Outlook, StoreError> {
    let now = moment.wall;
    let meta = meta(txn)?;
    let due = txn.open_table(tables::DUE)?;
    let verify_due = txn.open_table(tables::VERIFY_DUE)?;
    let first_due = due.first()?.map(|row| Timestamp::from_millis(row.0.value().0));
    // It may still start in the very millisecond of its `not_after`.
    let too_late = |row: redb::AccessGuard<'_, (u64, u64)>| Timestamp::from_millis(row.value().0.saturating_add(1));
    let first_too_late = txn.open_table(tables::NOT_AFTER)?.first()?.map(|row| too_late(row.0));
    let profiles = Profiles::open(txn, moment)?;
    let heads = heads(txn, "", &profiles)?;
    let next_verify = verify_due.range((now.as_millis() + 1, 0)..)?.next().transpose()?;
    let next_verify = next_verify.map(|row| Timestamp::from_millis(row.0.value().0));
    let next_due = first_due.into_iter().chain(first_too_late).filter(|first| *first > now).min();
    let next_expiry = locks::next_profile_expiry(txn, moment)?;
    let over = locks::leases_over(&txn.open_table(tables::LOCK_EXPIRY)?, &txn.open_table(tables::LOCKS)?, moment)?;
    Ok(Outlook {
        heads,
        overdue: first_due.into_iter().chain(first_too_late).any(|first| first <= now) || is_spaced(txn, now)?,
        next_due: next_due.into_iter().chain(next_verify).chain(next_expiry).min(),
        to_settle: to_settle(&txn.open_table(tables::SETTLING)?, MAX_SETTLING)?,
        verifies: verifies(txn, &verify_due, &profiles, now)?,
        claims_over: over.iter().any(|lock| lock.owner.claim().is_some()),
        sessions_over: sessions_over(txn, moment)?,
        clock_suspect: meta.clock.is_some_and(|mark| mark.suspect_since.is_some()),
        catching_up: meta.catch_up.is_some(),
        pause: meta.pause,
    })
}

/// Lent browsers that nobody may use any more: their lease is over, or their worker has said how its item
/// ended, or somebody else has.
fn sessions_over(txn: &ReadTransaction, now: Moment) -> Result<Vec<Fence>, StoreError> {
    let mut over = Vec::new();
    for lock in locks::of_sessions(txn)? {
        let is_done = match lock.owner.claim() {
            Some((id, _)) => {
                item(txn, id)?.is_none_or(|item| item.state != ItemState::Running || item.fence != Some(lock.fence))
            }
            None => false,
        };
        if is_done || lock.is_expired(now) {
            over.push(lock.fence);
        }
    }
    Ok(over)
}

/// Whether something would be put off for its spacing if a worker asked.
fn is_spaced(txn: &ReadTransaction, now: Timestamp) -> Result<bool, StoreError> {
    let heads = txn.open_table(tables::READY_HEADS)?;
    let (items, tasks) = (txn.open_table(tables::ITEMS)?, txn.open_table(tables::TASKS)?);
    let profiles = txn.open_table(tables::PROFILES)?;
    Ok(!spaced_heads(&heads, &items, &tasks, &profiles, now, 1)?.is_empty())
}

/// The best item for a worker of these kinds: the highest priority first, the oldest within it.
pub(super) fn claimable(txn: &ReadTransaction, kinds: &[String], now: Moment) -> Result<Vec<Head>, StoreError> {
    if meta(txn)?.pause.is_some() {
        return Ok(Vec::new());
    }
    let profiles = Profiles::open(txn, now)?;
    let mut found = Vec::new();
    for kind in kinds {
        found.extend(heads(txn, kind, &profiles)?);
    }
    found.sort_by_key(|head| (std::cmp::Reverse(head.priority), head.item));
    Ok(found)
}

/// Which profiles could be used now.
struct Profiles {
    locks: ReadOnlyTable<(&'static str, &'static str), Bytes>,
    rows: ReadOnlyTable<&'static str, Bytes>,
    now: Moment,
}

impl Profiles {
    fn open(txn: &ReadTransaction, now: Moment) -> Result<Self, StoreError> {
        Ok(Self { locks: txn.open_table(tables::LOCKS)?, rows: txn.open_table(tables::PROFILES)?, now })
    }

    /// Neither locked nor parked nor resting.
    fn is_free(&self, profile: &str) -> Result<bool, StoreError> {
        if locks::get(&self.locks, &LockKind::PROFILE, profile)?.is_some_and(|lock| lock.is_held(self.now)) {
            return Ok(false);
        }
        let row = tables::get_named::<Profile>("profiles", &self.rows, profile)?;
        Ok(row.is_none_or(|row| row.parked.is_none() && row.rests_until.is_none_or(|until| until <= self.now.wall)))
    }
}

/// The first ready item of every free profile.
fn heads(txn: &ReadTransaction, lane: &str, profiles: &Profiles) -> Result<Vec<Head>, StoreError> {
    let mut heads = Vec::new();
    for row in txn.open_table(tables::READY_HEADS)?.range((lane, "")..)? {
        let (key, head) = row?;
        let (found, profile) = key.value();
        if found != lane || heads.len() == MAX_HEADS {
            break;
        }
        if profiles.is_free(profile)? {
            let wrong = |what: String| StoreError::Corrupt(format!("ready_heads: {what}"));
            let (_, rank, item) = head.value();
            let profile = ProfileId::new(profile).map_err(|error| wrong(error.to_string()))?;
            let priority = i32::try_from(i64::from(i32::MAX) - i64::from(rank))
                .map_err(|_| wrong("a rank that is no priority".to_owned()))?;
            heads.push(Head { profile, priority, item: ItemId::new(item) });
        }
    }
    Ok(heads)
}

/// The oldest verify that is due in every free profile.
fn verifies(
    txn: &ReadTransaction,
    verify_due: &ReadOnlyTable<(u64, u64), ()>,
    profiles: &Profiles,
    now: Timestamp,
) -> Result<Vec<Head>, StoreError> {
    let mut heads: Vec<Head> = Vec::new();
    for row in verify_due.range(..=(now.as_millis(), u64::MAX))?.take(MAX_VERIFIES) {
        let (_, id) = row?.0.value();
        let Some(item) = item(txn, ItemId::new(id))? else { continue };
        let taken = heads.iter().any(|head| head.profile == item.profile);
        if !taken && profiles.is_free(item.profile.as_str())? {
            heads.push(Head { profile: item.profile, priority: item.priority, item: item.id });
        }
    }
    Ok(heads)
}

pub(super) fn waiting(txn: &ReadTransaction, now: Timestamp) -> Result<Waiting, StoreError> {
    let meta = meta(txn)?;
    let mut ready = Vec::new();
    for row in txn.open_table(tables::READY_HEADS)?.iter()? {
        let (key, head) = row?;
        let (lane, profile) = key.value();
        let profile = ProfileId::new(profile).map_err(|error| StoreError::Corrupt(format!("ready_heads: {error}")))?;
        ready.push((lane.to_owned(), profile, head.value().0));
    }
    let due = txn.open_table(tables::DUE)?;
    let (next_scheduled, next_retry) = next_due(txn, &due, now)?;
    let overdue = overdue::of(txn, &due, now)?;
    for ((lane, profile), items) in overdue.by_profile {
        match ready.iter_mut().find(|(its_lane, its_profile, _)| *its_lane == lane && *its_profile == profile) {
            Some((.., ready)) => *ready += items,
            None => ready.push((lane, profile, items)),
        }
    }
    Ok(Waiting {
        ready,
        next_scheduled,
        next_retry,
        looks: looks(txn, now)?,
        scheduled: due.len()?.saturating_sub(meta.backing_off + overdue.scheduled),
        backing_off: meta.backing_off.saturating_sub(overdue.retries),
        overdue_retries: overdue.retries,
        paused: txn.open_table(tables::PAUSED)?.len()?,
        held_for_restore: meta.items[ItemState::Held as usize].saturating_sub(meta.held_for_clock),
        held_for_clock: meta.held_for_clock,
        outcome_unknown: meta.items[ItemState::OutcomeUnknown as usize],
        oldest: oldest_waiting(txn)?,
    })
}

/// When the first of the scheduled items comes due, and the first of those that back off. None also where a
/// look at many did not find it.
fn next_due(
    txn: &ReadTransaction,
    due: &ReadOnlyTable<(u64, u64), ()>,
    now: Timestamp,
) -> Result<(Option<Timestamp>, Option<Timestamp>), StoreError> {
    let (mut scheduled, mut retry) = (None, None);
    for row in due.range((now.as_millis() + 1, 0)..)?.take(DUE_SCAN) {
        let (at, id) = row?.0.value();
        let Some(item) = item(txn, ItemId::new(id))? else { continue };
        let first = if item.state == ItemState::RetryWait { &mut retry } else { &mut scheduled };
        first.get_or_insert(Timestamp::from_millis(at));
        if scheduled.is_some() && retry.is_some() {
            break;
        }
    }
    Ok((scheduled, retry))
}

/// Of the next verifies of unknown outcomes, those of one profile once: when each is due. Where every one of
/// a look at many is due already, or is in a parked profile, there may be more.
fn looks(txn: &ReadTransaction, now: Timestamp) -> Result<Vec<(ProfileId, Timestamp)>, StoreError> {
    let mut looks: Vec<(ProfileId, Timestamp)> = Vec::new();
    for row in txn.open_table(tables::VERIFY_DUE)?.range((now.as_millis() + 1, 0)..)?.take(DUE_SCAN) {
        let (at, id) = row?.0.value();
        let unknown = item(txn, ItemId::new(id))?.filter(|item| item.state == ItemState::OutcomeUnknown);
        let Some(item) = unknown else { continue };
        if looks.iter().all(|(profile, _)| *profile != item.profile) {
            looks.push((item.profile, Timestamp::from_millis(at)));
        }
    }
    Ok(looks)
}

/// Ids grow with time: the first of each waiting state is its oldest.
fn oldest_waiting(txn: &ReadTransaction) -> Result<Option<Timestamp>, StoreError> {
    let states = txn.open_table(tables::ITEM_STATES)?;
    let mut oldest: Option<Timestamp> = None;
    for state in [ItemState::Queued, ItemState::RetryWait, ItemState::Held, ItemState::OutcomeUnknown] {
        let Some(row) = states.range((state as u8, 0)..=(state as u8, u64::MAX))?.next() else { continue };
        let created_at = item(txn, ItemId::new(row?.0.value().1))?.map(|item| item.created_at);
        oldest = oldest.into_iter().chain(created_at).min();
    }
    Ok(oldest)
}

pub(super) fn leftovers(txn: &ReadTransaction) -> Result<Vec<Leftover>, StoreError> {
    let mut leftovers = Vec::new();
    for lock in locks::of_profiles(txn)? {
        let lock = lock?;
        let running = match &lock.owner {
            // No browser of ours is behind it; a claim outlives the daemon, and ends by its lease.
            LockOwner::Outside(_) | LockOwner::Claim { .. } => continue,
            LockOwner::Item(id) | LockOwner::Verify(id) => {
                item(txn, *id)?.filter(|item| item.state == ItemState::Running && item.fence == Some(lock.fence))
            }
            // Who may use a lent browser is known to the daemon that lent it alone: it is stopped.
            LockOwner::Operator | LockOwner::Session { .. } => None,
        };
        let running = match running {
            Some(item) => {
                let task = get("tasks", &txn.open_table(tables::TASKS)?, item.task.raw())?
                    .ok_or_else(|| StoreError::Corrupt(format!("tasks: no row of {}", item.task)))?;
                let intent = intent(txn, item.task)?;
                Some((item, task, intent))
            }
            None => None,
        };
        leftovers.push(Leftover { lock, running });
    }
    Ok(leftovers)
}

pub(super) fn stats(txn: &ReadTransaction) -> Result<StoreStats, StoreError> {
    let meta = meta(txn)?;
    let items_by_state = ItemState::ALL.into_iter().zip(meta.items).collect();
    Ok(StoreStats {
        schema: super::SCHEMA_VERSION,
        epoch: meta.epoch,
        items_by_state,
        tasks: txn.open_table(tables::TASKS)?.len()?,
        pause: meta.pause,
        ..StoreStats::default()
    })
}
