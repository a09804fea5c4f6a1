//! The operations that move things on: the engine's, the outside workers', the lock service's and the sender's.
//!
//! Each hands its work to the writer and returns after the commit. What an operation does is in `queue`,
//! `locks` and `outbox`; nothing is decided here.

use std::time::Duration;

use super::queue::{claims, clock, lent, outcome, progress, retention, settle};
use super::{
    Acquire, AcquireRefused, ArmRefused, AttemptEnded, BTreeMap, Claim, ClaimEnded, ClaimName, ClaimRefused, CleanedUp,
    Cleanup, ClockMark, Delivery, DeliveryId, DueDeliveries, DueLook, Expired, Fence, FinishRefused, Finished, Granted,
    ItemId, ItemState, Leftover, Lock, LockAsked, LockHeld, LockKind, LockPage, LockQuery, Moment, NotYours, Outlook,
    Page, ProfileId, Proofs, RetryRefused, STEP, SessionName, Settled, Store, StoreError, TaskId, Timestamp, Tried,
    TryEnd, Verified, VerifyBegun, Worker, locks, outbox, reads, sure,
};
use crate::model::Verdict;

/// Operations of the engine: progress.
impl Store {
    pub async fn outlook(&self, now: Moment) -> Result<Outlook, StoreError> {
        self.read(move |txn| reads::outlook(txn, now)).await
    }

    pub async fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        self.read(reads::leftovers).await
    }

    pub async fn claim(&self, item: ItemId, now: Moment) -> Result<Result<Claim, ClaimRefused>, StoreError> {
        self.writer.submit(move |tx| progress::claim(tx, item, &progress::Taker::Engine, now)).await
    }

    /// Starts an attempt of an outside worker.
    pub async fn claim_for_worker(
        &self,
        item: ItemId,
        worker: Worker,
        now: Moment,
    ) -> Result<Result<Claim, ClaimRefused>, StoreError> {
        let taker = progress::Taker::Worker(worker);
        self.writer.submit(move |tx| progress::claim(tx, item, &taker, now)).await
    }

    /// Takes a profile's lock for a program that gets its browser.
    pub async fn lend(
        &self,
        profile: ProfileId,
        owner: String,
        ttl: Duration,
        now: Moment,
    ) -> Result<Result<Granted, ClaimRefused>, StoreError> {
        self.writer.submit(move |tx| lent::lend(tx, &profile, &owner, ttl, now)).await
    }

    /// A new lease for a lent browser; None: as long as the one before.
    pub async fn refresh_session(
        &self,
        name: SessionName,
        ttl: Option<Duration>,
        now: Moment,
    ) -> Result<Granted, NotYours> {
        self.writer.submit(move |tx| lent::refresh(tx, &name, ttl, now)).await?
    }

    /// The locks of all lent browsers.
    pub async fn sessions(&self) -> Result<Vec<Lock>, StoreError> {
        self.read(locks::of_sessions).await
    }

    /// The end of the lease from now on; `ttl` None: as long as the one before.
    pub async fn refresh_claim(
        &self,
        name: ClaimName,
        ttl: Option<Duration>,
        now: Moment,
    ) -> Result<Result<Option<Timestamp>, NotYours>, StoreError> {
        self.writer.submit(move |tx| claims::refresh(tx, &name, ttl, now)).await
    }

    /// How long a claim is still the worker's.
    pub async fn claim_left(&self, name: ClaimName, now: Moment) -> Result<Result<Duration, NotYours>, StoreError> {
        self.writer.submit(move |tx| claims::left(tx, &name, now)).await
    }

    /// The worker's own word about the end. A completion of what was never armed is two commits: the ledger says
    /// `armed` behind the first of them, and `published` before the second.
    pub async fn end_claim(
        &self,
        end: AttemptEnded,
        now: Timestamp,
    ) -> Result<Result<ClaimEnded, FinishRefused>, StoreError> {
        let name = ClaimName { item: end.item, fence: end.fence };
        let completes = matches!(end.verdict, Verdict::Succeeded { .. });
        let unasked = completes && sure(self.writer.submit(move |tx| claims::arm_completed(tx, &name, now)).await)?;
        let ended = self.writer.submit(move |tx| claims::end(tx, &end, now)).await?;
        Ok(ended.map(|ended| ClaimEnded { unasked, ..ended }))
    }

    /// Ends what workers left when their lease was over.
    pub async fn expire_claims(&self, now: Moment) -> Result<Expired, StoreError> {
        sure(self.writer.submit(move |tx| claims::expire(tx, now)).await)
    }

    /// Returns when `armed` is durable in the store and in the ledger.
    pub async fn arm(
        &self,
        item: ItemId,
        fence: Fence,
        proofs: Proofs,
        now: Moment,
    ) -> Result<Result<(), ArmRefused>, StoreError> {
        self.writer.submit(move |tx| progress::arm(tx, item, fence, &proofs, now)).await
    }

    pub async fn finish(
        &self,
        end: AttemptEnded,
        now: Timestamp,
    ) -> Result<Result<Finished, FinishRefused>, StoreError> {
        self.writer.submit(move |tx| progress::finish(tx, &end, now)).await
    }

    pub async fn begin_verify(
        &self,
        item: ItemId,
        now: Moment,
    ) -> Result<Result<VerifyBegun, ClaimRefused>, StoreError> {
        self.writer.submit(move |tx| outcome::begin_verify(tx, item, now)).await
    }

    /// The state that the item has now.
    pub async fn finish_verify(
        &self,
        end: Verified,
        now: Timestamp,
    ) -> Result<Result<ItemState, FinishRefused>, StoreError> {
        self.writer.submit(move |tx| outcome::finish_verify(tx, &end, now)).await
    }

    pub async fn lock_for_operator(
        &self,
        profile: ProfileId,
        now: Moment,
    ) -> Result<Result<Fence, ClaimRefused>, StoreError> {
        self.writer.submit(move |tx| locks::take_for_operator(tx, &profile, now)).await
    }

    /// Frees a profile's lock. False: it was not held under this fence.
    pub async fn release(&self, profile: ProfileId, fence: Fence) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| locks::free_profile(tx, &profile, fence)).await)
    }

    /// Frees the profile of a lent browser that is verified dead, save where its claim goes on without it.
    /// False: its lock was not held under this fence.
    pub async fn release_session(&self, name: SessionName, now: Moment) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| lent::release(tx, &name, now)).await)
    }

    /// Ends items whose `not_after` has passed and makes those ready whose time has come, or holds them where the clock is not to be believed. True:
    /// there may be more.
    pub async fn promote(&self, now: Timestamp) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| progress::promote(tx, now, STEP)).await)
    }

    /// What was last known of the clocks; None: nothing yet, or a human said to begin anew.
    pub async fn clock_mark(&self) -> Result<Option<ClockMark>, StoreError> {
        self.read(|txn| Ok(reads::meta(txn)?.clock)).await
    }

    pub async fn mark_clock(&self, mark: ClockMark) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| clock::mark(tx, mark)).await)
    }

    /// Believes the clock again and queues what was held for it, a step at a time. True: there is more.
    pub async fn trust_clock(&self, now: Moment) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| clock::trust(tx, now, STEP)).await)
    }

    /// Spreads what was missed over the time to come, a step at a time. True: there is more.
    pub async fn catch_up(&self, per_hour: u32, now: Timestamp) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| clock::catch_up(tx, per_hour, now, STEP)).await)
    }

    /// Carries out what was asked of a task, a step at a time.
    pub async fn settle(&self, task: TaskId, now: Timestamp) -> Result<Settled, StoreError> {
        sure(self.writer.submit(move |tx| settle::settle(tx, task, STEP, now)).await)
    }

    /// Forgets a step of a finished task. True: it is forgotten.
    pub async fn prune(&self, task: TaskId) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| retention::prune(tx, task, STEP)).await)
    }
}

/// Locks, of whoever asks. Every refusal has changed nothing.
impl Store {
    pub async fn acquire_lock(&self, asked: LockAsked, now: Moment) -> Result<Acquire, AcquireRefused> {
        self.writer.submit(move |tx| locks::acquire(tx, &asked, now)).await?
    }

    /// A new lease for what is held; `ttl` None: as long as the one before.
    pub async fn refresh_lock(&self, held: LockHeld, ttl: Option<Duration>, now: Moment) -> Result<Granted, NotYours> {
        self.writer.submit(move |tx| locks::refresh(tx, &held, ttl, now)).await?
    }

    pub async fn release_lock(&self, held: LockHeld, now: Moment) -> Result<(), NotYours> {
        self.writer.submit(move |tx| locks::release(tx, &held, now)).await?
    }

    /// Removes what is expired, and with `force` what an owner still holds; in steps that let others in.
    pub async fn clean_up_locks(&self, asked: Cleanup, now: Moment) -> Result<CleanedUp, StoreError> {
        let mut all = CleanedUp::default();
        let mut from = Some(locks::Place::default());
        while let Some(place) = from {
            let asked = asked.clone();
            let step = self.writer.submit(move |tx| locks::clean_up(tx, &asked, &place, STEP, now)).await;
            let (cleaned, next) = sure(step)?;
            locks::add(&mut all, cleaned);
            from = next;
        }
        Ok(all)
    }

    /// What [`Store::clean_up_locks`] would do now.
    pub async fn locks_to_clean_up(&self, asked: Cleanup, now: Moment) -> Result<CleanedUp, StoreError> {
        self.read(move |txn| locks::to_clean_up(txn, &asked, STEP, now)).await
    }

    pub async fn lock(&self, kind: LockKind, key: String) -> Result<Option<Lock>, StoreError> {
        self.read(move |txn| locks::read(txn, &kind, &key)).await
    }

    pub async fn locks(&self, query: LockQuery) -> Result<LockPage, StoreError> {
        self.read(move |txn| locks::list(txn, &query)).await
    }

    /// The profiles that outside programs hold.
    pub async fn profiles_held_outside(&self, now: Moment) -> Result<BTreeMap<ProfileId, Lock>, StoreError> {
        self.read(move |txn| locks::profiles_held_outside(txn, now)).await
    }
}

/// Operations of the sender of webhooks, and of who looks at its log.
impl Store {
    /// Waits until the outbox has something new. One waiter.
    pub async fn outbox_changed(&self) {
        self.writer.outbox().notified().await;
    }

    pub async fn due_deliveries(&self, look: DueLook) -> Result<DueDeliveries, StoreError> {
        self.read(move |txn| outbox::due(txn, &look)).await
    }

    /// False: the delivery does not stand where the try found it.
    pub async fn record_delivery(
        &self,
        id: DeliveryId,
        attempts_before: u32,
        tried: Tried,
        end: TryEnd,
    ) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| outbox::record(tx, id, attempts_before, &tried, end)).await)
    }

    pub async fn retry_delivery(&self, task: TaskId, id: DeliveryId, now: Timestamp) -> Result<Delivery, RetryRefused> {
        self.writer.submit(move |tx| outbox::retry(tx, task, id, now)).await?
    }

    /// Takes away what the log keeps no longer. True: there may be more.
    pub async fn prune_deliveries(&self, now: Timestamp) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| outbox::prune(tx, now)).await)
    }

    /// Newest first; only ids below `before` (raw).
    pub async fn deliveries(
        &self,
        task: TaskId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Delivery>, StoreError> {
        self.read(move |txn| reads::deliveries(txn, task, before, limit)).await
    }
}
