//! An item: one flow, one profile, one set of inputs; and the states it goes through.
//!
//! The item's record is written by two transactions alone: the submit that makes it, and the engine's
//! that move it. What a person asks afterwards (cancel, pause) is intent and is kept elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, Fence, ItemId, ProfileId, Proofs, TaskId, Timestamp};

/// product.md §2. The order is that of the stored index; do not change it within a schema version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    Queued,
    Running,
    RetryWait,
    Held,
    OutcomeUnknown,
    Succeeded,
    Failed,
    Canceled,
}

impl ItemState {
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::RetryWait,
        Self::Held,
        Self::OutcomeUnknown,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::RetryWait => "retry_wait",
            Self::Held => "held",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == text)
    }

    /// Nothing will ever change it again, save a person's explicit retry.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// Waits for the engine to start it.
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Queued | Self::RetryWait)
    }
}

impl fmt::Display for ItemState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Why an item that is not running and not terminal is not running (product.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    Paused,
    ScheduledFor,
    RetryBackoff,
    NoSlot,
    ProfileBusy,
    ProfileInUseByOperator,
    ProfileNeedsHuman,
    RateLimitedUntil,
    BreakerOpenUntil,
    ProviderDown,
    NoMemory,
    NoCpu,
    NoDisk,
    Draining,
    HeldAfterRestore,
    ClockSuspect,
    OutcomeUnknown,
}

impl WaitReason {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::ScheduledFor => "scheduled_for",
            Self::RetryBackoff => "retry_backoff",
            Self::NoSlot => "no_slot",
            Self::ProfileBusy => "profile_busy",
            Self::ProfileInUseByOperator => "profile_in_use_by_operator",
            Self::ProfileNeedsHuman => "profile_needs_human",
            Self::RateLimitedUntil => "rate_limited_until",
            Self::BreakerOpenUntil => "breaker_open_until",
            Self::ProviderDown => "provider_down",
            Self::NoMemory => "no_memory",
            Self::NoCpu => "no_cpu",
            Self::NoDisk => "no_disk",
            Self::Draining => "draining",
            Self::HeldAfterRestore => "held_after_restore",
            Self::ClockSuspect => "clock_suspect",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}

/// A file as it was when it was accepted or last hashed. Device, inode, size and mtime are looked at
/// again when arming (fence.md rule 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInput {
    /// Absolute, without symlinks.
    pub path: PathBuf,
    /// Lower-case hex.
    pub sha256: String,
    pub bytes: u64,
    pub device: u64,
    pub inode: u64,
    pub mtime_ns: i128,
}

/// One input of an item, as its flow declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputValue {
    Text(String),
    Url(String),
    Number(f64),
    Bool(bool),
    File(FileInput),
}

impl InputValue {
    /// The value as a template sees it.
    #[must_use]
    pub fn render(&self) -> String {
        match self {
            Self::Text(text) | Self::Url(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::File(file) => file.path.display().to_string(),
        }
    }

    #[must_use]
    pub const fn as_file(&self) -> Option<&FileInput> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }
}

/// Which of the queue's indexes holds an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It does not wait to be started.
    Off,
    /// It may start as soon as there is room.
    Ready,
    /// Its time has not come.
    Due,
    /// Its task is paused.
    Paused,
}

/// Why an item is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldFor {
    /// The state was restored (fence.md rules 18 and 19).
    Restore,
    /// It came due by a clock that jumped (fence.md rule 20).
    Clock,
}

/// The schedule by which an unknown outcome is looked at (fence.md rule 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyPlan {
    /// None: the schedule is over.
    pub next_at: Option<Timestamp>,
    /// Runs that came to an end.
    pub runs: u32,
    /// How many of them said that it is not there.
    pub not_found: u32,
}

impl VerifyPlan {
    /// Waits before each run, counted from the end of the run before it; the first is at once.
    pub const WAITS: [Duration; 5] = [
        Duration::ZERO,
        Duration::from_secs(60),
        Duration::from_secs(5 * 60),
        Duration::from_secs(15 * 60),
        Duration::from_secs(60 * 60),
    ];

    #[must_use]
    pub const fn beginning(now: Timestamp) -> Self {
        Self { next_at: Some(now), runs: 0, not_found: 0 }
    }

    /// After one more run.
    #[must_use]
    pub fn after_run(self, not_found: bool, now: Timestamp) -> Self {
        let runs = self.runs + 1;
        let wait = Self::WAITS.get(usize::try_from(runs).unwrap_or(usize::MAX));
        Self { next_at: wait.map(|wait| now.plus(*wait)), runs, not_found: self.not_found + u32::from(not_found) }
    }

    /// The whole schedule said that it is not there.
    #[must_use]
    pub fn all_not_found(&self) -> bool {
        self.next_at.is_none() && self.not_found == self.runs && self.runs as usize == Self::WAITS.len()
    }
}

/// How a person (or a verify) settled what was not known (fence.md rule 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It is out there.
    Published,
    /// It is not: queued again.
    NotPublished,
    /// Nobody knows, and nobody wants to: failed, its key stays taken.
    GiveUp,
}

impl Resolution {
    pub const ALL: [Self; 3] = [Self::Published, Self::NotPublished, Self::GiveUp];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::NotPublished => "not_published",
            Self::GiveUp => "give_up",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resolution| resolution.name() == text)
    }
}

/// One file that an attempt left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// The attempt's fence: names the folder, and is unique where the count of attempts is not.
    pub fence: Fence,
    /// Which attempt of the item, from 1.
    pub attempt: u32,
    pub file: String,
    pub bytes: u64,
    /// `trace`, `screenshot`, `page_text` or `console`.
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: ItemId,
    pub task: TaskId,
    /// Place in the request, from 0.
    pub index: u32,
    pub profile: ProfileId,
    pub inputs: BTreeMap<String, InputValue>,
    /// The caller's name for "the same thing" (fence.md rule 2).
    pub key: Option<String>,
    pub priority: i32,
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    pub created_at: Timestamp,

    pub state: ItemState,
    /// Not to be started before this time: `not_before`, the end of a back-off, or zero.
    pub due_at: Timestamp,
    pub place: Place,
    /// The kind of outside worker that takes it; None: cove itself.
    pub external: Option<String>,
    pub held_for: Option<HeldFor>,
    /// Attempts that count.
    pub attempts: u32,
    /// Of these, how many were made before a person asked for a retry.
    pub attempts_before: u32,
    /// Of the current or last attempt.
    pub fence: Option<Fence>,
    /// The fence under which the commit point was last armed; kept for ever.
    pub armed_fence: Option<Fence>,
    pub armed_at: Option<Timestamp>,
    /// What was already so right before it was armed.
    pub proofs: Option<Proofs>,
    /// What was armed up to this fence is known not to have published.
    pub cleared_fence: Option<Fence>,
    /// While the outcome is unknown and the flow can be verified.
    pub verify: Option<VerifyPlan>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Where the published thing can be seen.
    pub url: Option<String>,
    /// What the flow extracted.
    pub result: BTreeMap<String, String>,
    pub failure: Option<Failure>,
    pub evidence: Vec<EvidenceFile>,
}

impl Item {
    /// An item that is ready, with nothing behind it.
    #[must_use]
    pub const fn new(id: ItemId, task: TaskId, profile: ProfileId, created_at: Timestamp) -> Self {
        Self {
            id,
            task,
            index: 0,
            profile,
            inputs: BTreeMap::new(),
            key: None,
            priority: 0,
            not_before: None,
            not_after: None,
            created_at,
            state: ItemState::Queued,
            due_at: Timestamp::ZERO,
            place: Place::Ready,
            external: None,
            held_for: None,
            attempts: 0,
            attempts_before: 0,
            fence: None,
            armed_fence: None,
            armed_at: None,
            proofs: None,
            cleared_fence: None,
            verify: None,
            started_at: None,
            finished_at: None,
            url: None,
            result: BTreeMap::new(),
            failure: None,
            evidence: Vec::new(),
        }
    }

    /// Whether the running attempt has passed its commit point.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.state == ItemState::Running && self.fence.is_some() && self.fence == self.armed_fence
    }

    /// It was armed, and nobody has said since that this did not publish: its key stays taken, and
    /// nothing starts it again by itself.
    #[must_use]
    pub fn may_have_published(&self) -> bool {
        self.armed_fence > self.cleared_fence
    }

    /// Attempts that count against the task's `max_attempts`.
    #[must_use]
    pub const fn attempts_spent(&self) -> u32 {
        self.attempts.saturating_sub(self.attempts_before)
    }
}

/// How an attempt ended, decided by the engine and written by the store (fence.md rules 7 and 8).
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The confirmation steps passed (or, without a commit point, every step did).
    Succeeded { url: Option<String>, result: BTreeMap<String, String> },
    /// Armed, and not confirmed.
    OutcomeUnknown(Failure),
    /// Not armed; tried again at `due_at`. `counted` says whether the attempt is spent.
    TryAgain { failure: Failure, due_at: Timestamp, counted: bool },
    /// Not armed, and not tried again.
    Failed(Failure),
    /// Not armed, canceled on request.
    Canceled(Failure),
}

impl Verdict {
    #[must_use]
    pub const fn state(&self) -> ItemState {
        match self {
            Self::Succeeded { .. } => ItemState::Succeeded,
            Self::OutcomeUnknown(_) => ItemState::OutcomeUnknown,
            Self::TryAgain { counted: true, .. } => ItemState::RetryWait,
            Self::TryAgain { counted: false, .. } => ItemState::Queued,
            Self::Failed(_) => ItemState::Failed,
            Self::Canceled(_) => ItemState::Canceled,
        }
    }
}
