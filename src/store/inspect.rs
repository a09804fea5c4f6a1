//! A state file that nobody holds, looked at without changing it.
//!
//! For `cove doctor`, which runs beside a daemon or without one. The file is opened as at boot, over a
//! [`Trial`](super::trial): what redb would write stays in memory. The ledger's size is told and no
//! more, for only a boot may mend it. Invariant: not one byte of the state changes, and no file is made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::ReadableDatabase;

use super::ballast::Ballast;
use super::boot::{LEDGER_FILE, OpenError, SCHEMA_VERSION, STATE_FILE, open_trial};
use super::files::StateOnDisk;
use super::tables::{META, META_KEY, Meta};
use super::{ClockMark, Pause, StoreError, codec};

/// What a state file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// An older one is brought up to [`SCHEMA_VERSION`] at the next start.
    pub schema: u32,
    pub bytes: u64,
    /// None: there is no ledger beside it.
    pub ledger_bytes: Option<u64>,
    /// Of this and what follows, nothing is known of an older schema.
    pub clock: Option<ClockMark>,
    pub pause: Option<Pause>,
}

/// None: there is no state file in `folder` yet. While it looks, a daemon that starts finds the file held.
/// Blocks.
pub fn inspect(folder: &Path) -> Result<Option<Inspected>, OpenError> {
    let path = folder.join(STATE_FILE);
    let io = |error| OpenError::Io { path: path.clone(), error };
    if !path.try_exists().map_err(io)? {
        return Ok(None);
    }
    let bytes = path.metadata().map_err(io)?.len();
    let ledger_bytes = folder.join(LEDGER_FILE).metadata().ok().map(|found| found.len());
    let look = || {
        let (db, schema) = open_trial(StateOnDisk::open(&path, Ballast::of(folder)), &path)?;
        let meta = if schema == SCHEMA_VERSION { Some(read_meta(&db)?) } else { None };
        let (clock, pause) = meta.map_or((None, None), |meta| (meta.clock, meta.pause));
        Ok(Some(Inspected { schema, bytes, ledger_bytes, clock, pause }))
    };
    catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
        Err(OpenError::NotAStateFile { path: path.clone(), why: "reading it ended in a panic".to_owned() })
    })
}

fn read_meta(db: &redb::Database) -> Result<Meta, StoreError> {
    let table = db.begin_read()?.open_table(META)?;
    let row = table.get(META_KEY)?.ok_or_else(|| StoreError::Corrupt("meta: no row".to_owned()))?;
    codec::decode("meta", row.value())
}
