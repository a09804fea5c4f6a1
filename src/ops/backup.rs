//! The snapshots of a running daemon: one at a time, on request, on SIGUSR1 and by schedule; which are kept.
//!
//! [`Backups`] is the handle that the API, the signals and the maintenance share; the daemon spawns [`run`],
//! which carries everything out in turn. Invariants: while one is made or verified a second is refused and
//! never queued; a snapshot that failed leaves the others as they are; the newest one that was found good is never
//! removed, and by a clock that is not believed none is. The file format and the drill are the store's.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::EngineHandle;
use crate::model::{Clock, Timestamp};
use crate::ops::disk;
use crate::store::snapshot::{Snapshot, SnapshotError, SnapshotFolder, SnapshotPlan, SnapshotReason, excess, machine};
use crate::store::{Store, StoreError};

/// How long a stop waits until the work has ended early.
const END_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum BackupRefused {
    #[error("a snapshot is being made or verified; ask again when it is done")]
    Busy,
    #[error("there is no snapshot of this name")]
    Unknown,
    #[error("the daemon stops")]
    Stopping,
    #[error(transparent)]
    Failed(#[from] SnapshotError),
}

/// What is known without a look at the disk.
#[derive(Clone, Debug, Default)]
pub struct BackupView {
    /// The newest.
    pub last: Option<Snapshot>,
    /// When one was last found good.
    pub last_verified_at: Option<Timestamp>,
    /// Since the start of the daemon.
    pub made: u64,
    pub failed: u64,
    /// The one that is being made.
    pub making: Option<String>,
    /// Why the last one could not be made, or is not good.
    pub trouble: Option<String>,
}

enum Job {
    Make { reason: SnapshotReason, begun: oneshot::Sender<Result<String, SnapshotError>>, done: Option<Done> },
    Verify { name: String, done: Done },
}

type Answer = Box<dyn FnOnce() + Send>;
type Done = oneshot::Sender<Result<Snapshot, BackupRefused>>;

struct Inner {
    store: Store,
    engine: EngineHandle,
    clock: Arc<dyn Clock>,
    folder: SnapshotFolder,
    state_dir: PathBuf,
    config: Arc<Config>,
    /// A permit travels with the job and ends with it, so the channel holds one job at most.
    one: Arc<Semaphore>,
    jobs: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    cancel: Arc<AtomicBool>,
    known: Mutex<BackupView>,
}

/// A handle; clones share the one worker.
#[derive(Clone)]
pub struct Backups(Arc<Inner>);

/// What [`run`] works through.
pub struct Worker {
    backups: Backups,
    jobs: mpsc::Receiver<(Job, OwnedSemaphorePermit)>,
}

#[must_use]
pub fn pair(store: Store, engine: EngineHandle, clock: Arc<dyn Clock>, config: Arc<Config>) -> (Backups, Worker) {
    let (jobs, inbox) = mpsc::channel(1);
    let backups = Backups(Arc::new(Inner {
        store,
        engine,
        clock,
        folder: SnapshotFolder::new(config.snapshots_dir()),
        state_dir: config.state_dir(),
        config,
        one: Arc::new(Semaphore::new(1)),
        jobs,
        cancel: Arc::new(AtomicBool::new(false)),
        known: Mutex::default(),
    }));
    (backups.clone(), Worker { backups, jobs: inbox })
}

impl Backups {
    /// Begins a snapshot; its name. What was acknowledged before this answers is in it.
    pub async fn make(&self, reason: SnapshotReason) -> Result<String, BackupRefused> {
        let (begun, name) = oneshot::channel();
        self.ask(Job::Make { reason, begun, done: None })?;
        Ok(name.await.map_err(|_| BackupRefused::Stopping)??)
    }

    /// The same for who does not wait: the log has the rest.
    pub fn make_aside(&self, reason: SnapshotReason) -> Result<(), BackupRefused> {
        self.ask(Job::Make { reason, begun: oneshot::channel().0, done: None })
    }

    /// Makes one to its end.
    pub async fn make_whole(&self, reason: SnapshotReason) -> Result<Snapshot, BackupRefused> {
        let ((begun, _), (done, made)) = (oneshot::channel(), oneshot::channel());
        self.ask(Job::Make { reason, begun, done: Some(done) })?;
        made.await.map_err(|_| BackupRefused::Stopping)?
    }

    /// The whole drill; one that is not good is an answer, too.
    pub async fn verify(&self, name: String) -> Result<Snapshot, BackupRefused> {
        let (done, verified) = oneshot::channel();
        self.ask(Job::Verify { name, done })?;
        verified.await.map_err(|_| BackupRefused::Stopping)?
    }

    fn ask(&self, job: Job) -> Result<(), BackupRefused> {
        let permit = self.0.one.clone().try_acquire_owned().map_err(|_| BackupRefused::Busy)?;
        self.0.jobs.try_send((job, permit)).map_err(|_| BackupRefused::Stopping)
    }

    /// Newest first, and the one that is being made, which is not among them. Blocks.
    pub fn list(&self) -> io::Result<(Vec<Snapshot>, Option<String>)> {
        // Before the look at the folder: one that is whole by then may be listed, one that failed is gone.
        let making = self.known().making.clone();
        let mut all = self.0.folder.list()?;
        all.retain(|snapshot| making.as_ref() != Some(&snapshot.name));
        Ok((all, making))
    }

    /// Blocks. None: there is no snapshot of this name.
    pub fn open(&self, name: &str) -> io::Result<Option<(std::fs::File, u64)>> {
        self.0.folder.open(name)
    }

    #[must_use]
    pub fn view(&self) -> BackupView {
        self.known().clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BackupView> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what need not be kept, and looks at what is there.
    async fn tidy(&self) -> io::Result<()> {
        let (folder, keep) = (self.0.folder.clone(), self.0.config.snapshots.clone());
        let view = self.0.engine.view();
        // Whether the clock is to be believed is found out before the engine is ready (fence.md rule 20).
        let now = (view.ready && !view.clock_suspect).then(|| self.0.clock.now());
        let looked = tokio::task::spawn_blocking(move || {
            let mut all = folder.list()?;
            let goes = now.map(|now| excess(&all, now, keep.keep_days, keep.keep_count)).unwrap_or_default();
            for name in &goes {
                folder.remove(name)?;
                tracing::info!(name, "an old snapshot was removed");
            }
            all.retain(|snapshot| !goes.contains(&snapshot.name));
            Ok(all)
        });
        let all = looked.await.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        let mut known = self.known();
        known.last_verified_at = all.iter().filter_map(|snapshot| snapshot.verified_at).max();
        known.last = all.into_iter().next();
        Ok(())
    }

    fn plan(&self, reason: SnapshotReason) -> SnapshotPlan {
        let Inner { folder, state_dir, config, clock, cancel, .. } = &*self.0;
        SnapshotPlan {
            folder: folder.clone(),
            state_dir: state_dir.clone(),
            reason,
            config: config.to_toml_without_secrets(),
            media: config.snapshots.include_media,
            evidence: config.snapshots.include_evidence,
            least_free_bytes: disk::least_free_bytes(config.resources.disk_reserve_mb),
            machine: machine(),
            clock: clock.clone(),
            cancel: cancel.clone(),
        }
    }

    /// The answer is given by the caller, when the next one may ask.
    async fn carry_out(&self, job: Job) -> Answer {
        let answer: Answer = match job {
            Job::Make { reason, begun, done } => {
                let made = self.carry_out_make(reason, begun).await;
                self.note_made(reason, &made);
                Box::new(move || {
                    if let Some(done) = done {
                        drop(done.send(made.map_err(BackupRefused::from)));
                    }
                })
            }
            Job::Verify { name, done } => {
                let verified = self.0.folder.clone().verify(name.clone(), self.0.clock.clone()).await;
                self.note_verified(&name, &verified);
                let found = verified.map_err(BackupRefused::from);
                let found = found.and_then(|found| found.ok_or(BackupRefused::Unknown));
                // Whoever asked may have gone away.
                Box::new(move || drop(done.send(found)))
            }
        };
        if let Err(error) = self.tidy().await {
            tracing::warn!(%error, "the folder of the snapshots cannot be looked through");
        }
        answer
    }

    async fn carry_out_make(
        &self,
        reason: SnapshotReason,
        begun: oneshot::Sender<Result<String, SnapshotError>>,
    ) -> Result<Snapshot, SnapshotError> {
        let started = async {
            let new = self.0.store.begin_snapshot(self.plan(reason)).await?;
            let name = new.name().to_owned();
            Ok::<_, SnapshotError>((name, new.run()?))
        };
        match started.await {
            Ok((name, told)) => {
                // Before anybody has the name, so that who looks for it finds it here until it is listed.
                self.known().making = Some(name.clone());
                drop(begun.send(Ok(name)));
                told.await.unwrap_or(Err(SnapshotError::Store(StoreError::Closed)))
            }
            Err(error) => {
                let told = SnapshotError::Store(StoreError::Failed(error.to_string()));
                drop(begun.send(Err(error)));
                Err(told)
            }
        }
    }

    fn note_made(&self, reason: SnapshotReason, made: &Result<Snapshot, SnapshotError>) {
        let mut known = self.known();
        match made {
            Ok(snapshot) => {
                tracing::info!(name = snapshot.name, bytes = snapshot.bytes, ?reason, "a snapshot was made");
                known.made += 1;
                known.trouble = None;
            }
            Err(SnapshotError::Canceled) => tracing::info!("the snapshot that was being made is given up"),
            Err(error) => {
                tracing::error!(%error, ?reason, "no snapshot could be made");
                known.failed += 1;
                known.trouble = Some(format!("the last snapshot could not be made: {error}"));
            }
        }
    }

    fn note_verified(&self, name: &str, verified: &Result<Option<Snapshot>, SnapshotError>) {
        let damage = match verified {
            Ok(Some(Snapshot { damage: Some(damage), .. })) => Some(damage.clone()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        match damage {
            None => tracing::info!(name, "the snapshot is good"),
            Some(damage) => {
                tracing::error!(name, damage, "a snapshot is not good");
                self.known().trouble = Some(format!("{name}: {damage}"));
            }
        }
    }
}

/// Works through what is asked until `stop`; a snapshot that is being made then is given up.
pub async fn run(worker: Worker, stop: CancellationToken) {
    let Worker { backups, mut jobs } = worker;
    let folder = backups.0.folder.clone();
    let cleaned = tokio::task::spawn_blocking(move || folder.clean_unfinished()).await;
    match cleaned.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "what unfinished snapshots had left was removed"),
        Err(error) => tracing::warn!(%error, "what unfinished snapshots had left cannot be removed"),
    }
    if let Err(error) = backups.tidy().await {
        tracing::warn!(%error, "the folder of the snapshots cannot be looked through");
    }
    loop {
        let (job, permit) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            job = jobs.recv() => match job {
                Some(job) => job,
                None => return,
            },
        };
        let mut work = std::pin::pin!(backups.carry_out(job));
        let answer = tokio::select! {
            answer = &mut work => answer,
            () = stop.cancelled() => {
                backups.0.cancel.store(true, Ordering::Relaxed);
                if tokio::time::timeout(END_WITHIN, work).await.is_err() {
                    tracing::warn!("the snapshot that was being made has not ended: its files are removed at the next start");
                }
                return;
            }
        };
        // Before anybody sees that this is done: who comes then is not told that it is under way.
        drop(permit);
        backups.known().making = None;
        answer();
    }
}
