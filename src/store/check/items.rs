//! Tasks and items: their indexes, their counters, their keys, and that no number was never given out.
//!
//! Walks task by task over the items of each. Called by [`super::differences`] alone.

use std::collections::BTreeMap;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::index::{Found, Index};
use crate::model::{Counts, HeldFor, Item, ItemId, ItemState, LockOwner, Place, ProfileId, Task, TaskId};
use crate::store::queue::enqueue::likeness;
use crate::store::queue::{key_hash, lane_of, rank_of};
use crate::store::tables::{self, Bytes, Hash, Meta};
use crate::store::{StoreError, codec, reads};

/// Every index of tasks and items.
struct Indexes {
    task_states: Index<(u8, u64), ()>,
    task_flows: Index<(&'static str, u64), ()>,
    open_flows: Index<(&'static str, u64), ()>,
    task_profiles: Index<(&'static str, u64), u32>,
    finished: Index<(u64, u64), ()>,
    item_states: Index<(u8, u64), ()>,
    item_profiles: Index<(&'static str, u64), ()>,
    ready: Index<(&'static str, &'static str, u32, u64), ()>,
    due: Index<(u64, u64), ()>,
    not_after: Index<(u64, u64), ()>,
    paused: Index<u64, ()>,
    verify_due: Index<(u64, u64), ()>,
    keys: ReadOnlyTable<Hash, u64>,
    locks: ReadOnlyTable<(&'static str, &'static str), Bytes>,
}

impl Indexes {
    fn open(txn: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            task_states: Index::open(txn, tables::TASK_STATES)?,
            task_flows: Index::open(txn, tables::TASK_FLOWS)?,
            open_flows: Index::open(txn, tables::OPEN_FLOWS)?,
            task_profiles: Index::open(txn, tables::TASK_PROFILES)?,
            finished: Index::open(txn, tables::FINISHED)?,
            item_states: Index::open(txn, tables::ITEM_STATES)?,
            item_profiles: Index::open(txn, tables::ITEM_PROFILES)?,
            ready: Index::open(txn, tables::READY)?,
            due: Index::open(txn, tables::DUE)?,
            not_after: Index::open(txn, tables::NOT_AFTER)?,
            paused: Index::open(txn, tables::PAUSED)?,
            verify_due: Index::open(txn, tables::VERIFY_DUE)?,
            keys: txn.open_table(tables::KEYS)?,
            locks: txn.open_table(tables::LOCKS)?,
        })
    }

    fn finish(self, found: &mut Found) -> Result<(), StoreError> {
        self.task_states.finish(found)?;
        self.task_flows.finish(found)?;
        self.open_flows.finish(found)?;
        self.task_profiles.finish(found)?;
        self.finished.finish(found)?;
        self.item_states.finish(found)?;
        self.item_profiles.finish(found)?;
        self.ready.finish(found)?;
        self.due.finish(found)?;
        self.not_after.finish(found)?;
        self.paused.finish(found)?;
        self.verify_due.finish(found)
    }

    fn task(&mut self, task: &Task, found: &mut Found) -> Result<(), StoreError> {
        let (id, state) = (task.id.raw(), task.counts.state());
        self.task_states.expect((state as u8, id), found)?;
        self.task_flows.expect((&task.flow, id), found)?;
        if !state.is_terminal() {
            self.open_flows.expect((&task.flow, id), found)?;
        }
        if let Some(finished_at) = task.finished_at {
            self.finished.expect((finished_at.as_millis(), id), found)?;
        }
        if task.finished_at.is_some() != state.is_terminal() {
            found.tell(|| format!("{}: finished_at does not fit its state", task.id));
        }
        Ok(())
    }

    fn item(&mut self, item: &Item, found: &mut Found) -> Result<(), StoreError> {
        let id = item.id.raw();
        self.item_states.expect((item.state as u8, id), found)?;
        self.item_profiles.expect((item.profile.as_str(), id), found)?;
        match item.place {
            Place::Ready => {
                let key = (lane_of(item), item.profile.as_str(), rank_of(item.priority), id);
                self.ready.expect(key, found)?;
            }
            Place::Due => self.due.expect((item.due_at.as_millis(), id), found)?,
            Place::Paused => self.paused.expect(id, found)?,
            Place::Off => {}
        }
        if let Some(not_after) = item.not_after.filter(|_| item.place != Place::Off) {
            self.not_after.expect((not_after.as_millis(), id), found)?;
        }
        if let Some(next_at) = item.verify.and_then(|verify| verify.next_at) {
            self.verify_due.expect((next_at.as_millis(), id), found)?;
        }
        fits_itself(item, found);
        self.key(item, found)?;
        self.lock(item, found)
    }

    /// Every item that may publish, or may have, holds its key; a row without its item outlived it.
    fn key(&self, item: &Item, found: &mut Found) -> Result<(), StoreError> {
        let Some(key) = &item.key else { return Ok(()) };
        let free = matches!(item.state, ItemState::Failed | ItemState::Canceled) && !item.may_have_published();
        let holder = self.keys.get(&key_hash(key))?.map(|row| row.value());
        if !free && holder != Some(item.id.raw()) {
            found.tell(|| format!("keys: {} does not hold its key ({holder:?} does)", item.id));
        }
        if free && holder == Some(item.id.raw()) {
            found.tell(|| format!("keys: {} ended without having published and still holds its key", item.id));
        }
        Ok(())
    }

    /// One running item a profile, and it holds the profile's lock under its own fence.
    fn lock(&self, item: &Item, found: &mut Found) -> Result<(), StoreError> {
        if item.state != ItemState::Running {
            return Ok(());
        }
        let kind = crate::model::LockKind::PROFILE.to_string();
        let row = self.locks.get((kind.as_str(), item.profile.as_str()))?;
        let lock = row.map(|row| codec::decode::<crate::model::Lock>("locks", row.value())).transpose()?;
        let is_its = |owner: &LockOwner| match owner {
            LockOwner::Item(id) => *id == item.id,
            owner => owner.claim().is_some_and(|(id, _)| id == item.id),
        };
        if !lock.is_some_and(|lock| Some(lock.fence) == item.fence && is_its(&lock.owner)) {
            found.tell(|| format!("locks: {} runs without the lock of profile {}", item.id, item.profile));
        }
        Ok(())
    }
}

/// An item waits in a place exactly while its state says that it waits.
fn fits_itself(item: &Item, found: &mut Found) {
    if (item.place != Place::Off) != item.state.is_waiting() {
        found.tell(|| format!("{}: {:?} does not fit {}", item.id, item.place, item.state));
    }
    let may_verify = matches!(item.state, ItemState::OutcomeUnknown | ItemState::Held);
    if item.verify.is_some() && !may_verify || item.held_for.is_some() != (item.state == ItemState::Held) {
        found.tell(|| format!("{}: {} with {:?} and {:?}", item.id, item.state, item.verify, item.held_for));
    }
}

/// What the store counts of all items.
#[derive(Default)]
struct Totals {
    by_state: [u64; ItemState::ALL.len()],
    backing_off: u64,
    held_for_clock: u64,
    items: u64,
}

impl Totals {
    fn add(&mut self, item: &Item) {
        self.items += 1;
        self.by_state[item.state as usize] += 1;
        self.backing_off += u64::from(item.place == Place::Due && item.state == ItemState::RetryWait);
        self.held_for_clock += u64::from(item.held_for == Some(HeldFor::Clock));
    }

    fn compare(&self, meta: &Meta, found: &mut Found) {
        if meta.items != self.by_state {
            found.tell(|| format!("meta: items by state {:?}, they are {:?}", meta.items, self.by_state));
        }
        let places = (self.backing_off, self.held_for_clock);
        if (meta.backing_off, meta.held_for_clock) != places {
            found.tell(|| format!("meta: {meta:?}, but those that back off and are held for the clock are {places:?}"));
        }
    }
}

pub(super) fn check(txn: &ReadTransaction, found: &mut Found) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let (tasks, items) = (txn.open_table(tables::TASKS)?, txn.open_table(tables::ITEMS)?);
    let of_task = txn.open_table(tables::TASK_ITEMS)?;
    let mut indexes = Indexes::open(txn)?;
    let mut totals = Totals::default();
    let not_given_out = |number: u64, found: &mut Found| {
        if number > last {
            found.tell(|| format!("numbers: {number} is above the last, {last}"));
        }
    };
    for row in tasks.iter()? {
        let task: Task = codec::decode("tasks", row?.1.value())?;
        let id = task.id.raw();
        not_given_out(id, found);
        indexes.task(&task, found)?;
        let (mut counts, mut profiles) = (Counts::default(), BTreeMap::<ProfileId, u32>::new());
        for row in of_task.range((id, 0)..=(id, u64::MAX))? {
            let (_, item) = row?.0.value();
            let Some(item) = tables::get::<Item>("items", &items, item)? else {
                found.tell(|| format!("task_items: {} of {} is no item", ItemId::new(item), task.id));
                continue;
            };
            if item.task != task.id {
                found.tell(|| format!("task_items: {} of {} belongs to {}", item.id, task.id, item.task));
            }
            not_given_out(item.id.raw(), found);
            not_given_out(item.fence.map_or(0, crate::model::Fence::raw), found);
            counts.add(item.state);
            *profiles.entry(item.profile.clone()).or_default() += 1;
            totals.add(&item);
            indexes.item(&item, found)?;
        }
        if task.counts != counts {
            found.tell(|| format!("{}: counters say {:?}, items say {counts:?}", task.id, task.counts));
        }
        for (profile, count) in profiles {
            indexes.task_profiles.expect_fitting((profile.as_str(), id), |held| held == count, found)?;
        }
    }
    indexes.finish(found)?;
    totals.compare(&meta, found);
    // Every item was met under its own task, and nothing else was.
    let (rows, met) = (items.len()?, of_task.len()?);
    if rows != totals.items || met != totals.items {
        let seen = totals.items;
        found.tell(|| format!("task_items: {seen} items belong to tasks, there are {rows}, and {met} rows here"));
    }
    ready_heads(txn, found)?;
    duplicates(txn, found)
}

/// How many a lane and profile has ready, and the first of them.
fn ready_heads(txn: &ReadTransaction, found: &mut Found) -> Result<(), StoreError> {
    let mut heads = Index::open(txn, tables::READY_HEADS)?;
    let mut group: Option<(String, String, (u64, u32, u64))> = None;
    let mut rows = txn.open_table(tables::READY)?.range_owned::<(&str, &str, u32, u64)>(..)?;
    loop {
        let row = rows.next().transpose()?;
        let key = row.as_ref().map(|(key, _)| key.value());
        match (&mut group, key) {
            (Some((lane, profile, head)), Some((of_lane, of_profile, ..)))
                if lane == of_lane && profile == of_profile =>
            {
                head.0 += 1;
            }
            (before, next) => {
                if let Some((lane, profile, head)) = before.take() {
                    heads.expect_fitting((&lane, &profile), |held| held == head, found)?;
                }
                let Some((lane, profile, rank, id)) = next else { break };
                group = Some((lane.to_owned(), profile.to_owned(), (1, rank, id)));
            }
        }
    }
    heads.finish(found)
}

fn duplicates(txn: &ReadTransaction, found: &mut Found) -> Result<(), StoreError> {
    for row in txn.open_table(tables::DUPLICATES)?.iter()? {
        let (hash, id) = row?;
        let Some(item) = reads::item(txn, ItemId::new(id.value()))? else { continue };
        let flow = flow_of(txn, item.task)?;
        if likeness(&flow, &item) != Some(*hash.value()) {
            found.tell(|| format!("duplicates: {} stands under another likeness", item.id));
        }
    }
    Ok(())
}

fn flow_of(txn: &ReadTransaction, task: TaskId) -> Result<String, StoreError> {
    let task = tables::get::<Task>("tasks", &txn.open_table(tables::TASKS)?, task.raw())?;
    Ok(task.map(|task| task.flow).unwrap_or_default())
}
