//! What the store is asked and what it answers: the words of its operations.
//!
//! Plain data, named by every room above. A refusal is an enum of its own per operation; [`StoreError`] is
//! the one thing that any operation may meet.

mod locks;
mod progress;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use locks::*;
pub use progress::*;
use serde::{Deserialize, Serialize};
pub use tokens::*;

use crate::model::{
    Delivery, DeliveryState, EvidenceFile, Failure, Fence, InputValue, Intent, Item, ItemId, ItemState, Lock, Moment,
    OnUnknown, ProfileEffect, ProfileId, Task, TaskEvent, TaskId, TaskState, Timestamp, Verdict, Webhook,
};

/// Any operation may meet this; the daemon stops when the disk fails.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or the ledger failed: nothing more is acknowledged.
    #[error("the state file failed: {0}")]
    Failed(String),
    /// The same, for want of space: the ballast is used up as well.
    #[error("no space is left for the state file: {0}")]
    Full(String),
    /// The daemon stops.
    #[error("the store is closed")]
    Closed,
    /// A record that cannot be read.
    #[error("a record of the state file cannot be read: {0}")]
    Corrupt(String),
}

/// One bulk upload, its form already checked. Flow, profiles and keys are checked in the transaction.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub flow: String,
    /// The hash that the inputs were checked against; a flow changed since is `FlowChanged`.
    pub flow_hash: String,
    pub priority: i32,
    pub max_attempts: u32,
    pub spacing_seconds: u32,
    pub on_unknown: OnUnknown,
    /// What the flow says of itself.
    pub external: Option<String>,
    pub verifiable: bool,
    /// Stop before the commit point.
    pub rehearsal: bool,
    pub items: Vec<NewItem>,
    pub idempotency: Option<Idempotency>,
    pub webhook: Option<Webhook>,
}

#[derive(Clone, Debug)]
pub struct NewItem {
    pub profile: ProfileId,
    pub inputs: BTreeMap<String, InputValue>,
    pub key: Option<String>,
    pub not_before: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
}

/// An `Idempotency-Key`, scoped to the token that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub scope: String,
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueued {
    pub task: TaskId,
    /// None: it is gone, and how it ended with it.
    pub state: Option<TaskState>,
    /// As many as it had, also where they are forgotten.
    pub items: u32,
    /// The same Idempotency-Key and body came before: this is that task, nothing was added.
    pub replayed: bool,
    /// It ended long ago and was forgotten, or is being forgotten.
    pub pruned: bool,
    pub warnings: Vec<PossibleDuplicate>,
}

/// The same (flow, profile, media) was accepted before, and nothing says that this is another thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PossibleDuplicate {
    pub index: u32,
    pub older_item: ItemId,
}

#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    #[error("no flow of this name")]
    UnknownFlow,
    #[error("the flow was replaced while the request was checked")]
    FlowChanged,
    #[error("item {index}: no profile of this id")]
    UnknownProfile { index: u32 },
    #[error("item {index}: the key belongs to item {item}, which may have published")]
    KeyTaken { index: u32, item: ItemId },
    #[error("this Idempotency-Key came before with another body")]
    IdempotencyConflict { task: TaskId },
    #[error("what this Idempotency-Key made was published before the state was restored")]
    KnownToTheLedgerAlone,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    pub name: String,
    pub hash: String,
    pub bytes: u64,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutFlow {
    Created,
    Replaced,
    Unchanged,
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteFlowError {
    #[error("no flow of this name")]
    NotFound,
    #[error("task {0} that is not finished uses this flow")]
    InUse(TaskId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum CreateProfileError {
    #[error("a profile of this name exists")]
    Exists,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a provider's list changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutProfiles {
    pub added: u32,
    pub renamed: u32,
}

/// A keyset page, newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Pass it as `before` of the next call; None: this was the last page.
    pub next: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    pub state: Option<TaskState>,
    pub flow: Option<String>,
    pub profile: Option<ProfileId>,
    /// Only ids below this one (raw).
    pub before: Option<u64>,
    pub limit: usize,
}

#[derive(Clone, Debug, Default)]
pub struct ItemQuery {
    pub state: Option<ItemState>,
    pub task: Option<TaskId>,
    pub profile: Option<ProfileId>,
    pub before: Option<u64>,
    pub limit: usize,
}

/// A task as the API shows it.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub task: Task,
    pub intent: Intent,
    /// Its items that wait (not running, not terminal), for `wait_reasons`.
    pub waiting: Vec<WaitingAlike>,
    /// How many of them were not looked at: a page of tasks looks at a bounded number.
    pub waiting_left_out: u64,
}

/// One item that waits, and how many of its task wait like it: in its state and its profile, for the same.
#[derive(Clone, Debug)]
pub struct WaitingAlike {
    pub item: Item,
    pub items: u64,
}

/// One line of a task's log with its number, which grows within the task.
#[derive(Clone, Debug)]
pub struct EventRow {
    pub number: u64,
    pub event: TaskEvent,
}

/// Size and load of the store, for status and health.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub schema: u32,
    pub epoch: u64,
    pub file_bytes: u64,
    pub items_by_state: Vec<(ItemState, u64)>,
    pub tasks: u64,
    /// Why nothing is claimed, while nothing is.
    pub pause: Option<Pause>,
    pub writer_queue: usize,
    /// Milliseconds, of the last 256 commits.
    pub commit_p99_ms: f64,
    pub batch_p50: u32,
    pub readers_max: usize,
    pub readers_in_use: usize,
    pub readers_waiting: usize,
}

/// Why nothing is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pause {
    Operator {
        since: Timestamp,
    },
    /// The state is older than its ledger, or (blind) there is no ledger to compare it with.
    Restored {
        since: Timestamp,
        blind: bool,
    },
    LedgerDamaged {
        since: Timestamp,
        what: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ResumeRefused {
    #[error(
        "the state was restored and no ledger says what went out since: look at what was published, then `cove resume --accept-duplicates` (`accept_duplicates` in the API)"
    )]
    Blind,
    #[error(
        "the publish ledger is damaged: look at what was published, then `cove resume --accept-duplicates` (`accept_duplicates` in the API) begins a new one with all that can be read and keeps the damaged file beside it"
    )]
    LedgerDamaged,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a person asks of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Cancel,
    Pause,
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The task's running attempts are to be interrupted.
    pub canceled: bool,
    /// Items of the task are left to look at; ask again.
    pub more: bool,
}

/// One step of a retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryStep {
    pub retried: u32,
    pub skipped: Vec<(ItemId, SkipReason)>,
    /// Where to go on; None: that was all.
    pub next: Option<u64>,
}

/// Why a failed item is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// It may have published, and nobody has said that it did not.
    WasArmed,
    /// Another item holds its key by now.
    KeyTaken,
}

impl SkipReason {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WasArmed => "was_armed",
            Self::KeyTaken => "key_taken",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResolveRefused {
    #[error("no item of this id")]
    NotFound,
    #[error("the item is {0}, and only an outcome_unknown can be resolved")]
    NotUnknown(ItemState),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where the sender of webhooks looks for work.
#[derive(Clone, Debug, Default)]
pub struct DueLook {
    pub now: Timestamp,
    /// Begin with the target behind this one, so that each has its turn.
    pub after: Option<String>,
    /// Targets that have none now.
    pub skip: BTreeSet<String>,
    pub limit: usize,
}

/// What is due: one delivery a target.
#[derive(Clone, Debug, Default)]
pub struct DueDeliveries {
    pub heads: Vec<DueDelivery>,
    /// When the next of the targets that were looked at has something.
    pub next_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub delivery: Delivery,
    /// None: the task is gone.
    pub webhook: Option<Webhook>,
}

/// How a try to deliver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    Delivered,
    Again { at: Timestamp },
    GivenUp,
}

impl TryEnd {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Again { .. } => "again",
            Self::GivenUp => "given_up",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RetryRefused {
    #[error("no delivery of this id belongs to this task")]
    NotFound,
    #[error("the delivery is {}; only one that was given up is tried again on request", .0.name())]
    NotGivenUp(DeliveryState),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug)]
pub struct VerifyBegun {
    pub item: Item,
    pub task: Task,
    /// Of the profile's lock.
    pub fence: Fence,
}

/// What a verify is worth, as the engine has decided.
#[derive(Clone, Debug, PartialEq)]
pub enum VerifyFinding {
    Found { url: Option<String>, result: BTreeMap<String, String> },
    NotFound(String),
    Inconclusive(Failure),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub item: ItemId,
    /// Of the profile's lock.
    pub fence: Fence,
    pub finding: VerifyFinding,
    pub evidence: Vec<EvidenceFile>,
    pub effect: Option<ProfileEffect>,
}

/// A finished task to be forgotten, with the items whose evidence goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prunable {
    pub task: TaskId,
    pub items: Vec<ItemId>,
}

/// Files that items name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedFiles {
    pub files: Vec<PathBuf>,
    /// Where to go on; None: that was all.
    pub next: Option<u64>,
}

/// Why items wait, in numbers that nobody has to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Ready items by lane (empty: cove itself) and profile, with those whose time has come and whose turn has not.
    pub ready: Vec<(String, ProfileId, u64)>,
    pub scheduled: u64,
    pub backing_off: u64,
    /// Of `ready`, those whose back-off is over.
    pub overdue_retries: u64,
    /// Of paused tasks.
    pub paused: u64,
    pub held_for_restore: u64,
    pub held_for_clock: u64,
    pub outcome_unknown: u64,
    /// When the first of the scheduled comes due.
    pub next_scheduled: Option<Timestamp>,
    /// When the first of those that back off comes due.
    pub next_retry: Option<Timestamp>,
    /// When unknown outcomes are looked at next: the first of each profile.
    pub looks: Vec<(ProfileId, Timestamp)>,
    /// When the item that waits longest was accepted.
    pub oldest: Option<Timestamp>,
}
