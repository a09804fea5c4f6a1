//! Bad input to what outside workers and people ask of the queue: each is told where it is and what is allowed,
//! and nothing changes.

use serde_json::{Value, json};

use super::rig::{Answer, Daemon, run};
use super::studio::{SECRET, studio};

fn is_problem(answer: &Answer, of: &str) {
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{of}: {}", answer.body);
    for member in ["type", "title", "status", "detail", "code", "request_id"] {
        assert!(!answer.body[member].is_null(), "{of}: {member}: {}", answer.body);
    }
    for error in answer.body["errors"].as_array().unwrap() {
        assert!(error["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{of}: {error}");
    }
}

/// Sends a good body with one member changed (null: left out); one wrong field is told, by its pointer.
async fn spoil(daemon: &Daemon, path: &str, good: &Value, table: Vec<(&str, Value, &str)>) {
    for (member, value, pointer) in table {
        let mut body = good.clone();
        if value.is_null() {
            body.as_object_mut().unwrap().remove(member);
        } else {
            body[member] = value.clone();
        }
        let answer = daemon.post(path, &body).await;
        let of = format!("{path} {member} = {}", &value.to_string()[..value.to_string().len().min(60)]);
        assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{of}: {}", answer.body);
        is_problem(&answer, &of);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_claim_is_told_by_pointer() {
    let daemon = studio("", &["anna"]).await;
    daemon.order(&["anna"], &json!({})).await;
    let good = json!({"kinds": ["studio"], "owner": "w1"});
    let many: Vec<String> = (0..17).map(|number| format!("k{number}")).collect();
    let table = vec![
        ("kinds", Value::Null, "/kinds"),
        ("kinds", json!("studio"), "/kinds"),
        ("kinds", json!([]), "/kinds"),
        ("kinds", json!(many), "/kinds"),
        ("kinds", json!([7]), "/kinds/0"),
        ("kinds", json!(["studio", "Not A Kind"]), "/kinds/1"),
        ("owner", Value::Null, "/owner"),
        ("owner", json!(""), "/owner"),
        ("owner", json!("a\nb"), "/owner"),
        ("owner", json!("w".repeat(256)), "/owner"),
        ("owner", json!(["w"]), "/owner"),
        ("ttl_seconds", json!(4), "/ttl_seconds"),
        ("ttl_seconds", json!(86_401), "/ttl_seconds"),
        ("ttl_seconds", json!(-60), "/ttl_seconds"),
        ("ttl_seconds", json!(1.5), "/ttl_seconds"),
        ("ttl_seconds", json!("60"), "/ttl_seconds"),
        ("ttl_seconds", json!(u64::MAX), "/ttl_seconds"),
        ("ttl_seconds", json!(1e300), "/ttl_seconds"),
        ("wait_seconds", json!(61), "/wait_seconds"),
        ("wait_seconds", json!(true), "/wait_seconds"),
        ("session", json!("no"), "/session"),
        ("nonsense", json!(1), "/nonsense"),
    ];
    spoil(&daemon, "/api/v1/claims", &good, table).await;
    for (body, status) in [(json!([]), 422), (json!("x"), 422), (json!(null), 422)] {
        assert_eq!(daemon.post("/api/v1/claims", &body).await.status, status, "{body}");
    }
    let empty = daemon.request("POST", "/api/v1/claims", None).await;
    assert_eq!((empty.status, empty.code()), (400, "invalid_json"), "{}", empty.body);
    let items = daemon.get("/api/v1/items").await.body;
    assert_eq!(items["items"][0]["state"], "queued", "nothing was claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_says_wrongly_is_told_and_changes_nothing() {
    let daemon = studio("", &["anna"]).await;
    daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    let path = |verb: &str| format!("/api/v1/claims/{}/{verb}", claim.id);
    let good = json!({"fence": claim.fence});
    for verb in ["refresh", "arm", "complete", "fail"] {
        let table = vec![
            ("fence", Value::Null, "/fence"),
            ("fence", json!(7), "/fence"),
            ("fence", json!("7"), "/fence"),
            ("fence", json!("f"), "/fence"),
            ("fence", json!("f99999999999999999999999"), "/fence"),
            ("nonsense", json!({}), "/nonsense"),
        ];
        spoil(&daemon, &path(verb), &good, table).await;
        assert_eq!(daemon.request("POST", &path(verb), None).await.status, 400, "{verb}");
        assert_eq!(daemon.post(&path(verb), &json!([])).await.status, 422, "{verb}");
        let other = daemon.post(&path(verb), &json!({"fence": "f1"})).await;
        assert_eq!((other.status, other.code()), (409, "stale_fence"), "{verb}: {}", other.body);
        for unknown in ["nonsense", "c1", "c1.x", "c-1.2", "c99999999999999999999.1", "..%2f"] {
            let answer = daemon.post(&format!("/api/v1/claims/{unknown}/{verb}"), &good).await;
            assert_eq!(answer.status, 404, "{unknown}/{verb}: {}", answer.body);
        }
        // An id of the right form that there is not: its worker cannot know whether it ever was.
        let gone = daemon.post(&format!("/api/v1/claims/c7.8/{verb}"), &json!({"fence": "f8"})).await;
        assert_eq!((gone.status, gone.code()), (409, "stale_fence"), "{verb}: {}", gone.body);
    }
    let table = vec![("ttl_seconds", json!(4), "/ttl_seconds"), ("ttl_seconds", json!("9"), "/ttl_seconds")];
    spoil(&daemon, &path("refresh"), &good, table).await;
    let table = vec![("media_sha256", json!(7), "/media_sha256"), ("media_sha256", json!([7]), "/media_sha256/0")];
    spoil(&daemon, &path("arm"), &good, table).await;
    let results: serde_json::Map<String, Value> = (0..65).map(|number| (format!("r{number}"), json!("x"))).collect();
    let table = vec![
        ("url", json!(7), "/url"),
        ("url", json!("u".repeat(2_049)), "/url"),
        ("url", json!("a\u{0}b"), "/url"),
        ("url", json!("javascript:alert(1)"), "/url"),
        ("result", json!("x"), "/result"),
        ("result", json!(results), "/result"),
        ("result", json!({"a/b": 1}), "/result/a~1b"),
        ("result", json!({"a": "x".repeat(10_001)}), "/result/a"),
        ("result", json!({"n".repeat(257): "x"}), "/result"),
    ];
    spoil(&daemon, &path("complete"), &good, table).await;
    let table = vec![
        ("reason", json!("bored"), "/reason"),
        ("reason", json!(7), "/reason"),
        ("message", json!(7), "/message"),
        ("message", json!("m".repeat(2_001)), "/message"),
    ];
    spoil(&daemon, &path("fail"), &good, table).await;
    let item = daemon.item(claim.item()).await;
    assert_eq!((&item["state"], &item["attempts"]), (&json!("running"), &json!(1)), "{item}");
    assert_eq!(daemon.arm(&claim).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_says_wrongly_is_told_and_changes_nothing() {
    let daemon = studio("", &["anna"]).await;
    let task = daemon.order(&["anna"], &json!({})).await;
    let claim = daemon.claim("w1").await;
    assert_eq!(daemon.arm(&claim).await.status, 200);
    let resolve = format!("/api/v1/items/{}/resolve", claim.item());
    let early = daemon.post(&resolve, &json!({"outcome": "published"})).await;
    assert_eq!((early.status, early.code(), &early.body["state"]), (409, "not_unknown", &json!("running")));
    daemon.say(&claim, "fail", json!({})).await;
    let table = vec![
        ("outcome", Value::Null, "/outcome"),
        ("outcome", json!("yes"), "/outcome"),
        ("outcome", json!(true), "/outcome"),
        ("url", json!("javascript:alert(1)"), "/url"),
        ("url", json!(format!("http://{}", "x".repeat(2_048))), "/url"),
        ("url", json!(7), "/url"),
        ("note", json!("n".repeat(2_001)), "/note"),
        ("note", json!({}), "/note"),
        ("by", json!("me"), "/by"),
    ];
    spoil(&daemon, &resolve, &json!({"outcome": "published"}), table).await;
    spoil(&daemon, &resolve, &json!({"outcome": "give_up"}), vec![("url", json!("http://x"), "/url")]).await;
    assert_eq!(daemon.request("POST", &resolve, None).await.status, 400);
    assert_eq!(daemon.item(claim.item()).await["state"], "outcome_unknown");

    for unknown in ["t1", "nonsense", "i1", "t99999999999999999999"] {
        for verb in ["cancel", "retry", "pause", "resume"] {
            let answer = daemon.request("POST", &format!("/api/v1/tasks/{unknown}/{verb}"), None).await;
            assert_eq!((answer.status, answer.code()), (404, "not_found"), "{unknown}/{verb}: {}", answer.body);
        }
        let answer = daemon.post(&format!("/api/v1/items/{unknown}/resolve"), &json!({"outcome": "published"})).await;
        assert_eq!(answer.status, 404, "{unknown}: {}", answer.body);
        let answer = daemon.request("POST", &format!("/api/v1/profiles/{unknown}/unpark"), None).await;
        assert_eq!(answer.status, 404, "{unknown}: {}", answer.body);
    }
    for verb in ["cancel", "retry", "pause", "resume"] {
        let answer = daemon.post(&format!("/api/v1/tasks/{task}/{verb}"), &json!({"why": "so"})).await;
        assert!((400..500).contains(&answer.status), "{verb}: {} {}", answer.status, answer.body);
        is_problem(&answer, verb);
        assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}/{verb}")).await.status, 405, "{verb}");
    }
    for (path, pointer) in [
        ("/api/v1/items?state=waiting", "state"),
        ("/api/v1/items?task=7", "task"),
        ("/api/v1/items?task=t9", "task"),
        ("/api/v1/items?profile=nobody", "profile"),
        ("/api/v1/items?cursor=xyz", "cursor"),
        ("/api/v1/items?limit=0", "limit"),
        ("/api/v1/tasks?limit=99999999999999999999", "limit"),
        ("/api/v1/tasks?state=held", "state"),
        ("/api/v1/tasks?state=failed&state=queued", "state"),
    ] {
        let answer = daemon.get(path).await;
        assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{path}: {}", answer.body);
        is_problem(&answer, path);
    }
    let row = daemon.get(&format!("/api/v1/tasks/{task}")).await.body;
    assert!(row.get("cancel_requested_at").is_none() && row.get("paused_at").is_none(), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_that_could_publish_is_refused() {
    let daemon = studio("", &["anna"]).await;
    let film = daemon.film("one.mp4");
    let inputs = json!({"site": "http://127.0.0.1:9", "account": "anna", "video": film, "caption": "c"});
    let good = json!({"items": [{"profile": "anna", "inputs": inputs}]});
    let unknown = daemon.post("/api/v1/flows/nothing/run", &good).await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    let mut named = good.clone();
    named["flow"] = json!("atelier");
    let named = daemon.post("/api/v1/flows/atelier/run", &named).await;
    assert_eq!((named.status, named.pointers()), (422, vec!["/flow"]), "{}", named.body);
    // Without a commit step nothing says where to stop.
    let recording = json!({"title": "t", "steps": [{"type": "navigate", "url": "http://127.0.0.1:9/"}]});
    assert_eq!(daemon.request("PUT", "/api/v1/flows/plain", Some(&recording)).await.status, 201);
    let bare = json!({"items": [{"profile": "anna", "inputs": {}}]});
    let refused = daemon.post("/api/v1/flows/plain/run", &bare).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/flow"]), "{}", refused.body);
    let told = run(&["flows", "run", "plain", "--profile", "anna"], daemon.folder.path());
    let told = (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned());
    assert!(told.0 == Some(4) && told.1.contains("commit"), "{told:?}");
    assert_eq!(daemon.get("/api/v1/tasks").await.body["tasks"], json!([]));
    assert!(!daemon.logged().contains(SECRET));
}
