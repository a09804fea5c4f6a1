//! The folder of the snapshots: their names, what is remembered of each, and what unfinished ones leave.
//!
//! Called by the daemon and by the command line. Invariants: only a plain name with the right ending is ever
//! looked for; what is remembered of a snapshot counts only while the file is the same (bytes and time); a
//! temporary folder of a process that is gone is rubbish, and nothing else is ever removed without being asked.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Manifest, SNAPSHOT_ENDING, SnapshotError, container};
use crate::model::{Clock, Timestamp};
use crate::store::files::sync_folder_of;

const MAX_NAME_BYTES: usize = 128;
/// Temporary folders: this, and the number of the process.
const SCRATCH_PREFIX: &str = ".making-";
const DAY: Duration = Duration::from_secs(86_400);

/// A snapshot in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub name: String,
    pub bytes: u64,
    pub created_at: Timestamp,
    /// Of the whole file; None: nobody has read it yet.
    pub sha256: Option<String>,
    /// When it was last found good.
    pub verified_at: Option<Timestamp>,
    /// Why it is not good, where it was found so last.
    pub damage: Option<String>,
    /// None: its head cannot be read.
    pub manifest: Option<Manifest>,
}

impl Snapshot {
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        self.verified_at.is_some() && self.damage.is_none()
    }
}

/// What is remembered beside a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Which file this is of.
    pub bytes: u64,
    pub mtime_ns: i64,
    pub sha256: Option<String>,
    pub verified_at: Option<Timestamp>,
    pub damage: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SnapshotFolder {
    path: PathBuf,
}

/// A folder for the files of one piece of work; it goes when this is dropped.
pub(super) type Scratch = tempfile::TempDir;

impl SnapshotFolder {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it where it is missing, for its owner alone.
    pub fn make(&self) -> Result<(), SnapshotError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| SnapshotError::io(&self.path, error))
    }

    /// A temporary folder on the same disk.
    pub fn scratch(&self) -> Result<Scratch, SnapshotError> {
        self.make()?;
        let prefix = format!("{SCRATCH_PREFIX}{}-", std::process::id());
        let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.path);
        made.map_err(|error| SnapshotError::io(&self.path, error))
    }

    /// Removes what processes that are gone have left behind; answers with how many. Blocks.
    pub fn clean_unfinished(&self) -> io::Result<usize> {
        let mut removed = 0;
        for entry in self.entries()? {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let rest = name.strip_prefix(SCRATCH_PREFIX);
            let pid = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            let own = pid == Some(std::process::id());
            if pid.is_some_and(|pid| own || !Path::new(&format!("/proc/{pid}")).exists()) {
                std::fs::remove_dir_all(entry.path())?;
                removed += 1;
            }
            let of = name.strip_prefix('.').and_then(|name| name.strip_suffix(".json"));
            if of.is_some_and(|of| is_name(of) && !self.path.join(of).exists()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(removed)
    }

    fn entries(&self) -> io::Result<Vec<std::fs::DirEntry>> {
        match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.collect(),
        }
    }

    /// Newest first. Blocks.
    pub fn list(&self) -> io::Result<Vec<Snapshot>> {
        let names = self.entries()?.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<_> = names.filter_map(|name| self.find(&name).transpose()).collect::<io::Result<_>>()?;
        all.sort_by(|one, other| (other.created_at, &other.name).cmp(&(one.created_at, &one.name)));
        Ok(all)
    }

    /// None: there is no snapshot of this name.
    pub fn find(&self, name: &str) -> io::Result<Option<Snapshot>> {
        let Some((mut file, bytes, mtime_ns)) = self.open_facts(name)? else { return Ok(None) };
        let head = match container::read_head(&mut file, &self.path.join(name)) {
            Ok((manifest, _)) => Ok(manifest),
            Err(SnapshotError::Io { error, .. }) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        let note = self.read_note(name).filter(|note| (note.bytes, note.mtime_ns) == (bytes, mtime_ns));
        let written_at = Timestamp::from_millis(u64::try_from(mtime_ns / 1_000_000).unwrap_or(0));
        let damage = note.as_ref().and_then(|note| note.damage.clone());
        Ok(Some(Snapshot {
            name: name.to_owned(),
            bytes,
            created_at: head.as_ref().map_or(written_at, |manifest| manifest.created_at),
            sha256: note.as_ref().and_then(|note| note.sha256.clone()),
            verified_at: note.as_ref().and_then(|note| note.verified_at),
            damage: damage.or(head.as_ref().err().cloned()),
            manifest: head.ok(),
        }))
    }

    /// To be read to its end. None: there is no snapshot of this name.
    pub fn open(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        Ok(self.open_facts(name)?.map(|(file, bytes, _)| (file, bytes)))
    }

    fn open_facts(&self, name: &str) -> io::Result<Option<(File, u64, i64)>> {
        if !is_name(name) {
            return Ok(None);
        }
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).expect("open flags fit an int");
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(self.path.join(name));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let facts = file.metadata()?;
        let mtime_ns = facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec());
        Ok(facts.is_file().then_some((file, facts.len(), mtime_ns)))
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.json"))
    }

    /// What cannot be read is as good as nothing.
    fn read_note(&self, name: &str) -> Option<Note> {
        serde_json::from_slice(&std::fs::read(self.note_path(name)).ok()?).ok()
    }

    /// The whole drill of one of them, on a thread that gives way; what it finds is remembered. None: there is no
    /// snapshot of this name.
    ///
    /// # Errors
    /// When it could not be looked at; one that is not good is an answer.
    pub async fn verify(self, name: String, clock: Arc<dyn Clock>) -> Result<Option<Snapshot>, SnapshotError> {
        let path = self.path.clone();
        let told = super::making::aside(move || self.verify_here(&name, clock.as_ref()));
        let told = told.map_err(|error| SnapshotError::io(&path, error))?;
        told.await.unwrap_or(Err(SnapshotError::Canceled))
    }

    fn verify_here(&self, name: &str, clock: &dyn Clock) -> Result<Option<Snapshot>, SnapshotError> {
        let failed = |error| SnapshotError::io(&self.path, error);
        if self.open_facts(name).map_err(failed)?.is_none() {
            return Ok(None);
        }
        let scratch = self.scratch()?;
        let found = match super::drill::verify(&self.path.join(name), scratch.path()) {
            Ok((_, sha256)) => Ok(sha256),
            Err(error @ (SnapshotError::Damaged(_) | SnapshotError::NewerSchema { .. })) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        self.remember(name, found.as_deref().map_err(String::as_str), clock.now())?;
        self.find(name).map_err(failed)
    }

    /// Remembers what a drill found.
    pub fn remember(&self, name: &str, found: Result<&str, &str>, now: Timestamp) -> Result<(), SnapshotError> {
        let failed = |error| SnapshotError::io(&self.path.join(name), error);
        let Some((_, bytes, mtime_ns)) = self.open_facts(name).map_err(failed)? else { return Ok(()) };
        let before = self.read_note(name).filter(|note| (note.bytes, note.mtime_ns) == (bytes, mtime_ns));
        let note = match found {
            Ok(sha256) => {
                Note { bytes, mtime_ns, sha256: Some(sha256.to_owned()), verified_at: Some(now), damage: None }
            }
            Err(damage) => Note {
                bytes,
                mtime_ns,
                sha256: before.and_then(|note| note.sha256),
                verified_at: None,
                damage: Some(damage.to_owned()),
            },
        };
        self.write_note(name, &note)
    }

    pub(super) fn write_note(&self, name: &str, note: &Note) -> Result<(), SnapshotError> {
        let path = self.note_path(name);
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".note-").tempfile_in(&self.path)?;
            serde_json::to_writer(&mut file, note)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| SnapshotError::io(&path, error))
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        if !is_name(name) {
            return Ok(());
        }
        for path in [self.path.join(name), self.note_path(name)] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        sync_folder_of(&self.path.join(name))
    }

    /// A name for a snapshot of this moment that no other has; `what` tells it from those of other moments.
    pub(super) fn free_name(&self, now: Timestamp, what: &str) -> String {
        let mut at = now;
        loop {
            let name = format!("cove-{}-{what}{SNAPSHOT_ENDING}", compact(at));
            if !self.path.join(&name).exists() {
                return name;
            }
            // Names order as the times do, so a second one in this second takes the next.
            at = at.plus(Duration::from_secs(1));
        }
    }
}

/// `20261130T142200Z`
pub(super) fn compact(at: Timestamp) -> String {
    let text = at.to_string();
    let digits: String = text.chars().take_while(|c| *c != '.').filter(|c| !['-', ':'].contains(c)).collect();
    format!("{}Z", digits.trim_end_matches('Z'))
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    name.len() <= MAX_NAME_BYTES
        && name.ends_with(SNAPSHOT_ENDING)
        && name.len() > SNAPSHOT_ENDING.len()
        && !name.starts_with('.')
        && name.bytes().all(plain)
}

/// Those of `all`, which is newest first, that need not be kept: too old, or too many. The newest stays, and
/// the newest that was found good.
#[must_use]
pub fn excess(all: &[Snapshot], now: Timestamp, keep_days: u64, keep_count: u64) -> Vec<String> {
    let good = all.iter().position(Snapshot::is_verified);
    let old = DAY.saturating_mul(u32::try_from(keep_days).unwrap_or(u32::MAX));
    let goes = |number: usize, snapshot: &Snapshot| {
        let beyond = number as u64 >= keep_count;
        number > 0 && Some(number) != good && (beyond || now.since(snapshot.created_at) > old)
    };
    let numbered = all.iter().enumerate();
    numbered.filter(|(number, snapshot)| goes(*number, snapshot)).map(|(_, snapshot)| snapshot.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, SnapshotFolder, Timestamp, compact, excess, is_name};

    fn snapshot(day: u64, verified: bool) -> Snapshot {
        let created_at = Timestamp::from_millis(day * 86_400_000);
        Snapshot {
            name: format!("d{day}.snapshot"),
            bytes: 1,
            created_at,
            sha256: None,
            verified_at: verified.then_some(created_at),
            damage: None,
            manifest: None,
        }
    }

    #[test]
    fn only_plain_names_are_looked_for() {
        for good in ["cove-20261130T142200Z-3-17.snapshot", "x.snapshot", "A_b.c.snapshot"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".snapshot", "..snapshot", "x", "a/b.snapshot", "x.snapshot/", "x.snapshot\0", "ü.snapshot"] {
            assert!(!is_name(bad), "{bad}");
        }
        let long = format!("{}.snapshot", "x".repeat(120));
        assert!(!is_name(&long));
        assert_eq!(compact("2026-11-30T14:22:00Z".parse().unwrap()), "20261130T142200Z");
    }

    #[test]
    fn the_old_and_the_many_go_and_the_newest_good_one_never() {
        let all: Vec<_> = (1..=9).rev().map(|day| snapshot(day, day == 2)).collect();
        let now = Timestamp::from_millis(9 * 86_400_000);
        let names = |days: &[u64]| days.iter().map(|day| format!("d{day}.snapshot")).collect::<Vec<_>>();
        assert_eq!(excess(&all, now, 7, 100), names(&[1]));
        assert_eq!(excess(&all, now, 100, 4), names(&[5, 4, 3, 1]));
        assert_eq!(excess(&all, now, 1, 1), names(&[8, 7, 6, 5, 4, 3, 1]));
        let year = now.plus(std::time::Duration::from_secs(400 * 86_400));
        assert_eq!(excess(&all[..1], year, 7, 100), names(&[]), "the only one stays");
    }

    #[test]
    fn what_dead_processes_leave_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = SnapshotFolder::new(folder.path().to_owned());
        let dead = folder.path().join(".making-4194399-x");
        let alive = folder.path().join(".making-1-x");
        let kept = folder.path().join("kept.snapshot");
        for path in [&dead, &alive] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(dead.join("state.redb"), "half").unwrap();
        std::fs::write(&kept, "no snapshot, but somebody's").unwrap();
        std::fs::write(folder.path().join(".gone.snapshot.json"), "{}").unwrap();
        assert_eq!(snapshots.clean_unfinished().unwrap(), 1);
        assert!(!dead.exists() && alive.exists() && kept.exists());
        assert!(!folder.path().join(".gone.snapshot.json").exists());
        let listed = snapshots.list().unwrap();
        assert!(listed.len() == 1 && !listed[0].is_verified() && listed[0].damage.is_some(), "{listed:?}");
        assert!(SnapshotFolder::new(folder.path().join("none")).list().unwrap().is_empty());
    }
}
