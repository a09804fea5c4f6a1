//! The store's readers of bytes, for whoever feeds them with bytes that nobody wrote: the fuzzer.
//!
//! They are the very functions that a boot and every read go through. Nothing is opened and nothing is kept.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tables::{FlowRow, IdempotencyRow, Meta};
use super::{StoreError, codec, ledger};
use crate::model::{Delivery, Intent, Item, Lock, Profile, Task, TaskEvent, Token};

/// What a ledger of these bytes holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRead {
    /// The facts, each as text.
    pub facts: Vec<String>,
    /// What its whole lines take, up to the first bad one.
    pub whole_bytes: u64,
    /// What would be cut off.
    pub torn_bytes: u64,
    /// A bad line, from 1.
    pub damaged_line: Option<u64>,
}

/// # Errors
/// Never of bytes in memory.
pub fn read_ledger(mut bytes: &[u8]) -> std::io::Result<LedgerRead> {
    let found = ledger::read(&mut bytes)?;
    Ok(LedgerRead {
        facts: found.lines.iter().map(|line| format!("{line:?}")).collect(),
        whole_bytes: found.whole_bytes,
        torn_bytes: found.torn_bytes,
        damaged_line: found.damage.map(|(line, _)| line),
    })
}

/// Kinds of records that [`reread_record`] knows, from 0.
pub const RECORDS: usize = 11;

/// Reads a record of the kind with this number and writes it again.
///
/// # Errors
/// When the bytes are no such record.
pub fn reread_record(kind: usize, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    fn again<T: Serialize + DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        codec::encode(&codec::decode::<T>(table, bytes)?)
    }
    match kind % RECORDS {
        0 => again::<Task>("tasks", bytes),
        1 => again::<Intent>("intents", bytes),
        2 => again::<Item>("items", bytes),
        3 => again::<TaskEvent>("events", bytes),
        4 => again::<Delivery>("deliveries", bytes),
        5 => again::<Lock>("locks", bytes),
        6 => again::<Token>("tokens", bytes),
        7 => again::<Profile>("profiles", bytes),
        8 => again::<FlowRow>("flows", bytes),
        9 => again::<IdempotencyRow>("idempotency", bytes),
        _ => again::<Meta>("meta", bytes),
    }
}
