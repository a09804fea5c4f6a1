//! A lock: an exclusive right to (kind, key), with owner, expiry and fence.
//!
//! A running profile is a lock of kind `profile`: the store takes it in the transaction that claims
//! an item, under the attempt's own fence, and frees it in the one that ends the attempt. The lock
//! service for outside programs will share this table.

use serde::{Deserialize, Serialize};

use super::{Fence, ItemId, Timestamp};

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKind {
    /// A browser profile; the key is the profile's id.
    Profile,
}

impl LockKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Profile => "profile",
        }
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOwner {
    /// The engine, for a running attempt of this item.
    Item(ItemId),
    /// A person who looks at the profile (`cove profiles open`).
    Operator,
    /// The engine, while it looks whether this item was published (fence.md rule 12).
    Verify(ItemId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub kind: LockKind,
    pub key: String,
    pub owner: LockOwner,
    pub fence: Fence,
    /// Also the begin of the window in which the session's browser was started (fence.md rule 16).
    pub acquired_at: Timestamp,
}
