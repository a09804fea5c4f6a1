//! Reads a file to its end through SHA-256, and stops when nobody waits for the answer any more.
//!
//! Called on blocking threads only. It knows nothing about roots, names or what the hash is for.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::hex;

const CHUNK_BYTES: usize = 1024 * 1024;

/// Set when the caller's half is dropped; looked at between chunks.
#[derive(Default)]
pub(super) struct Canceled {
    flag: Arc<AtomicBool>,
    watches: bool,
}

impl Canceled {
    /// The half that goes along with the work.
    pub(super) fn watched(&self) -> Self {
        Self { flag: Arc::clone(&self.flag), watches: true }
    }
}

impl Drop for Canceled {
    fn drop(&mut self) {
        if !self.watches {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}

/// The hash in lower-case hex, and the number of bytes read.
pub(super) fn hash_file(mut file: &File, canceled: &Canceled) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        if canceled.flag.load(Ordering::Relaxed) {
            return Err(io::Error::other("the request went away"));
        }
        match file.read(&mut chunk) {
            Ok(0) => return Ok((hex(&hasher.finalize()), bytes)),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                bytes += u64::try_from(read).expect("a chunk's length fits");
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Canceled, hash_file};

    #[test]
    fn nobody_waits_nobody_reads() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        let caller = Canceled::default();
        let work = caller.watched();
        drop(caller);
        assert!(hash_file(&file, &work).is_err());
    }
}
