//! Every fault that a start, a stop or the list of running profiles can meet, once at a time: the operator sees
//! why the item waits, the upload goes out once when the fault is gone, and no attempt was spent that need not be.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};
use super::rounds::{PATIENCE, Seen, all_is_put_away, submit, watch};
use super::simulator::{FIRST_PROFILE, Simulator, daemon, daemon_with};

/// The second of a simulator's profiles.
const BORIS: u64 = FIRST_PROFILE + 1;

/// One fault and what is seen of it.
struct Row {
    fault: &'static str,
    call: &'static str,
    params: Value,
    /// How often it strikes; 0: until the operator has seen it, and then it is mended.
    times: u32,
    /// Seen on the way, one of them at least. Empty: nothing has to be seen, the item just goes out.
    shows: &'static [&'static str],
    /// Attempts spent, at most, with the one that went well.
    attempts: u64,
}

fn row(call: &'static str, fault: &'static str, times: u32, shows: &'static [&'static str], attempts: u64) -> Row {
    Row { fault, call, params: json!({}), times, shows, attempts }
}

impl Row {
    fn with(self, params: Value) -> Self {
        Self { params, ..self }
    }
}

/// A wait reason, the code of an attempt, or a breaker that was seen.
fn shows(seen: &Seen, what: &str) -> bool {
    seen.wait_reasons.contains(what) || seen.codes.contains(what) || seen.breakers.contains(what)
}

async fn go_through(rows: &[Row]) {
    let simulator = Simulator::start(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna"], "slots = 1").await;
    for (number, row) in rows.iter().enumerate() {
        let name = format!("{} of {} {}", row.fault, row.call, row.params);
        let order = json!({"call": row.call, "fault": row.fault, "times": row.times, "params": row.params});
        simulator.fault(&order).await;
        let item = submit(&daemon, &practice, "anna", &format!("{number} {}", row.fault)).await;
        let mut seen = Seen::default();
        if row.times == 0 {
            seen = watch(&daemon, &item, |seen| row.shows.iter().any(|what| shows(seen, what))).await;
            simulator.mend().await;
            simulator.app(&json!({"signed_in": true})).await;
        }
        let later = watch(&daemon, &item, |_| false).await;
        seen.wait_reasons.extend(later.wait_reasons);
        seen.codes.extend(later.codes);
        seen.messages.extend(later.messages);
        seen.breakers.extend(later.breakers);
        seen.timeless.extend(later.timeless);
        seen.item = later.item;
        println!("{name}: waits {:?}, codes {:?}, breakers {:?}", seen.wait_reasons, seen.codes, seen.breakers);
        let logged = || daemon.logged();
        assert_eq!(seen.item["state"], "succeeded", "{name}: {seen:#?}\n{}", logged());
        assert!(seen.timeless.is_empty(), "{name}: {seen:#?}");
        let told = row.shows.is_empty() || row.shows.iter().any(|what| shows(&seen, what));
        assert!(told, "{name}: none of {:?} was seen: {seen:#?}\n{}", row.shows, logged());
        let attempts = seen.item["attempts"].as_u64().unwrap();
        assert!(attempts <= row.attempts, "{name}: {attempts} attempts were spent: {seen:#?}\n{}", logged());
        assert_eq!(practice.posts().len(), number + 1, "{name}");
        assert!(!seen.messages.iter().any(String::is_empty), "{name}: a failure without a word: {seen:#?}");
        all_is_put_away(&daemon, &simulator, &name).await;
        simulator.mend().await;
    }
}

#[tokio::test]
async fn a_dolphin_that_refuses_or_is_not_there_keeps_items_waiting_with_the_reason() {
    go_through(&[
        row("start", "free_plan_402", 1, &["provider_refused", "provider_down"], 1),
        row("start", "limit_499", 1, &["provider_full", "provider_down"], 1),
        row("start", "too_many_429", 1, &[], 1),
        row("start", "signed_out_401", 0, &["provider_signed_out", "provider_down"], 1),
        row("running", "generic_500", 0, &["provider_down", "breaker_open_until"], 1),
        row("start", "bad_request_400", 1, &["provider_refused", "provider_down"], 1),
    ])
    .await;
}

#[tokio::test]
async fn a_start_that_goes_wrong_is_tidied_up_and_tried_again() {
    go_through(&[
        row("start", "duplicate", 1, &[], 1),
        row("start", "duplicate", 1, &[], 1).with(json!({"variant": "200_success_false"})),
        row("start", "ebusy", 1, &[], 2),
        row("start", "init_connection_error", 1, &[], 2),
        row("start", "generic_500", 1, &["browser_start_failed", "retry_backoff"], 2),
        row("start", "html_500", 1, &["provider_down"], 1),
        row("start", "truncated_json", 1, &[], 1),
        row("start", "empty_body", 1, &[], 1),
    ])
    .await;
}

#[tokio::test]
async fn a_browser_that_cannot_be_attached_to_is_stopped_and_tried_again() {
    go_through(&[
        row("start", "no_automation", 1, &[], 1),
        row("start", "automation_null", 1, &[], 1),
        row("start", "port_zero", 1, &[], 2),
        row("start", "empty_ws", 1, &[], 2),
        row("start", "stale_uuid", 1, &[], 2),
        row("start", "cdp_late", 1, &[], 1).with(json!({"ms": 1500})),
        row("start", "cdp_crash", 1, &["attach_failed", "browser_lost", "retry_backoff"], 2),
    ])
    .await;
}

/// The port answers as it should, and the WebSocket behind it in one of these ways.
fn bad_socket(kind: &str) -> Row {
    row("start", "cdp_socket", 1, &["attach_failed", "browser_lost"], 2).with(json!({"kind": kind}))
}

#[tokio::test]
async fn a_socket_that_refuses_or_breaks_is_a_failed_attachment_and_tried_again() {
    let kinds = ["refused_403", "wrong_accept", "closes", "resets", "no_utf8", "masked", "huge_length", "close_1011"];
    go_through(&kinds.map(bad_socket)).await;
}

#[tokio::test]
async fn a_socket_that_says_nothing_of_use_is_given_up_in_its_time() {
    go_through(&["silent", "no_frames", "half_frame", "no_json", "strange_json"].map(bad_socket)).await;
}

#[tokio::test]
async fn a_stop_that_goes_wrong_keeps_the_lock_until_the_browser_is_dead() {
    go_through(&[
        row("stop", "stop_500", 1, &[], 1),
        row("stop", "zombie", 1, &[], 1),
        row("stop", "stop_success_false", 1, &[], 1),
        row("stop", "still_duplicate_for", 1, &[], 1).with(json!({"ms": 1500})),
        row("stop", "running_lag", 1, &[], 1).with(json!({"ms": 1500})),
        row("stop", "reset_mid_answer", 1, &[], 1),
    ])
    .await;
}

/// Behaviour 20: connections are refused; the breaker opens at the fifth failure and costs no call while open.
#[tokio::test]
async fn an_app_that_is_down_opens_the_breaker_and_costs_no_attempt() {
    let simulator = Simulator::start(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna"], "slots = 1").await;
    simulator.app(&json!({"action": "down"})).await;
    let item = submit(&daemon, &practice, "anna", "while it is down").await;
    let seen = watch(&daemon, &item, |seen| shows(seen, "breaker_open_until")).await;
    assert!(shows(&seen, "dolphin open"), "{seen:#?}");
    assert!(shows(&seen, "provider_down"), "before it opened, the item said why: {seen:#?}");
    assert!(seen.timeless.is_empty(), "{seen:#?}");
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.body);
    let pool = daemon.get("/api/v1/metrics").await.body["database_pools"]["dolphin_http"].clone();
    assert!(pool["healthy"] == 0 && pool["failures"].as_u64().unwrap() >= 5, "{pool}");
    simulator.app(&json!({"action": "up"})).await;
    let seen = watch(&daemon, &item, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    assert_eq!(practice.posts().len(), 1);
    let pool = daemon.get("/api/v1/metrics").await.body["database_pools"]["dolphin_http"].clone();
    assert!(pool["calls"].as_u64() > pool["failures"].as_u64() && pool["idle_max"] == 0, "{pool}");
    all_is_put_away(&daemon, &simulator, "down and up").await;
}

/// What answers, and only ever with trouble: five failures open the breaker, and while it is open not one call is made.
#[tokio::test]
async fn an_open_breaker_costs_no_call() {
    let simulator = Simulator::start(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let patient = [("COVE_BREAKERS__OPEN_SECONDS", "6")];
    let daemon = daemon_with(&simulator, &["anna"], "slots = 1", &patient).await;
    simulator.fault(&json!({"call": "any", "fault": "html_500", "times": 0})).await;
    let item = submit(&daemon, &practice, "anna", "while it fails").await;
    watch(&daemon, &item, |seen| shows(seen, "dolphin open")).await;
    let all = |state: &Value| state["calls"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    let when_it_opened = all(&simulator.state().await);
    assert!(when_it_opened <= 6, "{when_it_opened} calls until it opened");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(all(&simulator.state().await), when_it_opened, "calls were made while it was open");
    simulator.mend().await;
    let seen = watch(&daemon, &item, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    all_is_put_away(&daemon, &simulator, "an open breaker").await;
}

/// It lists what runs, and starts nothing: that is Dolphin's failure and no item's, and its breaker's to know.
#[tokio::test]
async fn a_dolphin_whose_starts_answer_with_a_page_opens_its_own_breaker() {
    let simulator = Simulator::start(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna"], "slots = 1").await;
    simulator.fault(&json!({"call": "start", "fault": "html_500", "times": 0})).await;
    let item = submit(&daemon, &practice, "anna", "while it starts nothing").await;
    let seen = watch(&daemon, &item, |seen| seen.breakers.iter().any(|breaker| breaker.ends_with("open"))).await;
    assert!(shows(&seen, "dolphin open") && !shows(&seen, "cdp_attach open"), "{seen:#?}");
    simulator.mend().await;
    let seen = watch(&daemon, &item, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    all_is_put_away(&daemon, &simulator, "starts that answer with a page").await;
}

/// A profile that can never be attached to opens the breaker before it costs its item an attempt.
#[tokio::test]
async fn browsers_that_are_never_attached_to_open_the_breaker_before_an_attempt_is_lost() {
    let simulator = Simulator::start(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna"], "slots = 1").await;
    simulator.fault(&json!({"call": "start", "fault": "no_automation", "times": 0})).await;
    let item = submit(&daemon, &practice, "anna", "never attached").await;
    let seen = watch(&daemon, &item, |seen| shows(seen, "cdp_attach open")).await;
    assert!(shows(&seen, "cdp_attach open"), "{seen:#?}\n{}", daemon.logged());
    simulator.mend().await;
    let seen = watch(&daemon, &item, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    all_is_put_away(&daemon, &simulator, "never attached").await;
}

/// A refusal for good is the profile's own wait, with its time and its words; the next profile goes at once.
#[tokio::test]
async fn a_profile_that_the_plan_refuses_says_so_with_its_time_and_keeps_nobody_else_waiting() {
    let simulator = Simulator::start(&["anna", "boris"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna", "boris"], "slots = 1").await;
    simulator.fault(&json!({"call": "start", "fault": "free_plan_402", "times": 0, "profile": FIRST_PROFILE})).await;
    let refused = submit(&daemon, &practice, "anna", "not in the plan").await;
    let seen = watch(&daemon, &refused, |seen| shows(seen, "provider_down")).await;
    assert!(seen.item["wait_until"].is_string(), "{seen:#?}");
    let words = seen.item["wait_detail"].as_str().unwrap_or_default();
    assert!(words.contains("automation is not in its plan"), "{seen:#?}");
    let other = submit(&daemon, &practice, "boris", "beside it").await;
    let went = watch(&daemon, &other, |_| false).await;
    assert_eq!(went.item["state"], "succeeded", "{went:#?}\n{}", daemon.logged());
    simulator.mend().await;
    let seen = watch(&daemon, &refused, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    all_is_put_away(&daemon, &simulator, "a plan").await;
}

/// What Dolphin has against one profile says nothing of the others: a breaker that the first failure would open stays
/// closed.
#[tokio::test]
async fn a_profile_that_dolphin_refuses_is_blamed_alone() {
    let simulator = Simulator::start(&["anna", "boris"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let strict = [("COVE_BREAKERS__FAILURES", "1"), ("COVE_BREAKERS__OPEN_SECONDS", "3600")];
    let daemon = daemon_with(&simulator, &["anna", "boris"], "slots = 1", &strict).await;
    let broken = json!({"status": 409, "text": "Profile is broken"});
    let order = json!({"call": "start", "fault": "unknown_profile", "times": 0, "profile": BORIS, "params": broken});
    simulator.fault(&order).await;
    let item = submit(&daemon, &practice, "boris", "from a broken profile").await;
    let seen = watch(&daemon, &item, |seen| shows(seen, "profile_broken")).await;
    assert!(shows(&seen, "profile_broken"), "{seen:#?}\n{}", daemon.logged());
    let other = submit(&daemon, &practice, "anna", "from one that is not").await;
    let went = watch(&daemon, &other, |_| false).await;
    assert_eq!(went.item["state"], "succeeded", "{went:#?}\n{}", daemon.logged());
    assert!(seen.breakers.is_empty() && went.breakers.is_empty(), "{seen:#?} {went:#?}");
    all_is_put_away(&daemon, &simulator, "a broken profile").await;
}

/// Until nothing runs at Dolphin's but the human's window, which does.
async fn alone(simulator: &Simulator, daemon: &Daemon, window: &[u64]) {
    let began = Instant::now();
    loop {
        let browsers = simulator.browsers().await;
        assert!(browsers.contains(&window[0]), "the human's window was closed\n{}", daemon.logged());
        if browsers == window {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{browsers:?}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fence rule 16: what a human opened is not stopped; its items wait until it is closed.
#[tokio::test]
async fn rule_16_a_window_that_a_human_opened_is_left_alone() {
    let simulator = Simulator::start(&["anna", "boris"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let daemon = daemon(&simulator, &["anna", "boris"], "slots = 2").await;
    simulator.person(0, "open").await;
    let window = simulator.browsers().await;
    let waits = submit(&daemon, &practice, "anna", "behind a window").await;
    let goes = submit(&daemon, &practice, "boris", "beside it").await;
    let seen = watch(&daemon, &waits, |seen| shows(seen, "profile_in_use_by_operator")).await;
    assert!(shows(&seen, "profile_in_use_by_operator"), "{seen:#?}\n{}", daemon.logged());
    // The list of profiles says the same as the item. While cove tries it again, it says that for a moment.
    let began = Instant::now();
    while daemon.get("/api/v1/profiles").await.body["profiles"][0]["state"] != "in_use_by_operator" {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.get("/api/v1/profiles").await.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = watch(&daemon, &goes, |_| false).await;
    assert_eq!(other.item["state"], "succeeded", "{other:#?}");
    alone(&simulator, &daemon, &window).await;
    simulator.person(0, "close").await;
    let seen = watch(&daemon, &waits, |_| false).await;
    assert_eq!((&seen.item["state"], &seen.item["attempts"]), (&json!("succeeded"), &json!(1)), "{seen:#?}");
    all_is_put_away(&daemon, &simulator, "a human's window").await;
}

/// The daemon is killed while its browsers run at Dolphin's; the next one finds them, looks, and stops them.
#[tokio::test]
async fn rule_15_and_16_browsers_that_outlived_the_daemon_are_found_and_a_humans_is_left() {
    let simulator = Simulator::start(&["anna", "boris"]).await;
    let practice = PracticeSite::start(json!({"slow": 3000})).await;
    let mut daemon = daemon(&simulator, &["anna", "boris"], "slots = 2").await;
    simulator.person(1, "open").await;
    let window = simulator.browsers().await;
    let item = submit(&daemon, &practice, "anna", "over a kill").await;
    let began = Instant::now();
    while simulator.browsers().await.len() < 2 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.kill();
    daemon.boot().await;
    let seen = watch(&daemon, &item, |_| false).await;
    assert_eq!(seen.item["state"], "succeeded", "{seen:#?}\n{}", daemon.logged());
    assert_eq!(practice.posts().len(), 1);
    alone(&simulator, &daemon, &window).await;
    simulator.person(1, "close").await;
    all_is_put_away(&daemon, &simulator, "after a kill").await;
}
