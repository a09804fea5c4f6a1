//! The whole state as text, and the proof that every index says what its primary table says.
//!
//! [`differences`] rebuilds each index from tasks and items and compares both ways, counters included;
//! the tests call it after every step they can. Reads everything: not for a request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use redb::{ReadTransaction, ReadableTable};
use sha2::{Digest, Sha256};

use super::media::hex;
use super::queue::{enqueue::likeness, key_hash, rank_of};
use super::tables;
use super::{StoreError, codec, reads};
use crate::model::lock::LockOwner;
use crate::model::{Counts, Intent, Item, ItemId, ItemState, Lock, Profile, Task, TaskEvent, TaskId};

/// Every record, one a line, table by table in key order.
pub(super) fn dump(txn: &ReadTransaction) -> Result<String, StoreError> {
    let mut text = String::new();
    let mut line = |what: std::fmt::Arguments<'_>| {
        text.write_fmt(what).and_then(|()| text.write_char('\n')).expect("writing to a String cannot fail");
    };
    line(format_args!("meta {:?}", reads::meta(txn)?));
    for task in all::<Task>(txn, "tasks", tables::TASKS)? {
        line(format_args!("task {task:?} state={}", task.counts.state()));
    }
    for intent in all::<Intent>(txn, "intents", tables::INTENTS)? {
        line(format_args!("intent {intent:?}"));
    }
    for item in all::<Item>(txn, "items", tables::ITEMS)? {
        line(format_args!("item {item:?}"));
    }
    for row in txn.open_table(tables::EVENTS)?.iter()? {
        let (key, row) = row?;
        let event: TaskEvent = codec::decode("events", row.value())?;
        line(format_args!("event {:?} {event:?}", key.value()));
    }
    for row in txn.open_table(tables::LOCKS)?.iter()? {
        line(format_args!("lock {:?}", codec::decode::<Lock>("locks", row?.1.value())?));
    }
    for row in txn.open_table(tables::PROFILES)?.iter()? {
        line(format_args!("profile {:?}", codec::decode::<Profile>("profiles", row?.1.value())?));
    }
    for row in txn.open_table(tables::FLOWS)?.iter()? {
        let (name, row) = row?;
        line(format_args!("flow {} {:?}", name.value(), codec::decode::<tables::FlowRow>("flows", row.value())?));
    }
    for row in txn.open_table(tables::CANCELS)?.iter()? {
        line(format_args!("cancel {}", TaskId::new(row?.0.value())));
    }
    for row in txn.open_table(tables::KEYS)?.iter()? {
        let (hash, item) = row?;
        line(format_args!("key {} {}", hex(hash.value()), ItemId::new(item.value())));
    }
    for row in txn.open_table(tables::IDEMPOTENCY)?.iter()? {
        let (hash, row) = row?;
        let made: tables::IdempotencyRow = codec::decode("idempotency", row.value())?;
        line(format_args!("idempotency {} {made:?}", hex(hash.value())));
    }
    for row in txn.open_table(tables::DUPLICATES)?.iter()? {
        let (hash, item) = row?;
        line(format_args!("duplicate {} {}", hex(hash.value()), ItemId::new(item.value())));
    }
    for row in txn.open_table(tables::RECORDINGS)?.iter()? {
        let (hash, recording) = row?;
        line(format_args!("recording {} {}", hash.value(), hex(&Sha256::digest(recording.value()))));
    }
    Ok(text)
}

fn all<T: serde::de::DeserializeOwned>(
    txn: &ReadTransaction,
    name: &'static str,
    table: redb::TableDefinition<u64, tables::Bytes>,
) -> Result<Vec<T>, StoreError> {
    txn.open_table(table)?.iter()?.map(|row| codec::decode(name, row?.1.value())).collect()
}

/// One line for every difference between what an index holds and what it should hold.
pub(super) fn differences(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let tasks = all::<Task>(txn, "tasks", tables::TASKS)?;
    let items = all::<Item>(txn, "items", tables::ITEMS)?;
    let mut found = Vec::new();
    counters(&tasks, &items, &mut found);
    task_indexes(txn, &tasks, &items, &mut found)?;
    item_indexes(txn, &items, &mut found)?;
    keys(txn, &items, &mut found)?;
    duplicates(txn, &tasks, &items, &mut found)?;
    locks(txn, &items, &mut found)?;
    numbers(txn, &tasks, &items, &mut found)?;
    let mut by_state = [0; ItemState::ALL.len()];
    for item in &items {
        by_state[item.state as usize] += 1;
    }
    let held = reads::meta(txn)?.items;
    if held != by_state {
        found.push(format!("meta: items by state {held:?}, they are {by_state:?}"));
    }
    Ok(found)
}

fn counters(tasks: &[Task], items: &[Item], found: &mut Vec<String>) {
    let mut counts: BTreeMap<_, Counts> = BTreeMap::new();
    for item in items {
        counts.entry(item.task).or_default().add(item.state);
    }
    for task in tasks {
        let expected = counts.remove(&task.id).unwrap_or_default();
        if task.counts != expected {
            found.push(format!("{}: counters say {:?}, items say {expected:?}", task.id, task.counts));
        }
        if task.finished_at.is_some() != task.counts.state().is_terminal() {
            found.push(format!("{}: finished_at does not fit its state", task.id));
        }
    }
    found.extend(counts.keys().map(|task| format!("{task}: has items and no row")));
}

/// Compares an index with what it should hold.
fn compare<K: Ord + std::fmt::Debug>(name: &str, held: &BTreeSet<K>, expected: &BTreeSet<K>, found: &mut Vec<String>) {
    found.extend(expected.difference(held).map(|key| format!("{name}: {key:?} is missing")));
    found.extend(held.difference(expected).map(|key| format!("{name}: {key:?} is too many")));
}

/// The keys of an index, owned.
macro_rules! held {
    ($txn:expr, $table:expr, |$key:ident| $owned:expr) => {{
        let mut held = BTreeSet::new();
        for row in $txn.open_table($table)?.iter()? {
            let row = row?;
            let $key = row.0.value();
            held.insert($owned);
        }
        held
    }};
}

fn task_indexes(
    txn: &ReadTransaction,
    tasks: &[Task],
    items: &[Item],
    found: &mut Vec<String>,
) -> Result<(), StoreError> {
    let states = tasks.iter().map(|task| (task.counts.state() as u8, task.id.raw())).collect();
    compare("task_states", &held!(txn, tables::TASK_STATES, |key| key), &states, found);
    let flows = tasks.iter().map(|task| (task.flow.clone(), task.id.raw())).collect();
    compare("task_flows", &held!(txn, tables::TASK_FLOWS, |key| (key.0.to_owned(), key.1)), &flows, found);
    let open = tasks.iter().filter(|task| !task.counts.state().is_terminal());
    let open = open.map(|task| (task.flow.clone(), task.id.raw())).collect();
    compare("open_flows", &held!(txn, tables::OPEN_FLOWS, |key| (key.0.to_owned(), key.1)), &open, found);
    let profiles = items.iter().map(|item| (item.profile.to_string(), item.task.raw())).collect();
    compare("task_profiles", &held!(txn, tables::TASK_PROFILES, |key| (key.0.to_owned(), key.1)), &profiles, found);
    Ok(())
}

fn item_indexes(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let of_task = items.iter().map(|item| (item.task.raw(), item.id.raw())).collect();
    compare("task_items", &held!(txn, tables::TASK_ITEMS, |key| key), &of_task, found);
    let states = items.iter().map(|item| (item.state as u8, item.id.raw())).collect();
    compare("item_states", &held!(txn, tables::ITEM_STATES, |key| key), &states, found);
    let profiles = items.iter().map(|item| (item.profile.to_string(), item.id.raw())).collect();
    compare("item_profiles", &held!(txn, tables::ITEM_PROFILES, |key| (key.0.to_owned(), key.1)), &profiles, found);
    let waiting = || items.iter().filter(|item| item.state.is_waiting());
    let ready = waiting().filter(|item| item.ready);
    let ready = ready.map(|item| (item.profile.to_string(), rank_of(item.priority), item.id.raw())).collect();
    compare("ready", &held!(txn, tables::READY, |key| (key.0.to_owned(), key.1, key.2)), &ready, found);
    let due = waiting().filter(|item| !item.ready).map(|item| (item.due_at.as_millis(), item.id.raw())).collect();
    compare("due", &held!(txn, tables::DUE, |key| key), &due, found);
    Ok(())
}

/// Every item that may publish, or may have, holds its key; a row without its item outlived it.
fn keys(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let table = txn.open_table(tables::KEYS)?;
    for item in items {
        let Some(key) = &item.key else { continue };
        let free = matches!(item.state, ItemState::Failed | ItemState::Canceled) && item.armed_fence.is_none();
        let holder = table.get(&key_hash(key))?.map(|row| row.value());
        if !free && holder != Some(item.id.raw()) {
            found.push(format!("keys: {} does not hold its key ({holder:?} does)", item.id));
        }
        if free && holder == Some(item.id.raw()) {
            found.push(format!("keys: {} ended unarmed and still holds its key", item.id));
        }
    }
    Ok(())
}

fn duplicates(
    txn: &ReadTransaction,
    tasks: &[Task],
    items: &[Item],
    found: &mut Vec<String>,
) -> Result<(), StoreError> {
    let flows: BTreeMap<_, _> = tasks.iter().map(|task| (task.id, task.flow.as_str())).collect();
    let by_id: BTreeMap<_, _> = items.iter().map(|item| (item.id.raw(), item)).collect();
    for row in txn.open_table(tables::DUPLICATES)?.iter()? {
        let (hash, id) = row?;
        let Some(item) = by_id.get(&id.value()) else { continue };
        let flow = flows.get(&item.task).copied().unwrap_or_default();
        if likeness(flow, item) != Some(*hash.value()) {
            found.push(format!("duplicates: {} stands under another likeness", item.id));
        }
    }
    Ok(())
}

/// One running item a profile, and it holds the profile's lock under its own fence.
fn locks(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let mut held = BTreeMap::new();
    for row in txn.open_table(tables::LOCKS)?.iter()? {
        let lock: Lock = codec::decode("locks", row?.1.value())?;
        held.insert(lock.key.clone(), lock);
    }
    for item in items.iter().filter(|item| item.state == ItemState::Running) {
        let holds = held
            .get(item.profile.as_str())
            .is_some_and(|lock| Some(lock.fence) == item.fence && lock.owner == LockOwner::Item(item.id));
        if !holds {
            found.push(format!("locks: {} runs without the lock of profile {}", item.id, item.profile));
        }
    }
    Ok(())
}

/// No id or fence is above the last number that was given out.
fn numbers(txn: &ReadTransaction, tasks: &[Task], items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let ids = tasks.iter().map(|task| task.id.raw()).chain(items.iter().map(|item| item.id.raw()));
    let fences = items.iter().filter_map(|item| item.fence).map(crate::model::Fence::raw);
    found
        .extend(ids.chain(fences).filter(|id| *id > last).map(|id| format!("numbers: {id} is above the last, {last}")));
    Ok(())
}
