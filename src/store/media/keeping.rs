//! Uploads that nobody needs any more: how long each has lain there unnamed, and its removal.
//!
//! Called by the retention of `ops`, which knows what the items name; [`MediaStore::resolve`] and an upload whose
//! file was there already set the time anew. That time is the file's change time: the size, the inode and the
//! modification time, by which waiting items know the file, stay as they are, and there is no record beside the
//! file that could claim more than is there. Invariants: only a file that lies where an upload would, that this
//! user owns and whose time is over when it is unlinked is removed; naming a file and removing it exclude each
//! other, so that one which was just named is either still there or was never found.
//!
//! Deliberately not here: what is needed, and whether the clock is believed.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{MediaStore, Shared, is_sha256, kind};
use crate::model::{Clock, SystemClock, Timestamp};

/// A name given again within this time changes nothing: the shortest time for which an upload is kept is a day,
/// and each change makes the next request hash the file anew.
const FRESH: Duration = Duration::from_secs(6 * 3_600);
/// A time so far ahead was told by a clock that was wrong: it begins anew, or the file would stay for ever.
const AHEAD: Duration = Duration::from_secs(86_400);

/// What a removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub files: u64,
    pub bytes: u64,
}

impl MediaStore {
    /// Uploads that were last named before `before`, in the order of their hashes from right behind `after` on:
    /// `limit` at most. None is named because of it, but a time far ahead of `now` begins anew.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn idle(
        &self,
        after: String,
        (before, now): (Timestamp, Timestamp),
        limit: usize,
    ) -> io::Result<Vec<PathBuf>> {
        self.off_runtime(move |shared| shared.idle(&after, before, now, limit)).await
    }

    /// Sets the time of these anew, where they are uploads and there.
    ///
    /// # Errors
    /// At the first file that cannot be changed.
    pub async fn named(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        self.off_runtime(move |shared| paths.iter().try_for_each(|path| shared.named(path, Duration::ZERO))).await
    }

    /// Removes those whose time is still over, and returns when that is on the disk.
    ///
    /// # Errors
    /// At the first file that cannot be removed.
    pub async fn remove_idle(&self, paths: Vec<PathBuf>, before: Timestamp) -> io::Result<Removed> {
        self.off_runtime(move |shared| shared.remove_idle(&paths, before)).await
    }

    async fn off_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared)).await.map_err(io::Error::other)?
    }
}

impl Shared {
    /// Before a file is looked at for somebody. A file that is not there is found so by the look.
    pub(super) fn name(&self, path: &Path) -> io::Result<()> {
        self.named(path, FRESH)
    }

    /// An upload whose bytes came before, while it is kept from being removed.
    pub(super) fn sent_again(path: &Path) -> io::Result<()> {
        begin_anew_after(path, FRESH)
    }

    /// As long as this lives nothing is removed.
    pub(super) fn keep_all(&self) -> MutexGuard<'_, ()> {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self, path: &Path, fresh: Duration) -> io::Result<()> {
        if !self.is_upload(path) {
            return Ok(());
        }
        let _kept = self.keep_all();
        begin_anew_after(path, fresh)
    }

    fn idle(&self, after: &str, before: Timestamp, now: Timestamp, limit: usize) -> io::Result<Vec<PathBuf>> {
        let mut shards = BTreeSet::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if is_shard(&name) && name.as_str() >= after.get(..2).unwrap_or_default() {
                shards.insert(name);
            }
        }
        let mut found = Vec::new();
        for shard in shards {
            let mut names = BTreeSet::new();
            for entry in std::fs::read_dir(self.folder.join(&shard))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let path = self.folder.join(&shard).join(&name);
                if name.as_str() <= after || !self.is_upload(&path) || !is_idle(&path, before, now)? {
                    continue;
                }
                names.insert(name);
                if found.len() + names.len() > limit {
                    names.pop_last();
                }
            }
            found.extend(names.into_iter().map(|name| self.folder.join(&shard).join(name)));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    fn remove_idle(&self, paths: &[PathBuf], before: Timestamp) -> io::Result<Removed> {
        let mut removed = Removed::default();
        let mut folders = BTreeSet::new();
        for path in paths.iter().filter(|path| self.is_upload(path)) {
            let _kept = self.keep_all();
            let Some(found) = look(path)?.filter(|found| is_ours(found) && changed_at(found) < before) else {
                continue;
            };
            std::fs::remove_file(path)?;
            folders.extend(path.parent());
            removed.files += 1;
            removed.bytes += found.len();
        }
        folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())?;
        Ok(removed)
    }

    /// Whether an upload would lie there. A person may put files of other names into the folder.
    fn is_upload(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (sha256, ending) = name.split_once('.').map_or((name, None), |(sha256, ending)| (sha256, Some(ending)));
        is_sha256(sha256)
            && ending.is_none_or(|ending| kind::ENDINGS.contains(&ending))
            && path == self.path_for(sha256, ending)
    }
}

fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// None: it is gone, or no regular file.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found).filter(Metadata::is_file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_idle(path: &Path, before: Timestamp, now: Timestamp) -> io::Result<bool> {
    let Some(found) = look(path)?.filter(is_ours) else { return Ok(false) };
    let changed_at = changed_at(&found);
    if changed_at.since(now) > AHEAD {
        begin_anew(path)?;
        return Ok(false);
    }
    Ok(changed_at < before)
}

/// Only an owner can set the time anew: what another user put there would lose it when it is needed.
fn is_ours(found: &Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

fn changed_at(found: &Metadata) -> Timestamp {
    let seconds = u64::try_from(found.ctime()).unwrap_or_default();
    let nanoseconds = u64::try_from(found.ctime_nsec()).unwrap_or_default();
    Timestamp::from_millis(seconds.saturating_mul(1_000).saturating_add(nanoseconds / 1_000_000))
}

fn begin_anew_after(path: &Path, fresh: Duration) -> io::Result<()> {
    let Some(found) = look(path)? else { return Ok(()) };
    // Change times are the system's, whatever clock the rest of the daemon goes by.
    if fresh > Duration::ZERO && SystemClock.now().since(changed_at(&found)) < fresh {
        return Ok(());
    }
    begin_anew(path)
}

/// The access time is set, so the change time is set with it, and the modification time stays.
fn begin_anew(path: &Path) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        // Of another user: it is never removed.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;

    use super::{MediaStore, Removed, changed_at, look};
    use crate::model::{Clock, SystemClock, Timestamp};

    const DAY: Duration = Duration::from_secs(86_400);

    async fn put(store: &MediaStore, text: &'static str) -> String {
        let body = stream::iter([Ok::<_, ()>(Bytes::from_static(text.as_bytes()))]);
        store.put(body).await.unwrap().sha256
    }

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// Everything that is there now is idle by this time.
    fn tomorrow() -> Timestamp {
        SystemClock.now().plus(DAY)
    }

    #[tokio::test]
    async fn only_uploads_are_idle_a_page_at_a_time_in_the_order_of_their_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let store = MediaStore::new(folder.path(), Vec::new(), 100).unwrap();
        let earlier = Timestamp::from_millis(SystemClock.now().as_millis() - 1_000);
        let mut sent = Vec::new();
        for text in ["a", "b", "c", "d", "e", "f", "g"] {
            sent.push(put(&store, text).await);
        }
        sent.sort_unstable();
        // By a person's hand: under another name, and beside its place.
        let media = folder.path().join("media");
        std::fs::write(media.join("film.mp4"), b"x").unwrap();
        std::fs::write(media.join(&sent[0]), b"x").unwrap();
        std::fs::write(media.join(&sent[0][..2]).join(format!("{}.bak", sent[0])), b"x").unwrap();
        let (before, now) = (tomorrow(), SystemClock.now());
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = names(&store.idle(after.clone(), (before, now), 3).await.unwrap());
            assert!(page.len() <= 3);
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            found.extend(page);
        }
        assert_eq!(found, sent);
        assert_eq!(
            store.idle(String::new(), (earlier, now), 3).await.unwrap(),
            Vec::<PathBuf>::new(),
            "all came since"
        );
        let given = vec![media.join("film.mp4"), media.join(&sent[0]), folder.path().join("elsewhere")];
        assert_eq!(store.remove_idle(given, before).await.unwrap(), Removed::default());
        assert!(media.join("film.mp4").exists());
    }

    #[tokio::test]
    async fn what_was_named_since_stays_and_its_size_inode_and_time_are_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let store = MediaStore::new(folder.path(), Vec::new(), 100).unwrap();
        let sha256 = put(&store, "abc").await;
        let known = store.resolve(&format!("sha256:{sha256}")).await.unwrap();
        let found = store.idle(String::new(), (tomorrow(), SystemClock.now()), 10).await.unwrap();
        assert_eq!(found.as_slice(), std::slice::from_ref(&known.path));
        // Between the look and the removal it was named again. The kernel's times of files are behind its clock, by
        // a tick or more.
        let looked_at = SystemClock.now();
        let named_at = || changed_at(&look(&known.path).unwrap().unwrap());
        while named_at() < looked_at {
            tokio::time::sleep(Duration::from_millis(5)).await;
            store.named(found.clone()).await.unwrap();
        }
        assert_eq!(store.remove_idle(found.clone(), looked_at).await.unwrap(), Removed::default());
        assert!(crate::store::media::unchanged(&known).await.unwrap());
        assert_eq!(store.resolve(&format!("sha256:{sha256}")).await.unwrap(), known);
        let removed = store.remove_idle(found.clone(), tomorrow()).await.unwrap();
        assert_eq!(removed, Removed { files: 1, bytes: 3 });
        // A run that was cut off after its unlink finds nothing to do, and the same bytes can come again.
        assert_eq!(store.remove_idle(found.clone(), tomorrow()).await.unwrap(), Removed::default());
        store.named(found).await.unwrap();
        assert!(store.resolve(&format!("sha256:{sha256}")).await.is_err());
        assert_eq!(put(&store, "abc").await, sha256);
        assert!(store.resolve(&format!("sha256:{sha256}")).await.is_ok());
    }

    #[tokio::test]
    async fn a_time_far_ahead_begins_anew_and_is_over_a_day_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = MediaStore::new(folder.path(), Vec::new(), 100).unwrap();
        put(&store, "abc").await;
        let long_ago = Timestamp::from_millis(SystemClock.now().as_millis() - 10 * 86_400_000);
        let look = |before, now| store.idle(String::new(), (before, now), 10);
        assert!(look(long_ago, long_ago).await.unwrap().is_empty());
        assert_eq!(look(tomorrow(), SystemClock.now()).await.unwrap().len(), 1);
    }
}
