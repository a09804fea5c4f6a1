//! Before a state file is brought to a newer schema, it is kept as a snapshot.
//!
//! Called at boot, while nobody has the file open but its lock is held. The copy is the file itself, byte by byte: its
//! tables are those of an older version, which this one migrates and does not otherwise read. Invariant:
//! where this fails there is no migration; a start that failed after it does not make a second one.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase};

use super::container::{self, Extras};
use super::copy::{Watch, new_file};
use super::folder::{Snapshot, SnapshotFolder};
use super::making::finish;
use super::origin::{self, Origin};
use super::{Manifest, SnapshotError, SnapshotReason, drill};
use crate::model::Timestamp;
use crate::store::boot::{LEDGER_FILE, SCHEMA_VERSION, STATE_FILE, builder};
use crate::store::ledger::{self, Position};

/// Keeps the state file in `state_dir`, whose schema is `schema`. None: it was kept before. Blocks.
pub(in crate::store) fn before_migration(
    state_dir: &Path,
    folder: &SnapshotFolder,
    schema: u32,
    now: Timestamp,
) -> Result<Option<Snapshot>, SnapshotError> {
    let source = state_dir.join(STATE_FILE);
    let failed = |error| SnapshotError::io(&source, error);
    let scratch = folder.scratch()?;
    let watch = Watch::unlimited(scratch.path());
    watch.needs(source.metadata().map_err(failed)?.len())?;
    let source_sum = container::hash_file(&source, &watch)?.sha256;
    let before = folder.list().map_err(|error| SnapshotError::io(folder.path(), error))?;
    let is_same = |kept: &Snapshot| {
        let sum = kept.manifest.as_ref().and_then(|manifest| manifest.source_sha256.as_ref());
        kept.is_verified() && sum == Some(&source_sum)
    };
    if before.iter().any(is_same) {
        return Ok(None);
    }
    let position = ledger_position(&state_dir.join(LEDGER_FILE))?;
    let name = folder.free_name(now, &format!("before-schema-{SCHEMA_VERSION}"));
    let state = scratch.path().join(container::STATE_MEMBER);
    std::io::copy(&mut File::open(&source).map_err(failed)?, &mut new_file(&state)?)
        .map_err(|error| SnapshotError::io(&state, error))?;
    let machine = origin::machine();
    mark(&state, &Origin { name: name.clone(), created_at: now, ledger: position, machine: machine.clone() })?;
    let tables = drill::count(&open(&state)?.begin_read()?)?;
    let sums = container::hash_file(&state, &watch)?;
    drill::check_state(&state, schema, &tables)?;
    let manifest = Manifest {
        name,
        created_at: now,
        reason: SnapshotReason::Migration,
        cove: env!("CARGO_PKG_VERSION").to_owned(),
        schema,
        epoch: 0,
        sequence: 0,
        ledger_bytes: position.bytes,
        ledger_facts: position.facts,
        machine,
        state_bytes: sums.bytes,
        state_sha256: sums.sha256,
        source_sha256: Some(source_sum),
        tables,
        media: false,
        evidence: false,
    };
    let extras = Extras { config: None, state_dir };
    finish(&state, &manifest, &extras, folder, scratch.path(), &watch, || now).map(Some)
}

fn open(path: &Path) -> Result<Database, SnapshotError> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(|error| SnapshotError::io(path, error))?;
    Ok(builder().create_with_backend(FileBackend::new(file)?)?)
}

/// Opens the copy, which repairs what a crash may have left, and says in it what it is.
fn mark(state: &Path, origin: &Origin) -> Result<(), SnapshotError> {
    let db = open(state)?;
    let txn = db.begin_write()?;
    origin::put(&txn, origin)?;
    txn.commit()?;
    db.close()?;
    Ok(())
}

/// As far as it can be read; a boot mends it, and this does not.
fn ledger_position(path: &Path) -> Result<Position, SnapshotError> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Position::default()),
        file => {
            let read = file.and_then(|file| ledger::position_of(&mut BufReader::new(file)));
            read.map_err(|error| SnapshotError::io(path, error))
        }
    }
}
