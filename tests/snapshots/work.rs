//! A store with work in it, and snapshots of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cove::model::{Clock, Fence, Item, ItemId, OnUnknown, ProfileId, Proofs, SystemClock, TaskId, Verdict};
use cove::store::snapshot::{Snapshot, SnapshotError, SnapshotFolder, SnapshotPlan, SnapshotReason, machine};
use cove::store::{AttemptEnded, BootReport, Claim, ItemQuery, NewItem, NewTask, Store, WriterThread};

pub const PROFILES: usize = 4;

pub struct Opened {
    pub store: Store,
    thread: WriterThread,
    pub report: BootReport,
}

impl Opened {
    pub fn open(folder: &Path) -> Self {
        let (store, thread, report) = Store::open(folder, SystemClock.moment()).unwrap();
        Self { store, thread, report }
    }

    /// With profiles and a flow.
    pub async fn furnished(folder: &Path) -> Self {
        let opened = Self::open(folder);
        let now = SystemClock.now();
        for number in 0..PROFILES {
            opened.store.create_profile(profile(number), format!("p{number}"), now).await.unwrap();
        }
        opened.store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), now).await.unwrap();
        opened
    }

    /// Closes the file, so that it can be opened again.
    pub async fn close(self) {
        assert_eq!(self.store.check_consistency().await.unwrap(), Vec::<String>::new());
        drop(self.store);
        tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
    }
}

pub fn profile(number: usize) -> ProfileId {
    ProfileId::new(&format!("p{number}")).unwrap()
}

pub async fn enqueue(store: &Store, items: usize, key: &str) -> TaskId {
    let item = |number: usize| NewItem {
        profile: profile(number % PROFILES),
        inputs: BTreeMap::new(),
        key: Some(format!("{key}-{number}")),
        not_before: None,
        not_after: None,
    };
    let task = NewTask {
        flow: "atelier".to_owned(),
        flow_hash: "h1".to_owned(),
        priority: 0,
        max_attempts: 3,
        spacing_seconds: 0,
        on_unknown: OnUnknown::Hold,
        external: None,
        verifiable: false,
        rehearsal: false,
        items: (0..items).map(item).collect(),
        idempotency: None,
        webhook: None,
    };
    store.enqueue(task, SystemClock.now()).await.unwrap().task
}

pub async fn items(store: &Store, task: TaskId) -> Vec<Item> {
    let query = ItemQuery { task: Some(task), limit: 1_000, ..ItemQuery::default() };
    let mut items = store.items(query).await.unwrap().rows;
    items.sort_by_key(|item| item.id);
    items
}

/// The fence of an item that now runs and is armed. None: its profile is busy, or it is not waiting.
pub async fn arm(store: &Store, item: ItemId) -> Option<Fence> {
    let now = SystemClock.moment();
    let Ok(Claim::Started(claimed)) = store.claim(item, now).await.unwrap() else { return None };
    store.arm(item, claimed.fence, Proofs::default(), now).await.unwrap().unwrap();
    Some(claimed.fence)
}

pub async fn succeed(store: &Store, item: &Item, fence: Fence) {
    let url = Some(format!("http://127.0.0.1/p/{}", item.id));
    let verdict = Verdict::Succeeded { url, result: BTreeMap::new() };
    let end = AttemptEnded { item: item.id, fence, verdict, evidence: Vec::new(), effect: None };
    store.finish(end, SystemClock.now()).await.unwrap().unwrap();
    assert!(store.release(item.profile.clone(), fence).await.unwrap());
}

/// Claims, arms and publishes; false: it cannot be claimed now.
pub async fn publish(store: &Store, item: &Item) -> bool {
    let Some(fence) = arm(store, item.id).await else { return false };
    succeed(store, item, fence).await;
    true
}

pub fn plan(state_dir: &Path) -> SnapshotPlan {
    SnapshotPlan {
        folder: SnapshotFolder::new(state_dir.join("snapshots")),
        state_dir: state_dir.to_owned(),
        reason: SnapshotReason::Asked,
        config: "[engine]\nslots = 2\n".to_owned(),
        media: false,
        evidence: false,
        least_free_bytes: 0,
        machine: machine(),
        clock: Arc::new(SystemClock),
        cancel: Arc::new(AtomicBool::new(false)),
    }
}

pub async fn try_snapshot(store: &Store, plan: SnapshotPlan) -> Result<Snapshot, SnapshotError> {
    store.begin_snapshot(plan).await?.run()?.await.unwrap()
}

pub async fn snapshot(store: &Store, state_dir: &Path) -> Snapshot {
    try_snapshot(store, plan(state_dir)).await.unwrap()
}

/// A state with two tasks, one of them published in part; and a snapshot of it.
pub async fn small(folder: &Path) -> (Opened, Snapshot) {
    let opened = Opened::furnished(folder).await;
    let first = enqueue(&opened.store, 3, "first").await;
    let second = enqueue(&opened.store, 5, "second").await;
    let all = items(&opened.store, first).await;
    assert!(publish(&opened.store, &all[0]).await);
    assert!(!items(&opened.store, second).await.is_empty());
    let made = snapshot(&opened.store, folder).await;
    (opened, made)
}
