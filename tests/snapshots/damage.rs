//! Whatever is done to the bytes of a snapshot is found before anything is believed of it.

use std::path::{Path, PathBuf};

use cove::model::{Clock, SystemClock};
use cove::store::STATE_FILE;
use cove::store::snapshot::{Manifest, RestoreError, SnapshotError, restore, verify};
use sha2::{Digest, Sha256};

use super::work::small;
use super::{number, seed};

/// A snapshot as bytes, and the state that it must not get into.
struct Sample {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Sample {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (opened, made) = small(folder.path()).await;
        opened.close().await;
        let bytes = std::fs::read(folder.path().join("snapshots").join(&made.name)).unwrap();
        Self { folder, bytes }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("tried.snapshot");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn verify(&self, bytes: &[u8]) -> Result<Manifest, SnapshotError> {
        let path = self.write(bytes);
        let scratch = tempfile::tempdir().unwrap();
        verify(&path, scratch.path()).map(|(manifest, _)| manifest)
    }

    /// Refused, and the state directory is as it was.
    fn restore(&self, bytes: &[u8]) -> RestoreError {
        let path = self.write(bytes);
        let before = listing(self.folder.path());
        let state = std::fs::read(self.folder.path().join(STATE_FILE)).unwrap();
        let refused = restore(&path, self.folder.path(), SystemClock.now()).unwrap_err();
        assert_eq!(listing(self.folder.path()), before);
        assert!(std::fs::read(self.folder.path().join(STATE_FILE)).unwrap() == state, "the state was changed");
        refused
    }
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The same content with a hash that fits.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len() - 32;
    let sum = Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum);
    bytes
}

#[tokio::test]
async fn a_bit_flipped_anywhere_is_found() {
    let sample = Sample::new().await;
    let mut dice = fastrand::Rng::with_seed(seed());
    sample.verify(&sample.bytes).unwrap();
    let flips = number("FLIPS", 200);
    let edges = (0..64).chain(sample.bytes.len() - 64..sample.bytes.len());
    let offsets: Vec<usize> = edges.chain((0..flips).map(|_| dice.usize(..sample.bytes.len()))).collect();
    for at in &offsets {
        let mut bytes = sample.bytes.clone();
        bytes[*at] ^= 1 << dice.u8(..8);
        match sample.verify(&bytes) {
            Err(SnapshotError::Damaged(_) | SnapshotError::NewerSchema { .. }) => {}
            other => panic!("byte {at} of {} was altered: {other:?}", bytes.len()),
        }
    }
    let mut bytes = sample.bytes.clone();
    bytes[dice.usize(..sample.bytes.len())] ^= 4;
    assert!(matches!(sample.restore(&bytes), RestoreError::Snapshot { .. }));
    println!("{} flips in {} bytes, all found", offsets.len(), sample.bytes.len());
}

#[tokio::test]
async fn one_that_was_cut_or_has_more_behind_it_is_found() {
    let sample = Sample::new().await;
    let mut dice = fastrand::Rng::with_seed(seed());
    let cuts = number("CUTS", 50);
    let places = (0..50).chain((0..cuts).map(|_| dice.usize(..sample.bytes.len()))).collect::<Vec<_>>();
    for at in &places {
        assert!(matches!(sample.verify(&sample.bytes[..*at]), Err(SnapshotError::Damaged(_))), "cut at {at}");
    }
    let longer = [sample.bytes.clone(), vec![0]].concat();
    assert!(matches!(sample.verify(&longer), Err(SnapshotError::Damaged(_))));
    assert!(sample.restore(&sample.bytes[..sample.bytes.len() / 2]).to_string().contains("its hash is not"));
    println!("{} cuts, all found", places.len());
}

#[tokio::test]
async fn foreign_files_are_named_as_such() {
    let sample = Sample::new().await;
    let state = std::fs::read(sample.folder.path().join(STATE_FILE)).unwrap();
    for foreign in [Vec::new(), b"hello".repeat(100), state] {
        let why = sample.verify(&foreign).unwrap_err().to_string();
        assert!(
            why.contains("not a snapshot of cove") || why.contains("too short") || why.contains("in its head"),
            "{why}"
        );
        assert!(sample.restore(&foreign).to_string().ends_with("Nothing was changed"));
    }
}

/// What a hash cannot find: one who can write a snapshot can write its hash.
#[tokio::test]
async fn a_snapshot_that_was_sealed_anew_is_still_looked_at() {
    let sample = Sample::new().await;
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = sample.bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = sample.bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        resealed(bytes)
    };
    sample.verify(&resealed(sample.bytes.clone())).unwrap();
    let newer = sample.verify(&replaced("\"schema\":2", "\"schema\":9")).unwrap_err();
    assert!(matches!(newer, SnapshotError::NewerSchema { found: 9 }), "{newer}");
    assert!(sample.restore(&replaced("\"schema\":2", "\"schema\":9")).to_string().contains("newer"));
    let older = sample.verify(&replaced("\"schema\":2", "\"schema\":1")).unwrap_err().to_string();
    assert!(older.contains("its state has schema 2, and should have 1"), "{older}");
    let miscounted = replaced("\"name\":\"items\",\"rows\":8", "\"name\":\"items\",\"rows\":9");
    let miscounted = sample.verify(&miscounted).unwrap_err().to_string();
    assert_eq!(miscounted, "the snapshot is not good: its table items has 8 rows, and the manifest counts 9");
    let format = {
        let mut bytes = sample.bytes.clone();
        bytes[16] = 2;
        resealed(bytes)
    };
    assert!(sample.verify(&format).unwrap_err().to_string().contains("its format is 2"));
}
