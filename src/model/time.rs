//! Time as cove stores and prints it: milliseconds since the Unix epoch, RFC 3339 UTC in JSON; and time
//! that nobody sets, [`BootTime`], for what must not end early or late because a clock was put right.
//!
//! [`Clock`] is how every other room learns the time, so that tests can turn it. The system's clocks
//! are read in this file alone. Monotonic waits belong to tokio and are not here.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds))
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC, with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(milliseconds) {
            Ok(time) => write!(out, "{time:.3}"),
            Err(_) => write!(out, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time from 1970 on (for example 2026-12-01T09:00:00Z)")]
pub struct ParseTimeError;

impl FromStr for Timestamp {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let time: jiff::Timestamp = text.parse().map_err(|_| ParseTimeError)?;
        u64::try_from(time.as_millisecond()).map(Self).map_err(|_| ParseTimeError)
    }
}

/// RFC 3339 text in JSON; the number of milliseconds in stored records.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// Milliseconds since the machine booted, times of sleep included (`CLOCK_BOOTTIME`). It never jumps, and
/// says nothing beside the [`BootId`] that it was read under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BootTime(u64);

impl BootTime {
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds))
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Which boot of which machine: a random number of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct BootId(u128);

impl BootId {
    #[must_use]
    pub const fn new(raw: u128) -> Self {
        Self(raw)
    }

    /// The kernel's text: a UUID.
    fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        u128::from_str_radix(&digits, 16).ok().filter(|_| plain).map(Self)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub wall: Timestamp,
    pub boot: BootTime,
    pub boot_id: BootId,
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The one way to read both clocks, so that they cannot contradict each other.
    fn moment(&self) -> Moment;

    /// The wall clock alone.
    fn now(&self) -> Timestamp {
        self.moment().wall
    }
}

/// The machine's clocks.
#[derive(Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn moment(&self) -> Moment {
        // The boot time first: a pause between the two makes a lease shorter, never longer.
        let boot = boot_time();
        Moment { wall: self.now(), boot, boot_id: boot_id() }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::ZERO.plus(since)
    }
}

fn boot_time() -> BootTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let milliseconds = u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000;
    BootTime(seconds.saturating_mul(1_000).saturating_add(milliseconds))
}

/// Read once: a process does not live through a boot.
///
/// Where the kernel's number cannot be read (a container with a masked `/proc`), the second in which the
/// machine booted, as the wall clock has it now, stands for it. It is the same at every start of a daemon
/// until somebody sets the clock or the machine boots again; what takes it for a new boot then only
/// looks at the wall clock once more, and a lease never grows by that.
fn boot_id() -> BootId {
    static BOOT_ID: OnceLock<BootId> = OnceLock::new();
    *BOOT_ID.get_or_init(|| {
        let kernels = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        kernels.and_then(|text| BootId::parse(&text)).unwrap_or_else(|| booted_at(SystemClock.now(), boot_time()))
    })
}

/// The second of the boot. The rounding of the two clocks may show as a neighbouring second.
fn booted_at(wall: Timestamp, boot: BootTime) -> BootId {
    BootId(u128::from(wall.as_millis().saturating_sub(boot.as_millis()) / 1_000))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BootId, BootTime, Clock, SystemClock, Timestamp, boot_id, booted_at};

    #[test]
    fn prints_and_parses_rfc_3339() {
        let time: Timestamp = "2026-12-01T09:00:00.250Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-12-01T09:00:00.250Z");
        let east: Timestamp = "2026-12-01T11:00:00+02:00".parse().unwrap();
        assert_eq!(east.to_string(), "2026-12-01T09:00:00.000Z");
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("tomorrow".parse::<Timestamp>().is_err());
    }

    #[test]
    fn both_clocks_of_a_moment_run_and_its_boot_stays() {
        let (first, second) = (SystemClock.moment(), SystemClock.moment());
        assert!(first.boot > BootTime::default() && second.boot >= first.boot);
        assert_eq!(first.boot_id, second.boot_id);
        assert_eq!(first.boot_id, boot_id());
        let apart = SystemClock.now().since(first.wall);
        assert!(apart < Duration::from_secs(60), "the wall clock of a moment is the wall clock");
    }

    #[test]
    fn the_kernels_number_of_a_boot_is_read_and_nothing_else() {
        let id = BootId::parse("598f57a6-0029-425e-a9dd-ca587b58eaa3\n").unwrap();
        assert_eq!(id, BootId::new(0x598f_57a6_0029_425e_a9dd_ca58_7b58_eaa3));
        for bad in ["", "598f57a6", "+98f57a60029425ea9ddca587b58eaa3", "598f57a6-0029-425e-a9dd-ca587b58eaaé"] {
            assert_eq!(BootId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_it_the_second_of_the_boot_stands_for_it() {
        let at = |wall, boot| booted_at(Timestamp::from_millis(wall), BootTime::from_millis(boot));
        assert_eq!(at(1_795_000_005_400, 5_000), at(1_795_000_999_999, 999_599));
        assert_ne!(at(1_795_000_005_400, 5_000), at(1_795_000_005_400, 3_000));
    }
}
