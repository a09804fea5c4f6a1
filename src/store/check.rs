//! The whole state as text, and the proof that every index says what its primary table says.
//!
//! [`differences`] rebuilds each index from tasks and items and compares both ways, counters included;
//! the tests call it after every step they can. Reads everything: not for a request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use redb::{ReadTransaction, ReadableTable};
use sha2::{Digest, Sha256};

use super::media::hex;
use super::queue::{enqueue::likeness, key_hash, lane_of, rank_of};
use super::tables;
use super::{StoreError, codec, reads};
use crate::model::{
    Counts, Delivery, DeliveryState, HeldFor, Intent, Item, ItemId, ItemState, Lock, LockKind, LockOwner, Place,
    Profile, Task, TaskEvent, TaskId, Token,
};

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
    for delivery in all::<Delivery>(txn, "deliveries", tables::DELIVERIES)? {
        line(format_args!("delivery {delivery:?}"));
    }
    for row in txn.open_table(tables::LOCKS)?.iter()? {
        line(format_args!("lock {:?}", codec::decode::<Lock>("locks", row?.1.value())?));
    }
    for row in txn.open_table(tables::TOKENS)?.iter()? {
        let (hash, row) = row?;
        line(format_args!("token {} {:?}", hex(hash.value()), codec::decode::<Token>("tokens", row.value())?));
    }
    for row in txn.open_table(tables::PROFILES)?.iter()? {
        line(format_args!("profile {:?}", codec::decode::<Profile>("profiles", row?.1.value())?));
    }
    for row in txn.open_table(tables::FLOWS)?.iter()? {
        let (name, row) = row?;
        line(format_args!("flow {} {:?}", name.value(), codec::decode::<tables::FlowRow>("flows", row.value())?));
    }
    for row in txn.open_table(tables::SETTLING)?.iter()? {
        let (task, from) = row?;
        line(format_args!("settling {} from {}", TaskId::new(task.value()), ItemId::new(from.value())));
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
    deliveries(txn, &mut found)?;
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
    let mut profiles: BTreeMap<_, u32> = BTreeMap::new();
    for item in items {
        *profiles.entry((item.profile.to_string(), item.task.raw())).or_default() += 1;
    }
    let mut counted = BTreeMap::new();
    for row in txn.open_table(tables::TASK_PROFILES)?.iter()? {
        let (key, count) = row?;
        counted.insert((key.value().0.to_owned(), key.value().1), count.value());
    }
    compare("task_profiles", &counted.into_iter().collect(), &profiles.into_iter().collect(), found);
    let finished = tasks.iter().filter_map(|task| Some((task.finished_at?.as_millis(), task.id.raw()))).collect();
    compare("finished", &held!(txn, tables::FINISHED, |key| key), &finished, found);
    Ok(())
}

fn item_indexes(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let of_task = items.iter().map(|item| (item.task.raw(), item.id.raw())).collect();
    compare("task_items", &held!(txn, tables::TASK_ITEMS, |key| key), &of_task, found);
    let states = items.iter().map(|item| (item.state as u8, item.id.raw())).collect();
    compare("item_states", &held!(txn, tables::ITEM_STATES, |key| key), &states, found);
    let profiles = items.iter().map(|item| (item.profile.to_string(), item.id.raw())).collect();
    compare("item_profiles", &held!(txn, tables::ITEM_PROFILES, |key| (key.0.to_owned(), key.1)), &profiles, found);
    let at = |place| items.iter().filter(move |item| item.place == place);
    let ready = at(Place::Ready)
        .map(|item| (lane_of(item).to_owned(), item.profile.to_string(), rank_of(item.priority), item.id.raw()));
    let ready: BTreeSet<_> = ready.collect();
    let held = held!(txn, tables::READY, |key| (key.0.to_owned(), key.1.to_owned(), key.2, key.3));
    compare("ready", &held, &ready, found);
    let mut heads: BTreeMap<_, (u64, u32, u64)> = BTreeMap::new();
    for (lane, profile, rank, id) in &ready {
        heads.entry((lane.clone(), profile.clone())).or_insert((0, *rank, *id)).0 += 1;
    }
    let mut kept = BTreeMap::new();
    for row in txn.open_table(tables::READY_HEADS)?.iter()? {
        let (key, head) = row?;
        kept.insert((key.value().0.to_owned(), key.value().1.to_owned()), head.value());
    }
    compare("ready_heads", &kept.into_iter().collect(), &heads.into_iter().collect(), found);
    let due = at(Place::Due).map(|item| (item.due_at.as_millis(), item.id.raw())).collect();
    compare("due", &held!(txn, tables::DUE, |key| key), &due, found);
    let waiting = items.iter().filter(|item| item.place != Place::Off);
    let not_after = waiting.filter_map(|item| Some((item.not_after?.as_millis(), item.id.raw()))).collect();
    compare("not_after", &held!(txn, tables::NOT_AFTER, |key| key), &not_after, found);
    let paused = at(Place::Paused).map(|item| item.id.raw()).collect();
    compare("paused", &held!(txn, tables::PAUSED, |key| key), &paused, found);
    let verifies = items.iter().filter_map(|item| Some((item.verify?.next_at?.as_millis(), item.id.raw()))).collect();
    compare("verify_due", &held!(txn, tables::VERIFY_DUE, |key| key), &verifies, found);
    places(txn, items, found)
}

/// An item waits in a place exactly while its state says that it waits, and the counters of places fit.
fn places(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    for item in items {
        if (item.place != Place::Off) != item.state.is_waiting() {
            found.push(format!("{}: {:?} does not fit {}", item.id, item.place, item.state));
        }
        let may_verify = matches!(item.state, ItemState::OutcomeUnknown | ItemState::Held);
        if item.verify.is_some() && !may_verify || item.held_for.is_some() != (item.state == ItemState::Held) {
            found.push(format!("{}: {} with {:?} and {:?}", item.id, item.state, item.verify, item.held_for));
        }
    }
    let count = |fits: &dyn Fn(&Item) -> bool| items.iter().filter(|item| fits(item)).count() as u64;
    let backing_off = count(&|item| item.place == Place::Due && item.state == ItemState::RetryWait);
    let held_for_clock = count(&|item| item.held_for == Some(HeldFor::Clock));
    let meta = reads::meta(txn)?;
    if (meta.backing_off, meta.held_for_clock) != (backing_off, held_for_clock) {
        found.push(format!("meta: {meta:?}, but {backing_off} back off and {held_for_clock} are held for the clock"));
    }
    Ok(())
}

/// Every item that may publish, or may have, holds its key; a row without its item outlived it.
fn keys(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let table = txn.open_table(tables::KEYS)?;
    for item in items {
        let Some(key) = &item.key else { continue };
        let free = matches!(item.state, ItemState::Failed | ItemState::Canceled) && !item.may_have_published();
        let holder = table.get(&key_hash(key))?.map(|row| row.value());
        if !free && holder != Some(item.id.raw()) {
            found.push(format!("keys: {} does not hold its key ({holder:?} does)", item.id));
        }
        if free && holder == Some(item.id.raw()) {
            found.push(format!("keys: {} ended without having published and still holds its key", item.id));
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

/// One running item a profile, and it holds the profile's lock under its own fence; both indexes of the
/// locks; every lease runs in the boot that the store knows.
fn locks(txn: &ReadTransaction, items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let (mut held, mut expiry, mut owners) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for row in txn.open_table(tables::LOCKS)?.iter()? {
        let row = row?;
        let lock: Lock = codec::decode("locks", row.1.value())?;
        let (kind, key) = (lock.kind.to_string(), lock.key.clone());
        if row.0.value() != (kind.as_str(), key.as_str()) || lock.fence.raw() > last {
            found.push(format!("locks: {:?} holds {lock:?}, the last number is {last}", row.0.value()));
        }
        owners.insert((lock.owner.to_string(), kind.clone(), key.clone()));
        if let Some(lease) = &lock.lease {
            expiry.insert((kind, lease.expires_boot.as_millis(), key));
            if lease.boot_id != meta.boot_id {
                found.push(format!("locks: the lease of {lock:?} runs in another boot than {:?}", meta.boot_id));
            }
        }
        if lock.kind == LockKind::PROFILE {
            held.insert(lock.key.clone(), lock);
        }
    }
    let index = held!(txn, tables::LOCK_EXPIRY, |key| (key.0.to_owned(), key.1, key.2.to_owned()));
    compare("lock_expiry", &index, &expiry, found);
    let index = held!(txn, tables::LOCK_OWNERS, |key| (key.0.to_owned(), key.1.to_owned(), key.2.to_owned()));
    compare("lock_owners", &index, &owners, found);
    for item in items.iter().filter(|item| item.state == ItemState::Running) {
        let is_its = |owner: &LockOwner| match owner {
            LockOwner::Item(id) => *id == item.id,
            owner => owner.claim().is_some_and(|(id, _)| id == item.id),
        };
        let lock = held.get(item.profile.as_str());
        if !lock.is_some_and(|lock| Some(lock.fence) == item.fence && is_its(&lock.owner)) {
            found.push(format!("locks: {} runs without the lock of profile {}", item.id, item.profile));
        }
    }
    Ok(())
}

/// A delivery waits or has ended, and its indexes say which.
fn deliveries(txn: &ReadTransaction, found: &mut Vec<String>) -> Result<(), StoreError> {
    let deliveries = all::<Delivery>(txn, "deliveries", tables::DELIVERIES)?;
    for delivery in &deliveries {
        if (delivery.state == DeliveryState::Pending) != delivery.ended_at.is_none() {
            found.push(format!("{}: ended_at does not fit its state", delivery.id));
        }
    }
    let of_task = deliveries.iter().map(|delivery| (delivery.task.raw(), delivery.id.raw())).collect();
    compare("task_deliveries", &held!(txn, tables::TASK_DELIVERIES, |key| key), &of_task, found);
    let waiting = deliveries.iter().filter(|delivery| delivery.state == DeliveryState::Pending);
    let due = waiting.map(|row| (row.target.clone(), row.next_at.as_millis(), row.id.raw())).collect();
    let held_due = held!(txn, tables::DELIVERIES_DUE, |key| (key.0.to_owned(), key.1, key.2));
    compare("deliveries_due", &held_due, &due, found);
    let ended = deliveries.iter().filter_map(|row| Some((row.ended_at?.as_millis(), row.id.raw()))).collect();
    compare("deliveries_ended", &held!(txn, tables::DELIVERIES_ENDED, |key| key), &ended, found);
    Ok(())
}

/// No id or fence is above the last number that was given out.
fn numbers(txn: &ReadTransaction, tasks: &[Task], items: &[Item], found: &mut Vec<String>) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let ids = tasks.iter().map(|task| task.id.raw()).chain(items.iter().map(|item| item.id.raw()));
    let fences = items.iter().filter_map(|item| item.fence).map(crate::model::Fence::raw);
    let deliveries = all::<Delivery>(txn, "deliveries", tables::DELIVERIES)?;
    let deliveries = deliveries.iter().map(|delivery| delivery.id.raw());
    found.extend(
        ids.chain(fences)
            .chain(deliveries)
            .filter(|id| *id > last)
            .map(|id| format!("numbers: {id} is above the last, {last}")),
    );
    Ok(())
}
