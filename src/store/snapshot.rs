//! Snapshots: one file that holds the whole state, made while writes go on, and how it is checked and put back.
//!
//! Called by `ops::backup` in the daemon, and by the command line for what needs no daemon. One read transaction
//! is copied table by table into a new redb file ([`copy`]), which is opened again, checked and counted ([`drill`]);
//! then it is packed ([`container`]), read back, and only then given its name ([`folder`]). A snapshot that has
//! its name is whole; what a killed one leaves has no name. The writer is never waited for and never blocked. What
//! becomes of a state that was put back ([`restore`]) is decided by the next boot (fence.md rules 17 to 19): the copy
//! says what it is ([`origin`]). Which snapshots are kept is decided elsewhere.
//!
//! # The file, byte by byte
//!
//! It is a valid zstd file, and what `zstd -d` makes of it is a tar archive: both can be taken apart by hand.
//! Numbers are little endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `50 2A 4D 18`: a skippable frame of zstd |
//! | 4 | 4 | the length of the frame's content, H; at most 64 KiB |
//! | 8 | 8 | `COVESNAP` |
//! | 16 | 4 | the version of this format: 1 |
//! | 20 | H − 12 | the [`Manifest`], as JSON |
//! | 8 + H | … | one zstd frame with its checksum; inside it a tar archive (GNU) |
//! | end − 48 | 4 | `51 2A 4D 18`: another skippable frame |
//! | end − 44 | 4 | 40 |
//! | end − 40 | 8 | `COVEHASH` |
//! | end − 32 | 32 | SHA-256 of every byte before these 32 |
//!
//! The archive's members, in this order: `state.redb`, a state file like any other (flows are in it);
//! `cove.toml`, the configuration without its secrets, where a daemon made the snapshot; and, where
//! `[snapshots]` says so, `media/…` and `evidence/…` as they lie in the state directory.
//!
//! Beside it lies `.NAME.json`, what is remembered of it: the SHA-256 of the whole file, and when it was last
//! found good. A snapshot without that, or with one of another file, is a snapshot that nobody has verified.

mod container;
mod copy;
mod drill;
mod folder;
mod making;
mod older;
mod origin;
mod restore;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use drill::verify;
pub use folder::{Snapshot, SnapshotFolder, excess};
pub use making::{Begun, SnapshotPlan};
pub use origin::machine;
pub use restore::{RestoreError, Restored, restore};

pub(super) use older::before_migration;
pub(super) use origin::take as take_origin;

use super::StoreError;
use crate::model::Timestamp;

/// The folder of the snapshots, where nothing else is said.
pub const SNAPSHOTS_FOLDER: &str = "snapshots";
/// How the name of every snapshot ends.
pub const SNAPSHOT_ENDING: &str = ".snapshot";

/// Why a snapshot was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    Asked,
    Signal,
    Schedule,
    /// Before a state file is brought to a newer schema.
    Migration,
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub created_at: Timestamp,
    pub reason: SnapshotReason,
    /// The version of cove that made it.
    pub cove: String,
    pub schema: u32,
    /// Of the state; zero where its schema is older than this version reads.
    pub epoch: u64,
    pub sequence: u64,
    /// Where the ledger ended before the state was read (fence.md rule 18).
    pub ledger_bytes: u64,
    pub ledger_facts: u64,
    /// Which machine made it (rule 19), as a hash; None: the machine has no id.
    pub machine: Option<String>,
    pub state_bytes: u64,
    pub state_sha256: String,
    /// SHA-256 of the file that it is a copy of, where that was not in use.
    pub source_sha256: Option<String>,
    /// Every table with its rows, by name.
    pub tables: Vec<TableRows>,
    pub media: bool,
    pub evidence: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableRows {
    pub name: String,
    pub rows: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is no space for a snapshot: {0}")]
    Full(String),
    #[error("the daemon stops")]
    Canceled,
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// It, or the copy that it was to be made of, is not what it should be.
    #[error("the snapshot is not good: {0}")]
    Damaged(String),
    #[error(
        "its schema is {found}, newer than {}, which this version of cove knows: install the newer cove",
        super::SCHEMA_VERSION
    )]
    NewerSchema { found: u32 },
    #[error(transparent)]
    Store(StoreError),
}

impl SnapshotError {
    pub(in crate::store) fn io(path: &Path, error: std::io::Error) -> Self {
        if super::ballast::is_full(&error) {
            Self::Full(format!("{}: {error}", path.display()))
        } else {
            Self::Io { path: path.to_owned(), error }
        }
    }
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(what) => Self::Full(what),
            StoreError::Corrupt(what) => Self::Damaged(what),
            other => Self::Store(other),
        }
    }
}

/// The copy's own redb, not the daemon's.
impl<E: Into<redb::Error>> From<E> for SnapshotError {
    fn from(error: E) -> Self {
        StoreError::from(error).into()
    }
}
