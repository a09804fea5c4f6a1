//! Streams one body into the media folder: hashed on the way, bounded, deduplicated, durable.
//!
//! The API calls [`MediaStore::put`]. Invariant: a file under its hash is complete and on the disk
//! before its hash is told to anyone, and an upload that ends in any other way (an error, a dropped
//! connection, a full disk) leaves nothing: the temporary file belongs to the future and dies with it.
//! Deadlines on the body are the caller's: they belong to its stream.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{MediaStore, Shared, UPLOAD_PREFIX, hex, kind, make_folder};

/// Bytes collected before one trip to a blocking thread.
const GATHER_BYTES: usize = 1024 * 1024;

/// An upload that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Lower-case hex.
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PutError<E> {
    #[error("the body is empty")]
    Empty,
    #[error("the body has more than {max} bytes")]
    TooLarge { max: u64 },
    /// The body itself failed.
    #[error("{0}")]
    Body(E),
    #[error("no space is left for the media folder")]
    NoDisk,
    #[error("the media folder failed: {0}")]
    Io(#[source] io::Error),
}

/// One upload under way. Dropping it removes the file.
struct Upload {
    file: NamedTempFile,
    keep_free_bytes: u64,
    hasher: Sha256,
    bytes: u64,
    /// The first bytes, which say what it is.
    head: Vec<u8>,
}

impl MediaStore {
    /// Keeps a body under its hash.
    ///
    /// # Errors
    /// Why nothing was kept; then nothing is left on the disk either.
    pub async fn put<S, E>(&self, body: S) -> Result<Stored, PutError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let mut body = pin!(body);
        let (folder, keep_free_bytes) = (self.shared.folder.clone(), self.keep_free_bytes);
        let mut upload = blocking(move || Upload::begin(&folder, keep_free_bytes)).await?;
        let mut gathered: Vec<Bytes> = Vec::new();
        let (mut waiting, mut total) = (0_usize, 0_u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(PutError::Body)?;
            waiting += chunk.len();
            total += u64::try_from(chunk.len()).expect("a chunk's length fits");
            if total > self.max_bytes() {
                return Err(PutError::TooLarge { max: self.max_bytes() });
            }
            gathered.push(chunk);
            if waiting >= GATHER_BYTES {
                let chunks = std::mem::take(&mut gathered);
                waiting = 0;
                upload = blocking(move || upload.append(&chunks)).await?;
            }
        }
        if total == 0 {
            return Err(PutError::Empty);
        }
        let store = self.clone();
        blocking(move || upload.append(&gathered)?.finish(&store)).await
    }
}

impl MediaStore {
    /// Whether a body of this size leaves enough free. Blocking, and quick on a local disk.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn has_room_for(&self, bytes: u64) -> io::Result<bool> {
        let disk = rustix::fs::statvfs(&self.shared.folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free >= self.keep_free_bytes.saturating_add(bytes))
    }
}

impl Upload {
    fn begin(folder: &Path, keep_free_bytes: u64) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix(UPLOAD_PREFIX).tempfile_in(folder)?;
        Ok(Self { file, keep_free_bytes, hasher: Sha256::new(), bytes: 0, head: Vec::new() })
    }

    fn append(mut self, chunks: &[Bytes]) -> io::Result<Self> {
        let more: usize = chunks.iter().map(Bytes::len).sum();
        let disk = rustix::fs::fstatvfs(self.file.as_file())?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.keep_free_bytes.saturating_add(more as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for chunk in chunks {
            let missing = kind::HEAD_BYTES.saturating_sub(self.head.len()).min(chunk.len());
            self.head.extend_from_slice(&chunk[..missing]);
            self.hasher.update(chunk);
            self.file.write_all(chunk)?;
            self.bytes += u64::try_from(chunk.len()).expect("a chunk's length fits");
        }
        Ok(self)
    }

    fn finish(self, store: &MediaStore) -> io::Result<Stored> {
        let Self { file, hasher, bytes, head, .. } = self;
        let sha256 = hex(&hasher.finalize());
        let path = store.path_for(&sha256, kind::of(&head));
        let folder = path.parent().expect("the path of a hash has a folder");
        file.as_file().set_permissions(Permissions::from_mode(0o640))?;
        file.as_file().sync_all()?;
        make_folder(folder)?;
        let kept = store.shared.keep_all();
        // An older copy is kept as it is: waiting items know it by its inode and times.
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
                let older = std::fs::symlink_metadata(&path)?;
                if !older.is_file() || older.len() != bytes {
                    failed.file.persist(&path).map_err(|failed| failed.error)?;
                }
                Shared::sent_again(&path)?;
            }
            Err(failed) => return Err(failed.error),
        }
        drop(kept);
        File::open(folder)?.sync_all()?;
        Ok(Stored { sha256, bytes })
    }
}

async fn blocking<T: Send + 'static, E>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PutError<E>> {
    tokio::task::spawn_blocking(work).await.map_err(|join| PutError::Io(io::Error::other(join)))?.map_err(|error| {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PutError::NoDisk,
            _ => PutError::Io(error),
        }
    })
}
