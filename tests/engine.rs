//! The engine's loop over a real store with a provider that is made up: what its breakers cost, and what becomes
//! of what it answers to nobody.
//!
//! The provider asks its breaker before each call as that of Dolphin Anty does, and counts the calls that it
//! makes. No browser is ever started.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cove::breaker::board::Board;
use cove::breaker::{BreakerLimits, DOLPHIN, Passage};
use cove::browser::{Provider, Session, SessionStats, StartGate, StartOptions};
use cove::engine::pressure::Pressure;
use cove::engine::{
    self, Borrower, EngineError, EngineHandle, LendAsked, Limits, ProfileFacts, Shared, why_ready_waits,
};
use cove::model::{
    Clock, Failure, FailureCode, Item, ItemState, LockKind, OnUnknown, ProfileId, SystemClock, TaskId, WaitReason,
};
use cove::store::media::MediaStore;
use cove::store::{ItemQuery, NewItem, NewTask, Store, WriterThread};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);
const OPEN: Duration = Duration::from_secs(2);
const FLOW: &[u8] = br#"{"title": "t", "steps": [{"type": "navigate", "url": "http://127.0.0.1:9/"}]}"#;
const PROFILES: [&str; 6] = ["anna", "boris", "clara", "dora", "emil", "fritz"];

/// Away until it is switched on; then it says that it knows no profile.
struct MadeUp {
    board: Board,
    up: AtomicBool,
    calls: AtomicU64,
    /// One call at a time, so that none is under way when another opens the breaker.
    turn: Mutex<()>,
}

impl MadeUp {
    fn call(&self) -> Result<(), Failure> {
        let _alone = self.turn.lock().unwrap();
        let now = SystemClock.now();
        let refused = |until| Failure::new(FailureCode::BreakerOpen, format!("left alone until {until}"));
        self.board.admit(DOLPHIN, now).map_err(refused)?;
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.up.load(Ordering::SeqCst) {
            self.board.succeeded(DOLPHIN, now);
            Ok(())
        } else {
            self.board.failed(DOLPHIN, now, "no connection");
            Err(Failure::new(FailureCode::ProviderDown, "no connection"))
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Provider for MadeUp {
    async fn start_through(&self, profile: &ProfileId, _: StartOptions, _: &dyn StartGate) -> Result<Session, Failure> {
        self.call()?;
        Err(Failure::new(FailureCode::ProfileUnknown, format!("there is no {profile}")))
    }

    async fn stop(&self, _: &ProfileId) -> Result<(), Failure> {
        self.call()
    }

    async fn running(&self) -> Result<Vec<Session>, Failure> {
        self.call().map(|()| Vec::new())
    }

    async fn can_read(&self, _: &Path) -> Result<bool, Failure> {
        Ok(true)
    }

    async fn stats(&self, _: &ProfileId) -> Result<Option<SessionStats>, Failure> {
        Ok(None)
    }
}

struct Running {
    provider: Arc<MadeUp>,
    board: Board,
    store: Store,
    handle: EngineHandle,
    task: TaskId,
    pressure: watch::Sender<Pressure>,
    _writer: WriterThread,
    _engine: JoinSet<Result<(), EngineError>>,
}

/// `external`: of the items, which cove runs itself without it.
async fn start(folder: &Path, external: Option<&str>) -> Running {
    let (store, writer, _) = Store::open(folder, SystemClock.moment()).unwrap();
    let now = SystemClock.now();
    for name in PROFILES {
        store.create_profile(ProfileId::new(name).unwrap(), name.to_owned(), now).await.unwrap();
    }
    store.put_flow("f".to_owned(), "h".to_owned(), FLOW.to_vec(), now).await.unwrap();
    let board = Board::new(BreakerLimits { failures: 5, open: OPEN, trials: 3 });
    let provider = Arc::new(MadeUp {
        board: board.clone(),
        up: AtomicBool::new(false),
        calls: AtomicU64::new(0),
        turn: Mutex::new(()),
    });
    let limits = Limits {
        slots: 2,
        retry_base: Duration::from_secs(1),
        retry_max: Duration::from_secs(1),
        rest: Duration::ZERO,
        catch_up_per_hour: 0,
        sessions: 1,
    };
    let pressure = watch::Sender::default();
    let shared = Shared {
        store: store.clone(),
        provider: provider.clone(),
        breakers: board.clone(),
        media: MediaStore::new(folder, Vec::new(), 1).unwrap(),
        clock: Arc::new(SystemClock),
        state_dir: folder.to_owned(),
        headless: true,
        evidence_max_bytes: 1_000,
        limits,
        no_disk: watch::channel(None).1,
        pressure: pressure.subscribe(),
    };
    let task = submit(&store, &PROFILES, external).await;
    let (handle, engine) = engine::pair();
    let mut children = JoinSet::new();
    children.spawn(engine::run(engine, Arc::new(shared)));
    Running { provider, board, store, handle, task, pressure, _writer: writer, _engine: children }
}

async fn submit(store: &Store, profiles: &[&str], external: Option<&str>) -> TaskId {
    let item = |name: &&str| NewItem {
        profile: ProfileId::new(name).unwrap(),
        inputs: BTreeMap::new(),
        key: None,
        not_before: None,
        not_after: None,
    };
    let new = NewTask {
        flow: "f".to_owned(),
        flow_hash: "h".to_owned(),
        priority: 0,
        max_attempts: 3,
        spacing_seconds: 0,
        on_unknown: OnUnknown::Hold,
        external: external.map(str::to_owned),
        verifiable: false,
        rehearsal: false,
        items: profiles.iter().map(item).collect(),
        idempotency: None,
        webhook: None,
    };
    store.enqueue(new, SystemClock.now()).await.unwrap().task
}

impl Running {
    async fn items(&self) -> Vec<Item> {
        let query = ItemQuery { task: Some(self.task), limit: 100, ..ItemQuery::default() };
        self.store.items(query).await.unwrap().rows
    }

    fn passage(&self) -> Passage {
        self.board.passage(&[DOLPHIN], SystemClock.now())
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?} {:#?}", self.handle.view(), self.items().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_asked_five_times_and_then_left_alone_also_by_what_stops_browsers() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), None).await;
    let view = || running.handle.view();
    running.until("it is down", || view().provider_down.is_some()).await;
    running.until("it is left alone", || view().breakers.shut_until().is_some()).await;
    assert_eq!(running.provider.calls(), 5, "two starts, and what stops what may have come of them");
    assert_eq!(view().provider_down, None, "the breaker is the reason now");
    let (zoe, now) = (ProfileId::new("zoe").unwrap(), SystemClock.now());
    let (reason, until) = why_ready_waits(false, &zoe, ProfileFacts::default(), &view(), now);
    assert_eq!((reason, until), (WaitReason::BreakerOpenUntil, view().breakers.shut_until()));

    // All the time while it is open: not one call, however often the loop turns.
    let first = running.passage();
    running
        .until("its time is over", || {
            running.handle.ring();
            let calls = running.provider.calls();
            let open = running.passage() == first;
            assert!(!open || calls == 5, "{calls} calls, and it is open");
            !open
        })
        .await;
    // The first call after that fails as well, and one is enough.
    running.until("it is left alone again", || running.passage().shut_until() > first.shut_until()).await;
    assert_eq!(running.provider.calls(), 6);
    let items = running.items().await;
    assert!(items.iter().map(Item::attempts_spent).sum::<u32>() <= 2, "{items:#?}");

    running.provider.up.store(true, Ordering::SeqCst);
    let ended = |items: Vec<Item>| items.iter().all(|item| item.state == ItemState::Failed);
    let began = Instant::now();
    while !ended(running.items().await) {
        assert!(began.elapsed() < PATIENCE, "{:?} {:#?}", view(), running.items().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for item in running.items().await {
        assert_eq!((item.failure.unwrap().code, item.attempts), (FailureCode::ProfileUnknown, 1), "{}", item.id);
    }
    running.until("it is trusted again", || running.passage() == Passage::Free && view().busy == 0).await;
    assert_eq!((view().breakers, view().provider_down.clone()), (Passage::Free, None));
}

/// On one thread: the loop cannot answer before whoever asked is gone.
#[tokio::test]
async fn an_item_whose_worker_did_not_wait_for_the_answer_is_back_in_the_queue_uncounted() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Some("studio")).await;
    running.provider.up.store(true, Ordering::SeqCst);
    running.handle.ready().await;
    let (store, kinds) = (&running.store, vec!["studio".to_owned()]);
    let head = store.claimable(kinds.clone(), SystemClock.moment()).await.unwrap().remove(0);
    let to = Borrower::Worker { item: head.item, name: "w1".to_owned(), kinds };
    let asked = LendAsked { profile: head.profile.clone(), to, ttl: Duration::from_secs(600), headless: true };
    assert!(running.handle.lend(asked.clone()).now_or_never().is_none());

    let began = Instant::now();
    let item = loop {
        let item = store.item(head.item).await.unwrap().unwrap();
        let lock = store.lock(LockKind::PROFILE, head.profile.to_string()).await.unwrap();
        if item.fence.is_some() && item.state == ItemState::Queued && lock.is_none() {
            break item;
        }
        assert!(began.elapsed() < PATIENCE, "{item:#?} {lock:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!((item.attempts, item.failure.unwrap().code), (0, FailureCode::WorkerLost));
    let lent = running.handle.lend(asked).await.ok().unwrap().lent;
    assert!(lent.fence > item.fence.unwrap() && lent.claimed.is_some(), "{lent:?}");
}

/// Nobody rings for what is submitted here: only the loop's own beat finds it.
#[tokio::test(flavor = "multi_thread")]
async fn reports_that_come_often_do_not_put_the_heartbeat_off() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Some("studio")).await;
    running.provider.up.store(true, Ordering::SeqCst);
    running.handle.ready().await;
    submit(&running.store, &PROFILES[..1], None).await;
    running
        .until("what nobody rang for is started", || {
            running.pressure.send_replace(Pressure::default());
            running.provider.calls() > 0
        })
        .await;
}
