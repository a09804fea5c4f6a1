//! The ledger's file, byte by byte: torn tails, damage, failed writes, and the ledger that follows a damaged one.

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
fn rule_11_a_failed_write_is_final() {
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

/// The damaged file is kept; what can be read of it goes on, and the next open finds nothing wrong. Its epochs
/// do not: the new one does not say that it knows everything since then.
#[test]
fn rule_11_a_new_ledger_begins_with_every_fact_of_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let epoch = Line::Epoch { epoch: 7, opens: 3, at: Timestamp::ZERO };
    let now = Timestamp::from_millis(77);
    for lines in [3, 2_000] {
        let before = Line::Epoch { epoch: 6, opens: 1, at: Timestamp::ZERO };
        // An epoch alone in its line, and one in a line with a fact.
        let together = [&before, &armed(1)].map(|line| serde_json::to_string(line).unwrap());
        let mut damaged = line_text(&before) + &super::line_text(&together);
        let first = damaged.len();
        damaged.extend((2..=lines).map(|number| line_text(&armed(number))));
        let mut damaged = damaged.into_bytes();
        damaged[first + 20] ^= 1;
        // A torn tail is no reason to lose what stands before it.
        damaged.extend_from_slice(b"0bad");
        std::fs::write(&path, &damaged).unwrap();
        let mut opened = open(&path);
        let whole: Vec<Line> = (1..=lines).filter(|number| *number != 2).map(armed).collect();
        assert_eq!(opened.damage.as_ref().map(|damage| damage.line), Some(3));
        assert_eq!(
            opened.lines,
            [vec![before; 2], whole.clone()].concat(),
            "also what stands behind the damage is known"
        );
        opened.ledger.begin_anew(&epoch, now).unwrap();
        opened.ledger.append(&[armed(9_999)]).unwrap();
        opened.ledger.begin_anew(&epoch, now).unwrap();
        let again = open(&path);
        assert!(again.damage.is_none() && again.cut_bytes == 0);
        assert_eq!(again.lines, [whole, vec![epoch.clone(), armed(9_999)]].concat());
        let kept = folder.path().join("ledger.damaged-77");
        assert_eq!(std::fs::read(&kept).unwrap(), damaged);
        std::fs::remove_file(kept).unwrap();
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ledger"], "nothing else is left");
}

/// What goes on before a human has looked: it is not glued to the torn tail behind the damage.
#[test]
fn rule_11_a_line_behind_damage_and_a_torn_tail_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut damaged = String::from("0bad\n") + &line_text(&armed(1));
    damaged.push_str("0torn");
    std::fs::write(&path, &damaged).unwrap();
    let mut opened = open(&path);
    assert!(opened.damage.is_some());
    opened.ledger.append(&[armed(2)]).unwrap();
    opened.ledger.append(&[armed(3)]).unwrap();
    assert_eq!(open(&path).lines, [armed(1), armed(2), armed(3)]);
}

#[test]
fn rule_11_two_lines_whose_newline_is_damaged_are_no_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let first = line_text(&armed(1)) + &line_text(&armed(2));
    let mut content = (first.clone() + &line_text(&armed(3))).into_bytes();
    for by in 1..=255 {
        content[first.len() - 1] = b'\n' ^ by;
        std::fs::write(&path, &content).unwrap();
        let opened = open(&path);
        assert_eq!(opened.damage.as_ref().map(|damage| damage.line), Some(2), "{by:#x}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "nothing is cut");
    }
}

/// A checksum that is the same number in other letters is not what was written.
#[test]
fn rule_11_a_digit_of_the_checksum_in_the_other_case_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let lettered =
        (1..100).map(armed).find(|line| line_text(line)[..8].contains(|digit: char| digit.is_ascii_lowercase()));
    let whole = line_text(&lettered.unwrap());
    let content = whole[..8].to_ascii_uppercase() + &whole[8..] + &line_text(&armed(1));
    std::fs::write(&path, content).unwrap();
    assert_eq!(open(&path).damage.map(|damage| damage.line), Some(1));
}
