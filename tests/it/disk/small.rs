//! A small disk for a daemon's state: a tmpfs, which can be filled to its last page and is gone afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

const DISK_MB: u64 = 96;

/// A disk of its own under a folder, as long as this lives.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// None: not permitted here; said.
    pub fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={DISK_MB}m,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "cove-test"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { at: at.to_owned() }),
            Ok(output) => {
                println!("skipped: no mount here: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no mount here: {error}");
                None
            }
        }
    }

    pub fn free_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.at).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Fills it until so much is free.
    pub fn fill_to(&self, free_bytes: u64) {
        let file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        let have = file.metadata().unwrap().len();
        let more = self.free_bytes().saturating_sub(free_bytes);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), have, more.max(1)).unwrap();
    }

    /// Not one page is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[1; 4_096]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
