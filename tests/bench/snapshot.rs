//! A snapshot of a large store while submits go on: what it takes, and what it takes from them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cove::model::{Clock as _, SystemClock};
use cove::store::snapshot::{SnapshotFolder, SnapshotPlan, SnapshotReason, machine, restore, verify};
use cove::store::{Ask, LEDGER_FILE, STATE_FILE, Store, TaskQuery};
use tokio::task::JoinSet;

use super::percentile;
use super::queue::{Queue, one_item};

const FINISHED: usize = 1_000_000;
const WAITING: usize = 100_000;
const SUBMITTERS: usize = 4;
/// Without a snapshot.
const QUIET: Duration = Duration::from_secs(20);

/// Ends the tasks that hold the first `items` items.
async fn finish(store: &Store, items: usize) {
    let tasks = store.tasks(TaskQuery { limit: 1_000, ..TaskQuery::default() }).await.unwrap().rows;
    let mut left = items;
    // Newest first.
    for row in tasks.iter().rev() {
        if left == 0 {
            return;
        }
        let now = SystemClock.now();
        store.ask(row.task.id, Ask::Cancel, now).await.unwrap();
        while store.settle(row.task.id, now).await.unwrap().more {}
        left = left.saturating_sub(usize::try_from(row.task.counts.total()).unwrap());
    }
}

/// Submits of one item each, one after the other in each of a few callers, until `stop`.
async fn submits(store: &Store, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut callers = JoinSet::new();
    for _ in 0..SUBMITTERS {
        let (store, stop) = (store.clone(), stop.clone());
        callers.spawn(async move {
            let mut took = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                store.enqueue(one_item(), SystemClock.now()).await.unwrap();
                took.push(began.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            took
        });
    }
    callers.join_all().await.concat()
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn plan(state_dir: &Path) -> SnapshotPlan {
    SnapshotPlan {
        folder: SnapshotFolder::new(state_dir.join("snapshots")),
        state_dir: state_dir.to_owned(),
        reason: SnapshotReason::Asked,
        config: String::new(),
        media: false,
        evidence: false,
        least_free_bytes: 0,
        machine: machine(),
        clock: Arc::new(SystemClock),
        cancel: Arc::default(),
    }
}

pub async fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let queue = Queue::fill(folder.path(), FINISHED + WAITING).await;
    finish(&queue.store, FINISHED).await;
    let state_bytes = folder.path().join(STATE_FILE).metadata().unwrap().len();
    println!(
        "filled: {FINISHED} finished, {WAITING} waiting in {:.0} s; the state file has {} MB, peak memory {} MB",
        began.elapsed().as_secs_f64(),
        state_bytes / 1_000_000,
        peak_mb()
    );
    let stop = Arc::new(AtomicBool::new(false));
    let timer = async {
        tokio::time::sleep(QUIET).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (mut quiet, ()) = tokio::join!(submits(&queue.store, stop.clone()), timer);
    let before_mb = peak_mb();
    let stop = Arc::new(AtomicBool::new(false));
    let making = async {
        let began = Instant::now();
        let begun = queue.store.begin_snapshot(plan(folder.path())).await.unwrap();
        let made = begun.run().unwrap().await.unwrap().unwrap();
        stop.store(true, Ordering::Relaxed);
        (made, began.elapsed())
    };
    let (mut during, (made, took)) = tokio::join!(submits(&queue.store, stop.clone()), making);
    let (p50, p99) = (percentile(&mut quiet, 50), percentile(&mut quiet, 99));
    let (p50_during, p99_during) = (percentile(&mut during, 50), percentile(&mut during, 99));
    let (longest, longest_during) = (percentile(&mut quiet, 100), percentile(&mut during, 100));
    println!(
        "snapshot under submits {:22.1} s    {} MB of {} MB unpacked; memory {} MB more",
        took.as_secs_f64(),
        made.bytes / 1_000_000,
        made.manifest.as_ref().unwrap().state_bytes / 1_000_000,
        peak_mb() - before_mb
    );
    println!(
        "submit p99 during it {:24.2} ms   without {p99:.2}: {:.2} times (at most 3); median {p50_during:.2}, without \
         {p50:.2}; longest {longest_during:.0}, without {longest:.0}; {} and {} submits",
        p99_during,
        p99_during / p99,
        during.len(),
        quiet.len()
    );
    queue.close().await;
    let path = folder.path().join("snapshots").join(&made.name);
    let scratch = tempfile::tempdir_in(folder.path()).unwrap();
    let began = Instant::now();
    verify(&path, scratch.path()).unwrap();
    println!("verify {:38.1} s", began.elapsed().as_secs_f64());
    drop(scratch);
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join(LEDGER_FILE), other.path().join(LEDGER_FILE)).unwrap();
    let began = Instant::now();
    restore(&path, other.path(), SystemClock.now()).unwrap();
    println!("restore {:37.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let (store, thread, report) = Store::open(other.path(), SystemClock.moment()).unwrap();
    println!("the first open after it {:21.1} s    restored: {}", began.elapsed().as_secs_f64(), report.restored);
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}
