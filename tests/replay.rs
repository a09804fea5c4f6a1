//! The replay in a real Chromium: what each step does to a page, how elements are found, and the order
//! around the commit point. Fence tests carry the number of their rule (fence.md) in their names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
mod rig;

use std::time::{Duration, Instant};

use cove::browser::Mode;
use cove::model::{FailureCode, InputValue};
use rig::{Answer, Case, Moment, Rig, commit, extract};
use serde_json::{Value, json};

/// Far below the flow's deadline: it ended by itself, on a machine that may be busy.
const QUICKLY: Duration = Duration::from_secs(3);

const SHARE: &str =
    "<button id=share onclick=\"clicked(); $('done').hidden = false\">Share</button><p id=done hidden>Done</p>";

fn share() -> Vec<Value> {
    vec![commit(), json!({"type": "click", "selectors": ["#share"]})]
}

fn done() -> Value {
    json!({"type": "waitForElement", "selectors": ["#done"], "timeout": 1000})
}

/// A recording that shares and waits for the confirmation.
fn sharing(rig: &Rig, body: &str, after: &[Value]) -> Case {
    let mut steps = share();
    steps.push(done());
    steps.extend_from_slice(after);
    Case::new(&rig.on(body, &Value::Array(steps)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_the_gate_is_asked_before_the_click_and_the_click_is_sent_once() {
    let rig = Rig::new().await;
    let ended = rig.replay(sharing(&rig, SHARE, &[])).await;
    ended.result();
    assert_eq!(ended.asked, [Moment { clicks: 0, pictured: true }]);
    assert_eq!(rig.site.clicks(), 1);
    assert!(ended.has("before.png") && ended.has("after.png") && ended.has("trace.jsonl"), "{:?}", ended.evidence);

    let mut refused = sharing(&rig, SHARE, &[]);
    refused.gate = Answer::No;
    let ended = rig.replay(refused).await;
    assert_eq!(ended.unarmed().code, FailureCode::ArmRefused);
    assert_eq!(ended.asked, [Moment { clicks: 1, pictured: true }]);
    assert_eq!(rig.site.clicks(), 1, "a click after a no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_a_renamed_button_is_an_ordinary_failure() {
    let rig = Rig::new().await;
    let renamed = SHARE.replace("id=share", "id=other");
    let mut case = sharing(&rig, &renamed, &[]);
    case.recording["steps"][2]["timeout"] = json!(300);
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::ElementNotFound, "{}", ended.unarmed());
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
    assert!(ended.has("failure.png") && ended.has("failure.txt") && !ended.has("before.png"));
    assert!(ended.text("failure.txt").contains("Share"), "{}", ended.text("failure.txt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_and_8_without_its_confirmation_it_is_unknown_and_what_follows_changes_nothing() {
    let rig = Rig::new().await;
    let silent = "<button id=share onclick=\"clicked()\">Share</button>";
    let ended = rig.replay(sharing(&rig, silent, &[])).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert_eq!((ended.asked.len(), rig.site.clicks()), (1, 1));
    assert!(ended.has("before.png") && ended.has("after.png") && ended.has("failure.txt"));

    let mut late = extract("url", "nothing.here");
    late["timeout"] = json!(200);
    let ended = rig.replay(sharing(&rig, SHARE, &[late, extract("title", "document.title")])).await;
    assert_eq!(ended.result()["title"], "Page");
    assert!(ended.notes()[0].contains("expression_failed"), "{:?}", ended.notes());
    assert_eq!(rig.site.clicks(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_10_a_run_stops_before_the_commit_point() {
    let rig = Rig::new().await;
    let mut case = sharing(&rig, SHARE, &[]);
    case.mode = Mode::StopBeforeCommit;
    let ended = rig.replay(case).await;
    assert!(ended.notes()[0].contains("stopped before"), "{:?}", ended.notes());
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
    assert!(ended.has("before.png"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_browsers_own_start_page_is_not_taken_for_the_page_of_a_navigation() {
    let rig = Rig::with_start_page("chrome://newtab/").await;
    let ended = rig.run("<p>here", &json!([extract("text", "document.body.innerText")])).await;
    assert_eq!(ended.result()["text"], "here");
}
