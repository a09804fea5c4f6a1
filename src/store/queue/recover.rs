//! Reconciling the store with its ledger, at boot, before anything is claimed.
//!
//! The ledger is the truth about clicks. In an ordinary crash it can be one line ahead (`published` is
//! written before the commit): that item succeeded. A store that knows less than its ledger says was
//! armed is a restored store, whoever restored it (fence.md rule 17): what the ledger knows is taken
//! over, everything else that is not finished is held, and the engine is paused until a human resumes.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::super::ledger::Line;
use super::super::tables::Tx;
use super::super::writer::Ran;
use super::super::{Pause, ResumeRefused, StoreError};
use super::key_hash_from_hex;
use crate::model::{Failure, FailureCode, Fence, Item, ItemId, ItemState, TaskId, Timestamp};

/// What the ledger says of one item, its last lines winning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Fact {
    pub armed: Option<Fence>,
    pub published: Option<(Fence, Option<String>)>,
    pub key: Option<String>,
    pub at: Timestamp,
}

/// Everything the ledger says.
#[derive(Default)]
pub(in crate::store) struct Facts {
    pub epoch: u64,
    pub items: BTreeMap<ItemId, Fact>,
}

impl Facts {
    pub fn of(lines: &[Line]) -> Self {
        let mut facts = Self::default();
        for line in lines {
            match line {
                Line::Epoch { epoch, .. } => facts.epoch = facts.epoch.max(*epoch),
                Line::Armed { item, fence, key, at, .. } => {
                    let fact = facts.items.entry(*item).or_default();
                    fact.armed = fact.armed.max(Some(*fence));
                    fact.key.clone_from(key);
                    fact.at = *at;
                }
                Line::Published { item, fence, url, key, at, .. } => {
                    let fact = facts.items.entry(*item).or_default();
                    fact.published = Some((*fence, url.clone()));
                    fact.key.clone_from(key);
                    fact.at = *at;
                }
            }
        }
        facts
    }

    /// Whether the store knows less than this ledger.
    pub fn are_ahead_of(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        if self.epoch > tx.meta.epoch {
            return Ok(true);
        }
        let last = tx.last_number();
        for (id, fact) in &self.items {
            let fence = fact.armed.max(fact.published.as_ref().map(|(fence, _)| *fence));
            if id.raw() > last || fence.is_some_and(|fence| fence.raw() > last) {
                return Ok(true);
            }
            // An item that is gone was pruned after it ended; one that is there must know its click.
            if tx.item(*id)?.is_some_and(|item| item.armed_fence < fact.armed) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An ordinary crash: what the ledger says was published, and the store still calls armed, succeeded.
    pub fn take_published(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
        for (id, fact) in &self.items {
            let Some((fence, url)) = &fact.published else { continue };
            let Some(item) = tx.item(*id)? else { continue };
            let open = matches!(item.state, ItemState::Running | ItemState::OutcomeUnknown);
            if open && item.fence == Some(*fence) {
                succeed(tx, &item, fact, url.clone(), now)?;
            }
        }
        Ok(())
    }

    /// A restored store: rules 8 and 18. Locks are dropped, the epoch is the caller's. Webhooks are not told:
    /// what the ledger knows happened before, and was told then under another id.
    pub fn take_over(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
        tx.silent = true;
        for (id, fact) in &self.items {
            if let Some(key) = fact.key.as_deref().and_then(key_hash_from_hex) {
                tx.writes += 1;
                tx.keys.insert(&key, id.raw())?;
            }
            let Some(item) = tx.item(*id)? else { continue };
            match &fact.published {
                Some((_, url)) if item.state != ItemState::Succeeded => succeed(tx, &item, fact, url.clone(), now)?,
                None if item.state != ItemState::Succeeded && item.state != ItemState::OutcomeUnknown => {
                    unknown(tx, &item, fact, now)?;
                }
                _ => {}
            }
        }
        hold_the_rest(tx, now)?;
        let held: Vec<(String, String)> =
            tx.locks_held()?.into_iter().map(|lock| (lock.kind.name().to_owned(), lock.key)).collect();
        for (kind, key) in held {
            tx.writes += 1;
            tx.locks.remove((kind.as_str(), key.as_str()))?;
        }
        tx.silent = false;
        Ok(())
    }
}

fn succeed(tx: &mut Tx<'_>, item: &Item, fact: &Fact, url: Option<String>, now: Timestamp) -> Result<(), StoreError> {
    let done = Item {
        state: ItemState::Succeeded,
        armed_fence: item.armed_fence.max(fact.armed),
        url,
        failure: None,
        finished_at: Some(now),
        ..item.clone()
    };
    tx.change_item(item, done, "succeeded", "the ledger says that it was published", now).map(drop)
}

fn unknown(tx: &mut Tx<'_>, item: &Item, fact: &Fact, now: Timestamp) -> Result<(), StoreError> {
    let failure = Failure::new(
        FailureCode::RestartedAfterCommit,
        format!("the ledger says that it was armed at {}, after this state was saved", fact.at),
    );
    let unknown = Item {
        state: ItemState::OutcomeUnknown,
        fence: fact.armed,
        armed_fence: fact.armed,
        armed_at: Some(fact.at),
        failure: Some(failure),
        ..item.clone()
    };
    tx.change_item(item, unknown, "outcome_unknown", "armed after this state was saved", now).map(drop)
}

fn hold_the_rest(tx: &mut Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
    for state in [ItemState::Queued, ItemState::RetryWait, ItemState::Running] {
        for id in tx.items_in(state)? {
            let Some(item) = tx.item(id)? else { continue };
            let armed = item.is_armed();
            let to = if armed { ItemState::OutcomeUnknown } else { ItemState::Held };
            let failure =
                armed.then(|| Failure::new(FailureCode::RestartedAfterCommit, "armed when this state was saved"));
            let held = Item { state: to, failure: failure.or_else(|| item.failure.clone()), ..item.clone() };
            tx.change_item(&item, held, to.name(), "restored", now)?;
        }
    }
    Ok(())
}

/// Lets a paused engine go on; items held by a restore are queued again in the same transaction.
pub(in crate::store) fn resume(tx: &mut Tx<'_>, accept_duplicates: bool, now: Timestamp) -> Ran<(), ResumeRefused> {
    match &tx.meta.pause {
        None | Some(Pause::Operator { .. } | Pause::Restored { blind: false, .. }) => {}
        Some(Pause::Restored { blind: true, .. } | Pause::LedgerDamaged { .. }) if accept_duplicates => {}
        Some(Pause::Restored { .. }) => return Ok(Err(ResumeRefused::Blind)),
        Some(Pause::LedgerDamaged { .. }) => return Ok(Err(ResumeRefused::LedgerDamaged)),
    }
    for id in tx.items_in(ItemState::Held)? {
        let Some(item) = tx.item(id)? else { continue };
        let attempts = item.attempts;
        tx.change_item(&item, Item { state: ItemState::Queued, attempts, ..item.clone() }, "queued", "resumed", now)?;
    }
    if tx.meta.pause.is_some() {
        tx.writes += 1;
        tx.meta.pause = None;
        // What a restore kept from being delivered is due now.
        tx.wakes_sender = true;
    }
    Ok(Ok(()))
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of every operation")]
/// Stops claims until a resume. What is paused for a stronger reason stays so.
pub(in crate::store) fn pause(tx: &mut Tx<'_>, now: Timestamp) -> Ran<(), Infallible> {
    if tx.meta.pause.is_none() {
        tx.writes += 1;
        tx.meta.pause = Some(Pause::Operator { since: now });
    }
    Ok(Ok(()))
}

/// Tasks whose cancel waits for the engine.
pub(in crate::store) fn pending_cancels(
    cancels: &impl redb::ReadableTable<u64, ()>,
    limit: usize,
) -> Result<Vec<TaskId>, StoreError> {
    cancels.range::<u64>(..)?.take(limit).map(|row| Ok(TaskId::new(row?.0.value()))).collect()
}
