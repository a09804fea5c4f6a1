//! The ballast: a preallocated file in the state directory that is given up, slice by slice, when the disk
//! is really full, so that what runs can still write its end.
//!
//! The files of the state ask for a slice when a write finds no space ([`super::files`]) and try again at
//! once: the slice is small, so that whoever else fills the disk can take little of it in between. The
//! disk guard makes it whole again when there is space. Invariant: how much is left is what the file
//! system says, so two handles never disagree. It decides nothing about what may be written.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

pub const BALLAST_FILE: &str = "ballast";
/// Room for tens of thousands of ends: one commit of a full batch is far below one slice.
pub const BALLAST_BYTES: u64 = 16 * SLICE_BYTES;
const SLICE_BYTES: u64 = 1024 * 1024;
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// A handle; any number of them may be open.
#[derive(Clone, Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Of this state directory, whether or not its file is there yet.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join(BALLAST_FILE) }
    }

    /// Bytes that are left of it. A copy with holes in it keeps no space: what counts is what is allocated.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len().min(metadata.blocks() * BLOCK_BYTES))
    }

    /// Nothing of it was given up.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes() >= BALLAST_BYTES
    }

    /// Makes it, or makes it whole again. Blocking, and quick: nothing is written.
    ///
    /// # Errors
    /// When there is no space for it, or the file system cannot keep space for a file.
    pub fn fill(&self) -> io::Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let before = file.metadata()?.len();
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
            // What did not become whole is not kept in part: others may need the space.
            file.set_len(before.min(BALLAST_BYTES))?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Runs `write`, and again for as long as it finds no space and a slice can be given up for it.
    ///
    /// # Errors
    /// What `write` says in the end.
    pub fn make_room<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match write() {
                Err(error) if is_full(&error) && self.give_up_a_slice() => {}
                done => return done,
            }
        }
    }

    /// Gives one slice back to the file system. False: nothing is left.
    fn give_up_a_slice(&self) -> bool {
        let bytes = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let shrink = || OpenOptions::new().write(true).open(&self.path)?.set_len(bytes.saturating_sub(SLICE_BYTES));
        if bytes == 0 {
            return false;
        }
        match shrink() {
            Ok(()) => {
                tracing::warn!(left_bytes = self.bytes(), "the disk is full: a part of the ballast is given up");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the disk is full and the ballast cannot be given up");
                false
            }
        }
    }
}

/// Whether this error means that there is no space.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::{BALLAST_BYTES, Ballast, SLICE_BYTES};

    #[test]
    fn it_is_given_up_slice_by_slice_and_made_whole_again() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::of(folder.path());
        assert!(ballast.bytes() == 0 && !ballast.give_up_a_slice());
        ballast.fill().unwrap();
        assert_eq!(ballast.bytes(), BALLAST_BYTES);
        let mut slices = 0;
        while ballast.give_up_a_slice() {
            slices += 1;
            assert_eq!(Ballast::of(folder.path()).bytes(), BALLAST_BYTES - slices * SLICE_BYTES);
        }
        assert_eq!(slices, BALLAST_BYTES / SLICE_BYTES);
        ballast.fill().unwrap();
        assert_eq!(ballast.bytes(), BALLAST_BYTES);
    }
}
