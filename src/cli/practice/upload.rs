//! Takes a body to disk: streamed, hashed on the way, bounded in size, in time and in silence.
//!
//! A body that ends early, is too large or falls silent leaves no file behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWriteExt as _, BufWriter};

/// A sender that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// A body takes no longer than this.
const WHOLE_BODY: Duration = Duration::from_mins(10);

/// Where files lie: the unfinished ones apart from the posts.
#[derive(Clone, Debug)]
pub struct Folders {
    incoming: PathBuf,
    posts: PathBuf,
}

impl Folders {
    pub async fn create(dir: &Path) -> anyhow::Result<Self> {
        let folders = Self { incoming: dir.join("incoming"), posts: dir.join("posts") };
        for folder in [&folders.incoming, &folders.posts] {
            tokio::fs::create_dir_all(folder).await.with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(folders)
    }

    pub fn post(&self, id: &str) -> PathBuf {
        self.posts.join(id)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the file is empty")]
    Empty,
    #[error("the body came too slowly")]
    Slow,
    #[error("the body ended early: {0}")]
    Cut(hyper::Error),
    #[error("cannot keep the file: {0}")]
    Disk(#[from] std::io::Error),
}

/// A whole body on disk. Removed when dropped, unless it became a post.
pub struct Kept {
    file: tempfile::TempPath,
    pub sha256: String,
    pub bytes: u64,
}

impl Kept {
    pub fn keep_as(self, path: &Path) -> Result<(), UploadError> {
        self.file.persist(path).map_err(|error| UploadError::Disk(error.error))
    }
}

pub async fn receive(body: Incoming, folders: &Folders, max_bytes: u64) -> Result<Kept, UploadError> {
    if body.size_hint().lower() > max_bytes {
        return Err(UploadError::TooLarge(max_bytes));
    }
    let file = tempfile::NamedTempFile::new_in(&folders.incoming)?.into_temp_path();
    tokio::time::timeout(WHOLE_BODY, write(body, file, max_bytes)).await.map_err(|_| UploadError::Slow)?
}

async fn write(mut body: Incoming, file: tempfile::TempPath, max_bytes: u64) -> Result<Kept, UploadError> {
    let mut out = BufWriter::new(tokio::fs::File::create(&file).await?);
    let mut hash = Sha256::new();
    let mut bytes = 0;
    while let Some(frame) = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| UploadError::Slow)? {
        let Ok(data) = frame.map_err(UploadError::Cut)?.into_data() else { continue };
        bytes += data.len() as u64;
        if bytes > max_bytes {
            return Err(UploadError::TooLarge(max_bytes));
        }
        hash.update(&data);
        out.write_all(&data).await?;
    }
    out.flush().await?;
    if bytes == 0 {
        return Err(UploadError::Empty);
    }
    Ok(Kept { file, sha256: base16(&hash.finalize()), bytes })
}

/// Lower-case hex, as hashes are written.
pub fn base16(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
