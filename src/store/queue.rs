//! The queue's rows: how one item or task is written together with everything that follows from it.
//!
//! Every operation that moves an item goes through [`Tx::change_item`], so that its indexes, its task's
//! counters, the log line and what webhooks are told change in the same transaction. Called by the operations beside this file.
//! Whether a move is allowed is decided there, not here.

pub(super) mod claims;
pub(super) mod clock;
pub(super) mod enqueue;
pub(super) mod lent;
pub(super) mod outcome;
pub(super) mod progress;
pub(super) mod recover;
pub(super) mod retention;
pub(super) mod settle;

use std::time::Duration;

use redb::ReadableTable;
use sha2::{Digest, Sha256};

pub(super) use super::media::hex;
use super::tables::{self, Tx};
use super::{EventRow, News, StoreError, codec};
use crate::meter::Mark;
use crate::model::id::SEQUENCE_BITS;
use crate::model::{
    HeldFor, HookEvent, Intent, Item, ItemId, ItemState, Place, Profile, Task, TaskEvent, TaskId, Timestamp,
};

/// The place of a priority in an index that is read from its begin: the highest first.
pub(super) fn rank_of(priority: i32) -> u32 {
    u32::try_from(i64::from(i32::MAX) - i64::from(priority)).expect("the difference of two i32 fits u32")
}

/// What the ledger and the key table keep of a key: never the key itself.
pub(super) fn key_hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The way back from [`hex`]; None for what is not 64 hex digits.
pub(super) fn key_hash_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

/// The part of the ready index that an item stands in.
pub(super) fn lane_of(item: &Item) -> &str {
    item.external.as_deref().unwrap_or_default()
}

fn is_held_for_clock(item: &Item) -> bool {
    item.state == ItemState::Held && item.held_for == Some(HeldFor::Clock)
}

impl Tx<'_> {
    /// The last id, fence or log number that was given out.
    pub fn last_number(&self) -> u64 {
        self.meta.epoch << SEQUENCE_BITS | self.meta.sequence
    }

    pub fn items_in(&self, state: ItemState) -> Result<Vec<ItemId>, StoreError> {
        let range = (state as u8, 0)..=(state as u8, u64::MAX);
        self.item_states.range(range)?.map(|row| Ok(ItemId::new(row?.0.value().1))).collect()
    }

    pub fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        tables::get("tasks", &self.tasks, id.raw())
    }

    pub fn item(&self, id: ItemId) -> Result<Option<Item>, StoreError> {
        tables::get("items", &self.items, id.raw())
    }

    pub fn intent(&self, task: TaskId) -> Result<Intent, StoreError> {
        Ok(tables::get("intents", &self.intents, task.raw())?.unwrap_or_default())
    }

    pub fn profile(&self, id: &str) -> Result<Option<Profile>, StoreError> {
        tables::get_named("profiles", &self.profiles, id)
    }

    pub fn put_profile(&mut self, profile: &Profile) -> Result<(), StoreError> {
        self.writes += 1;
        self.profiles.insert(profile.id.as_str(), codec::encode(profile)?.as_slice())?;
        Ok(())
    }

    /// One line of a task's log.
    pub fn log(
        &mut self,
        task: TaskId,
        item: Option<ItemId>,
        kind: &str,
        detail: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.writes += 1;
        let event = TaskEvent { at, item, kind: kind.to_owned(), detail: detail.to_owned() };
        let number = self.next_number();
        self.events.insert((task.raw(), number), codec::encode(&event)?.as_slice())?;
        self.told.push(News::Line { task, row: EventRow { number, event } });
        Ok(())
    }

    /// A new item, with its indexes. The task's counters are the caller's (`enqueue` writes them once).
    pub fn insert_item(&mut self, item: &Item) -> Result<(), StoreError> {
        self.task_items.insert((item.task.raw(), item.id.raw()), ())?;
        self.item_profiles.insert((item.profile.as_str(), item.id.raw()), ())?;
        self.write_item(item)?;
        self.meta.items[item.state as usize] += 1;
        self.index_state(item)
    }

    /// Changes an item with its indexes, its task's counters and a line of the task's log. `place` is
    /// set here. `was` is the record as it stands in the table.
    pub fn change_item(
        &mut self,
        was: &Item,
        is: Item,
        kind: &str,
        detail: &str,
        now: Timestamp,
    ) -> Result<Item, StoreError> {
        let is = self.move_item(was, is, now)?;
        self.log(is.task, Some(is.id), kind, detail, now)?;
        if was.state != is.state {
            self.meta.items[was.state as usize] -= 1;
            self.meta.items[is.state as usize] += 1;
            self.mark_move(was, &is, now);
            self.shift_counts(&is, was.state, now)?;
        }
        Ok(is)
    }

    fn mark_move(&mut self, was: &Item, is: &Item, now: Timestamp) {
        self.marks.push(Mark::Item(is.state));
        if is.state == ItemState::Running {
            self.marks.push(Mark::AttemptStarted);
        }
        if was.state == ItemState::Running {
            let after = was.started_at.map_or(Duration::ZERO, |started| now.since(started));
            self.marks.push(Mark::AttemptEnded { state: is.state, after });
        }
    }

    /// The part of [`Self::change_item`] for a change that keeps the state and is nobody's news.
    pub fn move_item(&mut self, was: &Item, mut is: Item, now: Timestamp) -> Result<Item, StoreError> {
        is.place = self.place_of(&is, now)?;
        self.unindex_state(was)?;
        self.write_item(&is)?;
        self.index_state(&is)?;
        Ok(is)
    }

    fn place_of(&self, item: &Item, now: Timestamp) -> Result<Place, StoreError> {
        Ok(if !item.state.is_waiting() {
            Place::Off
        } else if self.intent(item.task)?.paused_at.is_some() {
            Place::Paused
        } else if item.due_at <= now && !self.is_due_by_suspect_clock(item.due_at) {
            Place::Ready
        } else {
            Place::Due
        })
    }

    fn write_item(&mut self, item: &Item) -> Result<(), StoreError> {
        self.writes += 1;
        self.items.insert(item.id.raw(), codec::encode(item)?.as_slice())?;
        Ok(())
    }

    /// The indexes of an item's state and place, and their counters.
    pub fn index_state(&mut self, item: &Item) -> Result<(), StoreError> {
        let id = item.id.raw();
        self.item_states.insert((item.state as u8, id), ())?;
        match item.place {
            Place::Off => {}
            Place::Ready => {
                let (lane, profile, rank) = (lane_of(item), item.profile.as_str(), rank_of(item.priority));
                self.ready.insert((lane, profile, rank, id), ())?;
                let head = self.ready_heads.get((lane, profile))?.map(|row| row.value());
                let (count, first_rank, first) = head.unwrap_or((0, rank, id));
                let (first_rank, first) = (first_rank, first).min((rank, id));
                self.ready_heads.insert((lane, profile), (count + 1, first_rank, first))?;
            }
            Place::Due => {
                self.due.insert((item.due_at.as_millis(), id), ())?;
                self.meta.backing_off += u64::from(item.state == ItemState::RetryWait);
            }
            Place::Paused => {
                self.paused.insert(id, ())?;
            }
        }
        if let Some(not_after) = item.not_after.filter(|_| item.place != Place::Off) {
            self.not_after.insert((not_after.as_millis(), id), ())?;
        }
        if let Some(next_at) = item.verify.and_then(|plan| plan.next_at) {
            self.verify_due.insert((next_at.as_millis(), id), ())?;
        }
        self.meta.held_for_clock += u64::from(is_held_for_clock(item));
        Ok(())
    }

    fn unindex_state(&mut self, item: &Item) -> Result<(), StoreError> {
        let id = item.id.raw();
        self.item_states.remove((item.state as u8, id))?;
        match item.place {
            Place::Off => {}
            Place::Ready => {
                self.unindex_ready(item)?;
            }
            Place::Due => {
                self.due.remove((item.due_at.as_millis(), id))?;
                self.meta.backing_off -= u64::from(item.state == ItemState::RetryWait);
            }
            Place::Paused => {
                self.paused.remove(id)?;
            }
        }
        if let Some(not_after) = item.not_after.filter(|_| item.place != Place::Off) {
            self.not_after.remove((not_after.as_millis(), id))?;
        }
        if let Some(next_at) = item.verify.and_then(|plan| plan.next_at) {
            self.verify_due.remove((next_at.as_millis(), id))?;
        }
        self.meta.held_for_clock -= u64::from(is_held_for_clock(item));
        Ok(())
    }

    fn unindex_ready(&mut self, item: &Item) -> Result<(), StoreError> {
        let (lane, profile, rank) = (lane_of(item), item.profile.as_str(), rank_of(item.priority));
        self.ready.remove((lane, profile, rank, item.id.raw()))?;
        let head = self.ready_heads.get((lane, profile))?.map(|row| row.value());
        let (count, mut first_rank, mut first) =
            head.ok_or_else(|| StoreError::Corrupt(format!("ready_heads: {} was ready and has no row", item.id)))?;
        if first == item.id.raw() {
            let last = (lane, profile, u32::MAX, u64::MAX);
            let Some(next) = self.ready.range((lane, profile, rank, first)..=last)?.next() else {
                self.ready_heads.remove((lane, profile))?;
                return Ok(());
            };
            let key = next?.0;
            (.., first_rank, first) = key.value();
        }
        self.ready_heads.insert((lane, profile), (count - 1, first_rank, first))?;
        Ok(())
    }

    /// The item's task with its counters and its indexes, and what is told of both.
    fn shift_counts(&mut self, item: &Item, from: ItemState, now: Timestamp) -> Result<(), StoreError> {
        let id = item.task;
        let mut task =
            self.task(id)?.ok_or_else(|| StoreError::Corrupt(format!("tasks: {id} has items but no row")))?;
        let was = task.counts.state();
        task.counts.shift(from, item.state);
        let is = task.counts.state();
        if was != is {
            self.task_states.remove((was as u8, id.raw()))?;
            self.task_states.insert((is as u8, id.raw()), ())?;
            if let Some(finished_at) = task.finished_at.take() {
                self.finished.remove((finished_at.as_millis(), id.raw()))?;
            }
            if is.is_terminal() {
                task.finished_at = Some(now);
                self.marks.push(Mark::TaskEnded { state: is, after: now.since(task.created_at) });
                self.finished.insert((now.as_millis(), id.raw()), ())?;
                self.open_flows.remove((task.flow.as_str(), id.raw()))?;
            } else {
                self.open_flows.insert((task.flow.as_str(), id.raw()), ())?;
            }
        }
        self.put_task(&task)?;
        let told = match item.state {
            ItemState::Succeeded => Some(HookEvent::Succeeded),
            ItemState::Failed => Some(HookEvent::Failed),
            ItemState::OutcomeUnknown => Some(HookEvent::OutcomeUnknown),
            _ => None,
        };
        if let Some(event) = told {
            self.notify(&task, Some(item), event, now)?;
        }
        if was != is && is.is_terminal() {
            self.notify(&task, None, HookEvent::TaskFinished, now)?;
        }
        Ok(())
    }

    pub fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        self.writes += 1;
        self.tasks.insert(task.id.raw(), codec::encode(task)?.as_slice())?;
        Ok(())
    }

    /// Frees the key of an item that ended and cannot have published (fence.md rule 2).
    pub fn free_key_of_ended(&mut self, item: &Item) -> Result<(), StoreError> {
        let ended = matches!(item.state, ItemState::Failed | ItemState::Canceled);
        if let Some(key) = item.key.as_ref().filter(|_| ended && !item.may_have_published()) {
            let hash = key_hash(key);
            let held = self.keys.get(&hash)?.map(|row| row.value());
            if held == Some(item.id.raw()) {
                self.writes += 1;
                self.keys.remove(&hash)?;
            }
        }
        Ok(())
    }
}
