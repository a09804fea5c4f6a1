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
pub mod compaction;
mod epoch;
pub mod feed;
mod files;
mod flows;
pub mod history;
mod inspect;
mod ledger;
mod locks;
mod maintenance;
pub mod media;
mod migrate;
mod moves;
mod outbox;
mod profiles;
mod queue;
pub mod readers;
mod reads;
mod requests;
pub mod snapshot;
mod tables;
mod tokens;
mod trial;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use redb::{Database, ReadTransaction, ReadableDatabase, StorageBackend};
use tokio::sync::{Semaphore, watch};

pub use boot::{BootReport, LEDGER_FILE, OpenError, SCHEMA_VERSION, STATE_FILE};
pub use feed::{Feed, News};
pub use files::LedgerFile;
pub use inspect::{Inspected, inspect};
pub use requests::*;

use crate::meter::{Meter, Timed};
use crate::model::{
    Delivery, DeliveryId, Fence, Intent, Item, ItemId, ItemState, Lock, LockKind, Moment, Profile, ProfileId, Proofs,
    Resolution, Task, TaskId, Timestamp, Tried,
};
use ledger::Ledger;
use queue::{enqueue, outcome, recover, retention, settle};
use writer::{Ran, WriterHandle};

/// Reads at a time; a caller beyond waits.
const READERS: usize = 4;
/// Items moved by one promotion or one step of a cancel; locks looked at by one step of a cleanup.
const STEP: usize = 500;
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
    feed: Feed,
    meter: Meter,
    readers: Arc<Semaphore>,
    /// Reads that wait for a reader.
    reads_waiting: Arc<AtomicUsize>,
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
    /// Opens (or makes) the state file in `folder` and compares it with its ledger. What has to be kept before
    /// that goes into the folder's own snapshots. Blocks.
    pub fn open(folder: &Path, now: Moment) -> Result<(Self, WriterThread, BootReport), OpenError> {
        Self::open_keeping(folder, &folder.join(snapshot::SNAPSHOTS_FOLDER), now)
    }

    /// The same with another folder for the snapshot that is made before a migration. Blocks.
    pub fn open_keeping(
        folder: &Path,
        snapshots: &Path,
        now: Moment,
    ) -> Result<(Self, WriterThread, BootReport), OpenError> {
        boot::open(folder, &snapshot::SnapshotFolder::new(snapshots.to_owned()), now).map(Self::start)
    }

    /// The same over the storage of a state that was made before: the seam for tests that put a simulated
    /// disk under both files, cut its power and fail its operations. `state` gives the same storage each time.
    /// Blocks.
    pub fn open_over<B: StorageBackend>(
        state: impl Fn() -> B,
        ledger: impl LedgerFile,
        now: Moment,
    ) -> Result<(Self, WriterThread, BootReport), OpenError> {
        boot::open_over(|| Ok(state()), |_| Ok(()), || Ok(ledger), (Path::new(""), false), now).map(Self::start)
    }

    /// The same, and the state is compacted first.
    pub fn open_compacting<B: StorageBackend>(
        state: impl Fn() -> B,
        ledger: impl LedgerFile,
        now: Moment,
    ) -> Result<(Self, WriterThread, BootReport), OpenError> {
        boot::open_over(|| Ok(state()), |_| Ok(()), || Ok(ledger), (Path::new(""), true), now).map(Self::start)
    }

    /// Makes an empty state over empty storage, as [`Self::open`] does before it gives the file its name.
    pub fn create_over(state: impl StorageBackend) -> Result<(), OpenError> {
        boot::create_over(state)
    }

    fn start((db, ledger, report): (Database, Ledger, BootReport)) -> (Self, WriterThread, BootReport) {
        let db = Arc::new(db);
        let feed = Feed::new(fastrand::u32(..));
        let meter = Meter::default();
        let (writer, thread) = writer::start(db.clone(), ledger, feed.clone(), meter.clone());
        let (readers, reads_waiting) = (Arc::new(Semaphore::new(READERS)), Arc::default());
        (Self { db, writer, feed, meter, readers, reads_waiting }, WriterThread(thread), report)
    }

    /// Turns to the reason when the disk failed: nothing is acknowledged any more and the daemon stops.
    pub fn failed(&self) -> watch::Receiver<Option<StoreError>> {
        self.writer.failed()
    }

    /// Comes back when the writer has dealt with all that was handed to it before. Nothing is written.
    pub async fn answers(&self) -> Result<(), StoreError> {
        sure(self.writer.submit(|_| Ok(Ok(()))).await)
    }

    /// What happened since the store was opened.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// What is counted since the store was opened.
    #[must_use]
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let waiting = InLine::new(&self.reads_waiting);
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        drop(waiting);
        let (db, meter) = (self.db.clone(), self.meter.clone());
        let task = tokio::task::spawn_blocking(move || {
            let txn = db.begin_read()?;
            let answer = work(&txn);
            drop(permit);
            meter.time(Timed::StoreRead, began.elapsed());
            answer
        });
        task.await.map_err(|_| StoreError::Closed)?
    }
}

/// Counted as long as it lives, also where its caller gives up.
struct InLine(Arc<AtomicUsize>);

impl InLine {
    fn new(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting.clone())
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    /// Adds what is new, and takes the names over. Nothing else of a profile is touched, and none is removed.
    pub async fn put_profiles(
        &self,
        listed: Vec<(ProfileId, String)>,
        now: Timestamp,
    ) -> Result<PutProfiles, StoreError> {
        sure(self.writer.submit(move |tx| profiles::put_listed(tx, &listed, now)).await)
    }

    /// Stops claims until a resume.
    pub async fn pause(&self, now: Timestamp) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| recover::pause(tx, now)).await)
    }

    pub async fn resume(&self, accept_duplicates: bool, now: Timestamp) -> Result<(), ResumeRefused> {
        self.writer.submit(move |tx| recover::resume(tx, accept_duplicates, now)).await?
    }
}

/// Reads.
impl Store {
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        self.read(move |txn| reads::task(txn, id)).await
    }

    /// A task and what was asked of it, without a look at its items.
    pub async fn task_alone(&self, id: TaskId) -> Result<Option<(Task, Intent)>, StoreError> {
        self.read(move |txn| reads::task_alone(txn, id)).await
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

    /// Which of these items' unknown outcomes were settled as published.
    pub async fn settled_published(&self, items: Vec<ItemId>) -> Result<BTreeSet<ItemId>, StoreError> {
        self.read(move |txn| reads::settled_published(txn, &items)).await
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

    /// Every profile, and which of them outside programs hold: what may stand in the way of items, in one look.
    pub async fn profiles_and_held(
        &self,
        now: Moment,
    ) -> Result<(Vec<Profile>, BTreeMap<ProfileId, Lock>), StoreError> {
        self.read(move |txn| Ok((profiles::list(txn)?, locks::profiles_held_outside(txn, now)?))).await
    }

    /// Every profile, and the flow of this name: what a task is made of, in one look.
    pub async fn profiles_and_flow(
        &self,
        name: Option<String>,
    ) -> Result<(Vec<Profile>, Option<(FlowInfo, Vec<u8>)>), StoreError> {
        self.read(move |txn| {
            let flow = name.map(|name| flows::read(txn, &name)).transpose()?.flatten();
            Ok((profiles::list(txn)?, flow))
        })
        .await
    }

    /// Items that a worker of these kinds could take now, the best first.
    pub async fn claimable(&self, kinds: Vec<String>, now: Moment) -> Result<Vec<Head>, StoreError> {
        self.read(move |txn| reads::claimable(txn, &kinds, now)).await
    }

    /// Why items wait, in numbers.
    pub async fn waiting(&self, now: Timestamp) -> Result<Waiting, StoreError> {
        self.read(move |txn| reads::waiting(txn, now)).await
    }

    /// Finished tasks to forget: ended before `before`, or the oldest beyond `keep`.
    pub async fn prunable(&self, before: Timestamp, keep: u64, limit: usize) -> Result<Vec<Prunable>, StoreError> {
        self.read(move |txn| retention::prunable(txn, before, keep, limit)).await
    }

    /// Files that items name, whatever their state: `limit` items from `from` (zero at first) on. Items that
    /// are made meanwhile come later.
    pub async fn files_named(&self, from: u64, limit: usize) -> Result<NamedFiles, StoreError> {
        self.read(move |txn| retention::files_named(txn, from, limit)).await
    }

    /// Files that these items name.
    pub async fn files_of(&self, items: Vec<ItemId>) -> Result<Vec<PathBuf>, StoreError> {
        self.read(move |txn| retention::files_of(txn, &items)).await
    }

    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = self.read(reads::stats).await?;
        let (commit_p99, batch_p50) = self.writer.figures();
        stats.writer_queue = self.writer.waiting();
        stats.commit_p99_ms = commit_p99.as_secs_f64() * 1_000.0;
        stats.batch_p50 = batch_p50;
        stats.readers_max = READERS;
        stats.readers_in_use = READERS - self.readers.available_permits();
        stats.readers_waiting = self.reads_waiting.load(Ordering::Relaxed);
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
