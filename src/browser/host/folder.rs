//! One profile's data directory: made, proved to be free, and read.
//!
//! Called by a session's life alone, before and after its browser runs. The invariant: what Chromium
//! leaves to guard the folder (`SingletonLock`) and to say its port (`DevToolsActivePort`) is removed
//! only after proof that no living process owns it (fence.md rule 16). Everything temporary of a
//! session lies in `.scratch` inside the folder, so that nothing is ever left elsewhere; the rest of
//! the folder is the profile itself and is never touched.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;

use crate::browser::processes;
use crate::model::{Failure, FailureCode, ProfileId};

const PORT_FILE: &str = "DevToolsActivePort";
const SINGLETON_FILES: [&str; 3] = ["SingletonLock", "SingletonCookie", "SingletonSocket"];
const SCRATCH: &str = ".scratch";
/// What the `SingletonLock` of our own last browser said.
const LAST_LOCK: &str = ".cove-last-lock";
/// Longest path of a unix socket, without its closing zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;
/// What Chromium appends to TMPDIR for its own socket.
const CHROMIUM_SOCKET: &str = "/org.chromium.Chromium.XXXXXX/SingletonSocket";

/// The data directory of one profile.
#[derive(Clone, Debug)]
pub struct ProfileFolder {
    path: PathBuf,
}

impl ProfileFolder {
    /// Makes the folder (0700) where it is not there. `profiles_dir` is canonical.
    ///
    /// # Errors
    /// When it cannot be made, or something else has its name.
    pub fn open(profiles_dir: &Path, profile: &ProfileId) -> Result<Self, Failure> {
        let path = profiles_dir.join(profile.as_str());
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(start_failed(format!("the folder {} cannot be made: {error}", path.display()))),
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => Ok(Self { path }),
            Ok(_) => Err(start_failed(format!("{} is not a folder", path.display()))),
            Err(error) => Err(start_failed(format!("the folder {} cannot be read: {error}", path.display()))),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Proves that no living process uses the folder, and removes what a dead one left.
    ///
    /// # Errors
    /// `profile_in_use`, with who uses it.
    pub fn take(&self) -> Result<(), Failure> {
        if let Some(browser) =
            processes::browsers(&processes::all()).into_iter().find(|browser| browser.data_dir == self.path)
        {
            let whose = if browser.ours { "a browser that an earlier host started" } else { "another browser" };
            let pid = browser.identity.pid;
            return Err(in_use(format!("the profile is open in {whose} (process {pid}); close it")));
        }
        if let Ok(lock) = fs::read_link(self.path.join(SINGLETON_FILES[0])) {
            self.prove_dead(&lock.to_string_lossy())?;
        }
        for name in SINGLETON_FILES.into_iter().chain([PORT_FILE]) {
            remove(&self.path.join(name))
                .map_err(|error| start_failed(format!("the old {name} cannot be removed: {error}")))?;
        }
        Ok(())
    }

    /// `lock` is `<host name>-<pid>`. No visible process works on the folder: what is left to exclude
    /// is an owner that cannot be seen from here.
    fn prove_dead(&self, lock: &str) -> Result<(), Failure> {
        let last = fs::read_to_string(self.path.join(LAST_LOCK)).unwrap_or_default();
        let Some((host, pid)) = lock.rsplit_once('-') else { return Ok(()) };
        let here = rustix::system::uname();
        if host.as_bytes() != here.nodename().to_bytes() {
            // A lock that our own browser made under an older name of this machine (a container that was
            // made again): we hold the folder's lock now, so the host that started it is gone.
            return if lock == last {
                Ok(())
            } else {
                let file = self.path.join(SINGLETON_FILES[0]);
                Err(in_use(format!(
                    "the profile was last opened on the machine `{host}`; close it there, or remove {}",
                    file.display()
                )))
            };
        }
        let owner = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        let hidden = owner.is_some_and(|owner| rustix::process::test_kill_process(owner) == Err(Errno::PERM));
        if hidden && processes::read(pid.parse().unwrap_or(0)).is_none() {
            return Err(in_use(format!("the profile may be open in process {pid} of another user; close it")));
        }
        Ok(())
    }

    /// A fresh scratch folder. The descriptor is part of the answer where the path is too long for
    /// Chromium's socket and is spelled through /proc: it must stay open as long as the browser runs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_scratch(&self) -> Result<Scratch, Failure> {
        let path = self.path.join(SCRATCH);
        let make = || -> io::Result<Scratch> {
            self.clear_scratch()?;
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            if path.as_os_str().as_bytes().len() + CHROMIUM_SOCKET.len() <= MAX_SOCKET_PATH_BYTES {
                return Ok(Scratch { temporary: path.clone(), path: path.clone(), _held: None });
            }
            let held = OwnedFd::from(fs::File::open(&path)?);
            let temporary = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()));
            Ok(Scratch { temporary, path: path.clone(), _held: Some(held) })
        };
        make().map_err(|error| start_failed(format!("{} cannot be made: {error}", path.display())))
    }

    /// # Errors
    /// When it is there and cannot be removed.
    pub fn clear_scratch(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.path.join(SCRATCH)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Port and path of the browser target, once Chromium has written them.
    #[must_use]
    pub fn devtools(&self) -> Option<(u16, String)> {
        parse_devtools(&fs::read_to_string(self.path.join(PORT_FILE)).ok()?)
    }

    /// Keeps what the browser's own lock says, for a start under another host name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_lock(&self) -> io::Result<()> {
        let lock = fs::read_link(self.path.join(SINGLETON_FILES[0]))?;
        fs::write(self.path.join(LAST_LOCK), lock.as_os_str().as_bytes())
    }
}

/// Where a session's temporary files go.
#[derive(Debug)]
pub struct Scratch {
    /// For TMPDIR: short enough for a socket in it.
    pub temporary: PathBuf,
    pub path: PathBuf,
    _held: Option<OwnedFd>,
}

fn parse_devtools(text: &str) -> Option<(u16, String)> {
    let (port, path) = text.split_once('\n')?;
    let path = path.trim_end();
    let port: u16 = port.trim().parse().ok()?;
    (port != 0 && path.starts_with("/devtools/browser/")).then(|| (port, path.to_owned()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn start_failed(detail: String) -> Failure {
    Failure::new(FailureCode::BrowserStartFailed, detail)
}

fn in_use(detail: String) -> Failure {
    Failure::new(FailureCode::ProfileInUse, detail)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::{LAST_LOCK, PORT_FILE, ProfileFolder, parse_devtools};
    use crate::model::{FailureCode, ProfileId};

    fn folder(profile: &str) -> (tempfile::TempDir, ProfileFolder) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        let folder = ProfileFolder::open(&path, &ProfileId::new(profile).unwrap()).unwrap();
        (root, folder)
    }

    fn host_name() -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    #[test]
    fn a_folder_is_private_and_is_a_folder() {
        let (root, folder) = folder("anna");
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        symlink("/tmp", root.path().join("link")).unwrap();
        let link = ProfileFolder::open(root.path(), &ProfileId::new("link").unwrap()).unwrap_err();
        assert_eq!(link.code, FailureCode::BrowserStartFailed);
    }

    #[test]
    fn rule_16_a_dead_owners_files_are_removed() {
        let (_root, folder) = folder("anna");
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let lock = folder.path().join("SingletonLock");
        symlink(format!("{}-{}", host_name(), dead.id()), &lock).unwrap();
        fs::write(folder.path().join(PORT_FILE), "1\n/devtools/browser/x").unwrap();
        folder.take().unwrap();
        assert!(fs::symlink_metadata(&lock).is_err() && folder.devtools().is_none());
    }

    #[test]
    fn rule_16_a_living_owner_keeps_the_folder() {
        let (_root, folder) = folder("anna");
        let lock = folder.path().join("SingletonLock");
        let switch = format!("--user-data-dir={}", folder.path().display());
        // A stand-in for a browser: a process with the switch on its command line.
        let mut owner = Command::new("sh")
            .args(["-c", "read line", "chromium", &switch])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        symlink(format!("{}-{}", host_name(), owner.id()), &lock).unwrap();
        let refused = folder.take().unwrap_err();
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert_eq!(refused.code, FailureCode::ProfileInUse);
        assert!(refused.detail.contains(&owner.id().to_string()), "{refused}");
        assert!(fs::symlink_metadata(&lock).is_ok());
        folder.take().unwrap();
    }

    #[test]
    fn rule_16_a_lock_of_another_machine_stays_unless_it_was_ours() {
        let (_root, folder) = folder("anna");
        let lock = folder.path().join("SingletonLock");
        symlink("elsewhere-12", &lock).unwrap();
        let refused = folder.take().unwrap_err();
        assert!(refused.code == FailureCode::ProfileInUse && refused.detail.contains("elsewhere"), "{refused}");
        fs::write(folder.path().join(LAST_LOCK), "elsewhere-12").unwrap();
        folder.take().unwrap();
        assert!(fs::symlink_metadata(&lock).is_err());
    }

    #[test]
    fn a_port_file_counts_only_when_it_is_whole() {
        assert_eq!(parse_devtools("40123\n/devtools/browser/ab"), Some((40_123, "/devtools/browser/ab".into())));
        for cut in ["", "40123", "40123\n", "40123\n/dev", "0\n/devtools/browser/ab", "x\n/devtools/browser/ab"] {
            assert_eq!(parse_devtools(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn scratch_is_fresh_and_short_enough_for_a_socket() {
        let (_root, folder) = folder(&"p".repeat(64));
        fs::create_dir(folder.path().join(".scratch")).unwrap();
        fs::write(folder.path().join(".scratch/old"), "x").unwrap();
        let scratch = folder.make_scratch().unwrap();
        assert_eq!(fs::read_dir(&scratch.temporary).unwrap().count(), 0);
        assert!(scratch.temporary.as_os_str().len() + super::CHROMIUM_SOCKET.len() <= super::MAX_SOCKET_PATH_BYTES);
        folder.clear_scratch().unwrap();
        folder.clear_scratch().unwrap();
    }
}
