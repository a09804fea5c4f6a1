//! A lock: an exclusive right to (kind, key), with owner, fence, and for most a lease that time ends.
//!
//! A running profile is a lock of kind `profile`: the store takes it in the transaction that claims
//! an item, under the attempt's own fence, and frees it in the one that ends the attempt. Outside
//! programs take theirs, of any kind, through the lock service. One table holds both.
//!
//! Invariant: time alone frees what an outside program holds, and nothing else. Behind the other owners
//! stands a browser, or a click that may still come: they are freed by whoever knows that it is over.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BootId, BootTime, Fence, ItemId, Moment, Timestamp};

/// Longest kind, in bytes.
pub const MAX_LOCK_KIND_BYTES: usize = 64;
/// Longest key and longest name of an owner, in bytes.
pub const MAX_LOCK_NAME_BYTES: usize = 255;
/// Longest lease: a week. Whoever needs a lock for longer refreshes it.
pub const MAX_LOCK_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is locked: outside programs make kinds of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LockKind(Cow<'static, str>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kind has 1 to {MAX_LOCK_KIND_BYTES} of the characters a-z 0-9 _ . -")]
pub struct ParseLockKindError;

impl LockKind {
    /// A browser profile; the key is the profile's id.
    pub const PROFILE: Self = Self(Cow::Borrowed("profile"));

    /// # Errors
    /// When `text` is empty, too long, or has other characters than the allowed ones.
    pub fn new(text: &str) -> Result<Self, ParseLockKindError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        let fits = (1..=MAX_LOCK_KIND_BYTES).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(Cow::Owned(text.to_owned()))) } else { Err(ParseLockKindError) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LockKind {
    type Error = ParseLockKindError;

    fn try_from(text: String) -> Result<Self, ParseLockKindError> {
        Self::new(&text)
    }
}

impl FromStr for LockKind {
    type Err = ParseLockKindError;

    fn from_str(text: &str) -> Result<Self, ParseLockKindError> {
        Self::new(text)
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for LockKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Whether `text` can be the key of a lock, or the name of its outside owner.
#[must_use]
pub fn is_lock_name(text: &str) -> bool {
    (1..=MAX_LOCK_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// How long after its lease an outside worker may still be at its item (fence.md rule 23).
pub const CLAIM_GRACE: Duration = Duration::from_secs(60);

/// Who holds a lock. As text it is what people see in `held_by`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockOwner {
    /// The engine, for a running attempt of this item.
    Item(ItemId),
    /// A person who looks at the profile (`cove profiles open`).
    Operator,
    /// An outside program, by the name that it gave itself.
    Outside(String),
    /// An outside worker that runs this item.
    Claim { item: ItemId, worker: String },
    /// The engine, to look whether this item was published.
    Verify(ItemId),
    /// A program that uses the profile's browser through cove, by the name that it gave itself; with `item` the
    /// outside worker that runs it.
    Session { owner: String, item: Option<ItemId> },
}

impl LockOwner {
    /// Whether the end of the lease frees the lock. Of the engine's own, it is a reason to look, no more.
    #[must_use]
    pub const fn is_freed_by_time(&self) -> bool {
        matches!(self, Self::Outside(_))
    }

    /// The item and the name of an outside worker that holds it, with or without a browser of cove's.
    #[must_use]
    pub fn claim(&self) -> Option<(ItemId, &str)> {
        match self {
            Self::Claim { item, worker } | Self::Session { owner: worker, item: Some(item) } => Some((*item, worker)),
            _ => None,
        }
    }
}

impl fmt::Display for LockOwner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(item) => write!(out, "item {item}"),
            Self::Operator => out.write_str("operator"),
            Self::Outside(name) => out.write_str(name),
            Self::Claim { worker, .. } | Self::Session { owner: worker, item: Some(_) } => {
                write!(out, "worker {worker}")
            }
            Self::Verify(item) => write!(out, "verify {item}"),
            Self::Session { owner, item: None } => write!(out, "session {owner}"),
        }
    }
}

/// How long a lock is held without a word from its owner (fence.md rule 20). It runs on the clock that
/// nobody sets; the wall clock's end is shown, and counts after a reboot alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub ttl_ms: u64,
    /// The boot that `expires_boot` belongs to.
    pub boot_id: BootId,
    pub expires_boot: BootTime,
    pub expires_at: Timestamp,
    pub renewed_at: Timestamp,
}

impl Lease {
    #[must_use]
    pub fn new(ttl: Duration, now: Moment) -> Self {
        Self {
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            boot_id: now.boot_id,
            expires_boot: now.boot.plus(ttl),
            expires_at: now.wall.plus(ttl),
            renewed_at: now.wall,
        }
    }

    /// Over at the very millisecond.
    #[must_use]
    pub fn is_over(&self, now: Moment) -> bool {
        self.left(now).is_zero()
    }

    /// What is left of it: never more than it was given, whatever the clocks say.
    #[must_use]
    pub fn left(&self, now: Moment) -> Duration {
        let left = if self.boot_id == now.boot_id {
            self.expires_boot.since(now.boot)
        } else {
            self.expires_at.since(now.wall)
        };
        left.min(Duration::from_millis(self.ttl_ms))
    }

    /// The same lease in the boot of `now`.
    #[must_use]
    pub fn rebased(self, now: Moment) -> Self {
        let left = self.left(now);
        Self { boot_id: now.boot_id, expires_boot: now.boot.plus(left), expires_at: now.wall.plus(left), ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub kind: LockKind,
    pub key: String,
    pub owner: LockOwner,
    pub fence: Fence,
    /// Also the begin of the window in which the session's browser was started (fence.md rule 16).
    pub acquired_at: Timestamp,
    /// None: held until its owner frees it.
    pub lease: Option<Lease>,
}

impl Lock {
    /// How long its lease was made for; None: it has none.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.lease.map(|lease| Duration::from_millis(lease.ttl_ms))
    }

    /// The lease is over. Whether that frees the lock is [`LockOwner::is_freed_by_time`].
    #[must_use]
    pub fn is_expired(&self, now: Moment) -> bool {
        self.lease.is_some_and(|lease| lease.is_over(now))
    }

    /// Nobody else can have it.
    #[must_use]
    pub fn is_held(&self, now: Moment) -> bool {
        !(self.owner.is_freed_by_time() && self.is_expired(now))
    }

    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.lease.map(|lease| lease.expires_at)
    }

    /// When somebody else can have it at the latest, unless its owner renews it. None: there is no such time.
    #[must_use]
    pub fn free_at(&self, now: Moment) -> Option<Timestamp> {
        let expires_at = self.expires_at()?;
        Some(match self.owner {
            LockOwner::Claim { .. } if self.is_expired(now) => expires_at.plus(CLAIM_GRACE),
            // Its browser is being stopped.
            LockOwner::Session { .. } if self.is_expired(now) => return None,
            _ => expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Lease, Lock, LockKind, LockOwner, is_lock_name};
    use crate::model::{BootId, BootTime, Fence, ItemId, Moment, Timestamp};

    const NOW: Moment = Moment {
        wall: Timestamp::from_millis(1_795_000_000_000),
        boot: BootTime::from_millis(50_000),
        boot_id: BootId::new(1),
    };
    const HOUR: Duration = Duration::from_secs(3_600);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn later(by: Duration) -> Moment {
        Moment { wall: NOW.wall.plus(by), boot: NOW.boot.plus(by), ..NOW }
    }

    #[test]
    fn kinds_and_names_are_checked() {
        assert_eq!(LockKind::new("profile"), Ok(LockKind::PROFILE));
        for good in ["a", "upload.task-1_x", &"k".repeat(64)] {
            assert!(LockKind::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Profile", "a b", "a/b", "é", &"k".repeat(65)] {
            assert!(LockKind::new(bad).is_err(), "{bad}");
            assert!(serde_json::from_value::<LockKind>(bad.into()).is_err(), "{bad}");
        }
        assert!(is_lock_name("task 7 / ж") && is_lock_name(&"k".repeat(255)));
        for bad in ["", "a\nb", "\u{7f}", "\u{85}", &"k".repeat(256)] {
            assert!(!is_lock_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn rule_20_a_step_of_the_wall_clock_changes_no_lease() {
        let lease = Lease::new(HOUR, NOW);
        let wall = |wall| Moment { wall, ..later(Duration::from_secs(60)) };
        for stepped in [NOW.wall.plus(YEAR), Timestamp::from_millis(NOW.wall.as_millis() - 3_600_000), Timestamp::ZERO]
        {
            assert_eq!(lease.left(wall(stepped)), Duration::from_secs(59 * 60), "{stepped}");
        }
        assert!(!lease.is_over(later(Duration::from_millis(3_599_999))));
        assert!(lease.is_over(later(HOUR)), "at the very millisecond");
    }

    #[test]
    fn rule_20_negative_control_by_the_wall_clock_the_same_steps_end_a_lease_or_keep_it() {
        // A lease of another boot is measured by the wall.
        let by_the_wall = Lease { boot_id: BootId::new(2), ..Lease::new(HOUR, NOW) };
        let wall = |wall| Moment { wall, ..later(HOUR) };
        assert!(by_the_wall.is_over(Moment { wall: NOW.wall.plus(YEAR), ..NOW }));
        assert!(!by_the_wall.is_over(wall(Timestamp::from_millis(NOW.wall.as_millis() - 3_600_000))));
    }

    #[test]
    fn rule_20_after_a_reboot_the_rest_is_the_walls_and_never_more_than_was_given() {
        let lease = Lease::new(HOUR, NOW);
        let rebooted = |wall| Moment { wall, boot: BootTime::from_millis(900), boot_id: BootId::new(2) };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let cases = [
            (NOW.wall.plus(minutes(20)), minutes(40)),
            (NOW.wall.plus(HOUR), Duration::ZERO),
            (NOW.wall.plus(YEAR), Duration::ZERO),
            // A clock without a battery begins at its own zero: a lease of years it is not.
            (Timestamp::ZERO, HOUR),
        ];
        for (wall, left) in cases {
            let now = rebooted(wall);
            assert_eq!(lease.left(now), left, "{wall}");
            let rebased = lease.rebased(now);
            assert_eq!((rebased.left(now), rebased.boot_id, rebased.ttl_ms), (left, now.boot_id, lease.ttl_ms));
            assert_eq!((rebased.expires_boot, rebased.expires_at), (now.boot.plus(left), wall.plus(left)));
        }
    }

    #[test]
    fn a_worker_is_told_by_its_name_whoever_started_its_browser() {
        let (item, worker) = (ItemId::new(7), "w1".to_owned());
        let claim = LockOwner::Claim { item, worker: worker.clone() };
        let lent = LockOwner::Session { owner: worker.clone(), item: Some(item) };
        let script = LockOwner::Session { owner: worker, item: None };
        assert_eq!((claim.claim(), claim.to_string()), (lent.claim(), lent.to_string()));
        assert_eq!((claim.claim(), script.claim()), (Some((item, "w1")), None));
        assert_eq!(script.to_string(), "session w1");
    }

    #[test]
    fn time_frees_what_an_outside_program_holds_and_nothing_else() {
        let item = ItemId::new(7);
        let held = |owner| {
            let (key, lease) = ("anna".to_owned(), Some(Lease::new(HOUR, NOW)));
            let lock = Lock { kind: LockKind::PROFILE, key, owner, fence: Fence::new(1), acquired_at: NOW.wall, lease };
            assert!(lock.is_expired(later(HOUR)) && lock.is_held(NOW));
            lock.is_held(later(HOUR))
        };
        assert!(!held(LockOwner::Outside("w".to_owned())));
        let worker = "w".to_owned();
        let session = |item| LockOwner::Session { owner: "w".to_owned(), item };
        for owner in [
            LockOwner::Item(item),
            LockOwner::Operator,
            LockOwner::Claim { item, worker },
            LockOwner::Verify(item),
            session(None),
            session(Some(item)),
        ] {
            assert!(held(owner.clone()), "{owner}");
        }
    }
}
