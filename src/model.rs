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
pub mod profile;
pub mod task;
pub mod time;
pub mod webhook;

pub use delivery::{Delivery, DeliveryState, Facts, Tried};
pub use failure::{Blame, Failure, FailureCode, Retry};
pub use id::{DeliveryId, Fence, ItemId, ParseIdError, TaskId};
pub use item::{EvidenceFile, FileInput, InputValue, Item, ItemState, Verdict, WaitReason};
pub use lock::{Lock, LockKind};
pub use profile::{Profile, ProfileId, ProfileState};
pub use task::{Counts, Intent, OnUnknown, Task, TaskEvent, TaskState};
pub use time::{Clock, SystemClock, Timestamp};
pub use webhook::{HookEvent, Secret, Webhook};
