//! X1 as a mixture: many uploads through many profiles while every fault strikes by chance and Dolphin itself is
//! restarted in between.
//!
//! At the end every item is in a right state (succeeded with one post, failed with none, unknown with one at the
//! most), no browser and no lock is left, and the daemon has not grown. `PROFILES=8 ITEMS=200 SEED=n` for the long
//! round; the figures are printed. `MOST_MEMORY_MB=60` holds the daemon to that, which is for a release build.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};
use super::rounds::{all_is_put_away, submit};
use super::simulator::{Simulator, daemon_with};

/// With all faults a profile does one item in some ten seconds.
const PATIENCE_PER_ITEM: Duration = Duration::from_secs(60);
/// Between two restarts of Dolphin.
const RESTART_EVERY: Duration = Duration::from_secs(25);

/// Call, fault, parameters, and how often it strikes.
fn faults() -> Vec<(&'static str, &'static str, Value, f64)> {
    let mut faults = vec![
        ("start", "hang", json!({"for_ms": 2_000}), 0.01),
        ("start", "hang_but_launches", json!({"answer_after_ms": 3_000}), 0.02),
        ("start", "cdp_late", json!({"ms": 1_500}), 0.04),
        ("start", "just_created", json!({"for_ms": 3_000}), 0.5),
        ("stop", "ebusy_for", json!({"ms": 1_500}), 0.04),
        ("stop", "still_duplicate_for", json!({"ms": 1_500}), 0.04),
        ("stop", "stop_hangs", json!({"answer_after_ms": 2_000}), 0.02),
        ("stop", "slow_parallel_stop", json!({"per_other_ms": 300}), 0.1),
        ("running", "slow", json!({"ms": 500}), 0.05),
        ("start", "running_lag", json!({"ms": 1_500}), 0.1),
        ("any", "reset_mid_answer", json!({}), 0.01),
        ("any", "drip", json!({}), 0.01),
        ("any", "generic_500", json!({}), 0.01),
    ];
    let rest = [
        "duplicate",
        "ebusy",
        "locked_profile",
        "init_connection_error",
        "html_500",
        "too_many_429",
        "bad_request_400",
        "free_plan_402",
        "limit_499",
        "cdp_crash",
        "dead_proxy",
        "no_automation",
        "automation_null",
        "port_zero",
        "empty_ws",
        "stale_uuid",
        "other_port",
        "truncated_json",
        "empty_body",
        "unknown_profile",
    ];
    faults.extend(rest.into_iter().map(|fault| ("start", fault, json!({}), 0.01)));
    let at_the_stop = ["stop_500", "zombie", "stop_success_false", "empty_body"];
    faults.extend(at_the_stop.into_iter().map(|fault| ("stop", fault, json!({}), 0.02)));
    faults
}

fn number<T: FromStr<Err: Debug>>(name: &str, default: T) -> T {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// The daemon's proportional memory in MB and its open descriptors.
fn size(daemon: &Daemon) -> (f64, usize) {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid())).unwrap();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    let kilobytes: f64 = pss.trim().trim_end_matches("kB").trim().parse().unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    (kilobytes / 1024.0, descriptors)
}

/// Items by state.
async fn states(daemon: &Daemon, items: &[(String, String)]) -> BTreeMap<String, Vec<(Value, String)>> {
    let mut states: BTreeMap<String, Vec<(Value, String)>> = BTreeMap::new();
    for (item, caption) in items {
        let item = daemon.get(&format!("/api/v1/items/{item}")).await.body;
        states.entry(item["state"].as_str().unwrap().to_owned()).or_default().push((item, caption.clone()));
    }
    states
}

/// Succeeded with one post, failed with none, unknown with one at the most, and whatever did not succeed says why.
fn all_are_right(ended: &BTreeMap<String, Vec<(Value, String)>>, practice: &PracticeSite, seed: u64, daemon: &Daemon) {
    let posts = practice.posts();
    for (state, items) in ended {
        for (item, caption) in items {
            let times = posts.iter().filter(|post| post.caption == *caption).count();
            let right = match state.as_str() {
                "succeeded" => times == 1,
                "failed" => times == 0,
                "outcome_unknown" => times <= 1,
                _ => false,
            };
            assert!(right, "SEED={seed}: posted {times} times: {item:#}\n{}", daemon.logged());
            assert!(state == "succeeded" || item["error"]["message"].is_string(), "SEED={seed}: no reason: {item:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixture_of_all_faults_leaves_every_item_in_a_right_state_and_nothing_behind() {
    let (size_of, count) = (number("PROFILES", 3), number("ITEMS", 20));
    let seed = std::env::var("SEED").ok().map_or_else(|| fastrand::u64(..1 << 40), |text| text.parse().unwrap());
    println!("soak: SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let names: Vec<String> = (0..size_of).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let simulator = Simulator::start(&names).await;
    let practice = PracticeSite::start(json!({})).await;
    let slots = format!("slots = {size_of}");
    let daemon = daemon_with(&simulator, &names, &slots, &[("COVE_ENGINE__MAX_ATTEMPTS", "20")]).await;
    for (call, fault, params, chance) in faults() {
        simulator.fault(&json!({"call": call, "fault": fault, "params": params, "times": 0, "chance": chance})).await;
    }
    let mut items = Vec::new();
    for number in 0..count {
        let caption = format!("soak {number}");
        let profile = names[number % names.len()];
        items.push((submit(&daemon, &practice, profile, &caption).await, caption));
    }
    let (began, mut restarted, mut restarts) = (Instant::now(), Instant::now(), 0);
    let patience = PATIENCE_PER_ITEM * u32::try_from(count).unwrap();
    let (mut most_memory, mut early) = (0.0_f64, None);
    let ended = loop {
        let now = states(&daemon, &items).await;
        let waiting: usize =
            ["queued", "running", "retry_wait"].iter().filter_map(|state| now.get(*state)).map(Vec::len).sum();
        let (memory, descriptors) = size(&daemon);
        most_memory = most_memory.max(memory);
        if waiting <= count / 2 {
            early.get_or_insert((memory, descriptors));
        }
        if waiting == 0 {
            break now;
        }
        assert!(began.elapsed() < patience, "SEED={seed}: {waiting} are not done\n{}", daemon.logged());
        if restarted.elapsed() > RESTART_EVERY {
            let orphans = ["leave", "kill"][dice.usize(..2)];
            simulator.app(&json!({"action": "restart", "orphans": orphans})).await;
            (restarted, restarts) = (Instant::now(), restarts + 1);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    simulator.mend().await;
    all_is_put_away(&daemon, &simulator, &format!("SEED={seed}")).await;
    all_are_right(&ended, &practice, seed, &daemon);
    let (memory, descriptors) = size(&daemon);
    let early = early.unwrap();
    let tally: BTreeMap<_, _> = ended.iter().map(|(state, items)| (state, items.len())).collect();
    let state = simulator.state().await;
    println!(
        "soak: SEED={seed}, {count} of {count} items in {size_of} profiles ended in {} s: {tally:?}; calls {}, {restarts} \
         restarts of Dolphin; daemon's memory {most_memory:.1} MB at most, {:.1} half way, {memory:.1} at the end; \
         descriptors {} half way, {descriptors} at the end",
        began.elapsed().as_secs(),
        state["calls"],
        early.0,
        early.1,
    );
    let most = number("MOST_MEMORY_MB", f64::INFINITY);
    assert!(most_memory <= most, "SEED={seed}: the daemon took {most_memory:.1} MB, {most} at the most");
    assert!(descriptors <= early.1 + 8, "SEED={seed}: descriptors grew from {} to {descriptors}", early.1);
}
