//! Row D8: snapshots under full load, each put back and compared with what the load knows.
//!
//! The load submits and publishes as fast as the store answers. Whatever was answered before a snapshot was begun
//! is in it and whole; whatever was asked after it was begun is not; every index fits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cove::model::{ItemState, TaskId};
use cove::store::snapshot::restore;
use cove::store::{LEDGER_FILE, Store};
use tokio::task::JoinSet;

use super::work::{Opened, enqueue, items, plan, publish};
use super::{number, seed};

const SUBMITTERS: usize = 4;
const ROUNDS_OF_ONE_STATE: u64 = 5;

/// What the load had an answer to.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Tasks and how many items they have.
    tasks: BTreeMap<TaskId, usize>,
    /// Tasks whose first item was published.
    published: Vec<TaskId>,
    /// Requests that were sent, answered or not.
    asked: u64,
}

async fn load(store: Store, known: Arc<Mutex<Known>>, stop: Arc<AtomicBool>, mut dice: fastrand::Rng, who: usize) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let count = dice.usize(1..6);
        known.lock().unwrap().asked += 1;
        let task = enqueue(&store, count, &format!("{who}-{round}-{}", dice.u64(..))).await;
        known.lock().unwrap().tasks.insert(task, count);
        let first = items(&store, task).await.remove(0);
        if publish(&store, &first).await {
            known.lock().unwrap().published.push(task);
        }
    }
}

/// What is in a state that was put back, against what was known before its snapshot was begun.
async fn compare(store: &Store, before: &Known, after: &Known) -> Result<(), String> {
    let differences = store.check_consistency().await.map_err(|error| error.to_string())?;
    if !differences.is_empty() {
        return Err(format!("indexes: {differences:?}"));
    }
    for (task, count) in &after.tasks {
        let found = items(store, *task).await;
        let row = store.task(*task).await.map_err(|error| error.to_string())?;
        let is_there = row.is_some();
        if found.len() != if is_there { *count } else { 0 } {
            return Err(format!("{task} has {} items of {count}", found.len()));
        }
        if !is_there && before.tasks.contains_key(task) {
            return Err(format!("{task} was answered before and is not there"));
        }
        let published = found.first().is_some_and(|item| item.state == ItemState::Succeeded);
        if before.published.contains(task) && !published {
            return Err(format!("{task} was published before, and its item is {:?}", found.first()));
        }
    }
    Ok(())
}

/// Puts the snapshot into a folder of its own, with the ledger as it is by now.
async fn put_back(snapshot: &Path, ledger: &Path) -> (tempfile::TempDir, Opened) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(ledger, folder.path().join(LEDGER_FILE)).unwrap();
    let (from, to) = (snapshot.to_owned(), folder.path().to_owned());
    let now = plan(&to).clock.now();
    tokio::task::spawn_blocking(move || restore(&from, &to, now)).await.unwrap().unwrap();
    let opened = Opened::open(folder.path());
    assert!(opened.report.restored, "{:?}", opened.report);
    (folder, opened)
}

/// A new state is begun every few snapshots, so that long runs do not only meet large ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d8_snapshots_under_full_load_are_whole() {
    let (seed, rounds) = (seed(), number("SNAPSHOTS", 5));
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut left, mut tasks, mut late) = (rounds, 0, 0);
    while left > 0 {
        let these = left.min(ROUNDS_OF_ONE_STATE);
        let (known, meanwhile) = rounds_of_one_state(these, &mut dice).await;
        (left, tasks, late) = (left - these, tasks + known, late + meanwhile);
    }
    println!("{rounds} snapshots, {tasks} tasks, {late} of them while one was made");
}

/// How many tasks there were, and how many of them while a snapshot was made.
async fn rounds_of_one_state(rounds: u64, dice: &mut fastrand::Rng) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::furnished(folder.path()).await;
    let (known, stop) = (Arc::new(Mutex::new(Known::default())), Arc::new(AtomicBool::new(false)));
    let mut running = JoinSet::new();
    for who in 0..SUBMITTERS {
        running.spawn(load(opened.store.clone(), known.clone(), stop.clone(), dice.fork(), who));
    }
    let mut snapshots = Vec::new();
    let mut late = 0;
    for _ in 0..rounds {
        tokio::time::sleep(std::time::Duration::from_millis(dice.u64(..100))).await;
        let before = known.lock().unwrap().clone();
        let begun = opened.store.begin_snapshot(plan(folder.path())).await.unwrap();
        // Asked when its moment was fixed: it must not be there, or the snapshot is no moment.
        let after = enqueue(&opened.store, 1, &format!("late-{}", dice.u64(..))).await;
        let made = begun.run().unwrap().await.unwrap().unwrap();
        let during = known.lock().unwrap().clone();
        late += during.tasks.len() - before.tasks.len();
        let path = folder.path().join("snapshots").join(&made.name);
        let (_kept, restored) = put_back(&path, &folder.path().join(LEDGER_FILE)).await;
        compare(&restored.store, &before, &during).await.unwrap();
        assert!(restored.store.task(after).await.unwrap().is_none(), "{after} came after");
        restored.close().await;
        snapshots.push((made, before));
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let known = known.lock().unwrap().clone();
    assert!(late > 0, "nothing was written while a snapshot was made");
    // The negative control: the first one does not pass for a later moment.
    let path = folder.path().join("snapshots").join(&snapshots[0].0.name);
    let (_kept, restored) = put_back(&path, &folder.path().join(LEDGER_FILE)).await;
    let why = compare(&restored.store, &known, &known).await.unwrap_err();
    assert!(why.contains("is not there") || why.contains("was published before"), "{why}");
    restored.close().await;
    opened.close().await;
    (known.tasks.len(), late)
}
