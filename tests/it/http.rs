//! Every route of this version, over TCP and over the unix socket, with the headers that are promised.

use std::time::{Duration, Instant};

use serde_json::json;

use super::rig::{Daemon, PATIENCE, answer};

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_commands_work_unchanged() {
    let daemon = Daemon::start().await;
    let simple = daemon.get("/api/v1/health/simple").await;
    assert_eq!((simple.status, &simple.body), (200, &json!({"ok": true, "status": "healthy"})));
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("healthy")), "{}", health.body);
    let status = daemon.get("/api/v1/status").await.body;
    for member in ["version", "uptime_seconds", "state", "slots", "queue", "resource_usage", "breakers", "provider"] {
        assert!(!status[member].is_null(), "{member}: {status}");
    }
    for member in ["memory_mb", "memory_percent", "cpu_percent", "num_threads", "num_fds", "disk_free_mb", "sessions"] {
        assert!(!status["resource_usage"][member].is_null(), "{member}: {status}");
    }
    assert_eq!(status["state"], "running");
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["uid"], rustix::process::geteuid().as_raw());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_shown_with_what_it_uses() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna", "boris"]).await;
    for name in ["anna", "boris"] {
        let opened = daemon.post(&format!("/api/v1/profiles/{name}/open"), &json!({"headless": true})).await;
        assert_eq!(opened.status, 202, "{}", opened.body);
    }
    let began = Instant::now();
    let sessions = loop {
        let status = daemon.get("/api/v1/status").await.body;
        let sessions = status["resource_usage"]["sessions"].as_array().unwrap().clone();
        // A rate takes two looks, which are some seconds apart.
        if sessions.len() == 2 && sessions.iter().all(|session| session["cpu_percent"].is_number()) {
            break sessions;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for (session, name) in sessions.iter().zip(["anna", "boris"]) {
        assert_eq!((&session["profile"], &session["memory_exact"]), (&json!(name), &json!(true)), "{session}");
        assert!(session["memory_mb"].as_f64().unwrap() > 30.0, "{session}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_filters_and_single_rows_agree() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna", "boris"]).await;
    assert_eq!(daemon.request("POST", "/api/v1/pause", None).await.status, 202);
    let mut tasks = Vec::new();
    for number in 0..5 {
        let film = daemon.film(&format!("{number}.mp4"));
        let inputs = json!({"site": "http://127.0.0.1:9", "account": "x", "video": film, "caption": "c"});
        let body = json!({"flow": "atelier", "profiles": ["anna", "boris"], "inputs_list": [inputs]});
        let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
        assert_eq!((made.status, &made.body["items"], &made.body["state"]), (202, &json!(2), &json!("queued")));
        tasks.insert(0, made.body["task_id"].clone());
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/tasks?limit=2".to_owned();
    loop {
        let page = daemon.get(&path).await.body;
        seen.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/tasks?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, tasks, "newest first, each once");
    let queued = daemon.get("/api/v1/items?state=queued&profile=anna").await.body;
    assert_eq!(queued["items"].as_array().unwrap().len(), 5);
    let item = &queued["items"][0];
    assert_eq!(item["wait_reason"], "paused");
    let id = item["id"].as_str().unwrap();
    assert_eq!(&daemon.get(&format!("/api/v1/items/{id}")).await.body, item);
    let task = daemon.get(&format!("/api/v1/tasks/{}", tasks[0].as_str().unwrap())).await.body;
    assert_eq!(task["wait_reasons"], json!({"paused": 2}));
    assert_eq!(task["counts"]["queued"], 2);
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "paused");
    // The media of item 0 of a second request for the same profile is known already.
    let film = daemon.film("0.mp4");
    let inputs = json!({"site": "http://127.0.0.1:9", "account": "x", "video": film, "caption": "again"});
    let body = json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": inputs}]});
    let made = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!(made.body["warnings"][0]["code"], "possible_duplicate", "{}", made.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_gives_the_same_task_and_conflicts_on_another_body() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    daemon.request("POST", "/api/v1/pause", None).await;
    let film = daemon.film("1.mp4");
    let body = |caption: &str| {
        json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": {
            "site": "http://127.0.0.1:9", "account": "x", "video": film, "caption": caption}}]})
    };
    let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
    let post = |caption: &str| answer(daemon.client.post(&url).header("idempotency-key", "k1").json(&body(caption)));
    let first = post("one").await;
    let again = post("one").await;
    assert_eq!((again.status, &again.body["task_id"]), (202, &first.body["task_id"]), "{}", again.body);
    let other = post("two").await;
    assert_eq!((other.status, other.code()), (409, "idempotency_conflict"), "{}", other.body);
    let items = daemon.items(first.body["task_id"].as_str().unwrap()).await;
    assert_eq!(items[0]["key"], "k1#0");
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limits_are_on_every_answer_and_a_look_spends_nothing() {
    let daemon = Daemon::start_as("", &[("COVE_LIMITS__TASK_STARTS", "2")]).await;
    let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
    for _ in 0..3 {
        let look = daemon.client.head(&url).send().await.unwrap();
        assert_eq!(look.status(), 200);
        assert_eq!(look.headers()["x-ratelimit-limit"], "2");
        assert_eq!(look.headers()["x-ratelimit-remaining"], "2");
        assert!(look.headers().contains_key("x-ratelimit-reset"));
    }
    for status in [422, 422, 429] {
        let refused = daemon.post("/api/v1/bulk-upload/start", &json!({})).await;
        assert_eq!(refused.status, status, "{}", refused.body);
        assert_eq!(refused.headers.contains_key("retry-after"), status == 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_and_another_origin_are_refused() {
    let daemon = Daemon::start().await;
    let get = |host: &str| {
        answer(daemon.client.get(format!("{}/api/v1/health/simple", daemon.base)).header("host", host.to_owned()))
    };
    let port = daemon.base.rsplit(':').next().unwrap();
    for host in
        ["evil.com".to_owned(), format!("evil.com:{port}"), "127.0.0.1.nip.io".to_owned(), "127.0.0.1:1".to_owned()]
    {
        assert_eq!(get(&host).await.status, 421, "{host}");
    }
    assert_eq!(get(&format!("localhost:{port}")).await.status, 200);
    let cross = daemon.client.post(format!("{}/api/v1/pause", daemon.base)).header("origin", "http://evil.com");
    assert_eq!(answer(cross).await.status, 403);
    let cross = daemon.client.post(format!("{}/api/v1/pause", daemon.base)).header("sec-fetch-site", "same-site");
    assert_eq!(answer(cross).await.status, 403);
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "running", "a web page paused the engine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_at_the_root_and_the_flow_as_it_was_put() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let page = daemon.client.get(&daemon.base).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let flow = daemon.client.get(format!("{}/api/v1/flows/atelier", daemon.base)).send().await.unwrap();
    assert_eq!(flow.text().await.unwrap(), super::rig::ATELIER);
    assert_eq!(daemon.request("DELETE", "/api/v1/flows/atelier", None).await.status, 204);
    assert_eq!(daemon.get("/api/v1/profiles").await.body["profiles"][0]["state"], "idle");
    let again = daemon.post("/api/v1/profiles", &json!({"name": "anna"})).await;
    assert_eq!(again.status, 409, "{}", again.body);
}
