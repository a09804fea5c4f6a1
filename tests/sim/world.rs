//! The world around the state machine: browsers, a site, a clock, a person, and a daemon that dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cove::breaker::board::Board;
use cove::breaker::{BreakerLimits, CDP_ATTACH, Passage};
use cove::browser::Session;
use cove::engine::START_BREAKERS;
use cove::engine::event::{Act, AttemptEnd, Commit, Event, Work};
use cove::engine::pressure::Pressure;
use cove::engine::state::{Limits, State};
use cove::model::{
    BootId, BootTime, Failure, FailureCode, Fence, ItemId, ItemState, Moment, OnUnknown, ProfileId, Proofs, Resolution,
    TaskId, Timestamp, Webhook,
};
use cove::store::{
    Ask, EnqueueError, Idempotency, ItemQuery, NewItem, NewTask, ResolveRefused, STATE_FILE, Store, TaskQuery,
    VerifyFinding, WriterThread,
};

use super::judge::Judge;
use others::{KIND, Worker};

#[path = "lent.rs"]
mod lent;
#[path = "machine.rs"]
mod machine;
#[path = "others.rs"]
mod others;

const PROFILES: [&str; 3] = ["anna", "boris", "clara"];
const SLOTS: u32 = 2;
const REST: Duration = Duration::from_secs(600);
const BREAKERS: BreakerLimits = BreakerLimits { failures: 2, open: Duration::from_secs(60), trials: 2 };

/// What happened in a history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    starts: u64,
    posts: u64,
    crashes: u64,
    restores: u64,
    verifies: u64,
    resolutions: u64,
    retries: u64,
    parkings: u64,
    forgotten: u64,
    pub claims: u64,
    pub late_words: u64,
    clock_jumps: u64,
    breakers_opened: u64,
    breakers_closed: u64,
    lends: u64,
    handed_back: u64,
    armed_deletes: u64,
    held_back: u64,
    ended_for_memory: u64,
}

impl Tally {
    pub fn parts(&self) -> [(&'static str, u64); 19] {
        [
            ("starts", self.starts),
            ("posts", self.posts),
            ("crashes", self.crashes),
            ("restores", self.restores),
            ("verifies", self.verifies),
            ("resolutions", self.resolutions),
            ("retries", self.retries),
            ("parkings", self.parkings),
            ("forgotten tasks", self.forgotten),
            ("claims of workers", self.claims),
            ("late words of workers", self.late_words),
            ("clock jumps", self.clock_jumps),
            ("breakers opened", self.breakers_opened),
            ("breakers closed", self.breakers_closed),
            ("browsers lent", self.lends),
            ("claims handed back", self.handed_back),
            ("deletes of an armed claim's browser", self.armed_deletes),
            ("machines without room", self.held_back),
            ("browsers ended for their memory", self.ended_for_memory),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        self.starts += other.starts;
        self.posts += other.posts;
        self.crashes += other.crashes;
        self.restores += other.restores;
        self.verifies += other.verifies;
        self.resolutions += other.resolutions;
        self.retries += other.retries;
        self.parkings += other.parkings;
        self.forgotten += other.forgotten;
        self.claims += other.claims;
        self.late_words += other.late_words;
        self.clock_jumps += other.clock_jumps;
        self.breakers_opened += other.breakers_opened;
        self.breakers_closed += other.breakers_closed;
        self.lends += other.lends;
        self.handed_back += other.handed_back;
        self.armed_deletes += other.armed_deletes;
        self.held_back += other.held_back;
        self.ended_for_memory += other.ended_for_memory;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.parts().iter().map(|(what, times)| format!("{times} {what}")).collect();
        out.write_str(&parts.join(", "))
    }
}

/// An attempt in the world: a browser, and how far its flow is.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
#[derive(Clone, Debug)]
struct Browser {
    item: Option<ItemId>,
    profile: ProfileId,
    verifies: bool,
    /// Somebody outside drives it.
    lent: bool,
    /// Its start was admitted by the breaker, which has not heard of it since.
    starting: bool,
    asked: bool,
    /// The click was allowed and dispatched.
    clicked: bool,
    ended: bool,
    interrupted: bool,
    closing: bool,
    /// Taken away while it was driven.
    cut: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub struct World {
    folder: PathBuf,
    pub dice: fastrand::Rng,
    now: Timestamp,
    store: Option<(Store, WriterThread)>,
    state: State,
    browsers: BTreeMap<Fence, Browser>,
    judge: Judge,
    fence_off: bool,
    serial: u32,
    tally: Tally,
    /// When the machine was booted, and the how many-th boot it is.
    booted: (Timestamp, u32),
    /// How far the wall clock was set ahead, and nobody has said yet that this is right.
    skew: Duration,
    asked_clock: bool,
    /// When each arming was handed to the store.
    arm_asked: BTreeMap<Fence, Timestamp>,
    /// Nothing may start.
    full_disk: bool,
    /// By the last report of the machine nothing may start.
    no_room: bool,
    pressure: Pressure,
    /// Profiles whose pages take too much.
    heavy: BTreeSet<ProfileId>,
    /// As the daemon has it: gone when it dies.
    board: Board,
    /// Browsers come up and do not answer.
    mute_browsers: bool,
    /// What outside programs believe to hold: under which fence, and until when.
    outside: BTreeMap<ProfileId, (Fence, Timestamp)>,
    workers: BTreeMap<Fence, Worker>,
    /// Nothing dies and nothing ends by itself any more.
    calm: bool,
}

/// The daemon died here; nothing after it happens.
pub struct Crash;

/// The world's clocks run together, save where somebody set the wall clock ahead by `skew`.
fn moment(wall: Timestamp, skew: Duration, (booted, boot): (Timestamp, u32)) -> Moment {
    let since = wall.since(booted.plus(skew));
    Moment { wall, boot: BootTime::default().plus(since), boot_id: BootId::new(u128::from(boot)) }
}

fn limits() -> Limits {
    Limits {
        slots: SLOTS,
        retry_base: Duration::from_secs(30),
        retry_max: Duration::from_secs(600),
        rest: REST,
        catch_up_per_hour: 0,
        sessions: 2,
    }
}

fn id(name: &str) -> ProfileId {
    ProfileId::new(name).unwrap()
}

impl World {
    pub async fn new(folder: &Path, seed: u64, fence_off: bool) -> Self {
        let now = Timestamp::from_millis(1_795_000_000_000);
        let booted = (now, 1);
        let (store, thread, _) = Store::open(folder, moment(now, Duration::ZERO, booted)).unwrap();
        for name in PROFILES {
            store.create_profile(id(name), name.to_owned(), now).await.unwrap();
        }
        store.put_flow("atelier".to_owned(), "h1".to_owned(), b"{}".to_vec(), now).await.unwrap();
        Self {
            folder: folder.to_owned(),
            dice: fastrand::Rng::with_seed(seed),
            now,
            store: Some((store, thread)),
            state: State::new(limits()),
            browsers: BTreeMap::new(),
            judge: Judge::default(),
            fence_off,
            serial: 0,
            tally: Tally::default(),
            booted,
            skew: Duration::ZERO,
            asked_clock: false,
            arm_asked: BTreeMap::new(),
            full_disk: false,
            no_room: false,
            pressure: Pressure::default(),
            heavy: BTreeSet::new(),
            board: Board::new(BREAKERS),
            mute_browsers: false,
            outside: BTreeMap::new(),
            workers: BTreeMap::new(),
            calm: false,
        }
    }

    pub fn tally(&self) -> Tally {
        let posts = self.judge.seen.values().map(|seen| u64::from(seen.posts)).sum();
        Tally { posts, ..self.tally }
    }

    fn passage(&self) -> Passage {
        self.board.passage(&START_BREAKERS, self.now)
    }

    fn moment(&self) -> Moment {
        moment(self.now, self.skew, self.booted)
    }

    fn store(&self) -> Store {
        self.store.as_ref().unwrap().0.clone()
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.dice.u8(..100) < percent
    }

    fn may_die(&mut self) -> Result<(), Crash> {
        if !self.calm && self.chance(1) { Err(Crash) } else { Ok(()) }
    }

    fn pass(&mut self, most_seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(self.dice.u64(..most_seconds)));
    }

    /// One event to its end, as the loop does it; may die between any two things.
    pub async fn turn(&mut self, event: Event) -> Result<(), Crash> {
        let mut events = VecDeque::from([Event::Time(self.moment()), Event::Breakers(self.passage()), event]);
        while let Some(event) = events.pop_front() {
            let step = self.state.apply(event, self.now);
            for commit in step.commit {
                self.may_die()?;
                if let Commit::Arm { fence, .. } = &commit {
                    self.arm_asked.insert(*fence, self.now);
                }
                let answer = cove::engine::carry(&self.store(), commit.clone(), self.moment()).await.unwrap();
                match (&commit, &answer) {
                    (Commit::Finish(end), Event::EndStored { refused: false, .. }) => self.handed_back(end),
                    (Commit::ReleaseSession(name), _) => self.released(name),
                    _ => {}
                }
                events.push_back(answer);
                self.may_die()?;
                if !self.calm && self.chance(1) {
                    // A slow disk: what is decided next is decided later.
                    self.pass(90);
                }
            }
            for act in step.then {
                match act {
                    Act::Look => {
                        events.push_back(Event::Breakers(self.passage()));
                        events.push_back(Event::Outlook(self.store().outlook(self.moment()).await.unwrap()));
                    }
                    Act::AnswerLend { answer, .. } => events.extend(self.lent(answer)),
                    act => self.act(act),
                }
                self.may_die()?;
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) {
        let browser = |item, profile| Browser {
            item,
            profile,
            verifies: false,
            lent: false,
            starting: false,
            asked: false,
            clicked: false,
            ended: false,
            interrupted: false,
            closing: false,
            cut: false,
        };
        match act {
            Act::Start { fence, work } => {
                let started = match work {
                    Work::Attempt { item, .. } => {
                        assert!(!self.no_room, "{} starts where there is no room", item.id);
                        self.tally.starts += 1;
                        assert!(!self.full_disk, "{} starts on a full disk", item.id);
                        self.judge.starts(&item, item.started_at.unwrap(), self.skew);
                        self.admitted(item.id);
                        Browser { starting: true, ..browser(Some(item.id), item.profile) }
                    }
                    // Armed before the restart; whether the click went out, only the site knows.
                    Work::Reattach { item, .. } => {
                        let clicked = self.judge.seen.get(&item.id).is_some_and(|seen| seen.posts > 0);
                        Browser { asked: true, clicked, ..browser(Some(item.id), item.profile) }
                    }
                    Work::Verify { item, .. } => {
                        assert!(!self.no_room, "{} is looked for where there is no room", item.id);
                        self.admitted(item.id);
                        Browser { verifies: true, starting: true, ..browser(Some(item.id), item.profile) }
                    }
                    Work::Operator { profile, .. } => browser(None, profile),
                    Work::Lend { profile, vanishes, .. } => {
                        let shut = self.passage().shut_until();
                        assert!(vanishes || shut.is_none(), "{fence} takes an item while the breaker is open");
                        assert!(!self.full_disk, "{fence} is lent on a full disk");
                        assert!(!self.no_room, "{fence} is lent where there is no room");
                        Browser { lent: true, ..browser(None, profile) }
                    }
                };
                let held = self.outside.get(&started.profile).filter(|(_, until)| *until > self.now);
                assert!(held.is_none(), "{} is started and a program holds it: {held:?}", started.profile);
                let worked = self.worker_in(&started.profile);
                assert!(worked.is_none(), "{} is started and a worker has it: {worked:?}", started.profile);
                self.browsers.insert(fence, started);
            }
            Act::AnswerArm { fence, answer } if self.workers.contains_key(&fence) => {
                self.worker_answered(fence, answer.is_ok());
            }
            Act::AnswerArm { fence, answer } => self.answered(fence, answer.is_ok()),
            Act::Interrupt { fence } => {
                self.may_end(fence);
                if let Some(browser) = self.browsers.get_mut(&fence) {
                    browser.interrupted = true;
                }
            }
            Act::Close { fence, profile } => {
                let gone = Browser { asked: true, ended: true, ..browser(None, profile) };
                self.browsers.entry(fence).or_insert(gone).closing = true;
            }
            Act::AskClock => self.asked_clock = true,
            Act::EndBrowser { fence, .. } => self.cut(fence),
            Act::ShutDoor { fence, .. } => self.shut(fence),
            Act::Look | Act::AnswerOpen { .. } | Act::AnswerClose { .. } | Act::AnswerLend { .. } => {}
        }
    }

    /// A start meets the breaker: shut it is never tried, half open one is tried at a time.
    fn admitted(&self, item: ItemId) {
        let passage = self.passage();
        assert!(passage.shut_until().is_none(), "{item} starts while the breaker is open");
        let alone = !self.browsers.values().any(|browser| browser.starting);
        assert!(passage == Passage::Free || alone, "{item} starts beside another trial");
        self.board.admit(CDP_ATTACH, self.now).unwrap();
    }

    /// What becomes of a start is told to the breaker, once.
    async fn started(&mut self, fence: Fence, met: Option<FailureCode>) -> Result<(), Crash> {
        let Some(browser) = self.browsers.get_mut(&fence).filter(|browser| browser.starting) else { return Ok(()) };
        browser.starting = false;
        match met {
            None => {
                self.board.succeeded(CDP_ATTACH, self.now);
                return self.turn(Event::Attached { fence }).await;
            }
            Some(FailureCode::AttachFailed) => self.board.failed(CDP_ATTACH, self.now, "made up"),
            Some(_) => self.board.withdrawn(CDP_ATTACH, self.now),
        }
        Ok(())
    }

    /// The click; now and then a site takes it and publishes nothing.
    fn answered(&mut self, fence: Fence, allowed: bool) {
        let posts = !self.chance(25);
        let Some(browser) = self.browsers.get_mut(&fence) else { return };
        if allowed && !browser.ended {
            browser.clicked = true;
            let (item, profile) = (browser.item.unwrap(), browser.profile.clone());
            // Spacing counts from what is persisted: the time of the commit, however long the disk took.
            // Without a fence nobody asked.
            self.judge.armed(&profile, self.arm_asked.get(&fence).copied().unwrap_or(self.now));
            self.judge.clicked(item, posts);
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
        if browser.cut && !browser.lent {
            return self.lost(fence).await;
        }
        if browser.verifies {
            return self.verified(fence, &browser).await;
        }
        if browser.lent {
            return self.move_a_lent_one(fence, &browser).await;
        }
        let mute = self.mute_browsers && self.chance(90);
        if !browser.asked && (browser.interrupted || mute || self.chance(25)) {
            let code = match (browser.interrupted, mute) {
                (true, _) => FailureCode::Canceled,
                (false, true) => FailureCode::AttachFailed,
                (false, false) => self.mishap(),
            };
            self.started(fence, Some(code)).await?;
            return self.end(fence, AttemptEnd::Unarmed(Failure::new(code, "made up")), None).await;
        }
        if !browser.asked {
            let session = self.session_of(&browser.profile);
            self.turn(Event::Opened { fence, session }).await?;
            self.started(fence, None).await?;
            if let Some(browser) = self.browsers.get_mut(&fence) {
                browser.asked = true;
            }
            if self.fence_off {
                self.answered(fence, true);
                return Ok(());
            }
            return self.turn(Event::ArmAsked { fence, proofs: Proofs::default() }).await;
        }
        self.after_the_question(fence, &browser).await
    }

    fn session_of(&self, profile: &ProfileId) -> Session {
        Session {
            profile: profile.clone(),
            port: 1,
            ws_path: String::new(),
            pid: 1,
            started_at: self.now,
            headless: true,
        }
    }

    fn mishap(&mut self) -> FailureCode {
        let codes = [
            FailureCode::AttachFailed,
            FailureCode::BreakerOpen,
            FailureCode::ProviderDown,
            FailureCode::ProfileInUse,
            FailureCode::BrowserLost,
            FailureCode::NeedsHuman,
            FailureCode::RateLimited,
            FailureCode::Rejected,
        ];
        codes[self.dice.usize(..codes.len())]
    }

    async fn after_the_question(&mut self, fence: Fence, browser: &Browser) -> Result<(), Crash> {
        let posted = browser.item.and_then(|item| self.judge.seen.get(&item)).is_some_and(|seen| seen.posts > 0);
        let unknown = || AttemptEnd::Unknown(Failure::new(FailureCode::ConfirmationMissing, "made up"));
        let mut stopped = None;
        let end = match (browser.clicked, self.dice.u8(..3)) {
            (true, 0) => {
                // A verification page behind the click parks the profile.
                stopped = self.chance(30).then(|| Failure::new(FailureCode::NeedsHuman, "made up"));
                unknown()
            }
            // Also an attempt that is wrong about itself must not lead to a second click.
            (true, 1) if self.chance(20) => AttemptEnd::Unarmed(Failure::new(FailureCode::BrowserLost, "wrong")),
            (true, _) if posted => AttemptEnd::Confirmed { url: None, result: BTreeMap::new() },
            (true, _) => unknown(),
            (false, _) => AttemptEnd::Unarmed(Failure::new(FailureCode::ArmRefused, "refused")),
        };
        self.end(fence, end, stopped).await
    }

    async fn end(&mut self, fence: Fence, end: AttemptEnd, stopped: Option<Failure>) -> Result<(), Crash> {
        if let Some(browser) = self.browsers.get_mut(&fence) {
            browser.ended = true;
        }
        let roll = self.dice.f64();
        let started = !matches!(&end, AttemptEnd::Unarmed(failure) if failure.code == FailureCode::ProfileInUse);
        if !started {
            self.browsers.remove(&fence);
        }
        self.turn(Event::Ended { fence, end, evidence: Vec::new(), stopped, browser: started, roll }).await
    }

    /// A verify sees what the site has, unless it sees nothing at all.
    async fn verified(&mut self, fence: Fence, browser: &Browser) -> Result<(), Crash> {
        self.tally.verifies += 1;
        let met = match self.dice.u8(..10) {
            _ if browser.interrupted => Some(FailureCode::Canceled),
            0 => Some(FailureCode::ProviderDown),
            1..=8 if self.mute_browsers => Some(FailureCode::AttachFailed),
            _ => None,
        };
        self.started(fence, met).await?;
        if let Some(browser) = self.browsers.get_mut(&fence) {
            browser.ended = true;
        }
        let posted = browser.item.and_then(|item| self.judge.seen.get(&item)).is_some_and(|seen| seen.posts > 0);
        let look = match self.dice.u8(..10) {
            _ if browser.interrupted => None,
            _ if met.is_some() => met.map(|code| VerifyFinding::Inconclusive(Failure::new(code, "made up"))),
            0 => Some(VerifyFinding::Inconclusive(Failure::new(FailureCode::WaitTimedOut, "a login page"))),
            _ if posted => Some(VerifyFinding::Found { url: None, result: BTreeMap::new() }),
            _ => Some(VerifyFinding::NotFound("not there".to_owned())),
        };
        self.turn(Event::Looked { fence, look, evidence: Vec::new(), stopped: None, browser: true }).await
    }

    async fn submit(&mut self) -> Result<(), Crash> {
        self.serial += 1;
        let items: Vec<_> = (0..self.dice.u32(1..4))
            .map(|n| NewItem {
                profile: id(PROFILES[self.dice.usize(..PROFILES.len())]),
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
        let verifiable = self.dice.bool();
        let retry = verifiable && self.dice.bool();
        let new = NewTask {
            flow: "atelier".to_owned(),
            flow_hash: "h1".to_owned(),
            priority: self.dice.i32(-2..3),
            max_attempts: self.dice.u32(1..4),
            spacing_seconds: if self.dice.u8(..5) == 0 { 60 } else { 0 },
            on_unknown: if retry { OnUnknown::Retry } else { OnUnknown::Hold },
            external: (self.dice.u8(..3) == 0).then(|| KIND.to_owned()),
            verifiable,
            rehearsal: false,
            items,
            idempotency,
            // Told to nobody here, but written down with every change and checked with the rest.
            webhook: self.serial.is_multiple_of(2).then(|| Webhook::new("https://host/", None).unwrap()),
        };
        match self.store().enqueue(new, self.now).await {
            Ok(made) => {
                let row = self.store().task(made.task).await.unwrap().unwrap();
                self.judge.accepted(&row.task, &keys);
            }
            Err(EnqueueError::KeyTaken { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        self.turn(Event::Bell).await
    }

    fn a_task(&mut self) -> Option<TaskId> {
        let tasks = self.judge.tasks();
        (!tasks.is_empty()).then(|| tasks[self.dice.usize(..tasks.len())])
    }

    async fn ask(&mut self) -> Result<(), Crash> {
        let Some(task) = self.a_task() else { return Ok(()) };
        let ask = [Ask::Cancel, Ask::Pause, Ask::Pause, Ask::Resume, Ask::Resume, Ask::Resume][self.dice.usize(..6)];
        let finished = self.store().task(task).await.unwrap().unwrap().task.counts.state().is_terminal();
        assert!(self.store().ask(task, ask, self.now).await.unwrap(), "an acknowledged task is gone");
        if !finished {
            match ask {
                Ask::Cancel => self.judge.canceled(task),
                Ask::Pause => self.judge.set_paused(task, true),
                Ask::Resume => self.judge.set_paused(task, false),
            }
        }
        self.turn(Event::Bell).await
    }

    async fn retry(&mut self) -> Result<(), Crash> {
        let Some(task) = self.a_task() else { return Ok(()) };
        let step = self.store().retry(task, 0, self.now).await.unwrap().expect("an acknowledged task is gone");
        if step.retried > 0 {
            self.tally.retries += 1;
            self.judge.retried(task);
        }
        self.turn(Event::Bell).await
    }

    /// A person who looks at the site and tells the truth, or gives up.
    async fn resolve(&mut self) -> Result<(), Crash> {
        let query = ItemQuery { state: Some(ItemState::OutcomeUnknown), limit: 9_999, ..ItemQuery::default() };
        let unknown = self.store().items(query).await.unwrap().rows;
        if unknown.is_empty() {
            return Ok(());
        }
        let item = &unknown[self.dice.usize(..unknown.len())];
        let posted = self.judge.seen.get(&item.id).is_some_and(|seen| seen.posts > 0);
        let resolution = match self.dice.u8(..5) {
            0 => Resolution::GiveUp,
            _ if posted => Resolution::Published,
            _ => Resolution::NotPublished,
        };
        self.tally.resolutions += 1;
        match self.store().resolve(item.id, resolution, None, String::new(), self.now).await {
            Ok(_) | Err(ResolveRefused::NotUnknown(_)) => {}
            Err(other) => panic!("{other}"),
        }
        self.turn(Event::Resolved { item: item.id }).await
    }

    async fn unpark(&mut self) -> Result<(), Crash> {
        let profile = id(PROFILES[self.dice.usize(..PROFILES.len())]);
        self.store().unpark(profile.clone()).await.unwrap().unwrap();
        self.judge.parked.remove(&profile);
        self.turn(Event::Bell).await
    }

    /// Forgets what ended long ago, half of it at a time.
    async fn forget(&mut self) -> Result<(), Crash> {
        let before = Timestamp::from_millis(self.now.as_millis().saturating_sub(1_000_000));
        for prunable in self.store().prunable(before, 40, 3).await.unwrap() {
            while !self.store().prune(prunable.task).await.unwrap() {}
            self.judge.forgotten(prunable.task);
            self.tally.forgotten += 1;
        }
        Ok(())
    }

    pub async fn step(&mut self) -> Result<(), Crash> {
        match self.dice.u8(..100) {
            0..=13 => self.submit().await,
            14..=19 => self.ask().await,
            20..=32 => {
                self.pass(120);
                self.turn(Event::Tick).await
            }
            33 => {
                self.pass(7_200);
                self.turn(Event::Tick).await
            }
            34..=35 => {
                self.store().pause(self.now).await.unwrap();
                self.judge.paused = true;
                self.turn(Event::Bell).await
            }
            36..=40 => {
                self.store().resume(true, self.now).await.unwrap();
                self.judge.paused = false;
                self.believe();
                self.turn(Event::Bell).await
            }
            41 => Err(Crash),
            42..=44 => self.resolve().await,
            45..=47 => self.retry().await,
            48..=51 => self.unpark().await,
            52 => self.forget().await,
            53..=57 if self.skew.is_zero() => self.program().await,
            58..=70 if self.skew.is_zero() => self.worker().await,
            71 => self.set_the_clock().await,
            72..=73 => {
                self.full_disk = !self.full_disk;
                let short = self.full_disk.then(|| "full".to_owned());
                self.turn(Event::Disk { short }).await
            }
            74..=76 => {
                // They do not answer for a while.
                self.mute_browsers = !self.mute_browsers && self.chance(30);
                Ok(())
            }
            77..=80 if self.skew.is_zero() => self.borrower().await,
            81..=84 => self.report().await,
            _ => self.move_a_browser().await,
        }
    }

    /// The wall clock as it is now is right: whoever says so has looked.
    fn believe(&mut self) {
        self.booted.0 = self.booted.0.plus(self.skew);
        self.skew = Duration::ZERO;
        self.asked_clock = false;
    }

    /// Somebody sets the wall clock days ahead, puts it right again, or the system finds that it is right.
    async fn set_the_clock(&mut self) -> Result<(), Crash> {
        if !self.skew.is_zero() {
            if self.asked_clock && self.dice.bool() {
                self.believe();
                return self.turn(Event::ClockSynchronised).await;
            }
            self.now = Timestamp::ZERO.plus(self.now.since(Timestamp::ZERO.plus(self.skew)));
            self.skew = Duration::ZERO;
        } else if self.outside.is_empty() && self.workers.is_empty() {
            if self.store().clock_mark().await.unwrap().is_none() {
                // Nobody has written down yet what time it was: that it jumped nobody could know.
                return Ok(());
            }
            self.tally.clock_jumps += 1;
            self.skew = Duration::from_secs(self.dice.u64(3_600..300_000));
            self.now = self.now.plus(self.skew);
        }
        self.turn(Event::Tick).await
    }

    /// Dies and comes back; some browsers survive, the others are gone. Sometimes the machine went down.
    pub async fn restart(&mut self) {
        self.tally.crashes += 1;
        self.close().await;
        if self.skew.is_zero() && self.chance(30) {
            self.booted = (self.now, self.booted.1 + 1);
        }
        self.open().await;
    }

    pub async fn close(&mut self) {
        let board = std::mem::replace(&mut self.board, Board::new(BREAKERS));
        for moves in board.moves() {
            match moves.to {
                "open" => self.tally.breakers_opened += moves.total,
                "closed" => self.tally.breakers_closed += moves.total,
                _ => {}
            }
        }
        let (store, thread) = self.store.take().unwrap();
        drop(store);
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
    }

    pub async fn open(&mut self) {
        let (store, thread, report) = Store::open(&self.folder, self.moment()).unwrap();
        self.store = Some((store, thread));
        self.judge.paused |= report.pause.is_some();
        loop {
            self.state = State::new(limits());
            let mark = self.store().clock_mark().await.unwrap();
            self.state.begin_time(mark, self.moment());
            self.full_disk = false;
            self.no_room = false;
            self.browsers.clear();
            self.note_parked().await;
            let leftovers = self.store().leftovers().await.unwrap();
            if self.turn(Event::Recovered(leftovers)).await.is_ok() {
                return;
            }
        }
    }

    /// Somebody puts an older state file back; the ledger stays.
    pub async fn restore(&mut self, snapshot: &Path) {
        self.tally.restores += 1;
        self.close().await;
        std::fs::copy(snapshot, self.folder.join(STATE_FILE)).unwrap();
        let (store, thread, report) = Store::open(&self.folder, self.moment()).unwrap();
        for (fence, worker) in &mut self.workers {
            // A copy behind which the ledger has nothing is the state itself, and what it claims is claimed.
            let item = store.item(worker.item).await.unwrap().filter(|_| !report.restored);
            worker.outdated |= item.is_none_or(|item| item.fence != Some(*fence));
        }
        let mark = store.clock_mark().await.unwrap();
        if mark.is_none_or(|mark| mark.believed.boot_id != self.moment().boot_id) {
            // Of an earlier boot: what time it should be nobody knows (fence.md rule 20).
            self.believe();
        }
        let tasks = store.tasks(TaskQuery { limit: 9_999, ..TaskQuery::default() }).await.unwrap().rows;
        let paused = store.stats().await.unwrap().pause.is_some();
        let tasks = tasks
            .into_iter()
            .map(|row| (row.task, row.intent.paused_at.is_some(), row.intent.cancel_requested_at.is_some()));
        self.judge.restored(tasks, BTreeSet::new());
        self.judge.paused = paused;
        // Their locks are gone, and until a human resumes nobody gets one (fence.md rule 18).
        self.outside.clear();
        self.store = Some((store, thread));
        self.close().await;
        self.open().await;
    }

    /// What the store says of profiles is told to the judge when an end parks one.
    async fn note_parked(&mut self) {
        let profiles = self.store().profiles().await.unwrap();
        let parked: BTreeSet<_> =
            profiles.into_iter().filter(|profile| profile.parked.is_some()).map(|profile| profile.id).collect();
        self.tally.parkings += parked.difference(&self.judge.parked).count() as u64;
        self.judge.parked = parked;
    }

    pub async fn look(&mut self) {
        self.note_parked().await;
        let store = self.store();
        let differences = store.check_consistency().await.unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
        let items = store.items(ItemQuery { limit: 9_999, ..ItemQuery::default() }).await.unwrap().rows;
        for item in &items {
            self.judge.item(item);
        }
        self.judge.all_there(&items.iter().map(|item| item.task).collect());
        let view = self.state.view(self.now);
        assert!(view.busy <= SLOTS, "{} attempts in {SLOTS} slots", view.busy);
    }
}
