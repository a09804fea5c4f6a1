//! The words of the lock service: what is asked of it and what it answers.

use std::time::Duration;

use super::StoreError;
use crate::model::{Fence, Lock, LockKind, LockOwner, ProfileId, Timestamp};

/// A lock that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockAsked {
    pub kind: LockKind,
    pub key: String,
    pub owner: LockOwner,
    /// None: no lease, the owner frees it.
    pub ttl: Option<Duration>,
}

/// A lock as its owner names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHeld {
    pub kind: LockKind,
    pub key: String,
    pub owner: LockOwner,
    pub fence: Fence,
}

/// A lent browser: the lock of its profile, under this fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    pub profile: ProfileId,
    pub fence: Fence,
}

/// Busy is an answer, not a refusal (fence.md rule 22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquire {
    /// Anew, or again by the same owner: the same fence then, and a new lease.
    Acquired(Granted),
    Busy {
        held_by: LockOwner,
        /// None: it is not time that frees it.
        expires_at: Option<Timestamp>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub fence: Fence,
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum AcquireRefused {
    #[error("the state was restored: whoever held a lock may still act on it, so none is given until a human resumes")]
    Restored,
    #[error("no profile of this id")]
    UnknownProfile,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Of a refresh or a release: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NotYours {
    #[error("the lock has another fence or another owner by now")]
    StaleFence,
    #[error("nobody holds this lock: it was freed, or its time is over")]
    NotHeld,
    /// Of a claim alone.
    #[error("a cancel was requested")]
    Canceled,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a page of locks begins: after this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPlace {
    pub kind: LockKind,
    pub key: String,
}

#[derive(Clone, Debug, Default)]
pub struct LockQuery {
    pub kind: Option<LockKind>,
    /// With the kind: this one lock.
    pub key: Option<String>,
    /// The owner's text, as `held_by` shows it.
    pub owner: Option<String>,
    pub after: Option<LockPlace>,
    pub limit: usize,
}

/// By kind and key; also what is expired and not cleaned up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPage {
    pub rows: Vec<Lock>,
    /// Pass it as `after` of the next call; None: this was the last page.
    pub next: Option<LockPlace>,
}

/// Which locks to clean up: expired ones, of everybody or of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// The owner's text, as `held_by` shows it.
    pub owner: Option<String>,
    /// Those that are still held as well. Without an owner it means nothing.
    pub force: bool,
}

/// What a cleanup did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanedUp {
    pub removed: u64,
    /// The removed ones, at most `MAX_LOCKS_SHOWN`.
    pub locks: Vec<Lock>,
    /// The engine's own that a forced cleanup met. They are still held: their holders have to be asked to
    /// stop, and the engine frees each when its browser is verified dead (fence.md rule 21).
    pub stopping: Vec<Lock>,
}
