//! What answers say of themselves: limits, room, an end that is near, and names.

use std::net::TcpStream;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::rig::{ATELIER, Daemon, PATIENCE, answer, run, signal};
use super::super::studio::{Claimed, studio};
use super::super::websocket;
use super::{address, exchange, status};

const REQUIRED: (&str, &str) = ("COVE_AUTH__REQUIRED", "true");

fn token(daemon: &Daemon, scope: &str) -> String {
    let made = run(&["tokens", "create", "x", "--scope", scope, "--json"], daemon.folder.path());
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_shows_its_limit_as_it_is_by_default() {
    let daemon =
        Daemon::start_as("", &[REQUIRED, ("COVE_LIMITS__HEALTH", "200"), ("COVE_LIMITS__REQUESTS", "100")]).await;
    let admin = token(&daemon, "admin");
    for (method, path, limit) in [
        ("POST", "/api/v1/locks/acquire", "1000000"),
        ("POST", "/api/v1/claims", "1000000"),
        ("POST", "/api/v1/sessions/s1/refresh", "1000000"),
        ("POST", "/api/v1/sessions", "100"),
        ("GET", "/api/v1/docs", "200"),
        ("GET", "/api/v1/docs/docs.js", "200"),
        ("GET", "/api/v1/health/simple", "200"),
        ("GET", "/", "100"),
    ] {
        let url = format!("{}{path}", daemon.base);
        let answer = answer(daemon.client.request(method.parse().unwrap(), url).bearer_auth(&admin)).await;
        assert_eq!(answer.headers.get("x-ratelimit-limit").map(|limit| limit.to_str().unwrap()), Some(limit), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_the_limits_is_for_who_submits_and_shows_his_own_window() {
    let daemon = Daemon::start_as("", &[REQUIRED, ("COVE_LIMITS__TASK_STARTS", "3")]).await;
    let (submit, read, locks) = (token(&daemon, "submit"), token(&daemon, "read"), token(&daemon, "locks"));
    let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
    let ask = async |method: &str, token: &str| {
        let request = daemon.client.request(method.parse().unwrap(), &url).bearer_auth(token).json(&json!({}));
        let request = if method == "HEAD" { daemon.client.head(&url).bearer_auth(token) } else { request };
        let answer = answer(request).await;
        (answer.status, answer.headers["x-ratelimit-remaining"].to_str().unwrap().to_owned())
    };
    assert_eq!(ask("POST", &submit).await, (422, "2".to_owned()));
    assert_eq!(ask("HEAD", &submit).await, (200, "2".to_owned()));
    assert_eq!(ask("HEAD", &read).await, (200, "3".to_owned()));
    assert_eq!(ask("HEAD", &locks).await, (403, "3".to_owned()));
    // A window of another class, of which something is used: a refusal shows the token's, not the address's.
    let other = Daemon::start_as("", &[REQUIRED, ("COVE_LIMITS__REQUESTS", "9")]).await;
    let read = token(&other, "read");
    let get = |path: &str| other.client.get(format!("{}{path}", other.base)).bearer_auth(&read);
    assert_eq!(answer(get("/api/v1/tasks")).await.headers["x-ratelimit-remaining"], "8");
    let refused = answer(get("/api/v1/tokens")).await;
    assert_eq!((refused.status, &refused.headers["x-ratelimit-remaining"]), (403, &"8".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_daemon_drains_every_answer_is_the_last_of_its_connection() {
    let mut daemon = studio("drain_seconds = 60", &["anna"]).await;
    daemon.order(&["anna"], &json!({})).await;
    // The browser of an armed item is what a stop waits for.
    let body = json!({"kinds": ["studio"], "owner": "w", "ttl_seconds": 300, "session": true});
    let body = daemon.post("/api/v1/claims", &body).await.body;
    let socket = websocket::connect(body["session"]["ws_endpoint"].as_str().unwrap()).await.unwrap();
    let claim = Claimed { id: body["claim_id"].as_str().unwrap().to_owned(), fence: body["fence"].clone(), body };
    assert_eq!(daemon.arm(&claim).await.status, 200);
    let address = address(&daemon);
    let mut kept = tokio::net::TcpStream::connect(&address).await.unwrap();
    let ask = format!("GET /api/v1/health/simple HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut piece = [0; 4096];
    kept.write_all(ask.as_bytes()).await.unwrap();
    let read = kept.read(&mut piece).await.unwrap();
    assert!(!String::from_utf8_lossy(&piece[..read]).to_ascii_lowercase().contains("connection: close"));
    signal(daemon.pid(), rustix::process::Signal::TERM);
    let began = std::time::Instant::now();
    while daemon.get("/api/v1/status").await.body["state"] != "draining" {
        assert!(began.elapsed() < PATIENCE);
    }
    // One that was open before the stop, and two that are made now.
    kept.write_all(ask.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    tokio::time::timeout(PATIENCE, kept.read_to_end(&mut heard)).await.unwrap().unwrap();
    let heard = String::from_utf8(heard).unwrap().to_ascii_lowercase();
    assert!(heard.starts_with("http/1.1 200") && heard.contains("connection: close"), "{heard}");
    for path in ["/api/v1/health", "/api/v1/nothing"] {
        let answer = daemon.get(path).await;
        assert_eq!(answer.headers["connection"], "close", "{path}");
    }
    let body = json!({"kinds": ["studio"], "owner": "w"});
    for (path, body) in [("/api/v1/claims", &body), ("/api/v1/sessions", &json!({"profile": "anna"}))] {
        let refused = daemon.post(path, body).await;
        assert_eq!((refused.status, refused.code()), (503, "draining"), "{path}: {}", refused.body);
        assert!(refused.headers.contains_key("retry-after"), "{path}");
    }
    assert_eq!(daemon.say(&claim, "complete", json!({})).await.status, 200);
    drop(socket);
    assert_eq!(daemon.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_is_told_so_as_in_any_answer() {
    let daemon = Daemon::start_as("", &[("COVE_SERVER__MAX_CONNECTIONS", "8")]).await;
    let address = address(&daemon);
    let head = format!(
        "POST /api/v1/bulk-upload/start HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    let crowd: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
            let mut heard = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut heard).unwrap();
            stream
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for _ in 0..5 {
        // A client that asks as usual: the rig holds the answer against the description as well.
        let client = cove::outbound::local().build().unwrap();
        let refused = answer(client.get(format!("{}/api/v1/tasks", daemon.base))).await;
        assert_eq!((refused.status, refused.code()), (503, "too_many_connections"), "{}", refused.body);
        assert_eq!(refused.headers["content-type"], "application/problem+json");
        for name in ["retry-after", "x-content-type-options", "cache-control", "content-security-policy"] {
            assert!(refused.headers.contains_key(name), "{name}");
        }
        assert_eq!(refused.headers["x-request-id"], refused.body["request_id"].as_str().unwrap());
        ids.insert(refused.body["request_id"].to_string());
    }
    assert_eq!(ids.len(), 5);
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_answered_when_nothing_is_left_and_gives_nothing_back() {
    let daemon = Daemon::start_as("", &[("COVE_LIMITS__TASK_STARTS", "1")]).await;
    let made = daemon.post("/api/v1/profiles", &json!({"name": "anna"})).await;
    assert_eq!(made.status, 201);
    daemon.put_flow("atelier", ATELIER).await;
    assert_eq!(daemon.request("POST", "/api/v1/pause", None).await.status, 202);
    let film = daemon.film("1.mp4");
    let body = |caption: &str| {
        json!({"flow": "atelier", "items": [{"profile": "anna", "inputs": {
            "site": "http://127.0.0.1:9", "account": "x", "video": film, "caption": caption}}]})
    };
    let url = format!("{}/api/v1/bulk-upload/start", daemon.base);
    let post = async |key: &str, caption: &str| {
        answer(daemon.client.post(&url).header("idempotency-key", key).json(&body(caption))).await
    };
    let first = post("k1", "one").await;
    assert_eq!((first.status, &first.headers["x-ratelimit-remaining"]), (202, &"0".parse().unwrap()));
    for _ in 0..3 {
        let again = post("k1", "one").await;
        assert_eq!((again.status, &again.body["task_id"]), (202, &first.body["task_id"]), "{}", again.body);
        assert_eq!(again.headers["idempotent-replay"], "true");
        assert_eq!(again.headers["x-ratelimit-remaining"], "0", "it was not counted, so nothing is given back");
    }
    for (key, caption) in [("k1", "two"), ("k2", "one")] {
        assert_eq!(post(key, caption).await.status, 429, "{key} {caption}");
    }
    // The refusal of a key that nobody knows waits for no body.
    let address = address(&daemon);
    let head = format!(
        "POST /api/v1/bulk-upload/start HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Idempotency-Key: k3\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(&exchange(&address, head.as_bytes())), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_ready_line_is_a_name_of_the_daemon() {
    let daemon = Daemon::start_as("", &[("COVE_SERVER__LISTEN", "127.0.0.2:0")]).await;
    assert!(daemon.base.starts_with("http://127.0.0.2:"), "{}", daemon.base);
    assert_eq!(daemon.get("/api/v1/health/simple").await.status, 200);
    let port = daemon.base.rsplit(':').next().unwrap();
    for (host, status) in [(format!("127.0.0.3:{port}"), 421), (format!("evil.com:{port}"), 421)] {
        let request = daemon.client.get(format!("{}/api/v1/health/simple", daemon.base)).header("host", &host);
        assert_eq!(answer(request).await.status, status, "{host}");
    }
    assert!(!daemon.logged().contains("server.allowed_hosts"), "{}", daemon.logged());
    let mut everywhere = Daemon::prepare("", &[REQUIRED, ("COVE_SERVER__LISTEN", "0.0.0.0:0")]);
    token(&everywhere, "admin");
    everywhere.boot().await;
    let port = everywhere.base.rsplit(':').next().unwrap();
    let told = exchange(
        &format!("127.0.0.1:{port}"),
        format!("GET / HTTP/1.1\r\nHost: 0.0.0.0:{port}\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    assert_eq!(status(&told), 421, "{told}");
    assert!(everywhere.logged().contains("server.allowed_hosts"), "{}", everywhere.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sent_again_varies_as_the_file_does() {
    let daemon = Daemon::start().await;
    for path in ["/api/v1/docs/docs.js", "/api/v1/docs/swagger-ui.css", "/api/v1/openapi.json", "/"] {
        let get = || daemon.client.get(format!("{}{path}", daemon.base)).header("accept-encoding", "gzip");
        let file = get().send().await.unwrap();
        let tag = file.headers()["etag"].clone();
        let same = get().header("if-none-match", tag).send().await.unwrap();
        assert_eq!(same.status(), 304, "{path}");
        assert_eq!(same.headers().get("vary"), file.headers().get("vary"), "{path}");
    }
}
