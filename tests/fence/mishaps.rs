//! X2: the browser is killed, its page runs out of memory, crashes or hangs, before arming and after the click.
//!
//! Each attempt stops at a gate that the test knows and the site opens, so that the mishap meets it where it is meant
//! to. The end comes long before the step's own time where the page is gone, within it where it only hangs; it says
//! the cause; and ten seconds later no process of that browser is left.

use std::time::{Duration, Instant};

use cove::browser::processes::Identity;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::judge::{history, item, posts, settled, until};
use super::kills::{all_end, descendants, main_process, renderers, send};
use super::rig::{Daemon, PATIENCE, PracticeSite};
use super::rounds::{flow, submit_to};

/// Of a browser or page that is gone: seen at once, on a machine that may be busy. The step would wait 30 s.
const QUICKLY: Duration = Duration::from_secs(10);
/// Of a page that hangs in a step of 3 s: with the pictures that it does not give.
const HANGING: Duration = Duration::from_secs(40);

/// Waits for the gate, which is open as soon as the site's switch `slow` is set to anything.
const GATE: &str = "fetch('/admin/switches').then(it => it.json()).then(it => 'slow' in it)";
/// The same, on a page that hangs while the gate is closed.
const HANGING_GATE: &str = "fetch('/admin/switches').then(it => it.json())\
    .then(it => 'slow' in it || (setTimeout(() => { for (;;); }, 50), false))";
/// True once the post is there; then the page hangs.
const HANG_WHEN_POSTED: &str = "fetch('/posts').then(it => it.json()).then(it => \
    it.posts.length > 0 && (setTimeout(() => { for (;;); }, 50), true))";

fn send_all(pids: Vec<u32>, signal: Signal) {
    assert!(!pids.is_empty(), "no page to break");
    for pid in pids {
        send(pid, signal);
    }
}

#[derive(Clone, Copy, Debug)]
enum Mishap {
    Killed,
    OutOfMemory,
    Crashed,
    /// The page does it by itself.
    Hangs,
}

impl Mishap {
    const ALL: [Self; 4] = [Self::Killed, Self::OutOfMemory, Self::Crashed, Self::Hangs];

    fn befall(self, main: u32) {
        match self {
            Self::Killed => send(main, Signal::KILL),
            // The kernel's way with a process that takes too much, and a fault's.
            Self::OutOfMemory => send_all(renderers(main), Signal::KILL),
            Self::Crashed => send_all(renderers(main), Signal::SEGV),
            Self::Hangs => {}
        }
    }

    const fn bound(self) -> Duration {
        if matches!(self, Self::Hangs) { HANGING } else { QUICKLY }
    }

    /// What the failure names.
    const fn causes(self, after: bool) -> [&'static str; 2] {
        match (self, after) {
            (Self::Killed, false) => ["browser_lost", "its connection closed"],
            (Self::Killed, true) => ["lost_after_commit", "its connection closed"],
            (Self::OutOfMemory | Self::Crashed, false) => ["browser_lost", "its page crashed"],
            (Self::OutOfMemory | Self::Crashed, true) => ["lost_after_commit", "its page crashed"],
            (Self::Hangs, false) => ["wait_timed_out", ""],
            (Self::Hangs, true) => ["confirmation_missing", "wait_timed_out"],
        }
    }
}

fn wait(expression: &str, timeout_ms: u64) -> Value {
    json!({"type": "waitForExpression", "expression": expression, "timeout": timeout_ms})
}

/// The shipped flow with these steps before its commit point, and these before its own confirmation.
fn with(before: &[Value], after: &[Value]) -> String {
    let mut flow: Value = serde_json::from_str(&flow()).unwrap();
    let steps = flow["steps"].as_array_mut().unwrap();
    let commit = steps.iter().position(|step| step["name"] == "commit").unwrap();
    let confirmation = commit + 2;
    assert_eq!(steps[confirmation]["type"], "waitForElement");
    if !after.is_empty() {
        steps[confirmation]["timeout"] = json!(3_000);
    }
    steps.splice(confirmation..confirmation, after.iter().cloned());
    steps.splice(commit..commit, before.iter().cloned());
    flow.to_string()
}

fn here() -> Value {
    json!({"type": "customStep", "name": "screenshot", "parameters": {"name": "here"}})
}

/// Waits for an event of the item that has all of `parts` in its detail.
async fn told(daemon: &Daemon, id: &str, parts: &[&str], bound: Duration) {
    let began = Instant::now();
    let item = item(daemon, id).await;
    loop {
        let history = history(daemon, &item).await;
        if history.iter().any(|(_, detail)| parts.iter().all(|part| detail.contains(part))) {
            return;
        }
        assert!(began.elapsed() < bound, "no {parts:?} within {bound:?}: {history:#?}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn family(daemon: &Daemon, profile: &str) -> (u32, Vec<Identity>) {
    let main = main_process(daemon, profile).unwrap();
    let mut all: Vec<_> = descendants(main).into_iter().map(|one| one.identity).collect();
    all.extend(cove::browser::processes::read(main).map(|one| one.identity));
    (main, all)
}

async fn before_arming(daemon: &Daemon, mishap: Mishap, profile: &str) {
    let practice = PracticeSite::start(json!({})).await;
    let flow = if matches!(mishap, Mishap::Hangs) { "hangs-before" } else { "before" };
    let id = submit_to(daemon, &practice, flow, profile, "before").await;
    let pictures = daemon.state().join("evidence").join(&id);
    let began = Instant::now();
    let at_the_gate = || {
        let attempts = std::fs::read_dir(&pictures).into_iter().flatten().flatten();
        attempts.map(|attempt| attempt.path().join("shot-here.png")).any(|file| file.exists())
    };
    while !at_the_gate() {
        assert!(began.elapsed() < PATIENCE, "{mishap:?}: never at the gate\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (main, all) = family(daemon, profile);
    mishap.befall(main);
    told(daemon, &id, &mishap.causes(false), mishap.bound()).await;
    practice.site.set(serde_json::from_value(json!({"slow": false})).unwrap());
    all_end(&all, &format!("{mishap:?} before arming")).await;
    let item = settled(daemon, &id).await;
    assert_eq!((&item["state"], &item["attempts"]), (&json!("succeeded"), &json!(2)), "{item:#}");
    assert_eq!(posts(&practice, &item).len(), 1, "{mishap:?}");
}

async fn after_the_click(daemon: &Daemon, mishap: Mishap, profile: &str) {
    // Its confirmation is minutes away.
    let practice = PracticeSite::start(json!({"slow": 600_000})).await;
    let flow = if matches!(mishap, Mishap::Hangs) { "hangs-after" } else { "after" };
    let id = submit_to(daemon, &practice, flow, profile, "after").await;
    let began = Instant::now();
    while practice.posts().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{mishap:?}: never posted\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (main, all) = family(daemon, profile);
    mishap.befall(main);
    told(daemon, &id, &mishap.causes(true), mishap.bound()).await;
    all_end(&all, &format!("{mishap:?} after the click")).await;
    // It went out, and the first look finds it.
    let item = until(daemon, &id, "succeeded").await;
    assert_eq!(item["attempts"], 1, "{item:#}");
    let kinds: Vec<_> = history(daemon, &item).await.into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains(&"outcome_unknown".to_owned()) && kinds.contains(&"verified".to_owned()), "{kinds:?}");
    assert_eq!(posts(&practice, &item).len(), 1, "{mishap:?}");
}

async fn daemon() -> Daemon {
    let daemon = Daemon::start_with("slots = 2").await;
    daemon.furnish(&["killed", "memory", "crashed", "hangs"]).await;
    daemon.put_flow("before", &with(&[here(), wait(GATE, 30_000)], &[])).await;
    daemon.put_flow("hangs-before", &with(&[here(), wait(HANGING_GATE, 3_000)], &[])).await;
    daemon.put_flow("after", &flow()).await;
    daemon.put_flow("hangs-after", &with(&[], &[wait(HANG_WHEN_POSTED, 30_000)])).await;
    daemon
}

const PROFILES: [&str; 4] = ["killed", "memory", "crashed", "hangs"];

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_a_mishap_before_arming_is_told_and_tried_again_and_leaves_no_process() {
    let daemon = daemon().await;
    let each = Mishap::ALL.into_iter().zip(PROFILES);
    let all = each.map(|(mishap, profile)| before_arming(&daemon, mishap, profile));
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_a_mishap_after_the_click_is_unknown_with_its_cause_and_leaves_no_process() {
    let daemon = daemon().await;
    let each = Mishap::ALL.into_iter().zip(PROFILES);
    let all = each.map(|(mishap, profile)| after_the_click(&daemon, mishap, profile));
    futures_util::future::join_all(all).await;
}
