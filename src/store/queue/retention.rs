//! Forgetting finished tasks, by age and by count, in small steps.
//!
//! What is forgotten is the task, its items, its log, its intents and its webhooks' deliveries. Keys and what an Idempotency-Key made
//! stay: the same thing is not published again because its task was forgotten (fence.md rule 2). The
//! evidence on the disk goes first, by the caller, who names the items of each task. Which files the items name
//! is told here as well, to the caller that removes those which none does.

use std::convert::Infallible;
use std::path::PathBuf;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::super::tables::{FINISHED, ITEMS, PrunedRow, TASK_ITEMS, Tx};
use super::super::writer::Ran;
use super::super::{NamedFiles, Prunable, StoreError, codec, outbox};
use crate::model::{InputValue, Item, ItemId, ItemState, Task, TaskId, Timestamp};

/// The finished tasks to forget next, oldest end first: those that ended before `before`, and the oldest
/// beyond `keep`. At most `limit`.
pub(in crate::store) fn prunable(
    txn: &ReadTransaction,
    before: Timestamp,
    keep: u64,
    limit: usize,
) -> Result<Vec<Prunable>, StoreError> {
    let finished = txn.open_table(FINISHED)?;
    let beyond = finished.len()?.saturating_sub(keep);
    let index = txn.open_table(TASK_ITEMS)?;
    let mut found = Vec::new();
    for (number, row) in (0..).zip(finished.iter()?.take(limit)) {
        let (finished_at, task) = row?.0.value();
        if finished_at >= before.as_millis() && number >= beyond {
            break;
        }
        let items = index.range((task, 0)..=(task, u64::MAX))?;
        let items = items.map(|row| Ok(ItemId::new(row?.0.value().1))).collect::<Result<_, StoreError>>()?;
        found.push(Prunable { task: TaskId::new(task), items });
    }
    Ok(found)
}

/// The files that items name, whatever their state: `limit` items from `from` on, in the order of their ids.
pub(in crate::store) fn files_named(txn: &ReadTransaction, from: u64, limit: usize) -> Result<NamedFiles, StoreError> {
    let mut named = NamedFiles::default();
    for (number, row) in txn.open_table(ITEMS)?.range(from..)?.enumerate() {
        let (id, row) = row?;
        if number >= limit {
            named.next = Some(id.value());
            break;
        }
        named.files.extend(files_in(row.value())?);
    }
    Ok(named)
}

/// The files that these items name.
pub(in crate::store) fn files_of(txn: &ReadTransaction, items: &[ItemId]) -> Result<Vec<PathBuf>, StoreError> {
    let table = txn.open_table(ITEMS)?;
    let mut files = Vec::new();
    for item in items {
        if let Some(row) = table.get(item.raw())? {
            files.extend(files_in(row.value())?);
        }
    }
    Ok(files)
}

fn files_in(row: &[u8]) -> Result<Vec<PathBuf>, StoreError> {
    let item: Item = codec::decode("items", row)?;
    Ok(item
        .inputs
        .into_values()
        .filter_map(|input| if let InputValue::File(file) = input { Some(file.path) } else { None })
        .collect())
}

/// Forgets `limit` items of a finished task, and the task with its last one. True: it is forgotten.
pub(in crate::store) fn prune(tx: &mut Tx<'_>, id: TaskId, limit: usize) -> Ran<bool, Infallible> {
    let Some(mut task) = tx.task(id)? else { return Ok(Ok(true)) };
    // Retried since: it is not finished any more.
    let Some(finished_at) = task.finished_at else { return Ok(Ok(true)) };
    tx.writes += 1;
    remember(tx, &task)?;
    let events = ids_under(&tx.events, id.raw(), limit)?;
    for number in &events {
        tx.events.remove((id.raw(), *number))?;
    }
    let was = task.counts.state();
    let items = ids_under(&tx.task_items, id.raw(), limit)?;
    for item in &items {
        let state = forget_item(tx, id, ItemId::new(*item))?;
        task.counts.remove(state);
    }
    let more_told = outbox::forget(tx, id, limit)?;
    tx.task_states.remove((was as u8, id.raw()))?;
    if more_told || events.len() == limit || items.len() == limit {
        tx.task_states.insert((task.counts.state() as u8, id.raw()), ())?;
        tx.put_task(&task)?;
        return Ok(Ok(false));
    }
    tx.tasks.remove(id.raw())?;
    tx.intents.remove(id.raw())?;
    tx.settling.remove(id.raw())?;
    tx.finished.remove((finished_at.as_millis(), id.raw()))?;
    tx.task_flows.remove((task.flow.as_str(), id.raw()))?;
    Ok(Ok(true))
}

/// Whoever sends its Idempotency-Key again is told how it ended: before the first of its items is forgotten, since its
/// counters go down with them.
fn remember(tx: &mut Tx<'_>, task: &Task) -> Result<(), StoreError> {
    if task.idempotency.is_some() && tx.pruned.get(task.id.raw())?.is_none() {
        let row = PrunedRow { state: task.counts.state(), items: task.counts.total() };
        tx.pruned.insert(task.id.raw(), codec::encode(&row)?.as_slice())?;
    }
    Ok(())
}

fn ids_under<V: redb::Value + 'static>(
    index: &impl ReadableTable<(u64, u64), V>,
    key: u64,
    limit: usize,
) -> Result<Vec<u64>, StoreError> {
    index.range((key, 0)..=(key, u64::MAX))?.take(limit).map(|row| Ok(row?.0.value().1)).collect()
}

fn forget_item(tx: &mut Tx<'_>, task: TaskId, id: ItemId) -> Result<ItemState, StoreError> {
    let item = tx.item(id)?.ok_or_else(|| StoreError::Corrupt(format!("task_items: no item {id}")))?;
    tx.items.remove(id.raw())?;
    tx.settled_published.remove(id.raw())?;
    tx.task_items.remove((task.raw(), id.raw()))?;
    tx.item_states.remove((item.state as u8, id.raw()))?;
    tx.item_profiles.remove((item.profile.as_str(), id.raw()))?;
    let place = (item.profile.as_str(), task.raw());
    let left = tx.task_profiles.get(place)?.map_or(0, |row| row.value()).saturating_sub(1);
    if left == 0 {
        tx.task_profiles.remove(place)?
    } else {
        tx.task_profiles.insert(place, left)?
    };
    tx.meta.items[item.state as usize] -= 1;
    Ok(item.state)
}
