//! What a process tree uses: memory and processor time.
//!
//! The proportional set size is exact for a tree: what its processes share with each other is counted once.
//! The kernel tells it for processes of our own user alone. For others there is `statm`, which anybody may
//! read: what each process has for itself, and of what they share the largest share once. Measured on an
//! idle Chromium of ten processes: 376 MB exact, 405 MB so, 931 MB as the sum of the resident sizes. The
//! answer says which it is. Processes that ended meanwhile use nothing.

use std::collections::BTreeSet;

use super::{Identity, read};
use crate::browser::SessionStats;

/// What the living processes among `members` use now. Exact where there is none.
#[must_use]
pub fn stats(members: &BTreeSet<Identity>) -> SessionStats {
    let (mut sizes, mut pids, mut ticks) = (Vec::new(), Vec::new(), 0);
    for member in members {
        if let Some(now) = read(member.pid).filter(|now| now.identity == *member) {
            sizes.push(size(member.pid));
            pids.push(member.pid);
            ticks += now.cpu_ticks;
        }
    }
    let (pss_bytes, exact) = total(&sizes);
    #[expect(clippy::cast_precision_loss, reason = "52 bits of clock ticks are millions of years")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    SessionStats { pss_bytes, exact, cpu_seconds, pids }
}

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Proportional(u64),
    /// Of a process that may not be looked into.
    Resident {
        own: u64,
        shared: u64,
    },
}

fn size(pid: u32) -> Size {
    let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    match parse_pss(&text("smaps_rollup")) {
        Some(kilobytes) => Size::Proportional(kilobytes * 1024),
        None => parse_statm(&text("statm"), rustix::param::page_size() as u64),
    }
}

fn parse_pss(rollup: &str) -> Option<u64> {
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Pages: total, resident, shared, ... A process without memory (it is ending) has zeros.
fn parse_statm(statm: &str, page_bytes: u64) -> Size {
    let mut pages = statm.split_ascii_whitespace().skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    Size::Resident { own: resident.saturating_sub(shared) * page_bytes, shared: shared * page_bytes }
}

/// The bytes of a tree, and whether they are exact. A process that is ending shows nothing in either file
/// and does not make the others an estimate.
fn total(sizes: &[Size]) -> (u64, bool) {
    let (mut bytes, mut largest_shared, mut exact) = (0, 0, true);
    for size in sizes {
        match *size {
            Size::Proportional(proportional) => bytes += proportional,
            Size::Resident { own, shared } => {
                bytes += own;
                largest_shared = shared.max(largest_shared);
                exact &= own + shared == 0;
            }
        }
    }
    (bytes + largest_shared, exact)
}

#[cfg(test)]
mod tests {
    use super::{Size, parse_pss, parse_statm, total};

    #[test]
    fn pss_is_the_first_line_of_that_name() {
        assert_eq!(parse_pss("Rss: 9 kB\nPss:    4123 kB\nPss_Dirty: 1 kB\n"), Some(4_123));
        assert_eq!(parse_pss(""), None);
    }

    #[test]
    fn what_others_share_is_counted_once_and_makes_an_estimate() {
        let resident = |own, shared| Size::Resident { own, shared };
        assert_eq!(parse_statm("900 50 20 5 0 100 0\n", 4_096), resident(30 * 4_096, 20 * 4_096));
        assert_eq!(parse_statm("", 4_096), resident(0, 0));
        assert_eq!(total(&[Size::Proportional(5), Size::Proportional(6)]), (11, true));
        assert_eq!(total(&[Size::Proportional(5), resident(2, 40), resident(3, 30)]), (50, false));
        assert_eq!(total(&[Size::Proportional(5), resident(0, 0)]), (5, true), "one that is ending");
        assert_eq!(total(&[]), (0, true));
    }
}
