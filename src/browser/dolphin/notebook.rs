//! What was started here, on disk: it tells cove's browsers from a person's (fence.md rule 16).
//!
//! The provider writes a note before it asks for a start, completes it with the answer, and tears it out
//! when the browser is verified gone or was proved never to have come. So after a `kill -9` of the daemon the
//! note of an intent is there. Times are of the machine's boot clock, which nobody sets; a file of another
//! boot speaks of browsers that cannot live any more. Whose a running profile is, [`Note::whose`] decides, a
//! pure function; everything that it does not prove to be ours is the operator's.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::browser::processes::Identity;
use crate::model::{BootId, BootTime, ProfileId, Timestamp};

const FILE: &str = "dolphin-sessions.json";
const VERSION: u32 = 1;
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The kernel notes a process's start a little before or after the clock that is read here.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// One profile that was asked for here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub profile: ProfileId,
    pub headless: bool,
    /// When the start was asked for; the profile did not run then.
    pub began: BootTime,
    pub began_at: Timestamp,
    /// What this call brings up has begun by then.
    pub until: BootTime,
    /// The answer said that it runs.
    pub launched: bool,
    /// Where the answer said that it listens.
    #[serde(default)]
    pub said: Option<Endpoint>,
    /// Where it answered as the browser that the call brought up.
    pub endpoint: Option<Endpoint>,
    pub process: Option<Identity>,
}

/// A browser's DevTools, on 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub port: u16,
    pub ws_path: String,
}

/// What can be seen of a profile that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As Dolphin says, or as its data directory tells.
    pub pid: Option<u32>,
    /// That process, if it lives and may be looked at.
    pub process: Option<Identity>,
    /// It was started with a DevTools port.
    pub debuggable: bool,
    /// The noted endpoint answers as the noted browser.
    pub answers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    Operators,
}

impl Note {
    /// Whose the running browser of this profile is. A note alone proves nothing: a person may have opened
    /// the profile after ours had ended.
    #[must_use]
    pub fn whose(&self, seen: &Seen) -> Whose {
        let ours = match (self.process, seen.process) {
            // Somebody opened the profile since, whatever of ours answers beside it.
            (noted, Some(process)) if noted != Some(process) && self.is_later(process) => false,
            _ if seen.answers => true,
            (Some(noted), Some(process)) => noted == process,
            // It died, and Dolphin has not noticed yet.
            (Some(noted), None) => seen.pid == Some(noted.pid),
            (None, Some(process)) => self.is_in_window(process) && (self.launched || seen.debuggable),
            (None, None) => false,
        };
        if ours { Whose::Ours } else { Whose::Operators }
    }

    /// Whether the process began when what was asked for could come up.
    #[must_use]
    pub fn is_in_window(&self, process: Identity) -> bool {
        process.began().plus(CLOCK_SLACK) >= self.began && !self.is_later(process)
    }

    fn is_later(&self, process: Identity) -> bool {
        process.began() > self.until.plus(CLOCK_SLACK)
    }

    /// Whether what was asked for may still come up. `quiet`: so long after an answer its browser may not be seen.
    #[must_use]
    pub fn may_come(&self, now: BootTime, quiet: Duration) -> bool {
        let was_seen = self.process.is_some() || self.endpoint.is_some();
        let quiet = if self.launched { quiet } else { Duration::ZERO };
        !was_seen && now < self.until.plus(quiet)
    }

    /// Where to look for it.
    #[must_use]
    pub fn listens_at(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref().or(self.said.as_ref())
    }
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct Pages {
    version: u32,
    /// In hexadecimal digits, which every reader of JSON keeps.
    boot_id: String,
    sessions: Vec<Note>,
}

/// A clone is another handle.
#[derive(Clone)]
pub struct Notebook {
    path: PathBuf,
    boot_id: String,
    notes: Arc<Mutex<BTreeMap<ProfileId, Note>>>,
    /// The file has a note that was withdrawn since.
    is_stale: Arc<AtomicBool>,
    /// Held while the file is written, so that an older page never covers a newer one.
    pen: Arc<tokio::sync::Mutex<()>>,
}

impl Notebook {
    /// What an earlier daemon noted in this folder under this boot. Blocking, and small. A file that cannot
    /// be read is said aloud and taken for empty: what runs then counts as the operator's, and is left alone.
    #[must_use]
    pub fn open(folder: &Path, boot_id: BootId) -> Self {
        let (path, boot_id) = (folder.join(FILE), format!("{boot_id:?}"));
        let notes = match read(&path) {
            Ok(Some(pages)) if pages.boot_id == boot_id => pages.sessions,
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was started in Dolphin Anty cannot be read");
                Vec::new()
            }
        };
        let notes: BTreeMap<_, _> = notes.into_iter().map(|note| (note.profile.clone(), note)).collect();
        Self { path, boot_id, notes: Arc::new(Mutex::new(notes)), is_stale: Arc::default(), pen: Arc::default() }
    }

    pub fn get(&self, profile: &ProfileId) -> Option<Note> {
        self.notes().get(profile).cloned()
    }

    pub fn all(&self) -> Vec<Note> {
        self.notes().values().cloned().collect()
    }

    /// Returns when the note is on disk. Whoever goes away meanwhile has noted nothing that counts.
    ///
    /// # Errors
    /// When it cannot be written; nothing is noted then.
    pub async fn begin(&self, note: Note) -> io::Result<Unsent<'_>> {
        let profile = note.profile.clone();
        self.notes().insert(profile.clone(), note);
        let unsent = Unsent { notebook: self, profile: Some(profile) };
        self.write().await?;
        Ok(unsent)
    }

    /// Changes a note that is there. Trouble with the file is only logged: what is on disk then is an older
    /// note of the same browser, and still proves whose it is.
    pub async fn change(&self, profile: &ProfileId, change: impl FnOnce(&mut Note)) {
        if let Some(note) = self.notes().get_mut(profile) {
            change(note);
        }
        self.write_or_warn().await;
    }

    /// The browser is gone, or was proved never to have come.
    pub async fn tear_out(&self, profile: &ProfileId) {
        if self.notes().remove(profile).is_some() {
            self.write_or_warn().await;
        }
    }

    /// Writes what was withdrawn without a write.
    pub async fn tidy(&self) {
        if self.is_stale.load(Ordering::Relaxed) {
            self.write_or_warn().await;
        }
    }

    async fn write_or_warn(&self) {
        if let Err(error) = self.write().await {
            tracing::warn!(path = %self.path.display(), %error, "what was started in Dolphin Anty cannot be noted");
        }
    }

    async fn write(&self) -> io::Result<()> {
        let pen = self.pen.clone().lock_owned().await;
        let book = self.clone();
        let write = tokio::task::spawn_blocking(move || {
            // Cleared first: what is withdrawn from here on is written the next time.
            book.is_stale.store(false, Ordering::Relaxed);
            let sessions = book.all();
            let pages = Pages { version: VERSION, boot_id: book.boot_id, sessions };
            let written = write(&book.path, &pages);
            if written.is_err() {
                book.is_stale.store(true, Ordering::Relaxed);
            }
            // Kept by the thread: whoever asked may be gone.
            drop(pen);
            written
        });
        write.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<ProfileId, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A note whose call has not been made. Dropped, it was never asked for.
pub struct Unsent<'a> {
    notebook: &'a Notebook,
    profile: Option<ProfileId>,
}

impl Unsent<'_> {
    /// From here on the call may have been heard.
    pub fn sent(mut self) {
        self.profile = None;
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(profile) = self.profile.take() {
            self.notebook.notes().remove(&profile);
            self.notebook.is_stale.store(true, Ordering::Relaxed);
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Pages>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    let pages: Pages = serde_json::from_slice(&bytes)?;
    if pages.version != VERSION {
        return Err(io::Error::other(format!("version {} is not known here", pages.version)));
    }
    Ok(Some(pages))
}

/// Whole or not at all, and durable.
fn write(path: &Path, pages: &Pages) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("the notebook has no folder"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec_pretty(pages)?)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId::new(7);

    fn id(text: &str) -> ProfileId {
        ProfileId::new(text).unwrap()
    }

    fn note() -> Note {
        Note {
            profile: id("7"),
            headless: true,
            began: BootTime::from_millis(100_000),
            began_at: Timestamp::from_millis(1),
            until: BootTime::from_millis(200_000),
            launched: false,
            said: None,
            endpoint: None,
            process: None,
        }
    }

    fn process(pid: u32, began: u64) -> Identity {
        let ticks = began * rustix::param::clock_ticks_per_second() / 1_000;
        let process: Identity = serde_json::from_value(serde_json::json!({"pid": pid, "started": ticks})).unwrap();
        assert_eq!(process.began(), BootTime::from_millis(began));
        process
    }

    fn seen(began: u64, debuggable: bool) -> Seen {
        Seen { pid: Some(9), process: Some(process(9, began)), debuggable, answers: false }
    }

    #[test]
    fn rule_16_ours_began_within_the_window_and_can_be_driven() {
        let note = note();
        assert_eq!(note.whose(&seen(150_000, true)), Whose::Ours);
        assert_eq!(note.whose(&seen(99_500, true)), Whose::Ours, "within the clocks' slack");
        for (began, debuggable) in [(150_000, false), (98_000, true), (202_000, true)] {
            assert_eq!(note.whose(&seen(began, debuggable)), Whose::Operators, "{began} {debuggable}");
        }
        let blind = Seen { pid: Some(9), ..Seen::default() };
        assert_eq!(note.whose(&blind), Whose::Operators, "nothing proves it");
        assert_eq!(note.whose(&Seen { answers: true, ..blind }), Whose::Ours);
    }

    #[test]
    fn rule_16_an_answered_start_needs_no_port_and_a_noted_process_no_window() {
        let launched = Note { launched: true, ..note() };
        assert_eq!(launched.whose(&seen(150_000, false)), Whose::Ours, "it runs without automation");
        assert_eq!(launched.whose(&seen(98_000, true)), Whose::Operators);
        let noted = Note { process: Some(process(9, 500_000)), ..launched };
        assert_eq!(noted.whose(&seen(500_000, false)), Whose::Ours);
        assert_eq!(noted.whose(&seen(150_000, true)), Whose::Operators, "another process under the same number");
        let dead = Seen { pid: Some(9), ..Seen::default() };
        assert_eq!(noted.whose(&dead), Whose::Ours, "dead, and not noticed yet");
        assert_eq!(noted.whose(&Seen { pid: Some(8), ..dead }), Whose::Operators);
    }

    #[test]
    fn rule_16_who_began_after_our_answer_is_not_ours_though_ours_still_answers() {
        let launched = Note { launched: true, ..note() };
        let noted = Note { process: Some(process(8, 150_000)), ..launched.clone() };
        for note in [launched, noted.clone()] {
            let later = Seen { answers: true, ..seen(202_000, true) };
            assert_eq!(note.whose(&later), Whose::Operators, "{note:?}");
            // A number that means another process here, or a process that started ours.
            for beside in [Seen { answers: true, ..seen(149_000, false) }, Seen { process: None, ..later }] {
                assert_eq!(note.whose(&beside), Whose::Ours, "{note:?} {beside:?}");
            }
        }
        let late = Note { until: BootTime::from_millis(120_000), ..noted };
        assert_eq!(late.whose(&Seen { process: late.process, ..seen(0, true) }), Whose::Ours, "the noted one itself");
    }

    #[test]
    fn what_was_asked_may_come_until_its_window_closes_or_it_was_seen() {
        let (note, quiet) = (note(), Duration::from_secs(10));
        assert!(note.may_come(BootTime::from_millis(199_999), quiet) && !note.may_come(note.until, quiet));
        let launched = Note { launched: true, ..note };
        assert!(launched.may_come(BootTime::from_millis(209_999), quiet));
        assert!(!launched.may_come(BootTime::from_millis(210_000), quiet));
        let seen = Note { process: Some(process(9, 150_000)), ..launched };
        assert!(!seen.may_come(BootTime::from_millis(150_001), quiet));
    }

    #[tokio::test]
    async fn a_note_outlives_the_daemon_and_not_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let book = Notebook::open(folder.path(), BOOT);
        book.begin(note()).await.unwrap().sent();
        let endpoint = Endpoint { port: 9, ws_path: "/devtools/browser/a".to_owned() };
        book.change(&id("7"), |note| note.endpoint = Some(endpoint.clone())).await;
        book.begin(Note { profile: id("8"), process: Some(process(3, 50)), ..note() }).await.unwrap().sent();
        let again = Notebook::open(folder.path(), BOOT);
        assert_eq!(again.all(), book.all());
        assert_eq!(again.get(&id("7")).unwrap().endpoint, Some(endpoint));
        assert_eq!(Notebook::open(folder.path(), BootId::new(8)).all(), []);
        again.tear_out(&id("7")).await;
        assert_eq!(Notebook::open(folder.path(), BOOT).all().len(), 1);
    }

    #[tokio::test]
    async fn a_note_whose_call_was_not_made_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let book = Notebook::open(folder.path(), BOOT);
        drop(book.begin(note()).await.unwrap());
        assert_eq!((book.all().len(), Notebook::open(folder.path(), BOOT).all().len()), (0, 1));
        book.tidy().await;
        assert_eq!(Notebook::open(folder.path(), BOOT).all(), []);
        let gone = Notebook::open(&folder.path().join("gone"), BOOT);
        assert!(gone.begin(note()).await.is_err());
        assert_eq!(gone.all(), []);
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_an_empty_notebook() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&b"{"[..], b"", b"[]", br#"{"version":2,"boot_id":"7","sessions":[]}"#, &[0xff; 40]] {
            std::fs::write(folder.path().join(FILE), bytes).unwrap();
            assert_eq!(Notebook::open(folder.path(), BOOT).all(), []);
        }
    }
}
