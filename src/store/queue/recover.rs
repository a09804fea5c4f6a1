//! Reconciling the store with its ledger, at boot, before anything is claimed.
//!
//! The ledger is the truth about clicks. In an ordinary crash it can be one line ahead (`published` is
//! written before the commit): that item succeeded. A store that knows less than its ledger says was
//! armed is a restored store, whoever restored it (fence.md rule 17): what the ledger knows is taken
//! over, everything else that is not finished is held, and the engine is paused until a human resumes.

use std::collections::BTreeMap;
use std::convert::Infallible;

use redb::ReadableTable;

use super::super::ledger::Line;
use super::super::tables::{IdempotencyRow, NO_TASK, Tx};
use super::super::writer::Ran;
use super::super::{ClockMark, Pause, ResumeRefused, StoreError, codec, locks, tokens};
use super::{key_hash, key_hash_from_hex};
use crate::model::{
    Failure, FailureCode, Fence, HeldFor, Item, ItemId, ItemState, Resolution, Timestamp, TokenHash, VerifyPlan,
};

/// What the ledger says of one item, its last lines winning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Fact {
    pub armed: Option<Fence>,
    pub published: Option<(Fence, Option<String>)>,
    /// A human or a verify said so, when it was not known.
    pub settled: bool,
    /// Armings up to this one did not publish.
    pub cleared: Option<Fence>,
    /// A human gave up on this arming.
    pub given_up: Option<Fence>,
    pub key: Option<String>,
    /// Of the request that made it.
    pub idempotency: Option<String>,
    pub at: Timestamp,
}

impl Fact {
    /// As [`Item::may_have_published`] says it of an item.
    fn may_have_published(&self) -> bool {
        self.published.is_some() || self.armed > self.cleared
    }
}

/// Everything the ledger says.
#[derive(Default)]
pub(in crate::store) struct Facts {
    /// The newest epoch; 0: none.
    pub epoch: u64,
    /// The oldest, in which this ledger begins.
    pub first_epoch: Option<u64>,
    /// How often the state was opened that wrote it.
    pub opens: u64,
    pub items: BTreeMap<ItemId, Fact>,
    /// Tokens that were revoked, and when.
    pub revoked: BTreeMap<TokenHash, Timestamp>,
}

impl Facts {
    pub fn of(lines: &[Line]) -> Self {
        let mut facts = Self::default();
        for line in lines {
            match line {
                Line::Epoch { epoch, opens, .. } => {
                    facts.epoch = facts.epoch.max(*epoch);
                    facts.first_epoch = Some(facts.first_epoch.map_or(*epoch, |first| first.min(*epoch)));
                    facts.opens = facts.opens.max(*opens);
                }
                Line::Armed { item, fence, key, idempotency, at } => {
                    let fact = facts.items.entry(*item).or_default();
                    fact.idempotency.clone_from(idempotency);
                    fact.armed = fact.armed.max(Some(*fence));
                    fact.key.clone_from(key);
                    fact.at = *at;
                }
                Line::Published { item, fence, url, key, idempotency, at } => {
                    let fact = facts.items.entry(*item).or_default();
                    fact.idempotency.clone_from(idempotency);
                    fact.published = Some((*fence, url.clone()));
                    fact.key.clone_from(key);
                    fact.at = *at;
                }
                Line::TokenRevoked { token, at } => {
                    if let Some(hash) = key_hash_from_hex(token) {
                        facts.revoked.entry(TokenHash(hash)).or_insert(*at);
                    }
                }
                Line::Resolved { item, fence, resolution, url, key, idempotency, at } => {
                    let fact = facts.items.entry(*item).or_default();
                    fact.idempotency.clone_from(idempotency);
                    match resolution {
                        Resolution::Published => {
                            fact.published = Some((*fence, url.clone()));
                            fact.settled = true;
                        }
                        Resolution::NotPublished => fact.cleared = fact.cleared.max(Some(*fence)),
                        Resolution::GiveUp => fact.given_up = fact.given_up.max(Some(*fence)),
                    }
                    fact.key.clone_from(key);
                    fact.at = *at;
                }
            }
        }
        facts
    }

    /// Nobody knows what went out between a state of this epoch and this ledger: it has no epoch, or begins
    /// in a later one (fence.md rule 19).
    pub fn begin_after(&self, epoch: u64) -> bool {
        self.first_epoch.is_none_or(|first| first > epoch)
    }

    /// Whether the store knows less than this ledger.
    pub fn are_ahead_of(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        if self.epoch > tx.meta.epoch || self.opens > tx.meta.opens {
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
            if open && (item.fence == Some(*fence) || item.armed_fence == Some(*fence)) {
                succeed(tx, &item, fact, url.clone(), now)?;
            }
        }
        Ok(())
    }

    /// The line is durable before the commit: what it says holds after a crash in between, too (rule 18).
    pub fn take_revocations(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for (hash, at) in &self.revoked {
            tokens::revoke_known(tx, *hash, *at)?;
        }
        Ok(())
    }

    /// A restored store: rules 8 and 18. Locks are dropped, the epoch is the caller's. Webhooks are not told:
    /// what the ledger knows happened before, and was told then under another id.
    pub fn take_over(&self, tx: &mut Tx<'_>, blind: bool, now: Timestamp) -> Result<(), StoreError> {
        tx.silent = true;
        for (id, fact) in &self.items {
            if let Some(key) = fact.key.as_deref().filter(|_| fact.may_have_published()).and_then(key_hash_from_hex) {
                tx.writes += 1;
                tx.keys.insert(&key, id.raw())?;
            }
            if let Some(request) = fact.idempotency.as_deref().and_then(key_hash_from_hex) {
                came_from(tx, &request, fact.at)?;
            }
            let Some(item) = tx.item(*id)? else { continue };
            match &fact.published {
                Some((_, url)) if item.state != ItemState::Succeeded => succeed(tx, &item, fact, url.clone(), now)?,
                None if item.state == ItemState::Succeeded => {}
                None if fact.armed <= fact.cleared => cleared(tx, &item, fact, now)?,
                None if fact.armed <= fact.given_up => given_up(tx, &item, fact, now)?,
                None if item.state != ItemState::OutcomeUnknown || item.armed_fence < fact.armed => {
                    unknown(tx, &item, fact, now)?;
                }
                _ => {}
            }
        }
        give_way(tx, now)?;
        hold_the_rest(tx, blind, now)?;
        tx.silent = false;
        // Nobody knows which were revoked since.
        if blind {
            tokens::revoke_all(tx, now)?;
        }
        locks::drop_all(tx)
    }
}

/// A request that this state never saw, or forgot, made something that was armed: what else it said is not
/// known, so nothing is a repetition of it and nothing is new under its key (rule 2).
fn came_from(tx: &mut Tx<'_>, request: &[u8; 32], at: Timestamp) -> Result<(), StoreError> {
    if tx.idempotency.get(request)?.is_none() {
        let row = IdempotencyRow { task: NO_TASK, body_hash: [0; 32], at };
        tx.writes += 1;
        tx.idempotency.insert(request, codec::encode(&row)?.as_slice())?;
    }
    Ok(())
}

fn succeed(tx: &mut Tx<'_>, item: &Item, fact: &Fact, url: Option<String>, now: Timestamp) -> Result<(), StoreError> {
    if fact.settled {
        tx.settled_published.insert(item.id.raw(), ())?;
    }
    let detail = url.clone().unwrap_or_else(|| "the ledger says that it was published".to_owned());
    let done = Item {
        state: ItemState::Succeeded,
        armed_fence: item.armed_fence.max(fact.armed),
        url,
        failure: None,
        held_for: None,
        verify: None,
        finished_at: Some(now),
        ..item.clone()
    };
    tx.change_item(item, done, "succeeded", &detail, now).map(drop)
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
        held_for: None,
        verify: plan(tx, item, now)?,
        finished_at: None,
        ..item.clone()
    };
    tx.change_item(item, unknown, "outcome_unknown", "armed after this state was saved", now).map(drop)
}

/// A human or a verify said since that what was armed did not publish: it waits like the rest.
fn cleared(tx: &mut Tx<'_>, item: &Item, fact: &Fact, now: Timestamp) -> Result<(), StoreError> {
    let state = if item.state.is_terminal() { item.state } else { ItemState::Queued };
    // Whoever said so let it be tried anew; what this state had counted before is not held against it.
    let attempts_before = if item.cleared_fence < fact.cleared { item.attempts } else { item.attempts_before };
    let waits = Item {
        state,
        attempts_before,
        armed_fence: item.armed_fence.max(fact.armed),
        cleared_fence: item.cleared_fence.max(fact.cleared),
        held_for: None,
        verify: None,
        ..item.clone()
    };
    tx.change_item(item, waits, "restored", "the ledger says that it did not publish", now).map(drop)
}

fn given_up(tx: &mut Tx<'_>, item: &Item, fact: &Fact, now: Timestamp) -> Result<(), StoreError> {
    let failed = Item {
        state: ItemState::Failed,
        armed_fence: item.armed_fence.max(fact.armed),
        held_for: None,
        verify: None,
        finished_at: Some(now),
        ..item.clone()
    };
    tx.change_item(item, failed, "failed", "the ledger says that a human gave up on it", now).map(drop)
}

fn plan(tx: &Tx<'_>, item: &Item, now: Timestamp) -> Result<Option<VerifyPlan>, StoreError> {
    Ok(tx.task(item.task)?.is_some_and(|task| task.verifiable).then(|| VerifyPlan::beginning(now)))
}

/// Rule 2: an item that waited when this state was saved may have ended since, and another may have gone out under
/// its key. This one ends, too.
fn give_way(tx: &mut Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
    for state in [ItemState::Queued, ItemState::RetryWait, ItemState::Running, ItemState::Held] {
        for id in tx.items_in(state)? {
            let Some(item) = tx.item(id)?.filter(|item| !item.is_armed()) else { continue };
            let Some(key) = &item.key else { continue };
            let holder = tx.keys.get(&key_hash(key))?.map(|row| ItemId::new(row.value()));
            let Some(other) = holder.filter(|holder| *holder != id) else { continue };
            let detail = format!("{other} has this key, and may have published since this state was saved");
            let failure = Some(Failure::new(FailureCode::KeyTaken, detail));
            let (state, finished_at) = (ItemState::Failed, Some(now));
            let ended = Item { state, failure, held_for: None, verify: None, finished_at, ..item.clone() };
            tx.change_item(&item, ended, "failed", "another item has its key", now)?;
        }
    }
    Ok(())
}

fn hold_the_rest(tx: &mut Tx<'_>, blind: bool, now: Timestamp) -> Result<(), StoreError> {
    for state in [ItemState::Queued, ItemState::RetryWait, ItemState::Running] {
        for id in tx.items_in(state)? {
            let Some(item) = tx.item(id)? else { continue };
            let armed = item.is_armed();
            // Without a ledger nobody knows what went out since; a verify may find out.
            let verify = if armed || blind { plan(tx, &item, now)? } else { None };
            let held = if armed {
                let failure = Failure::new(FailureCode::RestartedAfterCommit, "armed when this state was saved");
                Item { state: ItemState::OutcomeUnknown, failure: Some(failure), verify, ..item.clone() }
            } else {
                // The restore ended whatever ran when this state was saved: that costs no attempt.
                let attempts = item.attempts.saturating_sub(u32::from(item.state == ItemState::Running));
                Item { state: ItemState::Held, held_for: Some(HeldFor::Restore), attempts, verify, ..item.clone() }
            };
            let kind = held.state.name();
            tx.change_item(&item, held, kind, "restored", now)?;
        }
    }
    Ok(())
}

/// Lets a paused engine go on; what is held is queued again in the same transaction.
pub(in crate::store) fn resume(tx: &mut Tx<'_>, accept_duplicates: bool, now: Timestamp) -> Ran<(), ResumeRefused> {
    let held = tx.items_in(ItemState::Held)?;
    match &tx.meta.pause {
        None | Some(Pause::Operator { .. } | Pause::Restored { blind: false, .. }) => {}
        Some(Pause::Restored { blind: true, .. } | Pause::LedgerDamaged { .. }) if accept_duplicates => {}
        // Everything was verified: nothing is left that could go out twice.
        Some(Pause::Restored { .. }) if held.is_empty() => {}
        Some(Pause::Restored { .. }) => return Ok(Err(ResumeRefused::Blind)),
        Some(Pause::LedgerDamaged { .. }) => return Ok(Err(ResumeRefused::LedgerDamaged)),
    }
    // A human who lets things go on has looked at the clock, too.
    if let Some(mark) = tx.meta.clock.filter(|mark| mark.suspect_since.is_some()) {
        tx.writes += 1;
        tx.meta.clock = Some(ClockMark { suspect_since: None, ..mark });
    }
    for id in held {
        let Some(item) = tx.item(id)? else { continue };
        let queued = Item { state: ItemState::Queued, held_for: None, verify: None, ..item.clone() };
        tx.change_item(&item, queued, "queued", "resumed", now)?;
    }
    if matches!(tx.meta.pause, Some(Pause::LedgerDamaged { .. })) {
        tx.ledger_anew = Some(now);
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
