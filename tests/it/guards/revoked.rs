//! A revocation works at once, also for what its token waits for: claims, events, and the way into a lent browser.

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::rig::{Answer, Daemon, PATIENCE, answer, run};
use super::super::studio::recording;
use super::super::websocket;

/// A token's id and its text.
fn made(daemon: &Daemon, scopes: &[&str]) -> (String, String) {
    let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
    let args: Vec<&str> = ["tokens", "create", "x", "--json"].into_iter().chain(scopes).collect();
    let made: Value = serde_json::from_slice(&run(&args, daemon.folder.path()).stdout).unwrap();
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

fn revoke(daemon: &Daemon, id: &str) {
    let revoked = run(&["tokens", "revoke", id], daemon.folder.path());
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
}

async fn post(daemon: &Daemon, token: &str, path: &str, body: &Value) -> Answer {
    answer(daemon.client.post(format!("{}{path}", daemon.base)).bearer_auth(token).json(body)).await
}

/// A daemon that asks for tokens, with a profile and the external flow; and the first token, an administrator's.
async fn guarded(env: &[(&'static str, &'static str)]) -> (Daemon, String) {
    let daemon = Daemon::start_as("", &[&[("COVE_AUTH__REQUIRED", "true")], env].concat()).await;
    let (_, admin) = made(&daemon, &["admin"]);
    assert_eq!(post(&daemon, &admin, "/api/v1/profiles", &json!({"name": "anna"})).await.status, 201);
    let flow = daemon.client.put(format!("{}/api/v1/flows/studio", daemon.base)).bearer_auth(&admin);
    let flow = flow.header("content-type", "application/json").body(recording());
    assert_eq!(flow.send().await.unwrap().status(), 201);
    (daemon, admin)
}

async fn order(daemon: &Daemon, admin: &str) {
    let film = daemon.film("studio.mp4");
    let inputs = json!({"site": "http://127.0.0.1:9", "account": "a", "video": film, "caption": "c", "code": "x"});
    let body = json!({"flow": "studio", "items": [{"profile": "anna", "inputs": inputs}]});
    let started = post(daemon, admin, "/api/v1/bulk-upload/start", &body).await;
    assert_eq!(started.status, 202, "{}", started.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waits_ends_with_its_token_and_takes_nothing() {
    let (daemon, admin) = guarded(&[]).await;
    let (id, token) = made(&daemon, &["locks"]);
    let claim = |wait: u32| json!({"kinds": ["studio"], "owner": "w", "ttl_seconds": 60, "wait_seconds": wait});
    let url = format!("{}/api/v1/claims", daemon.base);
    let (client, held, body) = (daemon.client.clone(), token.clone(), claim(50));
    let mut waits = tokio::task::JoinSet::new();
    waits.spawn(async move { answer(client.post(url).bearer_auth(held).json(&body)).await });
    // It has its place when it waits.
    while post(&daemon, &token, "/api/v1/claims", &claim(0)).await.status != 204 {}
    assert!(timeout(std::time::Duration::from_millis(500), waits.join_next()).await.is_err(), "it waits");
    revoke(&daemon, &id);
    let began = std::time::Instant::now();
    let ended = timeout(PATIENCE, waits.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!((ended.status, ended.code()), (401, "token_revoked"), "{}", ended.body);
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "not at its own end: {:?}", began.elapsed());
    order(&daemon, &admin).await;
    let items = answer(daemon.client.get(format!("{}/api/v1/items", daemon.base)).bearer_auth(&admin)).await;
    assert_eq!(items.body["items"][0]["state"], "queued", "{}", items.body);
    assert_eq!(post(&daemon, &admin, "/api/v1/claims", &claim(5)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_ends_with_its_token_and_frees_its_place() {
    let (daemon, admin) = guarded(&[("COVE_SERVER__MAX_CONNECTIONS", "8")]).await;
    let listen = async |token: &str| {
        daemon.client.get(format!("{}/api/v1/events", daemon.base)).bearer_auth(token).send().await.unwrap()
    };
    let (id, token) = made(&daemon, &["read"]);
    let mut streams = [listen(&token).await, listen(&token).await];
    let other = [listen(&admin).await, listen(&admin).await];
    assert_eq!((streams[1].status(), other[1].status()), (reqwest::StatusCode::OK, reqwest::StatusCode::OK));
    assert_eq!(listen(&admin).await.status(), 503);
    revoke(&daemon, &id);
    let began = std::time::Instant::now();
    for stream in &mut streams {
        while timeout(PATIENCE, stream.chunk()).await.unwrap().unwrap().is_some() {}
    }
    // Nothing happened that would have told them, and a heartbeat comes after fifteen seconds.
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    let (_, third) = made(&daemon, &["read"]);
    let again = [listen(&third).await, listen(&third).await];
    assert_eq!((again[0].status(), again[1].status()), (reqwest::StatusCode::OK, reqwest::StatusCode::OK));
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_into_a_session_whose_token_was_revoked() {
    let (daemon, _) = guarded(&[]).await;
    let (id, token) = made(&daemon, &["sessions"]);
    let lent = post(&daemon, &token, "/api/v1/sessions", &json!({"profile": "anna", "ttl_seconds": 600})).await;
    assert_eq!(lent.status, 201, "{}", lent.body);
    let endpoint = lent.body["ws_endpoint"].as_str().unwrap();
    let mut socket = websocket::connect(endpoint).await.unwrap();
    let version = format!("{}/json/version", endpoint.replace("ws://", "http://"));
    assert_eq!(answer(daemon.client.get(&version)).await.status, 200);
    revoke(&daemon, &id);
    assert!(socket.ended().await, "it goes on");
    let refused = websocket::connect(endpoint).await.err().unwrap();
    assert_eq!((refused.status, refused.body["code"].as_str()), (401, Some("token_revoked")), "{}", refused.body);
    let refused = answer(daemon.client.get(&version)).await;
    assert_eq!((refused.status, refused.code()), (401, "token_revoked"), "{}", refused.body);
}
