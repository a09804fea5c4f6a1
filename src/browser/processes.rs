//! What /proc says about browser processes: which belong to one tree, and an end for them.
//!
//! Called by the browser host for its own, and by the providers and `cove doctor` for browsers that others
//! started; `ports` leads from a `DevTools` port to a process and back, `usage` says what a tree uses. A
//! process is named by pid *and* start time, so that a pid that was given away again is never signaled in
//! its place; signals go through a pidfd for the same reason. Everything here is synchronous and quick (a few
//! milliseconds for a few hundred processes): callers run it off the runtime's threads. Nothing here waits,
//! and nothing decides whose browser it is.

mod ports;
mod usage;

pub use ports::{Holder, Listener, listener, opened_by, ports_of, who_opened};
pub use usage::stats;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::model::BootTime;

/// The switch on the command line of every browser that a host starts; Chromium ignores it. It tells
/// our browsers from those that a person opened in the same folder.
pub const OUR_SWITCH: &str = "--cove-browser-host";
/// In the environment of every process of a session: the profile's folder.
pub const PROFILE_VARIABLE: &str = "COVE_PROFILE_DIR";

const DATA_DIR_SWITCH: &str = "--user-data-dir=";
const PORT_SWITCH: &str = "--remote-debugging-port=";
/// Largest part of a command line or environment that is looked at.
const MAX_PROC_FILE_BYTES: u64 = 128 * 1024;

/// One process for as long as it lives: the pid alone may be given away again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks from boot to its start.
    started: u64,
}

impl Identity {
    /// When the process began.
    #[must_use]
    pub fn began(self) -> BootTime {
        let milliseconds =
            u128::from(self.started) * 1_000 / u128::from(rustix::param::clock_ticks_per_second().max(1));
        BootTime::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
    }
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub identity: Identity,
    pub parent: u32,
    pub group: u32,
    /// Dead but not reaped.
    pub zombie: bool,
    /// Of itself and of its reaped children.
    cpu_ticks: u64,
}

/// Every process that can be seen. One that ends meanwhile is left out.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| read(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// The process with this pid now.
#[must_use]
pub fn read(pid: u32) -> Option<Process> {
    parse_stat(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, and may hold anything, parentheses too.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        identity: Identity { pid, started: number(19)? },
        parent: u32::try_from(number(1)?).ok()?,
        group: u32::try_from(number(2)?).ok()?,
        zombie: matches!(fields.first(), Some(&("Z" | "X"))),
        cpu_ticks: (11..=14).filter_map(number).sum(),
    })
}

/// What tells the processes of one session from all others.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The browser's main process, which leads a process group of its own.
    pub main: Option<Identity>,
    /// The profile's folder as the command lines spell it.
    pub data_dir: PathBuf,
}

impl Tree {
    /// Every process of the tree that lives or is a zombie: descendants of the main process and of
    /// `known`, its process group, and processes whose command line or environment carries the folder.
    ///
    /// `known` are members that were seen before: once the main process is dead its children have
    /// another parent, and the line of descent is gone.
    #[must_use]
    pub fn members(&self, processes: &[Process], known: &BTreeSet<Identity>) -> BTreeSet<Identity> {
        let own_pid = std::process::id();
        // The system gives no pid away while a group of that number lives: where another process has
        // the main process's pid, its group is gone and the number means something else.
        let group = self.main.map(|main| main.pid).filter(|pid| {
            let holder = processes.iter().find(|process| process.identity.pid == *pid);
            holder.is_none_or(|holder| Some(holder.identity) == self.main)
        });
        let mut members: BTreeSet<Identity> = BTreeSet::new();
        for process in processes.iter().filter(|process| process.identity.pid != own_pid) {
            let pid = process.identity.pid;
            let orphan = process.parent == own_pid || process.parent == 1;
            if known.contains(&process.identity)
                || Some(process.identity) == self.main
                || Some(process.group) == group
                || (!process.zombie && carries(&command_line(pid), &self.data_dir))
                || (!process.zombie && orphan && environment_names(pid, &self.data_dir))
            {
                members.insert(process.identity);
            }
        }
        with_descendants(members, processes)
    }
}

fn with_descendants(mut members: BTreeSet<Identity>, processes: &[Process]) -> BTreeSet<Identity> {
    loop {
        let parents: BTreeSet<u32> = members.iter().map(|member| member.pid).collect();
        let before = members.len();
        members.extend(processes.iter().filter(|child| parents.contains(&child.parent)).map(|child| child.identity));
        if members.len() == before {
            return members;
        }
    }
}

/// The tree of a browser that somebody else started, of whichever user: the main process, its descendants,
/// and what works on the same data directory (Chromium's crash handler leaves its parent on purpose).
/// Empty where the main process is gone.
#[must_use]
pub fn tree_of(main: Identity) -> BTreeSet<Identity> {
    let processes = all();
    if !processes.iter().any(|process| process.identity == main && !process.zombie) {
        return BTreeSet::new();
    }
    let line = command_line(main.pid);
    let data_dir = value_of(&line, DATA_DIR_SWITCH).map(|value| PathBuf::from(std::ffi::OsStr::from_bytes(value)));
    let mut members = BTreeSet::from([main]);
    // A folder that is not absolute means another one for every working directory.
    if let Some(data_dir) = data_dir.filter(|data_dir| data_dir.is_absolute()) {
        let same = |process: &&Process| !process.zombie && carries(&command_line(process.identity.pid), &data_dir);
        members.extend(processes.iter().filter(same).map(|process| process.identity));
    }
    with_descendants(members, &processes)
}

/// Whether one of these was told to let itself be driven, by whichever port it chose.
#[must_use]
pub fn is_debuggable(members: &BTreeSet<Identity>) -> bool {
    members.iter().any(|member| value_of(&command_line(member.pid), PORT_SWITCH).is_some())
}

/// What follows `switch` (which ends with `=`) among the arguments.
fn value_of<'a>(command_line: &'a [u8], switch: &str) -> Option<&'a [u8]> {
    command_line.split(|byte| *byte == 0).skip(1).find_map(|argument| argument.strip_prefix(switch.as_bytes()))
}

/// The raw command line; empty for a zombie.
fn command_line(pid: u32) -> Vec<u8> {
    read_bounded(&format!("/proc/{pid}/cmdline"))
}

fn read_bounded(path: &str) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    // A process that ends meanwhile, or belongs to someone else, has nothing to say.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_PROC_FILE_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// Whether a command line works on this data directory. Chromium rewrites those of its helpers with
/// blanks instead of zeros, so both end an argument.
fn carries(command_line: &[u8], data_dir: &Path) -> bool {
    let dir = data_dir.as_os_str().as_bytes();
    let switches = [
        [DATA_DIR_SWITCH.as_bytes(), dir].concat(),
        // The crash handler has no `--user-data-dir`, but keeps its files below it.
        [b"--database=".as_slice(), dir, b"/"].concat(),
    ];
    let ends = |rest: &[u8], switch: &[u8]| switch.ends_with(b"/") || matches!(rest.first(), None | Some(0 | b' '));
    switches.iter().any(|switch| {
        command_line
            .windows(switch.len())
            .enumerate()
            .any(|(at, window)| window == switch.as_slice() && ends(&command_line[at + switch.len()..], switch))
    })
}

fn environment_names(pid: u32, data_dir: &Path) -> bool {
    let wanted = [PROFILE_VARIABLE.as_bytes(), b"=", data_dir.as_os_str().as_bytes()].concat();
    read_bounded(&format!("/proc/{pid}/environ")).split(|byte| *byte == 0).any(|variable| variable == wanted)
}

/// A running browser, seen from outside: a main process with a data directory.
#[derive(Clone, Debug)]
pub struct Browser {
    pub identity: Identity,
    /// As its command line says, made canonical.
    pub data_dir: PathBuf,
    /// Started by a browser host.
    pub ours: bool,
}

/// Every browser's main process among `processes`.
#[must_use]
pub fn browsers(processes: &[Process]) -> Vec<Browser> {
    let living = processes.iter().filter(|process| !process.zombie);
    living.filter_map(|process| browser(process.identity, &command_line(process.identity.pid))).collect()
}

fn browser(identity: Identity, command_line: &[u8]) -> Option<Browser> {
    let arguments: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let value = value_of(command_line, DATA_DIR_SWITCH)?;
    if arguments.iter().any(|argument| argument.starts_with(b"--type=")) {
        return None;
    }
    let spelled = PathBuf::from(std::ffi::OsStr::from_bytes(value));
    let absolute = if spelled.is_absolute() {
        spelled
    } else {
        std::fs::read_link(format!("/proc/{}/cwd", identity.pid)).ok()?.join(spelled)
    };
    let data_dir = absolute.canonicalize().unwrap_or(absolute);
    let ours = arguments.iter().any(|argument| *argument == OUR_SWITCH.as_bytes());
    Some(Browser { identity, data_dir, ours })
}

/// The folder that a helper (a process with `--type=`) of a browser works on, if it is a direct child of `folder`.
#[must_use]
pub fn helper_of(process: &Process, folder: &Path) -> Option<PathBuf> {
    let line = command_line(process.identity.pid);
    let text = String::from_utf8_lossy(&line);
    let mut arguments = text.split(['\0', ' ']);
    if !text.contains("--type=") {
        return None;
    }
    let dir = PathBuf::from(arguments.find_map(|argument| argument.strip_prefix(DATA_DIR_SWITCH))?);
    (dir.parent() == Some(folder)).then_some(dir)
}

/// Sends `signal` to exactly this process. True: it was sent; false: the process is gone already.
///
/// # Errors
/// When the system does not let us.
pub fn signal(identity: Identity, signal: Signal) -> Result<bool, Errno> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let sent = rustix::process::pidfd_open(pid, PidfdFlags::empty()).and_then(|process| {
        // With the pidfd in hand the pid cannot change its meaning between the look and the signal.
        if read(identity.pid).is_some_and(|now| now.identity == identity) {
            rustix::process::pidfd_send_signal(process, signal).map(|()| true)
        } else {
            Ok(false)
        }
    });
    if sent == Err(Errno::SRCH) { Ok(false) } else { sent }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::{Identity, Tree, all, browser, carries, parse_stat, read, signal, stats, tree_of};

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let line = "42 (a) Z (b)) S 7 42 42 0 -1 4194304 100 0 0 0 5 6 1 2 20 0 1 0 298068 3133440 416";
        let process = parse_stat(42, line).unwrap();
        assert_eq!((process.parent, process.group, process.zombie), (7, 42, false));
        assert_eq!((process.identity.started, process.cpu_ticks), (298_068, 14));
        assert!(parse_stat(42, "42 (cut").is_none());
    }

    #[test]
    fn a_command_line_belongs_to_one_folder_only() {
        let dir = Path::new("/p/anna");
        assert!(carries(b"chromium\0--user-data-dir=/p/anna\0about:blank\0", dir));
        assert!(carries(b"chromium --type=renderer --user-data-dir=/p/anna --x\0", dir));
        assert!(carries(b"handler\0--database=/p/anna/.scratch/crashes\0", dir));
        assert!(carries(b"chromium\0--user-data-dir=/p/anna", dir));
        assert!(!carries(b"chromium\0--user-data-dir=/p/anna2\0", dir));
        assert!(!carries(b"chromium\0--user-data-dir=/p/ann\0", dir));
        assert!(!carries(b"vim\0/p/anna\0", dir));
    }

    #[test]
    fn a_browser_is_a_main_process_and_says_whose_it_is() {
        let identity = Identity { pid: 1, started: 1 };
        let ours = browser(identity, b"chromium\0--cove-browser-host\0--user-data-dir=/p/anna\0").unwrap();
        assert!(ours.ours && ours.data_dir == Path::new("/p/anna"));
        assert!(!browser(identity, b"chromium\0--user-data-dir=/p/anna\0").unwrap().ours);
        assert!(browser(identity, b"chromium\0--type=utility\0--user-data-dir=/p/anna\0").is_none());
        assert!(browser(identity, b"chromium\0").is_none());
    }

    #[test]
    fn a_tree_holds_grandchildren_and_a_signal_hits_only_the_process_meant() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).stdin(Stdio::null()).spawn().unwrap();
        let main = read(child.id()).unwrap().identity;
        let tree = Tree { main: Some(main), data_dir: "/nowhere".into() };
        // The shell's own child may not be there yet: look until it is.
        let members = loop {
            let members = tree.members(&all(), &BTreeSet::new());
            if members.len() > 1 {
                break members;
            }
            std::thread::yield_now();
        };
        assert!(stats(&members).pss_bytes > 0);
        assert_eq!(tree_of(main), members);
        let stranger = Identity { started: main.started + 1, ..main };
        assert_eq!(tree_of(stranger), BTreeSet::new());
        assert_eq!(signal(stranger, rustix::process::Signal::KILL), Ok(false));
        assert!(child.try_wait().unwrap().is_none());
        for member in &members {
            assert_eq!(signal(*member, rustix::process::Signal::KILL), Ok(true));
        }
        child.wait().unwrap();
        assert!(read(main.pid).is_none_or(|now| now.identity != main));
    }
}
