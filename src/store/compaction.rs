//! The state file made smaller: how much of it is free, the mark that says it is due, and the compaction itself.
//!
//! redb compacts only a file that nobody reads or writes, and takes as long as it takes. So the maintenance measures
//! and puts a mark beside the file, and the next open of it ([`super::boot`]) compacts before anybody is served.
//! Invariants: the mark is gone, durably, before the first page moves, so that a start which is killed or gives up
//! meanwhile is not the first of many; redb moves pages in transactions of its own, so a file that is cut off in the
//! middle holds what it held; a compaction that fails is told and the file is opened as it is.
//!
//! Deliberately not here: when it is looked at, and free pages, which redb uses again by itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, DatabaseError, Key, ReadTransaction, ReadableTableMetadata, TableDefinition, Value};

use super::tables::{ForEachTable, each_table};
use super::{STATE_FILE, Store, StoreError};

/// The mark, in the state directory.
pub const DUE_FILE: &str = "compaction.due";
/// A file up to this size is left as it is, however much of it is free.
const SMALL_BYTES: u64 = 64 * 1024 * 1024;
/// A larger file would hold up a start for too long.
const LARGE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// One part in so many has to be free.
const WORTH_PART: u64 = 4;

/// What the state file takes, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub file_bytes: u64,
    pub used_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Too little is free, or the file is small.
    No,
    Yes,
    /// It would be, but the start would take too long.
    TooLarge,
}

impl Room {
    #[must_use]
    pub const fn free_bytes(self) -> u64 {
        self.file_bytes.saturating_sub(self.used_bytes)
    }

    #[must_use]
    pub const fn worth(self) -> Worth {
        if self.file_bytes <= SMALL_BYTES || self.free_bytes() <= self.file_bytes / WORTH_PART {
            Worth::No
        } else if self.file_bytes > LARGE_BYTES {
            Worth::TooLarge
        } else {
            Worth::Yes
        }
    }
}

/// What a start did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub took: Duration,
}

/// Whether the next open compacts.
#[must_use]
pub fn is_due(state_dir: &Path) -> bool {
    state_dir.join(DUE_FILE).exists()
}

/// The next open compacts. Blocks.
///
/// # Errors
/// When the mark cannot be made.
pub fn mark_due(state_dir: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(state_dir.join(DUE_FILE))?;
    File::open(state_dir)?.sync_all()
}

/// Whether the mark was there; it is gone afterwards, or nothing is compacted.
pub(super) fn take_mark(state_dir: &Path) -> bool {
    let taken = match std::fs::remove_file(state_dir.join(DUE_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        removed => removed.and_then(|()| File::open(state_dir)?.sync_all()),
    };
    if let Err(error) = &taken {
        tracing::warn!(%error, "the state file is not compacted: its mark {DUE_FILE} cannot be removed");
    }
    taken.is_ok()
}

/// Compacts a file that was just opened and that nobody else has; `reopen` opens it again where that failed.
pub(super) fn compact(
    mut db: Database,
    reopen: impl FnOnce() -> Result<Database, DatabaseError>,
) -> Result<Database, DatabaseError> {
    match db.compact() {
        Ok(_) => Ok(db),
        Err(error) => {
            tracing::warn!(%error, "the state file could not be compacted; it is used as it is");
            drop(db);
            reopen()
        }
    }
}

/// Bytes of the pages that hold something. Reads the whole file.
struct Used<'a> {
    txn: &'a ReadTransaction,
    bytes: u64,
}

impl ForEachTable for Used<'_> {
    type Error = StoreError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), StoreError> {
        let stats = self.txn.open_table(table)?.stats()?;
        self.bytes += stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
        Ok(())
    }
}

impl Store {
    /// How much of the state file is free. Reads all of it, beside whatever else goes on.
    pub async fn room(&self, state_dir: PathBuf) -> Result<Room, StoreError> {
        self.read(move |txn| {
            let mut used = Used { txn, bytes: 0 };
            each_table(&mut used)?;
            let path = state_dir.join(STATE_FILE);
            let file = path.metadata().map_err(|error| StoreError::from_io(&path, &error))?;
            Ok(Room { file_bytes: file.len(), used_bytes: used.bytes })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGE_BYTES, Room, SMALL_BYTES, Worth, is_due, mark_due, take_mark};

    #[test]
    fn it_is_worth_it_when_more_than_a_quarter_of_a_file_that_is_not_small_is_free() {
        let worth = |file_bytes, used_bytes| Room { file_bytes, used_bytes }.worth();
        assert_eq!(worth(SMALL_BYTES, 0), Worth::No);
        assert_eq!(worth(SMALL_BYTES + 4, 0), Worth::Yes);
        let file = 4 * SMALL_BYTES;
        assert_eq!(worth(file, file - file / 4), Worth::No);
        assert_eq!(worth(file, file - file / 4 - 1), Worth::Yes);
        assert_eq!(worth(file, file + 1), Worth::No);
        assert_eq!(worth(LARGE_BYTES, 0), Worth::Yes);
        assert_eq!(worth(LARGE_BYTES + 1, 0), Worth::TooLarge);
    }

    #[test]
    fn a_mark_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_due(folder.path()) && !take_mark(folder.path()));
        mark_due(folder.path()).unwrap();
        mark_due(folder.path()).unwrap();
        assert!(is_due(folder.path()));
        assert!(take_mark(folder.path()));
        assert!(!is_due(folder.path()) && !take_mark(folder.path()));
    }
}
