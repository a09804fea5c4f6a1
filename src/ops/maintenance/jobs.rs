//! What each job does, and the line that it leaves for people.
//!
//! Called by the loop of the maintenance alone. Invariants: an error ends a job as a failure and nothing else; what
//! destroys asks the engine first, after it has looked at the clock once more. How each thing is done is known to
//! the store, to `retention` and to `backup`.

use std::time::Duration;

use async_trait::async_trait;

use super::Maintenance;
use crate::model::{Job, JobResult};
use crate::ops::backup::BackupRefused;
use crate::ops::retention::{self, Cleaned, Keeper, RetentionError};
use crate::store::compaction::{self, Worth};
use crate::store::snapshot::{Snapshot, SnapshotReason};
use crate::store::{Cleanup, StoreError};

/// The engine turns every few seconds: then it is stuck.
const ENGINE_WITHIN: Duration = Duration::from_secs(60);
const ENGINE_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Another snapshot or verification may be under way; a large one takes its time.
const FREE_WITHIN: Duration = Duration::from_secs(2 * 3_600);
const FREE_LOOK_EVERY: Duration = Duration::from_secs(2);

/// The judgement over the whole daemon, which is made where all parts are known.
#[async_trait]
pub trait Judge: Send + Sync {
    async fn judge(&self) -> Judgement;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It does its work, if only in part.
    pub ok: bool,
    /// For a person: the status, and what is not well.
    pub line: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(transparent)]
    Backup(#[from] BackupRefused),
    #[error("the next start cannot be told to compact: {0}")]
    Mark(std::io::Error),
    #[error("the folder of the snapshots cannot be read: {0}")]
    Folder(std::io::Error),
}

type Done = Result<(JobResult, String), JobError>;

fn success(detail: String) -> (JobResult, String) {
    (JobResult::Success, detail)
}

impl Maintenance {
    pub(super) async fn do_job(&self, job: Job, judge: &dyn Judge) -> Done {
        if job.is_destructive()
            && let Some(why) = self.why_not_to_destroy().await
        {
            return Ok((JobResult::Skipped, why.to_owned()));
        }
        match job {
            Job::HealthCheck => {
                let Judgement { ok, line } = judge.judge().await;
                Ok((if ok { JobResult::Success } else { JobResult::Failure }, line))
            }
            Job::LockCleanup => self.clean_up_locks().await,
            Job::Retention => self.forget().await,
            Job::Snapshot => self.make_snapshot().await,
            Job::SnapshotVerification => self.verify_newest().await,
            Job::Compaction => self.look_at_room().await,
        }
    }

    /// A clock may have jumped in this very moment: what counts is what the engine says after this.
    async fn why_not_to_destroy(&self) -> Option<&'static str> {
        let engine = &self.0.engine;
        let asked_at = self.0.clock.now();
        let turned = async {
            while engine.view().turned_at < asked_at {
                engine.ring();
                tokio::time::sleep(ENGINE_LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(ENGINE_WITHIN, turned).await.is_err() {
            return Some("the engine does not turn, so nobody knows whether the clock is to be believed");
        }
        let suspect = engine.view().clock_suspect;
        suspect.then_some("the clock is not believed (clock_suspect): nothing is removed by it")
    }

    async fn clean_up_locks(&self) -> Done {
        let cleaned = self.0.store.clean_up_locks(Cleanup::default(), self.0.clock.moment()).await?;
        Ok(success(match cleaned.removed {
            0 => "no lock was expired".to_owned(),
            removed => format!("expired locks that were removed: {removed}"),
        }))
    }

    async fn forget(&self) -> Done {
        let keeper = Keeper {
            store: self.0.store.clone(),
            media: self.0.media.clone(),
            clock: self.0.clock.clone(),
            state_dir: self.0.state_dir.clone(),
            retention: self.0.config.retention.clone(),
        };
        let Cleaned { tasks, uploads } = retention::clean(&keeper, false).await?;
        let mut told = Vec::new();
        if tasks > 0 {
            told.push(format!("finished tasks that were forgotten, with their evidence: {tasks}"));
        }
        if uploads.files > 0 {
            told.push(format!(
                "uploads that nothing names and that were removed: {}, {} bytes",
                uploads.files, uploads.bytes
            ));
        }
        let nothing = "nothing is old enough to be forgotten".to_owned();
        Ok(success(if told.is_empty() { nothing } else { told.join("; ") }))
    }

    async fn look_at_room(&self) -> Done {
        let state_dir = self.0.state_dir.clone();
        let room = self.0.store.room(state_dir.clone()).await?;
        let free = format!("{} of {} bytes of the state file are free", room.free_bytes(), room.file_bytes);
        match room.worth() {
            Worth::No => Ok(success(format!("{free}: it stays as it is"))),
            Worth::TooLarge => Ok(success(format!("{free}: too large to be compacted by a start"))),
            Worth::Yes => {
                let marked = tokio::task::spawn_blocking(move || compaction::mark_due(&state_dir)).await;
                marked.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(JobError::Mark)?;
                Ok(success(format!("{free}: the next start compacts it")))
            }
        }
    }

    async fn make_snapshot(&self) -> Done {
        let backups = &self.0.backups;
        let Snapshot { name, bytes, .. } = when_free(|| backups.make_whole(SnapshotReason::Schedule)).await?;
        Ok(success(format!("{name}, {bytes} bytes")))
    }

    /// Newest first. One that is being made is waited for: it is the newest when it is whole.
    async fn snapshots(&self) -> Result<Vec<Snapshot>, JobError> {
        let mut waited = Duration::ZERO;
        loop {
            let begins = self.rows().await?.iter().any(|row| row.job == Job::Snapshot && row.running);
            let backups = self.0.backups.clone();
            let listed = tokio::task::spawn_blocking(move || backups.list()).await;
            let listed = listed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let (all, making) = listed.map_err(JobError::Folder)?;
            if (!begins && making.is_none()) || waited >= FREE_WITHIN {
                return Ok(all);
            }
            tokio::time::sleep(FREE_LOOK_EVERY).await;
            waited += FREE_LOOK_EVERY;
        }
    }

    async fn verify_newest(&self) -> Done {
        let Some(newest) = self.snapshots().await?.into_iter().next() else {
            return Ok((JobResult::Skipped, "there is no snapshot".to_owned()));
        };
        let Snapshot { name, damage, .. } = when_free(|| self.0.backups.verify(newest.name.clone())).await?;
        Ok(match damage {
            None => (JobResult::Success, format!("{name} is good")),
            Some(damage) => (JobResult::Failure, format!("{name}: {damage}")),
        })
    }
}

/// One at a time: waits until the snapshot or the verification that is under way has ended.
async fn when_free<F: Future<Output = Result<Snapshot, BackupRefused>>>(
    ask: impl Fn() -> F,
) -> Result<Snapshot, BackupRefused> {
    let mut waited = Duration::ZERO;
    loop {
        match ask().await {
            Err(BackupRefused::Busy) if waited < FREE_WITHIN => tokio::time::sleep(FREE_LOOK_EVERY).await,
            answer => return answer,
        }
        waited += FREE_LOOK_EVERY;
    }
}
