//! The store: one redb file, the publish ledger beside it, and the media folder.
//!
//! It speaks operations, never tables. Writes go to one named thread that commits whatever waits
//! together and answers each caller after the fsync; an operation that is refused leaves nothing
//! behind. Reads run on a bounded pool off the async runtime. It knows nothing about browsers, HTTP or
//! the engine's plans.

pub mod ballast;
mod boot;
mod check;
mod codec;
mod files;
mod flows;
mod ledger;
mod locks;
pub mod media;
mod outbox;
mod profiles;
mod queue;
mod reads;
mod requests;
mod tables;
mod trial;
mod writer;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadTransaction, ReadableDatabase, StorageBackend};
use tokio::sync::{Semaphore, watch};

pub use boot::{BootReport, LEDGER_FILE, OpenError, SCHEMA_VERSION, STATE_FILE};
pub use files::LedgerFile;
pub use requests::*;

use crate::model::{
    Delivery, DeliveryId, Fence, Item, ItemId, ItemState, Lock, LockKind, Moment, Profile, ProfileId, Proofs,
    Resolution, TaskId, Timestamp, Tried,
};
use ledger::Ledger;
use queue::{claims, clock, enqueue, outcome, progress, recover, retention, settle};
use writer::{Ran, WriterHandle};

/// Reads at a time; a caller beyond waits.
const READERS: usize = 4;
/// Items moved by one promotion or one step of a cancel; locks looked at by one step of a cleanup.
const STEP: usize = 500;
/// Waiting items read for a task's `wait_reasons`.
pub const MAX_WAITING_SHOWN: usize = 1_000;
/// Locks told by one cleanup; the others are counted.
pub const MAX_LOCKS_SHOWN: usize = 1_000;

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Self::Corrupt(what),
            redb::Error::Io(error) => Self::from_io(Path::new(STATE_FILE), &error),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl StoreError {
    fn from_io(path: &Path, error: &std::io::Error) -> Self {
        let what = format!("{}: {error}", path.display());
        if ballast::is_full(error) { Self::Full(what) } else { Self::Failed(what) }
    }
}

/// A handle; clones share the writer thread and the readers.
#[derive(Clone)]
pub struct Store {
    db: Arc<Database>,
    writer: WriterHandle,
    readers: Arc<Semaphore>,
}

/// The writer's thread, to be joined after the last [`Store`] is dropped: the file is closed then.
pub struct WriterThread(JoinHandle<()>);

impl WriterThread {
    /// Waits for the last commits. Blocks.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the store's writer ended by a panic");
        }
    }
}

impl Store {
    /// Opens (or makes) the state file in `folder` and compares it with its ledger. Blocks.
    pub fn open(folder: &Path, now: Moment) -> Result<(Self, WriterThread, BootReport), OpenError> {
        boot::open(folder, now).map(Self::start)
    }

    /// The same over the storage of a state that was made before: the seam for tests that put a simulated
    /// disk under both files, cut its power and fail its operations. `state` gives the same storage each time.
    /// Blocks.
    pub fn open_over<B: StorageBackend>(
        state: impl Fn() -> B,
        ledger: impl LedgerFile,
        now: Moment,
    ) -> Result<(Self, WriterThread, BootReport), OpenError> {
        boot::open_over(|| Ok(state()), Box::new(ledger), Path::new(""), now).map(Self::start)
    }

    /// Makes an empty state over empty storage, as [`Self::open`] does before it gives the file its name.
    pub fn create_over(state: impl StorageBackend) -> Result<(), OpenError> {
        boot::create_over(state)
    }

    fn start((db, ledger, report): (Database, Ledger, BootReport)) -> (Self, WriterThread, BootReport) {
        let db = Arc::new(db);
        let (writer, thread) = writer::start(db.clone(), ledger);
        (Self { db, writer, readers: Arc::new(Semaphore::new(READERS)) }, WriterThread(thread), report)
    }

    /// Turns to the reason when the disk failed: nothing is acknowledged any more and the daemon stops.
    pub fn failed(&self) -> watch::Receiver<Option<StoreError>> {
        self.writer.failed()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let db = self.db.clone();
        let task = tokio::task::spawn_blocking(move || {
            let txn = db.begin_read()?;
            let answer = work(&txn);
            drop(permit);
            answer
        });
        task.await.map_err(|_| StoreError::Closed)?
    }
}

/// An operation that is never refused.
fn sure<T>(ran: Ran<T, Infallible>) -> Result<T, StoreError> {
    ran.map(|Ok(value)| value)
}

/// Operations of the API: intent.
impl Store {
    pub async fn enqueue(&self, new: NewTask, now: Timestamp) -> Result<Enqueued, EnqueueError> {
        self.writer.submit(move |tx| enqueue::enqueue(tx, &new, now)).await?
    }

    /// What an Idempotency-Key and body made before. None: the key never came; `IdempotencyConflict`: it
    /// came with another body. Asked before a request is checked, since its files may be gone by then.
    pub async fn find_replay(&self, given: Idempotency) -> Result<Option<Enqueued>, EnqueueError> {
        self.read(move |txn| enqueue::find_replay(txn, &given)).await?.transpose()
    }

    /// False: no such task. Asking twice is asking once.
    pub async fn ask(&self, task: TaskId, ask: Ask, now: Timestamp) -> Result<bool, StoreError> {
        sure(self.writer.submit(move |tx| settle::ask(tx, task, ask, now)).await)
    }

    /// Queues failed items again, a step at a time, from `from` on (zero at first). None: no such task.
    pub async fn retry(&self, task: TaskId, from: u64, now: Timestamp) -> Result<Option<RetryStep>, StoreError> {
        sure(self.writer.submit(move |tx| settle::retry(tx, task, from, STEP, now)).await)
    }

    /// Settles an unknown outcome. What a verify that runs for it finds later changes nothing.
    pub async fn resolve(
        &self,
        item: ItemId,
        resolution: Resolution,
        url: Option<String>,
        note: String,
        now: Timestamp,
    ) -> Result<Item, ResolveRefused> {
        self.writer.submit(move |tx| outcome::resolve(tx, item, resolution, url.as_deref(), &note, now)).await?
    }

    /// None: no such profile.
    pub async fn unpark(&self, profile: ProfileId) -> Result<Option<Profile>, StoreError> {
        sure(self.writer.submit(move |tx| profiles::unpark(tx, &profile)).await)
    }

    pub async fn put_flow(
        &self,
        name: String,
        hash: String,
        json: Vec<u8>,
        now: Timestamp,
    ) -> Result<PutFlow, StoreError> {
        sure(self.writer.submit(move |tx| flows::put(tx, &name, &hash, &json, now)).await)
    }

    pub async fn delete_flow(&self, name: String) -> Result<(), DeleteFlowError> {
        self.writer.submit(move |tx| flows::delete(tx, &name)).await?
    }

    pub async fn create_profile(
        &self,
        id: ProfileId,
        name: String,
        now: Timestamp,
    ) -> Result<Profile, CreateProfileError> {
        self.writer.submit(move |tx| profiles::create(tx, &id, &name, now)).await?
    }

    /// Stops claims until a resume.
    pub async fn pause(&self, now: Timestamp) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| recover::pause(tx, now)).await)
    }

    pub async fn resume(&self, accept_duplicates: bool, now: Timestamp) -> Result<(), ResumeRefused> {
        self.writer.submit(move |tx| recover::resume(tx, accept_duplicates, now)).await?
    }
}

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
        worker: String,
        kinds: Vec<String>,
        ttl: Duration,
        now: Moment,
    ) -> Result<Result<Claim, ClaimRefused>, StoreError> {
        let taker = progress::Taker::Worker { name: worker, kinds, ttl };
        self.writer.submit(move |tx| progress::claim(tx, item, &taker, now)).await
    }

    /// The end of the lease from now on.
    pub async fn refresh_claim(
        &self,
        name: ClaimName,
        ttl: Duration,
        now: Moment,
    ) -> Result<Result<Option<Timestamp>, NotYours>, StoreError> {
        self.writer.submit(move |tx| claims::refresh(tx, &name, ttl, now)).await
    }

    /// How long a claim is still the worker's.
    pub async fn claim_left(&self, name: ClaimName, now: Moment) -> Result<Result<Duration, NotYours>, StoreError> {
        self.writer.submit(move |tx| claims::left(tx, &name, now)).await
    }

    /// The worker's own word about the end.
    pub async fn end_claim(
        &self,
        end: AttemptEnded,
        now: Timestamp,
    ) -> Result<Result<ClaimEnded, FinishRefused>, StoreError> {
        self.writer.submit(move |tx| claims::end(tx, &end, now)).await
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

    /// Makes items ready whose time has come, or holds them where the clock is not to be believed. True:
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

    /// A new lease for what is held.
    pub async fn refresh_lock(&self, held: LockHeld, ttl: Duration, now: Moment) -> Result<Granted, NotYours> {
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

/// Reads.
impl Store {
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        self.read(move |txn| reads::task(txn, id)).await
    }

    pub async fn tasks(&self, query: TaskQuery) -> Result<Page<TaskRow>, StoreError> {
        self.read(move |txn| reads::tasks(txn, &query)).await
    }

    pub async fn item(&self, id: ItemId) -> Result<Option<Item>, StoreError> {
        self.read(move |txn| reads::item(txn, id)).await
    }

    pub async fn items(&self, query: ItemQuery) -> Result<Page<Item>, StoreError> {
        self.read(move |txn| reads::items(txn, &query)).await
    }

    /// Oldest first; `after` is the number of the last line seen.
    pub async fn events(&self, task: TaskId, after: Option<u64>, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.read(move |txn| reads::events(txn, task, after, limit)).await
    }

    /// The recording as it was put, by name.
    pub async fn flow(&self, name: String) -> Result<Option<(FlowInfo, Vec<u8>)>, StoreError> {
        self.read(move |txn| flows::read(txn, &name)).await
    }

    /// The recording that a task pinned.
    pub async fn flow_by_hash(&self, hash: String) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |txn| flows::read_recording(txn, &hash)).await
    }

    pub async fn flows(&self) -> Result<Vec<FlowInfo>, StoreError> {
        self.read(flows::list).await
    }

    /// Every profile, by id.
    pub async fn profiles(&self) -> Result<Vec<Profile>, StoreError> {
        self.read(profiles::list).await
    }

    /// Items that a worker of these kinds could take now, the best first.
    pub async fn claimable(&self, kinds: Vec<String>, now: Moment) -> Result<Vec<Head>, StoreError> {
        self.read(move |txn| reads::claimable(txn, &kinds, now)).await
    }

    /// Why items wait, in numbers.
    pub async fn waiting(&self) -> Result<Waiting, StoreError> {
        self.read(reads::waiting).await
    }

    /// Finished tasks to forget: ended before `before`, or the oldest beyond `keep`.
    pub async fn prunable(&self, before: Timestamp, keep: u64, limit: usize) -> Result<Vec<Prunable>, StoreError> {
        self.read(move |txn| retention::prunable(txn, before, keep, limit)).await
    }

    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = self.read(reads::stats).await?;
        let (commit_p99, batch_p50) = self.writer.figures();
        stats.writer_queue = self.writer.waiting();
        stats.commit_p99_ms = commit_p99.as_secs_f64() * 1_000.0;
        stats.batch_p50 = batch_p50;
        stats.readers_max = READERS;
        stats.readers_in_use = READERS - self.readers.available_permits();
        Ok(stats)
    }

    /// The whole state as text, for assertions and for people.
    pub async fn dump(&self) -> Result<String, StoreError> {
        self.read(check::dump).await
    }

    /// Rebuilds every index from its primary table and compares: one line a difference.
    pub async fn check_consistency(&self) -> Result<Vec<String>, StoreError> {
        self.read(check::differences).await
    }
}
