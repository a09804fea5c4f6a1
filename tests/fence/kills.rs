//! What is broken, and how: the daemon, a browser, both, the connection between them, a page.
//!
//! Processes are named by pid and start time, and only those under the test's own daemon are ever touched. The
//! connection is cut by taking a copy of the daemon's socket and shutting it down, which needs no more than being the
//! daemon's parent; where even that is forbidden the answer says so, and the caller does something else.

use std::collections::BTreeSet;
use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant};

use cove::browser::processes::{self, Identity, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

use super::rig::{Daemon, processes_with};

/// X2 and X3: so long after a kill no process of a browser is left.
pub const ORPHAN_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    Daemon,
    Browser,
    Both,
    Connection,
    /// The browser stands still for longer than a call may take, and goes on.
    Frozen,
}

impl Whom {
    /// What kills at once.
    pub const QUICK: [Self; 4] = [Self::Daemon, Self::Browser, Self::Both, Self::Connection];
}

/// A signal that may come too late.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _gone = rustix::process::kill_process(pid, signal);
}

fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The main process of the profile's browser, while there is one.
pub fn main_process(daemon: &Daemon, profile: &str) -> Option<u32> {
    let folder = format!("--user-data-dir={}", daemon.state().join("profiles").join(profile).display());
    processes_with(&folder).into_iter().find(|pid| !command_line(*pid).contains(" --type="))
}

/// Everything that descends from `root`, itself left out.
pub fn descendants(root: u32) -> Vec<Process> {
    let all = processes::all();
    let mut family = BTreeSet::from([root]);
    loop {
        let before = family.len();
        family.extend(
            all.iter().filter(|one| family.contains(&one.parent)).map(|one| one.identity.pid).collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    all.into_iter().filter(|one| one.identity.pid != root && family.contains(&one.identity.pid)).collect()
}

/// The processes that draw the browser's pages.
pub fn renderers(main: u32) -> Vec<u32> {
    let pids = descendants(main).into_iter().map(|one| one.identity.pid);
    pids.filter(|pid| command_line(*pid).contains("--type=renderer")).collect()
}

/// Fails when one of `those` lives longer than [`ORPHAN_DEADLINE`] from now.
pub async fn all_end(those: &[Identity], what: &str) {
    let began = Instant::now();
    loop {
        let alive = |one: &&Identity| processes::read(one.pid).is_some_and(|now| now.identity == **one && !now.zombie);
        let left: Vec<_> = those.iter().filter(alive).map(|one| (one.pid, command_line(one.pid))).collect();
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < ORPHAN_DEADLINE, "{what}: still there after {:?}: {left:#?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where the profile's browser answers CDP: its port, and the path of its WebSocket.
pub fn devtools(daemon: &Daemon, profile: &str) -> Option<(u16, String)> {
    let file = daemon.state().join("profiles").join(profile).join("DevToolsActivePort");
    let text = std::fs::read_to_string(file).ok()?;
    let (port, path) = text.split_once('\n')?;
    Some((port.parse().ok()?, path.trim().to_owned()))
}

/// Whether the profile's browser shows a page whose address holds `part`.
pub async fn shows(daemon: &Daemon, profile: &str, part: &str) -> bool {
    let Some((port, _)) = devtools(daemon, profile) else { return false };
    // A browser that is still starting does not answer.
    let Ok(answer) = daemon.client.get(format!("http://127.0.0.1:{port}/json/list")).send().await else { return false };
    let targets: serde_json::Value = answer.json().await.unwrap_or_default();
    let pages = targets.as_array().into_iter().flatten().filter(|target| target["type"] == "page");
    pages.filter_map(|page| page["url"].as_str()).any(|url| url.contains(part))
}

/// Copies of the daemon's connections to the profile's browser; `Err` where the system allows no such thing.
pub fn connections(daemon: &Daemon, profile: &str) -> std::io::Result<Vec<OwnedFd>> {
    let Some((port, _)) = devtools(daemon, profile) else { return Ok(Vec::new()) };
    let sockets = sockets_to(port);
    let process = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))? {
        let path = entry?.path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if !inode.is_some_and(|inode: u64| sockets.contains(&inode)) {
            continue;
        }
        let number: RawFd = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        match rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(copy) => copies.push(copy),
            // Closed meanwhile.
            Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copies)
}

/// Ends the connections for both sides, as a network would.
pub fn cut(connections: &[OwnedFd]) {
    for connection in connections {
        // One that is closed already is as good.
        let _closed = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
    }
}

/// Inodes of the sockets that are connected to this port of this machine.
fn sockets_to(port: u16) -> BTreeSet<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!("0100007F:{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(2) == Some(&remote.as_str())).filter_map(|row| row.get(9)?.parse().ok()).collect()
}
