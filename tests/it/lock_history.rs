//! Many clients, a few locks, a daemon that is killed and comes back: what was answered has to be the work
//! of a lock (`checker`). `SEED=n` repeats a history's dice (not the machine's timing), `ROUNDS=n` makes it
//! longer; a failing history prints its seed.

mod checker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cove::model::{Clock as _, SystemClock, Timestamp};
use cove::store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::rig::{Daemon, PATIENCE};
use checker::{Answer, Call, Row, Time, What, check};

const CLIENTS: u8 = 8;
const KEYS: u8 = 3;
/// Two clients give themselves the same name, as copies of one program do.
const TWINS: u8 = 2;
const MILLISECOND: Time = 1_000;

/// The wall clock, in microseconds: read once, and then by a clock that nobody sets.
#[derive(Clone, Copy)]
struct Watch {
    wall: Time,
    began: Instant,
}

impl Watch {
    fn start() -> Self {
        let wall = u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
        Self { wall, began: Instant::now() }
    }

    fn now(&self) -> Time {
        self.wall + u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }
}

fn time(value: &Value) -> Time {
    value.as_str().unwrap().parse::<Timestamp>().unwrap().as_millis() * MILLISECOND
}

fn fence(value: &Value) -> u64 {
    value.as_str().unwrap().strip_prefix('f').unwrap().parse().unwrap()
}

fn owner(value: &Value) -> u8 {
    value.as_str().unwrap().strip_prefix("owner-").unwrap().parse().unwrap()
}

/// One outside program.
struct Client {
    owner: u8,
    dice: fastrand::Rng,
    watch: Watch,
    /// The daemon's address, while there is a daemon.
    base: watch::Receiver<Option<String>>,
    http: reqwest::Client,
    /// Fences that it was given, by key, the last one last.
    fences: BTreeMap<u8, Vec<u64>>,
    calls: Vec<Call>,
}

impl Client {
    fn new(number: u8, seed: u64, watch: Watch, base: watch::Receiver<Option<String>>) -> Self {
        let dice = fastrand::Rng::with_seed(seed.wrapping_mul(97).wrapping_add(u64::from(number)));
        let owner = if number < TWINS { 0 } else { number };
        let http = cove::outbound::local().timeout(PATIENCE).build().unwrap();
        Self { owner, dice, watch, base, http, fences: BTreeMap::new(), calls: Vec::new() }
    }

    async fn work(mut self, stop: Arc<AtomicBool>) -> Vec<Call> {
        while !stop.load(Ordering::Relaxed) {
            let Some(base) = self.base().await else { continue };
            if self.dice.u8(..40) == 0 {
                // What is over is free before and after it: no answer may change by that.
                let _whatever = self.send(&format!("{base}/api/v1/locks/cleanup"), &json!({})).await;
            }
            let key = self.dice.u8(..KEYS);
            let what = self.choose(key);
            self.call(&base, key, what).await;
            // Mostly busy; now and then away for longer than its lease.
            let pause = if self.dice.u8(..100) == 0 { self.dice.u64(900..1_200) } else { self.dice.u64(..4) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.calls
    }

    /// None: no daemon runs at the moment.
    async fn base(&mut self) -> Option<String> {
        let ready = tokio::time::timeout(Duration::from_millis(50), self.base.wait_for(Option::is_some)).await;
        ready.ok()?.ok()?.clone()
    }

    fn choose(&mut self, key: u8) -> What {
        let ttl = [1, 1, 1, 2, 30][self.dice.usize(..5)] * 1_000 * MILLISECOND;
        let known = self.fences.get(&key).map_or(&[][..], Vec::as_slice);
        let (Some(last), roll) = (known.last().copied(), self.dice.u8(..100)) else { return What::Acquire { ttl } };
        let old = known[self.dice.usize(..known.len())];
        match roll {
            0..40 => What::Acquire { ttl },
            40..60 => What::Refresh { fence: last, ttl },
            60..90 => What::Release { fence: last },
            90..95 => What::Refresh { fence: old, ttl },
            _ => What::Release { fence: old },
        }
    }

    async fn call(&mut self, base: &str, key: u8, what: What) {
        let mut body =
            json!({"kind": "history", "key": format!("key {key}"), "owner": format!("owner-{}", self.owner)});
        let path = match what {
            What::Acquire { ttl } => {
                body["ttl_seconds"] = json!(ttl / 1_000 / MILLISECOND);
                "acquire"
            }
            What::Refresh { fence, ttl } => {
                body["fence"] = json!(format!("f{fence}"));
                body["ttl_seconds"] = json!(ttl / 1_000 / MILLISECOND);
                "refresh"
            }
            What::Release { fence } => {
                body["fence"] = json!(format!("f{fence}"));
                "release"
            }
            What::Look => unreachable!("clients do not look"),
        };
        let begin = self.watch.now();
        let answer = self.send(&format!("{base}/api/v1/locks/{path}"), &body).await;
        let end = self.watch.now();
        let answer = answer.map_or(Answer::None, |(status, body)| understood(what, status, &body));
        if let Answer::Acquired { fence, .. } = answer {
            self.fences.entry(key).or_default().push(fence);
        }
        self.calls.push(Call { key, owner: self.owner, begin, end, what, answer });
    }

    /// None: no answer, or none that says whether it was done.
    async fn send(&self, url: &str, body: &Value) -> Option<(u16, Value)> {
        let response = self.http.post(url).json(body).send().await.ok()?;
        let status = response.status().as_u16();
        let body = response.json().await.ok()?;
        (status < 500).then_some((status, body))
    }
}

fn understood(what: What, status: u16, body: &Value) -> Answer {
    match (what, status, body["code"].as_str()) {
        (What::Acquire { .. }, 200, _) if body["acquired"] == true => {
            Answer::Acquired { fence: fence(&body["fence"]), expires: time(&body["expires_at"]) }
        }
        (What::Acquire { .. }, 200, _) => {
            Answer::Busy { held_by: owner(&body["held_by"]), expires: time(&body["expires_at"]) }
        }
        (What::Refresh { .. }, 200, _) => Answer::Refreshed { expires: time(&body["expires_at"]) },
        (What::Release { .. }, 200, _) => Answer::Released,
        (_, 409, Some("stale_fence")) => Answer::StaleFence,
        (_, 409, Some("not_held")) => Answer::NotHeld,
        _ => panic!("{what:?}: {status} {body}"),
    }
}

/// What the list says of every key.
async fn look(daemon: &Daemon, watch: Watch) -> Vec<Call> {
    let begin = watch.now();
    let listed = daemon.get("/api/v1/locks?kind=history").await.body;
    let end = watch.now();
    let row = |key: u8| {
        let name = format!("key {key}");
        let lock = listed["locks"].as_array().unwrap().iter().find(|lock| lock["key"] == name.as_str())?;
        Some(Row { owner: owner(&lock["owner"]), fence: fence(&lock["fence"]), expired: lock["expired"] == true })
    };
    let call = |key| Call { key, owner: u8::MAX, begin, end, what: What::Look, answer: Answer::Seen(row(key)) };
    (0..KEYS).map(call).collect()
}

/// Runs the clients while the daemon is killed (and once in a while stopped) and started again.
async fn record(daemon: &mut Daemon, seed: u64, rounds: u64) -> Vec<Call> {
    let watch = Watch::start();
    let (tell, base) = watch::channel(Some(daemon.base.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Client::new(number, seed, watch, base.clone()).work(stop.clone()));
    }
    let mut dice = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(dice.u64(400..1_600))).await;
        tell.send_replace(None);
        if round % 4 == 3 {
            assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
        } else {
            daemon.kill();
        }
        daemon.boot().await;
        tell.send_replace(Some(daemon.base.clone()));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = Vec::new();
    while let Some(ended) = clients.join_next().await {
        calls.extend(ended.unwrap());
    }
    calls.extend(look(daemon, watch).await);
    calls
}

/// The search goes as deep as a history is long.
fn check_deep(calls: Vec<Call>) -> Result<(), String> {
    let thread = std::thread::Builder::new().stack_size(512 * 1024 * 1024);
    thread.spawn(move || check(&calls)).unwrap().join().unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A history that tests nothing proves nothing.
fn count(calls: &[Call]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let name = match (call.what, call.answer) {
            (_, Answer::Acquired { .. }) => "acquired",
            (_, Answer::Busy { .. }) => "busy",
            (_, Answer::Refreshed { .. }) => "refreshed",
            (_, Answer::Released) => "released",
            (_, Answer::StaleFence) => "stale_fence",
            (_, Answer::NotHeld) => "not_held",
            (_, Answer::None) => "unanswered",
            (_, Answer::Seen(_)) => "seen",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// The same history with one thing wrong in it, which is found whatever else is in it: an acquire that
/// somebody else's older fence answered.
fn corrupted(calls: &[Call], dice: &mut fastrand::Rng) -> Option<Vec<Call>> {
    let acquired = |call: &Call| match call.answer {
        Answer::Acquired { fence, expires } => Some((fence, expires)),
        _ => None,
    };
    let all: Vec<usize> = (0..calls.len()).filter(|number| acquired(&calls[*number]).is_some()).collect();
    let changed = all[dice.usize(..all.len())];
    let (_, expires) = acquired(&calls[changed])?;
    let older = all.iter().map(|number| &calls[*number]).find(|call| {
        call.key == calls[changed].key && call.owner != calls[changed].owner && call.end < calls[changed].begin
    })?;
    let mut calls = calls.to_vec();
    calls[changed].answer = Answer::Acquired { fence: acquired(older)?.0, expires };
    Some(calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_22_no_lock_has_two_owners_and_what_was_acknowledged_holds_after_kill_9() {
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let rounds = number("ROUNDS").unwrap_or(5);
    println!("SEED={seed} ROUNDS={rounds}");
    let mut daemon = Daemon::start().await;
    let calls = record(&mut daemon, seed, rounds).await;
    let counts = count(&calls);
    println!("{} calls: {counts:?}", calls.len());
    let judged = check_deep(calls.clone());
    assert!(judged.is_ok(), "SEED={seed}: {}", judged.unwrap_err());
    for name in ["acquired", "busy", "refreshed", "released", "stale_fence", "not_held", "unanswered"] {
        assert!(counts.contains_key(name), "SEED={seed}: nothing was {name}: {counts:?}");
    }
    let mut dice = fastrand::Rng::with_seed(seed);
    let bad: Vec<_> = std::iter::repeat_with(|| corrupted(&calls, &mut dice)).take(20).flatten().collect();
    assert!(!bad.is_empty(), "SEED={seed}: no history to spoil");
    for history in bad {
        assert!(check_deep(history).is_err(), "SEED={seed}: a fence that was given twice was not found");
    }
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    let (store, thread, _) = Store::open(&daemon.state(), SystemClock.moment()).unwrap();
    assert_eq!(store.check_consistency().await.unwrap(), Vec::<String>::new());
    drop(store);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap();
}
