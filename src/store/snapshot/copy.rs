//! One read transaction, copied row by row into a new redb file.
//!
//! Called by the thread that makes a snapshot. Rows go over as they are, in the order of their keys, table by
//! table of the one list of tables; a table that the file has and the list does not know is an error and never
//! left out. Invariants: memory is bounded by redb's cache and one batch, however large the state is; the
//! copy is durable when [`copy`] returns; between two batches it looks whether it shall go on.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, Key, ReadTransaction, ReadableTable, StorageBackend, TableDefinition, TableHandle,
    Value, WriteTransaction,
};

use super::origin::{self, Origin};
use super::{SnapshotError, TableRows};
use crate::store::StoreError;
use crate::store::files::forward_locks;
use crate::store::tables::{ForEachTable, META, each_table};

/// redb's page cache of the copy: its rows come in order, so few pages are in use at a time.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Of keys and values in one commit.
const BATCH_BYTES: usize = 512 * 1024;
/// What may be written before it has to be on the disk: while the disk takes it, the daemon's own commits wait.
const SYNC_BYTES: u64 = 256 * 1024 * 1024;
/// Rows between two looks at whether to go on.
const LOOK_ROWS: u64 = 4_096;

/// Whether the work shall go on: nobody stopped it, and there is space left on its disk.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub cancel: Arc<AtomicBool>,
    /// On the disk that is written to.
    pub folder: PathBuf,
    pub least_free_bytes: u64,
}

impl Watch {
    /// Of work that nobody stops, on a disk that may be filled.
    pub fn unlimited(folder: &Path) -> Self {
        Self { cancel: Arc::default(), folder: folder.to_owned(), least_free_bytes: 0 }
    }

    pub fn go_on(&self) -> Result<(), SnapshotError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(SnapshotError::Canceled);
        }
        self.needs(0)
    }

    /// There is room for so many bytes, beside what has to stay free.
    pub fn needs(&self, bytes: u64) -> Result<(), SnapshotError> {
        let disk = rustix::fs::statvfs(&self.folder);
        let disk = disk.map_err(|error| SnapshotError::io(&self.folder, error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let wanted = self.least_free_bytes.saturating_add(bytes);
        if free >= wanted {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let (folder, free, wanted) = (self.folder.display(), mib(free), mib(wanted));
        Err(SnapshotError::Full(format!("{folder} has {free} MiB free, and {wanted} MiB are wanted")))
    }
}

/// A new file that only its owner can read.
pub(super) fn new_file(path: &Path) -> Result<File, SnapshotError> {
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
    options.open(path).map_err(|error| SnapshotError::io(path, error))
}

/// Copies everything that `from` sees to `to`, and marks the copy. Answers with the rows of each table.
pub(super) fn copy(
    from: &ReadTransaction,
    to: &Path,
    origin: &Origin,
    watch: &Watch,
) -> Result<Vec<TableRows>, SnapshotError> {
    let failed = |error| SnapshotError::io(to, error);
    let file = new_file(to)?;
    let whole = file.try_clone().map_err(failed)?;
    let backend = Unfinished { file: FileBackend::new(file)?, written: AtomicU64::new(0) };
    let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
    let mut copier = Copier { from, to: &db, open: None, batch_bytes: 0, tables: Vec::new(), watch };
    each_table(&mut copier)?;
    let txn = copier.transaction()?;
    origin::put(&txn, origin)?;
    txn.commit()?;
    let mut tables = copier.tables;
    nothing_was_forgotten(from, &tables)?;
    // The mark is a row of its own.
    for table in tables.iter_mut().filter(|table| table.name == META.name()) {
        table.rows += 1;
    }
    db.close()?;
    whole.sync_all().map_err(failed)?;
    tables.sort();
    Ok(tables)
}

/// The file of a copy that is being made. Nobody wants a part of it after a crash: batches are not made durable one by
/// one, which would keep the disk from the daemon's own commits, but what was written is not left to the end either.
#[derive(Debug)]
struct Unfinished {
    file: FileBackend,
    /// Bytes since the disk was last told to be done with them.
    written: AtomicU64,
}

impl StorageBackend for Unfinished {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.written.load(Ordering::Relaxed) < SYNC_BYTES {
            return Ok(());
        }
        self.written.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    forward_locks!(file);
}

fn nothing_was_forgotten(from: &ReadTransaction, copied: &[TableRows]) -> Result<(), SnapshotError> {
    let unknown = from.list_tables()?.find(|table| copied.iter().all(|copied| copied.name != table.name()));
    let unknown = unknown.map(|table| table.name().to_owned());
    let unknown = unknown.or(from.list_multimap_tables()?.next().map(|table| {
        use redb::MultimapTableHandle as _;
        table.name().to_owned()
    }));
    match unknown {
        Some(name) => Err(SnapshotError::Damaged(format!("the state has a table that nobody knows, {name}"))),
        None => Ok(()),
    }
}

struct Copier<'a> {
    from: &'a ReadTransaction,
    to: &'a Database,
    /// Of the batch that is being filled.
    open: Option<WriteTransaction>,
    batch_bytes: usize,
    tables: Vec<TableRows>,
    watch: &'a Watch,
}

impl Copier<'_> {
    fn transaction(&mut self) -> Result<WriteTransaction, SnapshotError> {
        Ok(match self.open.take() {
            Some(txn) => txn,
            None => self.to.begin_write()?,
        })
    }
}

impl ForEachTable for Copier<'_> {
    type Error = SnapshotError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), SnapshotError> {
        let source = self.from.open_table(table).map_err(StoreError::from)?;
        let mut left = source.iter()?;
        let mut rows = 0;
        loop {
            let txn = self.transaction()?;
            let mut target = txn.open_table(table)?;
            let mut finished = true;
            for row in left.by_ref() {
                let (key, value) = row?;
                self.batch_bytes += K::as_bytes(&key.value()).as_ref().len();
                self.batch_bytes += V::as_bytes(&value.value()).as_ref().len();
                target.insert(key.value(), value.value())?;
                rows += 1;
                if rows % LOOK_ROWS == 0 {
                    self.watch.go_on()?;
                }
                if self.batch_bytes >= BATCH_BYTES {
                    finished = false;
                    break;
                }
            }
            drop(target);
            if finished {
                self.open = Some(txn);
                self.tables.push(TableRows { name: table.name().to_owned(), rows });
                return Ok(());
            }
            txn.commit()?;
            self.batch_bytes = 0;
            self.watch.go_on()?;
        }
    }
}
