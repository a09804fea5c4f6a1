//! The whole state as text, and the proof that every index says what its primary table says.
//!
//! [`differences`] walks the primary tables and looks up in each index what it should hold; an index that has
//! all of that, and as many rows, holds nothing else. The tests call it after every step they can, and every
//! snapshot passes it: it reads everything, in bounded memory however large the state is. Not for a request.

mod index;
mod items;
mod locks;

use std::fmt::Write as _;

use redb::{ReadTransaction, ReadableTable};
use sha2::{Digest, Sha256};

use super::media::hex;
use super::tables;
use super::{StoreError, codec, reads};
use crate::model::{Delivery, Intent, Item, ItemId, JobRecord, Lock, Profile, Task, TaskEvent, TaskId, Token};
use index::Found;

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
    for row in txn.open_table(tables::MAINTENANCE)?.iter()? {
        let (name, row) = row?;
        line(format_args!("job {} {:?}", name.value(), codec::decode::<JobRecord>("maintenance", row.value())?));
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

/// One line for every difference between what an index holds and what it should hold; the first hundred.
pub(super) fn differences(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let mut found = Found::default();
    items::check(txn, &mut found)?;
    locks::check(txn, &mut found)?;
    locks::deliveries(txn, &mut found)?;
    Ok(found.lines)
}
