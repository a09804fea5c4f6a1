//! One upload from its submit to its end, with everything that an operator could have seen on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite};
use super::simulator::Simulator;

/// For an upload that meets a fault: longer than any of the client's waits.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What was seen of an item until its end.
#[derive(Debug, Default)]
pub struct Seen {
    pub wait_reasons: BTreeSet<String>,
    /// Of the attempts.
    pub codes: BTreeSet<String>,
    pub messages: BTreeSet<String>,
    /// Name and state of every breaker that was not closed.
    pub breakers: BTreeSet<String>,
    /// Wait reasons that are meant to say until when, and did not.
    pub timeless: BTreeSet<String>,
    pub item: Value,
}

pub async fn submit(daemon: &Daemon, practice: &PracticeSite, profile: &str, caption: &str) -> String {
    let film = daemon.film(&format!("{profile}-{caption}.mp4"));
    let inputs = json!({"site": practice.site.url(), "account": profile, "video": film, "caption": caption});
    let request = json!({"flow": "atelier", "items": [{"profile": profile, "inputs": inputs}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &request).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let items = daemon.items(made.body["task_id"].as_str().unwrap()).await;
    items[0]["id"].as_str().unwrap().to_owned()
}

/// Looks until the item has ended, or until `enough`.
pub async fn watch(daemon: &Daemon, item: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
    let began = Instant::now();
    let mut seen = Seen::default();
    loop {
        seen.item = daemon.get(&format!("/api/v1/items/{item}")).await.body;
        if let Some(reason) = seen.item["wait_reason"].as_str() {
            seen.wait_reasons.insert(reason.to_owned());
            if reason == "breaker_open_until" && seen.item["wait_until"].is_null() {
                seen.timeless.insert(reason.to_owned());
            }
        }
        if let Some(code) = seen.item["error"]["code"].as_str() {
            seen.codes.insert(code.to_owned());
            seen.messages.insert(seen.item["error"]["message"].as_str().unwrap_or_default().to_owned());
        }
        let status = daemon.get("/api/v1/status").await.body;
        for breaker in status["breakers"].as_array().into_iter().flatten() {
            if breaker["state"] != "closed" {
                seen.breakers.insert(format!("{} {}", breaker["name"], breaker["state"]).replace('"', ""));
            }
        }
        let ended = ["succeeded", "failed", "canceled", "outcome_unknown"];
        if ended.contains(&seen.item["state"].as_str().unwrap()) || enough(&seen) {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "{seen:#?}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Nothing of the upload is left: no browser at Dolphin's, no lock of a profile.
pub async fn all_is_put_away(daemon: &Daemon, simulator: &Simulator, context: &str) {
    simulator.calm(context).await;
    let began = Instant::now();
    loop {
        let locks = daemon.get("/api/v1/locks?kind=profile").await.body;
        if locks["locks"].as_array().unwrap().is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{context}: locks are left: {locks}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
