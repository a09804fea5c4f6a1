//! What this machine itself shows of a profile's browser, beside what Dolphin says.
//!
//! The start and the stop ask it. Dolphin names a process, or names none in some builds: then the one whose
//! data directory lies in the profile's folder counts. Everything goes through `processes`, off the
//! runtime's threads. An empty answer means that nothing can be seen, never that nothing is there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use super::answer::Running;
use crate::browser::processes::{self, Identity};

#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// As Dolphin says, or as its data directory tells.
    pub pid: Option<u32>,
    pub main: Option<Identity>,
    /// The main process and what belongs to it.
    pub members: BTreeSet<Identity>,
    /// On which one of them answers on loopback.
    pub ports: Vec<u16>,
    /// One of them was told to let itself be driven.
    pub debuggable: bool,
}

/// The browser of a profile that runs.
pub async fn of(id: u64, running: Running) -> Sight {
    off_thread(move || {
        let pid = running.pid.or_else(|| by_data_dir(id));
        let Some(main) = pid.and_then(identity) else {
            return Sight { pid, ..Sight::default() };
        };
        let members = processes::tree_of(main);
        let ports = processes::ports_of(&members);
        let debuggable = processes::is_debuggable(&members);
        Sight { pid, main: Some(main), members, ports, debuggable }
    })
    .await
}

/// The process that listens on a port of this machine, where that can be told.
pub async fn on_port(port: u16) -> Option<Identity> {
    off_thread(move || processes::listener(port).and_then(|listener| listener.process())).await
}

/// The processes of a browser that was noted, as far as they live.
pub async fn tree(main: Identity) -> BTreeSet<Identity> {
    off_thread(move || processes::tree_of(main)).await
}

/// Whether one of them lives. A look that fails proves no end.
pub async fn is_one_alive(members: &BTreeSet<Identity>) -> bool {
    let members = members.clone();
    let lives = |member: &Identity| identity(member.pid).as_ref() == Some(member);
    tokio::task::spawn_blocking(move || members.iter().any(lives)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a look at the machine's processes failed");
        true
    })
}

/// The process with this pid, if it lives and may be looked at: one small file, where [`of`] looks at all.
pub async fn alive(pid: u32) -> Option<Identity> {
    off_thread(move || identity(pid)).await
}

fn identity(pid: u32) -> Option<Identity> {
    processes::read(pid).filter(|process| !process.zombie).map(|process| process.identity)
}

/// The only browser that works in a folder of the profile's number.
fn by_data_dir(id: u64) -> Option<u32> {
    let id = id.to_string();
    let mut found =
        processes::browsers(&processes::all()).into_iter().filter(|browser| is_folder_of(&browser.data_dir, &id));
    let first = found.next()?;
    found.next().is_none().then_some(first.identity.pid)
}

fn is_folder_of(data_dir: &Path, id: &str) -> bool {
    data_dir.iter().any(|part| part == OsStr::new(id))
}

async fn off_thread<T: Default + Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a look at the machine's processes failed");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_folder_of, of};
    use crate::browser::dolphin::answer::Running;

    #[test]
    fn a_data_directory_names_its_profile_by_a_whole_folder() {
        assert!(is_folder_of(Path::new("/home/a/.config/dolphin_anty/browser_profiles/43499381/data_dir"), "43499381"));
        assert!(!is_folder_of(Path::new("/home/a/browser_profiles/143499381/data_dir"), "43499381"));
    }

    #[tokio::test]
    async fn a_process_that_is_not_there_is_not_seen() {
        let own = of(1, Running { pid: Some(std::process::id()) }).await;
        assert_eq!(own.main.map(|main| main.pid), Some(std::process::id()));
        assert!(!own.debuggable);
        let gone = of(1, Running { pid: Some(u32::MAX) }).await;
        assert_eq!((gone.pid, gone.main, gone.members.len()), (Some(u32::MAX), None, 0));
    }
}
