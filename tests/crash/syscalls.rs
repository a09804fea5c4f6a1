//! The real daemon is killed on entering its n-th write, sync, truncation, rename: at every place where the
//! files are between two states, by the kernel's own count.
//!
//! The places are those of a clean run of the same work: `POINTS=n` of them, spread evenly, or all with
//! `POINTS=0`. strace counts for each thread; the boot and the writer are threads of their own, so a state
//! that exists already is tried as well as a new one: its boot is short, and the writer's first commits
//! come into reach. Where strace may not trace, that is said and nothing is tried.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::client::{Client, Memory};
use super::host::Host;
use super::kill::{ask_again_and_compare, check_indexes, prepared, settled};
use super::rig::{ATELIER, Daemon, cove};
use super::{number, seed};

/// So many writes and syncs of one thread are those of a boot.
const OF_A_BOOT: u32 = 35;
const CALLS: &str = "pwrite64,fdatasync,fsync,ftruncate,fallocate,rename,renameat,renameat2,unlink,mkdir,fchmod,chmod";

/// Nothing yet, or what a first piece of work left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    New,
    Used,
}

pub fn may_trace() -> bool {
    let tried = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("skipped: strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("skipped: strace cannot be run: {error}");
            false
        }
    }
}

fn strace(arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(arguments).arg(cove().get_program());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COVE_")) {
        command.env_remove(name);
    }
    command
}

/// What strace runs.
fn tracee(strace: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

struct Run {
    daemon: Daemon,
    memory: Arc<Mutex<Memory>>,
    _host: Host,
    _folder: tempfile::TempDir,
}

impl Run {
    async fn prepare(begin: Begin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut daemon, host) = prepared(&folder);
        let memory = Arc::new(Mutex::new(Memory::default()));
        if begin == Begin::Used {
            daemon.boot().await;
            daemon.furnish(&super::client::PROFILES).await;
            assert!(Client::new(&daemon, &memory).fixed_work("first").await);
            assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
        }
        Self { daemon, memory, _host: host, _folder: folder }
    }

    /// Works until the daemon is gone, or ends it.
    async fn work(&mut self, command: Command) {
        self.daemon.spawn(command);
        if self.daemon.listening_or_ended().await {
            self.furnish().await;
            let client = Client::new(&self.daemon, &self.memory);
            client.fixed_work("second").await;
            if let Some(pid) = tracee(self.daemon.pid()) {
                // It may die of its own kill at this very moment.
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)), "{killed:?}");
            }
        }
        self.daemon.ended().await;
    }

    /// Profiles and the flow; they may be there, and the daemon may go at any of them.
    async fn furnish(&self) {
        let daemon = &self.daemon;
        for name in super::client::PROFILES {
            let made = daemon.client.post(format!("{}/api/v1/profiles", daemon.base));
            let _gone = made.json(&serde_json::json!({"name": name})).send().await;
        }
        let put = daemon.client.put(format!("{}/api/v1/flows/atelier", daemon.base));
        let _gone = put.header("content-type", "application/json").body(ATELIER).send().await;
    }

    async fn judge(mut self) {
        self.daemon.boot().await;
        settled(&self.daemon).await;
        self.furnish().await;
        ask_again_and_compare(&self.daemon, &self.memory).await;
        assert_eq!(self.daemon.stop(), Some(0), "{}", self.daemon.logged());
        check_indexes(&self.daemon).await;
    }
}

/// The most calls of each kind that one thread makes in a run that nobody disturbs.
pub fn counts(log: &Path, calls: &str) -> BTreeMap<String, u32> {
    let mut by_thread: BTreeMap<(String, String), u32> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if calls.split(',').any(|known| known == call) {
            *by_thread.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let entry = most.entry(call).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

type Place = (Begin, String, u32);

/// The boot and the calls that come rarely get half of the points: there are far fewer of them.
fn choose(places: Vec<Place>, points: usize, dice: &mut fastrand::Rng) -> Vec<Place> {
    if points == 0 || points >= places.len() {
        return places;
    }
    let often = |(_, call, n): &Place| ["pwrite64", "fdatasync"].contains(&call.as_str()) && *n > OF_A_BOOT;
    let (often, rare): (Vec<_>, Vec<_>) = places.into_iter().partition(often);
    let spread = |of: Vec<Place>, points: usize, dice: &mut fastrand::Rng| -> Vec<Place> {
        let shift = dice.usize(..of.len());
        (0..points.min(of.len())).map(|point| of[(point * of.len() / points + shift) % of.len()].clone()).collect()
    };
    [spread(rare, points / 2, dice), spread(often, points - points / 2, dice)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_system_call_loses_nothing_that_had_its_answer() {
    if !may_trace() {
        return;
    }
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 30);
    let mut places = Vec::new();
    for begin in [Begin::New, Begin::Used] {
        let mut run = Run::prepare(begin).await;
        let log = run.daemon.folder.path().join("strace.log");
        run.work(strace(&["-e", &format!("trace={CALLS}"), "-o", log.to_str().unwrap()])).await;
        let counted = counts(&log, CALLS);
        println!("{begin:?}: {counted:?}");
        run.judge().await;
        places.extend(counted.into_iter().flat_map(|(call, most)| (1..=most).map(move |n| (begin, call.clone(), n))));
    }
    assert!(places.len() > 100, "only {} places: {places:?}", places.len());
    let all = places.len();
    let chosen = choose(places, usize::try_from(number("POINTS", 30)).unwrap(), &mut dice);
    let points = chosen.len();
    for (begin, call, n) in &chosen {
        let mut run = Run::prepare(*begin).await;
        let inject = format!("inject={call}:signal=KILL:when={n}");
        run.work(strace(&["-e", &format!("trace={call}"), "-e", &inject, "-o", "/dev/null"])).await;
        println!("SEED={seed}: {begin:?}, {call} {n}: {} answers", run.memory.lock().unwrap().requests());
        run.judge().await;
    }
    println!("{points} of {all} places, 0 answers lost");
}
