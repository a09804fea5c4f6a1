//! Outside workers, as they see cove: what they are given, what they may say, and what becomes of what
//! they leave behind (fence.md rule 23).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, run};
use super::studio::{SECRET, studio};

/// State and attempts, the two that most tests ask for.
fn facts(item: &Value) -> (&str, u64) {
    (item["state"].as_str().unwrap(), item["attempts"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_work_as_long_as_it_was_told_to_and_no_longer() {
    let daemon = studio("", &["anna"]).await;
    let began = Instant::now();
    let nothing = daemon.ask_claim("w1", 60, 0).await;
    assert_eq!((nothing.status, &nothing.body), (204, &Value::Null));
    assert!(began.elapsed() < Duration::from_secs(5));
    let began = Instant::now();
    assert_eq!(daemon.ask_claim("w1", 60, 1).await.status, 204);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let began = Instant::now();
    let (answer, _) = tokio::join!(daemon.ask_claim("w1", 60, 50), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        daemon.order(&["anna"], &json!({})).await
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // Work of another kind is not its work.
    let other = json!({"kinds": ["other"], "owner": "w2"});
    daemon.order(&["anna"], &json!({})).await;
    assert_eq!(daemon.post("/api/v1/claims", &other).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_all_of_its_item_and_nobody_else_its_secrets() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna", "anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let item = &claim.body["item"];
    assert_eq!(item["inputs"]["code"], SECRET, "{item}");
    assert_eq!((&item["flow"], &item["state"], &item["attempts"]), (&json!("studio"), &json!("running"), &json!(1)));
    assert_eq!(item["fence"], claim.fence);
    let file = &item["files"]["video"];
    let film = daemon.folder.path().join("media/studio.mp4");
    assert_eq!((&file["path"], &file["bytes"]), (&json!(film), &json!(std::fs::metadata(&film).unwrap().len())));
    assert_eq!(file["sha256"].as_str().unwrap().len(), 64);
    assert!(claim.body["expires_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", claim.body);

    let done = daemon.say(&claim, "complete", json!({"result": {"note": "seen"}})).await;
    assert_eq!((done.status, &done.body["result"]["note"]), (200, &json!("seen")), "{}", done.body);
    for path in
        [format!("/api/v1/tasks/{task}/items"), "/api/v1/items".to_owned(), format!("/api/v1/tasks/{task}/events")]
    {
        let shown = daemon.get(&path).await.body.to_string();
        assert!(!shown.contains(SECRET) && shown.contains(claim.item()), "{path}: {shown}");
    }
    assert!(!done.body.to_string().contains(SECRET), "{}", done.body);
    let shown = run(&["tasks", "show", &task, "--json"], daemon.folder.path());
    assert!(!String::from_utf8_lossy(&shown.stdout).contains(SECRET));
    assert!(!daemon.logged().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_arm_is_yes_once_for_the_right_media_and_complete_is_said_as_often_as_one_likes() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim_for("w1", 60).await;
    for (wrong, code) in [(json!({}), "missing_field"), (json!({"media_sha256": "film.mp4"}), "invalid_field")] {
        let refused = daemon.say(&claim, "arm", wrong.clone()).await;
        assert_eq!((refused.status, refused.code()), (422, code), "{wrong}: {}", refused.body);
        assert_eq!(refused.pointers(), ["/media_sha256"]);
    }
    for wrong in [json!({"media_sha256": "0".repeat(64)}), json!({"media_sha256": [claim.media(), claim.media()]})] {
        let refused = daemon.say(&claim, "arm", wrong.clone()).await;
        assert_eq!((refused.status, refused.code()), (409, "media_mismatch"), "{wrong}: {}", refused.body);
    }
    assert_eq!(daemon.item(claim.item()).await["state"], "running");
    let refreshed = daemon.say(&claim, "refresh", json!({"ttl_seconds": 600})).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    assert!(refreshed.body["expires_at"].as_str() > claim.body["expires_at"].as_str(), "{}", refreshed.body);
    let yes = daemon.arm(&claim).await;
    assert_eq!((yes.status, &yes.body["armed"]), (200, &json!(true)), "{}", yes.body);
    let within = yes.body["click_within_seconds"].as_u64().unwrap();
    assert!((500..600).contains(&within), "{}", yes.body);
    // The answer may have been lost on the way: a second yes would be a second click.
    let again = daemon.arm(&claim).await;
    assert_eq!((again.status, again.code()), (409, "already_armed"), "{}", again.body);
    assert!(again.body["detail"].as_str().unwrap().contains("complete it or fail it"), "{}", again.body);

    let url = json!({"url": "http://127.0.0.1:9/p/1"});
    for _ in 0..3 {
        let done = daemon.say(&claim, "complete", url.clone()).await;
        assert_eq!((done.status, &done.body["state"]), (200, &json!("succeeded")), "{}", done.body);
        assert_eq!(done.body["url"], url["url"]);
    }
    let failed = daemon.say(&claim, "fail", json!({})).await;
    assert_eq!((failed.status, failed.code()), (409, "stale_fence"), "{}", failed.body);
    assert_eq!(daemon.item(claim.item()).await["state"], "succeeded");
    let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
    let kinds: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "claimed", "armed", "succeeded"], "once each");
    assert!(daemon.get("/api/v1/locks").await.body["locks"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_and_23_a_failure_before_arm_goes_by_the_policy_and_what_a_site_asks_parks_the_profile() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna"], &json!({"max_attempts": 2})).await;
    let claim = daemon.claim("w1").await;
    let failed = daemon.say(&claim, "fail", json!({"message": "no button"})).await;
    assert_eq!((failed.status, facts(&failed.body)), (200, ("retry_wait", 1)), "{}", failed.body);
    assert!(failed.body["error"]["message"].as_str().unwrap().contains("no button"), "{}", failed.body);

    let claim = daemon.claim("w1").await;
    let asked = daemon.say(&claim, "fail", json!({"reason": "needs_human", "message": "asks to log in"})).await;
    assert_eq!(facts(&asked.body), ("queued", 1), "no attempt is spent: {}", asked.body);
    assert_eq!(daemon.item(claim.item()).await["wait_reason"], "profile_needs_human");
    assert!(daemon.try_claim("w1").await.is_none());
    let profile = daemon.get("/api/v1/profiles/anna").await.body;
    assert_eq!((&profile["state"], &profile["needs_human"]), (&json!("needs_human"), &json!("asks to log in")));
    let unparked = run(&["profiles", "unpark", "anna"], daemon.folder.path());
    assert!(unparked.status.success(), "{unparked:?}");

    let claim = daemon.claim("w1").await;
    let failed = daemon.say(&claim, "fail", json!({})).await;
    assert_eq!(facts(&failed.body), ("failed", 2), "the policy's last: {}", failed.body);
    assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}")).await.body["state"], "failed");

    daemon.order(&["anna", "anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let rejected = daemon.say(&claim, "fail", json!({"reason": "rejected"})).await;
    assert_eq!(facts(&rejected.body), ("failed", 1), "{}", rejected.body);
    let claim = daemon.claim("w1").await;
    let limited = daemon.say(&claim, "fail", json!({"reason": "rate_limited"})).await;
    assert_eq!(limited.body["state"], "queued", "{}", limited.body);
    let item = daemon.item(claim.item()).await;
    assert_eq!(item["wait_reason"], "rate_limited_until");
    assert!(item["wait_until"].as_str().is_some(), "{item}");
    assert!(daemon.try_claim("w1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_a_failure_after_arm_is_unknown_and_a_late_complete_counts_under_that_fence_alone() {
    let daemon = studio("", &["anna"]).await;
    daemon.order(&["anna"], &json!({})).await;
    let first = daemon.claim("w1").await;
    assert_eq!(daemon.arm(&first).await.status, 200);
    let failed = daemon.say(&first, "fail", json!({"reason": "needs_human", "message": "asks after the click"})).await;
    assert_eq!(facts(&failed.body), ("outcome_unknown", 1), "{}", failed.body);
    assert_eq!(daemon.item(first.item()).await["wait_reason"], "outcome_unknown");
    assert_eq!(daemon.get("/api/v1/profiles/anna").await.body["state"], "needs_human");
    daemon.post("/api/v1/profiles/anna/unpark", &json!({})).await;
    assert!(daemon.try_claim("w2").await.is_none(), "what may be out there is nobody's work");

    let resolve = format!("/api/v1/items/{}/resolve", first.item());
    assert_eq!(daemon.post(&resolve, &json!({"outcome": "not_published"})).await.status, 200);
    let second = daemon.claim("w2").await;
    assert_eq!(second.item(), first.item());
    for verb in ["complete", "fail", "refresh"] {
        let old = daemon.say(&first, verb, json!({})).await;
        assert_eq!((old.status, old.code()), (409, "stale_fence"), "{verb}: {}", old.body);
    }
    assert_eq!(daemon.arm(&first).await.code(), "stale_fence");
    assert_eq!(daemon.arm(&second).await.status, 200);
    assert_eq!(daemon.say(&second, "fail", json!({})).await.body["state"], "outcome_unknown");
    assert_eq!(daemon.say(&first, "complete", json!({})).await.code(), "stale_fence", "another arming's word");
    let late = daemon.say(&second, "complete", json!({"url": "http://x/p/2"})).await;
    assert_eq!(
        (late.status, &late.body["state"], &late.body["url"]),
        (200, &json!("succeeded"), &json!("http://x/p/2"))
    );
    let settled = daemon.post(&resolve, &json!({"outcome": "published"})).await;
    assert_eq!((settled.status, settled.code(), &settled.body["state"]), (409, "not_unknown", &json!("succeeded")));
}

/// Before the click `rejected` says to change the item and submit it again; after it that would be a second post.
#[tokio::test(flavor = "multi_thread")]
async fn rule_7_and_23_what_a_worker_says_after_arm_is_shown_as_an_unknown_outcome_and_parks_where_the_site_spoke() {
    let profiles = ["anna", "boris", "clara"];
    let daemon = studio("", &profiles).await;
    daemon.order(&profiles, &json!({})).await;
    for (reason, code, state) in [
        ("rejected", "confirmation_missing", "needs_human"),
        ("rate_limited", "confirmation_missing", "needs_human"),
        ("error", "lost_after_commit", "idle"),
    ] {
        let claim = daemon.claim("w1").await;
        assert_eq!(daemon.arm(&claim).await.status, 200);
        let failed = daemon.say(&claim, "fail", json!({"reason": reason, "message": "it was red"})).await;
        assert_eq!(failed.body["state"], "outcome_unknown", "{}", failed.body);
        let error = &failed.body["error"];
        assert_eq!(error["code"], code, "{reason}: {error}");
        assert!(error["message"].as_str().unwrap().contains("it was red"), "{error}");
        assert!(!error["help"].as_str().unwrap().contains("submit"), "{error}");
        assert_eq!(daemon.get(&format!("/api/v1/profiles/{}", claim.profile())).await.body["state"], state, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_without_a_ttl_is_as_long_as_the_lease_before() {
    let daemon = studio("", &["anna"]).await;
    daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim_for("w1", 3_000).await;
    let seconds_to = |answer: &super::rig::Answer| {
        let until: cove::model::Timestamp = answer.body["expires_at"].as_str().unwrap().parse().unwrap();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        (u128::from(until.as_millis()).saturating_sub(now)) / 1_000
    };
    let refreshed = daemon.say(&claim, "refresh", json!({})).await;
    assert!((2_900..=3_000).contains(&seconds_to(&refreshed)), "{}", refreshed.body);
    let lock = json!({"kind": "task", "key": "7", "owner": "w1", "ttl_seconds": 90});
    let fence = daemon.post("/api/v1/locks/acquire", &lock).await.body["fence"].clone();
    let named = json!({"kind": "task", "key": "7", "owner": "w1", "fence": fence});
    let refreshed = daemon.post("/api/v1/locks/refresh", &named).await;
    assert!((60..=90).contains(&seconds_to(&refreshed)), "{}", refreshed.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_an_armed_lease_that_ends_is_unknown_at_once_and_its_worker_may_still_say_what_it_did() {
    let daemon = studio("", &["anna", "boris"]).await;
    daemon.order(&["anna", "boris"], &json!({})).await;
    let claims = [daemon.claim_for("w1", 5).await, daemon.claim_for("w2", 5).await];
    let (armed, idle) = if claims[0].profile() == "anna" { (&claims[0], &claims[1]) } else { (&claims[1], &claims[0]) };
    assert_eq!(daemon.arm(armed).await.status, 200);
    let began = Instant::now();
    let unknown = daemon.item_until(armed.item(), |item| item["state"] == "outcome_unknown").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(unknown["error"]["code"], "lost_after_commit", "{unknown}");
    assert!(unknown["error"]["message"].as_str().unwrap().starts_with("worker_lost: w1 let"), "{unknown}");
    // The other lease began a moment later, and ends a moment later.
    let began = Instant::now();
    while daemon.get("/api/v1/locks").await.body["locks"]
        .as_array()
        .unwrap()
        .iter()
        .any(|lock| lock["expired"] == false)
    {
        assert!(began.elapsed() < PATIENCE, "its lease does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The other is still its worker's, who may no more click.
    for (verb, body) in [("refresh", json!({})), ("arm", json!({"media_sha256": idle.media()}))] {
        let refused = daemon.say(idle, verb, body).await;
        assert_eq!((refused.status, refused.code()), (409, "not_held"), "{verb}: {}", refused.body);
    }
    assert_eq!(daemon.item(idle.item()).await["state"], "running");
    assert!(daemon.try_claim("w3").await.is_none());
    let late = daemon.say(armed, "complete", json!({"url": "http://x/p/3"})).await;
    assert_eq!((late.status, &late.body["state"]), (200, &json!("succeeded")), "{}", late.body);
    let locks = daemon.get("/api/v1/locks").await.body;
    assert_eq!(locks["locks"].as_array().unwrap().len(), 1, "its profile is free again: {locks}");
    // Saying that it failed is still allowed, and ends the wait.
    assert_eq!(facts(&daemon.say(idle, "fail", json!({})).await.body), ("retry_wait", 1));
    assert_eq!(daemon.claim("w3").await.item(), idle.item());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_a_claim_goes_on_over_a_kill_of_the_daemon() {
    let mut daemon = studio("", &["anna", "boris"]).await;
    let task = daemon.order(&["anna", "anna", "boris"], &json!({})).await;
    let before = daemon.claim("w1").await;
    let armed = daemon.claim("w2").await;
    assert_eq!(daemon.arm(&armed).await.status, 200);
    daemon.kill();
    daemon.boot().await;
    assert_eq!(daemon.say(&before, "refresh", json!({})).await.status, 200);
    assert_eq!(daemon.item(armed.item()).await["state"], "running");
    let done = daemon.say(&armed, "complete", json!({})).await;
    assert_eq!((done.status, &done.body["state"]), (200, &json!("succeeded")), "{}", done.body);
    assert_eq!(daemon.arm(&before).await.status, 200);
    assert_eq!(daemon.say(&before, "complete", json!({})).await.body["state"], "succeeded");
    let last = daemon.claim("w1").await;
    daemon.say(&last, "complete", json!({})).await;
    let items = daemon.settled(&task).await;
    assert!(items.iter().all(|item| facts(item) == ("succeeded", 1)), "{items:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_workers_never_share_an_item_or_a_profile() {
    let daemon = studio("", &["anna", "boris", "clara"]).await;
    let names = ["anna", "boris", "clara"].repeat(4);
    let task = daemon.order(&names, &json!({})).await;
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let asked = (0..8).map(|worker| daemon.ask_claim(["w1", "w2"][worker % 2], 60, 0));
        let answers = futures_util::future::join_all(asked).await;
        let got: Vec<_> = answers.iter().filter(|answer| answer.status == 200).map(|answer| &answer.body).collect();
        let profiles: BTreeSet<_> = got.iter().map(|claim| claim["item"]["profile"].to_string()).collect();
        assert_eq!((got.len(), profiles.len()), (3, 3), "{got:#?}");
        assert!(answers.iter().all(|answer| [200, 204].contains(&answer.status)));
        // What waits behind them says so.
        let waiting = daemon.items(&task).await.into_iter().filter(|item| item["state"] == "queued");
        for item in waiting {
            let claim = got.iter().find(|claim| claim["item"]["profile"] == item["profile"]).unwrap();
            assert_eq!((&item["wait_reason"], &item["wait_until"]), (&json!("profile_busy"), &claim["expires_at"]));
        }
        for claim in got {
            assert!(seen.insert(claim["item"]["id"].to_string()), "twice: {claim}");
            let path = format!("/api/v1/claims/{}/complete", claim["claim_id"].as_str().unwrap());
            assert_eq!(daemon.post(&path, &json!({"fence": claim["fence"]})).await.status, 200);
        }
    }
    assert_eq!(seen.len(), names.len());
    assert!(daemon.items(&task).await.iter().all(|item| facts(item) == ("succeeded", 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_is_not_given_out_and_a_resume_wakes_who_waits() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    for (pause, resume) in [
        ("/api/v1/pause".to_owned(), "/api/v1/resume".to_owned()),
        (format!("/api/v1/tasks/{task}/pause"), format!("/api/v1/tasks/{task}/resume")),
    ] {
        assert_eq!(daemon.request("POST", &pause, None).await.status, 202);
        daemon.until(&task, |items| items[0]["wait_reason"] == "paused").await;
        assert_eq!(daemon.ask_claim("w1", 60, 1).await.status, 204, "{pause}");
        let (answer, resumed) = tokio::join!(daemon.ask_claim("w1", 60, 30), daemon.request("POST", &resume, None));
        assert_eq!((answer.status, resumed.status), (200, 202), "{resume}: {}", answer.body);
        // One that runs goes on while its task or the engine is paused.
        daemon.request("POST", &pause, None).await;
        let claim =
            json!({"fence": answer.body["fence"], "media_sha256": answer.body["item"]["files"]["video"]["sha256"]});
        let path = format!("/api/v1/claims/{}", answer.body["claim_id"].as_str().unwrap());
        let failed = daemon.post(&format!("{path}/fail"), &json!({"fence": claim["fence"]})).await;
        assert_eq!(failed.status, 200, "{}", failed.body);
        daemon.request("POST", &resume, None).await;
    }
    let claim = daemon.claim("w1").await;
    daemon.request("POST", &format!("/api/v1/tasks/{task}/pause"), None).await;
    assert_eq!(daemon.arm(&claim).await.status, 200);
    assert_eq!(daemon.say(&claim, "complete", json!({})).await.body["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_cancel_refuses_arm_and_the_next_of_the_profile_is_not_kept_waiting() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna", "anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let later = daemon.order(&["anna"], &json!({})).await;
    assert_eq!(daemon.request("POST", &format!("/api/v1/tasks/{task}/cancel"), None).await.status, 202);
    let refused = daemon.arm(&claim).await;
    assert_eq!((refused.status, refused.code()), (409, "canceled"), "{}", refused.body);
    let failed = daemon.say(&claim, "fail", json!({})).await;
    assert_eq!(failed.body["state"], "canceled", "{}", failed.body);
    let next = daemon.try_claim("w1").await.expect("work is there, and a claim says so at once");
    assert_eq!(next.body["item"]["task_id"], json!(later));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_21_and_23_a_forced_cleanup_ends_a_workers_lease_and_frees_no_profile() {
    let daemon = studio("", &["anna", "boris"]).await;
    daemon.order(&["anna", "boris"], &json!({})).await;
    let claims = [daemon.claim("w1").await, daemon.claim("w1").await];
    let (armed, idle) = if claims[0].profile() == "anna" { (&claims[0], &claims[1]) } else { (&claims[1], &claims[0]) };
    assert_eq!(daemon.arm(armed).await.status, 200);
    let folder = daemon.folder.path();
    let listed = run(&["locks", "list", "--owner", "worker w1", "--json"], folder);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["locks"].as_array().unwrap().len(), 2, "{listed}");
    let dry = run(&["locks", "cleanup", "--owner", "worker w1", "--force", "--dry-run", "--json"], folder);
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!((&dry["removed"], dry["stopping"].as_array().unwrap().len()), (&json!(0), 2), "{dry}");
    assert_eq!(daemon.say(idle, "refresh", json!({})).await.status, 200, "a dry run changes nothing");

    let forced = daemon.post("/api/v1/locks/cleanup", &json!({"owner": "worker w1", "force": true})).await.body;
    assert_eq!((&forced["removed"], forced["stopping"].as_array().unwrap().len()), (&json!(0), 2), "{forced}");
    assert!(forced["stopping"].as_array().unwrap().iter().all(|lock| lock["expired"] == true), "{forced}");
    for (verb, body) in [("refresh", json!({})), ("arm", json!({"media_sha256": idle.media()}))] {
        let refused = daemon.say(idle, verb, body).await;
        assert_eq!((refused.status, refused.code()), (409, "not_held"), "{verb}: {}", refused.body);
    }
    daemon.item_until(armed.item(), |item| item["state"] == "outcome_unknown").await;
    assert_eq!(daemon.item(idle.item()).await["state"], "running", "its worker may still be at it");
    for key in ["anna", "boris"] {
        let asked = json!({"kind": "profile", "key": key, "owner": "somebody", "ttl_seconds": 5});
        assert_eq!(daemon.post("/api/v1/locks/acquire", &asked).await.body["acquired"], false, "{key}");
    }
    let again = daemon.post("/api/v1/locks/cleanup", &json!({"owner": "worker w1", "force": true})).await.body;
    assert_eq!(again["stopping"], json!([]), "the minute does not begin anew: {again}");
}

/// What it costs to have the flow wrong: a rehearsal of what cove does not run itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_of_a_worker_is_not_rehearsed_here() {
    let daemon: Daemon = studio("", &["anna"]).await;
    let film = daemon.film("one.mp4");
    let items = json!({"items": [{"profile": "anna", "inputs": {"site": "http://127.0.0.1:9", "account": "anna",
        "video": film, "caption": "c", "code": SECRET}}]});
    let refused = daemon.post("/api/v1/flows/studio/run", &items).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/flow"]), "{}", refused.body);
    assert!(daemon.try_claim("w1").await.is_none(), "a worker would publish it");
    assert!(!refused.body.to_string().contains(SECRET));
}

/// The kinds of the log's lines, and what each says.
async fn log_of(daemon: &Daemon, task: &str) -> Vec<(String, String)> {
    let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    events["events"].as_array().unwrap().iter().map(|event| (text(event, "kind"), text(event, "detail"))).collect()
}

/// What the ledger says of one item, in order.
fn ledger_of(daemon: &Daemon, item: &str) -> Vec<String> {
    let text = std::fs::read_to_string(daemon.state().join(cove::store::LEDGER_FILE)).unwrap();
    let of_item = text.lines().filter(|line| line.contains(&format!("\"{item}\"")));
    let kinds = ["armed", "published", "resolved"];
    of_item
        .filter_map(|line| kinds.into_iter().find(|kind| line.contains(&format!("\"{kind}\""))))
        .map(str::to_owned)
        .collect()
}

/// It is out there: to refuse it would queue it again, and post it twice.
#[tokio::test(flavor = "multi_thread")]
async fn rule_7_and_23_what_was_completed_without_arming_is_taken_is_told_and_both_lines_stand_in_the_ledger() {
    let daemon = studio("", &["anna", "boris"]).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let url = "http://127.0.0.1:9/p/1";
    let done = daemon.say(&claim, "complete", json!({"url": url})).await;
    assert_eq!((done.status, &done.body["state"], &done.body["url"]), (200, &json!("succeeded"), &json!(url)));
    assert_eq!(done.body["warnings"][0]["code"], "completed_unarmed", "{}", done.body);
    assert_eq!(ledger_of(&daemon, claim.item()), ["armed", "published"]);
    let log = log_of(&daemon, &task).await;
    let kinds: Vec<&str> = log.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["accepted", "claimed", "completed_unarmed", "armed", "succeeded"]);
    assert!(log[2].1.contains("never armed"), "{log:?}");

    // One that asked for its click is not warned.
    daemon.order(&["anna"], &json!({})).await;
    let good = daemon.claim("w1").await;
    assert_eq!(daemon.arm(&good).await.status, 200);
    let done = daemon.say(&good, "complete", json!({})).await;
    assert_eq!((done.status, done.body.get("warnings")), (200, None), "{}", done.body);

    let task = daemon.order(&["boris", "boris"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    assert_eq!(daemon.request("POST", &format!("/api/v1/tasks/{task}/cancel"), None).await.status, 202);
    assert_eq!(daemon.arm(&claim).await.code(), "canceled");
    let done = daemon.say(&claim, "complete", json!({"url": url})).await;
    assert_eq!((done.status, &done.body["state"]), (200, &json!("succeeded")), "{}", done.body);
    assert_eq!(done.body["warnings"][0]["code"], "completed_unarmed");
    assert_eq!(ledger_of(&daemon, claim.item()), ["armed", "published"]);
    let items = daemon.settled(&task).await;
    assert!(items.iter().any(|item| item["state"] == "canceled"), "{items:#?}");
    assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}")).await.body["state"], "partially_succeeded");
    let metrics = daemon.get("/api/v1/metrics").await.body;
    assert_eq!(metrics["counters"]["claims_completed_unarmed_total"], 2.0, "{}", metrics["counters"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_and_23_a_refresh_says_that_the_task_was_canceled_unless_the_item_is_armed() {
    let daemon = studio("", &["anna", "boris"]).await;
    let task = daemon.order(&["anna", "boris"], &json!({})).await;
    let claims = [daemon.claim_for("w1", 60).await, daemon.claim_for("w2", 60).await];
    let [idle, armed] = &claims;
    assert_eq!(daemon.arm(armed).await.status, 200);
    let lease = async || {
        let locks = daemon.get(&format!("/api/v1/locks?kind=profile&key={}", idle.profile())).await.body;
        locks["locks"][0]["expires_at"].clone()
    };
    let before = lease().await;
    // A pause is no cancel: what runs goes on.
    for verb in ["pause", "cancel"] {
        assert_eq!(daemon.request("POST", &format!("/api/v1/tasks/{task}/{verb}"), None).await.status, 202);
        if verb == "pause" {
            assert_eq!(daemon.say(idle, "refresh", json!({"ttl_seconds": 60})).await.status, 200);
        }
    }
    let renewed = lease().await;
    assert!(renewed.as_str() >= before.as_str());
    let refused = daemon.say(idle, "refresh", json!({"ttl_seconds": 600})).await;
    assert_eq!((refused.status, refused.code()), (409, "canceled"), "{}", refused.body);
    assert_eq!(lease().await, renewed, "the lease is not renewed");
    assert_eq!(daemon.say(armed, "refresh", json!({"ttl_seconds": 600})).await.status, 200);
    assert_eq!(daemon.say(idle, "fail", json!({})).await.body["state"], "canceled");
    assert_eq!(daemon.say(armed, "complete", json!({})).await.body["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_a_failure_is_said_as_often_as_one_likes_while_it_is_the_items_last_end() {
    let daemon = studio("", &["anna", "boris"]).await;
    daemon.order(&["anna"], &json!({})).await;
    let first = daemon.claim("w1").await;
    let said = json!({"reason": "error", "message": "no button"});
    let failed = daemon.say(&first, "fail", said.clone()).await;
    assert_eq!((failed.status, facts(&failed.body)), (200, ("retry_wait", 1)), "{}", failed.body);
    let again = daemon.say(&first, "fail", said.clone()).await;
    assert_eq!((again.status, &again.body["error"]), (200, &failed.body["error"]), "{}", again.body);
    assert_eq!(again.body["attempts"], 1, "no second attempt is spent");
    let other = daemon.say(&first, "fail", json!({"reason": "rejected"})).await;
    assert_eq!((other.status, other.code()), (409, "stale_fence"), "another end is no repetition: {}", other.body);
    let second = daemon.claim("w2").await;
    assert_eq!(second.item(), first.item());
    let old = daemon.say(&first, "fail", said.clone()).await;
    assert_eq!((old.status, old.code()), (409, "stale_fence"), "it is another's by now: {}", old.body);
    assert_eq!(daemon.arm(&second).await.status, 200);
    for _ in 0..2 {
        let unknown = daemon.say(&second, "fail", said.clone()).await;
        assert_eq!((unknown.status, facts(&unknown.body)), (200, ("outcome_unknown", 2)), "{}", unknown.body);
    }

    daemon.order(&["boris"], &json!({})).await;
    let parked = daemon.claim("w1").await;
    let asks = json!({"reason": "needs_human", "message": "asks to log in"});
    for _ in 0..2 {
        let asked = daemon.say(&parked, "fail", asks.clone()).await;
        assert_eq!((asked.status, facts(&asked.body)), (200, ("queued", 0)), "{}", asked.body);
    }
    daemon.post("/api/v1/profiles/boris/unpark", &json!({})).await;
    assert_eq!(daemon.say(&parked, "fail", asks).await.status, 200);
    assert_eq!(daemon.get("/api/v1/profiles/boris").await.body["state"], "idle", "it is not parked once more");
}

/// A success says where it can be seen, however it became known.
#[tokio::test(flavor = "multi_thread")]
async fn rule_14_what_was_resolved_as_published_says_so_and_where_it_is() {
    let daemon = studio("", &["anna"]).await;
    let url = "http://127.0.0.1:9/p/1";
    for late in [false, true] {
        let task = daemon.order(&["anna"], &json!({})).await;
        let claim = daemon.claim("w1").await;
        assert_eq!(daemon.arm(&claim).await.status, 200);
        let unknown = daemon.say(&claim, "fail", json!({})).await.body;
        assert_eq!((&unknown["state"], &unknown["resolution"]), (&json!("outcome_unknown"), &Value::Null));
        let settled = if late {
            daemon.say(&claim, "complete", json!({"url": url})).await
        } else {
            let resolve = format!("/api/v1/items/{}/resolve", claim.item());
            daemon.post(&resolve, &json!({"outcome": "published", "url": url})).await
        };
        assert_eq!((settled.status, &settled.body["resolution"]), (200, &json!("published")), "{}", settled.body);
        assert_eq!(daemon.item(claim.item()).await["resolution"], "published");
        assert_eq!(daemon.items(&task).await[0]["resolution"], "published");
        assert_eq!(log_of(&daemon, &task).await.last(), Some(&("succeeded".to_owned(), url.to_owned())));
    }
    // What was never unknown was not settled.
    daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    assert_eq!(daemon.arm(&claim).await.status, 200);
    assert_eq!(daemon.say(&claim, "complete", json!({})).await.body["resolution"], Value::Null);
}
