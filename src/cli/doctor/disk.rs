//! The disk of the state directory: is there space, and is a write on it durable soon enough?
//!
//! Every click waits for two fsyncs, every call of the API that changes something for one. The speed is
//! measured as the store writes: a page, then fdatasync, in a file that is gone afterwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::line::Line;

const WRITES: usize = 20;
const WRITE_BYTES: usize = 8 * 1024;
/// Beyond this the API is felt to be slow; beyond the other, time-outs follow.
const SLOW: Duration = Duration::from_millis(20);
const TOO_SLOW: Duration = Duration::from_millis(200);
const MIB: u64 = 1024 * 1024;

/// Free for an ordinary process, in MiB, where `folder` is or will be. Blocks.
pub fn free_mb(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(nearest(folder))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize) / MIB)
}

/// The folder itself, or the nearest one above that is there.
fn nearest(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"))
}

pub fn space(folder: &Path, free: &io::Result<u64>, reserve_mb: u64) -> Line {
    const NAME: &str = "disk_space";
    let shown = folder.display();
    match free {
        Err(error) => {
            Line::error(NAME, format!("the free space of {shown} cannot be told: {error}"), "is its disk mounted?")
        }
        // As the daemon's own guard: an eighth more than the reserve, once it was short.
        Ok(free) if *free < reserve_mb + reserve_mb / 8 => Line::error(
            NAME,
            format!(
                "{free} MiB are free at {shown}; nothing is started or accepted below {reserve_mb} MiB and an eighth of it ([resources] disk_reserve_mb)"
            ),
            format!("make room: `du -xh --max-depth=2 {shown} | sort -h | tail`; [retention] keeps less"),
        ),
        Ok(free) if *free < reserve_mb.saturating_mul(4) => Line::warning(
            NAME,
            format!("{free} MiB are free at {shown}, and {reserve_mb} MiB of them are kept in reserve"),
            format!("make room soon: `du -xh --max-depth=2 {shown} | sort -h | tail`; [retention] keeps less"),
        ),
        Ok(free) => Line::ok(NAME, format!("{free} MiB are free, reserve {reserve_mb} MiB")),
    }
}

/// The median of [`WRITES`] durable writes. Leaves nothing behind. Blocks.
pub fn measure(folder: &Path) -> io::Result<Duration> {
    let file: File = tempfile::tempfile_in(nearest(folder))?;
    let page = [0x5a; WRITE_BYTES];
    let mut times = Vec::with_capacity(WRITES);
    for number in 0..WRITES {
        let begun = Instant::now();
        file.write_all_at(&page, (number * WRITE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[WRITES / 2])
}

pub fn speed(folder: &Path, median: &io::Result<Duration>) -> Line {
    const NAME: &str = "disk_speed";
    let shown = folder.display();
    let median = match median {
        Ok(median) => *median,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let help = "run `cove doctor` as the daemon's user, or with sudo";
            return Line::warning(
                NAME,
                format!("{shown} may not be written to by this user, so it was not measured"),
                help,
            );
        }
        Err(error) => {
            return Line::error(
                NAME,
                format!("a write to {shown} failed: {error}"),
                "look at the kernel's log: `dmesg | tail`",
            );
        }
    };
    let told = format!(
        "a durable write of {} KiB takes {:.1} ms (median of {WRITES})",
        WRITE_BYTES / 1024,
        median.as_secs_f64() * 1_000.0
    );
    let help = "put [state] dir on a local SSD; a network share, a full disk or a RAID without cache is too slow";
    if median > TOO_SLOW {
        Line::error(NAME, told, help)
    } else if median > SLOW {
        Line::warning(NAME, told, help)
    } else {
        Line::ok(NAME, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    #[test]
    fn space_is_enough_gets_short_or_is_short() {
        let status = |free| space(Path::new("/s"), &free, 256).status;
        assert_eq!(status(Ok(1_024)), Status::Ok);
        assert_eq!(status(Ok(1_023)), Status::Warning);
        assert_eq!(status(Ok(288)), Status::Warning);
        assert_eq!(status(Ok(287)), Status::Error);
        assert_eq!(status(Err(io::ErrorKind::NotFound.into())), Status::Error);
    }

    #[test]
    fn a_disk_is_quick_slow_or_too_slow() {
        let status = |median| speed(Path::new("/s"), &median).status;
        assert_eq!(status(Ok(SLOW)), Status::Ok);
        assert_eq!(status(Ok(SLOW + Duration::from_millis(1))), Status::Warning);
        assert_eq!(status(Ok(TOO_SLOW + Duration::from_millis(1))), Status::Error);
        assert_eq!(status(Err(io::ErrorKind::PermissionDenied.into())), Status::Warning);
        assert_eq!(status(Err(io::ErrorKind::StorageFull.into())), Status::Error);
        assert!(speed(Path::new("/s"), &Ok(Duration::from_micros(550))).found.contains("8 KiB takes 0.6 ms"));
    }

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        assert!(measure(&folder.path().join("not/there/yet")).unwrap() > Duration::ZERO);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(free_mb(folder.path()).unwrap() > 0);
    }
}
