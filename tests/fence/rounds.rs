//! Rounds of kills over the whole of an attempt, half of them aimed at ±50 ms around the click.
//!
//! A round publishes one item (every other round two, in two profiles), strikes once, starts what was killed again and
//! lets the judge bring every item to its end. One state file goes through all rounds, so that each also meets what
//! the earlier ones left. The tally says where the strikes fell; a run that never hit the window between arming and
//! the click's answer has proved nothing and fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cove::model::{Clock, SystemClock, Timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::judge::{Way, item, judge, posts, settled, until, verdict};
use super::kills::{Whom, main_process, send};
use super::moments::{self, Moment};
use super::rig::{ATELIER, Daemon, PATIENCE, PracticeSite};
use super::{kills, number, seed};

/// Around the click, before and after.
const AIM: Duration = Duration::from_millis(50);
/// Longer than a call over CDP may take.
const FROZEN: Duration = Duration::from_secs(17);

/// The shipped flow; its verify needs no patience on a page that comes whole.
pub fn flow() -> String {
    let quick = ATELIER.replace("\"timeout\": 5000", "\"timeout\": 1500");
    assert_ne!(quick, ATELIER);
    quick
}

pub fn flow_without_verify() -> String {
    let mut flow: Value = serde_json::from_str(ATELIER).unwrap();
    flow["cove"].as_object_mut().unwrap().remove("verify").unwrap();
    flow.to_string()
}

/// Submits one item; the item's id.
pub async fn submit_one(daemon: &Daemon, practice: &PracticeSite, profile: &str, caption: &str) -> String {
    submit_to(daemon, practice, "atelier", profile, caption).await
}

/// The same with another recording.
pub async fn submit_to(daemon: &Daemon, practice: &PracticeSite, flow: &str, profile: &str, caption: &str) -> String {
    let made = daemon.post("/api/v1/bulk-upload/start", &request(daemon, practice, flow, profile, caption)).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let items = daemon.items(made.body["task_id"].as_str().unwrap()).await;
    items[0]["id"].as_str().unwrap().to_owned()
}

/// What is posted for one item.
pub fn request(daemon: &Daemon, practice: &PracticeSite, flow: &str, profile: &str, caption: &str) -> Value {
    let film = daemon.film(&format!("{profile}-{caption}.mp4"));
    let inputs = json!({"site": practice.site.url(), "account": profile, "video": film, "caption": caption});
    json!({"flow": flow, "items": [{"profile": profile, "inputs": inputs}]})
}

/// How long things take on this machine now.
#[derive(Clone, Copy, Debug)]
struct Lap {
    whole: Duration,
    pictured_to_armed: Duration,
}

/// What a strike needs, looked up before: the lookups take longer than the window.
struct Blow {
    whom: Whom,
    browser: Option<u32>,
    sockets: Option<Vec<std::os::fd::OwnedFd>>,
}

/// Where a strike fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    BeforeArming,
    /// Between arming and the post: the click may be on its way.
    ArmedNotPosted,
    /// The post is there, its confirmation is not.
    Posted,
    Ended,
}

#[derive(Default, Debug)]
struct Tally {
    fell: BTreeMap<Where, u32>,
    whom: BTreeMap<Whom, u32>,
    ways: BTreeMap<Way, u32>,
    /// Strikes within [`AIM`] of the moment when the post came, before or after.
    within_aim: u32,
    /// Nothing to cut or kill any more, or not yet.
    missed: u32,
    /// The system forbids cutting a connection: the browser was frozen instead.
    forbidden: u32,
}

impl Tally {
    fn dangerous(&self) -> u32 {
        self.fell.get(&Where::ArmedNotPosted).copied().unwrap_or(0) + self.within_aim
    }
}

struct Rounds {
    daemon: Daemon,
    practice: PracticeSite,
    dice: fastrand::Rng,
    lap: Lap,
    /// From the sight of the armed line to the post, as often as it was seen: a busy machine changes its pace.
    to_click: Vec<Duration>,
    /// When the armed line of this round was seen.
    seen_armed: Option<Timestamp>,
    tally: Tally,
    items: Vec<String>,
}

impl Rounds {
    async fn begin(seed: u64) -> Self {
        let daemon = Daemon::start_with("slots = 2").await;
        let practice = PracticeSite::start(json!({})).await;
        daemon.furnish(&["anna", "boris"]).await;
        daemon.put_flow("atelier", &flow()).await;
        let (lap, to_click) = calibrate(&daemon, &practice).await;
        println!("on this machine: {lap:?}, from armed to the post {to_click:?}");
        let dice = fastrand::Rng::with_seed(seed);
        let (to_click, tally) = (vec![to_click], Tally::default());
        Self { daemon, practice, dice, lap, to_click, seen_armed: None, tally, items: Vec::new() }
    }

    /// The median of the last few.
    fn usual_to_click(&self) -> Duration {
        let mut last: Vec<_> = self.to_click.iter().rev().take(7).copied().collect();
        last.sort_unstable();
        last[(last.len() - 1) / 2]
    }

    /// `near`: aimed at the click.
    async fn round(&mut self, round: u64, whom: Whom, near: bool) {
        let began = Instant::now();
        let target = submit_one(&self.daemon, &self.practice, "anna", &format!("round {round}")).await;
        let mut items = vec![target.clone()];
        if round % 4 == 1 {
            items.push(submit_one(&self.daemon, &self.practice, "boris", &format!("beside {round}")).await);
        }
        let blow = if near { self.aim(&target, whom).await } else { self.anywhen(began, whom).await };
        let struck = self.strike(blow).await;
        if matches!(whom, Whom::Daemon | Whom::Both) {
            self.daemon.boot().await;
        }
        let mut ways = Vec::new();
        for item in &items {
            let way = judge(&self.daemon, &self.practice, item).await;
            *self.tally.ways.entry(way).or_default() += 1;
            ways.push(way);
        }
        let (fell, apart) = self.count(&target, struck).await;
        let took = began.elapsed();
        println!(
            "round {round}: {whom:?} aimed={near} fell {fell:?} ({apart:?} ms to the post) -> {ways:?} in {took:?}"
        );
        self.items.append(&mut items);
    }

    /// Waits for a moment around the click.
    async fn aim(&mut self, target: &str, whom: Whom) -> Blow {
        let aim = i64::try_from(AIM.as_micros()).unwrap();
        let off = self.dice.i64(-aim..=aim);
        // The browser of the round before is dead by then.
        moments::reached(&self.daemon, target, Moment::Begun).await.unwrap();
        let blow = self.prepared(whom, true).await;
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap();
        let after_armed = micros(self.usual_to_click()) + off;
        let (moment, wait) = if after_armed >= 0 {
            (Moment::Armed, after_armed)
        } else {
            (Moment::Pictured, (micros(self.lap.pictured_to_armed) + after_armed).max(0))
        };
        let reached = moments::reached(&self.daemon, target, moment).await;
        let reached = reached.unwrap_or_else(|| panic!("never {moment:?}\n{}", self.daemon.logged()));
        self.seen_armed = (moment == Moment::Armed).then(|| SystemClock.now());
        let until = reached + Duration::from_micros(u64::try_from(wait).unwrap());
        tokio::time::sleep_until(until.into()).await;
        blow
    }

    /// Waits for any moment of an attempt.
    async fn anywhen(&mut self, began: Instant, whom: Whom) -> Blow {
        let longest = u64::try_from(self.lap.whole.as_millis()).unwrap() * 6 / 5;
        let until = began + Duration::from_millis(self.dice.u64(..=longest));
        tokio::time::sleep_until(until.into()).await;
        self.prepared(whom, false).await
    }

    /// `there`: waits until the browser is connected.
    async fn prepared(&self, whom: Whom, there: bool) -> Blow {
        let began = Instant::now();
        loop {
            let browser = main_process(&self.daemon, "anna");
            let sockets = match whom {
                Whom::Connection => kills::connections(&self.daemon, "anna").ok(),
                _ => Some(Vec::new()),
            };
            let connected = whom != Whom::Connection || sockets.as_ref().is_none_or(|sockets| !sockets.is_empty());
            if !there || (browser.is_some() && connected) {
                return Blow { whom, browser, sockets };
            }
            assert!(began.elapsed() < PATIENCE, "no browser\n{}", self.daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Strikes, and says when.
    async fn strike(&mut self, blow: Blow) -> Timestamp {
        let struck = SystemClock.now();
        let Blow { whom, browser, sockets } = blow;
        match (whom, browser, sockets) {
            (Whom::Daemon, ..) => self.daemon.kill(),
            (Whom::Both, browser, _) => {
                if let Some(pid) = browser {
                    send(pid, Signal::KILL);
                }
                self.daemon.kill();
            }
            (Whom::Browser, Some(pid), _) => send(pid, Signal::KILL),
            (Whom::Connection, _, Some(sockets)) if !sockets.is_empty() => kills::cut(&sockets),
            (Whom::Connection, Some(pid), None) => {
                self.tally.forbidden += 1;
                freeze(pid).await;
            }
            (Whom::Frozen, Some(pid), _) => freeze(pid).await,
            (Whom::Browser | Whom::Connection | Whom::Frozen, ..) => self.tally.missed += 1,
        }
        *self.tally.whom.entry(whom).or_default() += 1;
        struck
    }

    /// Where it fell, and how many milliseconds before (or, negative, after) the post.
    async fn count(&mut self, target: &str, struck: Timestamp) -> (Where, Option<i64>) {
        let item = item(&self.daemon, target).await;
        let armed = moments::armed_at(&self.daemon.state(), target).is_some_and(|armed| armed <= struck);
        let post = posts(&self.practice, &item).into_iter().map(|post| post.time).min();
        let apart = post.map(|post| post.as_millis().cast_signed() - struck.as_millis().cast_signed());
        if let (Some(seen), Some(post)) = (self.seen_armed.take(), post)
            && post.since(seen) < AIM * 10
        {
            self.to_click.push(post.since(seen));
        }
        let close = apart.is_some_and(|apart| u128::from(apart.unsigned_abs()) <= AIM.as_millis());
        self.tally.within_aim += u32::from(close);
        let ended = item["finished_at"].as_str().is_some_and(|at| at.parse::<Timestamp>().is_ok_and(|at| at <= struck));
        let fell = match (armed, post) {
            _ if ended => Where::Ended,
            (false, _) => Where::BeforeArming,
            (true, Some(post)) if post <= struck => Where::Posted,
            (true, _) => Where::ArmedNotPosted,
        };
        *self.tally.fell.entry(fell).or_default() += 1;
        (fell, apart)
    }
}

async fn freeze(pid: u32) {
    send(pid, Signal::STOP);
    tokio::time::sleep(FROZEN).await;
    send(pid, Signal::CONT);
}

/// One undisturbed item.
async fn calibrate(daemon: &Daemon, practice: &PracticeSite) -> (Lap, Duration) {
    let began = Instant::now();
    let id = submit_one(daemon, practice, "anna", "undisturbed").await;
    let pictured = moments::reached(daemon, &id, Moment::Pictured).await.unwrap();
    let armed = moments::reached(daemon, &id, Moment::Armed).await.unwrap();
    while practice.posts().is_empty() {
        assert!(armed.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let to_click = armed.elapsed();
    assert_eq!(settled(daemon, &id).await["state"], "succeeded", "{}", daemon.logged());
    (Lap { whole: began.elapsed(), pictured_to_armed: armed - pictured }, to_click)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_at_whatever_moment_nothing_is_published_twice() {
    let (seed, rounds) = (seed("rounds"), number("ROUNDS", 20));
    let mut all = Rounds::begin(seed).await;
    for round in 0..rounds {
        let whom = Whom::QUICK[usize::try_from(round / 2).unwrap() % Whom::QUICK.len()];
        all.round(round, whom, round.is_multiple_of(2)).await;
    }
    let Rounds { mut daemon, practice, tally, items, .. } = all;
    println!("rounds: SEED={seed}, {rounds} kills: {tally:?}");
    // Once more over all of them: nothing was published after its round either.
    for id in &items {
        let item = item(&daemon, id).await;
        assert_eq!((item["state"].as_str(), posts(&practice, &item).len()), (Some("succeeded"), 1), "{item:#}");
    }
    assert_eq!(practice.posts().len(), items.len() + 1);
    assert!(rounds < 20 || tally.dangerous() > 0, "no strike fell around the click: {tally:?}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(daemon.browsers().is_empty(), "browsers are left");
}

/// What was sent to a browser that stands still waits in its socket: it must die before anybody looks or clicks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_frozen_around_the_click_publishes_nothing_twice_when_it_goes_on() {
    let seed = seed("frozen");
    let mut all = Rounds::begin(seed).await;
    for round in 0..number("ROUNDS", 1).min(20) {
        all.round(round, Whom::Frozen, true).await;
    }
    println!("frozen: SEED={seed}: {:?}", all.tally);
}

/// The same judge, and a fence that a person climbed: a lie about what was published is a second post.
#[tokio::test(flavor = "multi_thread")]
async fn negative_control_the_judge_sees_the_second_post_of_an_untruthful_resolve() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({"cut_after_store": {"times": 1}})).await;
    daemon.furnish(&["anna"]).await;
    daemon.put_flow("atelier", &flow_without_verify().replace("\"timeout\":30000", "\"timeout\":3000")).await;
    let id = submit_one(&daemon, &practice, "anna", "twice").await;
    let unknown = until(&daemon, &id, "outcome_unknown").await;
    verdict(&unknown, posts(&practice, &unknown).len()).unwrap();
    let lie = daemon.post(&format!("/api/v1/items/{id}/resolve"), &json!({"outcome": "not_published"})).await;
    assert_eq!(lie.status, 200, "{}", lie.body);
    let published = until(&daemon, &id, "succeeded").await;
    let why = verdict(&published, posts(&practice, &published).len()).unwrap_err();
    assert!(why.starts_with("published 2 times"), "{why}");
}
