//! The jobs that keep the house clean, and what is known of the last run of each.
//!
//! Words alone: the store keeps a record a job, `ops::maintenance` carries the jobs out, the API shows both.
//! What a job does, and when, is not here.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// In the order in which they start when several are due at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    HealthCheck,
    LockCleanup,
    Retention,
    Snapshot,
    /// Of the newest.
    SnapshotVerification,
    /// Looks whether it is worth it; the next start of the daemon does it.
    Compaction,
}

impl Job {
    pub const ALL: [Self; 6] = [
        Self::HealthCheck,
        Self::LockCleanup,
        Self::Retention,
        Self::Snapshot,
        Self::SnapshotVerification,
        Self::Compaction,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HealthCheck => "health_check",
            Self::LockCleanup => "lock_cleanup",
            Self::Retention => "retention",
            Self::Snapshot => "snapshot",
            Self::SnapshotVerification => "snapshot_verification",
            Self::Compaction => "compaction",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.name() == name)
    }

    /// By a clock that is not believed it is skipped (fence.md rule 20). A snapshot removes old ones, too, and
    /// looks at the clock by itself before that.
    #[must_use]
    pub const fn is_destructive(self) -> bool {
        matches!(self, Self::LockCleanup | Self::Retention)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobResult {
    Success,
    Failure,
    /// It was not the time for it, and nothing was done.
    Skipped,
}

impl JobResult {
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Skipped];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Skipped => "skipped",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    pub started_at: Timestamp,
    pub duration_ms: u64,
    pub result: JobResult,
    /// For a person: what was done, or why not.
    pub detail: String,
}

/// What is kept of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub last: Option<JobRun>,
    pub last_success_at: Option<Timestamp>,
    /// What the schedule says up to this time is done.
    pub through: Option<Timestamp>,
    /// The first time of the schedule that is not.
    pub next_at: Option<Timestamp>,
    /// The schedule and the time zone that `next_at` was told by.
    pub planned_by: String,
}
