//! Is it good: a state file that was copied, and a snapshot as it lies on the disk.
//!
//! Called when a snapshot is made, by whoever wants to know later, and before one is put back. The file is
//! opened over a trial, so that not one of its bytes changes while it is looked at; redb looks at every page,
//! every table is counted against the manifest, every index is compared. Invariant: [`verify`] believes
//! nothing that it has not seen: it unpacks and opens what a restore would.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableHandle};

use super::container::{self, Sums};
use super::copy::Watch;
use super::{Manifest, SnapshotError, TableRows};
use crate::store::boot::{SCHEMA_VERSION, builder, read_schema};
use crate::store::check;
use crate::store::trial::Trial;

/// Differences told of a state that is not consistent.
const MAX_TOLD: usize = 3;

fn damaged(what: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(what.into())
}

/// Opens a state file and finds it whole, with these tables.
pub(super) fn check_state(path: &Path, schema: u32, tables: &[TableRows]) -> Result<(), SnapshotError> {
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| SnapshotError::io(path, error))?;
        let trial = Trial::over(FileBackend::new(file)?).map_err(|error| SnapshotError::io(path, error))?;
        let mut db = builder().create_with_backend(trial)?;
        if !db.check_integrity()? {
            return Err(damaged("redb had to repair its state"));
        }
        check_content(&db, schema, tables)
    }));
    checked.unwrap_or_else(|_| Err(damaged("reading its state ended in a panic")))
}

fn check_content(db: &Database, schema: u32, tables: &[TableRows]) -> Result<(), SnapshotError> {
    let found = read_schema(db).map_err(damaged)?;
    if found != schema {
        return Err(damaged(format!("its state has schema {found}, and should have {schema}")));
    }
    let txn = db.begin_read()?;
    compare(&count(&txn)?, tables)?;
    if schema != SCHEMA_VERSION {
        // Its records are another version's; the migration reads every one of them.
        return Ok(());
    }
    let differences = check::differences(&txn)?;
    if differences.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = differences.iter().take(MAX_TOLD).map(String::as_str).collect();
    Err(damaged(format!("{} differences in its indexes: {}", differences.len(), told.join("; "))))
}

/// The rows of every table that is there, by name.
pub(super) fn count(txn: &ReadTransaction) -> Result<Vec<TableRows>, SnapshotError> {
    let mut tables = Vec::new();
    for table in txn.list_tables()? {
        let name = table.name().to_owned();
        tables.push(TableRows { rows: txn.open_untyped_table(table)?.len()?, name });
    }
    tables.sort();
    Ok(tables)
}

fn compare(found: &[TableRows], expected: &[TableRows]) -> Result<(), SnapshotError> {
    let by_name = |tables: &[TableRows]| -> BTreeMap<String, u64> {
        tables.iter().map(|table| (table.name.clone(), table.rows)).collect()
    };
    let (found, expected) = (by_name(found), by_name(expected));
    let names = found.keys().chain(expected.keys());
    match names.into_iter().find(|name| found.get(*name) != expected.get(*name)) {
        None => Ok(()),
        Some(name) => {
            let rows = |of: &BTreeMap<String, u64>| of.get(name).map_or("none".to_owned(), ToString::to_string);
            let (found, expected) = (rows(&found), rows(&expected));
            Err(damaged(format!("its table {name} has {found} rows, and the manifest counts {expected}")))
        }
    }
}

/// Reads the head, and refuses what a newer version made.
pub(super) fn manifest_of(path: &Path) -> Result<Manifest, SnapshotError> {
    let mut file = std::fs::File::open(path).map_err(|error| SnapshotError::io(path, error))?;
    let (manifest, _) = container::read_head(&mut file, path)?;
    if manifest.schema > SCHEMA_VERSION {
        return Err(SnapshotError::NewerSchema { found: manifest.schema });
    }
    Ok(manifest)
}

/// Unpacks the state of a snapshot to `to`, and finds it good.
pub(super) fn unpack_checked(path: &Path, to: &Path, watch: &Watch) -> Result<(Manifest, Sums), SnapshotError> {
    // First: of a file that was altered nothing is read but its hash.
    let sums = match container::check_sum(path, watch) {
        Err(SnapshotError::Damaged(what)) => {
            // What is no snapshot at all, or of a later format, says so.
            manifest_of(path)?;
            return Err(damaged(what));
        }
        sums => sums?,
    };
    let manifest = manifest_of(path)?;
    watch.needs(manifest.state_bytes)?;
    container::unpack_state(path, &manifest, Some(to), watch)?;
    check_state(to, manifest.schema, &manifest.tables)?;
    Ok((manifest, sums))
}

/// The whole drill, with its files in `scratch`: a folder that is the caller's to remove. Blocks.
pub fn verify(path: &Path, scratch: &Path) -> Result<(Manifest, String), SnapshotError> {
    let to = scratch.join(container::STATE_MEMBER);
    let (manifest, sums) = unpack_checked(path, &to, &Watch::unlimited(scratch))?;
    Ok((manifest, sums.sha256))
}
