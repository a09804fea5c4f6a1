//! The two files of a state: what the store asks of them, and the ones on a real disk.
//!
//! The state file is whatever redb takes for its storage; the ledger's file is a [`LedgerFile`]. Both are
//! behind traits, so that a test can put one simulated disk under them and cut its power at any write
//! ([`super::Store::open_over`]). On a real disk both give up a part of the ballast when there is no
//! space, and write again. A sync that fails is never tried again: the kernel forgets what it could not
//! write.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::ops::Bound;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend, StorageError};

use super::ballast::Ballast;

/// The publish ledger's file: read once, at open, and written at its end ever after.
pub trait LedgerFile: Send + 'static {
    /// Everything, from its begin.
    fn read(&mut self) -> io::Result<Box<dyn BufRead + '_>>;

    /// All of `bytes` from `offset` on. After an error a part of them may be there.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything that was written is durable.
    fn sync(&mut self) -> io::Result<()>;

    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// A new file, empty, that is to take the place of this one. Only a disk with folders can have one.
    ///
    /// # Errors
    /// When it cannot be made.
    fn begin_successor(&mut self) -> io::Result<Box<dyn LedgerFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives its name to the successor that was begun, and keeps this file under the name with `ending`; a
    /// crash leaves one of them under the name. Returns when that is durable.
    ///
    /// # Errors
    /// When it cannot be done; the name may be the successor's all the same.
    fn give_way(&mut self, _ending: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The ledger on a real disk.
pub(super) struct LedgerOnDisk {
    path: PathBuf,
    file: File,
    ballast: Ballast,
}

impl LedgerOnDisk {
    /// Opens or makes it; a new name is made durable.
    pub fn open(path: &Path, ballast: Ballast) -> io::Result<Self> {
        let existed = path.try_exists()?;
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = ballast.make_room(open)?;
        if !existed {
            sync_folder_of(path)?;
        }
        Ok(Self { path: path.to_owned(), file, ballast })
    }

    fn path_with(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }

    fn successor_path(&self) -> PathBuf {
        self.path_with("new")
    }
}

impl LedgerFile for LedgerOnDisk {
    fn read(&mut self) -> io::Result<Box<dyn BufRead + '_>> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(Box::new(BufReader::new(&self.file)))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.ballast.make_room(|| self.file.write_all_at(bytes, offset))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn begin_successor(&mut self) -> io::Result<Box<dyn LedgerFile>> {
        let at = self.successor_path();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).clone();
        let file = self.ballast.make_room(|| options.open(&at))?;
        Ok(Box::new(Self { path: self.path.clone(), file, ballast: self.ballast.clone() }))
    }

    fn give_way(&mut self, ending: &str) -> io::Result<()> {
        match std::fs::hard_link(&self.path, self.path_with(ending)) {
            // Kept in this very millisecond before, by a process that came no further.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        std::fs::rename(self.successor_path(), &self.path)?;
        sync_folder_of(&self.path)
    }
}

/// The locks of a backend that stands around another one.
macro_rules! forward_locks {
    ($inner:ident) => {
        forward_locks!($inner: try_lock_range -> bool, try_lock_shared_range -> bool, query_lock_range -> bool,
            lock_range -> (), lock_shared_range -> (), unlock_range -> ());
    };
    ($inner:ident: $($lock:ident -> $answer:ty),+) => {
        $(fn $lock(&self, start: Bound<u64>, end: Bound<u64>) -> Result<$answer, BackendError> {
            self.$inner.$lock(start, end)
        })+
    };
}
pub(super) use forward_locks;

/// The state file on a real disk: redb's own backend, with the ballast behind it.
#[derive(Debug)]
pub(super) struct StateOnDisk {
    file: FileBackend,
    ballast: Ballast,
}

impl StateOnDisk {
    pub fn open(path: &Path, ballast: Ballast) -> Result<Self, DatabaseError> {
        Self::over(OpenOptions::new().read(true).write(true).open(path)?, ballast)
    }

    /// A new file, empty.
    pub fn create(path: &Path, ballast: Ballast) -> Result<Self, DatabaseError> {
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
        Self::over(ballast.make_room(|| options.open(path))?, ballast)
    }

    fn over(file: File, ballast: Ballast) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, ballast })
    }
}

impl StorageBackend for StateOnDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ballast.make_room(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ballast.make_room(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    forward_locks!(file);
}

/// Holds a state file as an open database holds it, for as long as the answer lives. None: somebody has it.
pub(super) fn lock(file: File) -> Result<Option<FileBackend>, DatabaseError> {
    let backend = FileBackend::new(file)?;
    let locked = backend.try_lock_range(Bound::Unbounded, Bound::Unbounded);
    let locked = locked.map_err(|error| DatabaseError::Storage(StorageError::Io(io::Error::other(error))))?;
    Ok(locked.then_some(backend))
}

/// Makes a new name in a folder durable.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
