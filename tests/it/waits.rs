//! Why what waits waits: the same reason with the same time, and the same sum, wherever it is shown.

use std::collections::BTreeMap;

use cove::model::Timestamp;
use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite, run};
use super::studio::recording;

const PROFILES: [&str; 9] = ["free", "busy", "parked", "limited", "unknown", "retry", "later", "paused", "down"];

/// A daemon whose browser is missing and whose back-off is long, with an item in every waiting state that can
/// be reached and kept.
async fn waiting() -> Daemon {
    let env = [
        ("COVE_ENGINE__RETRY_BASE_SECONDS", "86400"),
        ("COVE_ENGINE__RETRY_MAX_SECONDS", "86400"),
        ("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium"),
    ];
    let daemon = Daemon::start_as("", &env).await;
    daemon.furnish(&PROFILES).await;
    daemon.put_flow("studio", &recording()).await;
    daemon.order(&["busy", "busy", "parked", "limited", "unknown", "retry"], &json!({})).await;
    for _ in 0..5 {
        let claim = daemon.claim("w1").await;
        let (verb, body) = match claim.profile() {
            "busy" => continue,
            "parked" => ("fail", json!({"reason": "needs_human", "message": "asks to log in"})),
            "limited" => ("fail", json!({"reason": "rate_limited"})),
            "unknown" => {
                assert_eq!(daemon.arm(&claim).await.status, 200);
                ("fail", json!({}))
            }
            _ => ("fail", json!({})),
        };
        let said = daemon.say(&claim, verb, body).await;
        assert_eq!(said.status, 200, "{}", said.body);
    }
    daemon.order(&["free", "free"], &json!({})).await;
    daemon.order(&["later"], &json!({"not_before": "2099-01-01T00:00:00Z"})).await;
    let paused = daemon.order(&["paused", "paused", "paused"], &json!({})).await;
    assert_eq!(daemon.request("POST", &format!("/api/v1/tasks/{paused}/pause"), None).await.status, 202);
    daemon.until(&paused, |items| items.iter().all(|item| item["wait_reason"] == "paused")).await;
    let practice = PracticeSite::start(json!({})).await;
    let down = daemon.submit(&practice.site, &[("down", "x"), ("down", "yy")]).await;
    daemon.until(&down, |items| items.iter().all(|item| item["wait_reason"] == "provider_down")).await;
    daemon
}

type Reasons = BTreeMap<String, u64>;

fn counted(reasons: &Value, count: impl Fn(&Value) -> u64) -> Reasons {
    reasons.as_object().unwrap().iter().map(|(reason, value)| (reason.clone(), count(value))).collect()
}

/// By the items themselves, with the first time of each reason.
fn by_item(items: &[Value]) -> (Reasons, BTreeMap<String, String>) {
    let (mut reasons, mut first) = (Reasons::new(), BTreeMap::<String, String>::new());
    for item in items {
        let waits = ["queued", "retry_wait", "held", "outcome_unknown"].contains(&item["state"].as_str().unwrap());
        assert_eq!(waits, item["wait_reason"].is_string(), "{item}");
        if !waits {
            continue;
        }
        let reason = item["wait_reason"].as_str().unwrap().to_owned();
        if let Some(until) = item["wait_until"].as_str() {
            let first = first.entry(reason.clone()).or_insert_with(|| until.to_owned());
            if until < first.as_str() {
                until.clone_into(first);
            }
        }
        *reasons.entry(reason).or_insert(0) += 1;
    }
    (reasons, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_shows_the_same_reasons_and_the_same_sum() {
    let daemon = waiting().await;
    let expected: Reasons = [
        ("no_slot", 2),
        ("profile_busy", 1),
        ("profile_needs_human", 1),
        ("rate_limited_until", 1),
        ("outcome_unknown", 1),
        ("retry_backoff", 1),
        ("scheduled_for", 1),
        ("paused", 3),
        ("provider_down", 2),
    ]
    .map(|(reason, items)| (reason.to_owned(), items))
    .into();
    let items = daemon.get("/api/v1/items?limit=1000").await.body["items"].as_array().unwrap().clone();
    let (reasons, first) = by_item(&items);
    assert_eq!(reasons, expected, "{items:#?}");
    let now: Timestamp = daemon.get("/api/v1/health").await.body["timestamp"].as_str().unwrap().parse().unwrap();
    for reason in ["profile_busy", "rate_limited_until", "retry_backoff", "scheduled_for"] {
        assert!(first[reason].parse::<Timestamp>().unwrap() > now, "{reason}: {first:?}");
    }

    let status = daemon.get("/api/v1/status").await.body;
    let queue = &status["queue"];
    let shown = counted(&queue["wait_reasons"], |wait| wait["items"].as_u64().unwrap());
    assert_eq!(shown, expected, "{queue}");
    for (reason, until) in &first {
        assert_eq!(queue["wait_reasons"][reason]["until"], json!(until), "{reason}: {queue}");
    }
    let of_state = |state: &str| queue[state].as_u64().unwrap();
    let waiting: u64 = ["queued", "retry_wait", "held", "outcome_unknown"].map(of_state).iter().sum();
    assert_eq!(waiting, expected.values().sum::<u64>());
    assert!(queue["oldest_waiting_since"].is_string(), "{queue}");

    let metrics = daemon.get("/api/v1/metrics").await.body;
    let text = daemon.client.get(format!("{}/metrics", daemon.base)).send().await.unwrap().text().await.unwrap();
    let mut sum = 0;
    for (reason, items) in &expected {
        let series = format!("items_waiting{{wait_reason=\"{reason}\"}}");
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let value = *items as f64;
        assert_eq!(metrics["gauges"][&series], json!(value), "{reason}");
        assert!(text.lines().any(|line| line == format!("cove_{series} {items}")), "{series}: {text}");
        sum += items;
    }
    let lines = text.lines().filter(|line| line.starts_with("cove_items_waiting{"));
    let total: u64 = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(total, sum);
    let reason_free = |name: &str| metrics["gauges"][format!("items_waiting{{wait_reason=\"{name}\"}}")].clone();
    assert_eq!(reason_free("draining"), json!(0.0), "a reason that nobody waits for is zero, not gone");

    let rows = daemon.get("/api/v1/tasks?limit=1000").await.body;
    let mut by_task = Reasons::new();
    for row in rows["tasks"].as_array().unwrap() {
        for (reason, items) in counted(&row["wait_reasons"], |count| count.as_u64().unwrap()) {
            *by_task.entry(reason).or_insert(0) += items;
        }
    }
    assert_eq!(by_task, expected);

    let listed = run(&["items", "list"], daemon.folder.path());
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for reason in expected.keys() {
        assert!(listed.contains(reason.as_str()), "{reason}: {listed}");
    }
    for reason in ["scheduled_for until 2099-01-01 00:00:00Z", "retry_backoff until ", "profile_busy until "] {
        assert!(listed.contains(reason), "{reason}: {listed}");
    }
    let told = run(&["status"], daemon.folder.path());
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("provider_down 2") && told.contains("scheduled_for 1"), "{told}");
    assert!(!told.contains('{'), "for people: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_engine_is_the_reason_of_all_that_is_ready_and_unparking_takes_one_away() {
    let daemon = waiting().await;
    let folder = daemon.folder.path();
    let unparked = run(&["profiles", "unpark", "parked", "--json"], folder);
    let unparked: Value = serde_json::from_slice(&unparked.stdout).unwrap();
    assert_eq!((&unparked["id"], &unparked["state"]), (&json!("parked"), &json!("idle")));
    assert!(run(&["profiles", "unpark", "parked"], folder).status.success(), "twice is once");
    assert_eq!(run(&["profiles", "unpark", "nobody"], folder).status.code(), Some(4));
    let claim = daemon.claim("w2").await;
    assert!(["parked", "free"].contains(&claim.profile()));
    assert!(run(&["pause"], folder).status.success());
    let began = std::time::Instant::now();
    let expected = [("paused", 3 + 7 - 1), ("outcome_unknown", 1), ("retry_backoff", 1), ("scheduled_for", 1)];
    let expected: Reasons = expected.map(|(reason, items)| (reason.to_owned(), items)).into();
    loop {
        let items = daemon.get("/api/v1/items?limit=1000").await.body["items"].as_array().unwrap().clone();
        let status = daemon.get("/api/v1/status").await.body;
        let shown = counted(&status["queue"]["wait_reasons"], |wait| wait["items"].as_u64().unwrap());
        if by_item(&items).0 == expected && shown == expected {
            break;
        }
        assert!(began.elapsed() < super::rig::PATIENCE, "{shown:?} {:?}", by_item(&items).0);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // What runs goes on.
    assert_eq!(daemon.arm(&claim).await.status, 200);
    assert_eq!(daemon.say(&claim, "complete", json!({})).await.body["state"], "succeeded");
}
