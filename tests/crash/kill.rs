//! `kill -9` of the real daemon under load, at any moment, over and over: what the client had an answer to is
//! there, once and whole.
//!
//! `ROUNDS=n` kills, `SEED=` says when and what. A new state is begun every few rounds, so that long runs
//! do not only meet old ones; each is compared with its own indexes at its end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cove::model::{Clock, SystemClock};
use cove::store::{LEDGER_FILE, STATE_FILE, Store};
use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::client::{Client, Memory, PROFILES};
use super::compare;
use super::host::Host;
use super::rig::{Daemon, PATIENCE};
use super::{number, seed};

const WORKERS: usize = 6;
const ROUNDS_OF_ONE_STATE: u64 = 10;
/// From the start of the load to the kill.
const LOAD_MS: std::ops::Range<u64> = 5..250;

/// A daemon that does not run yet, and the host that it will find.
pub fn prepared(folder: &tempfile::TempDir) -> (Daemon, Host) {
    let socket = folder.path().join("host.sock");
    let host = Host::listen(&socket);
    let setting = socket.display().to_string().leak();
    let daemon = Daemon::prepare("", &[("COVE_BROWSER__HOST_SOCKET", setting)]);
    daemon.film("1.mp4");
    (daemon, host)
}

pub async fn furnished(folder: &tempfile::TempDir) -> (Daemon, Host) {
    let (mut daemon, host) = prepared(folder);
    daemon.boot().await;
    daemon.furnish(&PROFILES).await;
    (daemon, host)
}

/// Recovery is done and the engine has looked at the queue.
pub async fn settled(daemon: &Daemon) {
    let began = Instant::now();
    loop {
        let health = daemon.get("/api/v1/health").await;
        if health.status == 200 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}\n{}", health.body, daemon.logged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens the files without the daemon and compares every index.
pub async fn check_indexes(daemon: &Daemon) {
    let folder = daemon.state();
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder, SystemClock.moment())).await.unwrap();
    let (store, thread, report) = opened.unwrap_or_else(|error| panic!("it does not open: {error}"));
    assert!(!report.restored && report.ledger_damage.is_none(), "{report:?}");
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}

/// `before` is what happens to the machine at the moment of the kill.
pub async fn load_and_kill(
    daemon: &mut Daemon,
    memory: &Arc<Mutex<Memory>>,
    dice: &mut fastrand::Rng,
    before: impl FnOnce(),
) {
    let mut load = JoinSet::new();
    for worker in 0..WORKERS {
        load.spawn(Client::new(daemon, memory).load(worker, dice.fork()));
    }
    tokio::time::sleep(Duration::from_millis(dice.u64(LOAD_MS))).await;
    before();
    daemon.kill();
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
}

pub async fn ask_again_and_compare(daemon: &Daemon, memory: &Arc<Mutex<Memory>>) {
    let client = Client::new(daemon, memory);
    client.ask_again().await;
    let sent = memory.lock().unwrap().sent.clone();
    compare::compare(daemon, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_that_had_its_answer() {
    let seed = seed();
    let rounds = number("ROUNDS", 50);
    let mut dice = fastrand::Rng::with_seed(seed + 20);
    let mut requests = 0;
    let mut round = 0;
    while round < rounds {
        let folder = tempfile::tempdir().unwrap();
        let (mut daemon, _host) = furnished(&folder).await;
        let memory = Arc::new(Mutex::new(Memory::default()));
        for _ in 0..ROUNDS_OF_ONE_STATE.min(rounds - round) {
            load_and_kill(&mut daemon, &memory, &mut dice, || ()).await;
            if dice.u8(..4) == 0 {
                check_indexes(&daemon).await;
            }
            daemon.boot().await;
            settled(&daemon).await;
            ask_again_and_compare(&daemon, &memory).await;
            round += 1;
        }
        requests += memory.lock().unwrap().requests();
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
        check_indexes(&daemon).await;
    }
    println!("{rounds} kills, {requests} requests, 0 answers lost");
    assert!(requests > rounds * 5, "a load of {requests} requests tries nothing");
}

/// The files of before the load, put back after it: the client remembers more than they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negative_control_a_state_that_forgot_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut daemon, _host) = furnished(&folder).await;
    daemon.kill();
    let kept = [STATE_FILE, LEDGER_FILE].map(|name| (name, std::fs::read(daemon.state().join(name)).unwrap()));
    daemon.boot().await;
    let memory = Arc::new(Mutex::new(Memory::default()));
    assert!(Client::new(&daemon, &memory).fixed_work("forgotten").await);
    ask_again_and_compare(&daemon, &memory).await;
    daemon.kill();
    for (name, content) in kept {
        std::fs::write(daemon.state().join(name), content).unwrap();
    }
    daemon.boot().await;
    settled(&daemon).await;
    let sent = memory.lock().unwrap().sent.clone();
    let compared = std::panic::AssertUnwindSafe(compare::compare(&daemon, &sent)).catch_unwind().await;
    assert!(compared.is_err(), "a state that forgot everything was taken for a good one");
}
