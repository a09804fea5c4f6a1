//! Opening the state file and its ledger: create, refuse, migrate, reconcile.
//!
//! Called by [`super::Store::open`] alone. A file that is not a state file, is newer, or is held by another
//! process is refused with words that say what to do; it is never opened as if it were empty. A new file
//! is made beside its final name and renamed when it is whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError};

use super::ballast::{Ballast, is_full};
use super::compaction::{self, Compacted};
use super::epoch::{blind_sequence, next_epoch};
use super::files::{LedgerFile, LedgerOnDisk, StateOnDisk, lock, sync_folder_of};
use super::ledger::{Ledger, Line};
use super::migrate::MIGRATIONS;
use super::queue::recover::Facts;
use super::snapshot::{self, Manifest, SnapshotError, SnapshotFolder, before_migration, take_origin};
use super::tables::{Closed, META, META_KEY, Meta, SCHEMA, Tx, create_all};
use super::trial::Trial;
use super::{Pause, StoreError, codec, locks};
use crate::model::{BootId, ItemState, Moment};

pub const STATE_FILE: &str = "state.redb";
pub const LEDGER_FILE: &str = "publish.ledger";
/// The schema that this version writes.
pub const SCHEMA_VERSION: u32 = 2;
const SCHEMA_KEY: &str = "version";
/// redb's page cache; the file may be far larger.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Up to this size a file is read to its end at open, to see whether it was altered.
const VERIFIED_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: another process holds the state file; stop it first, or give this one its own [state] dir", .0.display())]
    Held(PathBuf),
    #[error(
        "{}: this is not a state file of cove, or it is damaged ({why}). It was left as it is: put a snapshot back with `cove snapshots restore`, or move it away to start empty",
        path.display()
    )]
    NotAStateFile { path: PathBuf, why: String },
    #[error(
        "{}: its schema is {found}, newer than {SCHEMA_VERSION}, which this version of cove knows. Install the newer cove again, or put back a snapshot from before the upgrade: {}",
        path.display(),
        way_back(kept.as_deref())
    )]
    NewerSchema {
        path: PathBuf,
        found: u32,
        /// The newest snapshot that this version can put back.
        kept: Option<PathBuf>,
    },
    #[error("{}: it has to be brought to a newer schema, and no snapshot could be made of it before: {error}", path.display())]
    NotKept { path: PathBuf, error: SnapshotError },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// No space is left: it can be opened when there is some.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { error, .. } => is_full(error),
            Self::Store(error) => matches!(error, StoreError::Full(_)),
            Self::Held(_) | Self::NotAStateFile { .. } | Self::NewerSchema { .. } | Self::NotKept { .. } => false,
        }
    }
}

/// What was found at open, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootReport {
    pub created: bool,
    /// The store knows less than its ledger.
    pub restored: bool,
    pub epoch: u64,
    /// Bytes of a torn ledger line that were cut off.
    pub ledger_cut_bytes: u64,
    pub ledger_damage: Option<String>,
    pub pause: Option<Pause>,
    /// It was due, and was done before anything else.
    pub compacted: Option<Compacted>,
    /// The machine was booted since: leases that now run in this boot (fence.md rule 20).
    pub leases_rebased: u64,
}

pub(super) fn open(
    folder: &Path,
    snapshots: &SnapshotFolder,
    now: Moment,
) -> Result<(Database, Ledger, BootReport), OpenError> {
    let path = folder.join(STATE_FILE);
    let io = |error| OpenError::Io { path: path.clone(), error };
    let ballast = Ballast::of(folder);
    let created = !path.try_exists().map_err(io)?;
    if created {
        create(folder, &path, &ballast)?;
    }
    let state = || StateOnDisk::open(&path, ballast.clone());
    let ledger_path = folder.join(LEDGER_FILE);
    let ledger = || {
        let file = LedgerOnDisk::open(&ledger_path, ballast.clone());
        file.map_err(|error| StoreError::from_io(&ledger_path, &error))
    };
    let keep = |schema| {
        // Nobody else may write into it while it is copied.
        let file = std::fs::File::options().read(true).write(true).open(&path).map_err(io)?;
        let held = lock(file).map_err(|error| refusal(&path, error))?;
        let _held = held.ok_or_else(|| OpenError::Held(path.clone()))?;
        match before_migration(folder, snapshots, schema, now.wall) {
            Ok(Some(kept)) => tracing::info!(snapshot = kept.name, schema, "the state file is kept as it was"),
            Ok(None) => {}
            Err(SnapshotError::Full(what)) => return Err(StoreError::Full(what).into()),
            Err(error) => return Err(OpenError::NotKept { path: path.clone(), error }),
        }
        Ok(())
    };
    let due = compaction::take_mark(folder);
    let bytes = || path.metadata().map(|file| file.len()).map_err(io);
    let (before_bytes, began) = (bytes()?, Instant::now());
    let opened = open_over(state, keep, ledger, (folder, due), now);
    let (db, ledger, report) = opened.map_err(|error| match error {
        OpenError::NewerSchema { path, found, .. } => {
            OpenError::NewerSchema { path, found, kept: newest_of_ours(snapshots) }
        }
        other => other,
    })?;
    let compacted =
        if due { Some(Compacted { before_bytes, after_bytes: bytes()?, took: began.elapsed() }) } else { None };
    Ok((db, ledger, BootReport { created, compacted, ..report }))
}

/// The same over any storage; `folder` is for messages, and `compacts` says to do that first. `keep` is called with the schema of a file that is to be
/// migrated, before anything is written into it. The ledger is asked for when the state is open: a
/// refusal makes no file. A damaged file may make redb panic: that is a refusal like any other.
pub(super) fn open_over<B: StorageBackend, L: LedgerFile>(
    state: impl Fn() -> Result<B, DatabaseError>,
    keep: impl FnOnce(u32) -> Result<(), OpenError>,
    ledger: impl FnOnce() -> Result<L, StoreError>,
    (folder, compacts): (&Path, bool),
    now: Moment,
) -> Result<(Database, Ledger, BootReport), OpenError> {
    let path = folder.join(STATE_FILE);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut db = open_database(&state, keep, &path)?;
        if compacts {
            let again = || builder().create_with_backend(state()?);
            db = compaction::compact(db, again).map_err(|error| refusal(&path, error))?;
        }
        migrate(&db)?;
        let opened = Ledger::open(Box::new(ledger()?), &folder.join(LEDGER_FILE))?;
        let mut report = BootReport {
            ledger_cut_bytes: opened.cut_bytes,
            ledger_damage: opened.damage.as_ref().map(ToString::to_string),
            ..BootReport::default()
        };
        let mut ledger = opened.ledger;
        let facts = Facts::of(&opened.lines);
        reconcile(&db, &mut ledger, (&opened.lines, &facts), now, &mut report)?;
        Ok((db, ledger, report))
    }));
    opened.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<&str>().map(ToString::to_string);
        let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(OpenError::NotAStateFile { path, why: format!("reading it ended in a panic: {why}") })
    })
}

/// The command that leads back to a state which this version knows.
fn way_back(kept: Option<&Path>) -> String {
    match kept {
        Some(kept) => format!("cove snapshots restore {}", kept.display()),
        None => "cove snapshots restore NAME (cove snapshots list shows them)".to_owned(),
    }
}

/// A folder that cannot be read is told of by whoever restores from it.
fn newest_of_ours(snapshots: &SnapshotFolder) -> Option<PathBuf> {
    let all = snapshots.list().unwrap_or_default();
    let ours = |manifest: &Manifest| manifest.schema <= SCHEMA_VERSION;
    let newest = all.into_iter().find(|one| one.damage.is_none() && one.manifest.as_ref().is_some_and(ours))?;
    Some(snapshots.path().join(newest.name))
}

/// Makes a whole, empty state file under a temporary name, then gives it its own.
fn create(folder: &Path, path: &Path, ballast: &Ballast) -> Result<(), OpenError> {
    let partial = folder.join("state.redb.new");
    let io = |error| OpenError::Io { path: partial.clone(), error };
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    create_over(StateOnDisk::create(&partial, ballast.clone()).map_err(|error| refusal(&partial, error))?)?;
    std::fs::rename(&partial, path).map_err(io)?;
    sync_folder_of(path).map_err(io)
}

/// Makes a whole, empty state over empty storage.
pub(super) fn create_over(state: impl StorageBackend) -> Result<(), OpenError> {
    let db = builder().create_with_backend(state).map_err(|error| refusal(Path::new(STATE_FILE), error))?;
    initialise(&db)?;
    db.close().map_err(|error| refusal(Path::new(STATE_FILE), error))
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn initialise(db: &Database) -> Result<(), StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    create_all(&txn)?;
    txn.open_table(SCHEMA)?.insert(SCHEMA_KEY, SCHEMA_VERSION)?;
    let meta = Meta {
        epoch: 0,
        opens: 0,
        sequence: 0,
        items: [0; ItemState::ALL.len()],
        backing_off: 0,
        held_for_clock: 0,
        pause: None,
        boot_id: BootId::default(),
        clock: None,
        catch_up: None,
    };
    txn.open_table(META)?.insert(META_KEY, codec::encode(&meta)?.as_slice())?;
    txn.commit()?;
    Ok(())
}

/// Opens the file for a trial first, so that a refusal leaves it as it was found. Never makes a database
/// of an empty file. A file that redb trusts because it was closed well may have been altered since: up to
/// a size every page of it is verified.
fn open_database<B: StorageBackend>(
    state: impl Fn() -> Result<B, DatabaseError>,
    keep: impl FnOnce(u32) -> Result<(), OpenError>,
    path: &Path,
) -> Result<Database, OpenError> {
    let (trial, found) = open_trial(state(), path)?;
    drop(trial);
    if found > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, kept: None });
    }
    if found < SCHEMA_VERSION {
        keep(found)?;
    }
    let refusal = |error| refusal(path, error);
    builder().create_with_backend(state().map_err(refusal)?).map_err(refusal)
}

/// The file over a trial, and its schema: nothing is written into it.
pub(super) fn open_trial<B: StorageBackend>(
    state: Result<B, DatabaseError>,
    path: &Path,
) -> Result<(Database, u32), OpenError> {
    let refusal = |error| refusal(path, error);
    let not_one = |why: String| OpenError::NotAStateFile { path: path.to_owned(), why };
    let trial = Trial::over(state.map_err(refusal)?).map_err(|error| refusal(error.into()))?;
    let bytes = trial.len().map_err(|error| refusal(error.into()))?;
    if bytes == 0 {
        return Err(not_one("the file is empty".to_owned()));
    }
    let verified = builder().set_check_integrity_on_open(bytes <= VERIFIED_BYTES).create_with_backend(trial);
    let db = verified.map_err(refusal)?;
    let found = read_schema(&db).map_err(not_one)?;
    Ok((db, found))
}

fn refusal(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Held(path.to_owned()),
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                OpenError::NotAStateFile { path: path.to_owned(), why: error.to_string() }
            } else {
                OpenError::Io { path: path.to_owned(), error }
            }
        }
        other => OpenError::NotAStateFile { path: path.to_owned(), why: other.to_string() },
    }
}

/// Brings an older schema up, one transaction a step.
fn migrate(db: &Database) -> Result<(), OpenError> {
    let found = read_schema(db).map_err(StoreError::Corrupt)?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version >= found) {
        tracing::info!(from = version, to = version + 1, "migrating the state file");
        let mut txn = db.begin_write().map_err(StoreError::from)?;
        txn.set_quick_repair(true);
        migration(&txn)?;
        let mut schema = txn.open_table(SCHEMA).map_err(StoreError::from)?;
        schema.insert(SCHEMA_KEY, version + 1).map_err(StoreError::from)?;
        drop(schema);
        txn.commit().map_err(StoreError::from)?;
    }
    Ok(())
}

pub(super) fn read_schema(db: &Database) -> Result<u32, String> {
    let txn = db.begin_read().map_err(|error| error.to_string())?;
    let table = txn.open_table(SCHEMA).map_err(|_| "a redb file of another program".to_owned())?;
    let row = table.get(SCHEMA_KEY).map_err(|error| error.to_string())?;
    row.map(|row| row.value()).filter(|version| *version > 0).ok_or_else(|| "no schema version in it".to_owned())
}

/// Compares the store with its ledger and writes what follows, in one transaction (fence.md rules 1 and 17).
fn reconcile(
    db: &Database,
    ledger: &mut Ledger,
    (lines, facts): (&[Line], &Facts),
    moment: Moment,
    report: &mut BootReport,
) -> Result<(), StoreError> {
    let now = moment.wall;
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    let origin = take_origin(&txn)?;
    let mut tx = Tx::open(&txn)?;
    let was = tx.meta.clone();
    let fresh = was.epoch == 0;
    let damaged = report.ledger_damage.is_some();
    // A ledger that was missing has just been made, and holds no epoch either.
    let lost_ledger = !fresh && facts.epoch == 0 && !damaged;
    // A first start that was cut off leaves an epoch line and nothing else: that is not a restore.
    let nothing_yet = fresh && facts.items.is_empty();
    report.restored = origin.is_some() || lost_ledger || (!nothing_yet && facts.are_ahead_of(&tx)?);
    let machine = snapshot::machine();
    let tells_nothing = origin.is_some_and(|origin| origin.is_blind(lines, was.epoch, machine.as_deref()));
    // A fresh state has nothing to do that may have been done since.
    let blind = report.restored && !fresh && (tells_nothing || facts.begin_after(was.epoch));
    tx.meta.opens = was.opens.max(facts.opens) + 1;
    let known_damage = damaged && matches!(was.pause, Some(Pause::LedgerDamaged { .. }));
    let begins_epoch = report.restored || fresh || (damaged && !known_damage);
    if begins_epoch {
        tx.meta.epoch = next_epoch(was.epoch, facts.epoch, now);
        tx.meta.sequence = 0;
    }
    let opened = Line::Epoch { epoch: tx.meta.epoch, opens: tx.meta.opens, at: now };
    if begins_epoch && !damaged {
        ledger.append(std::slice::from_ref(&opened))?;
    }
    // Nothing says what was given out since this state was saved, or by a state before it.
    if facts.epoch == 0 || blind || damaged {
        tx.meta.sequence = tx.meta.sequence.max(blind_sequence(now));
    }
    if report.restored {
        facts.take_over(&mut tx, blind || damaged, now)?;
        tx.meta.pause = Some(Pause::Restored { since: now, blind });
    } else {
        facts.take_published(&mut tx, now)?;
    }
    facts.take_revocations(&mut tx)?;
    if let Some(what) = &report.ledger_damage {
        tx.meta.pause = Some(Pause::LedgerDamaged { since: now, what: what.clone() });
    }
    if was.boot_id != moment.boot_id {
        report.leases_rebased = locks::rebase(&mut tx, moment)?;
        tx.meta.boot_id = moment.boot_id;
    }
    report.epoch = tx.meta.epoch;
    report.pause.clone_from(&tx.meta.pause);
    let Closed { meta, .. } = tx.close();
    Tx::write_meta(&txn, &meta)?;
    txn.commit()?;
    // The store first: one that counts more than its ledger is only a boot that was cut off.
    if !begins_epoch && !damaged {
        ledger.append(&[opened])?;
    }
    Ok(())
}
