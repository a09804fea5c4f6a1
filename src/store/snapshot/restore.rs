//! Putting a snapshot back, while no daemon runs.
//!
//! Called by the command line. The lock of the state file is held from the first look to the last rename, so a
//! daemon that starts meanwhile is refused. Invariants: the snapshot is proved good before anything of the state
//! directory changes; there is a whole state file under the name at every moment; the old one is kept beside it;
//! the ledger is not touched, for the next boot compares it with what was put back (fence.md rules 17 to 19).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;

use super::copy::Watch;
use super::drill::{manifest_of, unpack_checked};
use super::folder::compact;
use super::{Manifest, SnapshotError, container};
use crate::model::Timestamp;
use crate::store::boot::{LEDGER_FILE, STATE_FILE};
use crate::store::files::{lock, sync_folder_of};

/// Under this name it is unpacked; what a killed restore left there is overwritten by the next.
const UNPACKED: &str = "state.redb.restoring";

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{}: a daemon holds the state file; stop it first (`systemctl stop cove`), and restore then", .0.display())]
    Held(PathBuf),
    #[error("{}: {error}. Nothing was changed", path.display())]
    Snapshot { path: PathBuf, error: SnapshotError },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} belongs to another user (uid {uid}): run this as that user, or as root", path.display())]
    Foreign { path: PathBuf, uid: u32 },
}

/// What was done.
#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
    pub state: PathBuf,
    /// The state file that was there before.
    pub kept: Option<PathBuf>,
    /// Files of media and evidence that were missing.
    pub files: Vec<PathBuf>,
    /// The ledger is longer than when the snapshot was made: it can tell what went out since.
    pub ledger_went_on: bool,
}

/// The state file's lock. Where there is none, an empty file is put there: a daemon refuses to start over it.
struct Hold {
    _lock: FileBackend,
    path: PathBuf,
    /// It was put there by us.
    placeholder: bool,
    done: bool,
}

impl Hold {
    fn take(path: &Path) -> Result<Self, RestoreError> {
        let io = |error| RestoreError::Io { path: path.to_owned(), error };
        let (file, placeholder) = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
                (options.open(path).map_err(io)?, true)
            }
            file => (file.map_err(io)?, false),
        };
        let failed = |error| io(io::Error::other(error));
        let lock = lock(file).map_err(failed)?.ok_or_else(|| RestoreError::Held(path.to_owned()))?;
        Ok(Self { _lock: lock, path: path.to_owned(), placeholder, done: false })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.placeholder
            && !self.done
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an empty state file stays behind");
        }
    }
}

/// Proves the snapshot good and puts its state into `state_dir`. Blocks.
pub fn restore(snapshot: &Path, state_dir: &Path, now: Timestamp) -> Result<Restored, RestoreError> {
    let state = state_dir.join(STATE_FILE);
    let io = |error| RestoreError::Io { path: state.clone(), error };
    let folder = state_dir.metadata().map_err(|error| RestoreError::Io { path: state_dir.to_owned(), error })?;
    let own = rustix::process::geteuid();
    if !own.is_root() && folder.uid() != own.as_raw() {
        return Err(RestoreError::Foreign { path: state_dir.to_owned(), uid: folder.uid() });
    }
    let bad = |error| RestoreError::Snapshot { path: snapshot.to_owned(), error };
    // What needs no lock first: a wrong name is not told as a daemon in the way.
    manifest_of(snapshot).map_err(bad)?;
    let mut hold = Hold::take(&state)?;
    let unpacked = state_dir.join(UNPACKED);
    remove_if_there(&unpacked)?;
    let put = || {
        let watch = Watch::unlimited(state_dir);
        let (manifest, _) = unpack_checked(snapshot, &unpacked, &watch).map_err(bad)?;
        let files = container::unpack_missing(snapshot, state_dir, &watch).map_err(bad)?;
        let mut owned = vec![unpacked.clone()];
        owned.extend(files.iter().cloned());
        let like = if hold.placeholder { &folder } else { &state.metadata().map_err(io)? };
        for path in &owned {
            belong(path, like, own.is_root()).map_err(|error| RestoreError::Io { path: path.clone(), error })?;
        }
        let mode = if hold.placeholder { 0o600 } else { like.permissions().mode() };
        std::fs::set_permissions(&unpacked, std::fs::Permissions::from_mode(mode & 0o7777)).map_err(io)?;
        File::open(&unpacked).and_then(|file| file.sync_all()).map_err(io)?;
        Ok((manifest, files))
    };
    let put = put();
    if put.is_err() {
        remove_if_there(&unpacked)?;
    }
    let (manifest, files) = put?;
    let kept = (!hold.placeholder).then(|| state_dir.join(format!("{STATE_FILE}.before-restore-{}", compact(now))));
    if let Some(kept) = &kept {
        std::fs::hard_link(&state, kept).map_err(|error| RestoreError::Io { path: kept.clone(), error })?;
    }
    std::fs::rename(&unpacked, &state).map_err(io)?;
    hold.done = true;
    sync_folder_of(&state).map_err(io)?;
    let ledger = state_dir.join(LEDGER_FILE).metadata().map_or(0, |ledger| ledger.len());
    let ledger_went_on = ledger > manifest.ledger_bytes && manifest.machine == super::machine();
    Ok(Restored { manifest, state, kept, files, ledger_went_on })
}

fn remove_if_there(path: &Path) -> Result<(), RestoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RestoreError::Io { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}

/// Gives the file to whom the old one belonged; only root can, and only root need.
fn belong(path: &Path, like: &std::fs::Metadata, is_root: bool) -> io::Result<()> {
    if is_root { std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid())) } else { Ok(()) }
}
