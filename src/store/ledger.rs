//! The publish ledger: a small append-only file beside the state file that survives a restore
//! (fence.md rules 1, 7, 11 and 17).
//!
//! One line an append: `<crc32 of the rest, 8 hex digits> <JSON>\n`. The JSON is a fact ([`Line`]), or a list of
//! them where several became durable together; unknown kinds are damage, since a ledger is never read by
//! an older cove. The last line may be torn by a crash, in any of its sectors: at open the file is cut back
//! to its last whole line, so that the next is not glued to a torn one. A bad line in the middle was
//! durable once: it is damage that a human has to look at. What can be read behind it counts all the same, and
//! when the human goes on, all that can be read is copied into a new ledger and the damaged one is kept
//! beside it. The new one remembers its hole: it holds no epoch but its own, so a state from before it is
//! taken for one of which nobody knows what went out since. A failed write or fsync is final; the line that it
//! was about may be read by the next process and yet never reach the disk, so the last one is written again at
//! open, before anything is concluded from it.
//!
//! Written by the writer thread alone. It knows nothing about redb.

use std::io::{self, BufRead};
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
    /// Ids are made in this epoch from here on: a new one, or that of a state which was opened again.
    Epoch {
        epoch: u64,
        /// How often the state was opened, this time included. A state that counts fewer is an older one.
        #[serde(default)]
        opens: u64,
        at: Timestamp,
    },
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
    /// The token of this hash is good for nothing any more.
    TokenRevoked { token: String, at: Timestamp },
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

/// How far a ledger has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub bytes: u64,
    pub facts: u64,
}

pub(super) struct Ledger {
    file: Box<dyn LedgerFile>,
    /// Where the next line begins, and how many facts stand before it.
    position: Position,
    /// For messages.
    path: PathBuf,
    /// Set by the first failure: nothing may be acknowledged after it.
    failed: bool,
    /// It has a bad line in its middle, and is to be followed by another.
    damaged: bool,
    /// It is damaged and its last byte ends no line: what is appended must not be glued to it.
    unterminated: bool,
}

impl Ledger {
    pub fn open(mut file: Box<dyn LedgerFile>, path: &Path) -> Result<Opened, StoreError> {
        let failed = |error: io::Error| StoreError::from_io(path, &error);
        let found = file.read().and_then(|mut reader| read(&mut reader)).map_err(failed)?;
        let Found { lines, whole_bytes, last_line, torn_bytes, bytes_from_damage, unterminated, damage } = found;
        let damage = damage.map(|(line, what)| LedgerDamage { path: path.to_owned(), line, what });
        let damaged = damage.is_some();
        if torn_bytes > 0 {
            file.set_len(whole_bytes).map_err(failed)?;
        }
        if damage.is_none() && whole_bytes > 0 {
            let at = whole_bytes - last_line.len() as u64;
            file.write(at, &last_line).and_then(|()| file.sync()).map_err(failed)?;
        }
        let position = Position { bytes: whole_bytes + bytes_from_damage, facts: lines.len() as u64 };
        let ledger = Self { file, position, path: path.to_owned(), failed: false, damaged, unterminated };
        Ok(Opened { ledger, lines, cut_bytes: torn_bytes, damage })
    }

    pub const fn position(&self) -> Position {
        self.position
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
                self.position.facts += together.len() as u64;
                together.clear();
            }
        }
        Ok(())
    }

    /// Where this ledger is damaged: begins another with all that can be read of it but its epochs, and with
    /// `epoch`, and keeps the damaged file beside it. Its next open is clean.
    pub fn begin_anew(&mut self, epoch: &Line, now: Timestamp) -> Result<(), StoreError> {
        if !self.damaged {
            return Ok(());
        }
        let begun = self.copy_whole_lines(epoch).and_then(|(successor, position)| {
            self.file.give_way(&format!("damaged-{}", now.as_millis()))?;
            Ok((successor, position))
        });
        self.failed = begun.is_err();
        let (successor, position) = begun.map_err(|error| StoreError::from_io(&self.path, &error))?;
        (self.file, self.position, self.damaged, self.unterminated) = (successor, position, false, false);
        Ok(())
    }

    fn copy_whole_lines(&mut self, epoch: &Line) -> io::Result<(Box<dyn LedgerFile>, Position)> {
        let mut successor = self.file.begin_successor()?;
        let mut reader = self.file.read()?;
        let (mut at, mut copied) = (Position { bytes: 0, facts: 1 }, Vec::new());
        let last = line_text(&[serde_json::to_string(epoch).map_err(io::Error::other)?]);
        loop {
            let bytes = next_line(&mut reader)?;
            if let Ok(lines) = parse(&bytes) {
                let kept = lines.iter().filter(|line| !matches!(line, Line::Epoch { .. }));
                let kept: Vec<_> =
                    kept.map(serde_json::to_string).collect::<Result<_, _>>().map_err(io::Error::other)?;
                at.facts += kept.len() as u64;
                if !kept.is_empty() {
                    copied.extend_from_slice(line_text(&kept).as_bytes());
                }
            }
            if bytes.is_empty() {
                copied.extend_from_slice(last.as_bytes());
            }
            if bytes.is_empty() || copied.len() as u64 > MAX_LINE_BYTES {
                successor.write(at.bytes, &copied)?;
                at.bytes += copied.len() as u64;
                copied.clear();
            }
            if bytes.is_empty() {
                successor.sync()?;
                return Ok((successor, at));
            }
        }
    }

    fn append_line(&mut self, text: &str) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed(format!("{}: an earlier write failed", self.path.display())));
        }
        let text = if std::mem::take(&mut self.unterminated) { format!("\n{text}") } else { text.to_owned() };
        let written = self.file.write(self.position.bytes, text.as_bytes()).and_then(|()| self.file.sync());
        self.failed = written.is_err();
        self.position.bytes += text.len() as u64;
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
pub(super) struct Found {
    pub lines: Vec<Line>,
    /// What the whole lines take.
    pub whole_bytes: u64,
    /// The last whole one.
    pub last_line: Vec<u8>,
    /// What a torn line after it takes.
    pub torn_bytes: u64,
    /// From the first bad line to the end, where it is damage.
    pub bytes_from_damage: u64,
    /// There is damage, and the last byte ends no line.
    pub unterminated: bool,
    /// The number of the first bad line that is not a torn tail, and what is wrong with it.
    pub damage: Option<(u64, &'static str)>,
}

pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Found> {
    let mut found = Found::default();
    let mut number = 0;
    loop {
        let bytes = next_line(reader)?;
        let read = bytes.len() as u64;
        if read == 0 {
            return Ok(found);
        }
        number += 1;
        found.unterminated = !bytes.ends_with(b"\n");
        match parse(&bytes) {
            Ok(facts) => {
                found.lines.extend(facts);
                if found.damage.is_none() {
                    found.whole_bytes += read;
                    found.last_line = bytes;
                } else {
                    found.bytes_from_damage += read;
                }
            }
            // A torn write is the last thing in the file: with or without its newline, nothing follows.
            Err(_) if found.damage.is_none() && reader.fill_buf()?.is_empty() && !holds_another_line(&bytes) => {
                (found.torn_bytes, found.unterminated) = (read, false);
                return Ok(found);
            }
            Err(what) => {
                found.damage.get_or_insert((number, what));
                found.bytes_from_damage += read;
            }
        }
    }
}

/// How far the ledger has come that can be read here; nothing of it is mended.
pub(super) fn position_of(reader: &mut impl BufRead) -> io::Result<Position> {
    let found = read(reader)?;
    Ok(Position { bytes: found.whole_bytes + found.bytes_from_damage, facts: found.lines.len() as u64 })
}

/// Empty at the end of the file. A line that is longer than any comes in pieces, none of which is a line.
fn next_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *reader, MAX_LINE_BYTES).read_until(b'\n', &mut bytes)?;
    Ok(bytes)
}

/// Whether a whole line stands before something else in what ends as one line: the newline between them is
/// damaged. An append writes one line, so a torn one has nothing but its last byte behind its JSON.
fn holds_another_line(bytes: &[u8]) -> bool {
    const PREFIX_BYTES: usize = "00000000 ".len();
    let Some(sum) = bytes.get(..PREFIX_BYTES - 1).and_then(|sum| std::str::from_utf8(sum).ok()) else { return false };
    let Ok(sum) = u32::from_str_radix(sum, 16) else { return false };
    let mut hasher = crc32fast::Hasher::new();
    let json = bytes.get(PREFIX_BYTES..).unwrap_or_default();
    // Whatever the last two bytes are.
    for end in 1..json.len().saturating_sub(1) {
        hasher.update(&json[end - 1..end]);
        if hasher.clone().finalize() == sum && serde_json::from_slice::<Facts>(&json[..end]).is_ok() {
            return true;
        }
    }
    false
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
    if sum.len() != 8 || !sum.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("no checksum");
    }
    // As it is written: a digit in the other case is a flipped bit.
    if sum != format!("{:08x}", crc32fast::hash(json.as_bytes())) {
        return Err("the checksum does not match");
    }
    match serde_json::from_str(json) {
        Ok(Facts::One(line)) => Ok(vec![line]),
        Ok(Facts::Several(lines)) => Ok(lines),
        Err(_) => Err("an unknown kind of line"),
    }
}

#[cfg(test)]
mod tests;
