//! A state file opened for a trial: what is written goes into memory and is forgotten.
//!
//! redb writes into a file while it opens it, also into one that it refuses in the end. The boot
//! ([`super::boot`]) therefore opens every file over this first, so that a refusal leaves the file exactly
//! as it was found. Locks go through: a file that another process holds is not even tried.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use super::files::forward_locks;

const BLOCK_BYTES: u64 = 4_096;

/// Reads go to `file`, but for what was written since.
#[derive(Debug)]
pub(super) struct Trial<B> {
    file: B,
    written: Mutex<Written>,
}

/// Blocks by their number, and the length that the file would have.
#[derive(Debug, Default)]
struct Written {
    blocks: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
}

impl<B: StorageBackend> Trial<B> {
    pub fn over(file: B) -> io::Result<Self> {
        let bytes = file.len()?;
        Ok(Self { file, written: Mutex::new(Written { blocks: BTreeMap::new(), bytes }) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as it would be read; beyond the end of the file it is zeros.
    fn block(&self, written: &Written, number: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = written.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; usize_of(BLOCK_BYTES)];
        let from = number * BLOCK_BYTES;
        let there = self.file.len()?.min(written.bytes).saturating_sub(from).min(BLOCK_BYTES);
        if there > 0 {
            self.file.read(from, &mut block[..usize_of(there)])?;
        }
        Ok(block)
    }
}

/// Part `from..to` of block `number`, and where it lies in a buffer that begins at `offset`.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let end = offset + bytes as u64;
    (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).map(move |number| {
        let (first, last) = (number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES);
        let (from, to) = (offset.max(first), end.min(last));
        (number, usize_of(from - first)..usize_of(to - first), usize_of(from - offset)..usize_of(to - offset))
    })
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a part of a buffer fits the address space")
}

impl<B: StorageBackend> StorageBackend for Trial<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset + out.len() as u64 > written.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written
            .blocks
            .range(offset / BLOCK_BYTES..(offset + out.len() as u64).div_ceil(BLOCK_BYTES))
            .next()
            .is_none()
            && offset + out.len() as u64 <= self.file.len()?
        {
            return self.file.read(offset, out);
        }
        for (number, of_block, of_buffer) in pieces(offset, out.len()) {
            out[of_buffer].copy_from_slice(&self.block(&written, number)?[of_block]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.bytes {
            // What is cut off and grown again is zeros, whatever the file has there.
            for number in len / BLOCK_BYTES..written.bytes.div_ceil(BLOCK_BYTES) {
                let mut block = self.block(&written, number)?;
                block[usize_of(len.saturating_sub(number * BLOCK_BYTES).min(BLOCK_BYTES))..].fill(0);
                written.blocks.insert(number, block);
            }
        }
        written.bytes = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        for (number, of_block, of_buffer) in pieces(offset, data.len()) {
            let mut block = self.block(&written, number)?;
            block[of_block].copy_from_slice(&data[of_buffer]);
            written.blocks.insert(number, block);
        }
        written.bytes = written.bytes.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    forward_locks!(file);
}

#[cfg(test)]
mod tests {
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::Trial;

    #[test]
    fn what_is_written_can_be_read_and_the_file_does_not_know() {
        let file = InMemoryBackend::new();
        file.set_len(10_000).unwrap();
        file.write(0, &[1; 10_000]).unwrap();
        let trial = Trial::over(file).unwrap();
        // Over a block's edge, over the end, cut off and grown again.
        trial.write(4_090, &[2; 12]).unwrap();
        trial.set_len(20_000).unwrap();
        trial.write(19_999, &[3]).unwrap();
        trial.set_len(9_000).unwrap();
        trial.set_len(9_500).unwrap();
        let mut expected = vec![1; 9_500];
        expected[4_090..4_102].fill(2);
        expected[9_000..].fill(0);
        let mut all = vec![9; 9_500];
        trial.read(0, &mut all).unwrap();
        assert_eq!(all, expected);
        let mut part = [0; 3];
        trial.read(4_100, &mut part).unwrap();
        assert_eq!(part, [2, 2, 1]);
        assert!(trial.read(9_499, &mut part).is_err());
        assert_eq!(trial.len().unwrap(), 9_500);
        let mut untouched = vec![0; 10_000];
        trial.file.read(0, &mut untouched).unwrap();
        assert_eq!(untouched, [1; 10_000]);
    }
}
