//! The lock service as outside programs see it, and what the engine, the page of profiles and the command
//! line make of their locks.

use std::time::Duration;

use serde_json::{Value, json};

use super::rig::{Answer, Daemon, PracticeSite, run};

async fn call(daemon: &Daemon, what: &str, body: Value) -> Answer {
    daemon.post(&format!("/api/v1/locks/{what}"), &body).await
}

/// Acquires what is free.
async fn acquire(daemon: &Daemon, kind: &str, key: &str, owner: &str, ttl_seconds: u64) -> Value {
    let body = json!({"kind": kind, "key": key, "owner": owner, "ttl_seconds": ttl_seconds});
    let answer = call(daemon, "acquire", body).await;
    assert_eq!((answer.status, &answer.body["acquired"]), (200, &json!(true)), "{}", answer.body);
    answer.body
}

fn held(kind: &str, key: &str, owner: &str, fence: &Value) -> Value {
    json!({"kind": kind, "key": key, "owner": owner, "fence": fence})
}

fn time(value: &Value) -> cove::model::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

async fn listed(daemon: &Daemon, query: &str) -> Vec<Value> {
    let answer = daemon.get(&format!("/api/v1/locks{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["locks"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_22_the_answers_have_the_promised_shapes() {
    let daemon = Daemon::start().await;
    let before = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let body = json!({"kind": "task", "key": "upload 7", "owner": "worker-1"});
    let first = call(&daemon, "acquire", body.clone()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let members: Vec<&String> = first.body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["acquired", "fence", "expires_at"]);
    let left = u128::from(time(&first.body["expires_at"]).as_millis()) - before.as_millis();
    assert!((3_600_000..3_660_000).contains(&left), "an hour is the default: {left}");
    let fence = &first.body["fence"];
    assert!(fence.as_str().unwrap().starts_with('f'));

    let other = json!({"kind": "task", "key": "upload 7", "owner": "worker-2", "ttl_seconds": 60});
    let busy = call(&daemon, "acquire", other).await;
    let expected = json!({"acquired": false, "held_by": "worker-1", "expires_at": first.body["expires_at"]});
    assert_eq!((busy.status, &busy.body), (200, &expected));

    let again = acquire(&daemon, "task", "upload 7", "worker-1", 7_200).await;
    assert_eq!(&again["fence"], fence);
    let longer = time(&again["expires_at"]).since(time(&first.body["expires_at"]));
    assert!(longer >= Duration::from_secs(3_600), "{longer:?}");

    let mine = held("task", "upload 7", "worker-1", fence);
    let mut refresh = mine.clone();
    refresh["ttl_seconds"] = json!(30);
    let refreshed = call(&daemon, "refresh", refresh).await;
    assert_eq!((refreshed.status, &refreshed.body["fence"]), (200, fence), "{}", refreshed.body);
    assert!(time(&refreshed.body["expires_at"]) < time(&first.body["expires_at"]), "a shorter lease is one too");
    let lock = &listed(&daemon, "").await[0];
    let members: Vec<&String> = lock.as_object().unwrap().keys().collect();
    assert_eq!(members, ["kind", "key", "owner", "fence", "acquired_at", "expires_at", "expired"]);
    assert_eq!(
        (&lock["key"], &lock["owner"], &lock["expired"]),
        (&json!("upload 7"), &json!("worker-1"), &json!(false))
    );

    for (wrong, code) in [
        (held("task", "upload 7", "worker-2", fence), "stale_fence"),
        (held("task", "upload 7", "worker-1", &json!("f1")), "stale_fence"),
        (held("task", "upload 8", "worker-1", fence), "not_held"),
        (held("account", "upload 7", "worker-1", fence), "not_held"),
    ] {
        for what in ["refresh", "release"] {
            let answer = call(&daemon, what, wrong.clone()).await;
            assert_eq!((answer.status, answer.code()), (409, code), "{what} {wrong}: {}", answer.body);
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    }
    let released = call(&daemon, "release", mine.clone()).await;
    assert_eq!((released.status, released.body), (200, json!({"released": true})));
    assert_eq!(call(&daemon, "release", mine).await.code(), "not_held");
    assert!(listed(&daemon, "").await.is_empty());
    let next = acquire(&daemon, "task", "upload 7", "worker-2", 60).await;
    assert_ne!(&next["fence"], fence);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_by_pointer_and_change_nothing() {
    let daemon = Daemon::start().await;
    let good = json!({"kind": "task", "key": "7", "owner": "w", "fence": "f7", "ttl_seconds": 5});
    let spoiled = [
        ("kind", json!("Task"), "/kind"),
        ("kind", Value::Null, "/kind"),
        ("key", json!(7), "/key"),
        ("key", json!(""), "/key"),
        ("owner", json!("a\u{1}b"), "/owner"),
        ("owner", json!("w".repeat(256)), "/owner"),
        ("fence", json!(7), "/fence"),
        ("fence", json!("7"), "/fence"),
        ("fence", Value::Null, "/fence"),
        ("ttl_seconds", json!(0), "/ttl_seconds"),
        ("ttl_seconds", json!(604_801), "/ttl_seconds"),
        ("nonsense", json!(1), "/nonsense"),
    ];
    for (field, value, pointer) in spoiled {
        let mut bad = good.clone();
        bad[field] = value;
        let answer = call(&daemon, "refresh", bad.clone()).await;
        assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{bad}: {}", answer.body);
        if field != "fence" {
            bad.as_object_mut().unwrap().remove("fence");
            let answer = call(&daemon, "acquire", bad.clone()).await;
            assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{bad}: {}", answer.body);
        }
    }
    let profile = json!({"kind": "profile", "key": "nobody", "owner": "w"});
    let answer = call(&daemon, "acquire", profile).await;
    assert_eq!((answer.status, answer.code(), answer.pointers()), (422, "unknown_profile", vec!["/key"]));
    let answer = call(&daemon, "cleanup", json!({"force": true})).await;
    assert_eq!((answer.status, answer.pointers()), (422, vec!["/owner"]), "{}", answer.body);
    for query in ["?kind=Task", "?cursor=x", "?limit=0", "?limit=1001", "?state=x", "?kind=a&kind=b"] {
        assert_eq!(daemon.get(&format!("/api/v1/locks{query}")).await.status, 422, "{query}");
    }
    assert_eq!(daemon.request("POST", "/api/v1/locks/acquire", None).await.status, 400, "without a body");
    assert_eq!(daemon.get("/api/v1/locks/acquire").await.status, 405);
    assert!(listed(&daemon, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_and_filtered_and_a_cleanup_says_what_it_did() {
    let daemon = Daemon::start().await;
    for number in 0..9 {
        let owner = if number % 2 == 0 { "even" } else { "odd" };
        acquire(&daemon, "task", &number.to_string(), owner, if number < 4 { 1 } else { 900 }).await;
    }
    acquire(&daemon, "account", "x y", "even", 900).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/api/v1/locks?limit=4{cursor}")).await.body;
        seen.extend(page["locks"].as_array().unwrap().iter().map(|lock| lock["key"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["x y", "0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(listed(&daemon, "?kind=account").await.len(), 1);
    assert_eq!(listed(&daemon, "?owner=even").await.len(), 6);
    assert_eq!(listed(&daemon, "?owner=even&kind=task").await.len(), 5);
    assert_eq!(listed(&daemon, "?owner=nobody").await.len(), 0);

    tokio::time::sleep(Duration::from_millis(1_050)).await;
    let expired = listed(&daemon, "").await.iter().filter(|lock| lock["expired"] == true).count();
    assert_eq!(expired, 4, "expired ones are listed until a cleanup");
    let dry = call(&daemon, "cleanup", json!({"dry_run": true})).await;
    assert_eq!((dry.status, &dry.body["removed"], &dry.body["dry_run"]), (200, &json!(4), &json!(true)));
    assert_eq!(listed(&daemon, "").await.len(), 10, "a dry run removed something");
    let of_one = call(&daemon, "cleanup", json!({"owner": "odd"})).await.body;
    assert_eq!((&of_one["removed"], &of_one["dry_run"]), (&json!(2), &json!(false)));
    assert_eq!(of_one["locks"][0]["key"], "1");
    let empty_body = daemon.request("POST", "/api/v1/locks/cleanup", None).await.body;
    assert_eq!(empty_body["removed"], 2);
    let forced = call(&daemon, "cleanup", json!({"owner": "even", "force": true})).await.body;
    assert_eq!(forced["removed"], 4);
    assert!(listed(&daemon, "").await.iter().all(|lock| lock["owner"] == "odd"));

    let folder = daemon.folder.path();
    let out = |args: &[&str]| {
        let output = run(args, folder);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = out(&["locks", "list", "--json", "--owner", "odd"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json["locks"].as_array().unwrap().len()), (Some(0), 2), "{text}");
    let (code, text) = out(&["locks", "cleanup", "--owner", "odd", "--force", "--dry-run"]);
    assert!(code == Some(0) && text.starts_with("would remove 2\n"), "{text}");
    let (code, text) = out(&["locks", "cleanup", "--owner", "odd", "--force"]);
    assert!(code == Some(0) && text.starts_with("removed 2\n"), "{text}");
    assert_eq!(out(&["locks", "cleanup", "--force"]).0, Some(2), "force without an owner");
    assert!(listed(&daemon, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_have_a_limit_of_their_own() {
    let settings = [("COVE_LIMITS__LOCKS", "3"), ("COVE_LIMITS__REQUESTS", "2"), ("COVE_LOCKS__TTL_MINUTES", "5")];
    let daemon = Daemon::start_as("", &settings).await;
    let body = json!({"kind": "task", "key": "7", "owner": "w"});
    for remaining in ["2", "1", "0"] {
        let answer = call(&daemon, "acquire", body.clone()).await;
        assert_eq!(answer.headers["x-ratelimit-remaining"], remaining);
        let now = cove::model::Clock::now(&cove::model::SystemClock);
        let left = time(&answer.body["expires_at"]).since(now);
        assert!(left <= Duration::from_secs(300) && left > Duration::from_secs(240), "{left:?}");
    }
    assert_eq!(call(&daemon, "acquire", body).await.status, 429);
    assert_eq!(listed(&daemon, "").await.len(), 1);
    // The list is read like anything else.
    assert_eq!(daemon.get("/api/v1/locks").await.headers["x-ratelimit-limit"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outside_lock_on_a_profile_keeps_the_engine_out_and_its_release_lets_it_in() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna", "Team B"]).await;
    let fence = acquire(&daemon, "profile", "anna", "script", 900).await["fence"].clone();
    // By name; it is the lock of the id.
    acquire(&daemon, "profile", "Team B", "script", 1).await;
    let keys: Vec<Value> = listed(&daemon, "?kind=profile").await.iter().map(|lock| lock["key"].clone()).collect();
    assert_eq!(keys, ["Team-B", "anna"]);
    let anna = daemon.get("/api/v1/profiles/anna").await.body;
    assert_eq!((&anna["state"], &anna["held_by"], &anna["item"]), (&json!("running"), &json!("script"), &Value::Null));
    let profiles = daemon.get("/api/v1/profiles").await.body;
    assert!(profiles["profiles"].as_array().unwrap().iter().all(|profile| profile["state"] == "running"), "{profiles}");
    assert_eq!(daemon.post("/api/v1/profiles/anna/open", &json!({})).await.code(), "profile_busy");

    let task = daemon.submit(&practice.site, &[("anna", "one"), ("Team-B", "two")]).await;
    // The lease of the second ends by itself, and the engine takes the profile over.
    let items = daemon.until(&task, |items| items.iter().any(|item| item["state"] == "succeeded")).await;
    let waiting = items.iter().find(|item| item["profile"] == "anna").unwrap();
    assert_eq!((&waiting["state"], &waiting["wait_reason"]), (&json!("queued"), &json!("profile_busy")), "{waiting}");
    assert_eq!(waiting["wait_until"], anna["held_until"]);
    let shown = daemon.get(&format!("/api/v1/tasks/{task}")).await.body;
    assert_eq!(shown["wait_reasons"], json!({"profile_busy": 1}));

    let released = call(&daemon, "release", held("profile", "anna", "script", &fence)).await;
    assert_eq!(released.status, 200, "{}", released.body);
    let items = daemon.settled(&task).await;
    assert!(items.iter().all(|item| item["state"] == "succeeded"), "{items:#?}");
    assert_eq!(practice.posts().len(), 2);
    assert!(listed(&daemon, "?owner=script").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_21_what_the_engine_holds_is_told_and_a_forced_cleanup_only_asks_it_to_stop() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({"slow": 3_000})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "one")]).await;
    let item = daemon.until(&task, |items| items[0]["state"] == "running").await.remove(0);
    let body = json!({"kind": "profile", "key": "anna", "owner": "script"});
    let busy = call(&daemon, "acquire", body.clone()).await.body;
    let owner = format!("item {}", item["id"].as_str().unwrap());
    assert_eq!(busy, json!({"acquired": false, "held_by": owner, "expires_at": null}));
    for what in ["refresh", "release"] {
        let stolen = call(&daemon, what, held("profile", "anna", &owner, &item["fence"])).await;
        assert_eq!((stolen.status, stolen.code()), (409, "stale_fence"), "the owner's words are not the owner");
    }
    let forced = call(&daemon, "cleanup", json!({"owner": owner, "force": true})).await.body;
    assert_eq!((&forced["removed"], &forced["locks"]), (&json!(0), &json!([])), "{forced}");
    assert_eq!(forced["stopping"][0]["key"], "anna");
    // Asked before its commit point or after it: it is published once, and the lock comes free behind it.
    let items = daemon.settled(&task).await;
    assert_eq!((&items[0]["state"], &items[0]["attempts"]), (&json!("succeeded"), &json!(1)), "{items:#?}");
    assert_eq!(practice.posts().len(), 1);
    let began = std::time::Instant::now();
    while call(&daemon, "acquire", body.clone()).await.body["acquired"] != true {
        assert!(began.elapsed() < super::rig::PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_after_a_restore_no_lock_is_given_until_a_human_resumes() {
    let mut daemon = Daemon::start().await;
    let fence = acquire(&daemon, "task", "7", "w", 900).await["fence"].clone();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    // A state file without its ledger is a restored one.
    std::fs::remove_file(daemon.state().join(cove::store::LEDGER_FILE)).unwrap();
    daemon.boot().await;
    let body = json!({"kind": "task", "key": "7", "owner": "w"});
    let refused = call(&daemon, "acquire", body.clone()).await;
    assert_eq!((refused.status, refused.code()), (503, "restored"), "{}", refused.body);
    assert_eq!(call(&daemon, "release", held("task", "7", "w", &fence)).await.code(), "not_held");
    assert_eq!(daemon.post("/api/v1/resume", &json!({"accept_duplicates": true})).await.status, 202);
    let number = |fence: &Value| fence.as_str().unwrap()[1..].parse::<u64>().unwrap();
    let again = call(&daemon, "acquire", body).await.body;
    assert!(number(&again["fence"]) > number(&fence));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_one_lock_is_told_without_taking_it() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["Anna B"]).await;
    for (kind, key, owner) in
        [("task", "7", "w1"), ("task", "77", "w1"), ("other", "7", "w2"), ("profile", "Anna B", "w3")]
    {
        acquire(&daemon, kind, key, owner, 60).await;
    }
    let owners = async |query: &str| -> Vec<Value> {
        listed(&daemon, query).await.into_iter().map(|lock| lock["owner"].clone()).collect()
    };
    assert_eq!(owners("?kind=task&key=7").await, ["w1"]);
    assert_eq!(owners("?kind=other&key=7").await, ["w2"]);
    assert_eq!(owners("?kind=profile&key=Anna%20B").await, ["w3"], "a profile has a name, too");
    for nobody in ["?kind=task&key=8", "?kind=third&key=7", "?kind=profile&key=nobody", "?kind=task&key=7&owner=w2"] {
        assert_eq!(owners(nobody).await, Vec::<Value>::new(), "{nobody}");
    }
    let refused = daemon.get("/api/v1/locks?key=7").await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["kind"]), "{}", refused.body);
    let folder = daemon.folder.path();
    let told = run(&["locks", "list", "--kind", "task", "--key", "7", "--json"], folder);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((told["locks"].as_array().unwrap().len(), &told["locks"][0]["owner"]), (1, &json!("w1")), "{told}");
    assert_eq!(run(&["locks", "list", "--key", "7"], folder).status.code(), Some(2));
}
