//! What becomes of an outcome that is not known, seen from outside: a verify proves it, a person says it, or it stays
//! a question; and nothing but a person's `not_published` brings a second click.

use std::time::{Duration, Instant};

use cove::browser::processes;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::judge::{findings, history, item, posts, settled, until};
use super::kills::{main_process, renderers, send, shows};
use super::moments::{self, Moment};
use super::rig::{Daemon, PATIENCE, PracticeSite, cove, processes_with};
use super::rounds::{flow, flow_without_verify, request, submit_one};

/// The shipped flow, whose confirmation gives up soon.
fn hasty() -> String {
    flow().replace("\"timeout\": 30000", "\"timeout\": 3000")
}

async fn furnished(flow: &str, profiles: &[&str]) -> Daemon {
    let daemon = Daemon::start_with("slots = 2").await;
    daemon.furnish(profiles).await;
    daemon.put_flow("atelier", flow).await;
    daemon
}

async fn resolve(daemon: &Daemon, id: &str, outcome: &str) -> super::rig::Answer {
    daemon.post(&format!("/api/v1/items/{id}/resolve"), &json!({"outcome": outcome})).await
}

async fn retry(daemon: &Daemon, item: &Value) -> Value {
    let answer = daemon.post(&format!("/api/v1/tasks/{}/retry", item["task_id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_a_verify_that_finds_it_is_succeeded_and_one_that_does_not_proves_nothing_yet() {
    let daemon = furnished(&hasty(), &["anna", "boris"]).await;
    let switches = json!({"cut_after_store": {"account": "anna"}, "error_after_share": {"account": "boris"}});
    let practice = PracticeSite::start(switches).await;
    let there = submit_one(&daemon, &practice, "anna", "there").await;
    let not_there = submit_one(&daemon, &practice, "boris", "not there").await;
    let there = settled(&daemon, &there).await;
    assert_eq!((&there["state"], &there["attempts"]), (&json!("succeeded"), &json!(1)), "{there:#}");
    assert_eq!(findings(&daemon, &there).await, ["found"]);
    assert_eq!(posts(&practice, &there).len(), 1);
    let not_there = settled(&daemon, &not_there).await;
    assert_eq!((&not_there["state"], &not_there["attempts"]), (&json!("outcome_unknown"), &json!(1)), "{not_there:#}");
    let said = findings(&daemon, &not_there).await;
    assert!(said.len() == 1 && said[0].starts_with("not_found"), "{said:?}");
    assert_eq!(posts(&practice, &not_there).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_only_an_unknown_outcome_is_resolved_and_a_retry_leaves_out_what_was_armed() {
    let daemon = furnished(&hasty(), &["anna"]).await;
    let practice = PracticeSite::start(json!({"error_after_share": {"times": 1}})).await;
    let mut keyed = request(&daemon, &practice, "atelier", "anna", "once");
    keyed["items"][0]["key"] = json!("spring-1");
    let made = daemon.post("/api/v1/bulk-upload/start", &keyed).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let waiting = daemon.items(made.body["task_id"].as_str().unwrap()).await[0].clone();
    let id = waiting["id"].as_str().unwrap();
    let early = resolve(&daemon, id, "not_published").await;
    assert_eq!((early.status, early.code()), (409, "not_unknown"), "{}", early.body);
    let unknown = settled(&daemon, id).await;
    assert_eq!(unknown["state"], "outcome_unknown", "{unknown:#}");
    // Unknown is not failed: a retry does not even speak of it.
    assert_eq!(retry(&daemon, &unknown).await["retried"], 0);
    assert_eq!(item(&daemon, id).await["state"], "outcome_unknown");

    assert_eq!(resolve(&daemon, id, "give_up").await.status, 200);
    let given_up = item(&daemon, id).await;
    assert_eq!(given_up["state"], "failed", "{given_up:#}");
    let retried = retry(&daemon, &given_up).await;
    assert_eq!(retried["retried"], 0, "{retried:#}");
    assert_eq!(retried["skipped"], json!([{"item_id": id, "reason": "was_armed"}]));
    for outcome in ["published", "not_published", "give_up"] {
        let late = resolve(&daemon, id, outcome).await;
        assert_eq!((late.status, late.code()), (409, "not_unknown"), "{}", late.body);
    }
    let taken = daemon.post("/api/v1/bulk-upload/start", &keyed).await;
    assert_eq!((taken.status, taken.code()), (409, "key_taken"), "{}", taken.body);
    assert!(taken.body.to_string().contains(id), "{}", taken.body);
    assert_eq!(item(&daemon, id).await["state"], "failed");
    assert!(practice.posts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_what_a_person_says_is_not_published_is_published_once_and_what_is_published_never_again() {
    let daemon = furnished(&flow_without_verify().replace("30000", "3000"), &["anna", "boris"]).await;
    let switches =
        json!({"error_after_share": {"account": "anna", "times": 1}, "cut_after_store": {"account": "boris"}});
    let practice = PracticeSite::start(switches).await;
    let swallowed = submit_one(&daemon, &practice, "anna", "swallowed").await;
    let out_there = submit_one(&daemon, &practice, "boris", "out there").await;
    until(&daemon, &swallowed, "outcome_unknown").await;
    assert_eq!(resolve(&daemon, &swallowed, "not_published").await.status, 200);
    let swallowed = until(&daemon, &swallowed, "succeeded").await;
    assert_eq!((posts(&practice, &swallowed).len(), &swallowed["attempts"]), (1, &json!(2)), "{swallowed:#}");
    until(&daemon, &out_there, "outcome_unknown").await;
    let url = practice.posts().iter().find(|post| post.profile == "boris").unwrap().url.clone();
    let said = json!({"outcome": "published", "url": url, "note": "seen on the site"});
    let resolved = daemon.post(&format!("/api/v1/items/{out_there}/resolve"), &said).await;
    assert_eq!(
        (&resolved.body["state"], &resolved.body["url"]),
        (&json!("succeeded"), &json!(url)),
        "{}",
        resolved.body
    );
    assert_eq!(retry(&daemon, &resolved.body).await["retried"], 0);
    assert_eq!(posts(&practice, &resolved.body).len(), 1);
    let notes: Vec<_> = history(&daemon, &resolved.body).await.into_iter().map(|(_, detail)| detail).collect();
    assert!(notes.iter().any(|detail| detail == "published: seen on the site"), "{notes:?}");
}

/// A daemon whose verify takes half a minute, and an item of unknown outcome that it looks for now.
struct Looking {
    daemon: Daemon,
    practice: PracticeSite,
    id: String,
    /// The main process of the browser that looks.
    browser: processes::Identity,
}

impl Looking {
    async fn begin() -> Self {
        let patient = hasty().replace("\"timeout\": 1500\n", "\"timeout\": 30000\n");
        assert_ne!(patient, hasty());
        let daemon = furnished(&patient, &["anna"]).await;
        let practice = PracticeSite::start(json!({"error_after_share": {"times": 1}})).await;
        let id = submit_one(&daemon, &practice, "anna", "looked for").await;
        moments::reached(&daemon, &id, Moment::Armed).await.unwrap();
        let now = || main_process(&daemon, "anna").and_then(processes::read).map(|one| one.identity);
        let attempt = now().unwrap();
        until(&daemon, &id, "outcome_unknown").await;
        // The attempt's own browser ends first; the next one is the look's.
        let began = Instant::now();
        let browser = loop {
            if let Some(browser) = now().filter(|browser| attempt != *browser) {
                break browser;
            }
            assert!(began.elapsed() < PATIENCE, "nobody looks\n{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        // So that it looks, and does not only start.
        while !shows(&daemon, "anna", "/u/anna").await {
            assert!(began.elapsed() < PATIENCE, "nobody looks\n{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { daemon, practice, id, browser }
    }
}

/// A person is quicker than the look.
#[tokio::test(flavor = "multi_thread")]
async fn rule_14_a_resolve_stops_the_verify_and_the_item_starts_when_its_browser_is_dead() {
    let Looking { daemon, practice, id, browser } = Looking::begin().await;
    let asked = Instant::now();
    assert_eq!(resolve(&daemon, &id, "not_published").await.status, 200);
    let alive = || processes::read(browser.pid).is_some_and(|one| one.identity == browser && !one.zombie);
    loop {
        let now = item(&daemon, &id).await;
        // Looked at after the item: a browser that dies in between is the only thing that this does not see.
        if now["state"] != "queued" {
            assert!(!alive(), "{now:#}\n{}", daemon.logged());
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(20), "the look was not stopped: {now:#}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let published = until(&daemon, &id, "succeeded").await;
    assert_eq!(posts(&practice, &published).len(), 1);
    assert!(findings(&daemon, &published).await.is_empty(), "a look that was stopped has seen nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_a_page_that_crashes_while_it_is_looked_at_is_inconclusive() {
    let Looking { daemon, practice, id, browser } = Looking::begin().await;
    // The browser is there before its page is.
    let began = Instant::now();
    let mut pages = renderers(browser.pid);
    while pages.is_empty() {
        assert!(began.elapsed() < PATIENCE, "no page to break");
        tokio::time::sleep(Duration::from_millis(10)).await;
        pages = renderers(browser.pid);
    }
    for page in pages {
        send(page, Signal::KILL);
    }
    let crashed = Instant::now();
    let unknown = settled(&daemon, &id).await;
    assert!(crashed.elapsed() < Duration::from_secs(10), "seen after {:?}", crashed.elapsed());
    assert_eq!(unknown["state"], "outcome_unknown", "{unknown:#}");
    let said = findings(&daemon, &unknown).await;
    assert!(said.len() == 1 && said[0].starts_with("inconclusive"), "{said:?}");
    assert!(said[0].contains("its page crashed"), "{said:?}");
    assert!(practice.posts().is_empty());
}

/// The waits behind the click are all true before it: they say nothing to a daemon that did not see the click.
#[tokio::test(flavor = "multi_thread")]
async fn rule_15_waits_that_were_true_before_the_click_do_not_confirm_a_page_that_survived() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let profiles = folder.path().join("profiles");
    let mut host = cove()
        .args(["browser-host", "--sandbox", "false", "--socket"])
        .arg(&socket)
        .arg("--profiles-dir")
        .arg(&profiles)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let setting = socket.display().to_string().leak();
    let mut daemon = Daemon::start_as("", &[("COVE_BROWSER__HOST_SOCKET", setting)]).await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let mut flow: Value = serde_json::from_str(&flow_without_verify()).unwrap();
    let steps = flow["steps"].as_array_mut().unwrap();
    let commit = steps.iter().position(|step| step["name"] == "commit").unwrap();
    steps.truncate(commit + 2);
    steps.push(json!({"type": "waitForElement", "selectors": [["body"]]}));
    // Long enough to be killed in, and nobody can say whether it was true before.
    let slow = "new Promise(done => setTimeout(() => done(true), 6000))";
    steps.push(json!({"type": "waitForExpression", "expression": slow, "timeout": 20_000}));
    daemon.put_flow("atelier", &flow.to_string()).await;
    let id = submit_one(&daemon, &practice, "anna", "survivor").await;
    moments::reached(&daemon, &id, Moment::Armed).await.unwrap();
    let began = Instant::now();
    while practice.posts().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.kill();
    assert!(!processes_with(&profiles.display().to_string()).is_empty(), "the browser did not survive");
    daemon.boot().await;
    let unknown = daemon_settles(&daemon, &id).await;
    assert_eq!(unknown["state"], "outcome_unknown", "{unknown:#}\n{}", daemon.logged());
    let error = &unknown["error"];
    assert_eq!(error["code"], "restarted_after_commit");
    assert!(error["message"].as_str().unwrap().contains("not there before it"), "{error}");
    assert_eq!(posts(&practice, &unknown).len(), 1);
    assert_eq!(daemon.stop(), Some(0));
    send(host.id(), Signal::TERM);
    assert!(host.wait().unwrap().success());
}

/// Without a verify nothing looks.
async fn daemon_settles(daemon: &Daemon, id: &str) -> Value {
    let began = Instant::now();
    loop {
        let now = item(daemon, id).await;
        if !["queued", "running", "retry_wait"].contains(&now["state"].as_str().unwrap()) {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "{now:#}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
