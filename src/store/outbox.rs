//! The outbox: what is still to be told to webhooks, and the log of what was.
//!
//! [`Tx::notify`] writes a delivery in the transaction of the change that it tells of: neither can be
//! there without the other. The sender takes what is due, one a target, and records how each try ended;
//! nothing else moves a delivery on, save a person's wish to try one again. What is due is found by one
//! look-up a target, however many deliveries wait for each. While the store is paused because it was
//! restored nothing is due: what waits may have been delivered before, under the same id.

use std::convert::Infallible;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::tables::{self, Tx, get};
use super::writer::Ran;
use super::{DueDeliveries, DueDelivery, DueLook, Pause, RetryRefused, StoreError, TryEnd, codec, reads};
use crate::meter::Mark;
use crate::model::{Delivery, DeliveryId, DeliveryState, Facts, HookEvent, Item, Task, TaskId, Timestamp, Tried};

/// Targets that one look considers.
const MAX_TARGETS: usize = 4_096;
/// How long the log keeps a delivery that ended, and how many of them.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const KEEP_AT_MOST: u64 = 10_000;
/// Rows that one step of the pruning takes away.
const PRUNE_STEP: usize = 500;

impl Tx<'_> {
    /// Writes down that `event` is to be told, where the task has a webhook. With an item it is told as it
    /// stands here; without one the task is.
    pub fn notify(
        &mut self,
        task: &Task,
        item: Option<&Item>,
        event: HookEvent,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(webhook) = task.webhook.as_ref().filter(|_| !self.silent) else { return Ok(()) };
        let delivery = Delivery {
            id: DeliveryId::new(self.next_number()),
            task: task.id,
            item: item.map(|item| item.id),
            event,
            created_at: now,
            target: webhook.target().to_owned(),
            facts: item.map_or_else(|| Facts::of_task(task), Facts::of_item),
            state: DeliveryState::Pending,
            attempts: 0,
            next_at: now,
            first_tried_at: None,
            ended_at: None,
            last: None,
        };
        self.task_deliveries.insert((task.id.raw(), delivery.id.raw()), ())?;
        self.put_delivery(None, &delivery)?;
        self.wakes_sender = true;
        Ok(())
    }

    fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        get("deliveries", &self.deliveries, id.raw())
    }

    /// A delivery with the two indexes that follow its state. `was` is the record as it stands in the table.
    fn put_delivery(&mut self, was: Option<&Delivery>, is: &Delivery) -> Result<(), StoreError> {
        self.writes += 1;
        if let Some(was) = was {
            self.unindex_delivery(was)?;
        }
        let id = is.id.raw();
        self.deliveries.insert(id, codec::encode(is)?.as_slice())?;
        match is.ended_at {
            None => self.deliveries_due.insert((is.target.as_str(), is.next_at.as_millis(), id), ())?,
            Some(ended) => self.deliveries_ended.insert((ended.as_millis(), id), ())?,
        };
        Ok(())
    }

    fn forget_delivery(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        self.writes += 1;
        self.unindex_delivery(delivery)?;
        self.task_deliveries.remove((delivery.task.raw(), delivery.id.raw()))?;
        self.deliveries.remove(delivery.id.raw())?;
        Ok(())
    }

    fn unindex_delivery(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        let id = delivery.id.raw();
        match delivery.ended_at {
            None => self.deliveries_due.remove((delivery.target.as_str(), delivery.next_at.as_millis(), id))?,
            Some(ended) => self.deliveries_ended.remove((ended.as_millis(), id))?,
        };
        Ok(())
    }
}

/// The first delivery of every target that is due, beginning behind `look.after` and going round.
pub(super) fn due(txn: &ReadTransaction, look: &DueLook) -> Result<DueDeliveries, StoreError> {
    let mut found = DueDeliveries::default();
    if matches!(reads::meta(txn)?.pause, Some(Pause::Restored { .. } | Pause::LedgerDamaged { .. })) {
        return Ok(found);
    }
    let index = txn.open_table(tables::DELIVERIES_DUE)?;
    let deliveries = txn.open_table(tables::DELIVERIES)?;
    let tasks = txn.open_table(tables::TASKS)?;
    // The smallest key above every key of a target.
    let above = |target: &str| format!("{target}\0");
    let mut from = look.after.as_deref().map_or_else(String::new, above);
    let mut round = from.is_empty();
    for _ in 0..MAX_TARGETS {
        if found.heads.len() == look.limit {
            break;
        }
        let Some(row) = index.range((from.as_str(), 0, 0)..)?.next() else {
            if round {
                break;
            }
            round = true;
            from.clear();
            continue;
        };
        let key = row?.0;
        let (target, at, id) = key.value();
        if round && look.after.as_deref().is_some_and(|after| target > after) {
            break;
        }
        from = above(target);
        let at = Timestamp::from_millis(at);
        if look.skip.contains(target) {
            continue;
        }
        if at > look.now {
            found.next_at = Some(found.next_at.map_or(at, |next| next.min(at)));
            continue;
        }
        let delivery: Delivery = get("deliveries", &deliveries, id)?
            .ok_or_else(|| StoreError::Corrupt(format!("deliveries_due: no delivery {}", DeliveryId::new(id))))?;
        let webhook = get::<Task>("tasks", &tasks, delivery.task.raw())?.and_then(|task| task.webhook);
        found.heads.push(DueDelivery { delivery, webhook });
    }
    Ok(found)
}

/// Writes how a try ended. False: the delivery does not stand where the try found it.
pub(super) fn record(
    tx: &mut Tx<'_>,
    id: DeliveryId,
    attempts_before: u32,
    tried: &Tried,
    end: TryEnd,
) -> Ran<bool, Infallible> {
    let Some(was) = tx.delivery(id)? else { return Ok(Ok(false)) };
    if was.state != DeliveryState::Pending || was.attempts != attempts_before {
        return Ok(Ok(false));
    }
    let mut is = Delivery {
        attempts: was.attempts + 1,
        first_tried_at: was.first_tried_at.or(Some(tried.at)),
        last: Some(tried.clone()),
        ..was.clone()
    };
    match end {
        TryEnd::Delivered => is.state = DeliveryState::Delivered,
        TryEnd::GivenUp => is.state = DeliveryState::GivenUp,
        TryEnd::Again { at } => is.next_at = at,
    }
    tx.marks.push(Mark::Delivery(end.name()));
    is.ended_at = (is.state != DeliveryState::Pending).then_some(tried.at);
    tx.put_delivery(Some(&was), &is)?;
    if is.state == DeliveryState::GivenUp && tx.task(is.task)?.is_some() {
        let why = tried.error.as_deref().unwrap_or_default();
        let detail = format!("{} of {}, after {} tries: {why}", is.event, is.id, is.attempts);
        tx.log(is.task, is.item, "webhook_given_up", &detail, tried.at)?;
    }
    Ok(Ok(true))
}

/// Puts a delivery that was given up back to its beginning.
pub(super) fn retry(tx: &mut Tx<'_>, task: TaskId, id: DeliveryId, now: Timestamp) -> Ran<Delivery, RetryRefused> {
    let Some(was) = tx.delivery(id)?.filter(|delivery| delivery.task == task) else {
        return Ok(Err(RetryRefused::NotFound));
    };
    if was.state != DeliveryState::GivenUp {
        return Ok(Err(RetryRefused::NotGivenUp(was.state)));
    }
    let is = Delivery {
        state: DeliveryState::Pending,
        attempts: 0,
        next_at: now,
        first_tried_at: None,
        ended_at: None,
        ..was.clone()
    };
    tx.put_delivery(Some(&was), &is)?;
    tx.log(task, is.item, "webhook_retried", &format!("{} of {}", is.event, is.id), now)?;
    tx.wakes_sender = true;
    Ok(Ok(is))
}

/// Takes away what the log keeps no longer, oldest first, a step at a time. True: there may be more.
pub(super) fn prune(tx: &mut Tx<'_>, now: Timestamp) -> Ran<bool, Infallible> {
    let too_many = tx.deliveries_ended.len()?.saturating_sub(KEEP_AT_MOST);
    let mut gone = Vec::new();
    for row in tx.deliveries_ended.iter()?.take(PRUNE_STEP) {
        let (ended, id) = row?.0.value();
        let beyond = u64::try_from(gone.len()).is_ok_and(|count| count < too_many);
        if !beyond && now.since(Timestamp::from_millis(ended)) < KEEP {
            break;
        }
        gone.push(DeliveryId::new(id));
    }
    for id in &gone {
        let delivery =
            tx.delivery(*id)?.ok_or_else(|| StoreError::Corrupt(format!("deliveries_ended: no delivery {id}")))?;
        tx.forget_delivery(&delivery)?;
    }
    Ok(Ok(gone.len() == PRUNE_STEP))
}

/// Forgets a step of what a task that is forgotten has told and not told. True: there may be more.
pub(super) fn forget(tx: &mut Tx<'_>, task: TaskId, limit: usize) -> Result<bool, StoreError> {
    let range = tx.task_deliveries.range((task.raw(), 0)..=(task.raw(), u64::MAX))?;
    let ids: Vec<u64> = range.take(limit).map(|row| Ok(row?.0.value().1)).collect::<Result<_, StoreError>>()?;
    for id in &ids {
        let id = DeliveryId::new(*id);
        let delivery =
            tx.delivery(id)?.ok_or_else(|| StoreError::Corrupt(format!("task_deliveries: no delivery {id}")))?;
        tx.forget_delivery(&delivery)?;
    }
    Ok(ids.len() == limit)
}
