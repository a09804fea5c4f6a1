//! From a `DevTools` port to a process tree and its figures, with a real Chromium of another user.
//!
//! The one who looks is this test binary again, run as a third user, as its test [`look`] alone: so what may
//! not be read is refused by the kernel. Other users take root; without it the browser is our own, and the
//! looker is not run. What was measured is printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cove::browser::SessionStats;
use cove::browser::processes::{self, Holder, Identity};

/// What the looker is told: port, and the main process.
const LOOK: &str = "COVE_TEST_LOOK";
const BROWSERS_USER: u32 = 65_533;
const LOOKERS_USER: u32 = 65_532;
const SOON: Duration = Duration::from_secs(30);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as this user, where we may become it.
fn as_user(uid: u32, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}")).arg("--clear-groups").arg(program);
    command
}

/// Not a browser host's: nothing of ours on its command line, and a user of its own.
struct Browser {
    child: Child,
    folder: tempfile::TempDir,
}

impl Browser {
    fn start(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        if is_root() {
            for path in [folder.path(), &data] {
                std::os::unix::fs::chown(path, Some(BROWSERS_USER), Some(BROWSERS_USER)).unwrap();
            }
        }
        let mut command = as_user(BROWSERS_USER, Path::new("chromium"));
        command
            .args(["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
            .arg(format!("--remote-debugging-port={port}"))
            .arg(format!("--user-data-dir={}", data.display()))
            .arg("about:blank")
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), folder }
    }

    /// Its port, once something listens there, and its main process as it is then.
    fn up(&self) -> (u16, Identity) {
        let file = self.folder.path().join("data/DevToolsActivePort");
        let port = soon("the browser listens", || {
            let port = fs::read_to_string(&file).ok()?.lines().next()?.parse().ok()?;
            processes::listener(port).map(|_| port)
        });
        (port, processes::read(self.child.id()).unwrap().identity)
    }

    /// The tree when it does not grow any more.
    fn settled(main: Identity) -> BTreeSet<Identity> {
        let mut before = BTreeSet::new();
        soon("the tree is whole", || {
            let tree = processes::tree_of(main);
            let same = tree.len() >= 4 && tree == before;
            before.clone_from(&tree);
            if !same {
                pause(Duration::from_millis(500));
            }
            same.then_some(tree)
        })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(main) = processes::read(self.child.id()) {
            for member in processes::tree_of(main.identity) {
                let _ = processes::signal(member, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a synchronous test")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < SOON, "not within {} s: {what}", SOON.as_secs());
        pause(Duration::from_millis(50));
    }
}

/// This binary where anybody can run it.
fn looker(folder: &Path) -> PathBuf {
    let path = folder.join("looker");
    fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[derive(Debug)]
struct Seen {
    uid: u32,
    holder: String,
    pids: BTreeSet<u32>,
    ports: Vec<u16>,
    stats: SessionStats,
}

/// Not a test by itself: what the third user sees, as lines.
#[test]
fn look() {
    let Ok(told) = std::env::var(LOOK) else { return };
    let (port, pid) = told.split_once(' ').unwrap();
    let found = processes::listener(port.parse().unwrap()).unwrap();
    let holder = match found.holder {
        Holder::Holds(_) => "holds",
        Holder::Named(_) => "named",
        Holder::Hidden => "hidden",
    };
    // What Dolphin's answer would have told: a pid alone.
    let main = processes::read(pid.parse().unwrap()).unwrap().identity;
    assert!(found.process().is_none_or(|process| process == main));
    let tree = processes::tree_of(main);
    let stats = serde_json::to_string(&processes::stats(&tree)).unwrap();
    println!("seen {} {holder} {:?} {stats}", found.uid, processes::ports_of(&tree));
}

fn seen_by_another_user(folder: &Path, port: u16, main: Identity) -> Seen {
    let mut command = as_user(LOOKERS_USER, &looker(folder));
    command.args(["--exact", "look", "--nocapture"]).env(LOOK, format!("{port} {}", main.pid));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let at = text.find("seen ").unwrap() + "seen ".len();
    let mut fields = text[at..].lines().next().unwrap().splitn(3, ' ');
    let (uid, holder, rest) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
    let (ports, stats) = rest.split_once("] ").unwrap();
    let ports = ports.trim_start_matches('[').split(", ").filter_map(|port| port.parse().ok()).collect();
    let stats: SessionStats = serde_json::from_str(stats).unwrap();
    let pids = stats.pids.iter().copied().collect();
    Seen { uid: uid.parse().unwrap(), holder: holder.to_owned(), pids, ports, stats }
}

#[test]
fn a_port_leads_to_the_tree_of_another_users_browser_and_what_it_uses() {
    let browser = Browser::start(0);
    let (port, main) = browser.up();
    let owner = if is_root() { BROWSERS_USER } else { rustix::process::geteuid().as_raw() };
    let found = processes::listener(port).unwrap();
    assert_eq!((found.uid, found.holder), (owner, Holder::Holds(main)));

    let tree = Browser::settled(main);
    assert!(tree.contains(&main));
    assert_eq!(processes::ports_of(&tree), [port]);
    let exact = processes::stats(&tree);
    assert!(exact.exact && exact.cpu_seconds > 0.0 && exact.pids.len() == tree.len(), "{exact:?}");
    assert!(exact.pss_bytes > 50 << 20 && exact.pss_bytes < 2 << 30, "{exact:?}");
    let outside: BTreeSet<u32> = processes::all().iter().map(|one| one.identity.pid).collect();
    assert!(outside.len() > tree.len(), "the tree is not the machine");

    if is_root() {
        let folder = tempfile::tempdir().unwrap();
        let seen = seen_by_another_user(folder.path(), port, main);
        assert_eq!((seen.uid, seen.holder.as_str()), (BROWSERS_USER, "hidden"), "{seen:?}");
        assert!(!seen.stats.exact && seen.ports.is_empty(), "{seen:?}");
        assert!(seen.pids.is_subset(&tree.iter().map(|member| member.pid).collect()), "{seen:?}");
        let resident: u64 = tree.iter().map(|member| resident_bytes(member.pid)).sum();
        println!(
            "memory of {} processes in MiB: exact {}, as another user sees it {}, resident {}",
            tree.len(),
            exact.pss_bytes >> 20,
            seen.stats.pss_bytes >> 20,
            resident >> 20
        );
        // Other browsers of this machine share pages with this one and make its exact share smaller.
        assert!(seen.stats.pss_bytes > exact.pss_bytes / 5 * 4, "never far too little");
        assert!(seen.stats.pss_bytes < resident / 10 * 7, "what is shared is not counted for each");
        assert!(seen.stats.cpu_seconds >= exact.cpu_seconds * 0.9);
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Dolphin chooses a port and gives it to its browser.
#[test]
fn a_browser_that_was_told_its_port_is_found_where_its_descriptors_are_hidden() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let browser = Browser::start(free);
    let main = soon("the browser listens", || processes::listener(free)?.process());
    assert_eq!(main.pid, browser.child.id());
    if is_root() {
        let folder = tempfile::tempdir().unwrap();
        let seen = seen_by_another_user(folder.path(), free, main);
        assert_eq!((seen.holder.as_str(), seen.ports), ("named", vec![free]));
    }
}

#[test]
fn five_hundred_processes_are_looked_at_quickly() {
    let mut idle: Vec<Child> = Vec::new();
    for _ in 0..500 {
        idle.push(Command::new("sleep").arg("300").stdin(Stdio::null()).spawn().unwrap());
    }
    let browser = Browser::start(0);
    let (port, main) = browser.up();
    let tree = Browser::settled(main);
    let count = processes::all().len();
    let mut measured = Vec::new();
    let mut measure = |what: &str, call: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let begin = Instant::now();
                call();
                begin.elapsed()
            })
            .collect();
        times.sort();
        println!("{what}: median {:?} of {count} processes", times[4]);
        measured.push((what.to_owned(), times[4]));
    };
    measure("all", &|| drop(processes::all()));
    measure("listener", &|| assert!(processes::listener(port).is_some()));
    measure("tree_of", &|| assert!(!processes::tree_of(main).is_empty()));
    measure("ports_of", &|| assert_eq!(processes::ports_of(&tree), [port]));
    measure("stats", &|| assert!(processes::stats(&tree).pss_bytes > 0));
    for child in &mut idle {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(count > 500);
    // A bound for a busy machine, not a figure.
    assert!(measured.iter().all(|(_, time)| *time < Duration::from_secs(2)), "{measured:?}");
}
