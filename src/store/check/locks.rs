//! Locks and deliveries: their indexes, and that every lease runs in the boot that the store knows.
//!
//! Called by [`super::differences`] alone.

use redb::{ReadTransaction, ReadableTable};

use super::index::{Found, Index};
use crate::model::{Delivery, DeliveryState, Lock};
use crate::store::{StoreError, codec, reads, tables};

pub(super) fn check(txn: &ReadTransaction, found: &mut Found) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let mut expiry = Index::open(txn, tables::LOCK_EXPIRY)?;
    let mut owners = Index::open(txn, tables::LOCK_OWNERS)?;
    for row in txn.open_table(tables::LOCKS)?.iter()? {
        let row = row?;
        let lock: Lock = codec::decode("locks", row.1.value())?;
        let (kind, owner) = (lock.kind.to_string(), lock.owner.to_string());
        if row.0.value() != (kind.as_str(), lock.key.as_str()) || lock.fence.raw() > last {
            found.tell(|| format!("locks: {:?} holds {lock:?}, the last number is {last}", row.0.value()));
        }
        owners.expect((&owner, &kind, &lock.key), found)?;
        let Some(lease) = &lock.lease else { continue };
        expiry.expect((&kind, lease.expires_boot.as_millis(), &lock.key), found)?;
        if lease.boot_id != meta.boot_id {
            found.tell(|| format!("locks: the lease of {lock:?} runs in another boot than {:?}", meta.boot_id));
        }
    }
    expiry.finish(found)?;
    owners.finish(found)
}

/// A delivery waits or has ended, and its indexes say which.
pub(super) fn deliveries(txn: &ReadTransaction, found: &mut Found) -> Result<(), StoreError> {
    let meta = reads::meta(txn)?;
    let last = meta.epoch << crate::model::id::SEQUENCE_BITS | meta.sequence;
    let mut of_task = Index::open(txn, tables::TASK_DELIVERIES)?;
    let mut due = Index::open(txn, tables::DELIVERIES_DUE)?;
    let mut ended = Index::open(txn, tables::DELIVERIES_ENDED)?;
    for row in txn.open_table(tables::DELIVERIES)?.iter()? {
        let delivery: Delivery = codec::decode("deliveries", row?.1.value())?;
        let (id, waits) = (delivery.id.raw(), delivery.state == DeliveryState::Pending);
        if waits != delivery.ended_at.is_none() {
            found.tell(|| format!("{}: ended_at does not fit its state", delivery.id));
        }
        if id > last {
            found.tell(|| format!("numbers: {id} is above the last, {last}"));
        }
        of_task.expect((delivery.task.raw(), id), found)?;
        if waits {
            due.expect((&delivery.target, delivery.next_at.as_millis(), id), found)?;
        }
        if let Some(ended_at) = delivery.ended_at {
            ended.expect((ended_at.as_millis(), id), found)?;
        }
    }
    of_task.finish(found)?;
    due.finish(found)?;
    ended.finish(found)
}
