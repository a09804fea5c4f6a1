//! The words of cove, as types: what a task, an item, an attempt, a lock, a profile and a flow are.
//!
//! Every room may name this one; it names none. Nothing here waits, reads a file, opens a socket or
//! looks at the clock: time and ids enter as arguments. Illegal states are kept out by the types, and
//! what a stored record and a JSON answer call a thing is decided here, once.

pub mod delivery;
pub mod failure;
pub mod flow;
pub mod id;
pub mod item;
pub mod lock;
pub mod maintenance;
pub mod profile;
pub mod proof;
pub mod schedule;
pub mod task;
pub mod time;
pub mod token;
pub mod webhook;

pub use delivery::{Delivery, DeliveryState, Facts, Tried};
pub use failure::{Blame, Failure, FailureCode, Retry};
pub use id::{DeliveryId, Fence, ItemId, ParseIdError, TaskId, TokenId};
pub use item::{
    EvidenceFile, FileInput, HeldFor, InputValue, Item, ItemState, Place, Resolution, Verdict, VerifyPlan, WaitReason,
};
pub use lock::{Lease, Lock, LockKind, LockOwner};
pub use maintenance::{Job, JobRecord, JobResult, JobRun};
pub use profile::{Parked, Profile, ProfileEffect, ProfileId, ProfileState};
pub use proof::{Baseline, Proofs};
pub use schedule::{Schedule, Zone};
pub use task::{Counts, Intent, OnUnknown, Task, TaskEvent, TaskState};
pub use time::{BootId, BootTime, Clock, Moment, SystemClock, Timestamp};
pub use token::{Scope, Scopes, Token, TokenHash, TokenState, TokenText};
pub use webhook::{HookEvent, Secret, Webhook};
