//! The media folder, `<state dir>/media/<first two hex digits>/<sha256>[.<kind>]`, and the files that items name.
//!
//! The API resolves the file inputs of a request here and streams uploads into it ([`upload`]); the
//! engine looks at a file again before a start and when arming ([`unchanged`], fence.md rule 3).
//!
//! Invariant: what [`MediaStore::resolve`] returns is a regular, non-empty file that lay under a media
//! root, symlinks resolved, at the moment its bytes were hashed. For a path elsewhere the answer does
//! not say whether anything is there. Nothing is deleted here but unfinished uploads, and those that nobody
//! needs ([`keeping`]).
//!
//! Deliberately not here: which uploads are needed, and whether the browser's user can read a file (the provider knows).

mod hashing;
pub mod keeping;
mod kind;
pub mod upload;

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::model::FileInput;
use hashing::{Canceled, hash_file};
pub use upload::{PutError, Stored};

/// Names of unfinished uploads begin with this.
const UPLOAD_PREFIX: &str = ".upload-";
/// Files hashed at a time: more would only move the disk's head.
const HASHING_AT_A_TIME: usize = 4;
/// Hashes remembered by (device, inode, size, times).
const REMEMBERED_HASHES: usize = 4_096;
/// An input that names an uploaded file.
pub const SHA256_PREFIX: &str = "sha256:";

#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("a file input is an absolute path, or `sha256:` and 64 lower-case hex digits")]
    BadName,
    #[error("no media with this hash was uploaded; send it to POST /api/v1/media first")]
    NotUploaded,
    #[error("the path is not under a media root; add its folder to `[media] roots` or upload the file")]
    Outside,
    #[error("there is no such file under the media root")]
    Missing,
    #[error("not a regular file")]
    NotRegular,
    #[error("the file is empty")]
    Empty,
    #[error("the file has {bytes} bytes; at most {max} are allowed")]
    TooLarge { bytes: u64, max: u64 },
    #[error("the file changed while it was read; submit it when it is complete")]
    Changing,
    #[error("the daemon may not read the file: give its user read permission")]
    Unreadable,
    #[error("the file could not be read: {0}")]
    Io(#[source] io::Error),
}

/// What says that a file is still the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    pub mtime_ns: i128,
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Looks at a file without reading it. Blocking, and quick on a local disk.
///
/// # Errors
/// When it is gone or may not be looked at.
pub fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    std::fs::symlink_metadata(path).map(|metadata| Fingerprint::of(&metadata))
}

/// Whether the file is still the one that was hashed. Off the runtime; a file that is gone is an error.
///
/// # Errors
/// When it is gone or may not be looked at.
pub async fn unchanged(file: &FileInput) -> io::Result<bool> {
    let path = file.path.clone();
    let now = tokio::task::spawn_blocking(move || fingerprint(&path)).await.map_err(io::Error::other)??;
    Ok(now == Fingerprint { device: file.device, inode: file.inode, bytes: file.bytes, mtime_ns: file.mtime_ns })
}

/// A hash holds for this very version of a file: the change time also moves when the others are set back.
type Version = (Fingerprint, i128);

/// The last hashes, oldest forgotten first.
#[derive(Default)]
struct Remembered {
    by_version: HashMap<Version, String>,
    order: VecDeque<Version>,
}

impl Remembered {
    fn insert(&mut self, version: Version, sha256: String) {
        if self.by_version.insert(version, sha256).is_none() {
            self.order.push_back(version);
        }
        while self.order.len() > REMEMBERED_HASHES {
            if let Some(oldest) = self.order.pop_front() {
                self.by_version.remove(&oldest);
            }
        }
    }
}

struct Shared {
    folder: PathBuf,
    roots: Vec<PathBuf>,
    max_bytes: u64,
    hashing: Semaphore,
    remembered: Mutex<Remembered>,
    /// Held while a file is named, or looked at a last time and removed.
    removing: Mutex<()>,
}

/// A handle; clones share the folder, the bound on hashing and the remembered hashes.
#[derive(Clone)]
pub struct MediaStore {
    shared: Arc<Shared>,
    /// What an upload leaves free on the disk.
    keep_free_bytes: u64,
}

impl MediaStore {
    /// Makes the media folder and removes what unfinished uploads left. Blocking: for the start.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn new(state_dir: &Path, roots: Vec<PathBuf>, max_bytes: u64) -> io::Result<Self> {
        let folder = state_dir.join("media");
        make_folder(&folder)?;
        let folder = folder.canonicalize()?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UPLOAD_PREFIX) {
                std::fs::remove_file(entry.path())?;
            }
        }
        let hashing = Semaphore::new(HASHING_AT_A_TIME);
        let remembered = Mutex::default();
        let shared = Arc::new(Shared { folder, roots, max_bytes, hashing, remembered, removing: Mutex::default() });
        Ok(Self { shared, keep_free_bytes: 0 })
    }

    /// The same, but an upload ends with [`PutError::NoDisk`] before it takes the last `bytes` of the disk.
    #[must_use]
    pub fn keeping_free(self, bytes: u64) -> Self {
        Self { keep_free_bytes: bytes, ..self }
    }

    /// Largest file, in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.shared.max_bytes
    }

    /// Finds, checks and hashes the file that an input names. Bounded in parallel; a caller that goes
    /// away stops the hashing.
    ///
    /// # Errors
    /// Why the name cannot be an input.
    pub async fn resolve(&self, name: &str) -> Result<FileInput, MediaError> {
        let permit = self.shared.hashing.acquire().await.map_err(|closed| MediaError::Io(io::Error::other(closed)))?;
        let (shared, name, canceled) = (Arc::clone(&self.shared), name.to_owned(), Canceled::default());
        let watched = canceled.watched();
        let found = tokio::task::spawn_blocking(move || shared.resolve(&name, &watched)).await;
        drop(permit);
        found.map_err(|join| MediaError::Io(io::Error::other(join)))?
    }

    fn path_for(&self, sha256: &str, ending: Option<&str>) -> PathBuf {
        self.shared.path_for(sha256, ending)
    }
}

impl Shared {
    /// The hash, with the ending of its kind where that is known: sites look at names.
    fn path_for(&self, sha256: &str, ending: Option<&str>) -> PathBuf {
        let name = ending.map_or_else(|| sha256.to_owned(), |ending| format!("{sha256}.{ending}"));
        self.folder.join(&sha256[..2]).join(name)
    }

    /// Where an upload lies, whatever its kind.
    fn path_of(&self, sha256: &str) -> PathBuf {
        let mut named = kind::ENDINGS.iter().map(|ending| self.path_for(sha256, Some(ending)));
        named.find(|path| path.exists()).unwrap_or_else(|| self.path_for(sha256, None))
    }

    fn resolve(&self, name: &str, canceled: &Canceled) -> Result<FileInput, MediaError> {
        if let Some(sha256) = name.strip_prefix(SHA256_PREFIX) {
            if !is_sha256(sha256) {
                return Err(MediaError::BadName);
            }
            return self.read(&self.path_of(sha256), canceled).map_err(|error| match error {
                MediaError::Missing => MediaError::NotUploaded,
                other => other,
            });
        }
        let path = Path::new(name);
        if !path.is_absolute() || name.contains('\0') {
            return Err(MediaError::BadName);
        }
        let path = self.under_a_root(path)?;
        self.read(&path, canceled)
    }

    /// The path without symlinks and `..`, if it lies under a root.
    fn under_a_root(&self, path: &Path) -> Result<PathBuf, MediaError> {
        let roots: Vec<PathBuf> = self
            .roots
            .iter()
            .filter_map(|root| root.canonicalize().ok())
            .chain(std::iter::once(self.folder.clone()))
            .collect();
        let inside = |path: &Path| roots.iter().any(|root| path != root && path.starts_with(root));
        match path.canonicalize() {
            Ok(path) => {
                let unfinished = path.parent() == Some(&self.folder)
                    && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UPLOAD_PREFIX));
                if inside(&path) && !unfinished { Ok(path) } else { Err(MediaError::Outside) }
            }
            // What can be resolved decides, so that nothing is said about folders outside the roots.
            Err(error) => {
                let known = path.ancestors().skip(1).find_map(|ancestor| ancestor.canonicalize().ok());
                let here = known.is_some_and(|known| inside(&known) || roots.contains(&known));
                Err(if here { from_io(error) } else { MediaError::Outside })
            }
        }
    }

    fn read(&self, path: &Path, canceled: &Canceled) -> Result<FileInput, MediaError> {
        self.name(path).map_err(from_io)?;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).expect("open flags fit an int");
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(from_io)?;
        still_there(&file, path)?;
        let before = file.metadata().map_err(from_io)?;
        if !before.is_file() {
            return Err(MediaError::NotRegular);
        }
        if before.len() == 0 {
            return Err(MediaError::Empty);
        }
        if before.len() > self.max_bytes {
            return Err(MediaError::TooLarge { bytes: before.len(), max: self.max_bytes });
        }
        let sha256 = self.hash(&file, &before, canceled)?;
        let print = Fingerprint::of(&before);
        Ok(FileInput {
            path: path.to_owned(),
            sha256,
            bytes: print.bytes,
            device: print.device,
            inode: print.inode,
            mtime_ns: print.mtime_ns,
        })
    }

    fn hash(&self, file: &File, before: &Metadata, canceled: &Canceled) -> Result<String, MediaError> {
        let version = |data: &Metadata| (Fingerprint::of(data), nanoseconds(data.ctime(), data.ctime_nsec()));
        let key = version(before);
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).by_version.get(&key).cloned();
        if let Some(sha256) = known {
            return Ok(sha256);
        }
        let (sha256, bytes) = hash_file(file, canceled).map_err(from_io)?;
        let after = file.metadata().map_err(from_io)?;
        if version(&after) != key || bytes != before.len() {
            return Err(MediaError::Changing);
        }
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sha256.clone());
        Ok(sha256)
    }
}

/// A folder that was swapped between the look and the open is found here: the open file says where it lies.
fn still_there(file: &File, path: &Path) -> Result<(), MediaError> {
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(from_io)?;
    if real == path { Ok(()) } else { Err(MediaError::Changing) }
}

fn from_io(error: io::Error) -> MediaError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MediaError::Missing,
        io::ErrorKind::PermissionDenied => MediaError::Unreadable,
        _ => MediaError::Io(error),
    }
}

/// Whether `text` is a SHA-256 as cove writes it.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// The browser's group may read the folder; nobody else may.
fn make_folder(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            std::fs::set_permissions(path, Permissions::from_mode(0o750))?;
            path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
