//! A long queue: how soon a daemon that was killed is ready again, and what a claim costs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cove::model::{Clock as _, ItemId, OnUnknown, ProfileId, Proofs, SystemClock, Verdict};
use cove::store::{AttemptEnded, Claim, NewItem, NewTask, Store, WriterThread};

/// Items of one submit.
const A_TASK: usize = 10_000;
const PROFILES: usize = 50;
/// Claims at a time, so that both queues are tried in the same minute of the machine.
pub const CLAIMS: usize = 20;

pub struct Queue {
    pub store: Store,
    thread: WriterThread,
}

impl Queue {
    /// A state with so many queued items, evenly over the profiles.
    pub async fn fill(folder: &Path, items: usize) -> Self {
        let now = SystemClock.moment();
        let (store, thread, _) = Store::open(folder, now).unwrap();
        for number in 0..PROFILES {
            let name = format!("p{number}");
            store.create_profile(ProfileId::new(&name).unwrap(), name, now.wall).await.unwrap();
        }
        store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), now.wall).await.unwrap();
        let mut left = items;
        while left > 0 {
            let these = left.min(A_TASK);
            store.enqueue(task(these), now.wall).await.unwrap();
            left -= these;
        }
        Self { store, thread }
    }

    pub async fn close(self) {
        drop(self.store);
        tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
    }

    /// From the look at the queue to the claim on disk, each; what was claimed succeeds and frees its profile.
    pub async fn claims(&self) -> Vec<Duration> {
        let mut took = Vec::with_capacity(CLAIMS);
        for number in 0..CLAIMS {
            let began = Instant::now();
            let now = SystemClock.moment();
            let heads = self.store.outlook(now).await.unwrap().heads;
            let claim = self.store.claim(heads[number % heads.len()].item, now).await.unwrap();
            took.push(began.elapsed());
            let Ok(Claim::Started(claimed)) = claim else { panic!("not claimed") };
            self.end(claimed.item.id, claimed.fence, claimed.item.profile).await;
        }
        took
    }

    async fn end(&self, item: ItemId, fence: cove::model::Fence, profile: ProfileId) {
        let now = SystemClock.moment();
        self.store.arm(item, fence, Proofs::default(), now).await.unwrap().unwrap();
        let verdict = Verdict::Succeeded { url: None, result: BTreeMap::new() };
        let end = AttemptEnded { item, fence, verdict, evidence: Vec::new(), effect: None };
        self.store.finish(end, now.wall).await.unwrap().unwrap();
        self.store.release(profile, fence).await.unwrap();
    }
}

pub fn one_item() -> NewTask {
    task(1)
}

fn task(items: usize) -> NewTask {
    let item = |number: usize| NewItem {
        profile: ProfileId::new(&format!("p{}", number % PROFILES)).unwrap(),
        inputs: BTreeMap::new(),
        key: None,
        not_before: None,
        not_after: None,
    };
    NewTask {
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
    }
}
