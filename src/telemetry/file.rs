//! Log lines in a file of their own, which is rotated by the day and by its size.
//!
//! Called by the room above. Whoever logs hands a line over and never waits: one thread writes, behind a bounded
//! queue; what finds no room there, or no space on the disk, is counted and told as a line as soon as one can be
//! written. Invariants: a line is never cut in two by a rotation; however much is logged, the files take no more
//! than (`keep` + 1) × `max_size_mb` and a line; a rotated file is removed when it is too old or one too many.
//!
//! Deliberately not here: what is logged and in which form, and files that another program rotates.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};
use crate::model::{Clock, Schedule, SystemClock, Timestamp, Zone};

/// Lines that wait for the thread; a line beyond is lost, and counted.
const QUEUE: usize = 2_048;
/// Written together.
const BATCH_BYTES: usize = 64 * 1024;
/// By the system's time zone.
const ROTATES_AT: &str = "0 2 * * *";
const MIB: u64 = 1024 * 1024;
const DAY_MS: u64 = 86_400_000;
/// How long the end of the process waits for the last lines.
const END_WITHIN: Duration = Duration::from_secs(2);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    End(SyncSender<()>),
}

/// Where lines are handed over; clones share the queue.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Opens the file and starts the thread that writes it.
    pub fn open(log: &Log, path: &Path) -> io::Result<Self> {
        let zone = Zone::system();
        let files = Files::open(Rules::of(log, path, zone), SystemClock.now())?;
        let (queue, inbox) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writing = Writing { files, lost: lost.clone(), as_json: log.format == LogFormat::Json };
        std::thread::Builder::new().name("cove-log".to_owned()).spawn(move || writing.run(&inbox))?;
        Ok(Self { queue, lost })
    }

    /// Waits until what was handed over is written; not for ever, since the disk may stand still.
    pub fn end(&self) {
        let (written, done) = sync_channel(1);
        if self.queue.try_send(Message::End(written)).is_ok() {
            // Nothing can be done about the lines of a disk that does not answer.
            let _late = done.recv_timeout(END_WITHIN);
        }
    }
}

impl Write for Lines {
    /// One event, whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Line(event.to_vec()))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

struct Writing {
    files: Files,
    lost: Arc<AtomicU64>,
    as_json: bool,
}

impl Writing {
    fn run(mut self, inbox: &Receiver<Message>) {
        while let Ok(first) = inbox.recv() {
            let (mut batch, mut lines, mut ended) = (Vec::new(), 0, None);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Message::End(written) => ended = Some(written),
                }
                next = if batch.len() < BATCH_BYTES && ended.is_none() { inbox.try_recv().ok() } else { None };
            }
            self.write(&batch, lines);
            if let Some(written) = ended {
                // Nobody may be waiting any more.
                let _gone = written.try_send(());
            }
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        let now = SystemClock.now();
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let told = if lost > 0 { self.told(lost, now) } else { Vec::new() };
        if self.files.write(&[told.as_slice(), batch].concat(), now).is_err() {
            self.lost.fetch_add(lost + lines, Ordering::Relaxed);
        }
    }

    fn told(&self, lost: u64, now: Timestamp) -> Vec<u8> {
        let message = format!("lines of this log that were lost, for want of space or of time to write them: {lost}");
        let line = if self.as_json {
            serde_json::json!({"timestamp": now, "level": "WARN", "message": message, "target": "cove::telemetry"})
                .to_string()
        } else {
            format!("{now}  WARN cove::telemetry: {message}")
        };
        [line.as_bytes(), b"\n"].concat()
    }
}

/// When a file ends, and which are kept.
struct Rules {
    path: PathBuf,
    max_bytes: u64,
    keep: u64,
    keep_ms: u64,
    daily: Option<Schedule>,
    zone: Zone,
}

impl Rules {
    fn of(log: &Log, path: &Path, zone: Zone) -> Self {
        Self {
            path: path.to_owned(),
            max_bytes: log.max_size_mb.saturating_mul(MIB),
            keep: log.keep,
            keep_ms: log.keep_days.saturating_mul(DAY_MS),
            daily: Schedule::parse(ROTATES_AT).ok().flatten(),
            zone,
        }
    }

    fn after(&self, time: Timestamp) -> Option<Timestamp> {
        self.daily.as_ref().and_then(|daily| daily.next(time, &self.zone))
    }

    /// `cove.log.1` is the youngest.
    fn rotated(&self, number: u64) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

struct Files {
    rules: Rules,
    file: File,
    bytes: u64,
    /// The day of this file ends then.
    ends_at: Option<Timestamp>,
}

impl Files {
    /// Goes on with the file that is there, unless its day is over.
    fn open(rules: Rules, now: Timestamp) -> io::Result<Self> {
        let file = append_to(&rules.path)?;
        let facts = file.metadata()?;
        let written_at = if facts.len() > 0 { modified_at(&facts)? } else { now };
        let ends_at = rules.after(written_at.min(now));
        let mut files = Self { bytes: facts.len(), ends_at, file, rules };
        files.remove_old(now)?;
        if files.is_over(0, now) {
            files.rotate(now)?;
        }
        Ok(files)
    }

    fn is_over(&self, more: u64, now: Timestamp) -> bool {
        let is_full = self.bytes > 0 && self.bytes.saturating_add(more) > self.rules.max_bytes;
        is_full || (self.bytes > 0 && self.ends_at.is_some_and(|ends_at| ends_at <= now))
    }

    /// Whole lines.
    fn write(&mut self, lines: &[u8], now: Timestamp) -> io::Result<()> {
        let more = lines.len() as u64;
        if self.is_over(more, now) {
            // Where that fails it goes on in the old file, rather than not at all.
            drop(self.rotate(now));
        }
        if self.bytes == 0 {
            self.ends_at = self.rules.after(now);
        }
        let before = self.bytes;
        if let Err(error) = self.file.write_all(lines) {
            // Half a line is no line.
            drop(self.file.set_len(before));
            return Err(error);
        }
        self.bytes = before + more;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        for number in (1..self.rules.keep).rev() {
            rename(&self.rules.rotated(number), &self.rules.rotated(number + 1))?;
        }
        rename(&self.rules.path, &self.rules.rotated(1))?;
        self.file = append_to(&self.rules.path)?;
        self.bytes = 0;
        self.ends_at = self.rules.after(now);
        self.remove_old(now)
    }

    /// What is too old, and what an earlier setting kept beyond today's number.
    fn remove_old(&self, now: Timestamp) -> io::Result<()> {
        let oldest = now.as_millis().saturating_sub(self.rules.keep_ms);
        let mut number = 1;
        while let Ok(facts) = self.rules.rotated(number).metadata() {
            if number > self.rules.keep || modified_at(&facts)?.as_millis() < oldest {
                std::fs::remove_file(self.rules.rotated(number))?;
            }
            number += 1;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn modified_at(facts: &std::fs::Metadata) -> io::Result<Timestamp> {
    let since = facts.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::{Path, PathBuf};

    use super::{DAY_MS, Files, Lines, MIB, Rules};
    use crate::config::Log;
    use crate::model::{Clock, SystemClock, Timestamp, Zone};

    const HOUR_MS: u64 = 3_600_000;

    fn rules(path: &Path, max_bytes: u64) -> Rules {
        let log = Log { keep: 3, ..Log::default() };
        Rules { max_bytes, ..Rules::of(&log, path, Zone::utc()) }
    }

    fn texts(folder: &Path) -> Vec<(String, String)> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = names.collect();
        paths.sort();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    /// Half an hour past midnight of today.
    fn night() -> Timestamp {
        let now = SystemClock.now().as_millis();
        Timestamp::from_millis(now - now % DAY_MS + HOUR_MS / 2)
    }

    #[test]
    fn it_rotates_by_size_between_lines_and_keeps_a_number_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cove.log");
        let now = night();
        let mut files = Files::open(rules(&path, 10), now).unwrap();
        for line in ["one\n", "two\n", "three\n", "a line that is longer than a file\n", "five\n", "six\n", "seven\n"] {
            files.write(line.as_bytes(), now).unwrap();
        }
        let kept = [
            ("cove.log", "seven\n"),
            ("cove.log.1", "five\nsix\n"),
            ("cove.log.2", "a line that is longer than a file\n"),
            ("cove.log.3", "three\n"),
        ];
        assert_eq!(texts(folder.path()), pairs(&kept));
        // Another start goes on in the same file.
        drop(files);
        Files::open(rules(&path, 10), now).unwrap().write(b"9\n", now).unwrap();
        assert_eq!(texts(folder.path())[0].1, "seven\n9\n");
        // And one that keeps fewer removes the others.
        drop(Files::open(Rules { keep: 1, ..rules(&path, 10) }, now).unwrap());
        assert_eq!(texts(folder.path()).len(), 2);
    }

    #[test]
    fn it_rotates_at_two_once_also_where_nobody_ran_then_and_removes_what_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cove.log");
        let later = |hours: u64| Timestamp::from_millis(night().as_millis() + hours * HOUR_MS);
        let mut files = Files::open(rules(&path, MIB), night()).unwrap();
        files.write(b"at night\n", night()).unwrap();
        files.write(b"before two\n", later(1)).unwrap();
        files.write(b"after two\n", later(2)).unwrap();
        files.write(b"in the evening\n", later(20)).unwrap();
        assert_eq!(
            texts(folder.path()),
            pairs(&[("cove.log", "after two\nin the evening\n"), ("cove.log.1", "at night\nbefore two\n")])
        );
        drop(files);
        let files = Files::open(rules(&path, MIB), later(24 + 20)).unwrap();
        assert_eq!(texts(folder.path())[0], ("cove.log".to_owned(), String::new()), "its day was over");
        assert_eq!(texts(folder.path()).len(), 3);
        drop(files);
        let files = Files::open(rules(&path, MIB), later(31 * 24)).unwrap();
        assert_eq!(texts(folder.path()).len(), 1, "older than 30 days");
        drop(files);
    }

    #[test]
    fn lines_that_find_no_room_are_told_when_there_is_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cove.log");
        let mut lines = Lines::open(&Log::default(), &path).unwrap();
        lines.write_all(b"first\n").unwrap();
        lines.end();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
        lines.lost.fetch_add(3, std::sync::atomic::Ordering::Relaxed);
        lines.write_all(b"second\n").unwrap();
        lines.end();
        let text = std::fs::read_to_string(&path).unwrap();
        let told: Vec<&str> = text.lines().collect();
        assert!(told.len() == 3 && told[1].ends_with("or of time to write them: 3") && told[2] == "second", "{text}");
        assert!(Lines::open(&Log::default(), &folder.path().join("none/cove.log")).is_err());
    }
}
