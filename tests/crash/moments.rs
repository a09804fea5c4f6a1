//! The program is killed on entering its n-th call of the system while it does what it does rarely: makes a snapshot,
//! puts one back, compacts the state file, brings it to a newer schema.
//!
//! The places are those of a clean run of the same work, as in `syscalls`: `MOMENTS=n` of each work, spread evenly, or
//! all with `MOMENTS=0`. After each kill the state opens and holds what it held, or what the work makes of it, and
//! the same work then goes through.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cove::model::{Clock, ProfileId, SystemClock};
use cove::store::snapshot::{SnapshotFolder, SnapshotPlan, SnapshotReason, machine, verify};
use cove::store::{BootReport, LEDGER_FILE, STATE_FILE, Store, compaction};

use super::rig::cove;
use super::syscalls::{counts, may_trace};
use super::{number, seed};

const CALLS: &str = "pwrite64,write,fdatasync,fsync,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,\
    unlinkat,mkdir,fchmod,chmod,copy_file_range";

/// What is done while the kill comes. Each runs to its end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Snapshot,
    Restore,
    Compaction,
    Migration,
}

/// The lines of the state that none of the works may change, and how it opened.
async fn held(state: &Path) -> (BTreeSet<String>, BootReport) {
    let opened = Store::open(state, SystemClock.moment());
    let (store, thread, report) = opened.unwrap_or_else(|error| panic!("it does not open: {error}"));
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
    let dump = store.dump().await.unwrap();
    let kept =
        |line: &&str| ["task ", "item ", "profile ", "flow ", "recording "].iter().any(|of| line.starts_with(of));
    let lines = dump.lines().filter(kept).map(str::to_owned).collect();
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    (lines, report)
}

async fn with_store<F: Future<Output = ()>>(state: &Path, work: impl FnOnce(Store) -> F) {
    let (store, thread, _) = Store::open(state, SystemClock.moment()).unwrap();
    work(store.clone()).await;
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}

async fn put(store: &Store, name: &str, hash: &str, json: Vec<u8>) {
    store.put_flow(name.to_owned(), hash.to_owned(), json, SystemClock.now()).await.unwrap();
}

fn snapshots(state: &Path) -> SnapshotFolder {
    SnapshotFolder::new(state.join("snapshots"))
}

async fn snapshot(store: &Store, state: &Path) -> PathBuf {
    let plan = SnapshotPlan {
        folder: snapshots(state),
        state_dir: state.to_owned(),
        reason: SnapshotReason::Asked,
        config: String::new(),
        media: false,
        evidence: false,
        least_free_bytes: 0,
        machine: machine(),
        clock: Arc::new(SystemClock),
        cancel: Arc::default(),
    };
    let made = store.begin_snapshot(plan).await.unwrap().run().unwrap().await.unwrap().unwrap();
    snapshots(state).path().join(made.name)
}

/// A process of its own for [`Work::Snapshot`].
#[tokio::test]
#[ignore = "it is started by the test below, which kills it"]
async fn makes_a_snapshot() {
    let state = PathBuf::from(std::env::var("MOMENT_STATE").expect("it is started by the test below"));
    with_store(&state, async |store| drop(snapshot(&store, &state).await)).await;
}

struct Case {
    work: Work,
    folder: tempfile::TempDir,
    before: BTreeSet<String>,
    /// Of a restore: what is put back, and what that holds.
    other: Option<(PathBuf, BTreeSet<String>)>,
    /// The address is taken, so that the daemon ends when it has opened its state.
    taken: std::net::TcpListener,
}

impl Case {
    async fn new(work: Work) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "[server]\nlisten = \"{}\"\nsocket = \"{1}/cove.sock\"\n[state]\ndir = \"{1}/state\"\n[auth]\nrequired = false\n",
            taken.local_addr().unwrap(),
            folder.path().display()
        );
        std::fs::write(folder.path().join("cove.toml"), text).unwrap();
        let mut case = Self { work, folder, before: BTreeSet::new(), other: None, taken };
        if work == Work::Migration {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema-1");
            let migrated = tempfile::tempdir().unwrap();
            for to in [&state, migrated.path()] {
                for file in [STATE_FILE, LEDGER_FILE] {
                    std::fs::copy(golden.join(file), to.join(file)).unwrap();
                }
            }
            case.before = held(migrated.path()).await.0;
            return case;
        }
        let mut made = None;
        with_store(&state, async |store| {
            let anna = ProfileId::new("anna").unwrap();
            store.create_profile(anna, "anna".to_owned(), SystemClock.now()).await.unwrap();
            for number in 0..12 {
                put(&store, &format!("f{number}"), &format!("h{number}"), vec![b'1'; 100_000]).await;
            }
            made = Some(snapshot(&store, &state).await);
        })
        .await;
        let then = held(&state).await.0;
        with_store(&state, async |store| {
            for number in 0..8 {
                put(&store, &format!("g{number}"), &format!("h{number}"), b"{}".to_vec()).await;
            }
        })
        .await;
        case.before = held(&state).await.0;
        case.other = made.filter(|_| work == Work::Restore).map(|made| (made, then));
        case
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `strace`: its arguments; none of it where they are empty.
    async fn work(&self, strace: &[String]) -> bool {
        if self.work == Work::Compaction {
            compaction::mark_due(&self.state()).unwrap();
        }
        let config = self.folder.path().join("cove.toml").display().to_string();
        let (program, arguments) = match (self.work, &self.other) {
            (Work::Snapshot, _) => {
                let own = std::env::current_exe().unwrap();
                let words = ["moments::makes_a_snapshot", "--exact", "--ignored", "--test-threads=1"];
                (own, words.map(str::to_owned).to_vec())
            }
            (Work::Restore, Some((made, _))) => {
                let words = ["snapshots", "restore", made.to_str().unwrap(), "--config", &config];
                (cove().get_program().into(), words.map(str::to_owned).to_vec())
            }
            _ => (cove().get_program().into(), ["serve", "--config", &config].map(str::to_owned).to_vec()),
        };
        let mut command = if strace.is_empty() {
            Command::new(program)
        } else {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq"]).args(strace).arg(program);
            command
        };
        command.args(arguments).env("MOMENT_STATE", self.state());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status().unwrap().success()).await.unwrap()
    }

    /// What is there after a kill or an end: true where the work was done.
    async fn judge(&self, place: &str) -> bool {
        let state = self.state();
        let listed = snapshots(&state).list().unwrap();
        let (lines, report) = held(&state).await;
        for one in &listed {
            let scratch = tempfile::tempdir().unwrap();
            let checked = verify(&snapshots(&state).path().join(&one.name), scratch.path());
            assert!(checked.is_ok(), "{place}: {}: {checked:?}", one.name);
        }
        match (self.work, &self.other) {
            (Work::Restore, Some((_, other))) => {
                assert!(lines == *if report.restored { other } else { &self.before }, "{place}: {report:?}");
                report.restored
            }
            (Work::Snapshot, _) => {
                assert!(lines == self.before && !report.restored && !listed.is_empty(), "{place}: {report:?}");
                listed.len() > 1
            }
            (Work::Migration, _) => {
                assert!(lines == self.before && !report.restored, "{place}: {report:?}");
                let kept = snapshots(&state).list().unwrap();
                assert!(kept.iter().any(|one| one.manifest.as_ref().is_some_and(|of| of.schema == 1)), "{place}");
                true
            }
            _ => {
                assert!(lines == self.before && !report.restored, "{place}: {report:?}");
                state.join(STATE_FILE).metadata().unwrap().len() < 1_000_000
            }
        }
    }
}

async fn places_of(work: Work) -> Vec<(String, u32)> {
    let case = Case::new(work).await;
    let log = case.folder.path().join("strace.log");
    case.work(&["-e".to_owned(), format!("trace={CALLS}"), "-o".to_owned(), log.display().to_string()]).await;
    let counted = counts(&log, CALLS);
    println!("{work:?}: {counted:?}");
    assert!(case.judge("a clean run").await, "{work:?}: it was not done");
    counted.into_iter().flat_map(|(call, most)| (1..=most).map(move |n| (call.clone(), n))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_a_snapshot_a_restore_a_compaction_or_a_migration_loses_nothing() {
    if !may_trace() {
        return;
    }
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed + 50);
    let (mut tried, mut all) = (0, 0);
    for work in [Work::Snapshot, Work::Restore, Work::Compaction, Work::Migration] {
        let places = places_of(work).await;
        assert!(places.len() > 15, "{work:?}: only {places:?}");
        all += places.len();
        let wanted = match usize::try_from(number("MOMENTS", 4)).unwrap() {
            0 => places.len(),
            some => some.min(places.len()),
        };
        let (shift, mut done) = (dice.usize(..places.len()), 0);
        for point in 0..wanted {
            let (call, n) = &places[(point * places.len() / wanted + shift) % places.len()];
            let place = format!("SEED={seed}: {work:?}, {call} {n}");
            let case = Case::new(work).await;
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let words = ["-e", &format!("trace={call}"), "-e", &inject, "-o", "/dev/null"];
            case.work(&words.map(str::to_owned)).await;
            done += u32::from(case.judge(&place).await);
            if work == Work::Restore {
                // The file that it keeps has the second in its name.
                tokio::time::sleep(std::time::Duration::from_millis(1_001)).await;
            }
            let ended_well = case.work(&[]).await;
            assert!(ended_well || matches!(work, Work::Compaction | Work::Migration), "{place}: not a second time");
            assert!(case.judge(&place).await, "{place}: not a second time");
            drop(case.taken);
            tried += 1;
        }
        println!("{work:?}: {wanted} kills, after {done} of them it was done");
    }
    println!("{tried} of {all} places, 0 answers lost");
}
