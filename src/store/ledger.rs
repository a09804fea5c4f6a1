//! The publish ledger: a small append-only file beside the state file that survives a restore
//! (fence.md rules 1, 7, 11 and 17).
//!
//! One line a fact: `<crc32 of the rest, 8 hex digits> <JSON>\n`. The JSON is a [`Line`]; unknown kinds are
//! damage, since a ledger is never read by an older cove. The last line may be torn by a crash: at open
//! the file is cut back to its last whole line, so that the next is not glued to a torn one. A bad line
//! in the middle is damage that a human has to look at. A failed write or fsync is final.
//!
//! Written by the writer thread alone. It knows nothing about redb.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::model::{Fence, ItemId, Resolution, Timestamp};

/// Longest line read; a URL is bounded far below.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// One fact. Hashes are SHA-256 in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line {
    /// Ids are made in this epoch from here on.
    Epoch { epoch: u64, at: Timestamp },
    /// The click may have happened.
    Armed { item: ItemId, fence: Fence, key: Option<String>, idempotency: Option<String>, at: Timestamp },
    /// The confirmation was seen.
    Published {
        item: ItemId,
        fence: Fence,
        url: Option<String>,
        key: Option<String>,
        idempotency: Option<String>,
        at: Timestamp,
    },
    /// A verify or a human said what became of an unknown outcome.
    Resolved {
        item: ItemId,
        /// Of the arming that is settled.
        fence: Fence,
        resolution: Resolution,
        url: Option<String>,
        key: Option<String>,
        idempotency: Option<String>,
        at: Timestamp,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("{} line {line}: {what}", path.display())]
pub struct LedgerDamage {
    pub path: PathBuf,
    /// From 1.
    pub line: u64,
    pub what: &'static str,
}

/// What was read at open.
pub(super) struct Opened {
    pub ledger: Ledger,
    /// False: the file was not there and has been made.
    pub existed: bool,
    pub lines: Vec<Line>,
    /// Bytes of a torn last line that were cut off.
    pub cut_bytes: u64,
    pub damage: Option<LedgerDamage>,
}

pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    /// Set by the first failure: nothing may be acknowledged after it.
    failed: bool,
}

impl Ledger {
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed(format!("{}: {error}", path.display()));
        let existed = path.try_exists().map_err(failed)?;
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        if !existed {
            sync_folder_of(path).map_err(failed)?;
        }
        let (lines, whole_bytes, damage) = read(&file, path).map_err(failed)?;
        let cut_bytes = file.metadata().map_err(failed)?.len().saturating_sub(whole_bytes);
        if cut_bytes > 0 && damage.is_none() {
            file.set_len(whole_bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        let ledger = Self { file, path: path.to_owned(), failed: false };
        Ok(Opened { ledger, existed, lines, cut_bytes, damage })
    }

    /// Appends all lines with one write and one fdatasync; returns when they are durable.
    pub fn append(&mut self, lines: &[Line]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let failure = |what: &str| StoreError::Failed(format!("{}: {what}", self.path.display()));
        if self.failed {
            return Err(failure("an earlier write failed"));
        }
        let text: String = lines.iter().map(line_text).collect();
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            let error = failure(&error.to_string());
            self.failed = true;
            return Err(error);
        }
        Ok(())
    }
}

fn line_text(line: &Line) -> String {
    let json = serde_json::to_string(line).expect("a line has no map with keys that are not text");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

/// Every whole line, the bytes they take, and the first damage that is not a torn tail.
fn read(file: &File, path: &Path) -> std::io::Result<(Vec<Line>, u64, Option<LedgerDamage>)> {
    let mut reader = BufReader::new(file);
    let (mut lines, mut whole_bytes, mut number) = (Vec::new(), 0, 0);
    loop {
        let mut bytes = Vec::new();
        let read = std::io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok((lines, whole_bytes, None));
        }
        number += 1;
        match parse(&bytes) {
            Ok(line) => {
                lines.push(line);
                whole_bytes += read;
            }
            // A torn write is the last thing in the file: with or without its newline, nothing follows.
            Err(_) if reader.fill_buf()?.is_empty() => return Ok((lines, whole_bytes, None)),
            Err(what) => {
                let damage = LedgerDamage { path: path.to_owned(), line: number, what };
                return Ok((lines, whole_bytes, Some(damage)));
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Line, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
    let (sum, json) = text.strip_suffix('\n').ok_or("no end of line")?.split_once(' ').ok_or("no checksum")?;
    let sum = u32::from_str_radix(sum, 16).map_err(|_| "no checksum")?;
    if crc32fast::hash(json.as_bytes()) != sum {
        return Err("the checksum does not match");
    }
    serde_json::from_str(json).map_err(|_| "an unknown kind of line")
}

/// Makes a new name in a folder durable.
pub(super) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{Ledger, Line, line_text};
    use crate::model::{Fence, ItemId, Timestamp};

    fn armed(number: u64) -> Line {
        Line::Armed {
            item: ItemId::new(number),
            fence: Fence::new(number + 1),
            key: Some("ab".repeat(32)),
            idempotency: None,
            at: Timestamp::from_millis(number),
        }
    }

    #[test]
    fn rule_11_a_torn_tail_is_cut_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let last = line_text(&armed(3));
        for cut in 0..last.len() {
            let mut text = line_text(&armed(1)) + &line_text(&armed(2));
            text.push_str(&last[..cut]);
            std::fs::write(&path, text).unwrap();
            let mut opened = Ledger::open(&path).unwrap();
            assert!(opened.damage.is_none(), "cut at {cut}");
            assert_eq!((opened.lines.len(), opened.cut_bytes), (2, cut as u64));
            opened.ledger.append(&[armed(4)]).unwrap();
            let again = Ledger::open(&path).unwrap();
            assert_eq!(again.lines, [armed(1), armed(2), armed(4)]);
        }
    }

    #[test]
    fn rule_11_a_bad_line_in_the_middle_is_damage_and_nothing_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let good = line_text(&armed(1)) + &line_text(&armed(2)) + &line_text(&armed(3));
        for flip in line_text(&armed(1)).len()..line_text(&armed(1)).len() + line_text(&armed(2)).len() - 1 {
            let mut bytes = good.clone().into_bytes();
            bytes[flip] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let opened = Ledger::open(&path).unwrap();
            assert_eq!(opened.damage.map(|damage| damage.line), Some(2), "flipped at {flip}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_failed_write_is_final() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        std::fs::File::create(&path).unwrap().write_all(line_text(&armed(1)).as_bytes()).unwrap();
        let mut ledger = Ledger::open(&path).unwrap().ledger;
        ledger.file = std::fs::File::open(&path).unwrap();
        assert!(ledger.append(&[armed(2)]).is_err());
        ledger.file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert!(ledger.append(&[armed(3)]).is_err());
        assert_eq!(Ledger::open(&path).unwrap().lines, [armed(1)]);
    }
}
