//! The maintenance: jobs that run by a schedule or by a person's word, and what became of each.
//!
//! [`Maintenance`] is the handle that the API shares; the daemon spawns [`run`]. Which job is due is decided by
//! [`plan`], which is pure; what a job does stands in `jobs`. Invariants: a job never runs twice at once; the end of a
//! run is in the state file before anybody sees that it is over; what destroys is skipped while the clock is not
//! believed (fence.md rule 20).
//!
//! Deliberately not here: rotation of logs, since who writes them rotates them (`telemetry`, or the journal); and
//! compaction itself, which the next start does where a job found it worth it.

mod jobs;
pub mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::EngineHandle;
use crate::model::{Clock, Job, JobResult, JobRun, Timestamp};
use crate::ops::backup::Backups;
use crate::store::media::MediaStore;
use crate::store::{Store, StoreError};
use crate::telemetry;
pub use jobs::{Judge, Judgement};
use plan::{JobRow, Plan};

/// The wall clock can be set while the loop sleeps: it looks at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RunRefused {
    #[error("the job runs already; `cove maintenance list` shows it")]
    Running,
    #[error("the daemon stops")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Inner {
    store: Store,
    engine: EngineHandle,
    clock: Arc<dyn Clock>,
    backups: Backups,
    media: MediaStore,
    state_dir: PathBuf,
    config: Arc<Config>,
    /// Made of what the store has kept, by whoever comes first.
    plan: OnceCell<Mutex<Plan>>,
    /// Runs since the start.
    runs: Mutex<BTreeMap<(Job, JobResult), u64>>,
    /// A job is in it only while it counts as running, so there is room for each.
    asked: mpsc::Sender<Job>,
}

/// A handle; clones share the one loop.
#[derive(Clone)]
pub struct Maintenance(Arc<Inner>);

/// What [`run`] works with.
pub struct Worker {
    maintenance: Maintenance,
    asked: mpsc::Receiver<Job>,
}

#[must_use]
pub fn pair(
    store: Store,
    engine: EngineHandle,
    clock: Arc<dyn Clock>,
    backups: Backups,
    media: MediaStore,
    config: Arc<Config>,
) -> (Maintenance, Worker) {
    let (asked, inbox) = mpsc::channel(Job::ALL.len());
    let maintenance = Maintenance(Arc::new(Inner {
        store,
        engine,
        clock,
        backups,
        media,
        state_dir: config.state_dir(),
        config,
        plan: OnceCell::new(),
        runs: Mutex::default(),
        asked,
    }));
    (maintenance.clone(), Worker { maintenance, asked: inbox })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maintenance {
    /// Every job.
    pub async fn rows(&self) -> Result<Vec<JobRow>, StoreError> {
        Ok(lock(self.plan().await?).rows())
    }

    /// Starts a job now; it counts as running when this answers. What its schedule says stays as it is.
    pub async fn run_now(&self, job: Job) -> Result<JobRow, RunRefused> {
        let plan = self.plan().await?;
        let row = {
            let mut plan = lock(plan);
            if !plan.begin(job) {
                return Err(RunRefused::Running);
            }
            plan.row(job)
        };
        self.0.asked.try_send(job).map_err(|_| RunRefused::Stopping)?;
        row.ok_or(RunRefused::Stopping)
    }

    /// How many runs have ended so since the start of the daemon.
    #[must_use]
    pub fn runs(&self, job: Job, result: JobResult) -> u64 {
        lock(&self.0.runs).get(&(job, result)).copied().unwrap_or_default()
    }

    async fn plan(&self) -> Result<&Mutex<Plan>, StoreError> {
        let make = || async {
            let records = self.0.store.job_records().await?;
            let settings = &self.0.config.maintenance;
            let schedules = Job::ALL.map(|job| (job, settings.schedule(job)));
            let plan = Plan::new(schedules, settings.zone(), records, self.0.clock.now(), &mut fastrand::f64);
            // A daemon that is away from now on has missed what comes next.
            for (job, record) in plan.to_keep() {
                self.0.store.note_job(job, record).await?;
            }
            Ok(Mutex::new(plan))
        };
        self.0.plan.get_or_try_init(make).await
    }

    /// Runs a job that counts as running, to its end, and keeps what became of it.
    async fn carry_out(&self, job: Job, judge: &dyn Judge, plan: &Mutex<Plan>) {
        let (started_at, began) = (self.0.clock.now(), Instant::now());
        let (result, detail) = match self.do_job(job, judge).await {
            Ok(done) => done,
            Err(error) => (JobResult::Failure, error.to_string()),
        };
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let name = job.name();
        match result {
            JobResult::Success => tracing::debug!(job = name, duration_ms, "maintenance: {detail}"),
            JobResult::Skipped => tracing::info!(job = name, "maintenance: skipped: {detail}"),
            JobResult::Failure => tracing::warn!(job = name, duration_ms, "maintenance: {detail}"),
        }
        let kept = lock(plan).after(job, JobRun { started_at, duration_ms, result, detail });
        if let Err(error) = self.0.store.note_job(job, kept.clone()).await {
            tracing::warn!(job = name, %error, "what became of a job of the maintenance cannot be kept");
        }
        *lock(&self.0.runs).entry((job, result)).or_default() += 1;
        lock(plan).end(job, kept);
    }
}

fn wait_until(next: Option<Timestamp>, now: Timestamp) -> Duration {
    next.map_or(LOOK_EVERY, |next| next.since(now).min(LOOK_EVERY))
}

/// Runs what is due and what is asked for, until `stop`; a job that runs then is given up, and counts as missed.
pub async fn run(worker: Worker, judge: Arc<dyn Judge>, stop: CancellationToken) {
    let Worker { maintenance, mut asked } = worker;
    let inner = &maintenance.0;
    let plan = tokio::select! {
        () = stop.cancelled() => return,
        plan = async { inner.engine.ready().await; maintenance.plan().await } => plan,
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return tracing::error!(%error, "there is no maintenance: what it knew cannot be read"),
    };
    let mut running = FuturesUnordered::new();
    loop {
        telemetry::tell_repeats();
        let now = inner.clock.now();
        let (due, next) = {
            let mut plan = lock(plan);
            (plan.due(now, &mut fastrand::f64), plan.next_start())
        };
        running.extend(due.into_iter().map(|job| maintenance.carry_out(job, judge.as_ref(), plan)));
        tokio::select! {
            () = stop.cancelled() => return,
            Some(job) = asked.recv() => running.push(maintenance.carry_out(job, judge.as_ref(), plan)),
            Some(()) = running.next(), if !running.is_empty() => {}
            () = tokio::time::sleep(wait_until(next, now)) => {}
        }
    }
}
