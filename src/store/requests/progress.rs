//! The words of progress: claims, arms, ends, and what the engine sees of the queue.
//!
//! Plain data like the rest of the requests; a refusal changed nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    EvidenceFile, Fence, Intent, Item, ItemId, ItemState, Lock, Moment, Pause, ProfileEffect, ProfileId, Task, TaskId,
    Timestamp, Verdict,
};

/// What a claim did.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    Started(Box<Claimed>),
    /// The item cannot start any more, or not yet: it was moved, nothing is running.
    Moved,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    pub item: Item,
    pub task: Task,
    pub fence: Fence,
}

/// An outside worker that wants an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub name: String,
    /// Of the items that it takes.
    pub kinds: Vec<String>,
    pub ttl: Duration,
    /// It gets a browser of cove's with it: the lock is its session's as well.
    pub with_browser: bool,
}

/// Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    #[error("the item does not wait any more")]
    NotWaiting,
    #[error("the engine is paused")]
    Paused,
    #[error("the profile does not exist")]
    ProfileUnknown,
    #[error("the profile waits for a human")]
    ProfileParked,
    #[error("the profile is busy")]
    ProfileBusy,
}

/// Nothing was armed: do not click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArmRefused {
    #[error("the item is not running under this fence any more")]
    Outdated,
    #[error("the profile's lock is not held under this fence any more")]
    LockLost,
    #[error("a cancel was requested")]
    Canceled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinishRefused {
    #[error("the item is not running under this fence any more")]
    StaleFence,
    #[error("the item is armed: it can only succeed or become outcome_unknown")]
    Armed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub task: TaskId,
    pub state: ItemState,
}

/// How an attempt ended, as the engine has decided.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnded {
    pub item: ItemId,
    pub fence: Fence,
    pub verdict: Verdict,
    pub evidence: Vec<EvidenceFile>,
    pub effect: Option<ProfileEffect>,
}

/// What the engine last knew of the clocks (fence.md rule 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMark {
    /// The last moment at which both clocks were believed.
    pub believed: Moment,
    /// Since when the wall clock is not.
    pub suspect_since: Option<Timestamp>,
}

/// A claim of an outside worker: its item, under this fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimName {
    pub item: ItemId,
    pub fence: Fence,
}

#[derive(Clone, Debug)]
pub struct ClaimEnded {
    pub item: Item,
    /// Its outcome was unknown by then.
    pub late: bool,
    /// It was completed without ever having been armed.
    pub unasked: bool,
}

/// What workers left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub items: u32,
    /// Profiles.
    pub freed: u32,
}

/// The first item in the queue of one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub profile: ProfileId,
    pub priority: i32,
    pub item: ItemId,
}

/// What could be started now.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// One a profile that is free and not parked.
    pub heads: Vec<Head>,
    /// Items whose time has come wait to be promoted.
    pub overdue: bool,
    /// When there may be more to start: the next item becomes due, or the next lease of a profile ends.
    pub next_due: Option<Timestamp>,
    /// Tasks whose intent waits to be carried out.
    pub to_settle: Vec<TaskId>,
    /// Items to verify now, whose profile is free.
    pub verifies: Vec<Head>,
    /// Leases of outside workers are over.
    pub claims_over: bool,
    /// Lent browsers whose lease is over, or whose worker is done with its item.
    pub sessions_over: Vec<Fence>,
    /// The wall clock is not believed.
    pub clock_suspect: bool,
    /// A backlog is being spread; nothing is claimed meanwhile.
    pub catching_up: bool,
    pub pause: Option<Pause>,
}

/// A lock found at boot, with its item where that is still running.
#[derive(Clone, Debug)]
pub struct Leftover {
    pub lock: Lock,
    pub running: Option<(Item, Task, Intent)>,
}
