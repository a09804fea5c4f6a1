//! What a person asks of a task: cancel, pause, resume, retry.
//!
//! The request writes an intent, which counts at once wherever an item would start; carrying it out on
//! every item is the engine's, in steps ([`settle`]). A retry is a submit of failed items once more: it
//! answers with what it did, so it is done by the request itself, in steps as well. What was ever armed
//! is skipped unless a person said that it did not publish (fence.md rule 14).

use std::convert::Infallible;

use redb::ReadableTable;

use super::super::tables::{self, Tx};
use super::super::writer::Ran;
use super::super::{Ask, RetryStep, Settled, SkipReason, StoreError, codec};
use super::key_hash;
use crate::model::{Failure, FailureCode, Item, ItemId, ItemState, Place, TaskId, Timestamp};

/// Writes what is asked. False: no such task. Asking twice is asking once, and a finished task is past it.
pub(in crate::store) fn ask(tx: &mut Tx<'_>, id: TaskId, ask: Ask, now: Timestamp) -> Ran<bool, Infallible> {
    let Some(task) = tx.task(id)? else { return Ok(Ok(false)) };
    let was = tx.intent(id)?;
    let mut is = was;
    let kind = match ask {
        Ask::Cancel => {
            is.cancel_requested_at.get_or_insert(now);
            "cancel_requested"
        }
        Ask::Pause => {
            is.paused_at.get_or_insert(now);
            "paused"
        }
        Ask::Resume => {
            is.paused_at = None;
            "resumed"
        }
    };
    if is != was && !task.counts.state().is_terminal() {
        tx.writes += 1;
        tx.intents.insert(id.raw(), codec::encode(&is)?.as_slice())?;
        tx.settling.insert(id.raw(), 0)?;
        tx.log(id, None, kind, "", now)?;
    }
    Ok(Ok(true))
}

/// Carries a task's intent out on its items, looking at `limit` of them.
pub(in crate::store) fn settle(tx: &mut Tx<'_>, id: TaskId, limit: usize, now: Timestamp) -> Ran<Settled, Infallible> {
    let intent = tx.intent(id)?;
    let canceled = intent.cancel_requested_at.is_some();
    let Some(from) = tx.settling.get(id.raw())?.map(|row| row.value()) else {
        return Ok(Ok(Settled { canceled, more: false }));
    };
    let items = items_from(tx, id, from, limit)?;
    for item in &items {
        if canceled {
            if item.state.is_waiting() || item.state == ItemState::Held {
                cancel_one(tx, item, now)?;
            }
        } else if item.state.is_waiting() && (item.place == Place::Paused) != intent.paused_at.is_some() {
            tx.move_item(item, item.clone(), now)?;
        }
    }
    let more = items.len() == limit;
    tx.writes += 1;
    match items.last().filter(|_| more) {
        Some(last) => tx.settling.insert(id.raw(), last.id.raw() + 1)?,
        None => tx.settling.remove(id.raw())?,
    };
    Ok(Ok(Settled { canceled, more }))
}

fn items_from(tx: &Tx<'_>, task: TaskId, from: u64, limit: usize) -> Result<Vec<Item>, StoreError> {
    let range = tx.task_items.range((task.raw(), from)..=(task.raw(), u64::MAX))?;
    range
        .take(limit)
        .map(|row| {
            let (_, id) = row?.0.value();
            tables::get("items", &tx.items, id)?
                .ok_or_else(|| StoreError::Corrupt(format!("task_items: no item {}", ItemId::new(id))))
        })
        .collect()
}

pub(super) fn cancel_one(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<(), StoreError> {
    let failure = Failure::new(FailureCode::Canceled, "canceled on request");
    let canceled = Item {
        state: ItemState::Canceled,
        held_for: None,
        verify: None,
        failure: Some(failure),
        finished_at: Some(now),
        ..item.clone()
    };
    let canceled = tx.change_item(item, canceled, "canceled", "", now)?;
    tx.free_key_of_ended(&canceled)
}

/// Queues a task's failed items again, and says which others may have published, looking at `limit` items from `from` on. None: no such task.
pub(in crate::store) fn retry(
    tx: &mut Tx<'_>,
    id: TaskId,
    from: u64,
    limit: usize,
    now: Timestamp,
) -> Ran<Option<RetryStep>, Infallible> {
    if tx.task(id)?.is_none() {
        return Ok(Ok(None));
    }
    let items = items_from(tx, id, from, limit)?;
    let mut step = RetryStep::default();
    for item in items.iter().filter(|item| matches!(item.state, ItemState::Failed | ItemState::OutcomeUnknown)) {
        match retry_one(tx, item, now)? {
            None => step.retried += 1,
            Some(reason) => step.skipped.push((item.id, reason)),
        }
    }
    step.next = items.last().filter(|_| items.len() == limit).map(|last| last.id.raw() + 1);
    if step.retried > 0 {
        // An old cancel was for what waited then.
        let mut intent = tx.intent(id)?;
        if intent.cancel_requested_at.take().is_some() {
            tx.writes += 1;
            tx.intents.insert(id.raw(), codec::encode(&intent)?.as_slice())?;
        }
        tx.log(id, None, "retried", &format!("{} items", step.retried), now)?;
    }
    Ok(Ok(Some(step)))
}

fn retry_one(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<Option<SkipReason>, StoreError> {
    if item.may_have_published() || item.state == ItemState::OutcomeUnknown {
        return Ok(Some(SkipReason::WasArmed));
    }
    if let Some(key) = &item.key {
        let hash = key_hash(key);
        let holder = tx.keys.get(&hash)?.map(|row| row.value());
        if holder.is_some_and(|holder| holder != item.id.raw()) {
            return Ok(Some(SkipReason::KeyTaken));
        }
        tx.writes += 1;
        tx.keys.insert(&hash, item.id.raw())?;
    }
    let again = Item {
        state: ItemState::Queued,
        due_at: item.not_before.unwrap_or(Timestamp::ZERO),
        attempts_before: item.attempts,
        failure: None,
        finished_at: None,
        ..item.clone()
    };
    tx.change_item(item, again, "queued", "retried on request", now)?;
    Ok(None)
}

/// Tasks whose intent waits for the engine.
pub(in crate::store) fn to_settle(
    settling: &impl ReadableTable<u64, u64>,
    limit: usize,
) -> Result<Vec<TaskId>, StoreError> {
    settling.range::<u64>(..)?.take(limit).map(|row| Ok(TaskId::new(row?.0.value()))).collect()
}
