//! The store: one redb file, the publish ledger beside it, and the media folder.
//!
//! It speaks operations, never tables. Writes go to one named thread that commits whatever waits
//! together and answers each caller after the fsync; an operation that is refused leaves nothing
//! behind. Reads run on a bounded pool off the async runtime. It knows nothing about browsers, HTTP or
//! the engine's plans.
//!
//! SKELETON: signatures that the other rooms rely on.

pub mod media;

use std::collections::BTreeMap;

use crate::model::{
    EvidenceFile, Fence, InputValue, Intent, Item, ItemId, ItemState, OnUnknown, Profile, ProfileId, Task, TaskEvent,
    TaskId, TaskState, Timestamp, Verdict,
};

/// Any operation may meet this; the daemon stops when the disk fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or the ledger failed: nothing more is acknowledged.
    #[error("the state file failed: {0}")]
    Failed(String),
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
    pub items: Vec<NewItem>,
    pub idempotency: Option<Idempotency>,
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
    pub state: TaskState,
    pub items: u32,
    /// The same Idempotency-Key and body came before: this is that task, nothing was added.
    pub replayed: bool,
    pub warnings: Vec<PossibleDuplicate>,
}

/// The same (flow, profile, media) without a key was accepted before.
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
    /// Its items that wait (not running, not terminal), at most `MAX_WAITING_SHOWN`, for `wait_reasons`.
    pub waiting: Vec<Item>,
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
    pub writer_queue: usize,
    /// Milliseconds, of the last 256 commits.
    pub commit_p99_ms: f64,
    pub batch_p50: u32,
    pub readers_max: usize,
    pub readers_in_use: usize,
}

/// A handle; clones share the writer thread and the readers.
#[derive(Clone)]
pub struct Store {}

/// Operations of the API: intent, and reads.
#[expect(clippy::unused_async, reason = "skeleton")]
impl Store {
    pub async fn enqueue(&self, _new: NewTask, _now: Timestamp) -> Result<Enqueued, EnqueueError> {
        unimplemented!("store room")
    }
    /// What an Idempotency-Key and body made before. None: the key never came; `IdempotencyConflict`: it
    /// came with another body. Asked before a request is checked, since its files may be gone by then.
    pub async fn find_replay(&self, _idempotency: Idempotency) -> Result<Option<Enqueued>, EnqueueError> {
        unimplemented!("store room")
    }
    /// False: no such task. Asking twice is asking once.
    pub async fn request_cancel(&self, _task: TaskId, _now: Timestamp) -> Result<bool, StoreError> {
        unimplemented!("store room")
    }
    pub async fn put_flow(
        &self,
        _name: String,
        _hash: String,
        _json: Vec<u8>,
        _now: Timestamp,
    ) -> Result<PutFlow, StoreError> {
        unimplemented!("store room")
    }
    pub async fn delete_flow(&self, _name: String) -> Result<(), DeleteFlowError> {
        unimplemented!("store room")
    }
    pub async fn create_profile(
        &self,
        _id: ProfileId,
        _name: String,
        _now: Timestamp,
    ) -> Result<Profile, CreateProfileError> {
        unimplemented!("store room")
    }

    pub async fn task(&self, _id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        unimplemented!("store room")
    }
    pub async fn tasks(&self, _query: TaskQuery) -> Result<Page<TaskRow>, StoreError> {
        unimplemented!("store room")
    }
    pub async fn item(&self, _id: ItemId) -> Result<Option<Item>, StoreError> {
        unimplemented!("store room")
    }
    pub async fn items(&self, _query: ItemQuery) -> Result<Page<Item>, StoreError> {
        unimplemented!("store room")
    }
    /// Oldest first; `after` is the number of the last line seen.
    pub async fn events(&self, _task: TaskId, _after: Option<u64>, _limit: usize) -> Result<Vec<EventRow>, StoreError> {
        unimplemented!("store room")
    }
    /// The recording as it was put, by name.
    pub async fn flow(&self, _name: String) -> Result<Option<(FlowInfo, Vec<u8>)>, StoreError> {
        unimplemented!("store room")
    }
    /// The recording that a task pinned.
    pub async fn flow_by_hash(&self, _hash: String) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!("store room")
    }
    pub async fn flows(&self) -> Result<Vec<FlowInfo>, StoreError> {
        unimplemented!("store room")
    }
    /// Every profile, by id.
    pub async fn profiles(&self) -> Result<Vec<Profile>, StoreError> {
        unimplemented!("store room")
    }
    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        unimplemented!("store room")
    }
}

/// What the engine's operations use (written by the store room).
pub type _Progress = (Fence, Verdict, Vec<EvidenceFile>);
