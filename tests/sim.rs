//! A seeded simulation: the real state machine over the real store, with a made-up world around them.
//!
//! Random submits, cancels, pauses, crashes (also between a commit and the act that it allows), lost
//! browsers, provider failures, full disks, clock steps and restores of an older state file. After every step all
//! indexes are checked; a site that counts clicks is the judge: no item is ever clicked twice, and what was
//! clicked is never queued again. `SEED=n` runs one seed, `ROUNDS=n` more of them; a failing seed is printed.
//!
//! The negative control switches the fence off in the world: clicks are dispatched without asking, and
//! the judge must notice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cove::browser::Session;
use cove::engine::event::{Act, AttemptEnd, Event, Work};
use cove::engine::state::{Limits, State};
use cove::model::{Failure, FailureCode, Fence, Item, ItemId, ItemState, OnUnknown, ProfileId, TaskId, Timestamp};
use cove::store::{EnqueueError, Idempotency, ItemQuery, NewItem, NewTask, STATE_FILE, Store, TaskQuery, WriterThread};

const PROFILES: [&str; 3] = ["anna", "boris", "clara"];
const SLOTS: u32 = 2;
const STEPS: u32 = 250;

/// An attempt in the world: a browser, and how far its flow is.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
#[derive(Clone, Debug)]
struct Browser {
    item: Option<ItemId>,
    profile: ProfileId,
    asked: bool,
    /// The click was allowed and dispatched.
    clicked: bool,
    ended: bool,
    interrupted: bool,
    closing: bool,
}

struct World {
    folder: PathBuf,
    dice: fastrand::Rng,
    now: Timestamp,
    store: Option<(Store, WriterThread)>,
    state: State,
    browsers: BTreeMap<Fence, Browser>,
    /// The judge.
    clicks: BTreeMap<ItemId, u32>,
    /// Every task that was acknowledged since the last restore.
    acknowledged: BTreeSet<TaskId>,
    /// Keys whose item was clicked.
    spent_keys: BTreeSet<String>,
    fence_off: bool,
    serial: u32,
}

/// The daemon died here; nothing after it happens.
struct Crash;

fn limits() -> Limits {
    Limits { slots: SLOTS, retry_base: Duration::from_secs(30), retry_max: Duration::from_secs(600) }
}

impl World {
    async fn new(folder: &Path, seed: u64, fence_off: bool) -> Self {
        let now = Timestamp::from_millis(1_795_000_000_000);
        let (store, thread, _) = Store::open(folder, now).unwrap();
        for name in PROFILES {
            store.create_profile(ProfileId::new(name).unwrap(), name.to_owned(), now).await.unwrap();
        }
        store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), now).await.unwrap();
        Self {
            folder: folder.to_owned(),
            dice: fastrand::Rng::with_seed(seed),
            now,
            store: Some((store, thread)),
            state: State::new(limits()),
            browsers: BTreeMap::new(),
            clicks: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            spent_keys: BTreeSet::new(),
            fence_off,
            serial: 0,
        }
    }

    fn store(&self) -> Store {
        self.store.as_ref().unwrap().0.clone()
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.dice.u8(..100) < percent
    }

    /// One event to its end, as the loop does it; may die between any two things.
    async fn turn(&mut self, event: Event) -> Result<(), Crash> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let step = self.state.apply(event, self.now);
            for commit in step.commit {
                if self.chance(1) {
                    return Err(Crash);
                }
                events.push_back(cove::engine::carry(&self.store(), commit, self.now).await.unwrap());
                if self.chance(1) {
                    return Err(Crash);
                }
            }
            for act in step.then {
                if act == Act::Look {
                    events.push_back(Event::Outlook(self.store().outlook(self.now).await.unwrap()));
                } else {
                    self.act(act);
                }
                if self.chance(1) {
                    return Err(Crash);
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Start { fence, work } => {
                let begins = !matches!(work, Work::Reattach { .. });
                assert!(!begins || self.state.view(self.now).no_disk.is_none(), "{work:?} began without disk space");
                let (item, profile, clicked) = match work {
                    Work::Attempt { item, .. } => (Some(item.id), item.profile, None),
                    // Armed before the restart; whether the click went out, only the site knows.
                    Work::Reattach { item, .. } => {
                        let clicked = self.clicks.contains_key(&item.id);
                        (Some(item.id), item.profile, Some(clicked))
                    }
                    Work::Operator { profile, .. } => (None, profile, None),
                };
                let asked = clicked.is_some();
                let clicked = clicked.unwrap_or_default();
                let browser =
                    Browser { item, profile, asked, clicked, ended: false, interrupted: false, closing: false };
                self.browsers.insert(fence, browser);
            }
            Act::AnswerArm { fence, answer } => self.answered(fence, answer.is_ok()),
            Act::Interrupt { fence } => {
                if let Some(browser) = self.browsers.get_mut(&fence) {
                    browser.interrupted = true;
                }
            }
            Act::Close { fence, profile } => {
                let gone = Browser {
                    item: None,
                    profile,
                    asked: true,
                    clicked: false,
                    ended: true,
                    interrupted: false,
                    closing: true,
                };
                self.browsers.entry(fence).or_insert(gone).closing = true;
            }
            Act::Look | Act::AnswerOpen { .. } | Act::AnswerClose { .. } => {}
        }
    }

    fn answered(&mut self, fence: Fence, allowed: bool) {
        let Some(browser) = self.browsers.get_mut(&fence) else { return };
        if allowed && !browser.ended {
            browser.clicked = true;
            *self.clicks.entry(browser.item.unwrap()).or_default() += 1;
        }
    }

    /// Moves one browser one step.
    async fn move_a_browser(&mut self) -> Result<(), Crash> {
        let fences: Vec<_> = self.browsers.keys().copied().collect();
        if fences.is_empty() {
            return Ok(());
        }
        let fence = fences[self.dice.usize(..fences.len())];
        let browser = self.browsers[&fence].clone();
        if browser.closing {
            self.browsers.remove(&fence);
            return self.turn(Event::Closed { fence }).await;
        }
        if browser.ended {
            return Ok(());
        }
        if !browser.asked && (browser.interrupted || self.chance(25)) {
            let code = if browser.interrupted {
                FailureCode::Canceled
            } else {
                [
                    FailureCode::ElementNotFound,
                    FailureCode::ProviderDown,
                    FailureCode::ProfileInUse,
                    FailureCode::BrowserLost,
                ][self.dice.usize(..4)]
            };
            return self.end(fence, AttemptEnd::Unarmed(Failure::new(code, "made up"))).await;
        }
        if !browser.asked {
            let session = Session {
                profile: browser.profile.clone(),
                port: 1,
                ws_path: String::new(),
                pid: 1,
                started_at: self.now,
                headless: true,
            };
            self.turn(Event::Opened { fence, session }).await?;
            if let Some(browser) = self.browsers.get_mut(&fence) {
                browser.asked = true;
            }
            if self.fence_off {
                self.answered(fence, true);
                return Ok(());
            }
            return self.turn(Event::ArmAsked { fence }).await;
        }
        let end = match (browser.clicked, self.dice.u8(..3)) {
            (true, 0) => AttemptEnd::Unknown(Failure::new(FailureCode::ConfirmationMissing, "made up")),
            // Also an attempt that is wrong about itself must not lead to a second click.
            (true, 1) if self.chance(20) => AttemptEnd::Unarmed(Failure::new(FailureCode::BrowserLost, "wrong")),
            (true, _) => AttemptEnd::Confirmed { url: None, result: BTreeMap::new() },
            (false, _) => AttemptEnd::Unarmed(Failure::new(FailureCode::ArmRefused, "refused")),
        };
        self.end(fence, end).await
    }

    async fn end(&mut self, fence: Fence, end: AttemptEnd) -> Result<(), Crash> {
        if let Some(browser) = self.browsers.get_mut(&fence) {
            browser.ended = true;
        }
        let roll = self.dice.f64();
        let started = !matches!(&end, AttemptEnd::Unarmed(failure) if failure.code == FailureCode::ProfileInUse);
        if !started {
            self.browsers.remove(&fence);
        }
        self.turn(Event::Ended { fence, end, evidence: Vec::new(), browser: started, roll }).await
    }

    async fn submit(&mut self) -> Result<(), Crash> {
        self.serial += 1;
        let items: Vec<_> = (0..self.dice.u32(1..4))
            .map(|n| NewItem {
                profile: ProfileId::new(PROFILES[self.dice.usize(..PROFILES.len())]).unwrap(),
                inputs: BTreeMap::new(),
                key: (self.dice.u8(..4) == 0).then(|| format!("key-{}-{n}", self.dice.u8(..6))),
                not_before: (self.dice.u8(..4) == 0).then(|| self.now.plus(Duration::from_secs(self.dice.u64(..900)))),
                not_after: (self.dice.u8(..9) == 0).then(|| self.now.plus(Duration::from_secs(1_000))),
            })
            .collect();
        let keys: BTreeSet<_> = items.iter().filter_map(|item| item.key.clone()).collect();
        if keys.len() != items.iter().filter(|item| item.key.is_some()).count() {
            return Ok(());
        }
        let idempotency = (self.dice.u8(..4) == 0).then(|| Idempotency {
            scope: String::new(),
            key: format!("request-{}", self.serial),
            body_hash: [0; 32],
        });
        let new = NewTask {
            flow: "atelier".to_owned(),
            flow_hash: "h1".to_owned(),
            priority: self.dice.i32(-2..3),
            max_attempts: self.dice.u32(1..4),
            spacing_seconds: if self.dice.u8(..5) == 0 { 60 } else { 0 },
            on_unknown: OnUnknown::Hold,
            items,
            idempotency,
        };
        match self.store().enqueue(new, self.now).await {
            Ok(made) => {
                assert!(keys.is_disjoint(&self.spent_keys), "a key that was clicked was accepted again");
                self.acknowledged.insert(made.task);
            }
            Err(EnqueueError::KeyTaken { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        self.turn(Event::Bell).await
    }

    async fn cancel(&mut self) -> Result<(), Crash> {
        let Some(task) = self.acknowledged.iter().nth(self.dice.usize(..self.acknowledged.len().max(1))).copied()
        else {
            return Ok(());
        };
        assert!(self.store().request_cancel(task, self.now).await.unwrap(), "an acknowledged task is gone");
        self.turn(Event::Bell).await
    }

    async fn step(&mut self) -> Result<(), Crash> {
        match self.dice.u8(..100) {
            0..=14 => self.submit().await,
            15..=19 => self.cancel().await,
            20..=34 => {
                self.now = self.now.plus(Duration::from_secs(self.dice.u64(..120)));
                self.turn(Event::Tick).await
            }
            35..=36 => {
                self.store().pause(self.now).await.unwrap();
                self.turn(Event::Bell).await
            }
            37..=40 => {
                self.store().resume(true, self.now).await.unwrap();
                self.turn(Event::Bell).await
            }
            41 => Err(Crash),
            42..=43 => {
                let short = self.dice.bool().then(|| "made up".to_owned());
                self.turn(Event::Disk { short }).await
            }
            _ => self.move_a_browser().await,
        }
    }

    /// Dies and comes back; some browsers survive, the others are gone.
    async fn restart(&mut self) {
        self.close().await;
        self.open().await;
    }

    async fn close(&mut self) {
        let (store, thread) = self.store.take().unwrap();
        drop(store);
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    }

    async fn open(&mut self) {
        let (store, thread, _) = Store::open(&self.folder, self.now).unwrap();
        self.store = Some((store, thread));
        loop {
            self.state = State::new(limits());
            self.browsers.clear();
            let leftovers = self.store().leftovers().await.unwrap();
            if self.turn(Event::Recovered(leftovers)).await.is_ok() {
                return;
            }
        }
    }

    /// Somebody puts an older state file back; the ledger stays.
    async fn restore(&mut self, snapshot: &Path) {
        self.close().await;
        std::fs::copy(snapshot, self.folder.join(STATE_FILE)).unwrap();
        self.acknowledged.clear();
        self.open().await;
        let tasks = self.store().tasks(TaskQuery { limit: 9_999, ..TaskQuery::default() }).await.unwrap();
        self.acknowledged.extend(tasks.rows.iter().map(|row| row.task.id));
    }

    async fn judge(&mut self) {
        let store = self.store();
        let differences = store.check_consistency().await.unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
        let items = store.items(ItemQuery { limit: 9_999, ..ItemQuery::default() }).await.unwrap().rows;
        for item in &items {
            self.judge_item(item);
        }
        for (item, clicks) in &self.clicks {
            assert!(*clicks <= 1, "{item} was clicked {clicks} times");
        }
        for task in &self.acknowledged {
            assert!(store.task(*task).await.unwrap().is_some(), "{task} was acknowledged and is lost");
        }
        let view = self.state.view(self.now);
        assert!(view.busy <= SLOTS, "{} attempts in {SLOTS} slots", view.busy);
    }

    fn judge_item(&mut self, item: &Item) {
        let clicks = self.clicks.get(&item.id).copied().unwrap_or_default();
        if clicks > 0 {
            self.spent_keys.extend(item.key.clone());
            let fits = item.is_armed() || matches!(item.state, ItemState::Succeeded | ItemState::OutcomeUnknown);
            assert!(fits, "{} was clicked and is {}", item.id, item.state);
        }
        if item.state == ItemState::Succeeded {
            assert_eq!(clicks, 1, "{} succeeded without a click", item.id);
        }
    }
}

async fn run(seed: u64, fence_off: bool) {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(base).unwrap();
    let mut world = World::new(folder.path(), seed, fence_off).await;
    let snapshot = folder.path().join("snapshot");
    if world.turn(Event::Recovered(Vec::new())).await.is_err() {
        world.restart().await;
    }
    for step in 0..STEPS {
        if world.step().await.is_err() {
            world.restart().await;
        }
        match world.dice.u16(..300) {
            0 => {
                world.close().await;
                std::fs::copy(folder.path().join(STATE_FILE), &snapshot).unwrap();
                world.open().await;
            }
            1 if snapshot.exists() => world.restore(&snapshot).await,
            _ => {}
        }
        if step % 5 == 0 || step == STEPS - 1 {
            world.judge().await;
        }
    }
    world.close().await;
}

fn in_a_runtime(seed: u64, fence_off: bool) -> std::thread::Result<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(seed, fence_off));
    })
    .join()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn nothing_twice_and_nothing_lost_over_random_histories() {
    let rounds = number("ROUNDS").unwrap_or(25);
    let seeds = number("SEED").map_or_else(
        || {
            let first = fastrand::u64(..1 << 40);
            first..first + rounds
        },
        |seed| seed..seed + 1,
    );
    println!("seeds {seeds:?}, {STEPS} steps each");
    for seed in seeds {
        assert!(in_a_runtime(seed, false).is_ok(), "run again with SEED={seed}");
    }
}

#[test]
fn negative_control_without_the_fence_the_judge_notices() {
    let noticed = (0..10).filter(|seed| in_a_runtime(*seed, true).is_err()).count();
    assert!(noticed > 5, "only {noticed} of 10 histories without a fence were noticed");
}
