//! What is asked of the store while its disk is tried: a seeded history of every operation, one at a time
//! or several at once, with the whole state as text after each of them.
//!
//! The history is made against a store of its own, one operation at a time; the store on the tried disk
//! gets the same, some of it together in one commit, and must say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use cove::model::{
    BootId, BootTime, Failure, FailureCode, Fence, ItemId, Moment, OnUnknown, ProfileId, Proofs, TaskId, TaskState,
    Timestamp, Verdict,
};
use cove::store::{
    AttemptEnded, Claim, EnqueueError, Idempotency, NewItem, NewTask, Pause, ResumeRefused, Store, StoreError,
    TaskQuery, WriterThread,
};
use futures_util::future::join_all;

use super::disk::{Disk, Image, Name, Op};

const PROFILES: [&str; 3] = ["anna", "boris", "clara"];
pub const BEGIN: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// The clocks of the history run together.
pub fn moment(wall: Timestamp) -> Moment {
    Moment { wall, boot: BootTime::from_millis(wall.as_millis() - 1_794_000_000_000), boot_id: BootId::new(1) }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Ask {
    Profile(ProfileId),
    Flow { version: u32 },
    Enqueue(NewTask),
    Cancel(TaskId),
    PauseTask(TaskId),
    ResumeTask(TaskId),
    Settle(TaskId),
    Retry(TaskId),
    Claim(ItemId),
    Arm(ItemId, Fence),
    Finish(ItemId, Fence, Verdict),
    Release(ProfileId, Fence),
    Operator(ProfileId),
    Promote,
    Pause,
    Resume,
    // The lock service's acquire, refresh and release belong here, and into `choose` and `ask`.
}

fn recording(version: u32) -> Vec<u8> {
    format!("{{\"version\":{version},\"padding\":\"{}\"}}", "x".repeat(usize::try_from(version % 7).unwrap() * 700))
        .into()
}

fn flow_hash(version: u32) -> String {
    format!("h{version}")
}

/// Carries it out; the answer as text. An error is the store's own: the disk failed.
pub async fn ask(store: &Store, ask: Ask, now: Timestamp) -> Result<String, StoreError> {
    let text = |answer: &dyn std::fmt::Debug| format!("{answer:?}");
    Ok(match ask {
        Ask::Profile(id) => match store.create_profile(id.clone(), id.to_string(), now).await {
            Err(cove::store::CreateProfileError::Store(error)) => return Err(error),
            other => text(&other),
        },
        Ask::Flow { version } => {
            text(&store.put_flow("atelier".to_owned(), flow_hash(version), recording(version), now).await?)
        }
        Ask::Enqueue(new) => match store.enqueue(new, now).await {
            Err(EnqueueError::Store(error)) => return Err(error),
            other => text(&other),
        },
        Ask::Cancel(task) => text(&store.ask(task, cove::store::Ask::Cancel, now).await?),
        Ask::PauseTask(task) => text(&store.ask(task, cove::store::Ask::Pause, now).await?),
        Ask::ResumeTask(task) => text(&store.ask(task, cove::store::Ask::Resume, now).await?),
        Ask::Settle(task) => text(&store.settle(task, now).await?),
        Ask::Retry(task) => text(&store.retry(task, 0, now).await?),
        Ask::Claim(item) => match store.claim(item, moment(now)).await? {
            Ok(Claim::Started(claimed)) => format!("started under {}", claimed.fence),
            other => text(&other.map(drop)),
        },
        Ask::Arm(item, fence) => text(&store.arm(item, fence, Proofs::default(), moment(now)).await?),
        Ask::Finish(item, fence, verdict) => {
            let end = AttemptEnded { item, fence, verdict, evidence: Vec::new(), effect: None };
            text(&store.finish(end, now).await?)
        }
        Ask::Release(profile, fence) => text(&store.release(profile, fence).await?),
        Ask::Operator(profile) => text(&store.lock_for_operator(profile, moment(now)).await?),
        Ask::Promote => text(&store.promote(now).await?),
        Ask::Pause => text(&store.pause(now).await?),
        Ask::Resume => match store.resume(false, now).await {
            Err(ResumeRefused::Store(error)) => return Err(error),
            other => text(&other),
        },
    })
}

/// What an operation that had its answer means for the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    Armed(ItemId, Fence),
    Published(ItemId, Fence),
}

fn fact(ask: &Ask, answer: &str) -> Option<Fact> {
    match ask {
        Ask::Arm(item, fence) if answer == "Ok(())" => Some(Fact::Armed(*item, *fence)),
        Ask::Finish(item, fence, Verdict::Succeeded { .. }) if answer.starts_with("Ok") => {
            Some(Fact::Published(*item, *fence))
        }
        _ => None,
    }
}

/// Operations that are asked at once.
#[derive(Clone, Debug)]
pub struct Group {
    pub now: Timestamp,
    pub asks: Vec<Ask>,
}

/// A history and what it must leave.
pub struct History {
    /// Both files at its begin.
    pub begin: Image,
    pub groups: Vec<Group>,
    /// The whole state as text: after the open, and after each operation.
    pub dumps: Vec<String>,
    /// Of each operation.
    pub answers: Vec<String>,
    pub facts: Vec<Option<Fact>>,
    /// What the disk was asked for meanwhile.
    pub log: Vec<Op>,
    /// How much of it belongs to the open.
    pub opened_at: usize,
}

impl History {
    /// The operations that may be under way when `answered` of them had their answer: up to the last of
    /// their group.
    pub fn last_under_way(&self, answered: usize) -> usize {
        let mut end = 0;
        for group in &self.groups {
            if end > answered {
                break;
            }
            end += group.asks.len();
        }
        end.max(answered)
    }

    /// It began with a state that nobody had opened yet.
    pub fn is_new(&self) -> bool {
        self.begin.file(Name::Ledger).is_empty()
    }

    /// The time of operation `number`, from 0.
    pub fn time_of(&self, number: usize) -> Timestamp {
        let mut end = 0;
        for group in &self.groups {
            end += group.asks.len();
            if end > number {
                return group.now;
            }
        }
        self.groups.last().map_or(BEGIN, |group| group.now)
    }
}

/// A store that is open.
pub struct Opened {
    pub store: Store,
    thread: WriterThread,
    pub report: cove::store::BootReport,
}

impl Opened {
    pub fn over(disk: &Disk, now: Timestamp) -> Result<Self, cove::store::OpenError> {
        let (store, thread, report) = Store::open_over(|| disk.state(), disk.ledger(), moment(now))?;
        Ok(Self { store, thread, report })
    }

    /// The state as text, but for how often it was opened: each look at it counts.
    pub async fn dump(&self) -> Result<String, StoreError> {
        let dump = self.store.dump().await?;
        let (before, after) = dump.split_once(" opens: ").expect("it is counted");
        let (_, after) = after.split_once(',').expect("it is not the last field");
        Ok([before, after].concat())
    }

    pub async fn close(self) {
        drop(self.store);
        tokio::task::spawn_blocking(|| self.thread.join()).await.unwrap();
    }
}

/// A state that was just made: nothing but its tables.
pub fn new_state() -> Image {
    let disk = Disk::new(Image::default());
    Store::create_over(disk.state()).unwrap();
    disk.live()
}

/// Makes a history of `groups` on what `begin` holds.
pub async fn record(begin: Image, now: Timestamp, groups: usize, dice: &mut fastrand::Rng) -> History {
    let (disk, model) = (Disk::new(begin.clone()), Disk::new(begin.clone()));
    let tried = Opened::over(&disk, now).unwrap();
    let one_by_one = Opened::over(&model, now).unwrap();
    let opened_at = disk.log().len();
    disk.answered(0);
    let mut history = History {
        begin,
        groups: Vec::new(),
        dumps: Vec::new(),
        answers: Vec::new(),
        facts: Vec::new(),
        log: Vec::new(),
        opened_at,
    };
    history.dumps.push(one_by_one.dump().await.unwrap());
    assert_eq!(tried.dump().await.unwrap(), history.dumps[0]);
    let mut now = now;
    for _ in 0..groups {
        now = now.plus(Duration::from_secs(dice.u64(..120)));
        let asks = choose(&one_by_one.store, now, dice).await;
        let before = history.answers.len();
        for one in &asks {
            let answer = ask(&one_by_one.store, one.clone(), now).await.unwrap();
            history.facts.push(fact(one, &answer));
            history.answers.push(answer);
            history.dumps.push(one_by_one.dump().await.unwrap());
        }
        assert_eq!(at_once(&tried.store, &disk, &asks, now, before).await, history.answers[before..]);
        history.groups.push(Group { now, asks });
    }
    assert_eq!(&tried.dump().await.unwrap(), history.dumps.last().unwrap());
    one_by_one.close().await;
    tried.close().await;
    history.log = disk.log();
    history
}

/// Asks all of a group before it waits for an answer; the log is told of each.
async fn at_once(store: &Store, disk: &Disk, asks: &[Ask], now: Timestamp, before: usize) -> Vec<String> {
    let answered = std::cell::Cell::new(before);
    let calls = asks.iter().map(|one| async {
        let answer = ask(store, one.clone(), now).await.unwrap();
        answered.set(answered.get() + 1);
        disk.answered(answered.get());
        answer
    });
    join_all(calls).await
}

/// What could be asked now.
async fn choose(store: &Store, now: Timestamp, dice: &mut fastrand::Rng) -> Vec<Ask> {
    let mut asks = Vec::new();
    let together = if dice.u8(..10) < 7 { 1 } else { dice.usize(2..7) };
    while asks.len() < together {
        if let Some(one) = choose_one(store, now, dice).await {
            asks.push(one);
        }
    }
    asks
}

async fn choose_one(store: &Store, now: Timestamp, dice: &mut fastrand::Rng) -> Option<Ask> {
    let known = store.flow("atelier".to_owned()).await.unwrap();
    let version: u32 = known.map_or(0, |(info, _)| info.hash[1..].parse().unwrap());
    if version == 0 {
        return Some(Ask::Flow { version: 1 });
    }
    let name = ProfileId::new(PROFILES[dice.usize(..PROFILES.len())]).unwrap();
    match dice.u8(..100) {
        0..=17 => Some(Ask::Enqueue(new_task(version, now, dice))),
        18..=20 => Some(Ask::Profile(name)),
        21..=23 => Some(Ask::Flow { version: version + 1 }),
        24..=27 => {
            let tasks = store.tasks(TaskQuery { limit: 50, ..TaskQuery::default() }).await.unwrap().rows;
            let asks = [Ask::Cancel, Ask::Cancel, Ask::PauseTask, Ask::ResumeTask, Ask::ResumeTask, Ask::Retry];
            let ask = asks[dice.usize(..asks.len())];
            (!tasks.is_empty()).then(|| ask(tasks[dice.usize(..tasks.len())].task.id))
        }
        28..=29 => Some(Ask::Pause),
        30 => Some(Ask::Operator(name)),
        31..=45 => {
            let outlook = store.outlook(moment(now)).await.unwrap();
            if matches!(outlook.pause, Some(Pause::Operator { .. })) && dice.bool() {
                return Some(Ask::Resume);
            }
            match outlook.to_settle.first() {
                Some(task) => Some(Ask::Settle(*task)),
                None => outlook.overdue.then_some(Ask::Promote),
            }
        }
        46..=65 => {
            let heads = store.outlook(moment(now)).await.unwrap().heads;
            (!heads.is_empty()).then(|| Ask::Claim(heads[dice.usize(..heads.len())].item))
        }
        _ => {
            let held = store.leftovers().await.unwrap();
            (!held.is_empty()).then(|| move_on(&held[dice.usize(..held.len())], now, dice))
        }
    }
}

/// The next thing that happens to whoever holds a profile.
fn move_on(held: &cove::store::Leftover, now: Timestamp, dice: &mut fastrand::Rng) -> Ask {
    let fence = held.lock.fence;
    let Some((item, _, _)) = &held.running else {
        return Ask::Release(ProfileId::new(&held.lock.key).unwrap(), fence);
    };
    let failure = || Failure::new(FailureCode::ElementNotFound, "no button");
    if !item.is_armed() && dice.u8(..10) < 6 {
        return Ask::Arm(item.id, fence);
    }
    let verdict = match (item.is_armed(), dice.u8(..4)) {
        (true, 0) => Verdict::OutcomeUnknown(failure()),
        (true, _) | (false, 0) => Verdict::Succeeded {
            url: Some(format!("http://127.0.0.1/p/{}", "9".repeat(dice.usize(1..300)))),
            result: BTreeMap::from([("post".to_owned(), item.id.to_string())]),
        },
        (false, 1) => Verdict::Failed(failure()),
        (false, 2) => Verdict::Canceled(failure()),
        (false, _) => {
            Verdict::TryAgain { failure: failure(), due_at: now.plus(Duration::from_secs(60)), counted: dice.bool() }
        }
    };
    Ask::Finish(item.id, fence, verdict)
}

fn new_task(version: u32, now: Timestamp, dice: &mut fastrand::Rng) -> NewTask {
    let items = (0..dice.u32(1..5))
        .map(|n| NewItem {
            profile: ProfileId::new(PROFILES[dice.usize(..PROFILES.len())]).unwrap(),
            inputs: BTreeMap::from([("caption".to_owned(), text_input(dice))]),
            key: (dice.u8(..3) == 0).then(|| format!("key-{}-{n}", dice.u8(..12))),
            not_before: (dice.u8(..4) == 0).then(|| now.plus(Duration::from_secs(dice.u64(..900)))),
            not_after: (dice.u8(..9) == 0).then(|| now.plus(Duration::from_secs(1_000))),
        })
        .collect();
    let idempotency = (dice.u8(..3) == 0).then(|| Idempotency {
        scope: String::new(),
        key: format!("request-{}", dice.u8(..40)),
        body_hash: [dice.u8(..2); 32],
    });
    NewTask {
        flow: "atelier".to_owned(),
        flow_hash: flow_hash(version),
        priority: dice.i32(-2..3),
        max_attempts: dice.u32(1..4),
        spacing_seconds: if dice.u8(..5) == 0 { 60 } else { 0 },
        on_unknown: OnUnknown::Hold,
        items,
        external: None,
        verifiable: dice.bool(),
        rehearsal: false,
        idempotency,
        webhook: None,
    }
}

fn text_input(dice: &mut fastrand::Rng) -> cove::model::InputValue {
    cove::model::InputValue::Text("c".repeat(dice.usize(..400)))
}

/// What a history holds that is worth losing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Worth {
    pub armed: usize,
    pub published: usize,
    pub canceled: usize,
}

impl Worth {
    pub fn add(&mut self, history: &History) {
        let count = |wanted: fn(&Fact) -> bool| history.facts.iter().flatten().filter(|fact| wanted(fact)).count();
        let canceled = format!("state={}", TaskState::Canceled);
        self.armed += count(|fact| matches!(fact, Fact::Armed(..)));
        self.published += count(|fact| matches!(fact, Fact::Published(..)));
        self.canceled += history.dumps.last().map_or(0, |dump| dump.matches(&canceled).count());
    }

    pub fn is_rich(self) -> bool {
        self.armed > 2 && self.published > 1
    }
}
