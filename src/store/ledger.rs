//! The publish ledger: a small append-only file beside the state file that survives a restore
//! (fence.md rules 1, 7, 11 and 17).
//!
//! One line an append: `<crc32 of the rest, 8 hex digits> <JSON>\n`. The JSON is a fact ([`Line`]), or a list of
//! them where several became durable together; unknown kinds are damage, since a ledger is never read by
//! an older cove. The last line may be torn by a crash, in any of its sectors: at open the file is cut back
//! to its last whole line, so that the next is not glued to a torn one. A bad line in the middle was
//! durable once: it is damage that a human has to look at. A failed write or fsync is final; the line that
//! it was about may be read by the next process and yet never reach the disk, so the last one is written
//! again at open, before anything is concluded from it.
//!
//! Written by the writer thread alone. It knows nothing about redb.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::files::LedgerFile;
use crate::model::{Fence, ItemId, Resolution, Timestamp};

/// Longest line read. A line that is written is ended when it holds half of this: one more fact fits, the
/// longest address included.
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
    pub lines: Vec<Line>,
    /// Bytes of a torn last line that were cut off.
    pub cut_bytes: u64,
    pub damage: Option<LedgerDamage>,
}

pub(super) struct Ledger {
    file: Box<dyn LedgerFile>,
    /// Where the next line begins.
    end: u64,
    /// For messages.
    path: PathBuf,
    /// Set by the first failure: nothing may be acknowledged after it.
    failed: bool,
}

impl Ledger {
    pub fn open(mut file: Box<dyn LedgerFile>, path: &Path) -> Result<Opened, StoreError> {
        let failed = |error: std::io::Error| StoreError::from_io(path, &error);
        let found = file.read().and_then(|mut reader| read(&mut reader)).map_err(failed)?;
        let Found { lines, whole_bytes, last_line, torn_bytes, unread_bytes, damage } = found;
        let damage = damage.map(|(line, what)| LedgerDamage { path: path.to_owned(), line, what });
        if torn_bytes > 0 {
            file.set_len(whole_bytes).map_err(failed)?;
        }
        if damage.is_none() && whole_bytes > 0 {
            let at = whole_bytes - last_line.len() as u64;
            file.write(at, &last_line).and_then(|()| file.sync()).map_err(failed)?;
        }
        let ledger = Self { file, end: whole_bytes + unread_bytes, path: path.to_owned(), failed: false };
        Ok(Opened { ledger, lines, cut_bytes: torn_bytes, damage })
    }

    /// Appends all facts and returns when they are durable: one line, one write and one fdatasync, as long
    /// as they fit a line.
    pub fn append(&mut self, lines: &[Line]) -> Result<(), StoreError> {
        let mut left = lines.iter().peekable();
        let mut together: Vec<String> = Vec::new();
        while let Some(line) = left.next() {
            together.push(serde_json::to_string(line).expect("a line has no map with keys that are not text"));
            let bytes: usize = together.iter().map(String::len).sum();
            if left.peek().is_none() || bytes as u64 > MAX_LINE_BYTES / 2 {
                self.append_line(&line_text(&together))?;
                together.clear();
            }
        }
        Ok(())
    }

    fn append_line(&mut self, text: &str) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed(format!("{}: an earlier write failed", self.path.display())));
        }
        let written = self.file.write(self.end, text.as_bytes()).and_then(|()| self.file.sync());
        self.failed = written.is_err();
        self.end += text.len() as u64;
        written.map_err(|error| StoreError::from_io(&self.path, &error))
    }
}

/// Of one fact the line is the fact itself.
fn line_text(facts: &[String]) -> String {
    let json = match facts {
        [fact] => fact.clone(),
        facts => format!("[{}]", facts.join(",")),
    };
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

#[derive(Default)]
struct Found {
    lines: Vec<Line>,
    /// What the whole lines take.
    whole_bytes: u64,
    /// The last whole one.
    last_line: Vec<u8>,
    /// What a torn line after it takes.
    torn_bytes: u64,
    /// From the first bad line to the end, where it is damage.
    unread_bytes: u64,
    /// The number of the first bad line that is not a torn tail, and what is wrong with it.
    damage: Option<(u64, &'static str)>,
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Found> {
    let mut found = Found::default();
    let mut number = 0;
    loop {
        let mut bytes = Vec::new();
        let read = std::io::Read::take(&mut *reader, MAX_LINE_BYTES).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(found);
        }
        number += 1;
        match parse(&bytes) {
            Ok(facts) => {
                found.lines.extend(facts);
                found.whole_bytes += read;
                found.last_line = bytes;
            }
            // A torn write is the last thing in the file: with or without its newline, nothing follows.
            Err(_) if reader.fill_buf()?.is_empty() => {
                found.torn_bytes = read;
                return Ok(found);
            }
            Err(what) => {
                found.damage = Some((number, what));
                found.unread_bytes = read + std::io::copy(reader, &mut std::io::sink())?;
                return Ok(found);
            }
        }
    }
}

/// What stands in one line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Facts {
    One(Line),
    Several(Vec<Line>),
}

fn parse(bytes: &[u8]) -> Result<Vec<Line>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
    let (sum, json) = text.strip_suffix('\n').ok_or("no end of line")?.split_once(' ').ok_or("no checksum")?;
    let sum = u32::from_str_radix(sum, 16).map_err(|_| "no checksum")?;
    if crc32fast::hash(json.as_bytes()) != sum {
        return Err("the checksum does not match");
    }
    match serde_json::from_str(json) {
        Ok(Facts::One(line)) => Ok(vec![line]),
        Ok(Facts::Several(lines)) => Ok(lines),
        Err(_) => Err("an unknown kind of line"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::super::ballast::Ballast;
    use super::super::files::{LedgerFile, LedgerOnDisk};
    use super::{Ledger, Line, MAX_LINE_BYTES, Opened};
    use crate::model::{Fence, ItemId, Timestamp};

    fn open(path: &Path) -> Opened {
        let file = LedgerOnDisk::open(path, Ballast::of(Path::new("/nonexistent"))).unwrap();
        Ledger::open(Box::new(file), path).unwrap()
    }

    fn line_text(line: &Line) -> String {
        super::line_text(&[serde_json::to_string(line).unwrap()])
    }

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
            let mut opened = open(&path);
            assert!(opened.damage.is_none(), "cut at {cut}");
            assert_eq!((opened.lines.len(), opened.cut_bytes), (2, cut as u64));
            opened.ledger.append(&[armed(4)]).unwrap();
            let again = open(&path);
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
            let opened = open(&path);
            assert_eq!(opened.damage.map(|damage| damage.line), Some(2), "flipped at {flip}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    /// What was written together is one line, so a lost sector anywhere in it is still a torn tail.
    #[test]
    fn rule_11_a_hole_in_the_last_append_is_a_torn_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut opened = open(&path);
        opened.ledger.append(&[armed(1)]).unwrap();
        let durable = std::fs::metadata(&path).unwrap().len();
        let together: Vec<Line> = (2..20).map(armed).collect();
        opened.ledger.append(&together).unwrap();
        assert_eq!(open(&path).lines.len(), 19);
        let whole = std::fs::read(&path).unwrap();
        let first = usize::try_from(durable).unwrap();
        for sector in first / 512..whole.len().div_ceil(512) {
            let mut torn = whole.clone();
            let lost = (sector * 512).max(first)..((sector + 1) * 512).min(whole.len());
            torn[lost].fill(0);
            std::fs::write(&path, torn).unwrap();
            let opened = open(&path);
            assert!(opened.damage.is_none(), "sector {sector}: {:?}", opened.damage);
            assert_eq!((opened.lines, opened.cut_bytes), (vec![armed(1)], whole.len() as u64 - durable));
        }
    }

    #[test]
    fn rule_11_a_line_is_never_longer_than_what_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let url = Some("\u{1}".repeat(4_096));
        let published = |number| Line::Published {
            item: ItemId::new(number),
            fence: Fence::new(number),
            url: url.clone(),
            key: None,
            idempotency: None,
            at: Timestamp::ZERO,
        };
        let lines: Vec<Line> = (0..256).map(published).collect();
        open(&path).ledger.append(&lines).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| (line.len() as u64) < MAX_LINE_BYTES));
        let opened = open(&path);
        assert!(opened.damage.is_none() && opened.lines == lines, "{:?}", opened.damage);
    }

    /// A file whose writes can be made to fail.
    struct Failing {
        file: LedgerOnDisk,
        fails: std::sync::Arc<std::sync::atomic::AtomicBool>,
    }

    impl LedgerFile for Failing {
        fn read(&mut self) -> io::Result<Box<dyn io::BufRead + '_>> {
            self.file.read()
        }

        fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::Error::other("made up"));
            }
            self.file.write(offset, bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.file.sync()
        }

        fn set_len(&mut self, bytes: u64) -> io::Result<()> {
            self.file.set_len(bytes)
        }
    }

    #[test]
    fn a_failed_write_is_final() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let file = LedgerOnDisk::open(&path, Ballast::of(folder.path())).unwrap();
        let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let failing = Failing { file, fails: fails.clone() };
        let mut ledger = Ledger::open(Box::new(failing), &path).unwrap().ledger;
        ledger.append(&[armed(1)]).unwrap();
        for fail in [true, false] {
            fails.store(fail, std::sync::atomic::Ordering::Relaxed);
            assert!(ledger.append(&[armed(2)]).is_err());
        }
        assert_eq!(open(&path).lines, [armed(1)]);
    }
}
