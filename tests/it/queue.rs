//! The queue as a person drives it: who is first, what waits and until when, and what a word does to it. No
//! browser is started: items are a worker's, which the test itself is.

use std::time::{Duration, Instant};

use cove::model::Timestamp;
use serde_json::{Value, json};

use super::rig::{Daemon, run};
use super::studio::{Claimed, SECRET, studio};

async fn ask(daemon: &Daemon, path: &str) -> Value {
    let answer = daemon.request("POST", path, None).await;
    assert_eq!(answer.status, 202, "{path}: {}", answer.body);
    answer.body
}

async fn publish(daemon: &Daemon, claim: &Claimed) {
    assert_eq!(daemon.arm(claim).await.status, 200);
    let done = daemon.say(claim, "complete", json!({})).await;
    assert_eq!(done.body["state"], "succeeded", "{}", done.body);
}

/// Ends it with a failure that no policy tries again.
async fn reject(daemon: &Daemon, claim: &Claimed) {
    let failed = daemon.say(claim, "fail", json!({"reason": "rejected"})).await;
    assert_eq!(failed.body["state"], "failed", "{}", failed.body);
}

fn at(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_priority_goes_first_and_the_oldest_within_it() {
    let daemon = studio("", &["anna"]).await;
    let mut tasks = Vec::new();
    for priority in [0, -5, 7, 0, 100] {
        tasks.push((priority, daemon.order(&["anna", "anna"], &json!({"priority": priority})).await));
    }
    let mut expected: Vec<_> = tasks.iter().collect();
    expected.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    for (_, task) in expected {
        let mut last = String::new();
        for _ in 0..2 {
            let claim = daemon.claim("w1").await;
            assert_eq!(claim.body["item"]["task_id"], json!(task));
            assert_ne!(claim.item(), last);
            claim.item().clone_into(&mut last);
            publish(&daemon, &claim).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn not_before_and_spacing_are_kept_and_told() {
    let daemon = studio("", &["anna", "boris"]).await;
    let not_before = at(&daemon.get("/api/v1/health").await.body["timestamp"]).plus(Duration::from_secs(2));
    let task = daemon.order(&["anna"], &json!({"not_before": not_before})).await;
    let item = daemon.items(&task).await[0].clone();
    assert_eq!((&item["wait_reason"], &item["wait_until"]), (&json!("scheduled_for"), &json!(not_before)), "{item}");
    assert!(daemon.try_claim("w1").await.is_none());
    let claim = daemon.claim("w1").await;
    let now = at(&daemon.get("/api/v1/health").await.body["timestamp"]);
    assert!(now >= not_before, "{now} is before {not_before}");
    publish(&daemon, &claim).await;

    let task = daemon.order(&["boris", "boris"], &json!({"spacing_seconds": 3})).await;
    let first = daemon.claim("w1").await;
    publish(&daemon, &first).await;
    assert!(daemon.try_claim("w1").await.is_none(), "spacing");
    let waits = daemon.items(&task).await.into_iter().find(|item| item["state"] == "queued").unwrap();
    assert_eq!(waits["wait_reason"], "scheduled_for", "{waits}");
    let until = at(&waits["wait_until"]);
    let second = daemon.claim("w1").await;
    let started = at(&daemon.item(second.item()).await["started_at"]);
    assert!(started >= until, "{started} is before {until}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_task_starts_nothing_and_what_runs_goes_on() {
    let daemon = studio("", &["anna"]).await;
    let folder = daemon.folder.path();
    let task = daemon.order(&["anna"; 3], &json!({})).await;
    let other = daemon.order(&["anna"], &json!({})).await;
    let runs = daemon.claim("w1").await;
    let paused = run(&["tasks", "pause", &task], folder);
    assert!(paused.status.success(), "{paused:?}");
    let items =
        daemon.until(&task, |items| items.iter().filter(|item| item["wait_reason"] == "paused").count() == 2).await;
    assert_eq!(items.iter().filter(|item| item["state"] == "running").count(), 1);
    let row = daemon.get(&format!("/api/v1/tasks/{task}")).await.body;
    assert_eq!((&row["wait_reasons"], row["paused_at"].is_string()), (&json!({"paused": 2}), true), "{row}");
    publish(&daemon, &runs).await;
    // The next of the profile is another task's, although this one's are older.
    let next = daemon.claim("w1").await;
    assert_eq!(next.body["item"]["task_id"], json!(other));
    publish(&daemon, &next).await;
    ask(&daemon, &format!("/api/v1/tasks/{task}/pause")).await;
    let resumed = run(&["tasks", "resume", &task], folder);
    assert!(resumed.status.success(), "{resumed:?}");
    for _ in 0..2 {
        publish(&daemon, &daemon.claim("w1").await).await;
    }
    let row = daemon.get(&format!("/api/v1/tasks/{task}")).await.body;
    assert_eq!((&row["state"], row.get("paused_at")), (&json!("succeeded"), None));
    // A word to what is finished is heard and changes nothing.
    ask(&daemon, &format!("/api/v1/tasks/{task}/pause")).await;
    assert_eq!(ask(&daemon, &format!("/api/v1/tasks/{task}/cancel")).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_a_retry_queues_what_failed_and_names_what_it_leaves_alone() {
    let daemon = studio("", &["anna", "boris", "clara"]).await;
    let folder = daemon.folder.path();
    let film = daemon.film("studio.mp4");
    let items: Vec<Value> = ["plain", "armed", "cleared", "key"]
        .iter()
        .map(|key| {
            json!({"profile": "anna", "key": key, "inputs": {"site": "http://x", "account": "anna", "video": film,
                "caption": key, "code": SECRET}})
        })
        .collect();
    let body = json!({"flow": "studio", "max_attempts": 1, "items": items});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    let task = made.body["task_id"].as_str().unwrap().to_owned();
    let plain = daemon.claim("w1").await;
    reject(&daemon, &plain).await;
    for outcome in ["give-up", "not-published"] {
        let claim = daemon.claim("w1").await;
        assert_eq!(daemon.arm(&claim).await.status, 200);
        assert_eq!(daemon.say(&claim, "fail", json!({})).await.body["state"], "outcome_unknown");
        let wrong = run(&["items", "resolve", claim.item(), outcome, "--published-url", "http://x/1"], folder);
        assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
        let resolved =
            run(&["items", "resolve", claim.item(), outcome, "--note", "looked at the site", "--json"], folder);
        assert!(resolved.status.success(), "{resolved:?}");
        if outcome == "not-published" {
            let again = daemon.claim("w1").await;
            assert_eq!(again.item(), claim.item());
            reject(&daemon, &again).await;
        }
        let again = run(&["items", "resolve", claim.item(), outcome], folder);
        let told = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.code() == Some(4) && told.contains("failed"), "{told}");
    }
    let keyed = daemon.claim("w1").await;
    reject(&daemon, &keyed).await;
    // Its key was free, and is another's now.
    let mut taken = body.clone();
    taken["items"] = json!([body["items"][3]]);
    let taken = daemon.post("/api/v1/bulk-upload/start", &taken).await;
    assert_eq!(taken.status, 202, "{}", taken.body);

    let log = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
    let notes = log["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "resolved");
    assert_eq!(
        notes.filter(|event| event["detail"].as_str().unwrap().contains("looked at the site")).count(),
        2,
        "{log}"
    );

    let retried = daemon.request("POST", &format!("/api/v1/tasks/{task}/retry"), None).await;
    assert_eq!((retried.status, &retried.body["retried"]), (202, &json!(2)), "{}", retried.body);
    let mut reasons: Vec<_> =
        retried.body["skipped"].as_array().unwrap().iter().map(|skipped| skipped["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["key_taken", "was_armed"]);
    let told = run(&["tasks", "retry", &task], folder);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.starts_with("0 items") && told.contains("was_armed") && told.contains("key_taken"), "{told}");
    for _ in 0..2 {
        let claim = daemon.claim("w1").await;
        assert!(["plain", "cleared"].contains(&claim.body["item"]["key"].as_str().unwrap()), "{}", claim.body);
        publish(&daemon, &claim).await;
    }
}

/// A person who asks for all that failed once more wants to know what was left alone, and why.
#[tokio::test(flavor = "multi_thread")]
async fn rule_14_a_retry_names_what_may_have_published_and_waits_for_a_person() {
    let daemon = studio("", &["anna", "boris"]).await;
    let task = daemon.order(&["anna", "boris"], &json!({"max_attempts": 1})).await;
    let unknown = daemon.claim("w1").await;
    assert_eq!(daemon.arm(&unknown).await.status, 200);
    assert_eq!(daemon.say(&unknown, "fail", json!({})).await.body["state"], "outcome_unknown");
    let failed = daemon.claim("w1").await;
    assert_eq!(daemon.say(&failed, "fail", json!({})).await.body["state"], "failed");
    let retried = daemon.request("POST", &format!("/api/v1/tasks/{task}/retry"), None).await.body;
    assert_eq!(retried["retried"], 1, "{retried}");
    assert_eq!(retried["skipped"], json!([{"item_id": unknown.item(), "reason": "was_armed"}]));
    assert_eq!(daemon.item(unknown.item()).await["state"], "outcome_unknown");
    assert_eq!(daemon.claim("w1").await.item(), failed.item());
}

/// With no worker there nobody asks for it; its time is over all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rule_24_what_no_worker_took_in_time_ends_and_its_task_with_it() {
    let daemon = studio("", &["anna"]).await;
    let film = daemon.film("studio.mp4");
    let inputs = json!({"site": "http://x", "account": "a", "video": film, "caption": "c", "code": SECRET});
    let item = |not_after: Timestamp| json!({"items": [{"profile": "anna", "not_after": not_after, "inputs": inputs}]});
    let now = || Timestamp::from_millis(u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
    let mut past = item(now());
    past["flow"] = json!("studio");
    let refused = daemon.post("/api/v1/bulk-upload/start", &past).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/items/0/not_after"]), "{}", refused.body);
    let not_after = now().plus(Duration::from_secs(3));
    let task = daemon.order(&["anna"; 0], &item(not_after)).await;
    let waiting = daemon.items(&task).await[0].clone();
    assert_eq!((&waiting["state"], &waiting["not_after"]), (&json!("queued"), &json!(not_after)));
    assert_eq!((&waiting["priority"], &waiting["not_before"]), (&json!(0), &Value::Null));
    let ended = daemon.settled(&task).await[0].clone();
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("overdue")), "{ended}");
    assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}")).await.body["state"], "failed");
    assert!(daemon.try_claim("w1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_14_a_cancel_reaches_every_phase_before_the_click_and_none_after_it() {
    let names = ["queued", "retry", "unarmed", "armed", "unknown", "done", "parked"];
    let daemon = studio("", &names).await;
    let task = daemon.order(&names, &json!({})).await;
    let mut claims = std::collections::BTreeMap::new();
    for _ in names {
        let claim = daemon.claim("w1").await;
        claims.insert(claim.profile().to_owned(), claim);
    }
    daemon.say(&claims["queued"], "fail", json!({})).await;
    daemon.say(&claims["retry"], "fail", json!({})).await;
    daemon.say(&claims["parked"], "fail", json!({"reason": "needs_human"})).await;
    assert_eq!(daemon.arm(&claims["armed"]).await.status, 200);
    assert_eq!(daemon.arm(&claims["unknown"]).await.status, 200);
    daemon.say(&claims["unknown"], "fail", json!({})).await;
    publish(&daemon, &claims["done"]).await;
    let scheduled = daemon
        .order(
            &["anna"; 0],
            &json!({"items": [{"profile": "queued", "not_before": "2099-01-01T00:00:00Z",
        "inputs": {"site": "http://x", "account": "a", "video": daemon.folder.path().join("media/studio.mp4"),
            "caption": "c", "code": SECRET}}]}),
        )
        .await;
    for task in [&task, &scheduled] {
        let canceled = run(&["tasks", "cancel", task, "--json"], daemon.folder.path());
        assert!(canceled.status.success(), "{canceled:?}");
        let row: Value = serde_json::from_slice(&canceled.stdout).unwrap();
        assert!(row["cancel_requested_at"].is_string(), "{row}");
    }
    daemon.until(&scheduled, |items| items[0]["state"] == "canceled").await;
    let done =
        |items: &[Value]| !items.iter().any(|item| ["queued", "retry_wait"].contains(&item["state"].as_str().unwrap()));
    daemon.until(&task, done).await;
    assert_eq!(daemon.say(&claims["armed"], "complete", json!({})).await.body["state"], "succeeded");
    assert_eq!(daemon.arm(&claims["unarmed"]).await.code(), "canceled");
    daemon.say(&claims["unarmed"], "fail", json!({"reason": "needs_human"})).await;
    for item in daemon.items(&task).await {
        let expected = match item["profile"].as_str().unwrap() {
            "armed" | "done" => "succeeded",
            "unknown" => "outcome_unknown",
            _ => "canceled",
        };
        assert_eq!(item["state"], expected, "{item}");
    }
    assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}")).await.body["state"], "needs_attention");
}

/// Every row of a listing, in pages of seven.
async fn pages(daemon: &Daemon, path: &str, noun: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    let between = if path.contains('?') { '&' } else { '?' };
    loop {
        let page = daemon.get(&format!("{path}{between}limit=7{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let found = page.body[noun].as_array().unwrap();
        assert!(found.len() <= 7);
        rows.extend(found.iter().cloned());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_filters_of_hundreds_of_rows_meet_without_gap_or_overlap() {
    let daemon = studio("", &["anna", "boris", "clara"]).await;
    daemon.put_flow("other", &super::studio::recording()).await;
    let mut tasks = Vec::new();
    for number in 0..40 {
        let profiles = [["anna", "boris"], ["boris", "clara"], ["clara", "anna"]][number % 3].repeat(4);
        let more = if number % 4 == 0 { json!({"flow": "other"}) } else { json!({}) };
        tasks.push(daemon.order(&profiles, &more).await);
    }
    for _ in 0..30 {
        reject(&daemon, &daemon.claim("w1").await).await;
    }
    let all = pages(&daemon, "/api/v1/items", "items").await;
    let ids: Vec<&str> = all.iter().map(|item| item["id"].as_str().unwrap()).collect();
    let number = |id: &str| id[1..].parse::<u64>().unwrap();
    assert_eq!(ids.len(), 320);
    assert!(ids.windows(2).all(|pair| number(pair[0]) > number(pair[1])), "newest first, each once");
    for (filter, fits) in [
        ("state=failed", Box::new(|item: &Value| item["state"] == "failed") as Box<dyn Fn(&Value) -> bool>),
        ("profile=boris", Box::new(|item: &Value| item["profile"] == "boris")),
        (
            "profile=boris&state=queued",
            Box::new(|item: &Value| item["profile"] == "boris" && item["state"] == "queued"),
        ),
        ("state=held", Box::new(|_: &Value| false)),
    ] {
        let found = pages(&daemon, &format!("/api/v1/items?{filter}"), "items").await;
        let expected: Vec<_> = all.iter().filter(|item| fits(item)).map(|item| &item["id"]).collect();
        assert_eq!(found.iter().map(|item| &item["id"]).collect::<Vec<_>>(), expected, "{filter}");
    }
    let of_task = format!("/api/v1/items?task={}&profile=anna", tasks[2]);
    assert_eq!(pages(&daemon, &of_task, "items").await.len(), 4);
    assert_eq!(pages(&daemon, &format!("/api/v1/tasks/{}/items", tasks[2]), "items").await.len(), 8);

    let rows = pages(&daemon, "/api/v1/tasks", "tasks").await;
    let listed: Vec<_> = rows.iter().map(|task| task["id"].as_str().unwrap()).collect();
    assert_eq!(listed, tasks.iter().rev().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(pages(&daemon, "/api/v1/tasks?flow=other", "tasks").await.len(), 10);
    assert_eq!(pages(&daemon, "/api/v1/tasks?profile=anna", "tasks").await.len(), 27);
    assert_eq!(pages(&daemon, "/api/v1/tasks?profile=anna&flow=other", "tasks").await.len(), 7);
    let states: usize = {
        let mut sum = 0;
        for state in ["queued", "running", "failed", "needs_attention", "canceled", "succeeded", "partially_succeeded"]
        {
            sum += pages(&daemon, &format!("/api/v1/tasks?state={state}"), "tasks").await.len();
        }
        sum
    };
    assert_eq!(states, 40);
    let cli = run(&["items", "list", "--state", "failed", "--limit", "1000", "--json"], daemon.folder.path());
    let cli: Value = serde_json::from_slice(&cli.stdout).unwrap();
    assert_eq!(cli["items"].as_array().unwrap().len(), 30);
}

/// More than are looked at for a page.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_ten_thousand_items_says_exactly_why_they_wait() {
    let daemon = studio("max_items_per_task = 10000", &["anna", "boris"]).await;
    let names: Vec<&str> = ["anna", "boris", "boris", "boris"].repeat(2_500);
    let task = daemon.order(&names, &json!({})).await;
    let claim = daemon.claim("w1").await;
    assert_eq!(claim.profile(), "anna");
    let path = format!("/api/v1/tasks/{task}");
    let began = Instant::now();
    let row = daemon.get(&path).await.body;
    eprintln!("GET of a task of 10,000 items: {:?}", began.elapsed());
    assert_eq!(row["wait_reasons"], json!({"profile_busy": 2_499, "no_slot": 7_500}), "{row}");
    assert!(row.get("wait_reasons_left_out").is_none(), "{row}");
    // A page looks at a bounded number, and says how many it left out.
    let small = daemon.order(&["anna"; 5], &json!({})).await;
    let began = Instant::now();
    let listed = daemon.get("/api/v1/tasks").await.body;
    eprintln!("a page with it: {:?}", began.elapsed());
    let rows = listed["tasks"].as_array().unwrap();
    assert_eq!((&rows[0]["id"], &rows[0]["wait_reasons"]), (&json!(small), &json!({"profile_busy": 5})), "{listed}");
    let seen: u64 = rows[1]["wait_reasons"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    let left_out = rows[1]["wait_reasons_left_out"].as_u64().unwrap();
    assert!(left_out > 0 && seen + left_out == 9_999, "{}", rows[1]);
    ask(&daemon, &format!("{path}/pause")).await;
    let began = Instant::now();
    while daemon.get(&path).await.body["wait_reasons"] != json!({"paused": 9_999}) {
        assert!(began.elapsed() < super::rig::PATIENCE, "{}", daemon.get(&path).await.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
