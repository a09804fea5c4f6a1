//! Flows by name, and their recordings by content hash.
//!
//! A task pins its flow's hash, so a recording stays while a task that is not finished names it; a flow in
//! use is not deleted (fence.md rule 3). Whether a recording is a good flow is the model's to say.

use redb::{ReadTransaction, ReadableTable};

use super::tables::{FLOWS, FlowRow, RECORDINGS, Tx, get_named};
use super::writer::Ran;
use super::{DeleteFlowError, FlowInfo, PutFlow, StoreError, codec};
use crate::model::{TaskId, Timestamp};

pub(super) fn put(
    tx: &mut Tx<'_>,
    name: &str,
    hash: &str,
    json: &[u8],
    now: Timestamp,
) -> Ran<PutFlow, std::convert::Infallible> {
    let was = get_named::<FlowRow>("flows", &tx.flows, name)?;
    if was.as_ref().is_some_and(|was| was.hash == hash) {
        return Ok(Ok(PutFlow::Unchanged));
    }
    tx.writes += 1;
    let row = FlowRow { hash: hash.to_owned(), bytes: json.len() as u64, updated_at: now };
    tx.recordings.insert(hash, json)?;
    tx.flows.insert(name, codec::encode(&row)?.as_slice())?;
    Ok(Ok(if was.is_some() { PutFlow::Replaced } else { PutFlow::Created }))
}

pub(super) fn delete(tx: &mut Tx<'_>, name: &str) -> Ran<(), DeleteFlowError> {
    if tx.flows.get(name)?.is_none() {
        return Ok(Err(DeleteFlowError::NotFound));
    }
    if let Some(user) = tx.open_flows.range((name, 0)..=(name, u64::MAX))?.next() {
        return Ok(Err(DeleteFlowError::InUse(TaskId::new(user?.0.value().1))));
    }
    tx.writes += 1;
    tx.flows.remove(name)?;
    Ok(Ok(()))
}

pub(super) fn read(txn: &ReadTransaction, name: &str) -> Result<Option<(FlowInfo, Vec<u8>)>, StoreError> {
    let Some(row) = get_named::<FlowRow>("flows", &txn.open_table(FLOWS)?, name)? else { return Ok(None) };
    let recording = read_recording(txn, &row.hash)?
        .ok_or_else(|| StoreError::Corrupt(format!("recordings: the one of flow {name} is missing")))?;
    Ok(Some((info(name, row), recording)))
}

pub(super) fn read_recording(txn: &ReadTransaction, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(txn.open_table(RECORDINGS)?.get(hash)?.map(|row| row.value().to_vec()))
}

pub(super) fn list(txn: &ReadTransaction) -> Result<Vec<FlowInfo>, StoreError> {
    txn.open_table(FLOWS)?
        .iter()?
        .map(|row| {
            let (name, row) = row?;
            Ok(info(name.value(), codec::decode("flows", row.value())?))
        })
        .collect()
}

fn info(name: &str, row: FlowRow) -> FlowInfo {
    FlowInfo { name: name.to_owned(), hash: row.hash, bytes: row.bytes, updated_at: row.updated_at }
}
